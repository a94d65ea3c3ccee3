//! The metrics of the process: one set, which all crates update.
//!
//! An event costs an atomic addition or a few, no lock and no allocation; counters with labels that appear at run time
//! (a registry, a status) are looked up once. Names, units and labels follow Prometheus' conventions: bytes, seconds,
//! `_total`; `registry_proxy_*` and `registry_http_*` are those of the distribution registry, so that its dashboards work.
//! No label holds a repository, a tag or a digest: the configuration bounds the number of series.

mod bucket;
mod content;
mod events;
mod gate;
mod http;
mod register;
mod upstream;

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector as _;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

pub use bucket::{BucketEvent, BucketFigures, bucket, peer_received, peer_sent, with_bucket};
pub use content::{Answer, Content, ContentFigures, answered, pulled};
pub use events::{Webhook, event_lost, with_events};
pub use gate::{gate_denied, with_gate};
pub use http::{Answered, InFlight, Resource};
pub use upstream::{Upstream, UpstreamFigures};

use content::ContentCounters;
use register::{counter, counters, gauge, label, registered, signed, value};

/// The media type of [`render`].
pub const TEXT: &str = prometheus::TEXT_FORMAT;

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The source of bytes that do not match their digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorruptSource {
    /// Received from a registry.
    Upstream,
    /// Stored once, and damaged since.
    Disk,
    /// Another gateway of the bucket.
    Peer,
}

/// The size of the store, measured when the metrics are rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// On disk or reserved for fills, in whole blocks.
    pub bytes: u64,
    /// Blobs and manifests on disk.
    pub objects: u64,
}

struct Metrics {
    registry: Registry,
    started_at: u64,
    blob: ContentCounters,
    manifest: ContentCounters,
    resumed: IntCounter,
    segments: IntCounter,
    stale: IntCounterVec,
    wrong_bytes_upstream: IntCounter,
    wrong_bytes_disk: IntCounter,
    evicted: IntCounter,
    evicted_bytes: IntCounter,
    fills: IntGauge,
    store_bytes: IntGauge,
    store_objects: IntGauge,
    http: http::Http,
    upstream: upstream::Families,
}

/// The current values, except those of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// GETs of blobs.
    pub blob: ContentFigures,
    /// GETs of manifests.
    pub manifest: ContentFigures,
    /// Downloads under way, including those that wait for a slot.
    pub fills_in_flight: u64,
    /// Downloads that continued a partial or a broken connection.
    pub resumed: u64,
    /// Reasons with their counts.
    pub stale: Vec<(String, u64)>,
    /// Bodies from upstream that did not match their digest or length.
    pub wrong_bytes_upstream: u64,
    /// Stored bodies that did not match their digest or length.
    pub wrong_bytes_disk: u64,
    /// Evicted blobs.
    pub evicted: u64,
    /// In bytes.
    pub evicted_bytes: u64,
    /// One for each registry that was asked.
    pub upstreams: Vec<UpstreamFigures>,
    /// `None` without a bucket.
    pub bucket: Option<BucketFigures>,
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let [blob, manifest] = ContentCounters::both(&registry);
        let wrong_bytes = counters(
            &registry,
            "roadstead_verify_failures_total",
            "Bytes that were not what their length or digest says, by where they came from.",
            &["source"],
        );
        let started_at = process_metrics(&registry);
        Self {
            started_at,
            blob,
            manifest,
            resumed: counter(
                &registry,
                "roadstead_fill_resumes_total",
                "Downloads that went on from where they had stopped.",
            ),
            segments: counter(
                &registry,
                "roadstead_fill_segments_total",
                "Further connections that downloads opened.",
            ),
            stale: counters(
                &registry,
                "roadstead_stale_served_total",
                "Answers with something old because the upstream could not be asked, HEADs included.",
                &["reason"],
            ),
            wrong_bytes_upstream: wrong_bytes.with_label_values(&["upstream"]),
            wrong_bytes_disk: wrong_bytes.with_label_values(&["disk"]),
            evicted: counter(&registry, "roadstead_store_evicted_total", "Blobs evicted."),
            evicted_bytes: counter(
                &registry,
                "roadstead_store_evicted_bytes_total",
                "Bytes evicted, in whole blocks.",
            ),
            fills: gauge(
                &registry,
                "roadstead_fills_in_flight",
                "Downloads of blobs under way, those that wait for a slot included.",
            ),
            store_bytes: gauge(
                &registry,
                "roadstead_store_bytes",
                "Bytes of the store that are taken or promised, in whole blocks.",
            ),
            store_objects: gauge(
                &registry,
                "roadstead_store_objects",
                "Blobs and manifests in the store.",
            ),
            http: http::Http::new(&registry),
            upstream: upstream::Families::new(&registry),
            registry,
        }
    }

    fn content(&self, content: Content) -> &ContentCounters {
        match content {
            Content::Blob => &self.blob,
            Content::Manifest => &self.manifest,
        }
    }
}

