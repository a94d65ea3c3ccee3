//! The state of an upstream, for operators.

use std::time::{Duration, Instant, SystemTime};

use super::Upstream;
use super::observations::ResponseTimes;

/// The state of one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamHealth {
    /// The state of the circuit breaker of the host.
    pub breaker: BreakerState,
    /// How long manifest GETs are held back after a 429.
    pub limited_for: Option<Duration>,
    /// The pulls that it allows, as it last said.
    pub remaining_pulls: Option<RemainingPulls>,
    /// How long its responses took lately.
    pub response_times: Option<ResponseTimes>,
    /// When a request failed last, and why.
    pub last_failure: Option<(SystemTime, String)>,
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

/// The pulls that a registry allows (`ratelimit-*`, as Docker Hub sends them).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemainingPulls {
    /// How many are left.
    pub remaining: u64,
    /// Of how many.
    pub limit: Option<u64>,
    /// Within this time, in seconds.
    pub window: Option<u64>,
    /// What is counted, as the registry names it: an address or an account.
    pub source: Option<String>,
    /// When the registry said so.
    pub observed_at: SystemTime,
}

impl Upstream {
    /// Its state at `now`.
    pub fn health(&self, now: Instant) -> UpstreamHealth {
        let limits = &self.transport.limits;
        UpstreamHealth {
            breaker: limits.circuit.breaker_state(now),
            limited_for: limits.rate_limit.limited_for(now),
            remaining_pulls: limits.rate_limit.remaining_pulls(),
            response_times: limits.observations.response_times(now),
            last_failure: limits.observations.last_failure(),
        }
    }
}
