//! What clients asked for lately, in memory, for operators: requests, failures, pulls of each repository.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::Method;

use super::Failure;
use super::access_log::AccessRecord;
use super::failure::status;
use oci::error::ErrorCode;
use oci::name::RepositoryName;
use runtime::recent::Recent;

/// How many requests are remembered: about a megabyte.
const REQUESTS: usize = 2000;
/// How many failures are remembered.
const FAILURES: usize = 1000;
/// How many of the last failures a new one is compared with, and for how long repeats count as one.
const COMPARED: usize = 64;
const REPEATS_WITHIN: Duration = Duration::from_secs(60);
/// For how many repositories pulls are counted.
const PULLED: usize = 10_000;

/// The history of the listeners of the data plane.
#[derive(Debug)]
pub struct AccessHistory {
    /// The last requests.
    pub requests: Recent<AccessRecord>,
    failures: Mutex<FailureLog>,
    pulls: Mutex<HashMap<RepositoryName, u64>>,
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

/// The code and the causes of a failure, for the history.
#[derive(Clone, Debug)]
pub(super) struct FailureReason {
    code: ErrorCode,
    reason: String,
}

#[derive(Debug, Default)]
struct FailureLog {
    last: u64,
    /// Changes with every failure, repeats included.
    changes: u64,
    failures: VecDeque<FailureRecord>,
}

impl FailureReason {
    /// The reason of a failure; `None` if the connection failed.
    pub fn of(failure: &Failure) -> Option<Box<Self>> {
        let (code, reason) = match failure {
            Failure::Response(response) => (response.code, response.message.to_string()),
            Failure::Mirror(error) => (status(error).1, telemetry::chain(error)),
            Failure::Connection(_) => return None,
        };
        Some(Box::new(Self { code, reason }))
    }
}

impl FailureKind {
    /// The kind by the status of the answer. A 401 to a client without credentials begins a login.
    fn of(status: u16, has_credentials: bool) -> Option<Self> {
        match status {
            401 if !has_credentials => None,
            401 | 403 | 429 => Some(Self::Denial),
            500..=599 => Some(Self::Error),
            _ => None,
        }
    }
}

impl Default for AccessHistory {
    fn default() -> Self {
        Self {
            requests: Recent::new(REQUESTS),
            failures: Mutex::default(),
            pulls: Mutex::default(),
            errors: AtomicU64::new(0),
            denials: AtomicU64::new(0),
        }
    }
}

impl AccessHistory {
    /// Adds a request that has ended, with the reason if it failed.
    pub(super) fn add(
        &self,
        record: AccessRecord,
        reason: Option<Box<FailureReason>>,
        has_credentials: bool,
    ) {
        if let (&Method::GET, 200, Some(name)) = (&record.method, record.status, &record.name)
            && record.path.contains("/manifests/")
        {
            self.count_pull(name);
        }
        if let Some(kind) = FailureKind::of(record.status, has_credentials) {
            let counter = match kind {
                FailureKind::Denial => &self.denials,
                FailureKind::Error => &self.errors,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if let Some(reason) = reason {
                let record = Arc::new(record.clone());
                lock(&self.failures).add(kind, *reason, record);
            }
        }
        self.requests.push(record);
    }

    /// The failures after number `after`, oldest first.
    pub fn failures(&self) -> Vec<FailureRecord> {
        lock(&self.failures).failures.iter().cloned().collect()
    }

    /// A number that changes with every failure.
    pub fn failure_changes(&self) -> u64 {
        lock(&self.failures).changes
    }

    /// How many answers were errors, and how many denials, since the start.
    pub fn failure_counts(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.errors), load(&self.denials))
    }

    /// How many manifests of a repository were pulled since the start.
    pub fn pulls_of(&self, name: &RepositoryName) -> u64 {
        lock(&self.pulls).get(name).copied().unwrap_or(0)
    }

    /// The most pulled repositories first.
    pub fn most_pulled(&self) -> Vec<(RepositoryName, u64)> {
        let pulls = lock(&self.pulls);
        let mut all: Vec<_> = pulls.iter().map(|(name, n)| (name.clone(), *n)).collect();
        drop(pulls);
        all.sort_unstable_by(|(one, more), (other, less)| less.cmp(more).then(one.cmp(other)));
        all
    }

