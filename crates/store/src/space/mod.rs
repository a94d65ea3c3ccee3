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
use index::BlobIndex;
use oci::digest::Digest;

pub(crate) use entry::{BlobKind, LARGEST};
pub(crate) use eviction::Trimmed;
pub(crate) use index::KnownBlob;
pub(crate) use reservation::Pin;
pub use reservation::Reservation;

use index::footprint;

/// How long a fill waits for the scan, or for space.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(5);
/// From which size on a partial is worth keeping, in bytes.
pub(crate) const MIN_RESUMABLE: u64 = 1 << 20;
/// Records take at most this part of everything.
const RECORDS_PART: u64 = 4;
/// What is kept ready for the next fills: this part of everything, but no more than so many bytes.
const HEADROOM_PART: u64 = 64;
const MAX_HEADROOM: u64 = 1 << 30;
/// There is no space, and nothing left to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in the store for {bytes} bytes")]
pub struct Full {
    pub bytes: u64,
}

/// The ledger of the disk.
#[derive(Debug)]
pub struct Space {
    root: PathBuf,
    max_size: u64,
    min_free: MinFree,
    opened: Instant,
    ledger: Mutex<Ledger>,
    /// Everything on disk is known from now on.
    scanned: Condvar,
    /// There is something to do in the background.
    work: Condvar,
}

#[derive(Debug)]
struct Ledger {
    index: BlobIndex,
    /// Bytes promised to fills, whether written yet or not.
    reserved: u64,
    /// Those of them that are not written yet.
    unwritten: u64,
    /// Counts what was written of them, ever.
    written: u64,
    /// What was given up, but is not yet removed.
    removing: u64,
    /// How many records there are.
    records: u64,
    /// The blocks that they take.
    record_blocks: u64,
    /// Damaged files in quarantine, with the bytes that they take. They are evicted first.
    quarantined: Vec<(PathBuf, u64)>,
    scanned: bool,
    has_work: bool,
}

