//! The rate limit of one upstream: a 429 is respected, the remaining pulls are read. Decisions take `now`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use super::UpstreamError;
use super::health::RemainingPulls;
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
    /// What the upstream last said.
    observed: Option<RemainingPulls>,
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
        let source = text("docker-ratelimit-source");
        let step = (limit.unwrap_or(remaining) / 10).max(1);
        let mut state = self.state();
        state.observed = Some(RemainingPulls {
            remaining,
            limit,
            window: text("ratelimit-remaining").and_then(window),
            source: source.map(|source| telemetry::harmless(source, 100)),
            observed_at: SystemTime::now(),
        });
        if state
            .logged_remaining
            .is_none_or(|logged| logged.abs_diff(remaining) >= step)
        {
            state.logged_remaining = Some(remaining);
            let source = source.unwrap_or("-");
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

    /// How long manifest GETs are held back from `now` on.
    pub fn limited_for(&self, now: Instant) -> Option<Duration> {
        let left = self.state().cool_until?.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }

    /// The remaining pulls, as the upstream last said.
    pub fn remaining_pulls(&self) -> Option<RemainingPulls> {
        self.state().observed.clone()
    }

    fn state(&self) -> MutexGuard<'_, RateLimitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `100` of `100;w=21600`.
fn leading_number(value: &str) -> Option<u64> {
    value.split(';').next()?.trim().parse().ok()
}

/// `21600` of `100;w=21600`.
fn window(value: &str) -> Option<u64> {
    let mut parameters = value.split(';').skip(1).map(str::trim);
    parameters.find_map(|parameter| parameter.strip_prefix("w=")?.parse().ok())
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
        for (value, seconds) in [("100;w=21600", Some(21600)), ("7", None), ("7; w=x", None)] {
            assert_eq!(window(value), seconds, "{value}");
        }
    }
}
