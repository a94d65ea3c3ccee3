//! Blobs: immutable files named by their digest. `open` decides whether a blob is present; `stage` and `commit`
//! are the only way in.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::degraded::warn_degraded;
use super::durable::create_folder;
use super::layout::{QUARANTINE, blob_path, digest_name};
use super::open_file::OpenFile;
use super::partials::{PartialNote, Partials};
use super::read::hash_to_end;
use super::space::{Full, LARGEST, Reservation, Space, unix};
use oci::digest::{Digest, Hasher};
use telemetry::alerts::{self, AlertKind};

/// The largest blob that [`Blobs::load`] hashes each time, in bytes: that costs microseconds.
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
    /// Shared by all readers of the blob.
    pub file: Arc<OpenFile>,
    /// In bytes.
    pub size: u64,
    /// Whether this process has verified its digest.
    pub(super) verified: bool,
}

impl Blobs {
    /// # Errors
    /// When the folder of partials cannot be read.
    pub(super) fn open_in(
        root: &Path,
        space: Arc<Space>,
        predecessor: Option<u32>,
    ) -> io::Result<Self> {
        let partials = Arc::new(Partials::open(root, &space, predecessor)?);
        Ok(Self {
            root: root.to_owned(),
            space,
            partials,
        })
    }

    /// Opens a blob and notes its use. `expected` is the length in bytes from a record. A file of another
    /// length is damaged and is quarantined. Blocks for one `open` and one `fstat`.
    ///
    /// # Errors
    /// When the disk cannot tell whether the blob exists.
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
            // The length in a link may be wrong as well.
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

    /// The length of a blob that [`Blobs::open`] would open, in bytes; its use is not noted. A file whose length is
    /// not `expected` counts as absent. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk cannot tell whether the blob exists.
    pub fn inspect(&self, digest: &Digest, expected: Option<u64>) -> io::Result<Option<u64>> {
        let size = match std::fs::metadata(blob_path(&self.root, digest)) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let known = self.space.index(|index| index.status(digest));
        let is_right = match known {
            Some(known) => known.size == size.min(LARGEST),
            None => expected.is_none_or(|expected| expected == size),
        };
        Ok(is_right.then_some(size))
    }

    /// False if the blob is certainly not stored. The disk is not asked: until it was scanned, every blob may be.
    pub fn may_have(&self, digest: &Digest) -> bool {
        !self.space.is_scanned() || self.space.index(|index| index.contains(digest))
    }

    /// Reads a whole blob of at most `most` bytes; `None` if it is absent, damaged or longer. Small blobs are hashed
    /// each time, large ones once per process.
    ///
    /// # Errors
    /// When the disk cannot tell whether the blob exists.
    pub fn load(&self, digest: &Digest, most: u64) -> io::Result<Option<Vec<u8>>> {
        let blob = self.open(digest, None)?.filter(|blob| blob.size <= most);
        match blob {
            Some(blob) => self.read_verified(digest, blob),
            None => Ok(None),
        }
    }

    /// Reads an open blob as [`Blobs::load`] does; `None` if it is damaged.
    ///
    /// # Errors
    /// When the disk cannot read it.
    pub fn read_verified(&self, digest: &Digest, blob: Blob) -> io::Result<Option<Vec<u8>>> {
        use std::io::Read as _;

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

    /// Moves a damaged blob to quarantine: the next pull fetches it again. The file stays for a week, unless
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
                // Its week starts now.
                if let Ok(file) = File::open(&aside) {
                    let _ = file.set_modified(SystemTime::now());
                }
                self.space.forget_quarantined(&aside);
                self.space.add_quarantined(aside.clone(), size);
                let damaged = "a blob was damaged on disk; it was moved to quarantine and will be fetched again";
                tracing::error!(%digest, path = %aside.display(), "{damaged}");
                alerts::raise(AlertKind::DamageFound, digest.to_string(), damaged);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                // It still takes space.
                self.space.reindex(digest);
                warn_degraded("a damaged blob cannot be moved to quarantine", &error);
            }
        }
    }

    /// Notes a use of a blob that was served from memory. Writes the last use in the background.
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

    /// Reserves `size` bytes, dropping partials where no blob may be evicted. Blocks on the disk.
    ///
    /// # Errors
    /// [`Full`] when that would still exceed `max_size` or `min_free`.
    pub fn reserve(&self, size: u64) -> Result<Reservation, Full> {
        // Partials that are idle for long are dropped before whole blobs are evicted.
        while !self.space.has_room(size) && self.partials.drop_idle(SystemTime::now()) {}
        loop {
            match self.space.reserve(size) {
                Err(_) if self.partials.drop_oldest() => {}
                outcome => return outcome,
            }
        }
    }

    /// Whether [`Blobs::resume`] finds a partial.
    pub fn has_partial(&self, digest: &Digest) -> bool {
        self.partials.has(digest)
    }

    /// Whether [`Blobs::resume`] has to hash a partial of an earlier process.
    pub fn resume_hashes(&self, digest: &Digest) -> bool {
        self.partials.needs_hashing(digest)
    }

    /// Leaves staged blobs on disk when they are dropped, for the next process to resume. Call it at shutdown.
    pub fn stop(&self) {
        self.partials.stop();
    }

    /// Leaves the partials to another process, after [`Blobs::stop`]. Blocks while one is being committed.
    ///
    /// # Errors
    /// When they were taken back meanwhile.
    pub(super) fn hand_over(&self) -> io::Result<()> {
        self.partials.hand_over()
    }

    /// Continues after [`Blobs::hand_over`] with the partials that are on disk. Blocks on the disk.
    pub(super) fn resume_after_stop(&self) {
        if let Err(error) = self.partials.resume_after_stop(&self.space) {
            warn_degraded("partials cannot be read", &error);
        }
    }

    /// The file of a partial that another process writes. Blocks on the disk.
    ///
    /// # Errors
    /// When there is none.
    pub fn follow_partial(&self, digest: &Digest) -> io::Result<OpenFile> {
        Ok(OpenFile::staged(File::open(self.partials.path(digest))?))
    }

    /// Drops the partial that was parked first. False when there is none.
    pub(super) fn drop_oldest_partial(&self) -> bool {
        self.partials.drop_oldest()
    }

    /// Drops the partials that were not resumed in time.
    pub(super) fn drop_expired_partials(&self, now: SystemTime) {
        while self.partials.drop_expired(now) {}
    }

    /// The partials that are not being filled.
    pub fn partials(&self) -> Vec<(Digest, PartialNote)> {
        self.partials.waiting()
    }
}

#[cfg(test)]
#[path = "blobs_tests.rs"]
mod tests;
