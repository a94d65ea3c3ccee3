//! Staging: begins or resumes a blob that is being written.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::blobs::Blobs;
use super::open_file::OpenFile;
use super::partials::{OpenPartial, PartialNote, Progress};
use super::space::{BlobKind, Reservation};
use super::staged::{CommitError, StagedBlob};
use oci::digest::{Digest, Hasher};

impl Blobs {
    /// [`Blobs::reserve`] and [`Blobs::stage`] on a blocking thread.
    ///
    /// # Errors
    /// As [`Blobs::reserve`] and [`Blobs::stage`].
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

    /// [`Blobs::reserve`] and [`Blobs::stage_unresumable`] on a blocking thread.
    ///
    /// # Errors
    /// As [`Blobs::reserve`] and [`Blobs::stage_unresumable`].
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

    /// Starts writing a blob, which can be resumed.
    ///
    /// # Errors
    /// When the partial cannot be created.
    pub fn stage(
        &self,
        digest: &Digest,
        reservation: Reservation,
        note: PartialNote,
    ) -> io::Result<StagedBlob> {
        let _own = self.partials.own()?;
        if note.is_resumable() {
            self.partials.write_note(digest, &note)?;
        }
        self.stage_at(digest, self.partials.path(digest), reservation, note)
    }

    /// Starts writing a blob in a separate file, which is never resumed: two requests may store the same manifest
    /// at once, and bytes from a bucket must not be mixed with an upstream's.
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

    /// Starts writing a blob whose digest is known only at its end. Until [`StagedBlob::commit_unnamed`], `key` names
    /// it, which is no blob's digest.
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

    /// Resumes a blob from its partial, if there is one. Blocks: the partial of an earlier process is hashed
    /// first.
    ///
    /// # Errors
    /// When the partial cannot be read.
    pub fn resume(&self, digest: &Digest) -> io::Result<Option<StagedBlob>> {
        let Ok(_own) = self.partials.own() else {
            return Ok(None);
        };
        let Some(mut resumed) = self.partials.take(digest)? else {
            return Ok(None);
        };
        // If that fails, the rest passes through once the reservation is used up.
        let total = resumed.progress.note.total.unwrap_or(0);
        let _ = resumed.reservation.grow_to(total);
        let path = self.partials.path(digest);
        Ok(Some(StagedBlob::new(self, digest, path, resumed)))
    }

    /// Stores a whole manifest from memory.
    ///
    /// # Errors
    /// As [`StagedBlob::append`] and [`StagedBlob::commit`] do.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), CommitError> {
        // Two requests may store the same manifest at once, so each writes a separate file.
        let reservation = self.reserve(bytes.len() as u64)?;
        let mut staged = self.stage_unresumable(digest, reservation, None)?;
        staged.append(bytes)?;
        staged.commit_as(BlobKind::Manifest).map(drop)
    }

    /// The path of a separate file, for a body that is written at once.
    pub(super) fn unique_path(&self, key: &Digest) -> PathBuf {
        static SERIAL: AtomicU64 = AtomicU64::new(0);

        self.partials
            .unique_path(key, SERIAL.fetch_add(1, Ordering::Relaxed))
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
            // The store's folder was emptied by hand.
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
                ahead: Vec::new(),
                note,
            },
            reservation,
        };
        Ok(StagedBlob::new(self, digest, path, partial))
    }
}
