//! The `Cache-Status` response field (RFC 9211).

use std::{fmt, mem};

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

impl Forward {
    const fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
        }
    }
}

/// How the gateway handled a request (RFC 9211 §2.1, §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handling {
    /// Answered from the store, without the upstream.
    Hit,
    Forwarded(Forward),
    /// The gateway generated the response without a look-up.
    Generated,
}

/// Whether the store had the content of a response, revalidated or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOutcome {
    /// The store had it: the body came from there.
    Hit,
    /// The store did not have it, or was not asked.
    Miss,
}

/// One cache's member of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus {
    handling: Handling,
    outcome: CacheOutcome,
    stored: bool,
    collapsed: bool,
    ttl: Option<u64>,
    detail: Option<&'static str>,
}

/// The parameters of a [`CacheStatus`], without the cache's name.
#[derive(Clone, Copy, Debug)]
pub struct Parameters(CacheStatus);

impl CacheStatus {
    /// `hit`: answered from the store, without asking the upstream.
    pub const HIT: Self = Self {
        handling: Handling::Hit,
        outcome: CacheOutcome::Hit,
        stored: false,
        collapsed: false,
        ttl: None,
        detail: None,
    };

    /// A response that the gateway generated without a look-up.
    pub const fn own(detail: &'static str) -> Self {
        Self {
            handling: Handling::Generated,
            outcome: CacheOutcome::Miss,
            detail: Some(detail),
            ..Self::HIT
        }
    }

    /// A forwarded request, whose content the store did not have.
    pub const fn forward(forward: Forward) -> Self {
        Self {
            handling: Handling::Forwarded(forward),
            outcome: CacheOutcome::Miss,
            ..Self::HIT
        }
    }

    /// The store had the content; the request went forward for the right to it or for its freshness.
    #[must_use]
    pub const fn from_store(self) -> Self {
        Self {
            outcome: CacheOutcome::Hit,
            ..self
        }
    }

    /// The response is being stored.
    #[must_use]
    pub const fn stored(self) -> Self {
        Self {
            stored: true,
            ..self
        }
    }

    /// `collapsed`: it shared the upstream request of another client.
    #[must_use]
    pub const fn collapsed(self, collapsed: bool) -> Self {
        Self { collapsed, ..self }
    }

    /// Adds the remaining freshness in seconds.
    #[must_use]
    pub const fn ttl(self, seconds: u64) -> Self {
        Self {
            ttl: Some(seconds),
            ..self
        }
    }

    /// Adds `detail`, which says more than the other parameters (RFC 9211 §2.8).
    #[must_use]
    pub const fn detail(self, detail: &'static str) -> Self {
        Self {
            detail: Some(detail),
            ..self
        }
    }

    /// Combines two look-ups of one response: the second wins if the first is a hit and the second is not.
    #[must_use]
    pub const fn or(self, second: Self) -> Self {
        match (self.handling, second.handling) {
            (Handling::Hit, Handling::Forwarded(_) | Handling::Generated) => second,
            _ => self,
        }
    }

    /// Whether the store had the content.
    pub const fn outcome(&self) -> CacheOutcome {
        self.outcome
    }

    /// Why the request went forward, if it did.
    pub const fn forwarded(&self) -> Option<Forward> {
        match self.handling {
            Handling::Forwarded(forward) => Some(forward),
            Handling::Hit | Handling::Generated => None,
        }
    }

    /// Whether it shared another request's trip to the upstream (RFC 9211 §2.6).
    pub const fn is_collapsed(&self) -> bool {
        self.collapsed
    }

    /// The field's value without the cache's name, as the access log has it: `fwd=uri-miss; stored`.
    pub const fn parameters(self) -> Parameters {
        Parameters(self)
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "roadstead; {}", self.parameters())
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(status) = self;
        let mut separator = "";
        let mut parameter = |text: fmt::Arguments<'_>| {
            f.write_str(mem::replace(&mut separator, "; "))?;
            f.write_fmt(text)
        };
        match status.handling {
            Handling::Hit => parameter(format_args!("hit"))?,
            Handling::Forwarded(forward) => parameter(format_args!("fwd={}", forward.as_str()))?,
            Handling::Generated => {}
        }
        if status.stored {
            parameter(format_args!("stored"))?;
        }
        if status.collapsed {
            parameter(format_args!("collapsed"))?;
        }
        if let Some(ttl) = status.ttl {
            parameter(format_args!("ttl={ttl}"))?;
        }
        if let Some(detail) = status.detail {
            parameter(format_args!("detail={detail}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_render_in_field_order() {
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
            let parameters = status.parameters().to_string();
            assert_eq!(format!("roadstead; {parameters}"), text);
        }
    }

    #[test]
    fn outcome_follows_the_content() {
        use CacheOutcome::{Hit, Miss};

        let (miss, stale) = (
            CacheStatus::forward(Forward::UriMiss),
            CacheStatus::forward(Forward::Stale),
        );
        for (status, outcome) in [
            (CacheStatus::HIT.ttl(30), Hit),
            (CacheStatus::own("ping"), Miss),
            (miss.stored(), Miss),
            (miss.detail("claimed").from_store(), Hit),
            (stale.stored().detail("moved"), Miss),
            (stale.detail("revalidated").from_store(), Hit),
        ] {
            assert_eq!(status.outcome(), outcome, "{status}");
        }
    }
}
