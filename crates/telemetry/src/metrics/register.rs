//! Registration of collectors, and reading the values of those with labels.

use prometheus::core::Collector;
use prometheus::proto::Metric;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Registers a collector. Only this crate chooses names, so none is taken.
pub(super) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    created: prometheus::Result<C>,
) -> C {
    let collector = created.expect("names and labels are valid");
    let added = registry.register(Box::new(collector.clone()));
    added.expect("every name is registered once");
    collector
}

pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::new(name, help))
}

pub(super) fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help))
}

pub(super) fn label(metric: &Metric, name: &str) -> String {
    let mut labels = metric.get_label().iter();
    let found = labels.find(|label| label.name() == name);
    found.map_or_else(String::new, |label| label.value().to_owned())
}

/// A counter's value: a whole number below 2^53, which a float holds exactly.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count"
)]
pub(super) fn value(metric: &Metric) -> u64 {
    metric.get_counter().get_value() as u64
}

pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
