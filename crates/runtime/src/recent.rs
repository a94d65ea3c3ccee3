//! The most recent values of a kind, in memory, numbered in their order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::per_thread::PerThread;

/// A bounded queue that forgets its oldest values. Each thread has a queue of its own; readers merge them.
#[derive(Debug)]
pub struct Recent<T> {
    capacity: usize,
    /// The number of the last value; 0 before the first.
    last: AtomicU64,
    queues: PerThread<ThreadQueue<T>>,
}

#[derive(Debug)]
struct ThreadQueue<T>(Mutex<VecDeque<(u64, T)>>);

impl<T> Default for ThreadQueue<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> ThreadQueue<T> {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Recent<T> {
    /// Keeps the last `capacity` values.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            last: AtomicU64::new(0),
            queues: PerThread::default(),
        }
    }

    /// Adds a value.
    pub fn push(&self, value: T) {
        let mut queue = self.queues.mine().lock();
        let oldest = (queue.len() >= self.capacity).then(|| queue.pop_front());
        // A number is taken under the lock: who has seen the number and locks the queue finds the value.
        let number = self.last.fetch_add(1, Ordering::AcqRel) + 1;
        queue.push_back((number, value));
        drop(queue);
        drop(oldest);
    }

    /// The number of the last value; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The values after number `after` with their numbers, oldest first.
    pub fn since(&self, after: u64) -> Vec<(u64, T)> {
        // Without a bound, a queue that was read early could lack a number below one that was read late.
        let last = self.last();
        let mut values = Vec::new();
        for queue in self.queues.all() {
            let queue = queue.lock();
            let first = queue.partition_point(|(number, _)| *number <= after);
            let end = queue.partition_point(|(number, _)| *number <= last);
            values.extend(queue.range(first..end.max(first)).cloned());
        }
        values.sort_unstable_by_key(|(number, _)| *number);
        values.split_off(values.len().saturating_sub(self.capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_values_are_forgotten() {
        let recent = Recent::new(3);
        assert_eq!((recent.last(), recent.since(0)), (0, vec![]));
        for value in ['a', 'b', 'c', 'd'] {
            recent.push(value);
        }
        assert_eq!(recent.since(0), [(2, 'b'), (3, 'c'), (4, 'd')]);
        assert_eq!(recent.since(3), [(4, 'd')]);
        assert_eq!(recent.since(4), []);
        assert_eq!(recent.since(9), []);
        assert_eq!(recent.last(), 4);
    }

    #[test]
    fn a_reader_misses_no_value_of_any_thread() {
        const EACH: u64 = 500;
        const THREADS: u64 = 4;
        let recent = Recent::new(usize::try_from(EACH * THREADS).expect("small"));
        let mut seen = 0;
        std::thread::scope(|threads| {
            for _ in 0..THREADS {
                threads.spawn(|| (0..EACH).for_each(|value| recent.push(value)));
            }
            while seen < EACH * THREADS {
                for (number, _) in recent.since(seen) {
                    assert_eq!(number, seen + 1);
                    seen = number;
                }
            }
        });
    }
}
