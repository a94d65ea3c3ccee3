//! The state of an upstream, for operators.

use std::time::{Duration, Instant, SystemTime};

use super::Upstream;
use super::account::AccountName;
use super::accounts::AccountState;
use super::observations::ResponseTimes;

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

/// The pulls that a registry allows (`ratelimit-*`, as Docker Hub sends them), as it last said, less what was requested
/// since; after a window all of them.
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

impl RemainingPulls {
    /// The sums of several accounts; of one alone with what is counted.
    fn of_all<'a>(accounts: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let sum = |one: u64, other: u64| one.saturating_add(other);
        accounts.cloned().reduce(|all, one| Self {
            remaining: sum(all.remaining, one.remaining),
            limit: all.limit.zip(one.limit).map(|(all, one)| sum(all, one)),
            window: all.window.max(one.window),
            source: None,
            observed_at: all.observed_at.max(one.observed_at),
        })
    }
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
