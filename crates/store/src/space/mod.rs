//! Space on the disk: reserved before it is written, freed by eviction, returned when unused.
//!
//! What counts is what files take, in blocks of 4 KiB: blobs, partials with their notes, records, and damaged files.
//! Folders do not count. Nothing new is written before the scan has counted everything.

mod disk;
mod entry;
mod eviction;
mod index;
mod reservation;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::layout::{BLOCK, blob_path, parse_digest_name};
use crate::settings::{MinFree, Settings};
use index::Index;
use oci::digest::Digest;

pub(crate) use entry::{Kind, LARGEST};
pub(crate) use eviction::Trimmed;
pub(crate) use index::Known;
pub(crate) use reservation::Pin;
pub use reservation::Reservation;

use index::footprint;

/// How long a fill waits for the scan, or for space.
const WAIT: Duration = Duration::from_secs(5);
/// From which size on a partial is worth keeping, in bytes.
pub(crate) const WORTH: u64 = 1 << 20;
/// Records take at most this part of everything.
const RECORDS_PART: u64 = 4;
/// What is kept ready for the next fills: this part of everything, but no more than so many bytes.
const READY_PART: u64 = 64;
const READY: u64 = 1 << 30;
/// There is no space, and nothing left to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in the store for {bytes} bytes")]
pub struct Full {
    pub bytes: u64,
}

/// The account of the disk.
#[derive(Debug)]
pub struct Space {
    root: PathBuf,
    max_size: u64,
    min_free: MinFree,
    opened: Instant,
    account: Mutex<Account>,
    /// Everything on disk is known from now on.
    settled: Condvar,
    /// There is something to do in the background.
    work: Condvar,
}

#[derive(Debug)]
struct Account {
    index: Index,
    /// Bytes promised to fills, whether written yet or not.
    reserved: u64,
    /// Those of them that are not written yet.
    unwritten: u64,
    /// Counts what was written of them, ever.
    written: u64,
    /// What was given up, but is not yet removed.
    leaving: u64,
    /// How many records there are.
    records: u64,
    /// The blocks that they take.
    record_blocks: u64,
    /// Damaged files in quarantine, with the bytes that they take. They are evicted first.
    aside: Vec<(PathBuf, u64)>,
    settled: bool,
    busy: bool,
}

impl Account {
    fn used(&self) -> u64 {
        self.index.bytes()
            + self.index.deleted_but_open()
            + self.reserved
            + self.leaving
            + self.record_blocks * BLOCK
            + self.aside_bytes()
    }

    fn evictable(&self) -> u64 {
        self.index.evictable() + self.aside_bytes()
    }

    /// The bytes of damaged files, except for those that the index counts until their readers close them.
    fn aside_bytes(&self) -> u64 {
        let is_open = |path: &Path| {
            let digest = path.file_name().and_then(OsStr::to_str);
            let digest = digest.and_then(parse_digest_name);
            digest.is_some_and(|digest| self.index.is_deleted_but_open(&digest))
        };
        let closed = self.aside.iter().filter(|(path, _)| !is_open(path));
        closed.map(|(_, bytes)| bytes).sum()
    }
}

