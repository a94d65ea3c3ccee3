//! A value for each of a few threads: threads that write to their own do not wait for each other.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The most values.
const MAX_VALUES: usize = 16;

thread_local! {
    /// The number of this thread, in the order in which threads asked for it.
    static NUMBER: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// As many values as threads run at a time, 16 at most. Threads beyond share them.
#[derive(Debug)]
pub struct PerThread<T>(Box<[Padded<T>]>);

/// A value in cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> Default for PerThread<T> {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self(
            (0..threads.min(MAX_VALUES))
                .map(|_| Padded::default())
                .collect(),
        )
    }
}

impl<T> PerThread<T> {
    /// The value of this thread.
    pub fn mine(&self) -> &T {
        &self.0[NUMBER.with(|number| number % self.0.len())].0
    }

    /// The values of all threads.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_writes_to_one_value() {
        let counters = PerThread::<AtomicUsize>::default();
        std::thread::scope(|threads| {
            for _ in 0..3 * MAX_VALUES {
                threads.spawn(|| {
                    let mine = counters.mine();
                    mine.fetch_add(1, Ordering::Relaxed);
                    assert!(std::ptr::eq(mine, counters.mine()));
                });
            }
        });
        let counts = counters.all().map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts.sum::<usize>(), 3 * MAX_VALUES);
    }
}
