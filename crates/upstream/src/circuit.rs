//! The circuit breaker of one upstream: a failed request is not repeated at once, a host that is down is not asked.
//!
//! A failed request backs off by itself. That the host is down is never concluded from clients' requests, since any
//! client with read access can choose many that fail: it is down where it accepts no connection, or where it does not
//! answer the gateway's own probe (`probe.rs`). Any response since then shows that it is up. The decisions take `now`;
//! nothing in this file waits.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::UpstreamError;

/// The first backoff after a failure, and the longest.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// How many failed requests are remembered.
const MAX_FAILED_REQUESTS: usize = 1024;
/// How long a host that answered a probe counts as up, whatever fails meanwhile.
const PROBE_TRUST: Duration = Duration::from_secs(5);

/// What backs off by itself, as a hash: a request with everything that may change its response, or the scope of a
/// token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FailureKey(u64);

/// The circuit breaker's decision on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerDecision {
    Granted,
    /// The host was down: probe it first.
    ProbeFirst,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests are sent.
    Closed,
    /// No request is sent.
    Open {
        /// For so long from now.
        left: Duration,
        /// The length of the whole pause.
        pause: Duration,
    },
    /// The next request is preceded by a probe.
    HalfOpen,
}

/// What a failure implies about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostHealth {
    /// It responded meanwhile, or its state is known already.
    Settled,
    MayBeDown,
}

/// The circuit breaker of one upstream.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    state: Mutex<CircuitState>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct CircuitState {
    /// Set while the host is down.
    host_backoff: Option<Backoff>,
    /// Requests and tokens that failed.
    failed_requests: HashMap<FailureKey, Backoff>,
    /// When the host last answered without a server error.
    responded_at: Option<Instant>,
    /// Until when the last probe counts.
    probe_trusted_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Backoff {
    until: Instant,
    length: Duration,
}

impl Backoff {
    /// The backoff after one more failure: twice as long each time.
    fn after(earlier: Option<Self>, now: Instant) -> Self {
        let length = match earlier {
            // Concurrent requests fail together, which is one failure.
            Some(backoff) if now < backoff.until => return backoff,
            Some(backoff) if now < backoff.forgotten_at() => {
                (backoff.length * 2).min(LONGEST_BACKOFF)
            }
            _ => FIRST_BACKOFF,
        };
        Self {
            until: now + length,
            length,
        }
    }

    /// From when on the next backoff starts anew.
    fn forgotten_at(self) -> Instant {
        self.until + LONGEST_BACKOFF
    }
}

impl Circuit {
    /// The key of a request, from everything that may change its response.
    pub fn failure_key(&self, request: impl std::hash::Hash) -> FailureKey {
        FailureKey(self.hasher.hash_one(request))
    }

    /// Decides whether a request with these keys may be sent now.
    ///
    /// # Errors
    /// [`UpstreamError::CircuitOpen`] during a backoff.
    pub fn admit(
        &self,
        keys: &[FailureKey],
        now: Instant,
    ) -> Result<BreakerDecision, UpstreamError> {
        let state = self.state();
        let is_open = |backoff: &Backoff| now < backoff.until;
        let failed = keys
            .iter()
            .filter_map(|subject| state.failed_requests.get(subject));
        if failed.chain(&state.host_backoff).any(is_open) {
            return Err(UpstreamError::CircuitOpen);
        }
        Ok(state
            .host_backoff
            .map_or(BreakerDecision::Granted, |_| BreakerDecision::ProbeFirst))
    }

    /// Records that the host answered without a server error: it is up.
    pub fn host_responded(&self, now: Instant) {
        let mut state = self.state();
        state.responded_at = Some(now);
        if state.host_backoff.take().is_some() {
            tracing::info!("the upstream answers again");
        }
    }

    /// Records that a request succeeded.
    pub fn request_succeeded(&self, keys: &[FailureKey]) {
        let mut state = self.state();
        for subject in keys {
            state.failed_requests.remove(subject);
        }
    }

    /// Records that a request failed that was first sent at `began`, which backs off; returns whether the host may be
    /// down.
    pub fn request_failed(&self, subject: FailureKey, began: Instant, now: Instant) -> HostHealth {
        let mut state = self.state();
        let backoff = Backoff::after(state.failed_requests.get(&subject).copied(), now);
        if state.failed_requests.len() >= MAX_FAILED_REQUESTS
            && !state.failed_requests.contains_key(&subject)
        {
            state.make_room(now);
        }
        state.failed_requests.insert(subject, backoff);
        state.host_health(began, now)
    }

    /// Whether the host may be down, after a failure of a request that was first sent at `began`.
    pub fn host_health(&self, began: Instant, now: Instant) -> HostHealth {
        self.state().host_health(began, now)
    }

    /// Records that the host is down, which backs off.
    pub fn host_is_down(&self, now: Instant) {
        let mut state = self.state();
        if state.host_backoff.is_none() {
            tracing::warn!("the upstream does not answer; requests are held back");
        }
        state.host_backoff = Some(Backoff::after(state.host_backoff, now));
    }

