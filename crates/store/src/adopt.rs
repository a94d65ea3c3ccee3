//! Adoption: the file of another program becomes a blob, as a hard link where possible, else as a copy. Its digest is
//! checked like that of a download.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD};

use super::blobs::Blobs;
use super::open_file::OpenFile;
use super::partials::{OpenPartial, PartialNote, Progress};
use super::read::continue_hash;
use super::space::{Full, Reservation};
use super::staged::{CommitError, StagedBlob};
use oci::digest::{Digest, Hasher};

/// How much of a file is copied at once, in bytes.
const PIECE: usize = 1 << 20;

/// How the file of another program became a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It has another name now: the blob takes no space of its own.
    Linked,
    /// Its bytes were copied.
    Copied,
}

impl Blobs {
    /// Stores a file that nobody writes to any more under its digest; returns how, and its length in bytes. Nothing
    /// is evicted for it. The file is linked only if it belongs to the user of this process, who must be able to note
    /// its uses. Blocks on the disk.
    ///
    /// # Errors
    /// [`CommitError::Mismatch`] if it has another digest, [`CommitError::Full`] if it does not fit, and
    /// [`CommitError::Io`] if it cannot be read or stored.
    pub fn adopt(&self, file: &File, digest: &Digest) -> Result<(Adopted, u64), CommitError> {
        let size = file.metadata()?.len();
        let reservation = self.reserve_without_eviction(size)?;
        let (adopted, staged) = match self.link(file, digest, size) {
            Some((linked, path)) => {
                let hashed = continue_hash(&linked, 0, size, Hasher::new(digest.algorithm()));
                let mut reservation = reservation;
                reservation.wrote(size);
                let partial = OpenPartial {
                    file: Arc::new(OpenFile::staged(linked)),
                    progress: Progress {
                        // On an error the link is dropped with the staged blob.
                        hasher: Hasher::new(digest.algorithm()),
                        written: size,
                        ahead: Vec::new(),
                        note: PartialNote::default(),
                    },
                    reservation,
                };
                let mut staged = StagedBlob::new(self, digest, path, partial);
                staged.make_unresumable();
                staged.set_hasher(hashed?);
                (Adopted::Linked, staged)
            }
            None => (Adopted::Copied, self.copy(file, digest, size, reservation)?),
        };
        staged.commit()?;
        Ok((adopted, size))
    }

    /// Reserves space for content that nobody asked for.
    ///
    /// # Errors
    /// [`Full`] if it does not fit beside what is stored.
    pub fn reserve_without_eviction(&self, size: u64) -> Result<Reservation, Full> {
        if !self.space.has_room(size) {
            return Err(Full { bytes: size });
        }
        self.space.reserve(size)
    }

    /// A hard link of the file among the partials, whose last use is now; `None` if there cannot be one.
    fn link(&self, file: &File, digest: &Digest, size: u64) -> Option<(File, std::path::PathBuf)> {
        let meta = file.metadata().ok()?;
        if meta.uid() != rustix::process::geteuid().as_raw() || meta.len() != size {
            return None;
        }
        let path = self.unique_path(digest);
        // By its descriptor: the name may lead elsewhere by now.
        let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, &*opened, CWD, &path, AtFlags::SYMLINK_FOLLOW).ok()?;
        let linked = file.try_clone().and_then(|file| {
            file.set_modified(SystemTime::now())?;
            Ok(file)
        });
        if linked.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        Some((linked.ok()?, path))
    }

    fn copy(
        &self,
        file: &File,
        digest: &Digest,
        size: u64,
        reservation: Reservation,
    ) -> Result<StagedBlob, CommitError> {
        let mut staged = self.stage_unresumable(digest, reservation, Some(size))?;
        let mut buffer = vec![0; PIECE];
        loop {
            match file.read_at(&mut buffer, staged.written()) {
                Ok(0) => return Ok(staged),
                Ok(read) => staged.append(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::layout::blob_path;
    use crate::{Settings, Store};
    use oci::digest::Algorithm;

    fn store(root: &Path, max_size: u64) -> Store {
        let settings = Settings {
            max_size,
            ..Settings::at(root)
        };
        let store = Store::open(&settings, &[]).expect("a store");
        store.scan();
        store
    }

    fn partials(root: &Path) -> usize {
        std::fs::read_dir(root.join("partials"))
            .expect("a folder")
            .count()
    }

    #[test]
    fn files_are_linked_and_verified() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, foreign) = (folder.path().join("store"), folder.path().join("data"));
        let bytes = vec![7; 300_000];
        std::fs::write(&foreign, &bytes).expect("writable");
        let store = store(&root, 10 << 20);
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let wrong = Digest::of(Algorithm::Sha256, b"other");
        let file = File::open(&foreign).expect("readable");
        let before = store.space.used();
        let refused = store.blobs.adopt(&file, &wrong);
        assert!(
            matches!(refused, Err(CommitError::Mismatch(_))),
            "{refused:?}"
        );
        assert_eq!((partials(&root), store.space.used()), (0, before));

        let adopted = store.blobs.adopt(&file, &digest).expect("adopted");
        assert_eq!(adopted, (Adopted::Linked, 300_000));
        let stored = blob_path(&root, &digest);
        assert_eq!(
            std::fs::metadata(&stored).expect("stored").ino(),
            file.metadata().expect("readable").ino()
        );
        assert_eq!(partials(&root), 0);
        assert!(store.space.used() >= before + 300_000);
        let blob = store.blobs.open(&digest, Some(300_000)).expect("readable");
        assert!(blob.is_some());

        // The other program's file is not the store's to change.
        store.blobs.quarantine(&digest);
        assert_eq!(std::fs::read(&foreign).expect("readable"), bytes);
    }

    #[test]
    fn files_that_cannot_be_linked_are_copied() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("store");
        let bytes = b"in memory, which has no name to link".to_vec();
        let file = rustix::fs::memfd_create("foreign", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(file.expect("memory"));
        file.write_all_at(&bytes, 0).expect("writable");
        let store = store(&root, 1 << 20);
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let adopted = store.blobs.adopt(&file, &digest).expect("adopted");
        assert_eq!(adopted, (Adopted::Copied, bytes.len() as u64));
        let loaded = store.blobs.load(&digest, 100).expect("readable");
        assert_eq!(loaded, Some(bytes));
    }

    #[test]
    fn nothing_is_evicted_for_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, foreign) = (folder.path().join("store"), folder.path().join("data"));
        let store = store(&root, 400_000);
        let known = Digest::of(Algorithm::Sha256, b"known");
        store.blobs.put(&known, b"known").expect("room");
        let bytes = vec![1; 500_000];
        std::fs::write(&foreign, &bytes).expect("writable");
        let file = File::open(&foreign).expect("readable");
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let refused = store.blobs.adopt(&file, &digest);
        assert!(matches!(refused, Err(CommitError::Full(_))), "{refused:?}");
        assert!(store.blobs.open(&known, None).expect("readable").is_some());
        assert_eq!(partials(&root), 0);
    }
}
