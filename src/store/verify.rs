//! Rehashing everything that is here. What is not what its name says goes: it is fetched anew when it is
//! asked for.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::blobs::{Blobs, blob_path};
use crate::metrics;
use crate::spec::digest::{Algorithm, Digest, Hasher};

/// How much is hashed between two reports, in bytes.
const STEP: u64 = 64 << 20;

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub blobs: u64,
    pub of_blobs: u64,
    /// In bytes.
    pub bytes: u64,
    /// What there was to hash when it began, in bytes.
    pub of_bytes: u64,
    /// Those found so far that are not what their name says.
    pub damaged: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub blobs: u64,
    /// In bytes.
    pub bytes: u64,
    /// Removed, since their bytes are not what their name says.
    pub damaged: Vec<Digest>,
    /// Left, since the disk does not give them.
    pub unreadable: Vec<Digest>,
}

impl Blobs {
    /// Hashes every blob at full speed, and removes those that are damaged. Blocks for as long as that takes.
    /// No use of them is noted.
    pub fn verify(&self, mut progress: impl FnMut(Progress)) -> Summary {
        let all = list(&self.root);
        let mut now = Progress {
            of_blobs: all.len() as u64,
            of_bytes: all.iter().map(|(_, size)| size).sum(),
            ..Progress::default()
        };
        let mut summary = Summary::default();
        progress(now);
        for (digest, _) in all {
            let before = now.bytes;
            let hashed = hash(
                &blob_path(&self.root, &digest),
                digest.algorithm(),
                |bytes| {
                    let step = now.bytes / STEP;
                    now.bytes += bytes;
                    if now.bytes / STEP != step {
                        progress(now);
                    }
                },
            );
            match hashed {
                Ok(actual) if actual == digest => {}
                Ok(actual) => {
                    tracing::error!(%digest, %actual, "a blob on disk was damaged; it is removed");
                    metrics::lie(metrics::Liar::Disk);
                    summary.damaged.push(digest);
                    if let Err(error) = self.remove(&digest) {
                        tracing::error!(%digest, %error, "a damaged blob cannot be removed");
                    }
                }
                // It made room meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(%digest, %error, "a blob on disk cannot be read");
                    summary.unreadable.push(digest);
                }
            }
            now.blobs += 1;
            now.damaged = summary.damaged.len() as u64;
            summary.bytes += now.bytes - before;
            progress(now);
        }
        summary.blobs = now.blobs;
        summary
    }
}

/// What there is, with sizes in bytes.
fn list(root: &Path) -> Vec<(Digest, u64)> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512].map(Algorithm::as_str) {
        let shards = entries(&root.join("blobs").join(algorithm));
        for entry in shards.flat_map(|shard| entries(&shard.path())) {
            let name = format!("{algorithm}:{}", entry.file_name().to_string_lossy());
            if let (Ok(digest), Ok(meta)) = (name.parse(), entry.metadata()) {
                found.push((digest, meta.len()));
            }
        }
    }
    found
}

/// The digest of a file. `read` hears of every piece, in bytes.
fn hash(path: &Path, algorithm: Algorithm, mut read: impl FnMut(u64)) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (Hasher::new(algorithm), vec![0; 1 << 20]);
    loop {
        let piece = match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..piece]);
        read(piece as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MinFree, Settings, Store};
    use super::*;

    #[test]
    fn damage_is_found_and_goes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = Settings {
            path: folder.path().to_owned(),
            max_size: 4 << 20,
            min_free: MinFree::Bytes(0),
        };
        let store = Store::open(&settings).expect("a fresh store");
        let digests = [b"one", b"two"].map(|bytes: &[u8; 3]| {
            let digest = Digest::of(Algorithm::Sha256, bytes);
            store.blobs.keep(&digest, bytes).expect("room");
            digest
        });
        let mut seen = Vec::new();
        let summary = store.blobs.verify(|progress| seen.push(progress));
        assert_eq!((summary.blobs, summary.bytes), (2, 6));
        assert!(summary.damaged.is_empty() && summary.unreadable.is_empty());
        assert!(seen.is_sorted_by_key(|progress| progress.bytes));
        let last = seen.last().expect("a report");
        assert_eq!(
            (last.blobs, last.of_blobs, last.of_bytes, last.damaged),
            (2, 2, 6, 0)
        );

        std::fs::write(blob_path(folder.path(), &digests[0]), b"0ne").expect("writable");
        let summary = store.blobs.verify(drop);
        assert_eq!(summary.damaged, [digests[0]]);
        assert!(store.blobs.open(&digests[0]).expect("readable").is_none());
        assert!(store.blobs.open(&digests[1]).expect("readable").is_some());
        assert_eq!(store.space.blobs(), 1);
    }
}
