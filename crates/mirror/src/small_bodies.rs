//! Small bodies in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use moka::policy::EvictionPolicy;

use super::freshness::unix_seconds;
use oci::digest::Digest;
use store::Blobs;

/// The capacity, in KiB.
const CAPACITY: u64 = 16 << 10;
/// The largest body, in bytes.
pub(super) const MAX_MEMORY_BODY: u64 = 64 << 10;

/// A bounded cache of bodies whose digest was verified. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct SmallBodies {
    bodies: moka::sync::Cache<Digest, Arc<SmallBody>, ahash::RandomState>,
}

#[derive(Debug)]
struct SmallBody {
    bytes: Bytes,
    /// When the store was last told of a use, in seconds since 1970. Once a second is enough for the order of eviction, and
    /// its lock is one for all threads.
    touched: AtomicU64,
}

impl SmallBodies {
    pub fn new() -> Self {
        let weight = |_: &Digest, body: &Arc<SmallBody>| {
            u32::try_from(body.bytes.len() / 1024 + 1).unwrap_or(u32::MAX)
        };
        let bodies = moka::sync::Cache::builder()
            .max_capacity(CAPACITY)
            .weigher(weight)
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(ahash::RandomState::new());
        Self { bodies }
    }

    /// A body, whose use is noted in the store.
    pub fn get(&self, digest: &Digest, blobs: &Blobs) -> Option<Bytes> {
        let body = self.bodies.get(digest)?;
        let now = unix_seconds(SystemTime::now());
        if body.touched.load(Ordering::Relaxed) != now {
            body.touched.store(now, Ordering::Relaxed);
            blobs.touch(digest);
        }
        Some(body.bytes.clone())
    }

    /// A body, whose use is not noted in the store.
    pub fn inspect(&self, digest: &Digest) -> Option<Bytes> {
        Some(self.bodies.get(digest)?.bytes.clone())
    }

    /// Caches a body, unless it is too large.
    pub fn insert(&self, digest: Digest, bytes: &Bytes) {
        if bytes.len() as u64 <= MAX_MEMORY_BODY {
            let body = SmallBody {
                bytes: bytes.clone(),
                touched: AtomicU64::new(0),
            };
            self.bodies.insert(digest, Arc::new(body));
        }
    }

    pub fn remove(&self, digest: &Digest) {
        self.bodies.invalidate(digest);
    }
}
