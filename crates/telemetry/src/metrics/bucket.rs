//! Metrics of the bucket, absent in a gateway without one.

use std::sync::OnceLock;

use prometheus::{IntCounter, Registry};

use super::METRICS;
use super::register::counter;

static COUNTERS: OnceLock<Counters> = OnceLock::new();

/// A counted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketEvent {
    /// The bucket had a record or a body.
    Hit,
    /// The bucket did not have it.
    Miss,
    /// A request failed or timed out.
    Failure,
    /// A body or a record was corrupt.
    WrongBytes,
    /// A body was uploaded, or existed already.
    Uploaded,
    /// A body was not uploaded, because the bucket failed or the queue was full.
    UploadDropped,
    /// A change of a record was not uploaded.
    RecordDropped,
    /// A fill waited for another gateway's in vain.
    LeaseTimeout,
    /// A fill was completed from the node that held the lease.
    PeerHit,
    /// The node that held the lease could not be read any further.
    PeerLost,
}

/// The current values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketFigures {
    /// Records and bodies that the bucket had.
    pub hits: u64,
    /// Records and bodies that it did not have.
    pub misses: u64,
    /// Requests that failed or timed out.
    pub failures: u64,
    /// Records and bodies that were corrupt.
    pub wrong_bytes: u64,
    /// Bodies that were uploaded, or existed already.
    pub uploads: u64,
    /// Bodies that were not, because the bucket failed or the queue was full.
    pub uploads_dropped: u64,
    /// Changes of records that were not uploaded.
    pub records_dropped: u64,
    /// Fills that waited for another gateway's in vain.
    pub lease_timeouts: u64,
    /// Fills that were completed from the gateway that held the lease.
    pub peer_hits: u64,
    /// Gateways that stopped sending a body that they fetched.
    pub peers_lost: u64,
    /// Bytes of bodies that other gateways sent.
    pub peer_received: u64,
    /// Bytes of bodies that were sent to other gateways.
    pub peer_sent: u64,
}

struct Counters {
    hits: IntCounter,
    misses: IntCounter,
    failures: IntCounter,
    wrong_bytes: IntCounter,
    uploads: IntCounter,
    uploads_dropped: IntCounter,
    records_dropped: IntCounter,
    lease_timeouts: IntCounter,
    peer_hits: IntCounter,
    peers_lost: IntCounter,
    peer_received: IntCounter,
    peer_sent: IntCounter,
}

impl Counters {
    fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| {
            counter(registry, &format!("roadstead_bucket_{name}_total"), help)
        };
        Self {
            hits: counter("hits", "Records and bodies that the bucket had."),
            misses: counter("misses", "Records and bodies that the bucket had not."),
            failures: counter(
                "failures",
                "Questions to the bucket and changes that failed or took too long.",
            ),
            wrong_bytes: counter(
                "verify_failures",
                "Records and bodies from the bucket and its gateways that were not what they should be.",
            ),
            uploads: counter(
                "uploads",
                "Bodies that were written to the bucket, or were there already.",
            ),
            uploads_dropped: counter(
                "uploads_dropped",
                "Bodies that were not, because the bucket failed or too many waited.",
            ),
            records_dropped: counter(
                "records_dropped",
                "Changes of records that did not get to the bucket.",
            ),
            lease_timeouts: counter(
                "lease_timeouts",
                "Downloads that waited in vain for another gateway's.",
            ),
            peer_hits: counter(
                "peer_hits",
                "Bodies that were read from the gateway that fetched them, while it did.",
            ),
            peers_lost: counter(
                "peers_lost",
                "Gateways that stopped sending a body that they fetched.",
            ),
            peer_received: counter(
                "peer_received_bytes",
                "Bytes that other gateways sent of what they fetched.",
            ),
            peer_sent: counter(
                "peer_sent_bytes",
                "Bytes that were sent to other gateways of what this one fetched.",
            ),
        }
    }

    fn of(&self, event: BucketEvent) -> &IntCounter {
        match event {
            BucketEvent::Hit => &self.hits,
            BucketEvent::Miss => &self.misses,
            BucketEvent::Failure => &self.failures,
            BucketEvent::WrongBytes => &self.wrong_bytes,
            BucketEvent::Uploaded => &self.uploads,
            BucketEvent::UploadDropped => &self.uploads_dropped,
            BucketEvent::RecordDropped => &self.records_dropped,
            BucketEvent::LeaseTimeout => &self.lease_timeouts,
            BucketEvent::PeerHit => &self.peer_hits,
            BucketEvent::PeerLost => &self.peers_lost,
        }
    }
}

fn counters() -> &'static Counters {
    COUNTERS.get_or_init(|| Counters::new(&METRICS.registry))
}

/// Makes the bucket's metrics visible, at 0.
pub fn with_bucket() {
    counters();
}

/// Counts an event.
pub fn bucket(event: BucketEvent) {
    counters().of(event).inc();
}

/// Counts bytes of a body that another gateway sent.
pub fn peer_received(bytes: usize) {
    counters().peer_received.inc_by(bytes as u64);
}

/// Counts bytes of a body that were sent to another gateway.
pub fn peer_sent(bytes: usize) {
    counters().peer_sent.inc_by(bytes as u64);
}

/// The current values; `None` without a bucket.
pub(super) fn figures() -> Option<BucketFigures> {
    COUNTERS.get().map(|all| BucketFigures {
        hits: all.hits.get(),
        misses: all.misses.get(),
        failures: all.failures.get(),
        wrong_bytes: all.wrong_bytes.get(),
        uploads: all.uploads.get(),
        uploads_dropped: all.uploads_dropped.get(),
        records_dropped: all.records_dropped.get(),
        lease_timeouts: all.lease_timeouts.get(),
        peer_hits: all.peer_hits.get(),
        peers_lost: all.peers_lost.get(),
        peer_received: all.peer_received.get(),
        peer_sent: all.peer_sent.get(),
    })
}
