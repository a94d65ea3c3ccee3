//! The circuit breaker of the bucket: after a failure no request waits for it. The decisions take `now`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first rest after a failure, and the longest.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);
/// How long a probe keeps others waiting for its outcome.
const PROBE: Duration = Duration::from_secs(10);

/// Whether the bucket may be asked.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    pause: Mutex<Option<Pause>>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    /// Since when a probe is under way.
    probing: Option<Instant>,
}

impl CircuitBreaker {
    /// Whether a question may go out. After a rest the first one finds out for all.
    pub fn admits(&self, now: Instant) -> bool {
        let mut pause = self.pause();
        let Some(pause) = pause.as_mut() else {
            return true;
        };
        let probed = pause.probing.is_some_and(|since| now - since < PROBE);
        if now < pause.until || probed {
            return false;
        }
        pause.probing = Some(now);
        true
    }

    /// Notes an answer; says whether that ended a rest.
    pub fn answered(&self) -> bool {
        self.pause().take().is_some()
    }

    /// Notes a failure: a rest begins, twice as long each time.
    pub fn failed(&self, now: Instant) {
        let mut pause = self.pause();
        let length = match *pause {
            // Questions that were under way together fail together: that is one failure.
            Some(pause) if now < pause.until => return,
            Some(pause) => (pause.length * 2).min(LONGEST),
            None => FIRST,
        };
        *pause = Some(Pause {
            until: now + length,
            length,
            probing: None,
        });
    }

    fn pause(&self) -> MutexGuard<'_, Option<Pause>> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_doubles_and_one_question_ends_it() {
        let (rest, start) = (CircuitBreaker::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(rest.admits(at(0)));
        rest.failed(at(0));
        rest.failed(at(1));
        assert!(!rest.admits(at(1)));
        assert!(rest.admits(at(2)), "the probe");
        assert!(!rest.admits(at(2)), "one probe at a time");
        rest.failed(at(2));
        assert!(!rest.admits(at(5)));
        assert!(rest.admits(at(6)));
        // A probe without an outcome.
        assert!(!rest.admits(at(15)) && rest.admits(at(16)));
        assert!(rest.answered() && !rest.answered());
        assert!(rest.admits(at(16)) && rest.admits(at(16)));
        for seconds in (20..2000).step_by(40) {
            rest.failed(at(seconds));
            assert!(rest.admits(at(seconds) + LONGEST));
        }
    }
}
