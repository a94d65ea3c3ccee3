//! The download behind a fill: slots, sources, streams. How it goes on after an interruption decides `attempts.rs`.
//!
//! A resumed download asks at the registry's own URL again, so that a redirect that has expired does no harm.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::attempts::{Attempts, DownloadEvent, DownloadStep};
use super::bucket::BucketOutcome;
use super::fill::{Fill, FillError, Fills, Phase, TAIL};
use super::source::{DigestCheck, FillKey, FillSource};
use oci::digest::Digest;
use oci::name::Registry;
use store::{
    self, BlobLink, CommitError, Mismatch, Note, OpenFile, Question, StagedBlob, warn_degraded,
};
use telemetry::metrics::{self, CorruptSource};
use upstream::{BlobBody, UpstreamError};

/// How long a fill waits for its turn.
const SLOT_WAIT: Duration = Duration::from_secs(20);
/// The wait before a source is asked again; it doubles up to the longest.
const INITIAL_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(8);
/// Readers hear of what there is when the upstream pauses, or in steps of this many bytes.
const PUBLISH_EVERY: u64 = 256 << 10;
/// From which size on a fill reports its progress, in bytes, and how often.
const REPORT_FROM: u64 = 8 << 20;
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// A fill's task. However it ends, also by a panic, the fill lands.
pub(super) struct Download {
    pub(super) fills: Fills,
    pub(super) fill: Arc<Fill>,
    started: Instant,
    reported: Instant,
    /// Counts the staged files.
    generation: u32,
    resumed: u32,
    /// Whether readers were let at what is staged: not before an upstream said that a source has the blob.
    published: bool,
    outcome: Option<Phase>,
    _counted: metrics::Filling,
}

/// Why one stream of bytes ended early.
enum Interruption {
    /// The same source may go on.
    Drop(FillError),
    /// The source has nothing to offer.
    Refusal(FillError),
    /// What was staged is not what was promised.
    WrongBytes(FillError),
    /// What the source sends now is not what was staged: one of both is wrong.
    Changed(FillError),
    /// The disk has no room or is broken.
    Disk(FillError),
    /// Others wait for the slot, and nobody for this.
    Pause,
}

