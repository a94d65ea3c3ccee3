//! The largest and the last used repositories.
//!
//! A survey reads the folders of every repository, so it is done at most once a minute, when it is asked for, by one task
//! that outlives the request. Its result is bounded.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Admin;
use super::error::{Problem, ProblemCode};
use super::repositories::{blocking, unreadable};
use oci::name::RepositoryName;

/// How long a survey is used.
const LIFE: Duration = Duration::from_secs(60);
/// How many repositories of each order it has.
const MOST: usize = 500;
/// How long a request waits for it, and when it may ask again, in seconds.
const WAIT: Duration = Duration::from_secs(5);
const RETRY: u64 = 10;

/// What a survey orders by, largest or newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Size,
    Recent,
}

/// The last survey.
#[derive(Debug, Default)]
pub(super) struct Survey {
    last: Arc<Mutex<Option<Surveyed>>>,
}

#[derive(Debug)]
struct Surveyed {
    at: Instant,
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

impl Survey {
    /// Discards the last survey: content was removed.
    pub fn discard(&self) {
        // While one is under way, its end is not waited for.
        if let Ok(mut last) = self.last.try_lock() {
            *last = None;
        }
    }
}

impl Admin {
    /// The first repositories in an order.
    ///
    /// # Errors
    /// 503 while the survey takes longer than a request may wait, or if the disk cannot be read.
    pub(super) async fn surveyed(
        self: Arc<Self>,
        order: Order,
    ) -> Result<Vec<RepositoryName>, Problem> {
        let task = tokio::spawn(async move {
            let mut last = self.survey.last.clone().lock_owned().await;
            if let Some(known) = last.as_ref().filter(|known| known.at.elapsed() < LIFE) {
                return Ok(known.names(order));
            }
            let names = self.known_repositories(None).await?;
            let admin = self.clone();
            let found = blocking(move || admin.read_survey(names)).await?;
            let names = found.names(order);
            *last = Some(found);
            Ok::<_, io::Error>(names)
        });
        match tokio::time::timeout(WAIT, task).await {
            Ok(Ok(surveyed)) => surveyed.map_err(|error| unreadable(&error)),
            Ok(Err(_)) => Err(Problem::new(
                ProblemCode::InternalError,
                "the survey failed",
            )),
            Err(_) => {
                let detail = "the sizes of all repositories are being read";
                Err(Problem::new(ProblemCode::StoreScanning, detail).retry_after(RETRY))
            }
        }
    }

    /// Reads every repository. Blocks on the disk.
    fn read_survey(&self, names: Vec<RepositoryName>) -> io::Result<Surveyed> {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let summary = self.store.summary(&name)?;
            found.push((summary.bytes, summary.last_use, name));
        }
        let first = |found: &[(u64, Option<u64>, RepositoryName)]| {
            let names = found.iter().take(MOST).map(|(.., name)| name.clone());
            names.collect()
        };
        found.sort_unstable_by(|one, other| other.0.cmp(&one.0).then(one.2.cmp(&other.2)));
        let largest = first(&found);
        found.sort_unstable_by(|one, other| other.1.cmp(&one.1).then(one.2.cmp(&other.2)));
        Ok(Surveyed {
            at: Instant::now(),
            largest,
            recent: first(&found),
        })
    }
}
