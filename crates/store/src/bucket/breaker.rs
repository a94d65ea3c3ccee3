//! The circuit breaker of the bucket: after a failure, requests skip it during a cooldown. Decisions take `now`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first and the longest cooldown after a failure.
const FIRST_COOLDOWN: Duration = Duration::from_secs(2);
const MAX_COOLDOWN: Duration = Duration::from_secs(30);
/// How long a probe holds back other requests.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Decides whether requests may be sent.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    cooldown: Mutex<Option<Cooldown>>,
}

#[derive(Clone, Copy, Debug)]
struct Cooldown {
    until: Instant,
    length: Duration,
    /// When the current probe was sent.
    probing: Option<Instant>,
}

impl CircuitBreaker {
    /// Whether a request may be sent. After a cooldown the first one probes for all.
    pub fn admits(&self, now: Instant) -> bool {
        let mut cooldown = self.cooldown();
        let Some(cooldown) = cooldown.as_mut() else {
            return true;
        };
        let probed = cooldown
            .probing
            .is_some_and(|since| now - since < PROBE_TIMEOUT);
        if now < cooldown.until || probed {
            return false;
        }
        cooldown.probing = Some(now);
        true
    }

    /// Notes an answer; returns whether it ended a cooldown.
    pub fn answered(&self) -> bool {
        self.cooldown().take().is_some()
    }

    /// Notes a failure: a cooldown begins, twice as long each time.
    pub fn failed(&self, now: Instant) {
        let mut cooldown = self.cooldown();
        let length = match *cooldown {
            // Concurrent requests fail together: that is one failure.
            Some(cooldown) if now < cooldown.until => return,
            Some(cooldown) => (cooldown.length * 2).min(MAX_COOLDOWN),
            None => FIRST_COOLDOWN,
        };
        *cooldown = Some(Cooldown {
            until: now + length,
            length,
            probing: None,
        });
    }

    fn cooldown(&self) -> MutexGuard<'_, Option<Cooldown>> {
        self.cooldown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cooldown_doubles_and_one_answer_ends_it() {
        let (breaker, start) = (CircuitBreaker::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(breaker.admits(at(0)));
        breaker.failed(at(0));
        breaker.failed(at(1));
        assert!(!breaker.admits(at(1)));
        assert!(breaker.admits(at(2)), "the probe");
        assert!(!breaker.admits(at(2)), "one probe at a time");
        breaker.failed(at(2));
        assert!(!breaker.admits(at(5)));
        assert!(breaker.admits(at(6)));
        // A probe without an outcome.
        assert!(!breaker.admits(at(15)) && breaker.admits(at(16)));
        assert!(breaker.answered() && !breaker.answered());
        assert!(breaker.admits(at(16)) && breaker.admits(at(16)));
        for seconds in (20..2000).step_by(40) {
            breaker.failed(at(seconds));
            assert!(breaker.admits(at(seconds) + MAX_COOLDOWN));
        }
    }
}
