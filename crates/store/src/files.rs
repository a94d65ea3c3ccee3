//! The files of records: read, replaced whole, counted.
//!
//! A record takes one block, but for a few kinds that may take more. It is written among the partials first,
//! so that what a crash leaves of it goes at the next start; a reader sees the old one or the new one.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::purge::absent_is_fine;
use super::records::is_absent;
use super::space::{Space, unix};
use runtime::generation::{Generations, Question};

/// How many records may wait for the disk to let them go; with more, none of the room is believed.
const MOST_STUCK: usize = 10_000;
/// How many of them are tried again after a change that the disk made.
const TRIED_AGAIN: usize = 8;

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
    /// Which answers about a record still count.
    generations: Generations<String>,
    /// What the disk would not let go: absent, whatever it says.
    stuck: Mutex<HashSet<String>>,
}

/// A record that nobody else changes meanwhile.
#[derive(Debug)]
pub(super) struct Change<'a> {
    files: &'a Files,
    path: &'a str,
    _alone: MutexGuard<'a, ()>,
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
            generations: Generations::default(),
            stuck: Mutex::default(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn persist_after(&self) -> u64 {
        self.persist_after
    }

    /// Begins a question about a record.
    pub fn ask(&self, path: String) -> Question<String> {
        self.generations.ask(path)
    }

    /// Ends the generations of all records whose path begins so: answers under way are of before.
    pub fn end_generations(&self, prefix: &str) {
        let ends = |path: &String| path.starts_with(prefix);
        self.generations.write_where(ends, || ());
    }

    /// A record's bytes, and its last use in seconds since 1970.
    ///
    /// # Errors
    /// What the disk says, also when there is none.
    pub fn read(&self, path: &str) -> io::Result<(Vec<u8>, u64)> {
        let stuck = self.stuck();
        if stuck.contains(path) || stuck.len() >= MOST_STUCK {
            return Err(io::ErrorKind::NotFound.into());
        }
        drop(stuck);
        let mut file = File::open(self.root.join(path))?;
        let used = file.metadata()?.modified().map_or(0, unix);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((bytes, used))
    }

    /// Begins to change a record. Blocks while others change it.
    pub fn change<'a>(&'a self, path: &'a str) -> Change<'a> {
        Change {
            files: self,
            path,
            _alone: self.changing(path),
        }
    }

    /// Removes a record, and ends its generation by `forget`.
    ///
    /// # Errors
    /// What the disk says; that there is none is no error.
    pub fn remove(&self, path: &str, forget: impl FnOnce()) -> io::Result<()> {
        let change = self.change(path);
        let removed = change.remove();
        self.end_generation(path, forget);
        removed
    }

    /// Ends a record's generation by `forget`, while it is changed.
    pub fn end_generation(&self, path: &str, forget: impl FnOnce()) {
        self.generations.write(path, forget);
    }

    /// Removes a record that was last used before `cutoff`, in seconds since 1970, and has `forget` done then;
    /// whether it was.
    pub fn remove_unused(&self, path: &str, cutoff: u64, forget: impl FnOnce()) -> bool {
        let _alone = self.changing(path);
        let file = self.root.join(path);
        let Ok(meta) = std::fs::metadata(&file) else {
            return false;
        };
        let unused = meta.modified().is_ok_and(|used| unix(used) < cutoff);
        let removed = unused && std::fs::remove_file(&file).is_ok();
        if removed {
            self.space.record_gone(meta.len());
            self.generations.write(path, forget);
        }
        removed
    }

    /// Makes the removals last of which these are the folders.
    pub fn sync(&self, folders: &HashSet<&Path>) {
        for folder in folders {
            let _ = File::open(self.root.join(folder)).and_then(|folder| folder.sync_all());
        }
    }

    /// Tries to remove some of what the disk would not let go before.
    pub fn retry_stuck(&self) {
        let some: Vec<String> = self.stuck().iter().take(TRIED_AGAIN).cloned().collect();
        for path in some {
            let change = self.change(&path);
            // It may have been written meanwhile.
            if self.stuck().contains(&path) && change.take_away().is_ok() {
                self.stuck().remove(&path);
            }
        }
    }

    fn stuck(&self) -> MutexGuard<'_, HashSet<String>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Change<'_> {
    /// Replaces or makes the record.
    ///
    /// # Errors
    /// When there is no room, or the disk refuses.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let files = self.files;
        let file = files.root.join(self.path);
        // While it is replaced, there are two of it.
        let room = files.space.reserve_record(bytes.len() as u64);
        let room = room.map_err(io::Error::other)?;
        let replaced = match std::fs::symlink_metadata(&file) {
            Ok(meta) => Some(meta.len()),
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(error),
        };
        write_atomic(&files.staging, &file, bytes)?;
        room.settle_record(replaced);
        files.stuck().remove(self.path);
        Ok(())
    }

    /// Removes the record, if there is one. Where the disk refuses, it is absent all the same until the process ends.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(&self) -> io::Result<()> {
        let removed = self.take_away();
        let mut stuck = self.files.stuck();
        if removed.is_ok() {
            stuck.remove(self.path);
        } else if stuck.len() < MOST_STUCK {
            stuck.insert(self.path.to_owned());
        }
        removed
    }

    /// [`Change::remove`], so that a power cut does not bring it back.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove_for_good(&self) -> io::Result<()> {
        let file = self.files.root.join(self.path);
        let was_there = std::fs::symlink_metadata(&file).is_ok();
        self.remove()?;
        match file.parent().filter(|_| was_there) {
            Some(folder) => absent_is_fine(File::open(folder).and_then(|folder| folder.sync_all())),
            None => Ok(()),
        }
    }

    fn take_away(&self) -> io::Result<()> {
        let file = self.files.root.join(self.path);
        let size = match std::fs::symlink_metadata(&file) {
            Ok(meta) => meta.len(),
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        absent_is_fine(std::fs::remove_file(file))?;
        self.files.space.record_gone(size);
        Ok(())
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
