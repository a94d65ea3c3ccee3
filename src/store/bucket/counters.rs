//! What happened with the bucket, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) verify_failures: AtomicU64,
    pub(super) uploads: AtomicU64,
    pub(super) uploads_dropped: AtomicU64,
    pub(super) records_dropped: AtomicU64,
    pub(super) lease_timeouts: AtomicU64,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records and bodies that the bucket had.
    pub hits: u64,
    /// Records and bodies that it had not.
    pub misses: u64,
    /// Questions and changes that failed or took too long.
    pub failures: u64,
    /// Bodies and records that were not what they should be.
    pub verify_failures: u64,
    /// Bodies that were written there.
    pub uploads: u64,
    /// Bodies that were not, because the bucket failed or the queue was full.
    pub uploads_dropped: u64,
    /// Changes of records that did not get there.
    pub records_dropped: u64,
    /// Fills that waited for another node's in vain.
    pub lease_timeouts: u64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            hits: of(&self.hits),
            misses: of(&self.misses),
            failures: of(&self.failures),
            verify_failures: of(&self.verify_failures),
            uploads: of(&self.uploads),
            uploads_dropped: of(&self.uploads_dropped),
            records_dropped: of(&self.records_dropped),
            lease_timeouts: of(&self.lease_timeouts),
        }
    }
}
