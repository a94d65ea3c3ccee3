//! Hands over to another process that opens the same store, and follows its fills.
//!
//! The process that hands over goes on answering the requests that it has accepted. It starts no fill any more: its
//! downloads end, the other process resumes their partials, and their readers follow it. The bytes themselves are read
//! from the file that both have open; what is sent between the processes is only how far it has got.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::download::Download;
use super::fill::{Follower, Joined, SourceClaim};
use super::progress::{FillError, Phase};
use super::source::FillKey;
use super::{Mirror, MirrorState};
use oci::digest::Digest;
use oci::name::{Registry, RepositoryName};
use store::OpenFile;

/// How many pieces of news of one fill may wait.
const NEWS: usize = 16;
/// How long a write waits for the other process to notice it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a download waits for the store to be taken back from a process that has ended.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the other process waits before it sends news that are of few bytes.
const NEWS_EVERY: Duration = Duration::from_millis(20);

/// The process that takes over, as it is asked by the one before it. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Successor {
    queries: mpsc::Sender<SuccessorQuery>,
}

/// What the process that takes over is asked. A query that is dropped counts as unanswered.
#[derive(Debug)]
pub enum SuccessorQuery {
    /// To tell how the fill of this blob goes on.
    Follow {
        /// The blob.
        digest: Digest,
        /// The repositories that may have it, to start the fill if there is none.
        sources: Vec<RepositoryName>,
        /// Ends with [`FillNews::Stored`] or [`FillNews::Unknown`].
        news: mpsc::Sender<FillNews>,
    },
    /// To read anew what it knows of this repository, which was written to.
    Changed {
        /// The repository.
        name: RepositoryName,
        /// Answered once it will.
        done: oneshot::Sender<()>,
    },
}

/// How a fill goes on in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillNews {
    /// It streams.
    Progress {
        /// The contiguous bytes of its partial.
        written: u64,
        /// The whole length in bytes, where announced.
        total: Option<u64>,
        /// Counts the files: a new one replaces bytes that were wrong.
        generation: u32,
    },
    /// The blob is stored.
    Stored,
    /// There is no such fill, and none can be started, or it failed.
    Unknown,
}

impl Successor {
    /// The process that answers these queries.
    pub fn new(queries: mpsc::Sender<SuccessorQuery>) -> Self {
        Self { queries }
    }

    async fn follow(
        &self,
        digest: Digest,
        sources: Vec<RepositoryName>,
    ) -> mpsc::Receiver<FillNews> {
        let (news, received) = mpsc::channel(NEWS);
        let query = SuccessorQuery::Follow {
            digest,
            sources,
            news,
        };
        // Without the other process the channel is closed at once.
        let _ = self.queries.send(query).await;
        received
    }

    /// Has the other process read anew what it knows of a repository.
    async fn changed(&self, name: RepositoryName) {
        let (done, noticed) = oneshot::channel();
        let query = SuccessorQuery::Changed { name, done };
        let noticed = async {
            let _ = self.queries.send(query).await;
            let _ = noticed.await;
        };
        if tokio::time::timeout(CHANGE_TIMEOUT, noticed).await.is_err() {
            tracing::warn!(
                "the process that takes over does not answer: it may serve an older answer about a repository that was \
                 written to, until that expires"
            );
        }
    }
}

impl Mirror {
    /// Hands the store over: downloads end and leave their partials, and their readers follow `successor`. Returns the
    /// lock of the store once nothing writes to its partials any more.
    ///
    /// # Errors
    /// When the lock cannot be duplicated; call [`Mirror::take_back`] then.
    pub async fn hand_over(&self, successor: Successor) -> std::io::Result<OwnedFd> {
        let fills = &self.state.contents.fills.state;
        // What they drop is to stay on disk.
        self.state.store.blobs.stop();
        fills.successor.send_replace(Some(successor));
        // Downloads that run here end as soon as they notice.
        drop(fills.running_here.write().await);
        let store = self.state.store.clone();
        let handed = tokio::task::spawn_blocking(move || store.hand_over());
        handed.await.map_err(std::io::Error::other)?
    }

    /// Takes the store back from a process that has ended: downloads go on here.
    pub async fn take_back(&self) {
        let store = self.state.store.clone();
        let _ = tokio::task::spawn_blocking(move || store.take_back()).await;
        let fills = &self.state.contents.fills.state;
        fills.successor.send_replace(None);
    }

    /// Tells the process before this one how a fill goes on, and starts it from the first of `sources` if there is none.
    /// Returns when there is no more to tell.
    pub async fn tell_fill(
        &self,
        digest: Digest,
        sources: &[RepositoryName],
        news: mpsc::Sender<FillNews>,
    ) {
        let contents = &self.state.contents;
        let mut follower = contents.fills.follow(&FillKey::Digest(digest));
        if follower.is_none() && contents.open(&digest, None).await.is_some() {
            // The process before this one may be gone.
            let _ = news.send(FillNews::Stored).await;
            return;
        }
        if follower.is_none() {
            follower = sources.iter().find_map(|name| self.fill_for(digest, name));
        }
        let Some(follower) = follower else {
            let _ = news.send(FillNews::Unknown).await;
            return;
        };
        let mut progress = follower.progress;
        loop {
            let next = {
                let progress = progress.borrow_and_update();
                match &progress.phase {
                    Phase::Waiting => None,
                    Phase::Streaming { .. } => Some(FillNews::Progress {
                        written: progress.written,
                        total: progress.total,
                        generation: progress.generation,
                    }),
                    Phase::Done { .. } => Some(FillNews::Stored),
                    Phase::Failed(_) => Some(FillNews::Unknown),
                }
            };
            if let Some(next) = next {
                let is_end = !matches!(next, FillNews::Progress { .. });
                if news.send(next).await.is_err() || is_end {
                    return;
                }
            }
            tokio::time::sleep(NEWS_EVERY).await;
            tokio::select! {
                changed = progress.changed() => if changed.is_err() {
                    let _ = news.send(FillNews::Unknown).await;
                    return;
                },
                () = news.closed() => return,
            }
        }
    }

