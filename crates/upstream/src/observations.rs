//! What was observed of an upstream lately, for operators: times to response headers, and the last failure.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How many response times are remembered, and for how long.
const SAMPLES: usize = 256;
const WINDOW: Duration = Duration::from_secs(300);

/// The observations of one upstream.
#[derive(Debug, Default)]
pub(super) struct Observations {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When responses came, and how long they took.
    took: VecDeque<(Instant, Duration)>,
    last_failure: Option<(SystemTime, String)>,
}

/// How long responses took lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseTimes {
    /// The time that the samples are from.
    pub window: Duration,
    /// How many there are.
    pub samples: usize,
    /// The median.
    pub p50: Duration,
    /// The 95th percentile.
    pub p95: Duration,
}

impl Observations {
    /// Records a response whose headers took so long.
    pub fn responded(&self, took: Duration, now: Instant) {
        let mut state = self.state();
        if state.took.len() >= SAMPLES {
            state.took.pop_front();
        }
        state.took.push_back((now, took));
    }

    /// Records a failure.
    pub fn failed(&self, message: String) {
        self.state().last_failure = Some((SystemTime::now(), message));
    }

    /// When a request failed last, and why.
    pub fn last_failure(&self) -> Option<(SystemTime, String)> {
        self.state().last_failure.clone()
    }

    /// The times of the last five minutes; `None` if there was no response.
    pub fn response_times(&self, now: Instant) -> Option<ResponseTimes> {
        let state = self.state();
        let recent = state.took.iter();
        let recent = recent.filter(|(at, _)| now.saturating_duration_since(*at) < WINDOW);
        let mut took: Vec<Duration> = recent.map(|(_, took)| *took).collect();
        drop(state);
        took.sort_unstable();
        let percentile =
            |percent: usize| took.get((took.len() * percent / 100).min(took.len() - 1));
        Some(ResponseTimes {
            window: WINDOW,
            samples: took.len(),
            p50: *took.first().and_then(|_| percentile(50))?,
            p95: *percentile(95)?,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_times_are_those_of_the_last_minutes() {
        let (observations, start) = (Observations::default(), Instant::now());
        assert_eq!(observations.response_times(start), None);
        for ms in 1..=2 * SAMPLES as u64 {
            observations.responded(Duration::from_millis(ms), start);
        }
        let times = observations.response_times(start).expect("samples");
        assert_eq!((times.samples, times.window), (SAMPLES, WINDOW));
        assert_eq!(times.p50, Duration::from_millis(257 + 128));
        assert_eq!(times.p95, Duration::from_millis(257 + 243));
        assert_eq!(observations.response_times(start + WINDOW), None);
    }
}
