//! Content by digest: what is stored, what is in memory of it, and what is on its way.
//!
//! Whose it is and who may have it is decided before; here is only what the bytes are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::policy::EvictionPolicy;

use super::MirrorError;
use super::blob::{BlobAnswer, Content};
use super::cold_blob::opened;
use super::fill::{FillError, Fills, Follower, Joined, Phase, SourceClaim};
use super::source::{FillKey, FillSource, ForeignSource};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use store::{Blob, CommitError, Store, warn_degraded};
use upstream::UpstreamError;

/// What is kept in memory of small bodies, in KiB.
const MEMORY_KIB: u64 = 16 << 10;
/// The largest body that is kept in memory, in bytes.
pub(super) const MAX_MEMORY_BODY: u64 = 64 << 10;
/// How long a fill may be without progress for who needs all of it.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Content by digest. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Contents {
    pub(super) store: Arc<Store>,
    pub(super) fills: Fills,
    pub(super) memory: moka::sync::Cache<Digest, Bytes>,
}

/// A blob that is stored.
#[derive(Debug)]
pub enum StoredBlob {
    Memory(Bytes),
    File(Blob),
}

impl StoredBlob {
    /// The length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(blob) => blob.size,
        }
    }
}

impl Contents {
    /// `limit` fills run at once, on `fills_on`, so that their disk writes do not stall serving.
    pub fn new(store: Arc<Store>, limit: usize, fills_on: tokio::runtime::Handle) -> Self {
        let memory = moka::sync::Cache::builder()
            .max_capacity(MEMORY_KIB)
            .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len() / 1024 + 1).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self {
            fills: Fills::new(limit, store.clone(), fills_on),
            store,
            memory,
        }
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A body of at most `most` bytes: from memory, or from the disk into memory. `None` when it is not here, or
    /// longer, of which nothing is read.
    ///
    /// # Errors
    /// [`MirrorError::Disk`] when it cannot be read.
    pub async fn load_small(
        &self,
        digest: &Digest,
        most: u64,
    ) -> Result<Option<Bytes>, MirrorError> {
        if let Some(bytes) = self.memory.get(digest) {
            self.store.blobs.touch(digest);
            return Ok(Some(bytes));
        }
        let (blobs, digest) = (self.store.blobs.clone(), *digest);
        let read = tokio::task::spawn_blocking(move || {
            let bytes = blobs.load(&digest, most)?;
            Ok(bytes.map(Bytes::from))
        });
        let bytes = read
            .await
            .map_err(std::io::Error::other)
            .and_then(|bytes| bytes);
        let bytes = bytes.map_err(|error| MirrorError::Disk(Arc::new(error)))?;
        if let Some(bytes) = &bytes {
            self.cache_in_memory(digest, bytes);
        }
        Ok(bytes)
    }

    /// A stored blob, of that size where a link knows it; small ones stay in memory. A disk that cannot say counts
    /// as absent: slower, not wrong.
    pub async fn open(&self, digest: &Digest, size: Option<u64>) -> Option<StoredBlob> {
        if let Some(bytes) = self.memory.get(digest) {
            self.store.blobs.touch(digest);
            return Some(StoredBlob::Memory(bytes));
        }
        let (blobs, wanted) = (self.store.blobs.clone(), *digest);
        let opened = tokio::task::spawn_blocking(move || blobs.open(&wanted, size)).await;
        let blob = match opened
            .map_err(std::io::Error::other)
            .and_then(|opened| opened)
        {
            Ok(blob) => blob?,
            Err(error) => {
                warn_degraded("a blob cannot be opened", &error);
                return None;
            }
        };
        if blob.size <= MAX_MEMORY_BODY
            && let Ok(bytes) = self.load_small(digest, MAX_MEMORY_BODY).await
        {
            // Or it was damaged.
            return bytes.map(StoredBlob::Memory);
        }
        Some(StoredBlob::File(blob))
    }

    /// Stores a small body. Where the disk cannot, who needs it has it made again.
    pub async fn store_small(&self, digest: Digest, bytes: Bytes) {
        self.cache_in_memory(digest, &bytes);
        let blobs = self.store.blobs.clone();
        let kept = tokio::task::spawn_blocking(move || blobs.keep(&digest, &bytes)).await;
        if let Ok(Err(CommitError::Io(error))) = kept {
            warn_degraded("a small body cannot be stored", &error);
        }
    }

    /// What a foreign source has, as it arrives. Who may have it was decided before.
    ///
    /// # Errors
    /// What the source said.
    pub async fn fill(
        &self,
        key: FillKey,
        source: Arc<dyn ForeignSource>,
    ) -> Result<BlobAnswer, FillError> {
        let source = FillSource::Foreign(source);
        loop {
            let (mut follower, collapsed) = self.join(key, &source);
            let cache = CacheStatus::forward(Forward::UriMiss).collapsed(collapsed);
            let (size, cache, content) = match opened(&mut follower, &source).await {
                Ok(size) => (size, cache.stored(), Content::Fill(follower, source)),
                // It gave its slot up before it saw us: it goes on for us.
                Err(FillError::Paused) => continue,
                Err(FillError::NoRoom { total }) => {
                    let content = Content::PassThrough(source, key);
                    (total, cache.detail("no-room"), content)
                }
                Err(error) => return Err(error),
            };
            return Ok(BlobAnswer {
                size,
                cache,
                content,
            });
        }
    }

    /// Waits until what a foreign source has is stored.
    ///
    /// # Errors
    /// What the source said; [`FillError::Paused`] where other fills needed the slot.
    pub async fn fill_whole(
        &self,
        key: FillKey,
        source: Arc<dyn ForeignSource>,
    ) -> Result<(), FillError> {
        let (follower, _) = self.join(key, &FillSource::Foreign(source));
        let mut progress = follower.progress;
        loop {
            match &progress.borrow_and_update().phase {
                Phase::Waiting | Phase::Streaming { .. } => {}
                Phase::Done { .. } => return Ok(()),
                Phase::Failed(error) => return Err(error.clone()),
            }
            let changed = tokio::time::timeout(STALL_TIMEOUT, progress.changed()).await;
            let late = || FillError::Upstream(Arc::new(UpstreamError::Timeout));
            changed.map_err(|_| late())?.map_err(|_| FillError::Lost)?;
        }
    }

    /// Keeps a small body in memory.
    pub(super) fn cache_in_memory(&self, digest: Digest, bytes: &Bytes) {
        if bytes.len() as u64 <= MAX_MEMORY_BODY {
            self.memory.insert(digest, bytes.clone());
        }
    }

    /// The fill of a content that its source is known to have, and whether it was under way already.
    fn join(&self, key: FillKey, source: &FillSource) -> (Follower, bool) {
        loop {
            if let Joined::Fill {
                follower,
                collapsed,
            } = self.fills.join(key, source.clone(), SourceClaim::Proven)
            {
                return (follower, collapsed);
            }
        }
    }
}