    fn count_pull(&self, name: &RepositoryName) {
        let mut pulls = lock(&self.pulls);
        if let Some(count) = pulls.get_mut(name) {
            *count += 1;
            return;
        }
        if pulls.len() >= PULLED {
            let least = pulls.values().min().copied().unwrap_or(0);
            pulls.retain(|_, count| *count > least);
        }
        pulls.insert(name.clone(), 1);
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
                && (&known.request.name, &known.request.user) == (&request.name, &request.user)
                && address(&known.request) == address(&request);
            same && age < REPEATS_WITHIN
        };
        let repeated = self
            .failures
            .iter_mut()
            .rev()
            .take(COMPARED)
            .find(is_repeat);
        if let Some(known) = repeated {
            known.count += 1;
            known.last_at = at;
            known.request = request;
            return;
        }
        self.last += 1;
        if self.failures.len() >= FAILURES {
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
            request,
        });
    }
}

/// The address of a client, without its port.
fn address(record: &AccessRecord) -> Option<&str> {
    let client = record.client.as_deref()?;
    Some(client.rsplit_once(':').map_or(client, |(host, _)| host))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: u16, repository: &str, client: &str) -> AccessRecord {
        let registry = oci::name::Registry::new("docker.io");
        let name = RepositoryName::new(&registry, &repository.parse().expect("a name"));
        AccessRecord {
            ended: SystemTime::UNIX_EPOCH,
            client: Some(client.to_owned()),
            user: None,
            method: Method::GET,
            path: format!("/v2/{repository}/manifests/latest"),
            registry: Some(registry),
            name: Some(name),
            reference: None,
            status,
            sent_bytes: 0,
            took: Duration::ZERO,
            cache: None,
            upstream: None,
        }
    }

    fn reason(text: &str) -> FailureReason {
        let (code, reason) = (ErrorCode::Denied, text.to_owned());
        FailureReason { code, reason }
    }

    #[test]
    fn repeated_failures_are_one() {
        let history = AccessHistory::default();
        history.add(
            record(403, "a", "10.0.0.1:1"),
            Some(Box::new(reason("no"))),
            true,
        );
        history.add(
            record(403, "a", "10.0.0.1:2"),
            Some(Box::new(reason("no"))),
            true,
        );
        history.add(
            record(403, "b", "10.0.0.1:3"),
            Some(Box::new(reason("no"))),
            true,
        );
        history.add(
            record(502, "a", "10.0.0.1:3"),
            Some(Box::new(reason("broken"))),
            true,
        );
        // A client without credentials is told to log in.
        history.add(
            record(401, "a", "10.0.0.1:3"),
            Some(Box::new(reason("log in"))),
            false,
        );
        history.add(
            record(404, "a", "10.0.0.1:3"),
            Some(Box::new(reason("unknown"))),
            true,
        );
        let seen = history.failures();
        let seen: Vec<_> = seen.iter().map(|one| (one.id, one.count)).collect();
        assert_eq!(seen, [(1, 2), (2, 1), (3, 1)]);
        assert_eq!(history.failure_counts(), (1, 3));
        assert_eq!(history.requests.last(), 6);
    }

    #[test]
    fn failures_and_pulls_are_bounded() {
        let history = AccessHistory::default();
        for n in 0..2 * FAILURES {
            let name = format!("a{n}");
            history.add(
                record(403, &name, "10.0.0.1:1"),
                Some(Box::new(reason("no"))),
                true,
            );
        }
        assert_eq!(history.failures().len(), FAILURES);
        for n in 0..=PULLED {
            let pulled = record(200, &format!("a{n}"), "10.0.0.1:1");
            history.add(pulled.clone(), None, true);
            if n == 7 {
                history.add(pulled, None, true);
            }
        }
        let most = history.most_pulled();
        assert!(most.len() <= PULLED);
        assert_eq!((most[0].0.repository.as_str(), most[0].1), ("a7", 2));
        assert_eq!(history.pulls_of(&most[0].0), 2);
    }
}
