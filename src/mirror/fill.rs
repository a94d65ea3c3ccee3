//! Fills: one download for many readers.
//!
//! A fill belongs to no request. It writes to a staged file and publishes how far it is; whoever reads
//! follows. Its last chunk is held back until length and digest match, so that nobody ever receives a
//! complete body that is wrong.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Origin;
use super::freshness::unix;
use crate::spec::digest::Digest;
use crate::spec::name::{Registry, Repository};
use crate::store::{BlobLink, CommitError, Mismatch, StagedBlob, Store};
use crate::upstream::UpstreamError;

/// What is held back of a body until it is verified, in bytes.
pub(super) const TAIL: u64 = 64 << 10;
/// How long a fill waits for its turn.
const SLOT_WAIT: Duration = Duration::from_secs(20);
/// Side requests that one fill allows.
const SIDE_REQUESTS: usize = 4;
/// From which size on a fill reports its progress, in bytes, and how often.
const REPORT_FROM: u64 = 8 << 20;
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Where a fill can get its bytes.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub origin: Arc<Origin>,
    pub repository: Repository,
}

impl Source {
    fn is(&self, other: &Self) -> bool {
        self.repository == other.repository && self.origin.registry == other.origin.registry
    }
}

/// Why a fill, or one of its sources, came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum FillError {
    #[error("the upstream did not give it")]
    Upstream(#[source] Arc<UpstreamError>),
    #[error("what the upstream gave cannot be kept")]
    Commit(#[source] Arc<CommitError>),
    #[error("there is no room for it in the store")]
    NoRoom { total: Option<u64> },
    #[error("too many fills are under way")]
    Busy,
    #[error("the fill ended without a result")]
    Lost,
}

/// How far a fill is.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub phase: Phase,
    /// The whole length in bytes, where announced.
    pub total: Option<u64>,
    /// Bytes in the staged file.
    pub written: u64,
    /// Counts refusals, so that a change wakes those who wait.
    refusals: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Waiting for a slot or for the upstream's headers.
    Asking,
    Streaming {
        file: Arc<File>,
        since: Instant,
    },
    /// Committed: everything may be read.
    Done {
        file: Arc<File>,
    },
    Failed(FillError),
}

impl Progress {
    /// Up to where a reader may read that wants bytes up to `end`; `None` means to the end of the blob.
    pub fn readable(&self, end: Option<u64>) -> u64 {
        match (&self.phase, self.total) {
            (Phase::Done { .. }, _) => self.written,
            (_, Some(total)) if end.is_some_and(|end| end < total) => self.written,
            (_, Some(total)) => self.written.min(total - TAIL.min(total)),
            (_, None) => self.written.saturating_sub(TAIL),
        }
    }
}

/// One download.
#[derive(Debug)]
pub(super) struct Fill {
    pub digest: Digest,
    progress: watch::Sender<Progress>,
    sources: Mutex<Sources>,
    /// Slots for readers that cannot wait for their range.
    pub side_requests: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Sources {
    /// Those not tried yet.
    waiting: VecDeque<Source>,
    /// All that were ever added.
    known: Vec<Source>,
    /// Those that failed, with the reason.
    refused: Vec<(Source, FillError)>,
}

impl Fill {
    fn new(digest: Digest, source: Source) -> Self {
        let asking = Progress {
            phase: Phase::Asking,
            total: None,
            written: 0,
            refusals: 0,
        };
        let sources = Sources {
            waiting: VecDeque::from([source.clone()]),
            known: vec![source],
            refused: Vec::new(),
        };
        Self {
            digest,
            progress: watch::Sender::new(asking),
            sources: Mutex::new(sources),
            side_requests: Arc::new(Semaphore::new(SIDE_REQUESTS)),
        }
    }

    pub fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Why this source gave nothing, if that is known.
    pub fn refusal(&self, source: &Source) -> Option<FillError> {
        self.sources()
            .refused
            .iter()
            .find(|(known, _)| known.is(source))
            .map(|(_, error)| error.clone())
    }

    fn knows(&self, source: &Source) -> bool {
        self.sources().known.iter().any(|known| known.is(source))
    }

    fn add(&self, source: Source) {
        let mut sources = self.sources();
        if !sources.known.iter().any(|known| known.is(&source)) {
            sources.known.push(source.clone());
            sources.waiting.push_back(source);
        }
    }