impl Ledger {
    fn used(&self) -> u64 {
        self.index.bytes()
            + self.index.deleted_but_open()
            + self.reserved
            + self.removing
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
        let closed = self.quarantined.iter().filter(|(path, _)| !is_open(path));
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
            ledger: Mutex::new(Ledger {
                index: BlobIndex::new(settings.persist_after()),
                reserved: 0,
                unwritten: 0,
                written: 0,
                removing: 0,
                records: 0,
                record_blocks: 0,
                quarantined: Vec::new(),
                scanned: false,
                has_work: false,
            }),
            scanned: Condvar::new(),
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
        if self.excess_record_blocks() > 0 {
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
        self.ledger().reserved += reservation.bytes;
        reservation
    }

    /// Bytes on disk and promised.
    pub fn used(&self) -> u64 {
        self.ledger().used()
    }

    /// The number of blobs.
    pub fn blobs(&self) -> usize {
        self.ledger().index.len()
    }

    /// The number of records: tags, links.
    pub fn records(&self) -> u64 {
        self.ledger().records
    }

    /// Notes a use; says what is known of the blob.
    pub(crate) fn touch(&self, digest: &Digest, now: SystemTime) -> Option<KnownBlob> {
        self.ledger().index.touch(digest, unix(now))
    }

    /// Notes a use and keeps the blob from eviction until the pin is dropped. There need not be such a blob.
    pub(crate) fn pin(
        self: &Arc<Self>,
        digest: &Digest,
        now: SystemTime,
    ) -> (Pin, Option<KnownBlob>) {
        let mut ledger = self.ledger();
        ledger.index.pin(digest);
        let known = ledger.index.touch(digest, unix(now));
        drop(ledger);
        let pin = Pin {
            digest: *digest,
            space: self.clone(),
        };
        (pin, known)
    }

    /// Keeps a blob from eviction until the pin is dropped, without noting a use.
    pub(crate) fn hold(self: &Arc<Self>, digest: &Digest) -> Pin {
        self.ledger().index.pin(digest);
        Pin {
            digest: *digest,
            space: self.clone(),
        }
    }

    /// Does something with the index, briefly: hits wait meanwhile.
    pub(crate) fn index<T>(&self, act: impl FnOnce(&mut BlobIndex) -> T) -> T {
        act(&mut self.ledger().index)
    }

    /// Forgets a blob that turned out to be gone.
    pub(crate) fn reindex(&self, digest: &Digest) {
        self.index(|index| index.remove(digest));
        // One that was committed just now must not be forgotten.
        if let Ok(meta) = std::fs::metadata(blob_path(&self.root, digest)) {
            let used = meta.modified().map_or(0, unix);
            self.index(|index| index.insert_found(*digest, meta.len(), used));
        }
    }

    /// Counts records that were found, and the blocks that they take.
    pub(crate) fn count_records(&self, records: u64, blocks: u64) {
        let mut ledger = self.ledger();
        ledger.records += records;
        ledger.record_blocks += blocks;
    }

    /// A record of `size` bytes is gone.
    pub(crate) fn remove_record(&self, size: u64) {
        let mut ledger = self.ledger();
        ledger.records = ledger.records.saturating_sub(1);
        ledger.record_blocks = ledger.record_blocks.saturating_sub(blocks(size));
    }

    /// The most blocks that records may take.
    pub(crate) fn max_record_blocks(&self) -> u64 {
        self.max_size / RECORDS_PART / BLOCK
    }

    /// How many blocks records take beyond their part of everything.
    pub(crate) fn excess_record_blocks(&self) -> u64 {
        let taken = self.ledger().record_blocks;
        taken.saturating_sub(self.max_record_blocks())
    }

    /// Counts a damaged file that was set quarantined.
    pub(crate) fn add_quarantined(&self, path: PathBuf, size: u64) {
        self.ledger().quarantined.push((path, footprint(size)));
    }

    /// The damaged files that were set quarantined.
    pub(crate) fn quarantined(&self) -> Vec<PathBuf> {
        let ledger = self.ledger();
        ledger
            .quarantined
            .iter()
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// A damaged file is gone.
    pub(crate) fn forget_quarantined(&self, path: &Path) {
        self.ledger().quarantined.retain(|(known, _)| known != path);
    }

    /// Everything on disk has been counted.
    pub(crate) fn finish_scan(&self) {
        self.ledger().scanned = true;
        self.scanned.notify_all();
    }

    pub(crate) fn is_scanned(&self) -> bool {
        self.ledger().scanned
    }

    /// Waits for the scan, or for something to do in the background.
    pub(crate) fn wait_for_work(&self, within: Duration) {
        let ledger = self.ledger();
        let waited = self
            .work
            .wait_timeout_while(ledger, within, |ledger| !ledger.has_work);
        if let Ok((mut ledger, _)) = waited {
            ledger.has_work = false;
        }
    }

    pub(crate) fn wake(&self) {
        self.ledger().has_work = true;
        self.work.notify_all();
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every section below leaves the ledger whole, so a panic elsewhere does not spoil it.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything on disk is counted, or soon is.
    fn wait_for_scan(&self) -> bool {
        let left = RESERVE_TIMEOUT.saturating_sub(self.opened.elapsed());
        let waited = self
            .scanned
            .wait_timeout_while(self.ledger(), left, |ledger| !ledger.scanned);
        waited.is_ok_and(|(ledger, _)| ledger.scanned)
    }

    /// What is kept ready for the next fills, in bytes.
    fn headroom(&self) -> u64 {
        (self.max_size / HEADROOM_PART).min(MAX_HEADROOM)
    }
}

/// What a file of `size` bytes takes while it is filled: one that is worth resuming has a note beside it.
fn with_note(size: u64) -> u64 {
    let note = if size >= MIN_RESUMABLE { BLOCK } else { 0 };
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
