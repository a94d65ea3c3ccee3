//! Small changes on their way to the bucket: the last one of a key counts, those of one key go one after another.
//!
//! What is put and does not get there within a minute is dropped: what it says may be wrong by then. What is taken
//! back stays until it is done, over restarts ([`super::journal`]), and is not believed meanwhile.

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

/// How many changes are under way at once.
pub(super) const WORKERS: usize = 4;
/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long something that is put may wait.
const PUT_LIFETIME: Duration = Duration::from_secs(60);
/// The wait after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What is to be done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyChange {
    Put(Bytes),
    /// Must be done: a right that is no longer one.
    Withdraw,
    /// May be left: what is there expires.
    Release,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<OutboxState>,
    news: Notify,
    /// What is pending, on disk. Locked before the state.
    journal: Mutex<Option<Journal>>,
}

#[derive(Debug, Default)]
struct OutboxState {
    changes: HashMap<String, (KeyChange, Instant)>,
    order: VecDeque<String>,
    /// Keys that are being changed.
    busy: HashSet<String>,
    /// What is to be taken back, waiting, under way, or overtaken by what is to be put in its place.
    withdrawals: Withdrawals,
}

/// What became of a change that was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    Waiting,
    /// There are too many.
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

    /// The next change of a key that is not being changed.
    fn pop(&mut self) -> Option<(String, KeyChange, Instant)> {
        let at = self.order.iter().position(|key| !self.busy.contains(key))?;
        let key = self.order.remove(at)?;
        let (change, since) = self.changes.remove(&key)?;
        self.busy.insert(key.clone());
        Some((key, change, since))
    }

    /// A change was tried. What was not done waits again: what is put for a while, in whose place a right is taken
    /// back that is pending since.
    fn settle(&mut self, key: &str, change: KeyChange, since: Instant, done: Done) -> Queued {
        self.busy.remove(key);
        // What came in meanwhile counts instead.
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
    /// Whether what the bucket has under a key may be believed.
    pub fn trusts(&self, key: &str) -> bool {
        self.state().trusts(key)
    }

    /// Whether what was confirmed at a time, in seconds since 1970, may be believed: not where a removal from then
    /// on did not fit.
    pub fn trusts_confirmation(&self, at: u64) -> bool {
        at > self.state().withdrawals.distrusted_until
    }

    /// Goes on with what the journal in `root` says. Blocks on the disk.
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

    /// Owes the withdrawal of a key: from now on it is not believed, not even after a restart. Blocks
    /// on the disk.
    fn withdraw(&self, key: &str) -> Queued {
        let mut journal = self.journal();
        let now = unix(SystemTime::now());
        let fits = {
            let mut state = self.state();
            let fits = state.withdrawals.pending.len() < CAPACITY || !state.trusts(key);
            if fits && !state.withdrawals.pending.insert(key.to_owned()) {
                // It is noted already.
                return state.push(key, KeyChange::Withdraw, Instant::now());
            }
            if !fits {
                // Nothing is, that may be it.
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
            warn_degraded(
                "what is to be taken back from the bucket cannot be noted",
                &error,
            );
        }
        if !fits {
            return Queued::Dropped;
        }
        let mut state = self.state();
        state.push(key, KeyChange::Withdraw, Instant::now())
    }

    /// What was pending of a key is done, unless it is pending anew. Blocks on the disk.
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
                    "what was taken back from the bucket cannot be noted",
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
    /// Goes on with what was to be taken back when the process ended that had the store in `root`. Blocks on the
    /// disk.
    pub(crate) fn open_journal(&self, root: &std::path::Path) {
        let inner = &self.inner;
        let bucket_id = format!("s3 {} {}", inner.name, inner.endpoint);
        inner.outbox.open_journal(root, &bucket_id);
    }

    /// Has a change made, behind whatever is going on. Taking something back blocks on the disk.
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

    /// Makes changes for as long as the process lives.
    pub(super) async fn send_changes(self) {
        let outbox = &self.inner.outbox;
        loop {
            let news = outbox.news.notified();
            let next = outbox.state().pop();
            let Some((key, change, since)) = next else {
                // Another worker may be at the key that waits.
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
            KeyChange::Withdraw | KeyChange::Release => {
                self.write(TIMEOUT, s3.delete(&path)).await.is_ok()
            }
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
    fn the_last_change_counts_and_one_is_made_at_a_time() {
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

    /// What was to be put in the place of a right that is none is dropped after a while; the right is none still.
    #[test]
    fn what_is_owed_outlives_what_was_to_be_put_there() {
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
    fn what_cannot_be_taken_back_is_not_believed() {
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
