//! Fills: the state that one download and its many readers share.
//!
//! A fill belongs to no request. It writes to a staged file and publishes its progress, which readers
//! follow (`progress.rs`). Its tail is held back until length and digest match, so that no client ever receives a
//! complete body that is wrong.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::{RwLock, Semaphore, watch};

use super::ahead::AheadRequests;
use super::connection_limits::ConnectionLimits;
use super::download::Download;
use super::handover::Successor;
use super::peer::Peers;
use super::progress::{FillError, Phase, Progress};
use super::source::{FillKey, FillSource};
use super::waiting::{Requester, WaitingClients, WaitingPlace};
use oci::name::Registry;
use store::Store;

/// The most side requests of one fill at once.
const SIDE_REQUESTS: usize = 4;
/// The most partials of an earlier process that are hashed at once.
const HASHED_AT_ONCE: usize = 2;

/// One download, in progress.
#[derive(Debug)]
pub(super) struct Fill {
    pub key: FillKey,
    pub progress: watch::Sender<Progress>,
    /// When it was first asked for.
    pub started: SystemTime,
    sources: Mutex<Sources>,
    /// The clients that wait for it.
    pub waiting: Arc<WaitingClients>,
    /// What readers ask of the download.
    pub ahead: AheadRequests,
    /// Slots for side requests.
    pub side_requests: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Sources {
    /// Sources not tried yet.
    waiting: VecDeque<FillSource>,
    /// All sources ever added.
    known: Vec<FillSource>,
    /// Sources that failed, with the reason.
    refused: Vec<(FillSource, FillError)>,
}

impl Fill {
    fn new(key: FillKey, source: FillSource) -> Self {
        let progress = Progress {
            phase: Phase::Waiting,
            total: None,
            written: 0,
            segments: None,
            generation: 0,
            refusals: 0,
        };
        let sources = Sources {
            waiting: VecDeque::from([source.clone()]),
            known: vec![source],
            refused: Vec::new(),
        };
        Self {
            key,
            progress: watch::Sender::new(progress),
            started: SystemTime::now(),
            sources: Mutex::new(sources),
            waiting: Arc::default(),
            ahead: AheadRequests::default(),
            side_requests: Arc::new(Semaphore::new(SIDE_REQUESTS)),
        }
    }

    /// Why this source failed, if it did.
    pub fn refusal(&self, source: &FillSource) -> Option<FillError> {
        self.sources()
            .refused
            .iter()
            .find(|(known, _)| known.is_same(source))
            .map(|(_, error)| error.clone())
    }

    /// Whether the fill failed before it asked this source: the error is another source's, which may have been
    /// the last one tried when this one joined.
    pub fn ended_without(&self, source: &FillSource) -> bool {
        matches!(self.progress.borrow().phase, Phase::Failed(_)) && self.refusal(source).is_none()
    }

    fn knows(&self, source: &FillSource) -> bool {
        self.sources()
            .known
            .iter()
            .any(|known| known.is_same(source))
    }

    /// Adds a source to try. One that has refused is tried again: who joins after its answer asks anew.
    fn add(&self, source: FillSource) {
        let mut sources = self.sources();
        let tried = sources.refused.len();
        sources.refused.retain(|(known, _)| !known.is_same(&source));
        if sources.refused.len() < tried {
            sources.waiting.push_back(source);
        } else if !sources.known.iter().any(|known| known.is_same(&source)) {
            sources.known.push(source.clone());
            sources.waiting.push_back(source);
        }
    }

    pub fn record_refusal(&self, source: FillSource, error: FillError) {
        self.sources().refused.push((source, error));
        self.progress.send_modify(|progress| progress.refusals += 1);
    }

    /// Takes the next source that was not tried.
    pub fn next_source(&self) -> Option<FillSource> {
        self.sources().waiting.pop_front()
    }

    /// Has all sources tried again that have not refused.
    pub fn retry_sources(&self) {
        let mut sources = self.sources();
        let is_refused = |source: &&FillSource| {
            sources
                .refused
                .iter()
                .any(|(known, _)| known.is_same(source))
        };
        let known = sources.known.iter();
        sources.waiting = known
            .filter(|source| !is_refused(source))
            .cloned()
            .collect();
    }

    /// Whether any source was not tried.
    pub fn has_more_sources(&self) -> bool {
        !self.sources().waiting.is_empty()
    }

    /// Registry and repository of every source that can be asked again after a restart.
    pub fn source_names(&self) -> Vec<(String, String)> {
        let name = |source: &FillSource| {
            let (_, name) = source.blob()?;
            Some((name.registry.to_string(), name.repository.to_string()))
        };
        self.sources().known.iter().filter_map(name).collect()
    }