/// Slots held.
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
            outcome: None,
            _counted: metrics::Filling::new(),
        }
    }

    pub async fn run(mut self) {
        let (outcome, source) = self.attempts().await;
        let registry = source
            .as_ref()
            .map_or("-", |source| source.registry().as_str());
        let repository = source.as_ref().map_or("-", FillSource::name);
        let (digest, ms) = (self.fill.key, telemetry::ms(self.started));
        let (bytes, resumed) = (self.fill.progress.borrow().written, self.resumed);
        match &outcome {
            Phase::Failed(FillError::Paused) => {
                tracing::info!(target: "fill", %digest, registry, repository, bytes, ms, resumed, "paused");
            }
            // The store said it already, as often as it may be said.
            Phase::Failed(FillError::NoRoom { .. }) => {
                tracing::debug!(target: "fill", %digest, registry, repository, bytes, ms, resumed, "not kept");
            }
            Phase::Failed(error) => {
                let error = telemetry::chain(error);
                tracing::warn!(target: "fill", %digest, registry, repository, bytes, ms, resumed, error, "failed");
            }
            _ => {
                tracing::info!(target: "fill", %digest, registry, repository, bytes, ms, resumed, "committed");
            }
        }
        self.outcome = Some(outcome);
    }

    /// Tries sources until the blob is whole, or none is left.
    async fn attempts(&mut self) -> (Phase, Option<FillSource>) {
        let Some(mut source) = self.fill.next_source() else {
            return (Phase::Failed(FillError::Lost), None);
        };
        // Hashing one may take long: that needs no slot.
        let mut staged = self.resume_partial().await;
        let Some(_slots) = self.acquire_slots(source.registry()).await else {
            park(staged);
            return (Phase::Failed(FillError::Busy), Some(source));
        };
        if let Some(file) = self.committed_meanwhile(&source).await {
            return (Phase::Done { file }, Some(source));
        }
        let mut lease = None;
        // What was begun from an upstream is gone on with there.
        if staged.is_none() {
            match self.try_bucket(&source).await {
                BucketOutcome::Done(file) => return (Phase::Done { file }, Some(source)),
                BucketOutcome::Upstream(held) => lease = held,
            }
        }
        let mut attempts = Attempts::new(staged.is_some());
        loop {
            let before = staged.as_ref().map_or(0, StagedBlob::written);
            let interruption = match self.attempt(&source, &mut staged).await {
                Ok(file) => {
                    self.write_to_bucket(&source, lease);
                    return (Phase::Done { file }, Some(source));
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
                DownloadStep::Fail => return (Phase::Failed(error), Some(source)),
                DownloadStep::Pause => {
                    park(staged);
                    self.fills.pause(self.fill.key, source.clone());
                    return (Phase::Failed(error), Some(source));
                }
            }
            let digest = self.fill.key;
            tracing::debug!(target: "fill", %digest, error = telemetry::chain(&error), "a source failed");
            self.fill.record_refusal(source.clone(), error.clone());
            let Some(next) = self.fill.next_source() else {
                park(staged);
                return (Phase::Failed(error), Some(source));
            };
            source = next;
        }
    }

    /// Downloads what is missing from one source, and commits it.
    async fn attempt(
        &mut self,
        source: &FillSource,
        staged: &mut Option<StagedBlob>,
    ) -> Result<Arc<OpenFile>, Interruption> {
        match self.stream(source, staged).await {
            // A body without a length that lost only its end.
            Err(Interruption::Drop(_)) if staged.as_ref().is_some_and(StagedBlob::is_whole) => {}
            streamed => streamed?,
        }
        self.commit(source, staged).await
    }

    /// What an interruption is to the state machine, and why the source failed, if that is what comes of it. `before`
    /// is what was staged when the attempt began.
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

    /// Gives up what is staged.
    fn discard(
        &self,
        staged: &mut Option<StagedBlob>,
        blame: Option<CorruptSource>,
        error: &FillError,
    ) {
        *staged = None;
        if let Some(blame) = blame {
            metrics::wrong_bytes(blame);
        }
        let (digest, error) = (self.fill.key, telemetry::chain(error));
        tracing::info!(target: "fill", %digest, error, "what was staged is discarded");
    }

    /// What another fill committed between somebody's look and this one's begin, if this source is known to
    /// have it.
    async fn committed_meanwhile(&self, source: &FillSource) -> Option<Arc<OpenFile>> {
        let store = &self.fills.state.store;
        let blob = source.committed_meanwhile(store, &self.fill.key).await?;
        self.fill
            .progress
            .send_modify(|progress| progress.written = blob.size);
        Some(blob.file.clone())
    }

    /// A slot of all and one of the registry's, or `None` after 20 s.
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

    /// What was downloaded before, by this process or an earlier one. That it is here says nothing of who may
    /// have it, so it is not shown yet.
    async fn resume_partial(&mut self) -> Option<StagedBlob> {
        let state = &self.fills.state;
        let (blobs, partial) = (state.store.blobs.clone(), self.fill.key.partial_key());
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

    /// Downloads what is missing from one source, until its body ends.
    async fn stream(
        &mut self,
        source: &FillSource,
        staged: &mut Option<StagedBlob>,
    ) -> Result<(), Interruption> {
        let offset = staged.as_ref().map_or(0, StagedBlob::written);
        if let Some(staged) = staged
            && staged.total() == Some(offset)
        {
            if !self.published {
                let claim = self.ask_link(source);
                let has = source.confirm(&self.fill.key);
                has.await.map_err(interruption)?;
                self.record_link(source, claim, staged.total()).await;
                self.publish_file(staged);
            }
            return Ok(());
        }
        let (key, total) = (self.fill.key, staged.as_ref().and_then(StagedBlob::total));
        let ask = |from| source.body(&key, from, None, total);
        let claim = self.ask_link(source);
        let mut body = ask(offset).await.map_err(interruption)?;
        if let Some(staged) = staged
            && staged.note().contradicts(body.version.as_ref())
        {
            // The host names its content otherwise now: what is here is compared with what comes.
            body = ask(0).await.map_err(interruption)?;
        }
        self.record_link(source, claim, body.total).await;
        if let Some(staged) = staged
            && staged
                .total()
                .is_some_and(|total| body.total.is_some_and(|now| now != total))
        {
            return Err(Interruption::WrongBytes(FillError::Upstream(Arc::new(
                UpstreamError::Protocol("the length is not what it was"),
            ))));
        }
        let mut at = body.offset;
        let staged = match staged {
            Some(staged) => {
                if !self.published {
                    self.publish_file(staged);
                }
                staged
            }
            None => staged.insert(self.stage(source, &body).await?),
        };
        loop {
            let next = body.next();
            tokio::pin!(next);
            let chunk = match futures_util::poll!(&mut next) {
                Poll::Ready(chunk) => chunk,
                Poll::Pending => {
                    self.publish_progress(staged, 1);
                    next.await
                }
            };
            let Some(chunk) = chunk.map_err(interruption)? else {
                break;
            };
            // From its first byte on it sends again what is here already.
            let known = offset.saturating_sub(at).min(chunk.len() as u64);
            let (known, new) = chunk.split_at(usize::try_from(known).unwrap_or(chunk.len()));
            let same = staged.holds(known, at).map_err(CommitError::from);
            if !same.map_err(|error| self.interruption_of(error))? {
                let changed = UpstreamError::Protocol("the bytes are not what they were");
                return Err(Interruption::Changed(FillError::Upstream(Arc::new(
                    changed,
                ))));
            }
            at += chunk.len() as u64;
            staged
                .append(new)
                .map_err(|error| self.interruption_of(error))?;
            self.publish_progress(staged, PUBLISH_EVERY);
            self.report(staged);
            if self.fills.yield_slot(&self.fill) {
                return Err(Interruption::Pause);
            }
        }
        self.publish_progress(staged, 1);
        if staged.total().is_some_and(|total| staged.written() < total) {
            // It ended in order, but short of what it announced: like a drop.
            let short = UpstreamError::Protocol("the body ended before its announced length");
            return Err(Interruption::Drop(FillError::Upstream(Arc::new(short))));
        }
        Ok(())
    }

    /// Begins to ask whether the source's repository has it.
    pub(super) fn ask_link(&self, source: &FillSource) -> Option<Question<BlobLink>> {
        source.ask_link(&self.fills.state.store, &self.fill.key)
    }

    /// The repository has it: its upstream just said so.
    pub(super) async fn record_link(
        &self,
        source: &FillSource,
        claim: Option<Question<BlobLink>>,
        size: Option<u64>,
    ) {
        let store = &self.fills.state.store;
        source.record_link(store, claim.as_ref(), size).await;
    }

    /// Begins a staged file, with room for what was announced.
    async fn stage(
        &mut self,
        source: &FillSource,
        body: &BlobBody,
    ) -> Result<StagedBlob, Interruption> {
        let (blobs, total) = (&self.fills.state.store.blobs, body.total);
        // An empty body is complete with its headers, so it is judged by them.
        if total == Some(0) {
            let check = source.check(&self.fill.key);
            let empty = check.hasher.clone().finish();
            check_digest(&check, &empty).map_err(|error| self.interruption_of(error))?;
        }
        let note = Note {
            total,
            sources: self.fill.source_names(),
            version: body.version.clone(),
        };
        let size = total.unwrap_or(TAIL);
        let staged = blobs.begin(&self.fill.key.partial_key(), size, note).await;
        let staged = staged.map_err(|error| no_room(&error, total))?;
        self.publish_file(&staged);
        Ok(staged)
    }

    /// Lets readers at a staged file.
    fn publish_file(&mut self, staged: &StagedBlob) {
        self.published = true;
        self.generation += 1;
        let (generation, since) = (self.generation, Instant::now());
        self.fill.progress.send_modify(|progress| {
            progress.total = staged.total();
            progress.written = staged.written();
            progress.generation = generation;
            progress.phase = Phase::Streaming {
                file: staged.file(),
                since,
            };
        });
    }

    /// Tells the readers, if at least `step` bytes are new.
    fn publish_progress(&self, staged: &StagedBlob, step: u64) {
        self.fill.progress.send_if_modified(|progress| {
            let more = staged.written() - progress.written >= step;
            if more {
                progress.written = staged.written();
            }
            more
        });
    }

    async fn commit(
        &self,
        source: &FillSource,
        staged: &mut Option<StagedBlob>,
    ) -> Result<Arc<OpenFile>, Interruption> {
        let lost = || Interruption::Refusal(FillError::Lost);
        let whole = staged.take().ok_or_else(lost)?;
        let (key, check) = (self.fill.key, source.check(&self.fill.key));
        let committed = tokio::task::spawn_blocking(move || match key {
            FillKey::Digest(digest) => Ok((digest, whole.commit()?)),
            FillKey::Name(_) => {
                verify_staged(&check, &whole)?;
                whole.commit_unnamed()
            }
        });
        match committed.await.map_err(|_| lost())? {
            Ok((digest, blob)) => {
                source.committed(digest, blob.size).await;
                // What was not published yet: the last piece, where the body ended without its end.
                self.fill
                    .progress
                    .send_modify(|progress| progress.written = blob.size);
                Ok(blob.file.clone())
            }
            Err(error) => Err(self.interruption_of(error)),
        }
    }

    /// What an error of the store means: wrong bytes of the source's, or a broken disk.
    fn interruption_of(&self, error: CommitError) -> Interruption {
        match error {
            CommitError::Full(_) | CommitError::Io(_) => {
                no_room(&error, self.fill.progress.borrow().total)
            }
            CommitError::Truncated { .. }
            | CommitError::Overlong { .. }
            | CommitError::Mismatch(_) => {
                Interruption::WrongBytes(FillError::Commit(Arc::new(error)))
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn report(&mut self, staged: &StagedBlob) {
        let Some(total) = staged.total().filter(|total| *total >= REPORT_FROM) else {
            return;
        };
        if self.reported.elapsed() < REPORT_EVERY {
            return;
        }
        self.reported = Instant::now();
        let rate =
            staged.written() as f64 / self.started.elapsed().as_secs_f64() / f64::from(1 << 20);
        tracing::info!(
            target: "fill",
            digest = %self.fill.key,
            percent = staged.written() * 100 / total,
            bytes = staged.written(),
            total,
            mib_per_s = format!("{rate:.1}"),
            "under way",
        );
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let outcome = self
            .outcome
            .take()
            .unwrap_or(Phase::Failed(FillError::Lost));
        self.fills.finish(&self.fill, outcome);
    }
}

/// Leaves what was begun to a fill that goes on with it.
fn park(staged: Option<StagedBlob>) {
    if let Some(staged) = staged {
        staged.park();
    }
}

/// Whether what was staged is what its registry says that it hashes to. Blocks on the disk.
fn verify_staged(check: &DigestCheck, staged: &StagedBlob) -> Result<(), CommitError> {
    if !check.has_expected() {
        return Ok(());
    }
    let hasher = check.hasher.clone();
    let actual = store::hash(&staged.file(), staged.written(), hasher)?;
    check_digest(check, &actual)
}

fn check_digest(check: &DigestCheck, actual: &Digest) -> Result<(), CommitError> {
    match check.expected() {
        Some(expected) if !check.accepts(actual) => {
            let actual = *actual;
            Err(CommitError::Mismatch(Box::new(Mismatch {
                expected,
                actual,
            })))
        }
        _ => Ok(()),
    }
}

/// The disk cannot take it: the bytes pass through.
fn no_room(error: &CommitError, total: Option<u64>) -> Interruption {
    warn_degraded("a blob cannot be kept", error);
    Interruption::Disk(FillError::NoRoom { total })
}

/// What an upstream's error means for a download.
fn interruption(error: UpstreamError) -> Interruption {
    let drop = error.means_down();
    let error = FillError::Upstream(Arc::new(error));
    if drop {
        Interruption::Drop(error)
    } else {
        Interruption::Refusal(error)
    }
}

/// The wait before the next attempt: it doubles, with a part left to chance so that many fills do not
/// come back at once.
fn backoff(drops: u32) -> Duration {
    let wait = INITIAL_BACKOFF
        .saturating_mul(1 << drops.saturating_sub(1).min(10))
        .min(MAX_BACKOFF);
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
