//! The largest and the last used repositories.
//!
//! A survey reads the folders of every repository, so it is done when it is asked for, by one task at a time that outlives
//! the request, and its result is used for a minute, or for twenty times as long as it took. Its result is bounded. A
//! request that cannot wait for the next one gets the last one.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Admin;
use super::disk::{blocking, unreadable};
use super::error::{Problem, ProblemCode};
use oci::name::{Registry, RepositoryName};
use store::KnownRepository;

/// How long a survey is used, and how many times as long as it took.
const LIFE: Duration = Duration::from_secs(60);
const LIFE_FACTOR: u32 = 20;
/// How many repositories of each order it has.
const MAX_SURVEYED: usize = 500;
/// How long a request waits for it, and when it may ask again, in seconds.
const WAIT: Duration = Duration::from_secs(5);
const RETRY: u64 = 10;

/// Repositories as the store lists them, by registry. There may be a hundred thousand: the lists are shared with the store.
#[derive(Debug)]
pub(super) struct KnownNames(Vec<(Registry, Arc<[KnownRepository]>)>);

impl KnownNames {
    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = RepositoryName> {
        self.0.iter().flat_map(|(registry, known)| {
            let known = known.iter();
            known.map(move |one| RepositoryName::new(registry, &one.repository))
        })
    }
}

/// What a survey orders by, largest or newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Size,
    Recent,
}

/// The last survey, and the turn to make the next one.
#[derive(Debug)]
pub(super) struct Survey {
    last: Mutex<Option<Arc<Surveyed>>>,
    turn: Semaphore,
    /// Counts the removals of content.
    removals: AtomicU64,
}

#[derive(Debug)]
struct Surveyed {
    /// Until when it is used.
    until: Instant,
    /// The removals before it.
    removals: u64,
    largest: Vec<RepositoryName>,
    recent: Vec<RepositoryName>,
}

impl Surveyed {
    fn names(&self, order: Order) -> Vec<RepositoryName> {
        match order {
            Order::Size => self.largest.clone(),
            Order::Recent => self.recent.clone(),
        }
    }
}

impl Default for Survey {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            turn: Semaphore::new(1),
            removals: AtomicU64::new(0),
        }
    }
}

impl Survey {
    /// Notes that content was removed: the last survey is outdated.
    pub fn discard(&self) {
        self.removals.fetch_add(1, Ordering::SeqCst);
    }

    fn removals(&self) -> u64 {
        self.removals.load(Ordering::SeqCst)
    }

    /// The last survey, if it is not outdated.
    fn fresh(&self) -> Option<Arc<Surveyed>> {
        let removals = self.removals();
        let is_fresh =
            |known: &Arc<Surveyed>| known.removals == removals && Instant::now() < known.until;
        self.last().clone().filter(is_fresh)
    }

    fn last(&self) -> MutexGuard<'_, Option<Arc<Surveyed>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admin {
    /// The repositories of the configured registries, or of one of them.
    pub(super) async fn known_repositories(
        &self,
        registry: Option<&Registry>,
    ) -> io::Result<KnownNames> {
        let configured = self.settings.registries.iter().map(|one| &one.name);
        let mut registries: Vec<&Registry> = configured
            .filter(|name| registry.is_none_or(|wanted| wanted == *name))
            .collect();
        registries.sort();
        let mut known = Vec::new();
        for registry in registries {
            let repositories = self.store.records.repositories(registry).await?;
            known.push((registry.clone(), repositories));
        }
        Ok(KnownNames(known))
    }

    /// The first repositories in an order.
    ///
    /// # Errors
    /// 503 while the first survey takes longer than a request may wait, or if the disk cannot be read.
    pub(super) async fn surveyed(
        self: Arc<Self>,
        order: Order,
    ) -> Result<Vec<RepositoryName>, Problem> {
        if let Some(known) = self.survey.fresh() {
            return Ok(known.names(order));
        }
        let task = tokio::spawn(self.clone().survey());
        match tokio::time::timeout(WAIT, task).await {
            Ok(Ok(Ok(found))) => Ok(found.names(order)),
            Ok(Ok(Err(error))) => Err(unreadable(&error)),
            Ok(Err(_)) => Err(Problem::new(
                ProblemCode::InternalError,
                "the survey failed",
            )),
            Err(_) => {
                let last = self.survey.last().clone();
                let detail = "the sizes of all repositories are being read";
                let wait = || Problem::new(ProblemCode::StoreScanning, detail).retry_after(RETRY);
                last.map(|known| known.names(order)).ok_or_else(wait)
            }
        }
    }

    /// The survey that another request has just made, or a new one.
    async fn survey(self: Arc<Self>) -> io::Result<Arc<Surveyed>> {
        let _turn = self.survey.turn.acquire().await.map_err(io::Error::other)?;
        if let Some(known) = self.survey.fresh() {
            return Ok(known);
        }
        let known = self.known_repositories(None).await?;
        let admin = self.clone();
        let found = Arc::new(blocking(move || admin.read_survey(&known)).await?);
        *self.survey.last() = Some(found.clone());
        Ok(found)
    }

    /// Reads every repository. Blocks on the disk.
    fn read_survey(&self, known: &KnownNames) -> io::Result<Surveyed> {
        let (started, removals) = (Instant::now(), self.survey.removals());
        let mut found = Vec::new();
        for name in known.names() {
            let summary = self.store.summary(&name)?;
            found.push((summary.bytes, summary.last_use, name));
        }
        let first = |found: &[(u64, Option<u64>, RepositoryName)]| {
            let names = found
                .iter()
                .take(MAX_SURVEYED)
                .map(|(.., name)| name.clone());
            names.collect()
        };
        found.sort_unstable_by(|one, other| other.0.cmp(&one.0).then(one.2.cmp(&other.2)));
        let largest = first(&found);
        found.sort_unstable_by(|one, other| other.1.cmp(&one.1).then(one.2.cmp(&other.2)));
        let life = LIFE.max(started.elapsed().saturating_mul(LIFE_FACTOR));
        Ok(Surveyed {
            until: Instant::now() + life,
            removals,
            largest,
            recent: first(&found),
        })
    }
}
