//! The queue of small changes of the bucket: the last change of a key wins, and changes of a key are serialized.
//!
//! A put that fails for a minute is dropped, since its record may be outdated by then. A withdrawal is retried until
//! it succeeds, across restarts ([`super::journal`]), and its object is not used meanwhile.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use tokio::sync::Notify;

use super::Bucket;
use super::journal::{CAPACITY, Journal, Withdrawals};
use crate::degraded::warn_degraded;
use crate::space::unix;
use telemetry::metrics::{self, BucketEvent};

/// How many changes are sent concurrently.
pub(super) const WORKERS: usize = 4;
/// The timeout of a change.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a put is retried.
const PUT_LIFETIME: Duration = Duration::from_secs(60);
/// The wait after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyChange {
    Put(Bytes),
    /// Deletes a record that no longer holds. Must succeed.
    Withdraw,
    /// Deletes the lease of this number, if no other replaced it. May fail, since it expires.
    Release(u64),
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<OutboxState>,
    news: Notify,
    /// The pending withdrawals on disk. Locked before the state.
    journal: Mutex<Option<Journal>>,
}

#[derive(Debug, Default)]
struct OutboxState {
    changes: HashMap<String, (KeyChange, Instant)>,
    order: VecDeque<String>,
    /// Keys with a change in progress.
    busy: HashSet<String>,
    /// Withdrawals that are queued, in progress, or superseded by a put.
    withdrawals: Withdrawals,
}

/// The outcome of queuing a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    Waiting,
    /// The queue is full, or the put expired.
    Dropped,
}

impl OutboxState {
    /// Queues a change in place of an earlier one.
    fn push(&mut self, key: &str, change: KeyChange, now: Instant) -> Queued {
        if let Some(waiting) = self.changes.get_mut(key) {
            *waiting = (change, now);
            return Queued::Waiting;
        }
        if self.changes.len() >= CAPACITY {
            return Queued::Dropped;
        }
        self.changes.insert(key.to_owned(), (change, now));
        self.order.push_back(key.to_owned());
        Queued::Waiting
    }

    /// The next change of a key without one in progress.
    fn pop(&mut self) -> Option<(String, KeyChange, Instant)> {
        let at = self.order.iter().position(|key| !self.busy.contains(key))?;
        let key = self.order.remove(at)?;
        let (change, since) = self.changes.remove(&key)?;
        self.busy.insert(key.clone());
        Some((key, change, since))
    }

    /// Ends an attempt. A failed change is queued again; a put that expired is replaced by the pending withdrawal of
    /// its key.
    fn settle(&mut self, key: &str, change: KeyChange, since: Instant, done: Done) -> Queued {
        self.busy.remove(key);
        // A newer change supersedes it.
        if done == Done::Yes || self.changes.contains_key(key) {
            return Queued::Waiting;
        }
        match change {
            KeyChange::Withdraw => self.push(key, change, since),
            _ if since.elapsed() < PUT_LIFETIME => self.push(key, change, since),
            _ if self.withdrawals.pending.contains(key) => {
                self.push(key, KeyChange::Withdraw, since);
                Queued::Dropped
            }
            _ => Queued::Dropped,
        }
    }

    fn trusts(&self, key: &str) -> bool {
        !self.withdrawals.pending.contains(key)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    No,
}

impl Outbox {
    /// Whether the object of a key may be used.
    pub fn trusts(&self, key: &str) -> bool {
        self.state().trusts(key)
    }

    /// Whether a record confirmed at a time, in seconds since 1970, may be used: not if a later withdrawal did not
    /// fit into the journal.
    pub fn trusts_confirmation(&self, at: u64) -> bool {
        at > self.state().withdrawals.distrusted_until
    }

    /// Opens the journal in `root` and resumes its withdrawals. Blocks on the disk.
    pub fn open_journal(&self, root: &std::path::Path, bucket_id: &str) {
        let mut journal = self.journal();
        match Journal::open(root, bucket_id) {
            Ok((opened, withdrawals)) => {
                let mut state = self.state();
                for key in &withdrawals.pending {
                    state.push(key, KeyChange::Withdraw, Instant::now());
                }
                state.withdrawals = withdrawals;
                *journal = Some(opened);
            }
            Err(error) => {
                warn_degraded("the journal of the bucket cannot be read", &error);
                self.state().withdrawals.distrusted_until = unix(SystemTime::now());
            }
        }
        self.news.notify_one();
    }

