//! The state of an upstream, for operators.

use std::time::{Duration, Instant, SystemTime};

use super::Upstream;
use super::account::AccountName;
use super::accounts::AccountState;
use super::circuit::BreakerState;
use super::observations::ResponseTimes;
use super::rate_limit::RemainingPulls;

/// The state of one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamHealth {
    /// The state of the circuit breaker of the host.
    pub breaker: BreakerState,
    /// How long manifest GETs are held back after a 429, with all accounts.
    pub limited_for: Option<Duration>,
    /// The pulls that it allows, all accounts together.
    pub remaining_pulls: Option<RemainingPulls>,
    /// One for each account, in the configured order; one without a name if there are none.
    pub accounts: Vec<AccountHealth>,
    /// How long its responses took lately.
    pub response_times: Option<ResponseTimes>,
    /// When a request failed last, and why.
    pub last_failure: Option<(SystemTime, String)>,
}

/// The state of one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountHealth {
    /// Its name.
    pub name: AccountName,
    /// Whether the registry refused its login a short while ago.
    pub refused: bool,
    /// How long manifest GETs are held back after a 429.
    pub limited_for: Option<Duration>,
    /// The pulls that the registry allows it.
    pub remaining_pulls: Option<RemainingPulls>,
}

impl Upstream {
    /// Its state at `now`.
    pub fn health(&self, now: Instant) -> UpstreamHealth {
        let (limits, accounts) = (&self.transport.limits, &self.transport.accounts);
        let states: Vec<_> = accounts.all().iter().map(|one| one.health(now)).collect();
        let pulls = states.iter().filter_map(|one| one.remaining_pulls.as_ref());
        UpstreamHealth {
            breaker: limits.circuit.breaker_state(now),
            limited_for: accounts.limited_for(now),
            remaining_pulls: RemainingPulls::of_all(pulls),
            accounts: states,
            response_times: limits.observations.response_times(now),
            last_failure: limits.observations.last_failure(),
        }
    }
}

impl AccountState {
    fn health(&self, now: Instant) -> AccountHealth {
        AccountHealth {
            name: self.name.clone(),
            refused: self.is_refused(now),
            limited_for: self.rate_limit.limited_for(now),
            remaining_pulls: self.rate_limit.remaining_pulls(now),
        }
    }
}
