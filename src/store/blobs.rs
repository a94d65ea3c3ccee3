//! Blobs: immutable files named by their digest. `open` is the authority on what is here; `stage` and
//! `commit` are the only way in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::partials::{self, Begun, Note, Partials};
use super::space::{Full, Reservation, Space, unix};
use crate::spec::digest::{Algorithm, Digest, Hasher};

/// The content-addressed folder.
#[derive(Clone, Debug)]
pub struct Blobs {
    pub(super) root: PathBuf,
    pub(super) space: Arc<Space>,
    partials: Arc<Partials>,
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
    /// # Errors
    /// When the folder of partials cannot be read.
    pub(super) fn open_in(root: &Path, space: Arc<Space>) -> io::Result<Self> {
        let partials = Arc::new(Partials::open(root, &space)?);
        Ok(Self {
            root: root.to_owned(),
            space,
            partials,
        })
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

    /// Reserves room for `size` bytes, giving partials up where nothing else may go. Blocks on the disk.
    ///
    /// # Errors
    /// [`Full`] when `max_size` or `min_free` cannot be kept even so.
    pub fn reserve(&self, size: u64) -> Result<Reservation, Full> {
        loop {
            match self.space.reserve(size) {
                Err(_) if self.partials.drop_oldest() => {}
                outcome => return outcome,
            }
        }
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// When the partial cannot be created.
    pub fn stage(
        &self,
        digest: &Digest,
        reservation: Reservation,
        note: Note,
    ) -> io::Result<StagedBlob> {
        if note.is_worth_keeping() {
            self.partials.write_note(digest, &note)?;
        }
        self.stage_at(digest, self.partials.path(digest), reservation, note)
    }

    /// Goes on with a blob that was begun before, if there is a partial of it. Blocks: one of an earlier
    /// process is hashed first.
    ///
    /// # Errors
    /// When the partial cannot be read.
    pub fn resume(&self, digest: &Digest) -> io::Result<Option<StagedBlob>> {
        let begun = self.partials.take(digest)?;
        let path = self.partials.path(digest);
        Ok(begun.map(|begun| StagedBlob::new(self, digest, path, begun)))
    }

    /// The partials that nobody fills.
    pub fn partials(&self) -> Vec<(Digest, Note)> {
        self.partials.waiting()
    }

    fn stage_at(
        &self,
        digest: &Digest,
        path: PathBuf,
        reservation: Reservation,
        note: Note,
    ) -> io::Result<StagedBlob> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let file = match options.open(&path) {
            // Somebody emptied the store.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
                options.open(&path)?
            }
            opened => opened?,
        };
        let begun = Begun {
            file: Arc::new(file),
            hasher: Hasher::new(digest.algorithm()),
            written: 0,
            reservation,
            note,
        };
        Ok(StagedBlob::new(self, digest, path, begun))
    }

    /// Keeps whole bytes that are in memory already: a manifest.
    ///
    /// # Errors
    /// As [`StagedBlob::append`] and [`StagedBlob::commit`] do.
    pub fn keep(&self, digest: &Digest, bytes: &[u8]) -> Result<(), CommitError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);

        let size = bytes.len() as u64;
        let reservation = self.reserve(size)?;
        // Two requests may keep the same manifest at once, so each writes a file of its own.
        let path = self
            .partials
            .path_of(digest, SERIAL.fetch_add(1, Ordering::Relaxed));
        let mut staged = self.stage_at(digest, path, reservation, Note::default())?;
        staged.append(bytes)?;
        staged.commit().map(drop)
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
    Full(#[from] Full),
    #[error("the store cannot keep it")]
    Io(#[from] io::Error),
}

/// Two digests that should be one.
#[derive(Debug)]
pub struct Mismatch {
    pub expected: Digest,
    pub actual: Digest,
}

/// A blob being written. Dropped without a commit, it leaves nothing behind; parked, it can be gone on
/// with.
#[derive(Debug)]
pub struct StagedBlob {
    digest: Digest,
    begun: Begun,
    leftovers: Leftovers,
    blobs: Blobs,
}

/// Removes a staged file, and what was noted of it, unless it found another use.
#[derive(Debug)]
struct Leftovers {
    path: PathBuf,
    note: bool,
    armed: bool,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        if self.armed {
            let _ = std::fs::remove_file(&self.path);
        }
        if self.armed && self.note {
            partials::remove_note(&self.path);
        }
    }
}

impl StagedBlob {
    fn new(blobs: &Blobs, digest: &Digest, path: PathBuf, begun: Begun) -> Self {
        let note = begun.note.is_worth_keeping();
        Self {
            digest: *digest,
            begun,
            leftovers: Leftovers {
                path,
                note,
                armed: true,
            },
            blobs: blobs.clone(),
        }
    }

    /// The staged file, for readers that follow it.
    pub fn file(&self) -> Arc<File> {
        self.begun.file.clone()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.begun.written
    }

    /// The whole length in bytes, where announced.
    pub fn total(&self) -> Option<u64> {
        self.begun.note.total
    }

    /// What was noted when it was begun.
    pub fn note(&self) -> &Note {
        &self.begun.note
    }

    /// Whether these bytes, some of those written, stand at `offset`. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk cannot say.
    pub fn holds(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let mut written = vec![0; bytes.len()];
        self.begun.file.read_exact_at(&mut written, offset)?;
        Ok(written == bytes)
    }

    /// Whether what was written so far has the digest: nothing is missing then, whatever was announced.
    pub fn is_whole(&self) -> bool {
        self.begun.hasher.clone().finish() == self.digest
    }

