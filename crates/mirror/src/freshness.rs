//! Freshness: how long a cached answer is fresh, when it may be served stale, and how it relates to its upstream.
//!
//! The decisions are pure: time is an argument. [`revalidate`] is the one place where a cached answer waits for its
//! upstream; metrics, headers and the log are rendered from the [`Freshness`] that it returns.

use std::future::Future;
use std::time::{Duration, SystemTime};

use super::MirrorError;
use oci::cache_status::{CacheStatus, Forward};

/// How an answer relates to its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It was cached, and stays fresh for so long.
    Fresh {
        /// The rest of its lifetime.
        left: Duration,
    },
    /// It was cached and is fresh for so long, because few pulls are left: tags are trusted for longer.
    Stretched {
        /// The rest of its lifetime.
        left: Duration,
    },
    /// It was cached, and its upstream confirmed it.
    Revalidated,
    /// Another one was cached: the upstream has this one now.
    Moved,
    /// None was cached.
    Fetched,
    /// A peer recorded it a short while ago.
    FromPeer,
    /// It was cached and is no longer fresh, but its upstream is unavailable.
    Stale(Stale),
}

/// The age of a stale answer, and why it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The time since the upstream last confirmed it.
    pub age: Duration,
    /// Why it could not be confirmed now.
    pub reason: StaleReason,
}

/// Why a stale answer is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The upstream cannot be asked.
    Unavailable,
    /// The upstream limits requests.
    Limited,
    /// The upstream did not answer soon enough.
    Slow,
    /// There is something newer, and the few pulls that the upstream allows are reserved for what is not cached.
    Reserved,
}

impl StaleReason {
    /// The word for headers, metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Limited => "limited",
            Self::Slow => "slow",
            Self::Reserved => "reserved",
        }
    }
}

impl Stale {
    pub(super) const fn cache_status(self) -> CacheStatus {
        CacheStatus::forward(Forward::Stale)
            .detail(self.reason.as_str())
            .from_store()
    }
}

impl Freshness {
    /// `collapsed` says whether the request was collapsed into another one.
    pub fn cache_status(self, collapsed: bool) -> CacheStatus {
        let cache = match self {
            Self::Fresh { left } => CacheStatus::HIT.ttl(left.as_secs()),
            Self::Stretched { left } => CacheStatus::HIT.ttl(left.as_secs()).detail("stretched"),
            Self::FromPeer => CacheStatus::HIT.detail("bucket"),
            Self::Revalidated => CacheStatus::forward(Forward::Stale)
                .detail("revalidated")
                .from_store(),
            Self::Moved => CacheStatus::forward(Forward::Stale)
                .stored()
                .detail("moved"),
            Self::Fetched => CacheStatus::forward(Forward::UriMiss).stored(),
            Self::Stale(stale) => stale.cache_status(),
        };
        cache.collapsed(collapsed)
    }

    /// The age and reason of a stale answer; `None` for any other.
    pub const fn stale(self) -> Option<Stale> {
        match self {
            Self::Stale(stale) => Some(stale),
            _ => None,
        }
    }
}

/// A cached answer that may be served stale.
#[derive(Clone, Debug)]
pub struct KnownAnswer<T> {
    /// What is cached.
    pub answer: T,
    /// The time since the upstream last confirmed it.
    pub age: Duration,
}

/// How long a request waits for its upstream.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// With a cached answer to serve instead.
    pub with_known: Duration,
    /// Without one.
    pub without_known: Duration,
}

impl WaitLimits {
    /// For requests that have deadlines of their own.
    pub(super) const UNLIMITED: Self = Self {
        with_known: Duration::MAX,
        without_known: Duration::MAX,
    };
}

/// An answer, and how fresh it is.
#[derive(Clone, Debug)]
pub struct CheckedAnswer<T> {
    /// The new answer, or the cached one.
    pub answer: T,
    /// How it relates to the upstream's.
    pub freshness: Freshness,
    /// Whether the request was collapsed into another one.
    pub collapsed: bool,
}

impl<T> CheckedAnswer<T> {
    /// The `Cache-Status` of its response.
    pub fn cache_status(&self) -> CacheStatus {
        self.freshness.cache_status(self.collapsed)
    }
}

/// Revalidates an answer. If the upstream is unavailable or slow, the `known` answer is served; a shared request
/// continues behind it. `compare` tells how a new answer relates to the cached one.
///
/// # Errors
/// The upstream's error, if there is no stale answer to serve.
pub async fn revalidate<T>(
    known: Option<KnownAnswer<T>>,
    wait: WaitLimits,
    ask: impl Future<Output = (Result<T, MirrorError>, bool)>,
    compare: impl FnOnce(&T) -> Freshness,
) -> Result<CheckedAnswer<T>, MirrorError> {
    let within = match &known {
        Some(_) => wait.with_known,
        None => wait.without_known,
    };
    match tokio::time::timeout(within, ask).await {
        Ok((Ok(answer), collapsed)) => Ok(CheckedAnswer {
            freshness: compare(&answer),
            answer,
            collapsed,
        }),
        Ok((Err(error), _)) => stale_or_error(known, error.stale_reason(), error),
        Err(_) => stale_or_error(known, Some(StaleReason::Slow), MirrorError::timed_out()),
    }
}

/// The stale answer, if there is one and a reason to serve it; else the error.
pub(super) fn stale_or_error<T>(
    known: Option<KnownAnswer<T>>,
    reason: Option<StaleReason>,
    error: MirrorError,
) -> Result<CheckedAnswer<T>, MirrorError> {
    match (known, reason) {
        (Some(KnownAnswer { answer, age }), Some(reason)) => Ok(CheckedAnswer {
            answer,
            freshness: Freshness::Stale(Stale { age, reason }),
            collapsed: false,
        }),
        _ => Err(error),
    }
}

