//! The download behind a fill: its slots, its partial, and its sources in turn. `transfer.rs` streams from one source;
//! `attempts.rs` decides how to continue after an interruption.
//!
//! A resumed download requests the registry's own URL again, so that an expired redirect does no harm.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::attempts::{Attempts, DownloadEvent, DownloadStep};
use super::bucket::BucketOutcome;
use super::connections::FillConnections;
use super::early_sync::EarlySync;
use super::fill::{Fill, Fills};
use super::progress::{FillError, Phase};
use super::source::FillSource;
use super::transfer::Interruption;
use oci::name::Registry;
use store::{Lease, OpenFile, StagedBlob, warn_degraded};
use telemetry::metrics::{self, CorruptSource};

/// How long a fill waits for its slots.
const SLOT_WAIT: Duration = Duration::from_secs(20);
/// The wait before a source is asked again; it doubles up to the longest.
const INITIAL_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(8);

/// A fill's task. However it ends, also by a panic, the fill is finished.
pub(super) struct Download {
    pub(super) fills: Fills,
    pub(super) fill: Arc<Fill>,
    pub(super) started: Instant,
    pub(super) reported: Instant,
    /// Counts the staged files.
    pub(super) generation: u32,
    resumed: u32,
    /// Whether the staged file is published: not before an upstream said that a source has the blob.
    pub(super) published: bool,
    pub(super) connections: FillConnections,
    pub(super) early_sync: EarlySync,
    /// Links that are being recorded.
    pub(super) links: JoinSet<()>,
    outcome: Option<Phase>,
    _counted: metrics::Filling,
}