    /// Queues the withdrawal of a key: its object is not used from now on, even after a restart. Blocks on the
    /// disk.
    fn withdraw(&self, key: &str) -> Queued {
        let mut journal = self.journal();
        let now = unix(SystemTime::now());
        let fits = {
            let mut state = self.state();
            let fits = state.withdrawals.pending.len() < CAPACITY || !state.trusts(key);
            if fits && !state.withdrawals.pending.insert(key.to_owned()) {
                // It is in the journal already.
                return state.push(key, KeyChange::Withdraw, Instant::now());
            }
            if !fits {
                // Distrust every record that it could be.
                state.withdrawals.distrusted_until = now;
            }
            fits
        };
        let noted = match journal.as_mut() {
            Some(journal) if fits => journal.withdraw(key),
            Some(journal) => journal.distrust(now),
            None => Ok(()),
        };
        if let Err(error) = noted {
            warn_degraded("a withdrawal from the bucket cannot be recorded", &error);
        }
        if !fits {
            return Queued::Dropped;
        }
        let mut state = self.state();
        state.push(key, KeyChange::Withdraw, Instant::now())
    }

    /// Completes the withdrawal of a key, unless another change of it is queued or in progress. Blocks on the disk.
    fn complete(&self, key: &str) {
        let mut journal = self.journal();
        let mut state = self.state();
        let is_pending_again = state.changes.contains_key(key) || state.busy.contains(key);
        if is_pending_again || !state.withdrawals.pending.remove(key) {
            return;
        }
        if let Some(journal) = journal.as_mut() {
            let noted = journal
                .complete(key)
                .and_then(|()| journal.compact(&state.withdrawals));
            if let Err(error) = noted {
                warn_degraded(
                    "a completed withdrawal from the bucket cannot be recorded",
                    &error,
                );
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Option<Journal>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// Resumes the withdrawals that the previous process of the store in `root` left. Blocks on the disk.
    pub(crate) fn open_journal(&self, root: &std::path::Path) {
        let inner = &self.inner;
        let bucket_id = format!("s3 {} {}", inner.name, inner.endpoint);
        inner.outbox.open_journal(root, &bucket_id);
    }

    /// Queues a change. A withdrawal blocks on the disk.
    pub(super) fn change(&self, key: &Path, change: KeyChange) {
        let outbox = &self.inner.outbox;
        let queued = match change {
            KeyChange::Withdraw => outbox.withdraw(key.as_ref()),
            change => outbox.state().push(key.as_ref(), change, Instant::now()),
        };
        match queued {
            Queued::Waiting => outbox.news.notify_one(),
            Queued::Dropped => metrics::bucket(BucketEvent::RecordDropped),
        }
    }

    /// Sends changes until the process ends.
    pub(super) async fn send_changes(self) {
        let outbox = &self.inner.outbox;
        loop {
            let news = outbox.news.notified();
            let next = outbox.state().pop();
            let Some((key, change, since)) = next else {
                // Another worker may be busy with the queued key.
                let _ = tokio::time::timeout(RETRY_DELAY, news).await;
                continue;
            };
            let done = self.make(&key, &change).await;
            let queued = outbox.state().settle(&key, change, since, done);
            if queued == Queued::Dropped {
                metrics::bucket(BucketEvent::RecordDropped);
            }
            match done {
                Done::Yes if outbox.trusts(&key) => {}
                Done::Yes => {
                    let bucket = self.clone();
                    let complete = move || bucket.inner.outbox.complete(&key);
                    let _ = tokio::task::spawn_blocking(complete).await;
                }
                Done::No => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }

    async fn make(&self, key: &str, change: &KeyChange) -> Done {
        let (s3, path) = (&self.inner.s3, super::raw_path(key));
        let made = match change {
            KeyChange::Put(bytes) => {
                let put = s3.put(&path, bytes.clone().into());
                self.write(TIMEOUT, put).await.is_ok()
            }
            KeyChange::Withdraw => {
                let deleted = self.write_existing(TIMEOUT, s3.delete(&path));
                deleted.await.is_ok()
            }
            KeyChange::Release(lease) => self.release(&path, *lease).await,
        };
        if made { Done::Yes } else { Done::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(text: &'static str) -> KeyChange {
        KeyChange::Put(Bytes::from_static(text.as_bytes()))
    }

    fn key(popped: Option<(String, KeyChange, Instant)>) -> Option<(String, KeyChange)> {
        popped.map(|(key, change, _)| (key, change))
    }

    #[test]
    fn last_change_of_a_key_wins_and_one_is_sent_at_a_time() {
        let (outbox, now) = (Outbox::default(), Instant::now());
        let push = |key, change| outbox.state().push(key, change, now);
        assert_eq!(push("a", put("1")), Queued::Waiting);
        assert_eq!(push("b", put("1")), Queued::Waiting);
        outbox.withdraw("a");
        assert!(!outbox.trusts("a") && outbox.trusts("b"));
        let popped = || key(outbox.state().pop());
        assert_eq!(popped(), Some(("a".into(), KeyChange::Withdraw)));
        assert!(!outbox.trusts("a"), "it is not done yet");
        push("a", put("2"));
        assert_eq!(popped(), Some(("b".into(), put("1"))));
        assert_eq!(popped(), None, "a is being changed");
        outbox
            .state()
            .settle("a", KeyChange::Withdraw, now, Done::Yes);
        outbox.complete("a");
        assert!(!outbox.trusts("a"), "what comes next is to be in its place");
        assert_eq!(popped(), Some(("a".into(), put("2"))));
        outbox.state().settle("a", put("2"), now, Done::Yes);
        outbox.complete("a");
        assert!(outbox.trusts("a"));
    }

    /// A put that supersedes a withdrawal expires: the withdrawal is still due.
    #[test]
    fn withdrawal_outlives_a_superseding_put() {
        let outbox = Outbox::default();
        outbox.withdraw("a");
        let Some(long_ago) = Instant::now().checked_sub(PUT_LIFETIME) else {
            return;
        };
        let mut state = outbox.state();
        assert_eq!(state.push("a", put("1"), long_ago), Queued::Waiting);
        let (name, change, since) = state.pop().expect("a change");
        assert_eq!(
            state.settle(&name, change, since, Done::No),
            Queued::Dropped
        );
        assert_eq!(key(state.pop()), Some(("a".into(), KeyChange::Withdraw)));
        assert!(!state.trusts("a"));
    }

    #[test]
    fn objects_are_not_used_before_their_withdrawal() {
        let root = tempfile::tempdir().expect("a folder");
        let outbox = Outbox::default();
        outbox.open_journal(root.path(), "s3 a");
        for index in 0..CAPACITY {
            assert_eq!(outbox.withdraw(&index.to_string()), Queued::Waiting);
        }
        let now = unix(SystemTime::now());
        assert!(outbox.trusts("other") && outbox.trusts_confirmation(now));
        assert_eq!(outbox.withdraw("more"), Queued::Dropped);
        assert_eq!(
            outbox.withdraw("1"),
            Queued::Waiting,
            "it is pending already"
        );
        // Nor after a restart.
        let again = Outbox::default();
        again.open_journal(root.path(), "s3 a");
        for outbox in [&outbox, &again] {
            assert!(!outbox.trusts_confirmation(now));
            assert!(outbox.trusts_confirmation(now + 60));
            assert!(!outbox.trusts("1") && outbox.trusts("other"));
        }
        for number in 0..CAPACITY {
            let (key, change, since) = again.state().pop().expect("a change");
            assert_eq!(change, KeyChange::Withdraw);
            again.state().settle(&key, change, since, Done::Yes);
            again.complete(&key);
            assert!(again.trusts(&key), "{number}");
        }
        assert!(!again.trusts_confirmation(now));
    }
}
