//! Blobs: immutable files named by their digest. `open` is the authority on what the store has; `stage` and `commit`
//! are the only way in.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::degraded::warn_degraded;
use super::durable::create_folder;
use super::layout::{QUARANTINE, blob_path, digest_name};
use super::open_file::OpenFile;
use super::partials::{OpenPartial, PartialNote, Partials, Progress};
use super::read::hash_to_end;
use super::space::{BlobKind, LARGEST};
use super::space::{Full, Reservation, Space, unix};
use super::staged::{CommitError, StagedBlob};
use oci::digest::{Digest, Hasher};

/// Up to which size a blob that is loaded whole is hashed as well, in bytes: it costs microseconds then.
const ALWAYS_HASHED: u64 = 64 << 10;

/// The content-addressed folder.
#[derive(Clone, Debug)]
pub struct Blobs {
    pub(super) root: PathBuf,
    pub(super) space: Arc<Space>,
    pub(super) partials: Arc<Partials>,
}

/// A committed blob, open for reading. It is not evicted while its file is open.
#[derive(Debug)]
pub struct Blob {
    pub file: Arc<OpenFile>,
    /// In bytes.
    pub size: u64,
    /// Whether this process saw that its digest is right.
    pub(super) verified: bool,
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

    /// Opens a blob and notes its use. `expected` is the length in bytes that a record gives. A file of
    /// another length is damaged and is quarantined. Blocks for as long as the disk takes for one
    /// `open` and one `fstat`.
    ///
    /// # Errors
    /// When the disk cannot say whether it is there.
    pub fn open(&self, digest: &Digest, expected: Option<u64>) -> io::Result<Option<Blob>> {
        let now = SystemTime::now();
        let (pin, known) = self.space.pin(digest, now);
        let file = match File::open(blob_path(&self.root, digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(pin);
                self.space.reindex(digest);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        let size = meta.len();
        let right = match known {
            Some(known) if known.size != size.min(LARGEST) => false,
            Some(known) if known.verified => true,
            // What a link says may be wrong as well.
            _ => expected.is_none_or(|expected| expected == size) || self.is_intact(&file, digest),
        };
        if !right {
            drop(pin);
            self.quarantine(digest);
            return Ok(None);
        }
        if known.is_none() {
            let used = meta.modified().map_or(0, unix);
            self.space
                .index(|index| index.insert_found(*digest, size, used));
        }
        if known.is_none_or(|known| known.behind) {
            let _ = file.set_modified(now);
        }
        Ok(Some(Blob {
            file: Arc::new(OpenFile::blob(file, pin)),
            size,
            verified: known.is_some_and(|known| known.verified),
        }))
    }

    /// The bytes as a whole of a blob that has at most `most`. They are hashed: small ones each time, large ones once
    /// by each process. What is damaged is not here, nor is what is longer, of which nothing is read.
    ///
    /// # Errors
    /// When the disk cannot say whether it is there.
    pub fn load(&self, digest: &Digest, most: u64) -> io::Result<Option<Vec<u8>>> {
        use std::io::Read as _;

        let Some(blob) = self.open(digest, None)? else {
            return Ok(None);
        };
        if blob.size > most {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(0));
        (&**blob.file).take(blob.size).read_to_end(&mut bytes)?;
        let hashed = blob.size <= ALWAYS_HASHED || !blob.verified;
        if hashed && Digest::of(digest.algorithm(), &bytes) != *digest {
            drop(blob);
            self.quarantine(digest);
            return Ok(None);
        }
        if hashed {
            self.space.index(|index| index.set_verified(digest));
        }
        Ok(Some(bytes))
    }

    /// Whether a file has this digest, or cannot be read: a read error proves no damage.
    fn is_intact(&self, file: &File, digest: &Digest) -> bool {
        let Ok((hasher, _)) = hash_to_end(file, Hasher::new(digest.algorithm())) else {
            return true;
        };
        let intact = hasher.finish() == *digest;
        if intact {
            self.space.index(|index| index.set_verified(digest));
        }
        intact
    }

    /// Takes a damaged blob out of service: the next pull fetches it anew. Its file stays for a week, unless
    /// its space is needed.
    pub(super) fn quarantine(&self, digest: &Digest) {
        let path = blob_path(&self.root, digest);
        let aside = self.root.join(QUARANTINE).join(digest_name(digest));
        let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let moved = aside
            .parent()
            .map_or(Ok(()), create_folder)
            .and_then(|()| std::fs::rename(&path, &aside));
        self.space.index(|index| index.remove(digest));
        match moved {
            Ok(()) => {
                // Its age counts from now on.
                if let Ok(file) = File::open(&aside) {
                    let _ = file.set_modified(SystemTime::now());
                }
                self.space.forget_quarantined(&aside);
                self.space.add_quarantined(aside.clone(), size);
                tracing::error!(
                    %digest,
                    path = %aside.display(),
                    "a blob was damaged on disk; it is set aside and will be fetched anew"
                );
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                // It still takes its room.
                self.space.reindex(digest);
                warn_degraded("a damaged blob cannot be set aside", &error);
            }
        }
    }

    /// Notes a use of a blob that was served from memory. What of it goes to the disk goes there behind the
    /// answer.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn touch(&self, digest: &Digest) {
        let now = SystemTime::now();
        if self
            .space
            .touch(digest, now)
            .is_some_and(|known| known.behind)
        {
            let path = blob_path(&self.root, digest);
            tokio::task::spawn_blocking(move || {
                if let Ok(file) = File::open(path) {
                    let _ = file.set_modified(now);
                }
            });
        }
    }

    /// Reserves room for `size` bytes, giving partials up where nothing else may go. Blocks on the disk.
    ///
    /// # Errors
    /// [`Full`] when `max_size` or `min_free` cannot be kept even so.
    pub fn reserve(&self, size: u64) -> Result<Reservation, Full> {
        // Partials that were not resumed for long are evicted before whole blobs.
        while !self.space.has_room(size) && self.partials.drop_idle(SystemTime::now()) {}
        loop {
            match self.space.reserve(size) {
                Err(_) if self.partials.drop_oldest() => {}
                outcome => return outcome,
            }
        }
    }

    /// [`Blobs::reserve`] and [`Blobs::stage`] on a thread of their own, since both may wait for the disk.
    ///
    /// # Errors
    /// As theirs.
    pub async fn reserve_and_stage(
        &self,
        digest: &Digest,
        size: u64,
        note: PartialNote,
    ) -> Result<StagedBlob, CommitError> {
        let (blobs, digest) = (self.clone(), *digest);
        let staged = tokio::task::spawn_blocking(move || {
            let room = blobs.reserve(size)?;
            Ok(blobs.stage(&digest, room, note)?)
        });
        staged.await.map_err(io::Error::other)?
    }

    /// [`Blobs::begin`] in a file of its own, of [`Blobs::stage_unresumable`].
    ///
    /// # Errors
    /// As [`Blobs::begin`].
    pub async fn reserve_and_stage_unresumable(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<StagedBlob, CommitError> {
        let (blobs, digest) = (self.clone(), *digest);
        let staged = tokio::task::spawn_blocking(move || {
            let room = blobs.reserve(size)?;
            Ok(blobs.stage_unresumable(&digest, room, None)?)
        });
        staged.await.map_err(io::Error::other)?
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// When the partial cannot be created.
    pub fn stage(
        &self,
        digest: &Digest,
        reservation: Reservation,
        note: PartialNote,
    ) -> io::Result<StagedBlob> {
        if note.is_resumable() {
            self.partials.write_note(digest, &note)?;
        }
        self.stage_at(digest, self.partials.path(digest), reservation, note)
    }

    /// Begins a blob in a file of its own, which is never resumed: two requests may store the same manifest
    /// at once, and what a bucket sends is not to be mixed with what an upstream sent.
    ///
    /// # Errors
    /// When the partial cannot be created.
    pub fn stage_unresumable(
        &self,
        digest: &Digest,
        reservation: Reservation,
        total: Option<u64>,
    ) -> io::Result<StagedBlob> {
        let path = self.unique_path(digest);
        let note = PartialNote {
            total,
            ..PartialNote::default()
        };
        let mut staged = self.stage_at(digest, path, reservation, note)?;
        staged.make_unresumable();
        Ok(staged)
    }

    /// Begins a blob whose digest is known only at its end.
    /// `key` stands for it until then, and is no blob's digest. [`StagedBlob::commit_unnamed`] ends it.
    ///
    /// # Errors
    /// When the partial cannot be created.
    pub fn stage_unnamed(
        &self,
        key: &Digest,
        reservation: Reservation,
        total: Option<u64>,
    ) -> io::Result<StagedBlob> {
        self.stage_unresumable(key, reservation, total)
    }

    /// A file of its own for a body that is written whole.
    fn unique_path(&self, key: &Digest) -> PathBuf {
        static SERIAL: AtomicU64 = AtomicU64::new(0);

        self.partials
            .unique_path(key, SERIAL.fetch_add(1, Ordering::Relaxed))
    }

    /// Goes on with a blob that was staged before, if there is a partial of it. Blocks: one of an earlier
    /// process is hashed first.
    ///
    /// # Errors
    /// When the partial cannot be read.
    pub fn resume(&self, digest: &Digest) -> io::Result<Option<StagedBlob>> {
        let Some(mut resumed) = self.partials.take(digest)? else {
            return Ok(None);
        };
        // Where that is too much, what comes passes through once the room is full.
        let total = resumed.progress.note.total.unwrap_or(0);
        let _ = resumed.reservation.grow_to(total);
        let path = self.partials.path(digest);
        Ok(Some(StagedBlob::new(self, digest, path, resumed)))
    }

    /// Whether [`Blobs::resume`] has to hash what an earlier process left.
    pub fn resume_hashes(&self, digest: &Digest) -> bool {
        self.partials.needs_hashing(digest)
    }

    /// Leaves what is being staged on disk from now on, for the next process to go on with: this one ends.
    pub fn stop(&self) {
        self.partials.stop();
    }

    /// Gives up the partial that was parked longest ago. False when there is none.
    pub(super) fn drop_oldest_partial(&self) -> bool {
        self.partials.drop_oldest()
    }

    /// Gives up the partials that waited too long.
    pub(super) fn drop_expired_partials(&self, now: SystemTime) {
        while self.partials.drop_expired(now) {}
    }

    /// The partials that are not being filled.
    pub fn partials(&self) -> Vec<(Digest, PartialNote)> {
        self.partials.waiting()
    }

    fn stage_at(
        &self,
        digest: &Digest,
        path: PathBuf,
        reservation: Reservation,
        note: PartialNote,
    ) -> io::Result<StagedBlob> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let file = match options.open(&path) {
            // The store was emptied by hand.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
                options.open(&path)?
            }
            opened => opened?,
        };
        let partial = OpenPartial {
            file: Arc::new(OpenFile::staged(file)),
            progress: Progress {
                hasher: Hasher::new(digest.algorithm()),
                written: 0,
                note,
            },
            reservation,
        };
        Ok(StagedBlob::new(self, digest, path, partial))
    }

    /// Keeps whole bytes that are in memory already: a manifest.
    ///
    /// # Errors
    /// As [`StagedBlob::append`] and [`StagedBlob::commit`] do.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), CommitError> {
        // Two requests may keep the same manifest at once, so each writes a file of its own.
        let reservation = self.reserve(bytes.len() as u64)?;
        let mut staged = self.stage_unresumable(digest, reservation, None)?;
        staged.append(bytes)?;
        staged.commit_as(BlobKind::Manifest).map(drop)
    }
}

#[cfg(test)]
#[path = "blobs_tests.rs"]
mod tests;