/// How long a record checked at `checked_at`, in seconds since 1970, stays fresh; `None` if it is not.
/// A check from the future (the clock was set back) does not count.
pub fn fresh_for(checked_at: u64, ttl: Duration, now: SystemTime) -> Option<Duration> {
    let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(checked_at);
    let age = now.duration_since(checked).ok()?;
    (age < ttl).then(|| ttl.saturating_sub(age))
}

/// Whether a record checked at `checked_at` is fresh.
pub fn is_fresh(checked_at: u64, ttl: Duration, now: SystemTime) -> bool {
    fresh_for(checked_at, ttl, now).is_some()
}

/// The age of a record that may be served stale; `None` if it is too old for that. `max_stale` is `None` if no
/// age is too old.
pub fn stale_age(
    checked_at: u64,
    max_stale: Option<Duration>,
    now: SystemTime,
) -> Option<Duration> {
    let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(checked_at);
    // A check from the future (the clock was set back) has age zero.
    let age = now.duration_since(checked).unwrap_or_default();
    max_stale.is_none_or(|most| age < most).then_some(age)
}

/// `now` in seconds since 1970.
pub fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_fresh_for_its_ttl() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ttl = Duration::from_secs(600);
        let fresh = |left| Some(Duration::from_secs(left));
        for (checked_at, now, expected) in [
            (1000, 1000, fresh(600)),
            (1000, 1599, fresh(1)),
            (1000, 1600, None),
            (1000, 9999, None),
            (1000, 999, None),
        ] {
            let left = fresh_for(checked_at, ttl, at(now));
            assert_eq!(left, expected, "{checked_at} {now}");
            assert_eq!(is_fresh(checked_at, ttl, at(now)), expected.is_some());
        }
        assert!(!is_fresh(1000, Duration::ZERO, at(1000)));
    }

    fn unavailable() -> MirrorError {
        MirrorError::timed_out()
    }

    fn reserved() -> MirrorError {
        MirrorError::Reserved
    }

    fn limited() -> MirrorError {
        MirrorError::TooManyRequests { retry_after: None }
    }

    /// Revalidates with a `known` answer, and an `asked` one in time or not at all.
    async fn checked(
        known: Option<u8>,
        asked: Option<Result<u8, MirrorError>>,
    ) -> Result<CheckedAnswer<u8>, MirrorError> {
        let age = Duration::from_secs(9);
        let known_answer = known;
        let known = known.map(|answer| KnownAnswer { answer, age });
        let wait = WaitLimits {
            with_known: Duration::ZERO,
            without_known: Duration::ZERO,
        };
        let ask = async {
            match asked {
                Some(asked) => (asked, true),
                None => std::future::pending().await,
            }
        };
        let compare = |answer: &u8| match known_answer {
            Some(known) if known == *answer => Freshness::Revalidated,
            Some(_) => Freshness::Moved,
            None => Freshness::Fetched,
        };
        revalidate(known, wait, ask, compare).await
    }

    #[tokio::test]
    async fn a_known_answer_is_served_stale_while_the_upstream_is_unavailable() {
        let stale = |reason| {
            let age = Duration::from_secs(9);
            Freshness::Stale(Stale { age, reason })
        };
        for (known, asked, expected) in [
            (None, Some(Ok(1)), Some((1, Freshness::Fetched))),
            (Some(1), Some(Ok(1)), Some((1, Freshness::Revalidated))),
            (Some(1), Some(Ok(2)), Some((2, Freshness::Moved))),
            (
                Some(1),
                Some(Err(unavailable())),
                Some((1, stale(StaleReason::Unavailable))),
            ),
            (
                Some(1),
                Some(Err(limited())),
                Some((1, stale(StaleReason::Limited))),
            ),
            (
                Some(1),
                Some(Err(reserved())),
                Some((1, stale(StaleReason::Reserved))),
            ),
            (Some(1), None, Some((1, stale(StaleReason::Slow)))),
            // The upstream's refusal is the answer.
            (Some(1), Some(Err(MirrorError::Denied)), None),
            (None, Some(Err(unavailable())), None),
            (None, Some(Err(limited())), None),
            (None, None, None),
        ] {
            let case = format!("{known:?} {asked:?}");
            let checked = checked(known, asked).await.ok();
            if let Some(checked) = &checked {
                let is_stale = checked.freshness.stale().is_some();
                assert_eq!(checked.collapsed, !is_stale, "{case}");
            }
            let outcome = checked.map(|checked| (checked.answer, checked.freshness));
            assert_eq!(outcome, expected, "{case}");
        }
    }

    #[test]
    fn cache_status_is_rendered_from_freshness() {
        let age = Duration::from_secs(9);
        let reason = StaleReason::Slow;
        for (freshness, header) in [
            (Freshness::Fresh { left: age }, "roadstead; hit; ttl=9"),
            (
                Freshness::Stretched { left: age },
                "roadstead; hit; ttl=9; detail=stretched",
            ),
            (Freshness::FromPeer, "roadstead; hit; detail=bucket"),
            (
                Freshness::Revalidated,
                "roadstead; fwd=stale; detail=revalidated",
            ),
            (
                Freshness::Moved,
                "roadstead; fwd=stale; stored; detail=moved",
            ),
            (Freshness::Fetched, "roadstead; fwd=uri-miss; stored"),
            (
                Freshness::Stale(Stale { age, reason }),
                "roadstead; fwd=stale; detail=slow",
            ),
        ] {
            assert_eq!(freshness.cache_status(false).to_string(), header);
        }
        let collapsed = Freshness::Fetched.cache_status(true);
        assert_eq!(
            collapsed.to_string(),
            "roadstead; fwd=uri-miss; stored; collapsed"
        );
    }
}
