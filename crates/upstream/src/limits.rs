//! The limits on requests to one upstream: its circuit and its rate limit; and what was observed of it.

use std::time::Instant;

use super::UpstreamError;
use super::circuit::{BreakerDecision, Circuit, FailureKey};
use super::observations::Observations;
use super::rate_limit::RateLimit;
use super::request::RequestKind;

/// The limits of one upstream.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub circuit: Circuit,
    pub rate_limit: RateLimit,
    pub observations: Observations,
}

impl Limits {
    /// Decides whether a request with these keys may be sent now.
    ///
    /// # Errors
    /// [`UpstreamError::TooManyRequests`] during a cool-down, [`UpstreamError::CircuitOpen`] during a backoff.
    pub fn admit(
        &self,
        kind: RequestKind,
        keys: &[FailureKey],
        now: Instant,
    ) -> Result<BreakerDecision, UpstreamError> {
        self.rate_limit.admit(kind, now)?;
        self.circuit.admit(keys, now)
    }
}
