//! Recent requests, failures and pull counts, in memory, for operators.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::access_log::AccessRecord;
use super::failure::FailureReason;
use oci::error::ErrorCode;
use oci::name::RepositoryName;
use runtime::per_thread::PerThread;
use runtime::recent::Recent;

/// How many requests are remembered: less than a megabyte for each thread.
const MAX_REQUESTS: usize = 2000;
/// How many failures are remembered.
const MAX_FAILURES: usize = 1000;
/// How many of the last failures a new one is compared with, and for how long repeats count as one.
const DEDUP_WINDOW: usize = 64;
const REPEATS_WITHIN: Duration = Duration::from_secs(60);
/// For how many repositories each thread counts pulls.
const MAX_COUNTED_REPOSITORIES: usize = 10_000;

/// The history of the listeners of the data plane. Each thread writes to a part of its own.
#[derive(Debug)]
pub struct AccessHistory {
    /// The last requests.
    pub requests: Recent<AccessRecord>,
    failures: Mutex<FailureLog>,
    pulls: PerThread<Mutex<Pulls>>,
    errors: AtomicU64,
    denials: AtomicU64,
}

/// Why a request was denied or failed.
#[derive(Clone, Debug)]
pub struct FailureRecord {
    /// Grows with time.
    pub id: u64,
    /// Whether the gateway refused or failed.
    pub kind: FailureKind,
    /// The first and the last of its repeats within a minute.
    pub first_at: SystemTime,
    /// See `first_at`.
    pub last_at: SystemTime,
    /// How often it happened.
    pub count: u64,
    /// The code in the error's body.
    pub code: ErrorCode,
    /// The error with its causes.
    pub reason: String,
    /// The tag or digest that was asked for last.
    pub reference: Option<String>,
    /// The user whose password was refused, as the client claims; at most 128 characters.
    pub refused_user: Option<String>,
    /// The last request that failed so.
    pub request: Arc<AccessRecord>,
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// 401, 403 or 429.
    Denial,
    /// 5xx.
    Error,
}

/// How many manifests of each repository were pulled.
type Pulls = HashMap<RepositoryName, u64, ahash::RandomState>;

#[derive(Debug, Default)]
struct FailureLog {
    last: u64,
    /// Changes with every failure, repeats included.
    changes: u64,
    failures: VecDeque<FailureRecord>,
}

impl FailureKind {
    /// The kind by the status of the answer. A 401 to a client without credentials begins a login.
    pub(super) fn of(status: u16, has_credentials: impl FnOnce() -> bool) -> Option<Self> {
        match status {
            401 if !has_credentials() => None,
            401 | 403 | 429 => Some(Self::Denial),
            500..=599 => Some(Self::Error),
            _ => None,
        }
    }
}

impl Default for AccessHistory {
    fn default() -> Self {
        Self {
            requests: Recent::new(MAX_REQUESTS),
            failures: Mutex::default(),
            pulls: PerThread::default(),
            errors: AtomicU64::new(0),
            denials: AtomicU64::new(0),
        }
    }
}

impl AccessHistory {
    /// Adds a request that was denied or failed, with the reason where the gateway itself answered.
    pub(super) fn add_failure(
        &self,
        kind: FailureKind,
        reason: Option<Box<FailureReason>>,
        record: &AccessRecord,
    ) {
        let counter = match kind {
            FailureKind::Denial => &self.denials,
            FailureKind::Error => &self.errors,
        };
        counter.fetch_add(1, Relaxed);
        if let Some(reason) = reason {
            let record = Arc::new(record.clone());
            lock(&self.failures).add(kind, *reason, record);
        }
    }

    /// Counts a manifest of a repository that was pulled.
    pub(super) fn count_pull(&self, name: &RepositoryName) {
        let mut pulls = lock(self.pulls.mine());
        if let Some(count) = pulls.get_mut(name) {
            *count += 1;
            return;
        }
        if pulls.len() >= MAX_COUNTED_REPOSITORIES {
            drop_least(&mut pulls, MAX_COUNTED_REPOSITORIES / 10);
        }
        pulls.insert(name.clone(), 1);
    }

