//! The rate limit of one upstream: a 429 is respected, the remaining pulls are read. Decisions take `now`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

use super::UpstreamError;
use super::request::RequestKind;

/// The cool-down after a 429 without `Retry-After`.
const DEFAULT_COOL_DOWN: Duration = Duration::from_secs(60);

/// The rate limit of one upstream, as its responses last stated it.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    state: Mutex<RateLimitState>,
}

#[derive(Debug, Default)]
struct RateLimitState {
    /// Until when manifest GETs are held back.
    cool_until: Option<Instant>,
    /// The remaining pulls that were logged last.
    logged_remaining: Option<u64>,
}

impl RateLimit {
    /// Decides whether a request may be sent now.
    ///
    /// # Errors
    /// [`UpstreamError::TooManyRequests`] during a cool-down.
    pub fn admit(&self, kind: RequestKind, now: Instant) -> Result<(), UpstreamError> {
        let mut state = self.state();
        if kind == RequestKind::ManifestGet
            && let Some(until) = state.cool_until
        {
            if now < until {
                return Err(UpstreamError::TooManyRequests {
                    retry_after: Some(until - now),
                });
            }
            state.cool_until = None;
        }
        Ok(())
    }

    /// Records a 429: manifest GETs are held back, everything else continues.
    pub fn rate_limited(&self, retry_after: Option<Duration>, now: Instant) {
        let wait = retry_after.unwrap_or(DEFAULT_COOL_DOWN);
        tracing::warn!(
            seconds = wait.as_secs(),
            "the upstream limits requests; manifest GETs are held back"
        );
        self.state().cool_until = Some(now + wait);
    }

    /// Reads Docker Hub's remaining pulls, and logs them when they changed by a tenth of the limit.
    pub fn read_remaining_pulls(&self, headers: &HeaderMap, origin: &str) -> Option<u64> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let remaining = text("ratelimit-remaining").and_then(leading_number)?;
        let limit = text("ratelimit-limit").and_then(leading_number);
        let step = (limit.unwrap_or(remaining) / 10).max(1);
        let mut state = self.state();
        if state
            .logged_remaining
            .is_none_or(|logged| logged.abs_diff(remaining) >= step)
        {
            state.logged_remaining = Some(remaining);
            let source = text("docker-ratelimit-source").unwrap_or("-");
            tracing::info!(
                origin,
                remaining,
                limit,
                source,
                "pulls that the upstream still allows"
            );
        }
        Some(remaining)
    }

    fn state(&self) -> MutexGuard<'_, RateLimitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `100` of `100;w=21600`.
fn leading_number(value: &str) -> Option<u64> {
    value.split(';').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_429_holds_back_manifest_gets_alone() {
        let rate_limit = RateLimit::default();
        let start = Instant::now();
        rate_limit.rate_limited(Some(Duration::from_secs(5)), start);
        assert!(rate_limit.admit(RequestKind::Other, start).is_ok());
        assert!(matches!(
            rate_limit.admit(RequestKind::ManifestGet, start + Duration::from_secs(2)),
            Err(UpstreamError::TooManyRequests { retry_after: Some(wait) }) if wait == Duration::from_secs(3)
        ));
        assert!(
            rate_limit
                .admit(RequestKind::ManifestGet, start + Duration::from_secs(5))
                .is_ok()
        );
        rate_limit.rate_limited(None, start);
        assert!(
            rate_limit
                .admit(RequestKind::ManifestGet, start + Duration::from_secs(59))
                .is_err()
        );
    }

    #[test]
    fn remaining_pulls_are_parsed() {
        for (value, number) in [
            ("100;w=21600", Some(100)),
            ("7", Some(7)),
            (";w=1", None),
            ("x", None),
        ] {
            assert_eq!(leading_number(value), number, "{value}");
        }
    }
}
