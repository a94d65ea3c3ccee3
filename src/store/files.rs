//! The files of records: read, replaced whole, counted.
//!
//! A record takes one block, but for a few kinds that may take more. It is written among the partials first,
//! so that what a crash leaves of it goes at the next start; a reader sees the old one or the new one.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::records::is_absent;
use super::space::{Space, unix};

/// The folder of all records.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// Where a record is before it has its name.
    staging: PathBuf,
    space: Arc<Space>,
    persist_after: u64,
    /// One record is changed by one at a time, so that each is counted once; by the hash of its path.
    changing: [Mutex<()>; 16],
    hasher: RandomState,
}

impl Files {
    /// Of the store in `root`. A last use may stay unwritten for `persist_after` seconds.
    pub fn new(root: &Path, space: Arc<Space>, persist_after: u32) -> Self {
        Self::below(root, "repositories", space, persist_after)
    }

    /// [`Files::new`] for the records of another folder.
    pub fn below(root: &Path, folder: &str, space: Arc<Space>, persist_after: u32) -> Self {
        Self {
            root: root.join(folder),
            staging: root.join("partials"),
            space,
            persist_after: persist_after.into(),
            changing: Default::default(),
            hasher: RandomState::new(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn persist_after(&self) -> u64 {
        self.persist_after
    }

    /// A record's bytes, and its last use in seconds since 1970.
    ///
    /// # Errors
    /// What the disk says, also when there is none.
    pub fn read(&self, path: &str) -> io::Result<(Vec<u8>, u64)> {
        let mut file = File::open(self.root.join(path))?;
        let used = file.metadata()?.modified().map_or(0, unix);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((bytes, used))
    }

    /// Replaces or makes a record.
    ///
    /// # Errors
    /// When there is no room, or the disk refuses.
    pub fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.root.join(path);
        let _changing = self.changing(path);
        // While it is replaced, there are two of it.
        let room = self.space.reserve_record(bytes.len() as u64);
        let room = room.map_err(io::Error::other)?;
        let replaced = match std::fs::symlink_metadata(&file) {
            Ok(meta) => Some(meta.len()),
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(error),
        };
        write_atomic(&self.staging, &file, bytes)?;
        room.settle_record(replaced);
        Ok(())
    }

    /// Removes a record.
    ///
    /// # Errors
    /// What the disk says, also when there is none.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let _changing = self.changing(path);
        let file = self.root.join(path);
        let size = std::fs::symlink_metadata(&file)?.len();
        std::fs::remove_file(file)?;
        self.space.record_gone(size);
        Ok(())
    }

    /// Removes a record that was last used before `cutoff`, in seconds since 1970; whether it was.
    pub fn remove_unused(&self, path: &str, cutoff: u64) -> bool {
        let _changing = self.changing(path);
        let file = self.root.join(path);
        let Ok(meta) = std::fs::metadata(&file) else {
            return false;
        };
        let unused = meta.modified().is_ok_and(|used| unix(used) < cutoff);
        let removed = unused && std::fs::remove_file(&file).is_ok();
        if removed {
            self.space.record_gone(meta.len());
        }
        removed
    }

    /// Writes down that a record was used.
    pub fn touch(&self, path: &str) {
        if let Ok(file) = File::open(self.root.join(path)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    fn changing(&self, path: &str) -> MutexGuard<'_, ()> {
        let locks = self.changing.len() as u64;
        let at = usize::try_from(self.hasher.hash_one(path) % locks).unwrap_or(0);
        self.changing[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a file so that a crash leaves the old bytes or the new ones: temporary file in `staging`, fsync,
/// rename, fsync of the folder. Creates the folders above it.
///
/// # Errors
/// What the disk says; nothing is left behind then.
pub(super) fn write_atomic(staging: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);

    let folder = path.parent().unwrap_or(Path::new("."));
    create_folder(staging)?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    // One process at a time has the store, so a number is name enough.
    let temporary = staging.join(format!(".tmp-{serial}"));
    let named = || {
        create_folder(folder)?;
        std::fs::rename(&temporary, path)
    };
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| match named() {
            // A folder that became empty may have been removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => named(),
            outcome => outcome,
        });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// Makes a folder, and those above it, so that a power cut does not take them and what is in them.
///
/// # Errors
/// What the disk says.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    let above = folder.parent().unwrap_or(Path::new("."));
    match std::fs::create_dir(folder) {
        Ok(()) => File::open(above)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_folder(above)?;
            create_folder(folder)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}