    /// Starts a fill for the process before this one, whose client may read the repository.
    fn fill_for(&self, digest: Digest, name: &RepositoryName) -> Option<Follower> {
        let source = self.source_of_account(&name.registry, &name.repository)?;
        let fills = &self.state.contents.fills;
        match fills.join(FillKey::Digest(digest), source, SourceClaim::Unproven) {
            Joined::Fill { follower, .. } => Some(follower),
            Joined::Unclaimed => None,
        }
    }

    /// Forgets what is remembered of a repository that the process before this one wrote to.
    pub fn reread(&self, name: &RepositoryName) {
        let state = &self.state;
        state.store.records.reread(name);
        state.missing.remove_where(|(missing, ..)| missing == name);
        state.list_generations.write(name, || ());
        for (key, _) in &state.pages {
            if key.0 == *name {
                state.pages.invalidate(key.as_ref());
            }
        }
    }
}

impl MirrorState {
    /// Tells the process that takes over, if there is one, that a repository was written to.
    pub(super) async fn tell_change(&self, name: &RepositoryName) {
        let successor = self.contents.fills.successor();
        if let Some(successor) = successor {
            successor.changed(name.clone()).await;
        }
    }
}

impl Download {
    /// Follows the fill of another process. `None` if that process is gone.
    pub(super) async fn follow_successor(&mut self, successor: &Successor) -> Option<Phase> {
        let no_room = |download: &Self| {
            let total = download.fill.progress.borrow().total;
            Phase::Failed(FillError::NoRoom { total })
        };
        // What has no digest yet is named by its source, which the other process does not know.
        let Some(digest) = self.fill.key.digest() else {
            return Some(no_room(self));
        };
        let sources = self.fill.source_names().into_iter();
        let sources = sources.filter_map(|(registry, repository)| {
            let repository = repository.parse().ok()?;
            Some(RepositoryName::new(&Registry::new(&registry), &repository))
        });
        let mut news = successor.follow(digest, sources.collect()).await;
        let mut followed = None;
        while let Some(piece) = news.recv().await {
            match piece {
                FillNews::Progress {
                    written,
                    total,
                    generation,
                } => {
                    if followed != Some(generation) && self.open_followed(digest, total).await {
                        followed = Some(generation);
                    }
                    if followed == Some(generation) {
                        self.fill.progress.send_modify(|progress| {
                            progress.written = progress.written.max(written);
                        });
                    }
                }
                FillNews::Stored => {
                    let blobs = self.fills.state.store.blobs.clone();
                    let opened = tokio::task::spawn_blocking(move || blobs.open(&digest, None));
                    let Ok(Ok(Some(blob))) = opened.await else {
                        return Some(no_room(self));
                    };
                    self.adopt(&blob.file);
                    self.fill
                        .progress
                        .send_modify(|progress| progress.written = blob.size);
                    let file = blob.file.clone();
                    return Some(Phase::Done { file });
                }
                FillNews::Unknown => return Some(no_room(self)),
            }
        }
        // The other process is gone: this one does without, unless it is about to have the store again.
        let mut successor = self.fills.state.successor.subscribe();
        let is_back = successor.wait_for(Option::is_none);
        let is_back = tokio::time::timeout(TAKE_BACK_TIMEOUT, is_back).await;
        is_back.is_err().then(|| no_room(self))
    }

    /// Opens the partial that another process writes, unless it is the file that readers have already. False if there is
    /// none: it may have been committed meanwhile.
    async fn open_followed(&mut self, digest: Digest, total: Option<u64>) -> bool {
        let blobs = self.fills.state.store.blobs.clone();
        let opened = tokio::task::spawn_blocking(move || blobs.follow_partial(&digest)).await;
        let Ok(Ok(file)) = opened else {
            return false;
        };
        self.fill
            .progress
            .send_modify(|progress| progress.total = progress.total.or(total));
        self.adopt(&Arc::new(file));
        true
    }

    /// Has readers read a file, unless they read it already under another name.
    fn adopt(&mut self, file: &Arc<OpenFile>) {
        let read = match &self.fill.progress.borrow().phase {
            Phase::Streaming { file, .. } => Some(file.clone()),
            _ => None,
        };
        if read.is_some_and(|read| is_same_file(&read, file)) {
            return;
        }
        self.generation += 1;
        let generation = self.generation;
        self.fill.progress.send_modify(|progress| {
            progress.generation = generation;
            progress.written = 0;
            progress.segments = None;
            progress.phase = Phase::Streaming {
                file: file.clone(),
                since: Instant::now(),
                resumed: 0,
            };
        });
    }
}

fn is_same_file(one: &OpenFile, other: &OpenFile) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}
