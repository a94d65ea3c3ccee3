//! Metrics of events and webhooks, absent in a gateway that records none.

use std::sync::OnceLock;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::METRICS;
use super::register::{counter, counters, registered, signed};

static FAMILIES: OnceLock<Families> = OnceLock::new();

struct Families {
    lost: IntCounter,
    events: IntCounterVec,
    failures: IntCounterVec,
    pending: IntGaugeVec,
}

/// The metrics of one webhook, by the host of its URL: webhooks on one host add up.
#[derive(Debug)]
pub struct Webhook {
    delivered: IntCounter,
    dropped: IntCounter,
    failures: IntCounter,
    pending: IntGauge,
}

fn families() -> &'static Families {
    FAMILIES.get_or_init(|| {
        let registry = &METRICS.registry;
        let pending = Opts::new(
            "roadstead_webhook_pending_events",
            "Events that wait for a webhook.",
        );
        Families {
            lost: counter(
                registry,
                "roadstead_events_lost_total",
                "Events that were not recorded: the disk failed, or was too slow.",
            ),
            events: counters(
                registry,
                "roadstead_webhook_events_total",
                "Events that a webhook took, and those that were dropped: it rejected them, or its queue was full.",
                &["endpoint", "outcome"],
            ),
            failures: counters(
                registry,
                "roadstead_webhook_failures_total",
                "Attempts to send an event that failed, and are repeated.",
                &["endpoint"],
            ),
            pending: registered(registry, IntGaugeVec::new(pending, &["endpoint"])),
        }
    })
}

/// Makes the metrics visible, at 0.
pub fn with_events() {
    families();
}

/// Counts an event that was not recorded.
pub fn event_lost() {
    families().lost.inc();
}

impl Webhook {
    /// The metrics of a webhook.
    pub fn of(endpoint: &str) -> Self {
        let all = families();
        let events = |outcome| all.events.with_label_values(&[endpoint, outcome]);
        Self {
            delivered: events("delivered"),
            dropped: events("dropped"),
            failures: all.failures.with_label_values(&[endpoint]),
            pending: all.pending.with_label_values(&[endpoint]),
        }
    }

    /// Counts an event that it took.
    pub fn delivered(&self) {
        self.delivered.inc();
    }

    /// Counts an event that it never gets.
    pub fn dropped(&self) {
        self.dropped.inc();
    }

    /// Counts an attempt that failed.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// Counts events that begin to wait.
    pub fn queued(&self, events: usize) {
        self.pending.add(signed(events as u64));
    }

    /// Counts events that wait no longer, since nothing is sent to their webhook any more.
    pub fn closed(&self, events: usize) {
        self.pending.sub(signed(events as u64));
    }

    /// Counts an event that no longer waits.
    pub fn removed(&self) {
        self.pending.dec();
    }
}
