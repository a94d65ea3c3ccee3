//! Reads the store for operators, without noting a use: nothing that is looked at stays longer for it.
//!
//! All of it blocks on the disk, and reads the records of one repository at most.

use std::io;
use std::path::Path;

use super::Store;
use super::durable::is_absent;
use super::layout::{blob_path, parse_digest_name};
use super::record::{BlobKey, ManifestKey, TagKey, TypedKey};
use super::records::Inspected;
use super::space::{BlobStatus, EvictionCandidate, StoreUsage};
use oci::digest::Digest;
use oci::manifest::{AcceptClass, MAX_MANIFEST};
use oci::name::RepositoryName;

/// How many records of a repository are counted at most.
const MAX_COUNTED: usize = 100_000;

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
        let tags = TagKey::class_folder(name, AcceptClass::Full);
        let mut summary = RepositorySummary {
            tags: count(&self.root.join(tags))?,
            ..RepositorySummary::default()
        };
        for (folder, is_manifest) in [
            (ManifestKey::folder(name), true),
            (BlobKey::folder(name), false),
        ] {
            for entry in entries(&self.root.join(folder))?.take(MAX_COUNTED) {
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
