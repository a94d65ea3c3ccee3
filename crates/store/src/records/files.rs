//! The files of records: reading, replacing, removing and counting them.
//!
//! A record takes one block, except for a few kinds that may take more. It is written to the folder of partials and
//! renamed, so that a reader sees the old one or the new one, and the next start deletes the remains of a crash.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::durable::{ignore_absent, is_absent, write_atomic};
use crate::layout::PARTIALS;
use crate::space::{Space, unix};

/// How many undeletable records are remembered; with more, every record counts as absent.
const MAX_UNDELETABLE: usize = 10_000;
/// How many of them are retried after a successful change.
const RETRIES: usize = 8;
/// The longest file that is read, in bytes; no kind of record may be longer.
const MAX_BYTES: u64 = 4 << 20;

/// The files of all records, by their paths below the store's folder.
#[derive(Debug)]
pub(super) struct RecordFiles {
    root: PathBuf,
    /// Where a record is written before it is renamed.
    staging: PathBuf,
    space: Arc<Space>,
    persist_after: u64,
    /// Serialize the changes of a record, so that it is counted once; chosen by the hash of its path.
    locks: [Mutex<()>; 16],
    hasher: RandomState,
    /// Records that the disk refused to delete, which count as absent.
    undeletable: Mutex<HashSet<String>>,
}

/// Exclusive access to change a record.
#[derive(Debug)]
pub(super) struct LockedRecord<'a> {
    files: &'a RecordFiles,
    path: &'a str,
    _guard: MutexGuard<'a, ()>,
}

impl RecordFiles {
    /// The records of the store in `root`. A last use may stay unwritten for `persist_after` seconds.
    pub fn new(root: &Path, space: Arc<Space>, persist_after: u32) -> Self {
        Self {
            root: root.to_owned(),
            staging: root.join(PARTIALS),
            space,
            persist_after: persist_after.into(),
            locks: Default::default(),
            hasher: RandomState::new(),
            undeletable: Mutex::default(),
        }
    }

    /// The full path of a path below the store's folder.
    pub fn full_path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn persist_after(&self) -> u64 {
        self.persist_after
    }

    /// Reads a record's bytes, and its last use in seconds since 1970.
    ///
    /// # Errors
    /// The disk's, `NotFound` included.
    pub fn read(&self, path: &str) -> io::Result<(Vec<u8>, u64)> {
        let undeletable = self.undeletable();
        if undeletable.contains(path) || undeletable.len() >= MAX_UNDELETABLE {
            return Err(io::ErrorKind::NotFound.into());
        }
        drop(undeletable);
        let file = File::open(self.full_path(path))?;
        let used = file.metadata()?.modified().map_or(0, unix);
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok((bytes, used))
    }

    /// Locks a record to change it. Blocks while another thread holds the lock.
    pub fn lock<'a>(&'a self, path: &'a str) -> LockedRecord<'a> {
        LockedRecord {
            files: self,
            path,
            _guard: self.lock_path(path),
        }
    }

    /// Removes a record if it was last used before `cutoff`, in seconds since 1970, then calls `removed`; returns
    /// whether it did.
    pub fn remove_unused(&self, path: &str, cutoff: u64, removed: impl FnOnce()) -> bool {
        let _guard = self.lock_path(path);
        let file = self.full_path(path);
        let Ok(meta) = std::fs::metadata(&file) else {
            return false;
        };
        let unused = meta.modified().is_ok_and(|used| unix(used) < cutoff);
        if !unused || std::fs::remove_file(&file).is_err() {
            return false;
        }
        self.space.remove_record(meta.len());
        removed();
        true
    }

    /// Makes the removals from these folders durable.
    pub fn sync(&self, folders: &HashSet<&Path>) {
        for folder in folders {
            let _ = File::open(self.root.join(folder)).and_then(|folder| folder.sync_all());
        }
    }

    /// Tries to remove some of the records that the disk refused to delete before.
    pub fn retry_deletions(&self) {
        let some: Vec<String> = self.undeletable().iter().take(RETRIES).cloned().collect();
        for path in some {
            let locked = self.lock(&path);
            // It may have been written meanwhile.
            if self.undeletable().contains(&path) && locked.unlink().is_ok() {
                self.undeletable().remove(&path);
            }
        }
    }

    /// Writes the current time as a record's last use.
    pub fn touch(&self, path: &str) {
        if let Ok(file) = File::open(self.full_path(path)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    fn undeletable(&self) -> MutexGuard<'_, HashSet<String>> {
        self.undeletable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_path(&self, path: &str) -> MutexGuard<'_, ()> {
        let locks = self.locks.len() as u64;
        let at = usize::try_from(self.hasher.hash_one(path) % locks).unwrap_or(0);
        self.locks[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl LockedRecord<'_> {
    /// Replaces or creates the record.
    ///
    /// # Errors
    /// When no space is free, or the disk refuses.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let files = self.files;
        let file = files.full_path(self.path);
        // Both files exist until the rename.
        let reservation = files.space.reserve_record(bytes.len() as u64);
        let reservation = reservation.map_err(io::Error::other)?;
        let replaced = match std::fs::symlink_metadata(&file) {
            Ok(meta) => Some(meta.len()),
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(error),
        };
        write_atomic(&files.staging, &file, bytes)?;
        reservation.commit_record(replaced);
        files.undeletable().remove(self.path);
        Ok(())
    }

    /// Removes the record, if there is one. If the disk refuses, it counts as absent until the process ends.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self) -> io::Result<()> {
        let removed = self.unlink();
        let mut undeletable = self.files.undeletable();
        if removed.is_ok() {
            undeletable.remove(self.path);
        } else if undeletable.len() < MAX_UNDELETABLE {
            undeletable.insert(self.path.to_owned());
        }
        removed
    }

    /// As [`LockedRecord::remove`], but durable: a power cut does not bring the record back.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_durably(&self) -> io::Result<()> {
        let file = self.files.full_path(self.path);
        let existed = std::fs::symlink_metadata(&file).is_ok();
        self.remove()?;
        match file.parent().filter(|_| existed) {
            Some(folder) => ignore_absent(File::open(folder).and_then(|folder| folder.sync_all())),
            None => Ok(()),
        }
    }

    fn unlink(&self) -> io::Result<()> {
        let file = self.files.full_path(self.path);
        let size = match std::fs::symlink_metadata(&file) {
            Ok(meta) => meta.len(),
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        ignore_absent(std::fs::remove_file(file))?;
        self.files.space.remove_record(size);
        Ok(())
    }
}