    fn refuse(&self, source: Source, error: FillError) {
        self.sources().refused.push((source, error));
        self.progress.send_modify(|progress| progress.refusals += 1);
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What joining came to.
#[derive(Debug)]
pub(super) enum Joined {
    /// This fill, and whether it was under way already.
    Fill { fill: Arc<Fill>, collapsed: bool },
    /// A fill is under way from other repositories: the right to its bytes must be shown first.
    Unclaimed,
}

/// All fills under way.
#[derive(Clone, Debug)]
pub(super) struct Fills {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    running: Mutex<HashMap<Digest, Arc<Fill>>>,
    store: Arc<Store>,
    runtime: tokio::runtime::Handle,
    slots: Arc<Semaphore>,
    per_registry: Mutex<HashMap<Registry, Arc<Semaphore>>>,
    /// Half of all slots.
    share: usize,
}

impl Fills {
    pub fn new(limit: usize, store: Arc<Store>, runtime: tokio::runtime::Handle) -> Self {
        let shared = Shared {
            running: Mutex::default(),
            store,
            runtime,
            slots: Arc::new(Semaphore::new(limit)),
            per_registry: Mutex::default(),
            share: limit.div_ceil(2),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Joins the fill of `digest`, or starts it. `claimed` says that the source's repository is known to
    /// have it; otherwise only a fill that asks that very repository proves it.
    pub fn join(&self, digest: Digest, source: Source, claimed: bool) -> Joined {
        let mut running = lock(&self.shared.running);
        if let Some(fill) = running.get(&digest) {
            if !claimed && !fill.knows(&source) {
                return Joined::Unclaimed;
            }
            fill.add(source);
            return Joined::Fill {
                fill: fill.clone(),
                collapsed: true,
            };
        }
        let fill = Arc::new(Fill::new(digest, source));
        running.insert(digest, fill.clone());
        drop(running);
        let task = Task {
            shared: self.shared.clone(),
            fill: fill.clone(),
            outcome: None,
        };
        self.shared.runtime.spawn(task.run());
        Joined::Fill {
            fill,
            collapsed: false,
        }
    }
}

/// A fill's task. However it ends, also by a panic, the fill leaves the map and its followers hear of it.
struct Task {
    shared: Arc<Shared>,
    fill: Arc<Fill>,
    outcome: Option<Phase>,
}

impl Task {
    async fn run(mut self) {
        let started = Instant::now();
        let (outcome, source) = self.attempts().await;
        let bytes = self.fill.progress.borrow().written;
        let registry = source
            .as_ref()
            .map_or("-", |source| source.origin.registry.as_str());
        let repository = source
            .as_ref()
            .map_or("-", |source| source.repository.as_str());
        let (digest, ms) = (self.fill.digest, crate::telemetry::ms(started));
        match &outcome {
            Phase::Failed(error) => {
                let error = crate::telemetry::chain(error);
                tracing::warn!(target: "fill", %digest, registry, repository, bytes, ms, error, "failed");
            }
            _ => {
                tracing::info!(target: "fill", %digest, registry, repository, bytes, ms, "committed");
            }
        }
        self.outcome = Some(outcome);
    }

    /// Tries one source after the other.
    async fn attempts(&self) -> (Phase, Option<Source>) {
        let mut failure = FillError::Lost;
        let mut slots = None;
        let mut tried = None;
        loop {
            let source = self.fill.sources().waiting.pop_front();
            let Some(source) = source else {
                return (Phase::Failed(failure), tried);
            };
            if slots.is_none() {
                slots = self.slots(&source.origin.registry).await;
                if slots.is_none() {
                    return (Phase::Failed(FillError::Busy), Some(source));
                }
            }
            tried = Some(source.clone());
            match self.attempt(&source).await {
                Ok(file) => return (Phase::Done { file }, tried),
                Err(error) => {
                    failure = error.clone();
                    self.fill.refuse(source, error);
                    // Bytes that readers may have are not replaced by another source's.
                    let begun = !matches!(self.fill.progress.borrow().phase, Phase::Asking);
                    if begun || matches!(failure, FillError::NoRoom { .. }) {
                        return (Phase::Failed(failure), tried);
                    }
                }
            }
        }
    }

    /// A slot of all and one of the registry's, or `None` after 20 s.
    async fn slots(
        &self,
        registry: &Registry,
    ) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let own = {
            let mut per_registry = lock(&self.shared.per_registry);
            let share = self.shared.share;
            per_registry
                .entry(registry.clone())
                .or_insert_with(|| Arc::new(Semaphore::new(share)))
                .clone()
        };
        let all = self.shared.slots.clone();
        let wait = async { (own.acquire_owned().await, all.acquire_owned().await) };
        match tokio::time::timeout(SLOT_WAIT, wait).await {
            Ok((Ok(own), Ok(all))) => Some((own, all)),
            _ => None,
        }
    }

    /// Downloads from one source, whole.
    async fn attempt(&self, source: &Source) -> Result<Arc<File>, FillError> {
        let (shared, fill) = (&self.shared, &self.fill);
        let upstream = |error| FillError::Upstream(Arc::new(error));
        let commit = |error| FillError::Commit(Arc::new(error));
        let mut body = source
            .origin
            .upstream
            .blob(&source.repository, &fill.digest, 0, None)
            .await
            .map_err(upstream)?;
        let total = body.total;
        // An empty body is complete with its headers, so it is judged by them.
        let empty = Digest::of(fill.digest.algorithm(), b"");
        if total == Some(0) && fill.digest != empty {
            let mismatch = Mismatch {
                expected: fill.digest,
                actual: empty,
            };
            return Err(commit(CommitError::Mismatch(Box::new(mismatch))));
        }
        let link = BlobLink {
            checked_at: unix(SystemTime::now()),
            size: total,
        };
        shared
            .store
            .links
            .link_blob(
                &source.origin.registry,
                &source.repository,
                &fill.digest,
                link,
            )
            .await;
        let room = shared.store.space.reserve(total.unwrap_or(TAIL));
        let room = room.map_err(|_| FillError::NoRoom { total })?;
        let mut staged = shared
            .store
            .blobs
            .stage(&fill.digest, room)
            .map_err(|error| commit(error.into()))?;
        let since = Instant::now();
        fill.progress.send_modify(|progress| {
            progress.total = total;
            progress.phase = Phase::Streaming {
                file: staged.file(),
                since,
            };
        });
        let mut reported = since;
        loop {
            let next = body.next();
            tokio::pin!(next);
            // Readers hear of what there is when the upstream pauses, or every quarter MiB.
            let chunk = match futures_util::poll!(&mut next) {
                Poll::Ready(chunk) => chunk,
                Poll::Pending => {
                    self.publish(&staged, 1);
                    next.await
                }
            };
            let Some(chunk) = chunk.map_err(upstream)? else {
                break;
            };
            if let Some(expected) = total
                && staged.written() + chunk.len() as u64 > expected
            {
                return Err(commit(CommitError::Overlong { expected }));
            }
            staged.append(&chunk).map_err(commit)?;
            self.publish(&staged, 4 * TAIL);
            if total.is_some_and(|total| total >= REPORT_FROM) && reported.elapsed() >= REPORT_EVERY
            {
                reported = Instant::now();
                report(fill, staged.written(), total.unwrap_or(0), since);
            }
        }
        self.publish(&staged, 1);
        let committed = tokio::task::spawn_blocking(move || staged.commit(total)).await;
        let blob = committed.map_err(|_| FillError::Lost)?.map_err(commit)?;
        Ok(blob.file.clone())
    }

    /// Tells the readers, if at least `step` bytes are new.
    fn publish(&self, staged: &StagedBlob, step: u64) {
        self.fill.progress.send_if_modified(|progress| {
            let more = staged.written() - progress.written >= step;
            if more {
                progress.written = staged.written();
            }
            more
        });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // First out of the map: who comes now finds the committed blob, or starts anew.
        lock(&self.shared.running).remove(&self.fill.digest);
        let outcome = self
            .outcome
            .take()
            .unwrap_or(Phase::Failed(FillError::Lost));
        self.fill
            .progress
            .send_modify(|progress| progress.phase = outcome);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn report(fill: &Fill, written: u64, total: u64, since: Instant) {
    let rate = written as f64 / since.elapsed().as_secs_f64() / f64::from(1 << 20);
    tracing::info!(
        target: "fill",
        digest = %fill.digest,
        percent = written * 100 / total.max(1),
        bytes = written,
        total,
        mib_per_s = format!("{rate:.1}"),
        "under way",
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_held_back_until_commit() {
        let file = Arc::new(tempfile::tempfile().expect("a temporary file"));
        let streaming = Phase::Streaming {
            file: file.clone(),
            since: Instant::now(),
        };
        let at = |phase: &Phase, total, written| Progress {
            phase: phase.clone(),
            total,
            written,
            refusals: 0,
        };
        let big = 10 * TAIL;
        for (total, written, end, readable) in [
            (Some(big), 0, None, 0),
            (Some(big), 3 * TAIL, None, 3 * TAIL),
            (Some(big), big, None, big - TAIL),
            (Some(big), big, Some(big), big - TAIL),
            // A range that does not reach the end is released as it arrives.
            (Some(big), big, Some(big - 1), big),
            // A blob smaller than the tail is held back whole.
            (Some(10), 10, None, 0),
            (Some(10), 10, Some(10), 0),
            (Some(0), 0, None, 0),
            (None, 3 * TAIL, None, 2 * TAIL),
            (None, 10, None, 0),
        ] {
            assert_eq!(
                at(&streaming, total, written).readable(end),
                readable,
                "{total:?} {written} {end:?}"
            );
            assert_eq!(
                at(&Phase::Done { file: file.clone() }, total, written).readable(end),
                written
            );
        }
    }
}
