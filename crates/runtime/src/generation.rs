//! Generations: whether an answer is still valid when it arrives.
//!
//! A question about a key belongs to the generation in which it was asked. A write or a removal of the key ends that
//! generation: an answer to an earlier question is outdated, and is not stored. Only keys with open questions are
//! remembered, so this takes no more memory than the questions do.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The generations of keys of one kind. Cloning is cheap.
pub struct Generations<K: Eq + Hash> {
    keys: Arc<Mutex<Keys<K>>>,
}

/// An open question about a key, until it is dropped. Cloning is cheap.
pub struct Question<K: Eq + Hash> {
    asked: Arc<Asked<K>>,
}

struct Asked<K: Eq + Hash> {
    keys: Arc<Mutex<Keys<K>>>,
    key: K,
    /// When it was asked, by the clock of all keys.
    at: u64,
    /// The state of the key at that time.
    seen: State,
}

struct Keys<K> {
    under_way: HashMap<K, UnderWay>,
    /// Counts questions and writes, so that each has a time of its own.
    clock: u64,
    /// The last write of any key without open questions, so that no generation number is used twice.
    forgotten: u64,
}

struct UnderWay {
    questions: usize,
    state: State,
}

/// The last events of a key, by the clock of all keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// The last write or removal.
    written: u64,
    /// The latest question whose answer was stored.
    answered: u64,
}

impl<K: Clone + Eq + Hash> Default for Generations<K> {
    fn default() -> Self {
        let keys = Keys {
            under_way: HashMap::new(),
            clock: 0,
            forgotten: 0,
        };
        Self {
            keys: Arc::new(Mutex::new(keys)),
        }
    }
}

impl<K: Eq + Hash> Clone for Generations<K> {
    fn clone(&self) -> Self {
        Self {
            keys: self.keys.clone(),
        }
    }
}

impl<K: Eq + Hash> Clone for Question<K> {
    fn clone(&self) -> Self {
        Self {
            asked: self.asked.clone(),
        }
    }
}

impl<K: Eq + Hash> fmt::Debug for Generations<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Generations")
    }
}

impl<K: Eq + Hash + fmt::Debug> fmt::Debug for Question<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Question").field(&self.asked.key).finish()
    }
}

impl<K: Clone + Eq + Hash> Generations<K> {
    /// Opens a question about a key; call it before the request is sent.
    pub fn ask(&self, key: K) -> Question<K> {
        let mut keys = lock(&self.keys);
        let at = keys.tick();
        let state = State {
            written: keys.forgotten,
            answered: 0,
        };
        let entry = keys.under_way.entry(key.clone());
        let under_way = entry.or_insert(UnderWay {
            questions: 0,
            state,
        });
        under_way.questions += 1;
        let seen = under_way.state;
        drop(keys);
        let asked = Asked {
            keys: self.keys.clone(),
            key,
            at,
            seen,
        };
        Question {
            asked: Arc::new(asked),
        }
    }

    /// Ends a key's generation by `change`, which must be quick: no answer is stored meanwhile.
    pub fn write<Q, T>(&self, key: &Q, change: impl FnOnce() -> T) -> T
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut keys = lock(&self.keys);
        let now = keys.tick();
        if let Some(under_way) = keys.under_way.get_mut(key) {
            under_way.state.written = now;
        }
        change()
    }

    /// Ends the generations of all keys for which `ends` is true by `change`, which must be quick.
    pub fn write_where<T>(&self, ends: impl Fn(&K) -> bool, change: impl FnOnce() -> T) -> T {
        let mut keys = lock(&self.keys);
        let now = keys.tick();
        for (key, under_way) in &mut keys.under_way {
            if ends(key) {
                under_way.state.written = now;
            }
        }
        change()
    }
}

impl<K: Eq + Hash> Question<K> {
    /// The key whose answer is asked for.
    pub fn key(&self) -> &K {
        &self.asked.key
    }

    /// The number of the generation in which it was asked.
    pub fn generation(&self) -> u64 {
        self.asked.seen.written
    }

    /// Whether its answer would be stored: nothing was written since, and no later question was answered.
    pub fn is_current(&self) -> bool {
        self.admits(lock(&self.asked.keys).state(&self.asked.key))
    }

    /// Stores its answer by `keep`, which must be quick, if the answer is still valid.
    pub fn answer<T>(&self, keep: impl FnOnce() -> T) -> Option<T> {
        let mut keys = lock(&self.asked.keys);
        let state = keys.state(&self.asked.key);
        if !self.admits(state) {
            return None;
        }
        state.answered = self.asked.at;
        Some(keep())
    }