/// Registers the version and the start of this process. Returns its start, in seconds since 1970.
fn process_metrics(registry: &Registry) -> u64 {
    let version = registered(
        registry,
        prometheus::IntGaugeVec::new(
            Opts::new(
                "roadstead_build_info",
                "Always 1; the label is the version.",
            ),
            &["version"],
        ),
    );
    version
        .with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1);
    let started = gauge(
        registry,
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let started_at = now.unwrap_or_default().as_secs();
    started.set(signed(started_at));
    started_at
}

/// Counts a stale response.
pub fn stale(reason: &'static str) {
    METRICS.stale.with_label_values(&[reason]).inc();
}

/// Counts a resumed download.
pub fn resumed() {
    METRICS.resumed.inc();
}

/// Counts a download's further connection.
pub fn segment_opened() {
    METRICS.segments.inc();
}

/// Counts a digest mismatch.
pub fn wrong_bytes(source: CorruptSource) {
    match source {
        CorruptSource::Upstream => METRICS.wrong_bytes_upstream.inc(),
        CorruptSource::Disk => METRICS.wrong_bytes_disk.inc(),
        CorruptSource::Peer => bucket(BucketEvent::WrongBytes),
    }
}

/// Counts an evicted blob.
pub fn evicted(bytes: u64) {
    METRICS.evicted.inc();
    METRICS.evicted_bytes.inc_by(bytes);
}

/// A download in progress, until it is dropped.
#[derive(Debug)]
pub struct Filling(());

impl Filling {
    /// Counts one more fill.
    #[expect(clippy::new_without_default, reason = "making one counts")]
    pub fn new() -> Self {
        METRICS.fills.inc();
        Self(())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        METRICS.fills.dec();
    }
}

/// All metrics in Prometheus' text format, version 0.0.4.
pub fn render(store: StoreFigures) -> String {
    METRICS.store_bytes.set(signed(store.bytes));
    METRICS.store_objects.set(signed(store.objects));
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&METRICS.registry.gather(), &mut text) {
        tracing::error!(%error, "the metrics cannot be written");
    }
    text
}

/// All metrics except those of HTTP, as numbers.
pub fn figures() -> Figures {
    let all = &*METRICS;
    let stale = all.stale.collect();
    let stale = stale
        .iter()
        .flat_map(prometheus::proto::MetricFamily::get_metric);
    Figures {
        blob: all.blob.figures(),
        manifest: all.manifest.figures(),
        fills_in_flight: u64::try_from(all.fills.get()).unwrap_or(0),
        resumed: all.resumed.get(),
        stale: stale
            .map(|metric| (label(metric, "reason"), value(metric)))
            .collect(),
        wrong_bytes_upstream: all.wrong_bytes_upstream.get(),
        wrong_bytes_disk: all.wrong_bytes_disk.get(),
        evicted: all.evicted.get(),
        evicted_bytes: all.evicted_bytes.get(),
        upstreams: all.upstream.figures(),
        bucket: bucket::figures(),
    }
}

/// When the counters started, in seconds since 1970.
pub fn started_at() -> u64 {
    METRICS.started_at
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test for all, since the counters are global and other tests count too.
    #[test]
    fn figures_and_text_equal_the_counts() {
        let before = figures();
        let answer = |hit, coalesced| Answer { hit, coalesced };
        answered(Content::Manifest, answer(true, false));
        answered(Content::Manifest, answer(false, true));
        stale("unit-test");
        stale("unit-test");
        let registry = Upstream::of("unit.example");
        registry.request("blob", Some(404));
        registry.request("blob", None);
        registry.pulls("me", 17, Some(100));
        registry.pulls("other", 3, None);
        let after = figures();
        assert!(after.manifest.requests >= before.manifest.requests + 2);
        assert!(after.manifest.hits > before.manifest.hits);
        assert!(after.manifest.misses > before.manifest.misses);
        assert!(after.manifest.coalesced > before.manifest.coalesced);
        assert!(after.stale.contains(&("unit-test".to_owned(), 2)));
        let mine = after
            .upstreams
            .iter()
            .find(|one| one.registry == "unit.example");
        let mine = mine.expect("a counted registry");
        assert_eq!((mine.requests, mine.failures), (2, 1));

        let text = render(StoreFigures {
            bytes: 4096,
            objects: 1,
        });
        for line in [
            "roadstead_stale_served_total{reason=\"unit-test\"} 2",
            "roadstead_store_bytes 4096",
            "roadstead_store_objects 1",
            "roadstead_upstream_requests_total{code=\"404\",kind=\"blob\",registry=\"unit.example\"} 1",
            "roadstead_upstream_requests_total{code=\"none\",kind=\"blob\",registry=\"unit.example\"} 1",
            "roadstead_ratelimit_remaining{account=\"me\",registry=\"unit.example\"} 17",
            "roadstead_ratelimit_remaining{account=\"other\",registry=\"unit.example\"} 3",
            "roadstead_ratelimit_limit{account=\"me\",registry=\"unit.example\"} 100",
            // A counter without events is 0, not absent.
            "registry_proxy_pushed_bytes_total{type=\"manifest\"} 0",
        ] {
            assert!(
                text.lines().any(|written| written == line),
                "{line} in\n{text}"
            );
        }
    }
}
