//! Reads the store for operators, without noting a use: nothing that is looked at stays longer for it.
//!
//! All of it blocks on the disk, and reads the records of one repository at most.

use std::io;
use std::path::{Path, PathBuf};

use super::Store;
use super::durable::{is_absent, write_atomic};
use super::layout::{PARTIALS, STATE, blob_path, parse_digest_name};
use super::record::TypedKey;
use oci::digest::Digest;
use oci::manifest::MAX_MANIFEST;
use oci::name::RepositoryName;

/// How many records of a repository are counted at most.
const MAX_COUNTED: usize = 100_000;

/// What the store takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Blobs and manifests, as a number.
    pub blobs: u64,
    /// Everything, on disk or reserved.
    pub used: u64,
    /// Incomplete downloads, with what is reserved for the rest of them.
    pub partials: u64,
    /// Records.
    pub records: u64,
    /// Damaged files.
    pub quarantined: u64,
    /// Whether everything on disk is counted.
    pub is_scanned: bool,
    /// What is free on the file system, and how much of it is left free; `None` if the file system does not say.
    pub free: Option<(u64, u64)>,
}

/// What is known of a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobStatus {
    /// In bytes.
    pub size: u64,
    /// The last use, as far as it is written: up to an hour ago.
    pub last_use: u64,
}

/// A blob in the order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictionCandidate {
    /// Its digest.
    pub digest: Digest,
    /// Whether it is a manifest.
    pub is_manifest: bool,
    /// Its size and last use.
    pub status: BlobStatus,
}

/// What the store has of a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepositorySummary {
    /// Cached tags.
    pub tags: u64,
    /// Linked manifests.
    pub manifests: u64,
    /// The bytes of stored manifests and blobs that are linked, those that other repositories share included.
    pub bytes: u64,
    /// The last use of any of them, as far as it is written, in seconds since 1970.
    pub last_use: Option<u64>,
}

/// A record, and its last use in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected<V> {
    /// The record.
    pub value: V,
    /// As far as it is written.
    pub last_use: u64,
}

impl Store {
    /// What the store takes.
    pub fn usage(&self) -> StoreUsage {
        self.space.usage()
    }

    /// A record, from memory where it is newer.
    ///
    /// # Errors
    /// When the disk cannot tell whether it exists.
    pub fn inspect<K: TypedKey>(&self, key: &K) -> io::Result<Option<Inspected<K::Value>>>
    where
        K::Value: Clone,
    {
        self.records.inspect(key)
    }

    /// What is known of a stored blob; `None` if it is not stored.
    pub fn blob_status(&self, digest: &Digest) -> Option<BlobStatus> {
        self.space.index(|index| index.status(digest))
    }

    /// The bytes of a stored manifest, not verified.
    pub fn inspect_manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        use std::io::Read as _;

        let file = std::fs::File::open(blob_path(&self.root, digest)).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST as u64)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    }

    /// The blobs that are evicted next, first those that go first.
    pub fn next_evicted(&self, limit: usize) -> Vec<EvictionCandidate> {
        self.space.index(|index| index.next_evicted(limit))
    }

    /// What the store has of a repository.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn summary(&self, name: &RepositoryName) -> io::Result<RepositorySummary> {
        let folder = self.records.repository_folder(name);
        let mut summary = RepositorySummary {
            tags: count(&folder.join("_tags/full"))?,
            ..RepositorySummary::default()
        };
        for (kind, is_manifest) in [("_manifests", true), ("_blobs", false)] {
            for entry in entries(&folder.join(kind))?.take(MAX_COUNTED) {
                let digest = entry.file_name().to_str().and_then(parse_digest_name);
                let Some(digest) = digest else { continue };
                summary.manifests += u64::from(is_manifest);
                if let Some(status) = self.blob_status(&digest) {
                    summary.bytes += status.size;
                    summary.last_use = summary.last_use.max(Some(status.last_use));
                }
            }
        }
        Ok(summary)
    }

    /// Reads a file of state: a small JSON file of the program; `None` if there is none.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_state(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.state_path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a file of state, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_state(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let staging = self.root.join(PARTIALS);
        write_atomic(&staging, &self.state_path(name), bytes)
    }

    fn state_path(&self, name: &str) -> PathBuf {
        self.root.join(STATE).join(name)
    }
}

/// The number of entries of a folder; 0 if it does not exist.
fn count(folder: &Path) -> io::Result<u64> {
    Ok(entries(folder)?.take(MAX_COUNTED).count() as u64)
}

fn entries(folder: &Path) -> io::Result<impl Iterator<Item = std::fs::DirEntry> + use<>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(error),
    };
    Ok(entries.into_iter().flatten().flatten())
}
