//! A blob being written. Committing one is the only way into the folder of blobs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::blobs::{Blob, Blobs};
use super::durable::create_folder;
use super::layout::{BLOCK, blob_path};
use super::open_file::{Counted, OpenFile};
use super::partials::{self, OpenPartial, ParkedPartial, PartialNote, Partials, Progress};
use super::segment::{Segment, SegmentWriter, Segments};
use super::space::BlobKind;
use super::space::{Full, Reservation};
use oci::digest::{Digest, Hasher};

/// Why a staged blob was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The body ended too early.
    #[error("the body ended after {received} of {expected} bytes")]
    Truncated {
        /// The announced length, in bytes.
        expected: u64,
        /// The length that arrived.
        received: u64,
    },
    /// The body did not end at its announced length.
    #[error("the body is longer than its {expected} bytes")]
    Overlong {
        /// The announced length, in bytes.
        expected: u64,
    },
    /// The bytes are not those of the digest.
    #[error("the body has the digest {}, not {}", .0.actual, .0.expected)]
    Mismatch(Box<Mismatch>),
    /// No space is free.
    #[error(transparent)]
    Full(#[from] Full),
    /// The disk failed.
    #[error("the store cannot be written")]
    Io(#[from] io::Error),
}

/// A digest mismatch.
#[derive(Debug)]
pub struct Mismatch {
    /// The digest that the blob was staged under.
    pub expected: Digest,
    /// The digest of its bytes.
    pub actual: Digest,
}

/// A blob being written. Dropped without a commit, it leaves no file behind; parked, it can be resumed.
#[derive(Debug)]
pub struct StagedBlob {
    digest: Digest,
    progress: Progress,
    staged: StagedFile,
    blobs: Blobs,
}

/// A staged file and its reservation. Dropped before it was committed or parked, the file is removed, and the
/// reservation is returned when the last reader closed it.
#[derive(Debug)]
struct StagedFile {
    path: PathBuf,
    /// Whether it has a note, so that it can be resumed.
    has_note: bool,
    /// Whether the path has no process in its name: another process that takes over uses it.
    is_shared: bool,
    file: Arc<OpenFile>,
    /// `None` once the file was committed or parked.
    reservation: Option<Reservation>,
    segments: Segments,
    partials: Arc<Partials>,
}

/// The most bytes that [`StagedBlob::absorb`] hashes at once.
const ABSORBED_AT_ONCE: u64 = 1 << 20;

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

    /// Leaves the file in place.
    fn keep(mut self) -> (Arc<OpenFile>, Option<Reservation>) {
        self.segments.close();
        let reservation = self.reservation.take();
        (self.file.clone(), reservation)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        self.segments.close();
        let Some(mut reservation) = self.reservation.take() else {
            return;
        };
        if self.is_shared && self.partials.is_stopping() {
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
                is_shared: path == blobs.partials.path(digest),
                path,
                has_note: partial.progress.note.is_resumable(),
                file: partial.file,
                reservation: Some(partial.reservation),
                segments: Segments::of_extents(&partial.progress.ahead),
                partials: blobs.partials.clone(),
            },
            progress: partial.progress,
            blobs: blobs.clone(),
        }
    }

    /// Marks the file as never resumed, without a note.
    pub(super) fn make_unresumable(&mut self) {
        self.staged.has_note = false;
    }

    /// Sets the hasher of bytes that were not written by [`StagedBlob::append`].
    pub(super) fn set_hasher(&mut self, hasher: Hasher) {
        self.progress.hasher = hasher;
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

    /// The note from when it was staged.
    pub fn note(&self) -> &PartialNote {
        &self.progress.note
    }

    /// Whether the bytes written at `offset` equal these. Blocks on the disk.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn has_bytes_at(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let mut written = vec![0; bytes.len()];
        self.staged.file.read_exact_at(&mut written, offset)?;
        Ok(written == bytes)
    }

    /// Whether the written bytes have the digest already, whatever length was announced.
    pub fn is_complete(&self) -> bool {
        self.progress.hasher.clone().finish() == self.digest
    }

    /// Writes and hashes the next bytes. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses, no space beyond the reservation is free, or the body is longer than announced.
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
        self.staged.wrote(end + self.staged.segments.bytes());
        Ok(())
    }

    /// Opens a segment, which a connection of its own writes. One that would have written these bytes ends before it, as
    /// must [`StagedBlob::append`]. `None` where some of its bytes are written already, or no space is reserved for
    /// them. Blocks on the disk.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn open_segment(&mut self, start: u64, end: u64) -> io::Result<Option<SegmentWriter>> {
        let written = self.progress.written;
        if !self.staged.has_note || start <= written || self.total().is_none_or(|total| end > total)
        {
            return Ok(None);
        }
        if self.staged.grow_to(end).is_err() {
            return Ok(None);
        }
        // Noted before the file gets a hole, which a later process must not take for bytes.
        if !self.progress.note.segmented {
            self.progress.note.segmented = true;
            let noted = self.staged.partials.write_note(&self.digest, self.note());
            noted.inspect_err(|_| self.progress.note.segmented = false)?;
        }
        Ok(self.staged.segments.open(&self.staged.file, start, end))
    }

    /// The segments ahead of the contiguous bytes.
    pub fn segments(&mut self) -> Vec<Segment> {
        self.staged.segments.all()
    }

    /// The first segment: [`StagedBlob::append`] may be called up to its start.
    pub fn next_segment(&self) -> Option<Segment> {
        self.staged.segments.first()
    }

    /// The bytes in the file, those of segments included.
    pub fn stored(&self) -> u64 {
        self.progress.written + self.staged.segments.bytes()
    }

    /// Hashes bytes of the segment that the contiguous bytes have reached, at most 1 MiB at once; 0 if there are none.
    /// Blocks on the disk, though the bytes are usually in the page cache.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn absorb(&mut self) -> io::Result<u64> {
        let written = self.progress.written;
        let reached = self.next_segment();
        let Some(segment) = reached.filter(|segment| segment.start == written) else {
            return Ok(0);
        };
        let length = (segment.written - written).min(ABSORBED_AT_ONCE);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.staged.file.read_exact_at(&mut bytes, written)?;
        self.progress.hasher.update(&bytes);
        self.progress.written += length;
        self.staged.segments.absorbed(self.progress.written);
        self.staged.wrote(self.stored());
        Ok(length)
    }

    /// Closes all segments, and discards their bytes. Blocks on the disk.
    ///
    /// # Errors
    /// When the file cannot be truncated.
    pub fn discard_segments(&mut self) -> io::Result<()> {
        self.staged.segments.close();
        self.staged.segments = Segments::default();
        self.staged.file.set_len(self.progress.written)
    }

    /// Checks length and digest, makes the bytes durable and gives them their name. Blocks on the disk.
    ///
    /// # Errors
    /// When the length or the digest is not the expected one, or the disk refuses; nothing is stored then.
    pub fn commit(self) -> Result<Blob, CommitError> {
        self.commit_as(BlobKind::Layer)
    }

    /// Commits a blob that was staged by [`Blobs::stage_unnamed`], and returns its digest. Blocks on the disk.
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
        let _own = staged.is_shared.then(|| blobs.partials.own()).transpose()?;
        staged.file.sync_all()?;
        let target = blob_path(&blobs.root, &digest);
        let folder = target.parent().unwrap_or(&blobs.root);
        create_folder(folder)?;
        // The pin prevents eviction before the blob is indexed, and while a reader has it open.
        let (pin, _) = blobs.space.pin(&digest, SystemTime::now());
        std::fs::rename(&staged.path, &target)?;
        if staged.has_note {
            partials::remove_note(&staged.path);
        }
        let (file, reservation) = staged.keep();
        file.count(Counted::Blob(pin));
        if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
            // It may not survive a power cut: it takes space, but is not reported as committed.
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

    /// Parks the blob for [`Blobs::resume`]; its reservation shrinks to the bytes on disk. A blob that is too small to
    /// resume is dropped.
    pub fn park(self) {
        let Self {
            digest,
            mut progress,
            mut staged,
            blobs,
        } = self;
        if !staged.has_note || progress.written + staged.segments.bytes() == 0 {
            return;
        }
        progress.ahead = std::mem::take(&mut staged.segments).into_extents();
        let ahead = progress.ahead.iter();
        // A segment may take one block more than its bytes need.
        let size = progress.written + ahead.map(|(start, end)| end - start + BLOCK).sum::<u64>();
        let (file, reservation) = staged.keep();
        let Some(mut reservation) = reservation else {
            return;
        };
        reservation.wrote(size);
        reservation.shrink_to(size);
        let parked = ParkedPartial {
            file: Arc::downgrade(&file),
            progress,
            reservation,
        };
        blobs.partials.park(digest, parked);
    }
}
