//! The scan at startup: every blob with its size and last use, every record, every damaged file.
//!
//! The store serves requests meanwhile. The scan reads only the metadata of blobs, and of the few records that may
//! take more than one block.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::Store;
use super::layout::{QUARANTINE, parse_digest_name};
use super::space::BlobKind;
use super::space::unix;
use oci::digest::{Algorithm, Digest};

/// How many blobs are indexed under one lock: hits wait meanwhile.
const SLICE: usize = 256;

/// Hashes of the digests of known manifests. A collision only changes the order of eviction.
#[derive(Debug, Default)]
struct Manifests {
    hasher: RandomState,
    known: HashSet<u64>,
}

impl Store {
    /// Walks the folders and indexes the blobs, most recently used first. Returns their number. Blocks; run it in
    /// the background.
    pub fn scan(&self) -> usize {
        let mut manifests = Manifests::default();
        let (records, blocks) = self.records.count(&mut |name| {
            if let Some(digest) = parse_digest_name(name) {
                let hash = manifests.hasher.hash_one(digest);
                manifests.known.insert(hash);
            }
        });
        self.space.count_records(records, blocks);
        for entry in read_dir(&self.root.join(QUARANTINE)) {
            let size = entry.metadata().map_or(0, |meta| meta.len());
            self.space.add_quarantined(entry.path(), size);
        }
        let mut found: Vec<(u64, Digest, u64)> = Vec::new();
        for (algorithm, shard) in shards(&self.root) {
            for entry in read_dir(&shard) {
                if let Some(digest) = blob_digest(algorithm, &entry)
                    && let Ok(meta) = entry.metadata()
                {
                    let used = meta.modified().map_or(0, unix);
                    found.push((used, digest, meta.len()));
                }
            }
        }
        found.sort_unstable_by_key(|&(used, ..)| std::cmp::Reverse(used));
        for slice in found.chunks(SLICE) {
            self.space.index(|index| {
                for &(used, digest, size) in slice {
                    let hash = manifests.hasher.hash_one(digest);
                    let kind = if manifests.known.contains(&hash) {
                        BlobKind::Manifest
                    } else {
                        BlobKind::Layer
                    };
                    index.insert_oldest(digest, size, used, kind);
                }
            });
        }
        self.space.finish_scan();
        found.len()
    }
}

/// The folders of blobs, in order.
pub(super) fn shards(root: &Path) -> Vec<(Algorithm, std::path::PathBuf)> {
    let mut shards = Vec::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let folder = root.join("blobs").join(algorithm.as_str());
        let mut found: Vec<_> = read_dir(&folder).map(|shard| shard.path()).collect();
        found.sort();
        shards.extend(found.into_iter().map(|shard| (algorithm, shard)));
    }
    shards
}

/// The digest in the name of a blob's file.
pub(super) fn blob_digest(algorithm: Algorithm, entry: &DirEntry) -> Option<Digest> {
    let name = entry.file_name();
    let digest = format!("{}:{}", algorithm.as_str(), name.to_string_lossy());
    digest.parse().ok()
}

/// The entries of a folder; none if it cannot be read.
pub(super) fn read_dir(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}
