//! What is on disk at the start: every blob with its size and last use, every record, every damaged file.
//!
//! The store serves meanwhile. Only sizes of blobs are asked for, and of the few records that may take more
//! than one block.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::Store;
use super::images::Images;
use super::index::Kind;
use super::space::{blocks, unix};
use oci::digest::{Algorithm, Digest};

/// How many blobs are entered at once: hits wait meanwhile.
const SLICE: usize = 256;

/// The manifests that records name, by a hash of their digests: a mistake costs nothing but an order.
#[derive(Debug, Default)]
struct Manifests {
    hasher: RandomState,
    known: HashSet<u64>,
}

impl Store {
    /// Walks the folders and enters what it finds, most recently used first. Blocks; run it beside the
    /// serving. Returns how many blobs there are.
    pub fn scan(&self) -> usize {
        let mut manifests = Manifests::default();
        let conversions = self.root.join("conversions");
        let roots = [self.files.root(), self.image_files.root(), &conversions];
        for root in roots {
            let (mut records, mut blocks) = (0, 0);
            count(root, &mut manifests, &mut records, &mut blocks);
            self.space.count_records(records, blocks);
        }
        for entry in read_dir(&self.root.join("quarantine")) {
            let size = entry.metadata().map_or(0, |meta| meta.len());
            self.space.set_aside(entry.path(), size);
        }
        let mut found: Vec<(u64, Digest, u64)> = Vec::new();
        for (algorithm, shard) in shards(&self.root) {
            for entry in read_dir(&shard) {
                if let Some(digest) = named(algorithm, &entry)
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
                        Kind::Manifest
                    } else {
                        Kind::Layer
                    };
                    index.insert_oldest(digest, size, used, kind);
                }
            });
        }
        self.space.settle();
        found.len()
    }
}

/// The folders that blobs are in, in order.
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

/// The digest that a file in a shard is named by.
pub(super) fn named(algorithm: Algorithm, entry: &DirEntry) -> Option<Digest> {
    let name = entry.file_name();
    let digest = format!("{}:{}", algorithm.as_str(), name.to_string_lossy());
    digest.parse().ok()
}

/// What a folder has; one that cannot be read has nothing.
pub(super) fn read_dir(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}

/// Counts the records below a folder and the blocks that they take, and notes the manifests among them.
fn count(folder: &Path, manifests: &mut Manifests, records: &mut u64, taken: &mut u64) {
    let is_manifests = folder.ends_with("_manifests");
    for entry in read_dir(folder) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count(&entry.path(), manifests, records, taken);
            continue;
        }
        *records += 1;
        let may_be_long = entry.file_name().to_str().is_some_and(Images::may_be_long);
        let meta = may_be_long.then(|| entry.metadata().ok()).flatten();
        *taken += meta.map_or(1, |meta| blocks(meta.len()));
        if is_manifests && let Some(digest) = linked(&entry) {
            let hash = manifests.hasher.hash_one(digest);
            manifests.known.insert(hash);
        }
    }
}

/// The digest that a link is named by.
pub(super) fn linked(entry: &DirEntry) -> Option<Digest> {
    let name = entry.file_name();
    name.to_str()?.replacen('-', ":", 1).parse().ok()
}
