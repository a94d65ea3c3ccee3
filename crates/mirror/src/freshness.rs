//! Whether what was learned may still be answered with, and how an answer came to be what it is.
//!
//! The decisions are pure: time is an argument. [`revalidate`] is the one place where a known answer waits for its
//! upstream; metrics, headers and the log are rendered from the [`Freshness`] that it returns.

use std::future::Future;
use std::time::{Duration, SystemTime};

use super::MirrorError;
use oci::cache_status::{CacheStatus, Forward};

/// How an answer relates to what its upstream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It was known, and is trusted for so long still.
    Fresh { left: Duration },
    /// It was known, and its upstream confirmed it.
    Revalidated,
    /// Another one was known: its upstream has this one now.
    Moved,
    /// Nothing was known.
    Fetched,
    /// Another node learned it a short while ago.
    FromPeer,
    /// It was known and is no longer trusted, but its upstream cannot say.
    Stale(Stale),
}

/// How old a stale answer is, and why there is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    pub age: Duration,
    pub reason: StaleReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The upstream cannot be asked.
    Unavailable,
    /// It limits how often it may be asked.
    Limited,
    /// It did not answer soon enough.
    Slow,
}

impl StaleReason {
    /// The word for headers, metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Limited => "limited",
            Self::Slow => "slow",
        }
    }
}

impl Stale {
    pub(super) const fn cache_status(self) -> CacheStatus {
        CacheStatus::forward(Forward::Stale).detail(self.reason.as_str())
    }
}

impl Freshness {
    /// `collapsed` is whether somebody else had asked.
    pub fn cache_status(self, collapsed: bool) -> CacheStatus {
        let cache = match self {
            Self::Fresh { left } => CacheStatus::HIT.ttl(left.as_secs()),
            Self::FromPeer => CacheStatus::HIT.detail("bucket"),
            Self::Revalidated => CacheStatus::forward(Forward::Stale).detail("revalidated"),
            Self::Moved => CacheStatus::forward(Forward::Stale)
                .stored()
                .detail("moved"),
            Self::Fetched => CacheStatus::forward(Forward::UriMiss).stored(),
            Self::Stale(stale) => stale.cache_status(),
        };
        cache.collapsed(collapsed)
    }

    pub const fn stale(self) -> Option<Stale> {
        match self {
            Self::Stale(stale) => Some(stale),
            _ => None,
        }
    }
}

/// An answer that may be given while its upstream cannot say whether it is still right.
#[derive(Clone, Debug)]
pub struct KnownAnswer<T> {
    pub answer: T,
    pub age: Duration,
}

/// How long an upstream is waited for.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// Where there is a known answer to give instead.
    pub with_known: Duration,
    /// Where there is none.
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
    pub answer: T,
    pub freshness: Freshness,
    /// Whether somebody else had asked.
    pub collapsed: bool,
}

impl<T> CheckedAnswer<T> {
    pub fn cache_status(&self) -> CacheStatus {
        self.freshness.cache_status(self.collapsed)
    }
}

/// Asks anew. Where the upstream cannot answer, or not soon enough, what is `known` is the answer; a question that is
/// asked for all goes on behind it. `compare` says what a new answer is to what was known.
///
/// # Errors
/// What the upstream said, where there is nothing to give instead.
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

/// What there is instead of an answer: what is known, where that is excused, else why there is none.
fn stale_or_error<T>(
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

/// How long something checked at `checked_at`, in seconds since 1970, is trusted still; `None` when it no longer is.
/// A check from the future (the clock was set back) is not trusted.
pub fn fresh_for(checked_at: u64, ttl: Duration, now: SystemTime) -> Option<Duration> {
    let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(checked_at);
    let age = now.duration_since(checked).ok()?;
    (age < ttl).then(|| ttl.saturating_sub(age))
}

/// Whether something checked at `checked_at` is still trusted.
pub fn is_fresh(checked_at: u64, ttl: Duration, now: SystemTime) -> bool {
    fresh_for(checked_at, ttl, now).is_some()
}

/// How old something is that may be answered with because the upstream cannot be asked; `None` when it is
/// too old for that. `max_stale` is `None` where nothing is.
pub fn stale_age(
    checked_at: u64,
    max_stale: Option<Duration>,
    now: SystemTime,
) -> Option<Duration> {
    let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(checked_at);
    // Checked in the future: the clock was set back, and it is as good as new.
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
    fn a_check_is_trusted_for_its_life() {
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

    fn limited() -> MirrorError {
        MirrorError::TooManyRequests { retry_after: None }
    }

    /// What a question comes to that has `known` to fall back on, and is `asked` in time or not at all.
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
    async fn what_is_known_stands_in_where_the_upstream_cannot_say() {
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
            (Some(1), None, Some((1, stale(StaleReason::Slow)))),
            // What the upstream did say is the answer.
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
            let came_to = checked.map(|checked| (checked.answer, checked.freshness));
            assert_eq!(came_to, expected, "{case}");
        }
    }

    #[test]
    fn headers_are_rendered_from_it() {
        let age = Duration::from_secs(9);
        let reason = StaleReason::Slow;
        for (freshness, header) in [
            (Freshness::Fresh { left: age }, "roadstead; hit; ttl=9"),
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