impl Space {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            root: settings.path.clone(),
            max_size: settings.max_size,
            min_free: settings.min_free,
            opened: Instant::now(),
            account: Mutex::new(Account {
                index: Index::new(settings.persist_after()),
                reserved: 0,
                unwritten: 0,
                written: 0,
                leaving: 0,
                records: 0,
                record_blocks: 0,
                aside: Vec::new(),
                settled: false,
                busy: false,
            }),
            settled: Condvar::new(),
            work: Condvar::new(),
        }
    }

    /// Reserves room for `size` bytes, evicting the least recently used blobs where needed. Blocks on the
    /// disk, and for some seconds after the start on the scan: call it from a fill.
    ///
    /// # Errors
    /// [`Full`] when `max_size` or `min_free` cannot be kept even so.
    pub fn reserve(self: &Arc<Self>, size: u64) -> Result<Reservation, Full> {
        let mut reservation = Reservation::new(self);
        reservation.grow_to(size)?;
        Ok(reservation)
    }

    /// Whether a file of `size` bytes fits beside all that is here, as far as `max_size` goes.
    pub(crate) fn has_room(&self, size: u64) -> bool {
        self.used().saturating_add(with_note(size)) <= self.max_size
    }

    /// Reserves room for one record of `size` bytes.
    ///
    /// # Errors
    /// [`Full`] also when records take too large a part of everything already.
    pub(crate) fn reserve_record(self: &Arc<Self>, size: u64) -> Result<Reservation, Full> {
        let mut reservation = Reservation::new(self);
        let bytes = footprint(size);
        if self.excess_records() > 0 {
            self.wake();
            return Err(Full { bytes });
        }
        self.take(bytes)?;
        reservation.bytes = bytes;
        Ok(reservation)
    }

    /// Counts `size` bytes of a partial that are on disk already.
    pub(crate) fn adopt(self: &Arc<Self>, size: u64) -> Reservation {
        let mut reservation = Reservation::new(self);
        reservation.bytes = footprint(size) + BLOCK;
        reservation.written = reservation.bytes;
        self.account().reserved += reservation.bytes;
        reservation
    }

    /// Bytes on disk and promised.
    pub fn used(&self) -> u64 {
        self.account().used()
    }

    /// The number of blobs.
    pub fn blobs(&self) -> usize {
        self.account().index.len()
    }

    /// The number of records: tags, links.
    pub fn records(&self) -> u64 {
        self.account().records
    }

    /// Notes a use; says what is known of the blob.
    pub(crate) fn touch(&self, digest: &Digest, now: SystemTime) -> Option<Known> {
        self.account().index.touch(digest, unix(now))
    }

    /// Notes a use and keeps the blob from eviction until the pin is dropped. There need not be such a blob.
    pub(crate) fn pin(self: &Arc<Self>, digest: &Digest, now: SystemTime) -> (Pin, Option<Known>) {
        let mut account = self.account();
        account.index.pin(digest);
        let known = account.index.touch(digest, unix(now));
        drop(account);
        let pin = Pin {
            digest: *digest,
            space: self.clone(),
        };
        (pin, known)
    }

    /// Keeps a blob from eviction until the pin is dropped, without noting a use.
    pub(crate) fn hold(self: &Arc<Self>, digest: &Digest) -> Pin {
        self.account().index.pin(digest);
        Pin {
            digest: *digest,
            space: self.clone(),
        }
    }

    /// Does something with the index, briefly: hits wait meanwhile.
    pub(crate) fn index<T>(&self, act: impl FnOnce(&mut Index) -> T) -> T {
        act(&mut self.account().index)
    }

    /// Forgets a blob that turned out to be gone.
    pub(crate) fn lost(&self, digest: &Digest) {
        self.index(|index| index.remove(digest));
        // One that was committed just now must not be forgotten.
        if let Ok(meta) = std::fs::metadata(blob_path(&self.root, digest)) {
            let used = meta.modified().map_or(0, unix);
            self.index(|index| index.insert_found(*digest, meta.len(), used));
        }
    }

    /// Counts records that were found, and the blocks that they take.
    pub(crate) fn count_records(&self, records: u64, blocks: u64) {
        let mut account = self.account();
        account.records += records;
        account.record_blocks += blocks;
    }

    /// A record of `size` bytes is gone.
    pub(crate) fn record_gone(&self, size: u64) {
        let mut account = self.account();
        account.records = account.records.saturating_sub(1);
        account.record_blocks = account.record_blocks.saturating_sub(blocks(size));
    }

    /// The most blocks that records may take.
    pub(crate) fn most_records(&self) -> u64 {
        self.max_size / RECORDS_PART / BLOCK
    }

    /// How many blocks records take beyond their part of everything.
    pub(crate) fn excess_records(&self) -> u64 {
        let taken = self.account().record_blocks;
        taken.saturating_sub(self.most_records())
    }

    /// Counts a damaged file that was set aside.
    pub(crate) fn set_aside(&self, path: PathBuf, size: u64) {
        self.account().aside.push((path, footprint(size)));
    }

    /// The damaged files that were set aside.
    pub(crate) fn aside(&self) -> Vec<PathBuf> {
        let account = self.account();
        account.aside.iter().map(|(path, _)| path.clone()).collect()
    }

    /// A damaged file is gone.
    pub(crate) fn forget_aside(&self, path: &Path) {
        self.account().aside.retain(|(known, _)| known != path);
    }

    /// Everything on disk has been counted.
    pub(crate) fn settle(&self) {
        self.account().settled = true;
        self.settled.notify_all();
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.account().settled
    }

    /// Waits for the scan, or for something to do in the background.
    pub(crate) fn wait_for_work(&self, within: Duration) {
        let account = self.account();
        let waited = self
            .work
            .wait_timeout_while(account, within, |account| !account.busy);
        if let Ok((mut account, _)) = waited {
            account.busy = false;
        }
    }

    pub(crate) fn wake(&self) {
        self.account().busy = true;
        self.work.notify_all();
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        // Every section below leaves the account whole, so a panic elsewhere does not spoil it.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything on disk is counted, or soon is.
    fn soon_settled(&self) -> bool {
        let left = WAIT.saturating_sub(self.opened.elapsed());
        let waited = self
            .settled
            .wait_timeout_while(self.account(), left, |account| !account.settled);
        waited.is_ok_and(|(account, _)| account.settled)
    }

    /// What is kept ready for the next fills, in bytes.
    fn ready(&self) -> u64 {
        (self.max_size / READY_PART).min(READY)
    }
}

/// What a file of `size` bytes takes while it is filled: one that is worth resuming has a note beside it.
fn with_note(size: u64) -> u64 {
    let note = if size >= WORTH { BLOCK } else { 0 };
    footprint(size) + note
}

/// The blocks that a record of `size` bytes takes.
pub(crate) fn blocks(size: u64) -> u64 {
    footprint(size) / BLOCK
}

/// Seconds since 1970.
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

#[cfg(test)]
mod tests;
