//! Metrics of gates, absent without one.

use std::sync::OnceLock;

use prometheus::IntCounterVec;

use super::METRICS;
use super::register::counters;

static DENIALS: OnceLock<IntCounterVec> = OnceLock::new();

fn denials() -> &'static IntCounterVec {
    DENIALS.get_or_init(|| {
        counters(
            &METRICS.registry,
            "roadstead_gate_denials_total",
            "Requests that the gate of a registry denied, or would have denied.",
            &["registry", "rule", "mode"],
        )
    })
}

/// Makes the counter of a configured rule visible, at 0.
pub fn with_gate(registry: &str, rule: &str, mode: &str) {
    denials().with_label_values(&[registry, rule, mode]);
}

/// Counts a denial. Only configured registries have gates, and rules and modes are few.
pub fn gate_denied(registry: &str, rule: &str, mode: &str) {
    denials().with_label_values(&[registry, rule, mode]).inc();
}
