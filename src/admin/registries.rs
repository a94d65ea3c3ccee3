//! `/api/v1/registries` and `/api/v1/fills`: the upstreams and the downloads from them.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Admin;
use super::error::Problem;
use super::query::Parameters;
use super::report::{
    AccountState, BreakerReport, ConfiguredRegistry, Health, LastFailure, Latency, Page,
    RateLimitState, RegistryState,
};
use super::time::rfc3339;
use mirror::{FillPhase, FillStatus};
use telemetry::metrics::{self, UpstreamFigures};
use upstream::{AccountName, RemainingPulls, UpstreamHealth};

/// How many of the clients that wait for a fill are named.
const MAX_READERS: usize = 20;

/// An item of `GET /api/v1/fills`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct FillItem {
    pub id: String,
    kind: &'static str,
    digest: Option<String>,
    registry: String,
    repository: Option<String>,
    phase: &'static str,
    size_bytes: Option<u64>,
    fetched_bytes: u64,
    resumed_from_bytes: u64,
    bytes_per_second: u64,
    remaining_seconds: Option<f64>,
    started_at: String,
    readers_total: u64,
    readers: Vec<FillReader>,
}

/// A client that waits for a fill.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct FillReader {
    /// `None` on a Unix socket.
    client: Option<String>,
    /// `None`: anonymous.
    user: Option<String>,
}

impl Admin {
    /// # Errors
    /// 400 for a wrong `limit`.
    pub(super) fn registries(
        &self,
        parameters: &Parameters,
    ) -> Result<Page<RegistryState>, Problem> {
        let (limit, after) = (parameters.limit()?, parameters.text("after"));
        let all = &self.settings.registries;
        let position = |name: &str| all.iter().position(|one| one.name.as_str() == name);
        let first = after.map_or(0, |name| position(name).map_or(all.len(), |at| at + 1));
        let (counted, fills) = (metrics::figures().upstreams, self.mirror.fills());
        let page = &all[first..all.len().min(first + limit)];
        let next = (first + page.len() < all.len())
            .then(|| page.last())
            .flatten();
        Ok(Page {
            items: page
                .iter()
                .map(|one| self.registry(one, &counted, &fills))
                .collect(),
            next: next.map(|last| last.name.to_string()),
            total: Some(all.len() as u64),
        })
    }

    fn registry(
        &self,
        one: &ConfiguredRegistry,
        counted: &[UpstreamFigures],
        fills: &[FillStatus],
    ) -> RegistryState {
        let name = one.name.as_str();
        let figures = counted.iter().find(|figures| figures.registry == name);
        let (requests, failures) = figures.map_or((0, 0), |one| (one.requests, one.failures));
        let health = self.mirror.upstream_health(&one.name);
        let health = health.as_ref();
        let last_failure = health.and_then(|health| health.last_failure.clone());
        let fills = fills.iter().filter(|fill| fill.registry == one.name);
        RegistryState {
            configured: one.clone(),
            health: summary(health, requests),
            breaker: breaker(health.map(|health| health.breaker)),
            rate_limit: health.and_then(rate_limit),
            accounts: health.map_or_else(Vec::new, accounts),
            latency: health.and_then(latency),
            requests,
            failures,
            last_failure: last_failure.map(|(at, message)| LastFailure {
                at: rfc3339(at),
                message,
            }),
            fills_in_flight: fills.count() as u64,
            fills_limit: self.settings.fills.div_ceil(2) as u64,
        }
    }

    /// Brings the metrics of the remaining pulls up to date.
    pub(super) fn note_pulls(&self) {
        for registry in &self.settings.registries {
            let counted = metrics::Upstream::of(registry.name.as_str());
            let health = self.mirror.upstream_health(&registry.name);
            for account in health.into_iter().flat_map(|health| health.accounts) {
                if let Some(pulls) = account.remaining_pulls {
                    counted.pulls(account.name.as_str(), pulls.remaining, pulls.limit);
                }
            }
        }
    }

    /// The fills, longest running first.
    pub(super) fn all_fills(&self) -> Vec<FillItem> {
        let mut fills = self.mirror.fills();
        fills.sort_by_key(|fill| (fill.started, fill.key.to_string()));
        fills.into_iter().map(FillItem::of).collect()
    }

    /// # Errors
    /// 400 for a wrong `limit`.
    pub(super) fn fills(&self, parameters: &Parameters) -> Result<Page<FillItem>, Problem> {
        let (limit, after) = (parameters.limit()?, parameters.text("after"));
        let all = self.all_fills();
        let total = all.len();
        let position = |id: &str| all.iter().position(|fill| fill.id == id);
        // A fill that has ended meanwhile was one of the first.
        let first = after.map_or(0, |id| position(id).map_or(0, |at| at + 1));
        let items: Vec<FillItem> = all.into_iter().skip(first).take(limit).collect();
        let is_last = first + items.len() >= total;
        let last = items.last().filter(|_| !is_last);
        Ok(Page {
            next: last.map(|fill| fill.id.clone()),
            items,
            total: Some(total as u64),
        })
    }
}