    /// Writes and hashes the next bytes. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses, there is no room for more than was reserved, or there is more than was
    /// announced.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), CommitError> {
        let begun = &mut self.begun;
        let end = begun.written + bytes.len() as u64;
        if let Some(expected) = begun.note.total
            && end > expected
        {
            return Err(CommitError::Overlong { expected });
        }
        begun.reservation.grow_to(end)?;
        begun.file.write_all_at(bytes, begun.written)?;
        begun.hasher.update(bytes);
        begun.written = end;
        Ok(())
    }

    /// Checks length and digest, makes the bytes durable and gives them their name. Blocks on the disk.
    ///
    /// # Errors
    /// Nothing is kept when the length or the digest is not what was promised.
    pub fn commit(self) -> Result<Blob, CommitError> {
        let Self {
            digest,
            begun,
            mut leftovers,
            blobs,
        } = self;
        let size = begun.written;
        if let Some(expected) = begun.note.total
            && size < expected
        {
            return Err(CommitError::Truncated {
                expected,
                received: size,
            });
        }
        let actual = begun.hasher.finish();
        if actual != digest {
            let mismatch = Mismatch {
                expected: digest,
                actual,
            };
            return Err(CommitError::Mismatch(Box::new(mismatch)));
        }
        begun.file.sync_all()?;
        let target = blob_path(&blobs.root, &digest);
        let folder = target.parent().unwrap_or(&blobs.root);
        std::fs::create_dir_all(folder)?;
        std::fs::rename(&leftovers.path, &target)?;
        leftovers.armed = false;
        if leftovers.note {
            partials::remove_note(&leftovers.path);
        }
        File::open(folder)?.sync_all()?;
        begun.reservation.settle(digest, size, SystemTime::now());
        blobs.space.pin(&digest);
        Ok(Blob {
            file: begun.file,
            size,
            digest,
            space: blobs.space,
        })
    }

    /// Puts the blob aside, to be gone on with by [`Blobs::resume`]. One that is not worth it goes.
    pub fn park(self) {
        let Self {
            digest,
            begun,
            mut leftovers,
            blobs,
        } = self;
        if leftovers.note && begun.written > 0 {
            leftovers.armed = false;
            blobs.partials.park(digest, begun);
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
            max_size: 4 << 20,
            min_free: MinFree::Bytes(0),
        };
        Store::open(&settings).expect("a fresh store")
    }

    fn stage(store: &Store, digest: &Digest, total: Option<u64>) -> StagedBlob {
        let note = Note {
            total,
            ..Note::default()
        };
        let room = store.blobs.reserve(0).expect("room");
        store.blobs.stage(digest, room, note).expect("a partial")
    }

    #[test]
    fn only_what_matches_is_committed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = store(folder.path());
        let digest = Digest::of(Algorithm::Sha256, b"hello");
        let attempt = |bytes: &[u8], size| {
            let mut staged = stage(&store, &digest, size);
            staged.append(bytes)?;
            staged.commit()
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
    fn a_restart_finds_what_was_committed_and_what_can_be_resumed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let digest = Digest::of(Algorithm::Sha512, b"kept");
        let large = vec![7; 900 << 10];
        let whole: Vec<u8> = large.iter().chain(&large).copied().collect();
        let resumed = Digest::of(Algorithm::Sha256, &whole);
        {
            let store = store(folder.path());
            store.blobs.keep(&digest, b"kept").expect("room");
            let mut small = stage(&store, &Digest::of(Algorithm::Sha256, b"lost"), Some(4));
            small.append(b"lo").expect("room");
            std::mem::forget(small);
            let mut staged = stage(&store, &resumed, Some(whole.len() as u64));
            staged.append(&large).expect("room");
            std::mem::forget(staged);
        }
        let store = store(folder.path());
        assert_eq!(store.blobs.scan(), 1);
        assert_eq!(store.space.used(), 4096 + large.len() as u64);
        let names = || read_dir(&folder.path().join("store/partials")).count();
        assert_eq!(names(), 2, "the file and its note");
        assert!(store.blobs.open(&digest).expect("readable").is_some());

        let mut staged = store
            .blobs
            .resume(&resumed)
            .expect("readable")
            .expect("a partial");
        assert_eq!(
            (staged.written(), staged.total()),
            (large.len() as u64, Some(whole.len() as u64))
        );
        staged.append(&large[..10]).expect("room");
        staged.park();
        let mut staged = store
            .blobs
            .resume(&resumed)
            .expect("readable")
            .expect("a partial");
        staged.append(&large[10..]).expect("room");
        staged.commit().expect("it matches");
        assert_eq!((names(), store.space.blobs()), (0, 2));
    }

    #[test]
    fn a_partial_gives_way_to_what_is_needed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().to_owned();
        let store = Store::open(&Settings {
            path,
            max_size: 3 << 20,
            min_free: MinFree::Bytes(0),
        });
        let store = store.expect("a fresh store");
        let digest = Digest::of(Algorithm::Sha256, b"whatever");
        let mut staged = stage(&store, &digest, Some(2 << 20));
        staged.append(&vec![1; 2 << 20]).expect("room");
        staged.park();
        assert_eq!(store.blobs.partials().len(), 1);
        let _room = store.blobs.reserve(2 << 20).expect("the partial goes");
        assert!(store.blobs.partials().is_empty());
        assert!(store.blobs.resume(&digest).expect("readable").is_none());
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
