//! A blob being written: the only way into the folder of blobs is its commit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::blobs::{Blob, Blobs};
use super::durable::create_folder;
use super::layout::blob_path;
use super::open_file::{Counted, OpenFile};
use super::partials::{self, OpenPartial, ParkedPartial, PartialNote, Partials, Progress};
use super::space::BlobKind;
use super::space::{Full, Reservation};
use oci::digest::Digest;

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
    progress: Progress,
    staged: StagedFile,
    blobs: Blobs,
}

/// A staged file and the reservation that it takes. Dropped before it found another use, it is removed, and its reservation is
/// returned when its last reader closed it.
#[derive(Debug)]
struct StagedFile {
    path: PathBuf,
    /// Whether something was noted beside it.
    has_note: bool,
    file: Arc<OpenFile>,
    /// Absent once it found another use.
    reservation: Option<Reservation>,
    partials: Arc<Partials>,
}

impl StagedFile {
    fn grow_to(&mut self, size: u64) -> Result<(), Full> {
        self.reservation
            .as_mut()
            .map_or(Ok(()), |reservation| reservation.grow_to(size))
    }

    fn wrote(&mut self, size: u64) {
        if let Some(reservation) = &mut self.reservation {
            reservation.wrote(size);
        }
    }

    /// It stays where it is now.
    fn keep(mut self) -> (Arc<OpenFile>, Option<Reservation>) {
        let reservation = self.reservation.take();
        (self.file.clone(), reservation)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let Some(mut reservation) = self.reservation.take() else {
            return;
        };
        if self.has_note && self.partials.is_stopping() {
            return;
        }
        let _ = std::fs::remove_file(&self.path);
        if self.has_note {
            partials::remove_note(&self.path);
        }
        reservation.shrink_to_written();
        self.file.count(Counted::Abandoned(reservation));
    }
}

impl StagedBlob {
    pub(super) fn new(blobs: &Blobs, digest: &Digest, path: PathBuf, partial: OpenPartial) -> Self {
        Self {
            digest: *digest,
            staged: StagedFile {
                path,
                has_note: partial.progress.note.is_resumable(),
                file: partial.file,
                reservation: Some(partial.reservation),
                partials: blobs.partials.clone(),
            },
            progress: partial.progress,
            blobs: blobs.clone(),
        }
    }

    /// It is never resumed, and has no note.
    pub(super) fn make_unresumable(&mut self) {
        self.staged.has_note = false;
    }

    /// The staged file, for readers that follow it.
    pub fn file(&self) -> Arc<OpenFile> {
        self.staged.file.clone()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.progress.written
    }

    /// The whole length in bytes, where announced.
    pub fn total(&self) -> Option<u64> {
        self.progress.note.total
    }

    /// What was noted when it was begun.
    pub fn note(&self) -> &PartialNote {
        &self.progress.note
    }

    /// Whether these bytes, some of those written, stand at `offset`. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk cannot say.
    pub fn has_bytes_at(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let mut written = vec![0; bytes.len()];
        self.staged.file.read_exact_at(&mut written, offset)?;
        Ok(written == bytes)
    }

    /// Whether what was written so far has the digest: nothing is missing then, whatever was announced.
    pub fn is_complete(&self) -> bool {
        self.progress.hasher.clone().finish() == self.digest
    }

    /// Writes and hashes the next bytes. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses, there is no reservation for more than was reserved, or there is more than was
    /// announced.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), CommitError> {
        let end = self.progress.written + bytes.len() as u64;
        if let Some(expected) = self.progress.note.total
            && end > expected
        {
            return Err(CommitError::Overlong { expected });
        }
        self.staged.grow_to(end)?;
        let progress = &mut self.progress;
        self.staged.file.write_all_at(bytes, progress.written)?;
        progress.hasher.update(bytes);
        progress.written = end;
        self.staged.wrote(end);
        Ok(())
    }

    /// Checks length and digest, makes the bytes durable and gives them their name. Blocks on the disk.
    ///
    /// # Errors
    /// When the length or the digest is not the expected one, or the disk refuses; nothing is stored then.
    pub fn commit(self) -> Result<Blob, CommitError> {
        self.commit_as(BlobKind::Layer)
    }

    /// Ends a blob that was begun by [`Blobs::stage_unnamed`], and says what its digest is. Blocks on the disk.
    ///
    /// # Errors
    /// When the length is not the expected one, or the disk refuses; nothing is stored then.
    pub fn commit_unnamed(mut self) -> Result<(Digest, Blob), CommitError> {
        self.digest = self.progress.hasher.clone().finish();
        let digest = self.digest;
        Ok((digest, self.commit()?))
    }

    pub(super) fn commit_as(self, kind: BlobKind) -> Result<Blob, CommitError> {
        let Self {
            digest,
            progress,
            staged,
            blobs,
        } = self;
        let size = progress.written;
        if let Some(expected) = progress.note.total
            && size < expected
        {
            return Err(CommitError::Truncated {
                expected,
                received: size,
            });
        }
        let actual = progress.hasher.finish();
        if actual != digest {
            let mismatch = Mismatch {
                expected: digest,
                actual,
            };
            return Err(CommitError::Mismatch(Box::new(mismatch)));
        }
        staged.file.sync_all()?;
        let target = blob_path(&blobs.root, &digest);
        let folder = target.parent().unwrap_or(&blobs.root);
        create_folder(folder)?;
        // It must not be evicted before it is entered, nor while a reader has it open.
        let (pin, _) = blobs.space.pin(&digest, SystemTime::now());
        std::fs::rename(&staged.path, &target)?;
        if staged.has_note {
            partials::remove_note(&staged.path);
        }
        let (file, reservation) = staged.keep();
        file.count(Counted::Blob(pin));
        if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
            // It may or may not survive a power cut: it takes its space, but no client was promised it.
            drop(reservation);
            blobs.space.reindex(&digest);
            return Err(error.into());
        }
        if let Some(reservation) = reservation {
            reservation.commit_blob(digest, size, SystemTime::now(), kind);
        }
        Ok(Blob {
            file,
            size,
            verified: true,
        })
    }

    /// Puts the blob aside, to be gone on with by [`Blobs::resume`]; it counts as what is on disk. One that is not
    /// worth it goes.
    pub fn park(self) {
        let Self {
            digest,
            progress,
            staged,
            blobs,
        } = self;
        if !staged.has_note || progress.written == 0 {
            return;
        }
        let (file, reservation) = staged.keep();
        let Some(mut reservation) = reservation else {
            return;
        };
        reservation.shrink_to(progress.written);
        let parked = ParkedPartial {
            file: Arc::downgrade(&file),
            progress,
            reservation,
        };
        blobs.partials.park(digest, parked);
    }
}