    /// Records that the host answered a probe.
    pub fn probe_succeeded(&self, now: Instant) {
        self.state().probe_trusted_until = Some(now + PROBE_TRUST);
        self.host_responded(now);
    }

    /// The state of the host's breaker, for operators.
    pub fn breaker_state(&self, now: Instant) -> BreakerState {
        match self.state().host_backoff {
            None => BreakerState::Closed,
            Some(Backoff { until, length }) if now < until => BreakerState::Open {
                left: until - now,
                pause: length,
            },
            Some(_) => BreakerState::HalfOpen,
        }
    }

    fn state(&self) -> MutexGuard<'_, CircuitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CircuitState {
    fn host_health(&self, began: Instant, now: Instant) -> HostHealth {
        let responded = self.responded_at.is_some_and(|at| at >= began);
        let probed = self.probe_trusted_until.is_some_and(|until| now < until);
        let is_down = self.host_backoff.is_some_and(|backoff| now < backoff.until);
        if responded || probed || is_down {
            HostHealth::Settled
        } else {
            HostHealth::MayBeDown
        }
    }

    /// Forgets failures of long ago, or else the one whose backoff ends first.
    fn make_room(&mut self, now: Instant) {
        self.failed_requests
            .retain(|_, backoff| now < backoff.forgotten_at());
        if self.failed_requests.len() >= MAX_FAILED_REQUESTS {
            let first = self
                .failed_requests
                .iter()
                .min_by_key(|(_, backoff)| backoff.until);
            if let Some((&first, _)) = first {
                self.failed_requests.remove(&first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_host_that_is_down_backs_off_longer_each_time_and_is_probed() {
        let circuit = Circuit::default();
        let start = Instant::now();
        let admitted = |at| circuit.admit(&[], start + seconds(at)).ok();
        let down = |at| circuit.host_is_down(start + seconds(at));
        assert_eq!(admitted(0.0), Some(BreakerDecision::Granted));
        down(0.0);
        down(0.1);
        assert_eq!(admitted(0.9), None);
        assert_eq!(admitted(1.0), Some(BreakerDecision::ProbeFirst));
        down(1.2);
        assert_eq!(
            (admitted(3.1), admitted(3.3)),
            (None, Some(BreakerDecision::ProbeFirst))
        );
        circuit.host_responded(start + seconds(3.4));
        assert_eq!(admitted(3.4), Some(BreakerDecision::Granted));
        let mut now = 10.0;
        for _ in 0..20 {
            down(now);
            now += 30.0;
            assert_eq!(
                admitted(now),
                Some(BreakerDecision::ProbeFirst),
                "never longer than 30 s"
            );
        }
    }

    #[test]
    fn a_failed_request_backs_off_by_itself() {
        let circuit = Circuit::default();
        let start = Instant::now();
        let (one, other) = (circuit.failure_key("one"), circuit.failure_key("other"));
        let admitted = |subject, at| {
            let keys = [subject, circuit.failure_key("a token")];
            circuit.admit(&keys, start + seconds(at)).is_ok()
        };
        let failed = |at| circuit.request_failed(one, start, start + seconds(at));
        failed(0.0);
        failed(0.1);
        assert!(!admitted(one, 0.9) && admitted(other, 0.9));
        assert!(admitted(one, 1.0));
        failed(1.5);
        assert!(!admitted(one, 3.4) && admitted(one, 3.5));
        circuit.request_succeeded(&[one]);
        failed(4.0);
        assert!(
            !admitted(one, 4.9) && admitted(one, 5.0),
            "the backoff starts anew"
        );
        failed(100.0);
        assert!(admitted(one, 101.0), "failures of long ago do not count");
    }

    #[test]
    fn a_host_may_be_down_unless_it_responded() {
        let circuit = Circuit::default();
        let start = Instant::now();
        let suspected = |subject: u64, began, at| {
            let subject = circuit.failure_key(subject);
            circuit.request_failed(subject, start + seconds(began), start + seconds(at))
                == HostHealth::MayBeDown
        };
        assert!(suspected(1, 0.0, 1.0));
        circuit.host_responded(start + seconds(2.0));
        assert!(
            !suspected(2, 1.5, 3.0),
            "another request was answered meanwhile"
        );
        assert!(suspected(3, 2.5, 3.0));
        circuit.probe_succeeded(start + seconds(4.0));
        assert!(!suspected(4, 4.5, 8.9), "it answered a probe");
        assert!(suspected(5, 4.5, 9.0));
        circuit.host_is_down(start + seconds(9.0));
        assert!(!suspected(6, 9.0, 9.5), "it is known to be down");
    }

    #[test]
    fn remembered_failures_are_limited() {
        let circuit = Circuit::default();
        let now = Instant::now();
        for n in 0..2 * MAX_FAILED_REQUESTS {
            circuit.request_failed(circuit.failure_key(n), now, now);
        }
        assert_eq!(circuit.state().failed_requests.len(), MAX_FAILED_REQUESTS);
        let last = circuit.failure_key(2 * MAX_FAILED_REQUESTS - 1);
        assert!(circuit.admit(&[last], now).is_err());
    }
}
