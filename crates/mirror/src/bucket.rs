//! The bucket as the first source: content that a peer fetched is not fetched from the upstream again.
//!
//! Rights come first: bytes are downloaded from the bucket only for a repository that is known to have
//! them. A body from the bucket is staged apart and not published before it is verified, so that a wrong or broken
//! one costs only time; readers know its length meanwhile.
//!
//! Of the nodes that need the same blob, the one that holds its lease fetches it. The others read it from that node, if it
//! names itself in the lease (`peer.rs`), else they wait for the bucket.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::MirrorState;
use super::download::Download;
use super::peer::Followed;
use super::progress::Phase;
use super::source::FillSource;
use super::transfer::Interruption;
use oci::digest::Digest;
use oci::manifest::MAX_MANIFEST;
use store::{
    Blob, BlobKey, Bucket, CommitError, Lease, LeaseHolder, Leased, Object, OpenFile, StagedBlob,
    warn_degraded,
};
use telemetry::metrics::{self, BucketEvent};

/// How long a fill waits for a peer that fetches the same blob, and how often it polls.
const LEASE_WAIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Polls between attempts to take the lease, in case the peer released it.
const LEASE_EVERY: u32 = 4;
/// The longest that a download from the bucket may be expected to take; it is judged after [`JUDGED_AFTER`].
const SLOW_AFTER: Duration = Duration::from_secs(60);
/// The same for a body of unknown length: its readers have no headers yet.
const SHORT_SLOW_AFTER: Duration = Duration::from_secs(10);
const JUDGED_AFTER: Duration = Duration::from_secs(5);

impl MirrorState {
    /// Fetches a small body that a peer wrote to the bucket, and stores it.
    pub(super) async fn fetch_from_bucket(&self, digest: &Digest) -> Option<Bytes> {
        let bytes = self.store.bucket()?.bytes(digest, MAX_MANIFEST).await?;
        let (blobs, wanted, body) = (self.store.blobs.clone(), *digest, bytes.clone());
        match tokio::task::spawn_blocking(move || blobs.put(&wanted, &body)).await {
            Ok(Err(error)) => warn_degraded("a manifest cannot be stored", &error),
            Ok(Ok(())) => self.contents.memory.insert(*digest, &bytes),
            Err(_) => {}
        }
        Some(bytes)
    }
}

/// How a fill waits for the node that holds the lease.
struct LeaseWait {
    /// Since when that node did nothing for this fill.
    since: Instant,
    looks: u32,
    /// Nodes whose lease is taken over.
    lost: HashSet<String>,
}

impl LeaseWait {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            looks: 0,
            lost: HashSet::new(),
        }
    }

    /// Whether this look asks for the lease.
    fn asks_for_lease(&mut self) -> bool {
        self.looks += 1;
        self.looks % LEASE_EVERY == 1 || self.since.elapsed() >= LEASE_WAIT
    }

    fn begin_anew(&mut self) {
        (self.since, self.looks) = (Instant::now(), 0);
    }

    /// Waits no more for this node.
    fn lose(&mut self, holder: LeaseHolder) {
        self.lost.insert(holder.node);
        self.begin_anew();
    }
}

/// The outcome of asking the bucket for a fill.
pub(super) enum BucketOutcome {
    Done(Arc<OpenFile>),
    /// The upstream is asked; peers wait meanwhile if there is a lease.
    Upstream(Option<Lease>),
    /// The fill ends: the disk has no room, or other fills need the slot.
    Failed(Interruption),
}