    /// The source that it was first asked for with.
    pub fn first_source(&self) -> Option<FillSource> {
        self.sources().known.first().cloned()
    }

    /// Its progress, and how many follow it.
    pub fn observed(&self) -> (Progress, usize) {
        (
            self.progress.borrow().clone(),
            self.progress.receiver_count(),
        )
    }

    /// Whether it has followers. Only [`Fills::yield_slot`] may act on it.
    pub fn is_followed(&self) -> bool {
        self.progress.receiver_count() > 0
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription to a fill from the moment of joining: a fill with followers is not paused.
#[derive(Debug)]
pub(super) struct Follower {
    pub fill: Arc<Fill>,
    pub progress: watch::Receiver<Progress>,
    /// Its place among the clients that wait, if it is one's.
    pub place: Option<WaitingPlace>,
}

impl Follower {
    fn of(fill: Arc<Fill>) -> Self {
        Self {
            progress: fill.progress.subscribe(),
            place: None,
            fill,
        }
    }

    /// Names the client that it follows the fill for.
    pub fn name(&mut self, requester: Requester<'_>) {
        self.place = self.fill.waiting.add(requester);
    }
}

/// Whether a source is known to have the content of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceClaim {
    Proven,
    Unproven,
}

/// The outcome of joining.
#[derive(Debug)]
pub(super) enum Joined {
    /// This fill, and whether it was in progress already.
    Fill { follower: Follower, collapsed: bool },
    /// A fill is in progress from other repositories: the right to its bytes must be proven first.
    Unclaimed,
}

/// All fills in progress. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Fills {
    pub state: Arc<FillsState>,
}

#[derive(Debug)]
pub(super) struct FillsState {
    running: Mutex<HashMap<FillKey, Arc<Fill>>>,
    pub store: Arc<Store>,
    runtime: tokio::runtime::Handle,
    pub slots: Arc<Semaphore>,
    per_registry: Mutex<HashMap<Registry, Arc<Semaphore>>>,
    /// Half of all slots: the most that one registry gets.
    share: usize,
    /// How many fills wait for a slot.
    pub waiting: AtomicUsize,
    /// Fills that yielded their slot while they had no followers.
    paused: Mutex<VecDeque<(FillKey, FillSource)>>,
    /// Turns to hash the partials of an earlier process: each occupies a thread.
    pub hashing: Semaphore,
    pub connection_limits: ConnectionLimits,
    /// The other gateways of the bucket.
    pub peers: Option<Peers>,
    /// The process that has the store now, if this one has handed it over.
    pub successor: watch::Sender<Option<Successor>>,
    /// Read by each download while it may write to the store.
    pub running_here: RwLock<()>,
}

impl Fills {
    pub fn new(
        limit: usize,
        store: Arc<Store>,
        runtime: tokio::runtime::Handle,
        peers: Option<Peers>,
    ) -> Self {
        let state = FillsState {
            running: Mutex::default(),
            store,
            runtime,
            slots: Arc::new(Semaphore::new(limit)),
            per_registry: Mutex::default(),
            share: limit.div_ceil(2),
            waiting: AtomicUsize::new(0),
            paused: Mutex::default(),
            hashing: Semaphore::new(HASHED_AT_ONCE),
            connection_limits: ConnectionLimits::default(),
            peers,
            successor: watch::Sender::new(None),
            running_here: RwLock::new(()),
        };
        Self {
            state: Arc::new(state),
        }
    }

    /// The process that has the store now, if this one has handed it over.
    pub fn successor(&self) -> Option<Successor> {
        self.state.successor.borrow().clone()
    }

    /// Joins the fill of `key`, or starts it. An unproven claim may only join a fill that asks the same source, which
    /// proves it.
    pub fn join(&self, key: FillKey, source: FillSource, claim: SourceClaim) -> Joined {
        let mut running = lock(&self.state.running);
        if let Some(fill) = running.get(&key) {
            if claim == SourceClaim::Unproven && !fill.knows(&source) {
                return Joined::Unclaimed;
            }
            fill.add(source);
            return Joined::Fill {
                follower: Follower::of(fill.clone()),
                collapsed: true,
            };
        }
        let fill = Arc::new(Fill::new(key, source));
        let follower = Follower::of(fill.clone());
        running.insert(key, fill.clone());
        drop(running);
        // A paused fill of the same content is superseded: the request does not wait for its turn.
        lock(&self.state.paused).retain(|(paused, _)| *paused != key);
        let download = Download::new(self.clone(), fill);
        self.state.runtime.spawn(download.run());
        Joined::Fill {
            follower,
            collapsed: false,
        }
    }