    /// The last failures, oldest first.
    pub fn failures(&self) -> Vec<FailureRecord> {
        lock(&self.failures).failures.iter().cloned().collect()
    }

    /// A number that changes with every failure.
    pub fn failure_changes(&self) -> u64 {
        lock(&self.failures).changes
    }

    /// How many answers were errors, and how many denials, since the start.
    pub fn failure_counts(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        (load(&self.errors), load(&self.denials))
    }

    /// How many manifests of a repository were pulled since the start.
    pub fn pulls_of(&self, name: &RepositoryName) -> u64 {
        let pulls = self.pulls.all();
        pulls
            .filter_map(|pulls| lock(pulls).get(name).copied())
            .sum()
    }

    /// The most pulled repositories first.
    pub fn most_pulled(&self) -> Vec<(RepositoryName, u64)> {
        let mut sums = Pulls::default();
        for pulls in self.pulls.all() {
            for (name, count) in lock(pulls).iter() {
                *sums.entry(name.clone()).or_default() += count;
            }
        }
        let mut all: Vec<_> = sums.into_iter().collect();
        all.sort_unstable_by(|(one, more), (other, less)| less.cmp(more).then(one.cmp(other)));
        all
    }
}

impl FailureLog {
    fn add(&mut self, kind: FailureKind, reason: FailureReason, request: Arc<AccessRecord>) {
        self.changes += 1;
        let at = request.ended;
        let is_repeat = |known: &&mut FailureRecord| {
            let age = at.duration_since(known.last_at).unwrap_or_default();
            let same = (known.kind, known.request.status) == (kind, request.status)
                && known.reason == reason.reason
                && known.refused_user == reason.refused_user
                && (&known.request.scope, &known.request.user) == (&request.scope, &request.user)
                && address(&known.request) == address(&request);
            same && age < REPEATS_WITHIN
        };
        let repeated = self
            .failures
            .iter_mut()
            .rev()
            .take(DEDUP_WINDOW)
            .find(is_repeat);
        if let Some(known) = repeated {
            known.count += 1;
            known.last_at = at;
            known.reference = reason.reference;
            known.request = request;
            return;
        }
        self.last += 1;
        if self.failures.len() >= MAX_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(FailureRecord {
            id: self.last,
            kind,
            first_at: at,
            last_at: at,
            count: 1,
            code: reason.code,
            reason: reason.reason,
            reference: reason.reference,
            refused_user: reason.refused_user,
            request,
        });
    }
}

/// Drops the `share` repositories with the lowest counts, of which there are more.
fn drop_least(pulls: &mut Pulls, share: usize) {
    let mut counts: Vec<u64> = pulls.values().copied().collect();
    let (lower, most, _) = counts.select_nth_unstable(share.saturating_sub(1));
    let most = *most;
    let mut equal = share - lower.iter().filter(|count| **count < most).count();
    pulls.retain(|_, count| match (*count).cmp(&most) {
        Ordering::Less => false,
        Ordering::Equal if equal > 0 => {
            equal -= 1;
            false
        }
        Ordering::Equal | Ordering::Greater => true,
    });
}

