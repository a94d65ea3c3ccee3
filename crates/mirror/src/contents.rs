//! Content by digest: the store, its in-memory cache, and the fills.
//!
//! The right to content is checked before; this module knows bytes only.

use std::sync::Arc;
use std::time::Duration;

use super::MirrorError;
use super::blob_answer::{BlobAnswer, Content};
use super::cold_blob::opened;
use super::fill::{Fills, Follower, Joined, SourceClaim};
use super::peer::Peers;
use super::progress::{FillError, Phase};
use super::small_bodies::{MAX_MEMORY_BODY, SmallBodies};
use super::source::{FillKey, FillSource, ForeignSource};
use super::waiting::Requester;
use bytes::Bytes;
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use store::{Blob, Blobs, CommitError, Store, warn_degraded};
use upstream::UpstreamError;

/// How long [`Contents::fill_whole`] waits without progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Content by digest. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Contents {
    pub(super) store: Arc<Store>,
    pub(super) fills: Fills,
    pub(super) memory: SmallBodies,
}

/// A blob that is stored.
#[derive(Debug)]
pub enum StoredBlob {
    /// A small body, from memory.
    Memory(Bytes),
    /// A file of the store.
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
    /// Up to `limit` fills run at once, on `fills_on`, so that their disk writes do not stall serving.
    /// With `peers` they read blobs from the other gateways of the bucket.
    pub fn new(
        store: Arc<Store>,
        limit: usize,
        fills_on: tokio::runtime::Handle,
        peers: Option<Peers>,
    ) -> Self {
        Self {
            fills: Fills::new(limit, store.clone(), fills_on, peers),
            store,
            memory: SmallBodies::new(),
        }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A body of at most `most` bytes, from memory or disk. `None` if it is not stored, or longer: then none of
    /// it is read.
    ///
    /// # Errors
    /// [`MirrorError::Disk`] if it cannot be read.
    pub async fn load_small(
        &self,
        digest: &Digest,
        most: u64,
    ) -> Result<Option<Bytes>, MirrorError> {
        if let Some(bytes) = self.memory.get(digest, &self.store.blobs) {
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
            self.memory.insert(digest, bytes);
        }
        Ok(bytes)
    }

    /// A stored blob, of `size` if a link knows it; small ones are cached in memory. An unreadable disk counts
    /// as a miss: slower, not wrong.
    pub async fn open(&self, digest: &Digest, size: Option<u64>) -> Option<StoredBlob> {
        if let Some(bytes) = self.memory.get(digest, &self.store.blobs) {
            return Some(StoredBlob::Memory(bytes));
        }
        let (blobs, wanted) = (self.store.blobs.clone(), *digest);
        let opened = tokio::task::spawn_blocking(move || open_stored(&blobs, &wanted, size)).await;
        match opened
            .map_err(std::io::Error::other)
            .and_then(|opened| opened)
        {
            Ok(opened) => {
                if let Some(StoredBlob::Memory(bytes)) = &opened {
                    self.memory.insert(*digest, bytes);
                }
                opened
            }
            Err(error) => {
                warn_degraded("a blob cannot be opened", &error);
                None
            }
        }
    }

    /// The length of a blob that [`Contents::open`] would open, in bytes. Its use is not noted. Blocks on the disk.
    pub(super) fn inspect(&self, digest: &Digest, size: Option<u64>) -> Option<u64> {
        let stored = self.store.blobs.inspect(digest, size).ok().flatten();
        stored.or_else(|| Some(self.memory.inspect(digest)?.len() as u64))
    }

    /// The bytes of a small body, not verified. Its use is not noted. Blocks on the disk.
    pub(super) fn inspect_small(&self, digest: &Digest) -> Option<Vec<u8>> {
        let stored = self.store.inspect_manifest(digest);
        stored.or_else(|| Some(self.memory.inspect(digest)?.to_vec()))
    }

    /// Stores a small body. If the disk fails, it is rebuilt when it is next needed.
    pub async fn store_small(&self, digest: Digest, bytes: Bytes) {
        self.memory.insert(digest, &bytes);
        let blobs = self.store.blobs.clone();
        let stored = tokio::task::spawn_blocking(move || blobs.put(&digest, &bytes)).await;
        if let Ok(Err(CommitError::Io(error))) = stored {
            warn_degraded("a small body cannot be stored", &error);
        }
    }

    /// The content of a foreign source, as it arrives. The right to it is checked before.
    ///
    /// # Errors
    /// Why the source failed.
    pub async fn fill(
        &self,
        key: FillKey,
        source: Arc<dyn ForeignSource>,
        requester: Requester<'_>,
    ) -> Result<BlobAnswer, FillError> {
        let source = FillSource::Foreign(source);
        loop {
            let (mut follower, collapsed) = self.join(key, &source);
            follower.name(requester);
            let cache = CacheStatus::forward(Forward::UriMiss).collapsed(collapsed);
            let (size, cache, content) = match opened(&mut follower, &source).await {
                Ok(size) => (size, cache.stored(), Content::Fill(follower, source)),
                // The fill yielded its slot before this request joined: joining resumes it.
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

    /// Waits until the content of a foreign source is stored.
    ///
    /// # Errors
    /// Why the source failed; [`FillError::Paused`] if other fills needed the slot.
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

    /// Joins or starts the fill of content that its source is known to have; says whether it was in progress.
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

/// A blob of the store; a small one is read whole. Blocks on the disk.
fn open_stored(
    blobs: &Blobs,
    digest: &Digest,
    size: Option<u64>,
) -> std::io::Result<Option<StoredBlob>> {
    match blobs.open(digest, size)? {
        Some(blob) if blob.size <= MAX_MEMORY_BODY => {
            let bytes = blobs.read_verified(digest, blob)?;
            Ok(bytes.map(|bytes| StoredBlob::Memory(bytes.into())))
        }
        blob => Ok(blob.map(StoredBlob::File)),
    }
}