impl Download {
    /// Fills from the bucket or from the node that holds the lease, or decides by it which node asks the upstream.
    pub(super) async fn try_bucket(
        &mut self,
        source: &FillSource,
        staged: &mut Option<StagedBlob>,
    ) -> BucketOutcome {
        let bucket = self.fills.state.store.bucket();
        let (Some(bucket), Some(digest)) = (bucket.cloned(), self.bucket_digest(source)) else {
            return BucketOutcome::Upstream(None);
        };
        let mut wait = LeaseWait::new();
        loop {
            if let Some(object) = bucket.open(&digest).await {
                let taken = self
                    .download_from_bucket(&bucket, object, source, digest)
                    .await;
                if taken.is_none() {
                    self.announce_total(None);
                }
                return match taken {
                    Some(file) => {
                        *staged = None;
                        BucketOutcome::Done(file)
                    }
                    None => BucketOutcome::Upstream(None),
                };
            }
            if !wait.asks_for_lease() {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            let holder = match bucket.lease(&digest, &wait.lost).await {
                Leased::Held(lease) => return BucketOutcome::Upstream(Some(lease)),
                Leased::Unavailable => return BucketOutcome::Upstream(None),
                Leased::HeldByPeer(holder) => holder,
            };
            if let Some(holder) = holder {
                match self.follow_holder(&holder, source, digest, staged).await {
                    Followed::Done(file) => return BucketOutcome::Done(file),
                    Followed::Unclaimed => return BucketOutcome::Upstream(None),
                    Followed::Failed(interruption) => return BucketOutcome::Failed(interruption),
                    Followed::Dropped => {
                        wait.begin_anew();
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                    Followed::Lost => wait.lose(holder),
                }
            } else if wait.since.elapsed() < LEASE_WAIT {
                tracing::debug!(%digest, "waiting for another node's fill");
                tokio::time::sleep(LOOK_EVERY).await;
            } else {
                metrics::bucket(BucketEvent::LeaseTimeout);
                tracing::info!(target: "fill", %digest, "another node takes too long");
                return BucketOutcome::Upstream(None);
            }
        }
    }

    /// Reads the blob from the node that holds its lease. Rights come first: its bytes are shown only for a repository
    /// that is known to have them, by this node's own records or login.
    async fn follow_holder(
        &mut self,
        holder: &LeaseHolder,
        source: &FillSource,
        digest: Digest,
        staged: &mut Option<StagedBlob>,
    ) -> Followed {
        let Some(peers) = self.fills.state.peers.clone() else {
            return Followed::Lost;
        };
        match self.confirmed_size(source, &digest).await {
            Some(size) => self.follow(&peers, holder, source, size, staged).await,
            None => Followed::Unclaimed,
        }
    }

    /// Writes the committed blob to the bucket, behind the fill.
    pub(super) fn write_to_bucket(&self, source: &FillSource, lease: Option<Lease>) {
        let store = &self.fills.state.store;
        if let (Some(bucket), Some(digest)) = (store.bucket(), self.bucket_digest(source)) {
            bucket.write_through(&store.blobs, &digest, lease);
        }
    }

    /// The digest under which peers share a source's content; `None` if they do not share it.
    fn bucket_digest(&self, source: &FillSource) -> Option<Digest> {
        source.blob()?;
        self.fill.key.digest()
    }

    /// Downloads a body from the bucket, once the source's repository is known to have it.
    async fn download_from_bucket(
        &mut self,
        bucket: &Bucket,
        mut object: Object,
        source: &FillSource,
        digest: Digest,
    ) -> Option<Arc<OpenFile>> {
        let started = Instant::now();
        let size = self.confirmed_size(source, &digest).await?;
        if size.is_some_and(|size| size != object.size) {
            bucket.report_corrupt(&digest);
            return None;
        }
        let blobs = self.fills.state.store.blobs.clone();
        // Without room the download from the upstream fails too, and reports it.
        let mut staged = blobs
            .reserve_and_stage_unresumable(&digest, object.size)
            .await
            .ok()?;
        self.announce_total(size);
        let slow_after = size.map_or(SHORT_SLOW_AFTER, |_| SLOW_AFTER);
        while let Some(piece) = object.next().await {
            staged.append(&piece).ok()?;
            let written = staged.written();
            if written > object.size || is_slow(written, object.size, started.elapsed(), slow_after)
            {
                break;
            }
        }
        let written = staged.written();
        if written < object.size {
            tracing::info!(target: "fill", %digest, written, "the bucket did not send all of it in time");
            return None;
        }
        let blob = match commit(staged).await? {
            Ok(blob) => blob,
            Err(CommitError::Mismatch(_)) => {
                bucket.report_corrupt(&digest);
                return None;
            }
            Err(error) => {
                warn_degraded("a blob cannot be stored", &error);
                return None;
            }
        };
        let ms = telemetry::ms(started);
        tracing::info!(target: "fill", %digest, bytes = blob.size, ms, "came from the bucket");
        self.publish_committed(&blob);
        Some(blob.file.clone())
    }

    /// Publishes a verified blob. Readers of bytes of another node compare them with it before they go on.
    fn publish_committed(&mut self, blob: &Blob) {
        self.generation += 1;
        let (generation, size, file) = (self.generation, blob.size, blob.file.clone());
        self.fill.progress.send_modify(|progress| {
            progress.total = Some(size);
            progress.written = size;
            progress.generation = generation;
            progress.phase = Phase::Done { file };
        });
    }

    /// Makes sure that the source's repository has the blob; `Some` with its length, if known.
    async fn confirmed_size(&self, source: &FillSource, digest: &Digest) -> Option<Option<u64>> {
        let (origin, name) = source.blob()?;
        let key = BlobKey::new(name, digest);
        if let Ok(Some(link)) = self.fills.state.store.records.open(&key).await {
            return Some(link.size);
        }
        let claim = self.ask_link(source);
        // A refusal is reported when the bytes are asked for.
        let upstream = origin.upstream().ok()?;
        let size = upstream.blob_head(&name.repository, digest).await;
        let size = size.ok()?;
        self.record_link(source, claim, size).await;
        Some(size)
    }

    /// Publishes the length, or that it is unknown again. That of staged bytes is published with them.
    fn announce_total(&self, total: Option<u64>) {
        if !self.published {
            let progress = &self.fill.progress;
            progress.send_modify(|progress| progress.total = total);
        }
    }
}

async fn commit(staged: StagedBlob) -> Option<Result<Blob, CommitError>> {
    tokio::task::spawn_blocking(move || staged.commit())
        .await
        .ok()
}

/// Whether a body would take longer than its readers should wait for the first byte.
fn is_slow(written: u64, size: u64, elapsed: Duration, slow_after: Duration) -> bool {
    let whole = elapsed.as_millis() * u128::from(size) / u128::from(written.max(1));
    elapsed >= JUDGED_AFTER && whole > slow_after.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_judged_after_a_while() {
        for (written, seconds, slow) in [
            (0, 4, false),
            (1, 4, false),
            (10, 5, false),
            (9, 5, false),
            (8, 5, true),
            (0, 5, true),
            (90, 55, true),
            (99, 59, false),
            (100, 61, true),
        ] {
            let elapsed = Duration::from_secs(seconds);
            let judged = is_slow(written, 100, elapsed, SLOW_AFTER);
            assert_eq!(judged, slow, "{written} % after {seconds} s");
        }
        assert!(is_slow(40, 100, JUDGED_AFTER, SHORT_SLOW_AFTER));
    }
}
