//! Metrics of cached content: GETs that were answered with it, and its bytes.

use prometheus::{IntCounter, Registry};

use super::METRICS;
use super::register::counters;

/// A kind of cached content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The label `type="blob"`.
    Blob,
    /// The label `type="manifest"`.
    Manifest,
}

/// How one GET of cacheable content was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The bytes came from the store.
    pub hit: bool,
    /// It shared the upstream request of another client.
    pub coalesced: bool,
}

/// The counters of one kind of content.
pub(super) struct ContentCounters {
    requests: IntCounter,
    hits: IntCounter,
    misses: IntCounter,
    coalesced: IntCounter,
    pulled: IntCounter,
    pub pushed: IntCounter,
}

/// The current values for one kind of content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentFigures {
    /// GETs that were answered with content: `hits` and `misses`.
    pub requests: u64,
    /// Those whose bytes were in the store.
    pub hits: u64,
    /// Those whose bytes came from upstream, or from the bucket.
    pub misses: u64,
    /// Those that were collapsed into another client's upstream request.
    pub coalesced: u64,
    /// Bytes from upstream.
    pub pulled: u64,
    /// Bytes to clients.
    pub pushed: u64,
}

impl ContentCounters {
    /// The counters of blobs and those of manifests.
    pub fn both(registry: &Registry) -> [Self; 2] {
        let of_type = |name: &str, help: &str| counters(registry, name, help, &["type"]);
        let requests = of_type(
            "registry_proxy_requests_total",
            "GETs of cached content that were answered with it.",
        );
        let hits = of_type(
            "registry_proxy_hits_total",
            "Those whose bytes were in the store.",
        );
        let misses = of_type(
            "registry_proxy_misses_total",
            "Those whose bytes had to come from upstream, or from the bucket.",
        );
        let coalesced = of_type(
            "roadstead_coalesced_total",
            "Requests collapsed into another client's upstream request.",
        );
        let pulled = of_type(
            "registry_proxy_pulled_bytes_total",
            "Bytes of content received from upstream.",
        );
        let pushed = of_type(
            "registry_proxy_pushed_bytes_total",
            "Bytes of content sent to clients.",
        );
        ["blob", "manifest"].map(|kind| Self {
            requests: requests.with_label_values(&[kind]),
            hits: hits.with_label_values(&[kind]),
            misses: misses.with_label_values(&[kind]),
            coalesced: coalesced.with_label_values(&[kind]),
            pulled: pulled.with_label_values(&[kind]),
            pushed: pushed.with_label_values(&[kind]),
        })
    }

    /// The current values.
    pub fn figures(&self) -> ContentFigures {
        ContentFigures {
            requests: self.requests.get(),
            hits: self.hits.get(),
            misses: self.misses.get(),
            coalesced: self.coalesced.get(),
            pulled: self.pulled.get(),
            pushed: self.pushed.get(),
        }
    }
}

/// Counts a GET that was answered with content.
pub fn answered(content: Content, answer: Answer) {
    let counted = METRICS.content(content);
    counted.requests.inc();
    if answer.hit {
        counted.hits.inc();
    } else {
        counted.misses.inc();
    }
    if answer.coalesced {
        counted.coalesced.inc();
    }
}

/// Counts bytes from upstream.
pub fn pulled(content: Content, bytes: usize) {
    METRICS.content(content).pulled.inc_by(bytes as u64);
}
