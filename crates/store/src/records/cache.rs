//! The cache of recently used records in memory.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use moka::policy::EvictionPolicy;

use crate::record::{Record, RecordKey};

/// The memory that entries may take, as [`CachedRecord::weight`] estimates it, in bytes.
const CAPACITY: u64 = 64 << 20;
/// The overhead of an entry beside its value, in bytes.
const ENTRY: u32 = 512;

/// A bounded cache of records of all kinds. The type of a value follows from its key.
pub(super) struct RecordCache {
    entries: moka::sync::Cache<RecordKey, Arc<CachedRecord>, RandomState>,
}

/// A record in memory.
pub(super) struct CachedRecord {
    record: Arc<dyn Any + Send + Sync>,
    /// The length of the record as JSON, in bytes.
    length: usize,
    /// Its last use according to the disk, in seconds since 1970.
    pub persisted_use: AtomicU64,
    /// When the record on disk was confirmed, in seconds since 1970; `None` if this record is not on disk.
    pub persisted_check: Option<u64>,
}

impl CachedRecord {
    pub fn new<V: Record>(
        record: &Arc<V>,
        length: usize,
        used: u64,
        persisted_check: Option<u64>,
    ) -> Self {
        Self {
            record: record.clone(),
            length,
            persisted_use: AtomicU64::new(used),
            persisted_check,
        }
    }

    /// The same entry with a later confirmation, which is not on disk.
    pub fn confirmed<V: Record>(&self, record: &Arc<V>) -> Self {
        let used = self.persisted_use.load(Ordering::Relaxed);
        Self::new(record, self.length, used, self.persisted_check)
    }

    pub fn record<V: Record>(&self) -> Option<Arc<V>> {
        self.record.clone().downcast().ok()
    }

    /// An estimate of its memory: values with many small parts take more than their JSON.
    fn weight(&self) -> u32 {
        let value = u32::try_from(self.length).unwrap_or(u32::MAX);
        value.saturating_mul(2).saturating_add(ENTRY)
    }
}

impl RecordCache {
    pub fn new() -> Self {
        Self::of(CAPACITY)
    }

    pub fn of(capacity: u64) -> Self {
        let entries = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, entry: &Arc<CachedRecord>| entry.weight())
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(RandomState::new());
        Self { entries }
    }

    pub fn entry(&self, key: &RecordKey) -> Option<Arc<CachedRecord>> {
        self.entries.get(key)
    }

    pub fn insert(&self, key: &RecordKey, entry: CachedRecord) {
        self.entries.insert(key.clone(), Arc::new(entry));
    }

    pub fn remove_where(&self, concerned: impl Fn(&RecordKey) -> bool) {
        for (key, _) in &self.entries {
            if concerned(&key) {
                self.entries.invalidate(&*key);
            }
        }
    }

    pub fn remove(&self, key: &RecordKey) {
        self.entries.invalidate(key);
    }
}
