//! Small changes on their way to the bucket: the last one of a key counts, those of one key go one after another.
//!
//! What is put and does not get there within a minute is dropped: what it says may be wrong by then. What is taken
//! back stays until it is done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use tokio::sync::Notify;

use super::Bucket;
use crate::metrics::{self, BucketEvent};

/// How many changes are under way at once.
pub(super) const WORKERS: usize = 4;
/// How many may wait.
const MOST: usize = 10_000;
/// How long one may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How long something that is put may wait.
const LIFE: Duration = Duration::from_secs(60);
const LONGER_THAN_A_QUESTION: Duration = Duration::from_secs(3);
/// The wait after a failure.
const WAIT: Duration = Duration::from_secs(1);

/// What is to be done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put(Bytes),
    /// Must be done: a right that is no longer one.
    TakeBack,
    /// May be left: what is there expires.
    Release,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    news: Notify,
    /// What was taken back a moment ago: a question from before may still bring it.
    recently: Recently,
}

/// Keys, remembered for longer than any question takes.
#[derive(Debug)]
struct Recently(moka::sync::Cache<String, ()>);

impl Default for Recently {
    fn default() -> Self {
        let builder = moka::sync::Cache::builder().max_capacity(MOST as u64);
        Self(builder.time_to_live(LONGER_THAN_A_QUESTION).build())
    }
}

#[derive(Debug, Default)]
struct State {
    changes: HashMap<String, (Change, Instant)>,
    order: VecDeque<String>,
    /// Keys that are being changed.
    busy: HashSet<String>,
    /// Those of them that are taken back.
    leaving: HashSet<String>,
    /// A removal did not fit: nothing there is believed before all is done.
    overrun: bool,
}

impl State {
    /// Queues a change in place of an earlier one; false when it does not fit.
    fn push(&mut self, key: &str, change: Change, now: Instant) -> bool {
        if let Some(waiting) = self.changes.get_mut(key) {
            *waiting = (change, now);
            return true;
        }
        if self.changes.len() >= MOST {
            self.overrun |= change == Change::TakeBack;
            return false;
        }
        self.changes.insert(key.to_owned(), (change, now));
        self.order.push_back(key.to_owned());
        true
    }

    /// The next change of a key that nobody changes.
    fn pop(&mut self) -> Option<(String, Change, Instant)> {
        let at = self.order.iter().position(|key| !self.busy.contains(key))?;
        let key = self.order.remove(at)?;
        let (change, since) = self.changes.remove(&key)?;
        self.busy.insert(key.clone());
        if change == Change::TakeBack {
            self.leaving.insert(key.clone());
        }
        Some((key, change, since))
    }

    fn done(&mut self, key: &str) {
        self.busy.remove(key);
        self.leaving.remove(key);
        self.overrun &= !(self.changes.is_empty() && self.busy.is_empty());
    }

    fn trusts(&self, key: &str) -> bool {
        let waits = self
            .changes
            .get(key)
            .is_some_and(|(change, _)| *change == Change::TakeBack);
        !self.overrun && !waits && !self.leaving.contains(key)
    }
}

impl Outbox {
    /// Whether what the bucket has under a key may be believed.
    pub fn trusts(&self, key: &str) -> bool {
        self.state().trusts(key)
    }

    /// Whether a key was taken back a moment ago.
    pub fn was_taken_back(&self, key: &str) -> bool {
        self.recently.0.contains_key(key)
    }

    /// A change was tried: what was not done waits again, as far as it may. False when it is given up.
    fn settle(&self, key: &str, change: Change, since: Instant, done: bool) -> bool {
        let mut state = self.state();
        state.done(key);
        // What came in meanwhile counts instead.
        if done || state.changes.contains_key(key) {
            return true;
        }
        let keeps = change == Change::TakeBack || since.elapsed() < LIFE;
        keeps && state.push(key, change, since)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// Has a change made, behind whatever is going on.
    pub(super) fn change(&self, key: &Path, change: Change) {
        let outbox = &self.inner.outbox;
        if change == Change::TakeBack {
            outbox.recently.0.insert(key.to_string(), ());
        }
        let queued = outbox.state().push(key.as_ref(), change, Instant::now());
        if queued {
            outbox.news.notify_one();
        } else {
            metrics::bucket(BucketEvent::RecordDropped);
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
                let _ = tokio::time::timeout(WAIT, news).await;
                continue;
            };
            let done = self.make(&key, &change).await;
            if !outbox.settle(&key, change, since, done) {
                metrics::bucket(BucketEvent::RecordDropped);
            }
            if !done {
                tokio::time::sleep(WAIT).await;
            }
        }
    }

    async fn make(&self, key: &str, change: &Change) -> bool {
        let (s3, path) = (&self.inner.s3, super::raw_path(key));
        match change {
            Change::Put(bytes) => {
                let put = s3.put(&path, bytes.clone().into());
                self.write(WITHIN, put).await.is_ok()
            }
            Change::TakeBack | Change::Release => {
                self.write(WITHIN, s3.delete(&path)).await.is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_counts_and_one_is_made_at_a_time() {
        let (mut state, now) = (State::default(), Instant::now());
        let put = |text: &'static str| Change::Put(Bytes::from_static(text.as_bytes()));
        assert!(state.push("a", put("1"), now) && state.push("b", put("1"), now));
        assert!(state.push("a", Change::TakeBack, now));
        assert!(!state.trusts("a") && state.trusts("b"));
        assert_eq!(state.pop(), Some(("a".into(), Change::TakeBack, now)));
        assert!(!state.trusts("a"), "it is not done yet");
        state.push("a", put("2"), now);
        assert_eq!(state.pop().map(|(key, ..)| key).as_deref(), Some("b"));
        assert_eq!(state.pop(), None, "a is being changed");
        state.done("a");
        assert!(state.trusts("a"));
        assert_eq!(state.pop(), Some(("a".into(), put("2"), now)));
    }

    #[test]
    fn what_cannot_be_taken_back_is_not_believed() {
        let (mut state, now) = (State::default(), Instant::now());
        for index in 0..MOST {
            assert!(state.push(&index.to_string(), Change::TakeBack, now));
        }
        assert!(!state.push("more", Change::Put(Bytes::new()), now));
        assert!(state.trusts("other"));
        assert!(!state.push("more", Change::TakeBack, now));
        assert!(!state.trusts("more") && !state.trusts("other"));
        while let Some((key, ..)) = state.pop() {
            state.done(&key);
        }
        assert!(state.trusts("more"));
    }
}
