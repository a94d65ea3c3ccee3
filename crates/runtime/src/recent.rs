//! The most recent values of a kind, in memory, numbered in their order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A bounded queue that forgets its oldest values.
#[derive(Debug)]
pub struct Recent<T> {
    capacity: usize,
    values: Mutex<Values<T>>,
}

#[derive(Debug)]
struct Values<T> {
    /// The number of the last value; 0 before the first.
    last: u64,
    values: VecDeque<Arc<T>>,
}

impl<T> Recent<T> {
    /// Keeps the last `capacity` values.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            values: Mutex::new(Values {
                last: 0,
                values: VecDeque::new(),
            }),
        }
    }

    /// Adds a value.
    pub fn push(&self, value: T) {
        let value = Arc::new(value);
        let mut values = self.lock();
        values.last += 1;
        values.values.push_back(value);
        let oldest = if values.values.len() > self.capacity {
            values.values.pop_front()
        } else {
            None
        };
        // It is dropped without the lock.
        drop(values);
        drop(oldest);
    }

    /// The number of the last value; 0 before the first.
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// The values after number `after` with their numbers, oldest first.
    pub fn since(&self, after: u64) -> Vec<(u64, Arc<T>)> {
        let values = self.lock();
        let first = values.last + 1 - values.values.len() as u64;
        let skipped = (after + 1).saturating_sub(first);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let kept = values.values.iter().cloned().zip(first..);
        kept.skip(skipped)
            .map(|(value, number)| (number, value))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Values<T>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_values_are_forgotten() {
        let recent = Recent::new(3);
        let since = |recent: &Recent<char>, after| -> Vec<(u64, char)> {
            let values = recent.since(after).into_iter();
            values.map(|(number, value)| (number, *value)).collect()
        };
        assert_eq!((recent.last(), since(&recent, 0)), (0, vec![]));
        for value in ['a', 'b', 'c', 'd'] {
            recent.push(value);
        }
        assert_eq!(since(&recent, 0), [(2, 'b'), (3, 'c'), (4, 'd')]);
        assert_eq!(since(&recent, 3), [(4, 'd')]);
        assert_eq!(since(&recent, 4), []);
        assert_eq!(since(&recent, 9), []);
        assert_eq!(recent.last(), 4);
    }
}
