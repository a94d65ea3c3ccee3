//! Metrics of events, absent in a gateway that records none.

use std::sync::OnceLock;

use prometheus::{IntCounter, Registry};

use super::METRICS;
use super::register::counter;

static LOST: OnceLock<IntCounter> = OnceLock::new();

fn lost() -> &'static IntCounter {
    let registry: &Registry = &METRICS.registry;
    LOST.get_or_init(|| {
        counter(
            registry,
            "roadstead_events_lost_total",
            "Events that were not recorded: the disk failed, or was too slow.",
        )
    })
}

/// Makes the metrics visible, at 0.
pub fn with_events() {
    lost();
}

/// Counts an event that was not recorded.
pub fn event_lost() {
    lost().inc();
}