/// The address of a client, without its port.
fn address(record: &AccessRecord) -> Option<IpAddr> {
    record.client.map(|client| client.ip())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::name::NameScope;

    fn name(repository: &str) -> RepositoryName {
        let registry = oci::name::Registry::new("docker.io");
        RepositoryName::new(&registry, &repository.parse().expect("a name"))
    }

    fn record(status: u16, repository: &str, client: &str) -> AccessRecord {
        AccessRecord {
            ended: SystemTime::UNIX_EPOCH,
            client: Some(client.parse().expect("an address")),
            user: None,
            method: http::Method::GET,
            path: format!("/v2/{repository}/manifests/latest").into(),
            scope: Some(NameScope::Repository(name(repository))),
            status,
            sent_bytes: 0,
            took: Duration::ZERO,
            cache: None,
            upstream: None,
        }
    }

    /// Adds a failure of a client with credentials.
    fn add(history: &AccessHistory, record: &AccessRecord, text: &str) {
        let reason = FailureReason {
            code: ErrorCode::Denied,
            reason: text.to_owned(),
            reference: None,
            gate_rule: None,
            refused_user: None,
        };
        let kind = FailureKind::of(record.status, || true).expect("a failure");
        history.add_failure(kind, Some(Box::new(reason)), record);
    }

    #[test]
    fn a_challenge_is_no_failure() {
        for (status, has_credentials, kind) in [
            (200, true, None),
            (401, false, None),
            (401, true, Some(FailureKind::Denial)),
            (403, false, Some(FailureKind::Denial)),
            (404, true, None),
            (429, true, Some(FailureKind::Denial)),
            (502, false, Some(FailureKind::Error)),
        ] {
            assert_eq!(FailureKind::of(status, || has_credentials), kind);
        }
    }

    #[test]
    fn repeated_failures_are_one() {
        let history = AccessHistory::default();
        for (status, repository, client, reason) in [
            (403, "a", "10.0.0.1:1", "no"),
            (403, "a", "10.0.0.1:2", "no"),
            (403, "b", "10.0.0.1:3", "no"),
            (502, "a", "10.0.0.1:3", "broken"),
        ] {
            add(&history, &record(status, repository, client), reason);
        }
        let seen = history.failures();
        let seen: Vec<_> = seen.iter().map(|one| (one.id, one.count)).collect();
        assert_eq!(seen, [(1, 2), (2, 1), (3, 1)]);
        assert_eq!(history.failure_counts(), (1, 3));
    }

    #[test]
    fn failures_are_bounded() {
        let history = AccessHistory::default();
        for n in 0..2 * MAX_FAILURES {
            add(&history, &record(403, &format!("a{n}"), "10.0.0.1:1"), "no");
        }
        assert_eq!(history.failures().len(), MAX_FAILURES);
    }

    #[test]
    fn least_pulled_repositories_make_room() {
        let history = AccessHistory::default();
        for n in 0..MAX_COUNTED_REPOSITORIES {
            history.count_pull(&name(&format!("a{n}")));
        }
        for often in ["a7", "a8", "a9"] {
            history.count_pull(&name(often));
        }
        assert_eq!(history.most_pulled().len(), MAX_COUNTED_REPOSITORIES);
        history.count_pull(&name("new"));
        let most = history.most_pulled();
        assert_eq!(
            most.len(),
            MAX_COUNTED_REPOSITORIES - MAX_COUNTED_REPOSITORIES / 10 + 1
        );
        assert!(
            most[..3].iter().all(|(_, count)| *count == 2),
            "{:?}",
            &most[..3]
        );
        assert_eq!(history.pulls_of(&name("a7")), 2);
        assert_eq!(history.pulls_of(&name("new")), 1);
    }

    #[test]
    fn lowest_counts_are_dropped() {
        for (counts, share, left) in [
            (vec![1, 1, 1, 1], 1, vec![1, 1, 1]),
            (vec![1, 2, 3, 4], 2, vec![3, 4]),
            (vec![5, 1, 5, 1, 5], 3, vec![5, 5]),
            (vec![1, 9], 1, vec![9]),
        ] {
            let named = counts.iter().enumerate();
            let mut pulls: Pulls = named
                .map(|(n, count)| (name(&format!("a{n}")), *count))
                .collect();
            drop_least(&mut pulls, share);
            let mut found: Vec<u64> = pulls.into_values().collect();
            found.sort_unstable();
            assert_eq!(found, left, "{counts:?}");
        }
    }

    #[test]
    fn pulls_of_all_threads_add_up() {
        let history = AccessHistory::default();
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| history.count_pull(&name("a")));
            }
        });
        assert_eq!(history.pulls_of(&name("a")), 8);
        assert_eq!(history.most_pulled(), [(name("a"), 8)]);
    }
}
