//! The `Cache-Status` response field (RFC 9211).

use std::fmt;

/// Why a request went forward (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Nothing was stored.
    UriMiss,
    /// The stored response was stale.
    Stale,
    /// Such requests are never answered from the store.
    Bypass,
}

/// Where the bytes of a forwarded request came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Bytes {
    #[default]
    AsForwarded,
    /// They were stored; only the repository's claim to them was checked upstream.
    Stored,
}

/// One cache's member of the field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// Absent, with [`CacheStatus::hit`] unset: the gateway generated the response.
    pub forward: Option<Forward>,
    pub hit: bool,
    /// The response is being stored.
    pub stored: bool,
    /// It shared the upstream request of another client.
    pub collapsed: bool,
    /// Remaining freshness in seconds.
    pub ttl: Option<u64>,
    pub detail: Option<&'static str>,
    bytes: Bytes,
}

impl CacheStatus {
    pub const HIT: Self = Self {
        hit: true,
        forward: None,
        stored: false,
        collapsed: false,
        ttl: None,
        detail: None,
        bytes: Bytes::AsForwarded,
    };

    /// A response that the gateway generated without a look-up.
    pub const fn own(detail: &'static str) -> Self {
        Self {
            hit: false,
            detail: Some(detail),
            ..Self::HIT
        }
    }

    pub const fn forward(forward: Forward) -> Self {
        Self {
            hit: false,
            forward: Some(forward),
            ..Self::HIT
        }
    }

    /// Whether the bytes came from the store, revalidated or not.
    pub fn is_from_store(&self) -> bool {
        let confirmed = self.forward == Some(Forward::Stale) && !self.stored;
        self.hit || confirmed || self.bytes == Bytes::Stored
    }

    /// The bytes were stored; only the repository's claim to them was checked upstream.
    #[must_use]
    pub const fn claimed(self) -> Self {
        Self {
            bytes: Bytes::Stored,
            ..self.detail("claimed")
        }
    }

    #[must_use]
    pub const fn stored(self) -> Self {
        Self {
            stored: true,
            ..self
        }
    }

    #[must_use]
    pub const fn collapsed(self, collapsed: bool) -> Self {
        Self { collapsed, ..self }
    }

    #[must_use]
    pub const fn ttl(self, seconds: u64) -> Self {
        Self {
            ttl: Some(seconds),
            ..self
        }
    }

    /// Whether no upstream was asked.
    pub const fn is_hit(&self) -> bool {
        self.hit
    }

    /// Combines two look-ups of one response: the second wins if the first is a hit and the second is not.
    #[must_use]
    pub const fn or(self, second: Self) -> Self {
        if self.hit && !second.hit {
            second
        } else {
            self
        }
    }

    #[must_use]
    pub const fn detail(self, detail: &'static str) -> Self {
        Self {
            detail: Some(detail),
            ..self
        }
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("roadstead")?;
        if self.hit {
            f.write_str("; hit")?;
        }
        if let Some(forward) = self.forward {
            f.write_str(match forward {
                Forward::UriMiss => "; fwd=uri-miss",
                Forward::Stale => "; fwd=stale",
                Forward::Bypass => "; fwd=bypass",
            })?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={ttl}")?;
        }
        if let Some(detail) = self.detail {
            write!(f, "; detail={detail}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members() {
        for (status, text) in [
            (CacheStatus::HIT, "roadstead; hit"),
            (CacheStatus::HIT.ttl(30), "roadstead; hit; ttl=30"),
            (
                CacheStatus::forward(Forward::UriMiss)
                    .stored()
                    .collapsed(true),
                "roadstead; fwd=uri-miss; stored; collapsed",
            ),
            (
                CacheStatus::forward(Forward::Stale).detail("revalidated"),
                "roadstead; fwd=stale; detail=revalidated",
            ),
            (CacheStatus::own("ping"), "roadstead; detail=ping"),
            (
                CacheStatus::HIT.ttl(3).or(CacheStatus::HIT),
                "roadstead; hit; ttl=3",
            ),
            (
                CacheStatus::HIT.or(CacheStatus::own("x")),
                "roadstead; detail=x",
            ),
            (
                CacheStatus::own("x").or(CacheStatus::HIT),
                "roadstead; detail=x",
            ),
        ] {
            assert_eq!(status.to_string(), text);
        }
    }
}