    /// Follows the fill of `key`, if it is in progress. Unlike [`Fills::join`] this adds no source, and proves no right.
    pub fn follow(&self, key: &FillKey) -> Option<Follower> {
        let fill = lock(&self.state.running).get(key)?.clone();
        Some(Follower::of(fill))
    }

    /// Whether the fill of `key` asks this source, if it is in progress.
    pub fn asks(&self, key: &FillKey, source: &FillSource) -> Option<bool> {
        let running = lock(&self.state.running);
        running.get(key).map(|fill| fill.knows(source))
    }

    /// The fills in progress, in no order.
    pub fn running(&self) -> Vec<Arc<Fill>> {
        lock(&self.state.running).values().cloned().collect()
    }

    /// Whether a fill yields its slot to waiting fills: only one without followers does. Requests that join from then
    /// on get no answer before it has ended.
    pub fn yield_slot(&self, fill: &Fill) -> bool {
        if fill.is_followed() || self.state.waiting.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // Requests join under this lock.
        let _running = lock(&self.state.running);
        if fill.is_followed() {
            return false;
        }
        fill.progress.send_modify(|progress| {
            progress.phase = Phase::Waiting;
            progress.total = None;
        });
        true
    }

    /// The slots of one registry.
    pub fn slots_of(&self, registry: &Registry) -> Arc<Semaphore> {
        let share = self.state.share;
        let mut per_registry = lock(&self.state.per_registry);
        let slots = per_registry.entry(registry.clone());
        slots
            .or_insert_with(|| Arc::new(Semaphore::new(share)))
            .clone()
    }

    /// Queues a fill to resume when a slot is free.
    pub fn pause(&self, key: FillKey, source: FillSource) {
        lock(&self.state.paused).push_back((key, source));
    }

    /// Ends a fill. It leaves the map before its outcome is published, so that the next request finds the
    /// committed blob or starts anew. A paused fill takes its place if no other waits for the slot.
    pub fn finish(&self, fill: &Fill, outcome: Phase) {
        lock(&self.state.running).remove(&fill.key);
        let paused = matches!(outcome, Phase::Failed(FillError::Paused));
        fill.progress
            .send_modify(|progress| progress.phase = outcome);
        if !paused && self.state.waiting.load(Ordering::Relaxed) == 0 {
            let next = lock(&self.state.paused).pop_front();
            if let Some((key, source)) = next {
                self.join(key, source, SourceClaim::Proven);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::super::source::{DigestCheck, ForeignSource};
    use super::*;
    use oci::digest::{Algorithm, Digest, Hasher};
    use oci::name::Repository;
    use upstream::{BlobBody, UpstreamError};

    #[derive(Debug)]
    struct Named(&'static str, Registry);

    impl ForeignSource for Named {
        fn registry(&self) -> &Registry {
            &self.1
        }

        fn repository(&self) -> Option<&Repository> {
            None
        }

        fn name(&self) -> &str {
            self.0
        }

        fn fetch(
            &self,
            _: u64,
            _: Option<u64>,
            _: Option<u64>,
        ) -> BoxFuture<'_, Result<BlobBody, UpstreamError>> {
            Box::pin(async { Err(UpstreamError::NotFound) })
        }

        fn check(&self) -> DigestCheck {
            DigestCheck::new(Hasher::new(Algorithm::Sha256), Vec::new())
        }

        fn committed_as(&self) -> BoxFuture<'_, Option<Digest>> {
            Box::pin(async { None })
        }

        fn committed(&self, _: Digest, _: u64) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    }

    #[test]
    fn source_that_refused_is_tried_again_for_who_joins_later() {
        let source = |name| FillSource::Foreign(Arc::new(Named(name, Registry::new("r"))));
        let (one, other) = (source("one"), source("other"));
        let fill = Fill::new(FillKey::named("a layer"), one.clone());
        fill.add(one.clone());
        assert!(fill.next_source().is_some());
        assert!(!fill.has_more_sources(), "it is known, and not yet tried");
        fill.record_refusal(one.clone(), FillError::Lost);
        assert!(fill.refusal(&one).is_some());
        fill.add(other);
        assert!(fill.refusal(&one).is_some());
        fill.add(one.clone());
        assert!(fill.refusal(&one).is_none(), "the next answer is its own");
        let again = [fill.next_source(), fill.next_source()].map(|source| source.is_some());
        assert_eq!(again, [true, true]);
        assert!(fill.next_source().is_none());
    }
}
