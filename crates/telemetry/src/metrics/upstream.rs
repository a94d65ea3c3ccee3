//! Metrics of requests to upstream registries, by their configured names.

use std::collections::BTreeMap;

use prometheus::core::Collector as _;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::METRICS;
use super::register::{counters, label, registered, signed, value};

pub(super) struct Families {
    requests: IntCounterVec,
    remaining: IntGaugeVec,
    limit: IntGaugeVec,
}

/// The current values for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamFigures {
    /// The configured name: the label `registry`.
    pub registry: String,
    /// Requests to it, of all kinds.
    pub requests: u64,
    /// Requests without a response, or with a 5xx or 429.
    pub failures: u64,
}

impl Families {
    pub fn new(registry: &Registry) -> Self {
        let pulls = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["registry", "account"]);
            registered(registry, gauge)
        };
        Self {
            requests: counters(
                registry,
                "roadstead_upstream_requests_total",
                "Requests to registries and where they redirect to; the code is none where no answer came.",
                &["registry", "kind", "code"],
            ),
            remaining: pulls(
                "roadstead_ratelimit_remaining",
                "Remaining pulls of an account (anonymous: of the address), as the registry last said, less those since.",
            ),
            limit: pulls(
                "roadstead_ratelimit_limit",
                "The pulls that the registry allows an account within its window.",
            ),
        }
    }

    pub fn figures(&self) -> Vec<UpstreamFigures> {
        let mut figures: BTreeMap<String, UpstreamFigures> = BTreeMap::new();
        let requests = self.requests.collect();
        for metric in requests
            .iter()
            .flat_map(prometheus::proto::MetricFamily::get_metric)
        {
            let one = figures.entry(label(metric, "registry")).or_default();
            let code = label(metric, "code");
            one.requests += value(metric);
            if code == "none" || code == "429" || code.starts_with('5') {
                one.failures += value(metric);
            }
        }
        let named = figures
            .into_iter()
            .map(|(registry, one)| UpstreamFigures { registry, ..one });
        named.collect()
    }
}

/// The counters of one registry. Labels are looked up for each request, which costs little next to the network.
#[derive(Clone, Debug)]
pub struct Upstream {
    registry: String,
}

impl Upstream {
    /// The counters of the registry with this configured name.
    pub fn of(registry: &str) -> Self {
        Self {
            registry: registry.to_owned(),
        }
    }

    /// The configured name.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Counts a request of this kind; `code` is `None` where no response came.
    pub fn request(&self, kind: &'static str, code: Option<u16>) {
        let code = match code {
            None => "none".to_owned(),
            Some(code @ 100..=599) => code.to_string(),
            Some(_) => "other".to_owned(),
        };
        let requests = &METRICS.upstream.requests;
        requests
            .with_label_values(&[&self.registry, kind, &code])
            .inc();
    }

    /// Records the remaining pulls of an account, and of how many.
    pub fn pulls(&self, account: &str, remaining: u64, limit: Option<u64>) {
        let families = &METRICS.upstream;
        let labels = [self.registry.as_str(), account];
        let remaining_gauge = families.remaining.with_label_values(&labels);
        remaining_gauge.set(signed(remaining));
        if let Some(limit) = limit {
            families.limit.with_label_values(&labels).set(signed(limit));
        }
    }
}