fn summary(health: Option<&UpstreamHealth>, requests: u64) -> Health {
    match health {
        Some(health) if health.breaker != upstream::BreakerState::Closed => Health::Failing,
        Some(health) if health.limited_for.is_some() => Health::Limited,
        _ if requests == 0 => Health::Idle,
        _ => Health::Healthy,
    }
}

pub(super) fn breaker(breaker: Option<upstream::BreakerState>) -> BreakerReport {
    let (state, retry_at, pause) = match breaker {
        None | Some(upstream::BreakerState::Closed) => ("closed", None, None),
        Some(upstream::BreakerState::Open { left, pause }) => ("open", Some(left), Some(pause)),
        Some(upstream::BreakerState::HalfOpen) => ("half-open", None, None),
    };
    BreakerReport {
        state: state.to_owned(),
        retry_at: retry_at.map(from_now),
        pause_seconds: pause.map(|pause| pause.as_secs_f64()),
    }
}

fn accounts(health: &UpstreamHealth) -> Vec<AccountState> {
    let accounts = health.accounts.iter();
    let accounts = accounts.map(|account| AccountState {
        name: match &account.name {
            AccountName::Anonymous => None,
            AccountName::Named(name) => Some(name.clone()),
        },
        refused: account.refused,
        rate_limit: pull_limit(account.remaining_pulls.as_ref(), account.limited_for),
    });
    accounts.collect()
}

/// The pulls that all accounts together may make.
pub(super) fn rate_limit(health: &UpstreamHealth) -> Option<RateLimitState> {
    pull_limit(health.remaining_pulls.as_ref(), health.limited_for)
}

fn pull_limit(
    seen: Option<&RemainingPulls>,
    limited_for: Option<Duration>,
) -> Option<RateLimitState> {
    if seen.is_none() && limited_for.is_none() {
        return None;
    }
    Some(RateLimitState {
        limit: seen.and_then(|seen| seen.limit),
        remaining: seen.map(|seen| seen.remaining),
        window_seconds: seen.and_then(|seen| seen.window),
        source: seen.and_then(|seen| seen.source.clone()),
        observed_at: seen.map(|seen| rfc3339(seen.observed_at)),
        retry_at: limited_for.map(from_now),
    })
}

fn latency(health: &UpstreamHealth) -> Option<Latency> {
    let times = health.response_times?;
    Some(Latency {
        window_seconds: times.window.as_secs(),
        samples: times.samples as u64,
        p50_seconds: times.p50.as_secs_f64(),
        p95_seconds: times.p95.as_secs_f64(),
    })
}

fn from_now(wait: Duration) -> String {
    rfc3339(SystemTime::now() + wait)
}

impl FillItem {
    fn of(status: FillStatus) -> Self {
        let (phase, resumed, rate) = match status.phase {
            FillPhase::Waiting => ("waiting", 0, 0),
            FillPhase::Streaming { since, resumed } => {
                let rate = rate(status.written.saturating_sub(resumed), since);
                ("streaming", resumed, rate)
            }
            FillPhase::Verifying => ("verifying", 0, 0),
        };
        let left = status
            .total
            .map(|total| total.saturating_sub(status.written));
        let digest = status.key.digest().map(|digest| digest.to_string());
        let readers = status.clients.into_iter().map(|waiting| FillReader {
            client: waiting.address.map(|address| address.to_string()),
            user: waiting.user.as_deref().map(str::to_owned),
        });
        Self {
            id: status.key.to_string(),
            kind: if digest.is_some() { "blob" } else { "v1-layer" },
            digest,
            registry: status.registry.to_string(),
            repository: status.repository.map(|repository| repository.to_string()),
            phase,
            size_bytes: status.total,
            fetched_bytes: status.written,
            resumed_from_bytes: resumed,
            bytes_per_second: rate,
            remaining_seconds: left.and_then(|left| remaining(left, rate)),
            started_at: rfc3339(status.started),
            readers_total: status.followers as u64,
            readers: readers.take(MAX_READERS).collect(),
        }
    }
}

/// Bytes per second.
fn rate(bytes: u64, within: Duration) -> u64 {
    let ms = within.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / ms).unwrap_or(u64::MAX)
}

/// The seconds that the rest takes.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn remaining(left: u64, rate: u64) -> Option<f64> {
    (rate > 0).then(|| (left as f64 / rate as f64 * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_remaining_time() {
        assert_eq!(rate(1000, Duration::from_millis(500)), 2000);
        assert_eq!(rate(0, Duration::ZERO), 0);
        assert_eq!(remaining(1000, 0), None);
        assert_eq!(remaining(1000, 300), Some(3.3));
    }
}