    /// Calls `keep`, which must be quick, if nothing was written since: for a key with answers of several kinds.
    pub fn unwritten<T>(&self, keep: impl FnOnce() -> T) -> Option<T> {
        let mut keys = lock(&self.asked.keys);
        (keys.state(&self.asked.key).written < self.asked.at).then(keep)
    }

    /// Calls `keep`, which must be quick, if nothing was written or stored since the question.
    pub fn unchanged<T>(&self, keep: impl FnOnce() -> T) -> Option<T> {
        let mut keys = lock(&self.asked.keys);
        (*keys.state(&self.asked.key) == self.asked.seen).then(keep)
    }

    /// Ends the generation by a write that began with this question. `change` must be quick; its argument is whether no other
    /// write ended meanwhile. The order of two concurrent writes is known to the registry alone.
    pub fn write<T>(&self, change: impl FnOnce(bool) -> T) -> T {
        let mut keys = lock(&self.asked.keys);
        let now = keys.tick();
        let state = keys.state(&self.asked.key);
        let is_alone = state.written < self.asked.at;
        state.written = now;
        change(is_alone)
    }

    fn admits(&self, state: &State) -> bool {
        state.written < self.asked.at && state.answered <= self.asked.at
    }
}

impl<K: Eq + Hash> Drop for Asked<K> {
    fn drop(&mut self) {
        let mut keys = lock(&self.keys);
        let Some(under_way) = keys.under_way.get_mut(&self.key) else {
            return;
        };
        under_way.questions -= 1;
        if under_way.questions == 0 {
            let written = under_way.state.written;
            keys.under_way.remove(&self.key);
            keys.forgotten = keys.forgotten.max(written);
        }
    }
}

impl<K: Eq + Hash> Keys<K> {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl<K: Eq + Hash> Keys<K> {
    /// The state of a key with an open question.
    fn state(&mut self, key: &K) -> &mut State {
        let under_way = self.under_way.get_mut(key);
        // A question counts itself until it is dropped.
        &mut under_way.expect("its question is under way").state
    }
}

fn lock<K>(keys: &Mutex<Keys<K>>) -> MutexGuard<'_, Keys<K>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_from_before_a_write_are_dropped() {
        let keys = Generations::<String>::default();
        let (before, other) = (keys.ask("a".into()), keys.ask("b".into()));
        keys.write("a", || ());
        assert_eq!(before.answer(|| ()), None);
        assert_eq!(other.answer(|| ()), Some(()));
        let after = keys.ask("a".into());
        assert!(after.generation() > before.generation());
        assert_eq!(after.answer(|| ()), Some(()));
        assert_eq!(before.answer(|| ()), None);
        keys.write_where(|key| key.starts_with('a'), || ());
        assert!(!after.is_current() && other.is_current());
    }

    #[test]
    fn of_two_answers_the_later_question_counts() {
        let keys = Generations::<&str>::default();
        let (first, second) = (keys.ask("a"), keys.ask("a"));
        assert_eq!(first.answer(|| ()), Some(()));
        assert_eq!(second.answer(|| ()), Some(()));
        assert_eq!(first.answer(|| ()), None);
        // A question may be answered in steps.
        assert_eq!(second.answer(|| ()), Some(()));
        assert_eq!(second.unchanged(|| ()), None);
        assert_eq!(keys.ask("a").unchanged(|| ()), Some(()));
    }

    #[test]
    fn of_two_writes_at_once_none_is_the_last() {
        let keys = Generations::<&str>::default();
        let (first, second) = (keys.ask("a"), keys.ask("a"));
        assert!(first.write(|is_alone| is_alone));
        assert!(!second.write(|is_alone| is_alone));
        // An answer that was stored meanwhile may be older.
        let (write, question) = (keys.ask("a"), keys.ask("a"));
        assert_eq!(question.answer(|| ()), Some(()));
        assert!(write.write(|is_alone| is_alone));
        assert_eq!(question.answer(|| ()), None);
    }

    #[test]
    fn only_questions_under_way_are_remembered() {
        let keys = Generations::<u32>::default();
        let mut numbers = Vec::new();
        for key in 0..1000 {
            let question = keys.ask(key);
            numbers.push(question.generation());
            question.clone().write(|_| ());
            drop(question);
            // No generation of a key has the number of an earlier one.
            let again = keys.ask(key).generation();
            assert!(again > numbers[numbers.len() - 1]);
        }
        assert!(lock(&keys.keys).under_way.is_empty());
    }
}
