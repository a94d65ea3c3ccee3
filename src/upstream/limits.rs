//! What an upstream can bear: a pause while it fails, a cool-down when it limits us, its count.
//!
//! The decisions take `now`; nothing here waits.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

use super::UpstreamError;

/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The cool-down after a 429 that names no time.
const DEFAULT_COOL_DOWN: Duration = Duration::from_secs(60);

/// What a request asks for, as far as limits distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one that is counted.
    ManifestGet,
    Other,
}

/// The state of one upstream.
#[derive(Debug, Default)]
pub(super) struct Limits {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Manifest GETs wait until then.
    cool_until: Option<Instant>,
    pause: Option<Pause>,
    /// The count that was logged last.
    logged: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    /// Since when somebody is finding out whether it is over.
    probing: Option<Instant>,
}

impl Limits {
    /// Whether a request may go out now.
    ///
    /// # Errors
    /// [`UpstreamError::TooManyRequests`] during a cool-down, [`UpstreamError::Resting`] during a pause.
    pub fn admit(&self, kind: Kind, now: Instant) -> Result<(), UpstreamError> {
        let mut state = self.state();
        if kind == Kind::ManifestGet
            && let Some(until) = state.cool_until
        {
            if now < until {
                return Err(UpstreamError::TooManyRequests {
                    retry_after: Some(until - now),
                });
            }
            state.cool_until = None;
        }
        if let Some(pause) = &mut state.pause {
            // A probe that was dropped unanswered does not block the way for ever.
            let probed = pause
                .probing
                .is_some_and(|since| now - since < LONGEST_PAUSE);
            if now < pause.until || probed {
                return Err(UpstreamError::Resting);
            }
            pause.probing = Some(now);
        }
        Ok(())
    }

    /// Notes that the upstream answered.
    pub fn answered(&self) {
        let mut state = self.state();
        if state.pause.take().is_some() {
            tracing::info!("the upstream answers again");
        }
    }

    /// Notes that it failed: it rests for a while, twice as long each time.
    pub fn failed(&self, now: Instant) {
        let mut state = self.state();
        let length = match state.pause {
            // Requests that were under way together fail together: that is one failure.
            Some(pause) if now < pause.until => return,
            Some(pause) => (pause.length * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        state.pause = Some(Pause {
            until: now + length,
            length,
            probing: None,
        });
    }

    /// Notes a 429: manifest GETs wait, everything else goes on.
    pub fn limited(&self, retry_after: Option<Duration>, now: Instant) {
        let wait = retry_after.unwrap_or(DEFAULT_COOL_DOWN);
        tracing::warn!(
            seconds = wait.as_secs(),
            "the upstream limits requests; manifest GETs wait"
        );
        self.state().cool_until = Some(now + wait);
    }

    /// Reads the Hub's count, and logs it when it moved by a tenth of the limit.
    pub fn read(&self, headers: &HeaderMap, origin: &str) -> Option<u64> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let remaining = text("ratelimit-remaining").and_then(leading_number)?;
        let limit = text("ratelimit-limit").and_then(leading_number);
        let step = (limit.unwrap_or(remaining) / 10).max(1);
        let mut state = self.state();
        if state
            .logged
            .is_none_or(|logged| logged.abs_diff(remaining) >= step)
        {
            state.logged = Some(remaining);
            let source = text("docker-ratelimit-source").unwrap_or("-");
            tracing::info!(
                origin,
                remaining,
                limit,
                source,
                "the upstream's count of pulls"
            );
        }
        Some(remaining)
    }

    fn state(&self) -> MutexGuard<'_, State> {
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
    fn a_failing_upstream_rests_longer_each_time_and_is_probed_by_one() {
        let limits = Limits::default();
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let admitted = |seconds| limits.admit(Kind::Other, at(seconds)).is_ok();
        assert!(admitted(0.0));
        limits.failed(at(0.0));
        limits.failed(at(0.1));
        assert!(!admitted(0.9));
        assert!(admitted(1.0), "one probe");
        assert!(!admitted(1.1), "and no second");
        limits.failed(at(1.2));
        assert!(!admitted(3.1));
        assert!(admitted(3.3));
        assert!(admitted(3.3 + 31.0), "a probe that never came back");
        limits.answered();
        assert!(admitted(3.4) && admitted(3.4));
        let mut now = 10.0;
        for _ in 0..20 {
            limits.failed(at(now));
            now += 30.0;
            assert!(admitted(now), "never longer than 30 s");
        }
    }

    #[test]
    fn a_limit_cools_down_manifest_gets_alone() {
        let limits = Limits::default();
        let start = Instant::now();
        limits.limited(Some(Duration::from_secs(5)), start);
        assert!(limits.admit(Kind::Other, start).is_ok());
        assert!(matches!(
            limits.admit(Kind::ManifestGet, start + Duration::from_secs(2)),
            Err(UpstreamError::TooManyRequests { retry_after: Some(wait) }) if wait == Duration::from_secs(3)
        ));
        assert!(
            limits
                .admit(Kind::ManifestGet, start + Duration::from_secs(5))
                .is_ok()
        );
        limits.limited(None, start);
        assert!(
            limits
                .admit(Kind::ManifestGet, start + Duration::from_secs(59))
                .is_err()
        );
    }

    #[test]
    fn counts() {
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
