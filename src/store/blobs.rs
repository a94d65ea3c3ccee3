//! Blobs: immutable files named by their digest. `open` is the authority on what is here; `stage` and
//! `commit` are the only way in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::space::{Reservation, Space, unix};
use crate::spec::digest::{Algorithm, Digest, Hasher};

/// The content-addressed folder.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    space: Arc<Space>,
}

/// A committed blob, open for reading. It is not evicted while this lives.
#[derive(Debug)]
pub struct Blob {
    pub file: Arc<File>,
    /// In bytes.
    pub size: u64,
    digest: Digest,
    space: Arc<Space>,
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.space.unpin(&self.digest);
    }
}

impl Blobs {
    pub(super) fn new(root: &Path, space: Arc<Space>) -> Self {
        Self {
            root: root.to_owned(),
            space,
        }
    }

    /// Opens a blob and notes its use. Blocks for as long as the disk takes for one `open` and one
    /// `fstat`.
    ///
    /// # Errors
    /// When the disk cannot say whether it is there.
    pub fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let file = match File::open(blob_path(&self.root, digest)) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.space.lost(digest);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        self.note_use(digest, &file);
        self.space.pin(digest);
        Ok(Some(Blob {
            file,
            size,
            digest: *digest,
            space: self.space.clone(),
        }))
    }

    /// Notes a use of a blob that was served from memory.
    pub fn touch(&self, digest: &Digest) {
        if self.space.touch(digest, SystemTime::now())
            && let Ok(file) = File::open(blob_path(&self.root, digest))
        {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    fn note_use(&self, digest: &Digest, file: &File) {
        let now = SystemTime::now();
        if self.space.touch(digest, now) {
            let _ = file.set_modified(now);
        }
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// When the partial cannot be created.
    pub fn stage(&self, digest: &Digest, reservation: Reservation) -> io::Result<StagedBlob> {
        self.stage_as(digest, &file_name(digest), reservation)
    }

    fn stage_as(
        &self,
        digest: &Digest,
        name: &str,
        reservation: Reservation,
    ) -> io::Result<StagedBlob> {
        let path = self.root.join("partials").join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        Ok(StagedBlob {
            file: Arc::new(file),
            path,
            digest: *digest,
            hasher: Hasher::new(digest.algorithm()),
            written: 0,
            reservation: Some(reservation),
            blobs: self.clone(),
        })
    }

    /// Keeps whole bytes that are in memory already: a manifest.
    ///
    /// # Errors
    /// As [`StagedBlob::append`] and [`StagedBlob::commit`] do.
    pub fn keep(&self, digest: &Digest, bytes: &[u8]) -> Result<(), CommitError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);

        let size = bytes.len() as u64;
        let reservation = self.space.reserve(size)?;
        // Two requests may keep the same manifest at once, so each writes a file of its own.
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{serial}", file_name(digest));
        let mut staged = self.stage_as(digest, &name, reservation)?;
        staged.append(bytes)?;
        staged.commit(Some(size)).map(drop)
    }

    /// Removes what earlier runs left unfinished.
    pub(super) fn discard_partials(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.root.join("partials"))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Walks the folder and enters what it finds, most recently used first. Blocks; run it beside the
    /// serving. Returns how many blobs there are.
    pub fn scan(&self) -> usize {
        let mut found: Vec<(u64, Digest, u64)> = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = self.root.join("blobs").join(algorithm.as_str());
            for shard in read_dir(&folder) {
                for entry in read_dir(&shard.path()) {
                    let name = entry.file_name();
                    let digest = format!("{}:{}", algorithm.as_str(), name.to_string_lossy());
                    if let (Ok(digest), Ok(meta)) = (digest.parse(), entry.metadata()) {
                        let used = meta.modified().map_or(0, unix);
                        found.push((used, digest, meta.len()));
                    }
                }
            }
        }
        found.sort_unstable_by_key(|&(used, ..)| std::cmp::Reverse(used));
        for &(used, digest, size) in &found {
            self.space.found(digest, size, used);
        }
        found.len()
    }
}

fn read_dir(folder: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}

/// Where a committed blob is: `blobs/<alg>/<2>/<hex>`.
pub(super) fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let mut path = root.join("blobs");
    path.push(digest.algorithm().as_str());
    path.push(&hex[..2]);
    path.push(hex);
    path
}

fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Why bytes did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("the body ended after {received} of {expected} bytes")]
    Truncated { expected: u64, received: u64 },
    #[error("the body went on after its {expected} bytes")]
    Overlong { expected: u64 },
    #[error("the body has the digest {}, not {}", .0.actual, .0.expected)]
    Mismatch(Box<Mismatch>),
    #[error(transparent)]
    Full(#[from] super::Full),
    #[error("the store cannot keep it")]
    Io(#[from] io::Error),
}

/// Two digests that should be one.
#[derive(Debug)]
pub struct Mismatch {
    pub expected: Digest,
    pub actual: Digest,
}

/// A blob being written. Dropped without a commit, it leaves nothing behind.
#[derive(Debug)]
pub struct StagedBlob {
    file: Arc<File>,
    path: PathBuf,
    digest: Digest,
    hasher: Hasher,
    written: u64,
    /// Present until committed.
    reservation: Option<Reservation>,
    blobs: Blobs,
}

impl StagedBlob {
    /// The staged file, for readers that follow it.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes and hashes the next bytes. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses, or there is no room for more than was reserved.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), CommitError> {
        let end = self.written + bytes.len() as u64;
        if let Some(reservation) = &mut self.reservation {
            reservation.grow_to(end)?;
        }
        self.file.write_all_at(bytes, self.written)?;
        self.hasher.update(bytes);
        self.written = end;
        Ok(())
    }

    /// Checks length and digest, makes the bytes durable and gives them their name. Blocks on the disk.
    ///
    /// # Errors
    /// Nothing is kept when the length or the digest is not what was promised.
    pub fn commit(mut self, expected_size: Option<u64>) -> Result<Blob, CommitError> {
        let received = self.written;
        match expected_size {
            Some(expected) if received < expected => {
                return Err(CommitError::Truncated { expected, received });
            }
            Some(expected) if received > expected => {
                return Err(CommitError::Overlong { expected });
            }
            _ => {}
        }
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new(self.digest.algorithm()));
        let actual = hasher.finish();
        if actual != self.digest {
            let expected = self.digest;
            return Err(CommitError::Mismatch(Box::new(Mismatch {
                expected,
                actual,
            })));
        }
        self.file.sync_all()?;
        let target = blob_path(&self.blobs.root, &self.digest);
        let folder = target.parent().unwrap_or(&self.blobs.root);
        std::fs::create_dir_all(folder)?;
        std::fs::rename(&self.path, &target)?;
        File::open(folder)?.sync_all()?;
        let space = self.blobs.space.clone();
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(self.digest, received, SystemTime::now());
        }
        space.pin(&self.digest);
        Ok(Blob {
            file: self.file.clone(),
            size: received,
            digest: self.digest,
            space,
        })
    }
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        if self.reservation.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MinFree, Settings, Store};
    use super::*;

    fn store(root: &Path) -> Store {
        let path = root.join("store");
        let settings = Settings {
            path,
            max_size: 1 << 20,
            min_free: MinFree::Bytes(0),
        };
        Store::open(&settings).expect("a fresh store")
    }

    fn stage(store: &Store, digest: &Digest) -> StagedBlob {
        store
            .blobs
            .stage(digest, store.space.reserve(0).expect("room"))
            .expect("a partial")
    }

    #[test]
    fn only_what_matches_is_committed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = store(folder.path());
        let digest = Digest::of(Algorithm::Sha256, b"hello");
        let attempt = |bytes: &[u8], size| {
            let mut staged = stage(&store, &digest);
            staged.append(bytes).expect("room");
            staged.commit(size)
        };
        assert!(matches!(
            attempt(b"hell", Some(5)),
            Err(CommitError::Truncated { .. })
        ));
        assert!(matches!(
            attempt(b"hello!", Some(5)),
            Err(CommitError::Overlong { .. })
        ));
        assert!(matches!(
            attempt(b"hallo", Some(5)),
            Err(CommitError::Mismatch(_))
        ));
        assert!(matches!(
            attempt(b"hell", None),
            Err(CommitError::Mismatch(_))
        ));
        assert!(store.blobs.open(&digest).expect("readable").is_none());
        assert_eq!(read_dir(&folder.path().join("store/partials")).count(), 0);
        assert_eq!(store.space.used(), 0);

        assert_eq!(attempt(b"hello", Some(5)).expect("it matches").size, 5);
        assert_eq!(
            store
                .blobs
                .open(&digest)
                .expect("readable")
                .map(|blob| blob.size),
            Some(5)
        );
        assert_eq!(store.space.used(), 4096);
    }

    #[test]
    fn a_restart_finds_what_was_committed_and_drops_the_rest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let digest = Digest::of(Algorithm::Sha512, b"kept");
        {
            let store = store(folder.path());
            store.blobs.keep(&digest, b"kept").expect("room");
            std::mem::forget(stage(&store, &Digest::of(Algorithm::Sha256, b"lost")));
        }
        let store = store(folder.path());
        assert_eq!(store.blobs.scan(), 1);
        assert_eq!((store.space.blobs(), store.space.used()), (1, 4096));
        assert_eq!(read_dir(&folder.path().join("store/partials")).count(), 0);
        assert!(store.blobs.open(&digest).expect("readable").is_some());
    }

    #[test]
    fn a_second_process_and_an_unknown_version_are_refused() {
        use super::super::OpenError;

        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = Settings {
            path: folder.path().to_owned(),
            max_size: 1,
            min_free: MinFree::Bytes(0),
        };
        let first = Store::open(&settings).expect("a fresh store");
        assert!(matches!(
            Store::open(&settings),
            Err(OpenError::Locked { .. })
        ));
        drop(first);
        std::fs::write(folder.path().join("VERSION"), "2\n").expect("writable");
        assert!(matches!(
            Store::open(&settings),
            Err(OpenError::Version { .. })
        ));
    }
}