/// The slots that a download holds: the registry's, and one of all.
type Slots = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Download {
    pub fn new(fills: Fills, fill: Arc<Fill>) -> Self {
        let now = Instant::now();
        Self {
            fills,
            fill,
            started: now,
            reported: now,
            generation: 0,
            resumed: 0,
            published: false,
            connections: FillConnections::new(),
            early_sync: EarlySync::default(),
            links: JoinSet::new(),
            outcome: None,
            _counted: metrics::Filling::new(),
        }
    }

    pub async fn run(mut self) {
        let (outcome, source) = loop {
            if let Some(successor) = self.fills.successor() {
                if let Some(outcome) = self.follow_successor(&successor).await {
                    break (outcome, self.fill.first_source());
                }
            } else if let Some(done) = self.run_here().await {
                break done;
            }
        };
        let registry = source
            .as_ref()
            .map_or("-", |source| source.registry().as_str());
        let repository = source.as_ref().map_or("-", FillSource::name);
        let (digest, ms) = (self.fill.key, telemetry::ms(self.started));
        let (bytes, resumed) = (self.fill.progress.borrow().written, self.resumed);
        let segments = self.connections.opened;
        match &outcome {
            Phase::Failed(FillError::Paused) => {
                tracing::info!(target: "fill", %digest, registry, repository, bytes, ms, resumed, segments, "paused");
            }
            // The store logs this itself, as often as its throttle allows.
            Phase::Failed(FillError::NoRoom { .. }) => {
                tracing::debug!(target: "fill", %digest, registry, repository, bytes, ms, resumed, segments, "not stored");
            }
            Phase::Failed(error) => {
                let error = telemetry::chain(error);
                tracing::warn!(target: "fill", %digest, registry, repository, bytes, ms, resumed, segments, error, "failed");
            }
            _ => {
                tracing::info!(target: "fill", %digest, registry, repository, bytes, ms, resumed, segments, "committed");
            }
        }
        self.outcome = Some(outcome);
    }

    /// Downloads, unless another process takes over: `None` once it does. Then the staged file is a partial, which nothing
    /// here writes any more.
    async fn run_here(&mut self) -> Option<(Phase, Option<FillSource>)> {
        let fills = self.fills.clone();
        let mut successor = fills.state.successor.subscribe();
        let running = fills.state.running_here.read();
        let done = tokio::select! {
            biased;
            done = async {
                let _running = running.await;
                self.attempts().await
            } => Some(done),
            // The sender lives as long as the fills.
            _ = successor.wait_for(Option::is_some) => None,
        };
        if done.is_none() {
            self.connections.close();
            (self.early_sync, self.published) = (EarlySync::default(), false);
            self.fill.retry_sources();
            self.fill
                .progress
                .send_modify(|progress| progress.segments = None);
        }
        done
    }

    /// Acquires slots, then looks where the blob costs no request (the store, the bucket) before it tries the sources.
    /// Returns the source that the outcome is attributed to.
    async fn attempts(&mut self) -> (Phase, Option<FillSource>) {
        let Some(source) = self.fill.next_source() else {
            return (Phase::Failed(FillError::Lost), None);
        };
        // Hashing a partial may take long, and needs no slot.
        let mut staged = self.resume_partial().await;
        let Some(_slots) = self.acquire_slots(source.registry()).await else {
            park(staged);
            return (Phase::Failed(FillError::Busy), Some(source));
        };
        if let Some(file) = self.committed_meanwhile(&source).await {
            return (Phase::Done { file }, Some(source));
        }
        let had_partial = staged.is_some();
        let mut lease = None;
        // Without other nodes to read from, a partial is continued from the upstream.
        if !had_partial || self.fills.state.peers.is_some() {
            match self.try_bucket(&source, &mut staged).await {
                BucketOutcome::Done(file) => return (Phase::Done { file }, Some(source)),
                BucketOutcome::Upstream(held) => lease = held,
                BucketOutcome::Failed(interruption) => {
                    return (self.give_up(interruption, &source, staged), Some(source));
                }
            }
        }
        let inherited_from = match staged {
            Some(_) if had_partial => Some(CorruptSource::Disk),
            Some(_) => Some(CorruptSource::Peer),
            None => None,
        };
        let attempts = Attempts::new(inherited_from);
        let (outcome, source) = self.try_sources(source, staged, lease, attempts).await;
        (outcome, Some(source))
    }

    /// Streams from `source`, and from the others after it, as the state machine of the attempts says. Returns the source
    /// that was tried last.
    async fn try_sources(
        &mut self,
        mut source: FillSource,
        mut staged: Option<StagedBlob>,
        lease: Option<Lease>,
        mut attempts: Attempts,
    ) -> (Phase, FillSource) {
        loop {
            let before = staged.as_ref().map_or(0, StagedBlob::written);
            let interruption = match self.attempt(&source, &mut staged).await {
                Ok(file) => {
                    self.write_to_bucket(&source, lease);
                    return (Phase::Done { file }, source);
                }
                Err(interruption) => interruption,
            };
            let (event, error) = self.event(interruption, before, staged.as_ref());
            let (next, step) = attempts.next(event);
            attempts = next;
            match step {
                DownloadStep::Resume { drops } => {
                    self.resumed += 1;
                    metrics::resumed();
                    tokio::time::sleep(backoff(drops)).await;
                    continue;
                }
                DownloadStep::BeginAnew { blame } => {
                    self.discard(&mut staged, blame, &error);
                    continue;
                }
                DownloadStep::NextSource => {}
                DownloadStep::NextSourceAnew { blame } => self.discard(&mut staged, blame, &error),
                DownloadStep::Fail => return (Phase::Failed(error), source),
                DownloadStep::Pause => {
                    park(staged);
                    self.fills.pause(self.fill.key, source.clone());
                    return (Phase::Failed(error), source);
                }
            }
            let digest = self.fill.key;
            tracing::debug!(target: "fill", %digest, error = telemetry::chain(&error), "a source failed");
            self.fill.record_refusal(source.clone(), error.clone());
            let Some(next) = self.fill.next_source() else {
                park(staged);
                return (Phase::Failed(error), source);
            };
            self.connections.close();
            source = next;
        }
    }

    /// Ends a fill before the upstream is asked, and leaves the staged bytes to a later one.
    fn give_up(
        &self,
        interruption: Interruption,
        source: &FillSource,
        staged: Option<StagedBlob>,
    ) -> Phase {
        let (event, error) = self.event(interruption, 0, staged.as_ref());
        if event == DownloadEvent::Outranked {
            park(staged);
            self.fills.pause(self.fill.key, source.clone());
        }
        Phase::Failed(error)
    }

    /// The state machine's event of an interruption, and the error if the source is dropped for it. `before`
    /// is the number of bytes staged when the attempt began.
    fn event(
        &self,
        interruption: Interruption,
        before: u64,
        staged: Option<&StagedBlob>,
    ) -> (DownloadEvent, FillError) {
        match interruption {
            Interruption::Drop(error) => {
                let moved = staged.map_or(0, StagedBlob::written) > before;
                let followed = staged.is_some() && self.published;
                (DownloadEvent::Dropped { moved, followed }, error)
            }
            Interruption::Refusal(error) => (DownloadEvent::Refused, error),
            Interruption::WrongBytes(error) => {
                let more_sources = self.fill.has_more_sources();
                (DownloadEvent::WrongBytes { more_sources }, error)
            }
            Interruption::Changed(error) => (DownloadEvent::Changed, error),
            Interruption::Disk(error) => (DownloadEvent::NoRoom, error),
            Interruption::Pause => (DownloadEvent::Outranked, FillError::Paused),
        }
    }

    /// Discards the staged bytes.
    pub(super) fn discard(
        &mut self,
        staged: &mut Option<StagedBlob>,
        blame: Option<CorruptSource>,
        error: &FillError,
    ) {
        self.connections.bar();
        *staged = None;
        if let Some(blame) = blame {
            metrics::wrong_bytes(blame);
        }
        let (digest, error) = (self.fill.key, telemetry::chain(error));
        tracing::info!(target: "fill", %digest, error, "discarded staged bytes");
    }

    /// The blob, if another fill committed it after the request looked and before this one began, and this source is
    /// known to have it.
    async fn committed_meanwhile(&self, source: &FillSource) -> Option<Arc<OpenFile>> {
        let store = &self.fills.state.store;
        let blob = source.committed_meanwhile(store, &self.fill.key).await?;
        self.fill
            .progress
            .send_modify(|progress| progress.written = blob.size);
        Some(blob.file.clone())
    }

    /// Acquires one of all slots and one of the registry's; `None` after 20 s.
    async fn acquire_slots(&self, registry: &Registry) -> Option<Slots> {
        let state = &self.fills.state;
        let (own, all) = (self.fills.slots_of(registry), state.slots.clone());
        state.waiting.fetch_add(1, Ordering::Relaxed);
        let wait = async { (own.acquire_owned().await, all.acquire_owned().await) };
        let slots = tokio::time::timeout(SLOT_WAIT, wait).await;
        state.waiting.fetch_sub(1, Ordering::Relaxed);
        match slots {
            Ok((Ok(own), Ok(all))) => Some((own, all)),
            _ => None,
        }
    }

    /// Resumes the partial of an earlier download, by this process or a previous one. A partial does not prove any right
    /// to its bytes, so it is not published yet.
    async fn resume_partial(&mut self) -> Option<StagedBlob> {
        let state = &self.fills.state;
        let (blobs, partial) = (state.store.blobs.clone(), self.fill.key.partial_key());
        if !blobs.has_partial(&partial) {
            return None;
        }
        let _turn = if blobs.resume_hashes(&partial) {
            state.hashing.acquire().await.ok()
        } else {
            None
        };
        let resumed = tokio::task::spawn_blocking(move || blobs.resume(&partial));
        let resumed = resumed.await.map_err(std::io::Error::other);
        let staged = resumed
            .and_then(|resumed| resumed)
            .unwrap_or_else(|error| {
                warn_degraded("a partial cannot be resumed", &error);
                None
            })?;
        self.resumed += 1;
        metrics::resumed();
        Some(staged)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let outcome = self
            .outcome
            .take()
            .unwrap_or(Phase::Failed(FillError::Lost));
        self.fills.finish(&self.fill, outcome);
        self.fill.ahead.close();
    }
}

/// Leaves the staged bytes as a partial, which a later fill resumes.
fn park(staged: Option<StagedBlob>) {
    if let Some(staged) = staged {
        staged.park();
    }
}

/// The wait before the next attempt: it doubles, with jitter so that many fills do not retry at once.
fn backoff(drops: u32) -> Duration {
    let wait = INITIAL_BACKOFF
        .saturating_mul(1 << drops.saturating_sub(1).min(10))
        .min(MAX_BACKOFF);
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
