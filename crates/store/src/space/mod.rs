//! Space on the disk: reserved before it is written, freed by eviction, returned when unused.
//!
//! Files count in blocks of 4 KiB: blobs, partials with their notes, records, and damaged files. Folders do not
//! count. Nothing is written before the scan has counted everything.

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
use disk::FreeSpace;
use index::BlobIndex;
use oci::digest::Digest;

pub use entry::BlobStatus;
pub(crate) use entry::{BlobKind, LARGEST};
pub(crate) use eviction::Trimmed;
pub use index::EvictionCandidate;
pub(crate) use index::KnownBlob;
pub(crate) use reservation::Pin;
pub use reservation::Reservation;

use index::footprint;

/// How long a fill waits for the scan, or for space.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The smallest blob that is worth resuming, in bytes.
pub(crate) const MIN_RESUMABLE: u64 = 1 << 20;
/// Records take at most this fraction of `max_size`.
const RECORDS_PART: u64 = 4;
/// The headroom for the next fills: this fraction of `max_size`, and at most so many bytes.
const HEADROOM_PART: u64 = 64;
const MAX_HEADROOM: u64 = 1 << 30;

/// What the store takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Blobs and manifests, as a number.
    pub blobs: u64,
    /// Everything, on disk or reserved.
    pub used: u64,
    /// Incomplete downloads, with what is reserved for the rest of them.
    pub partials: u64,
    /// Records.
    pub records: u64,
    /// Damaged files.
    pub quarantined: u64,
    /// Whether everything on disk is counted.
    pub is_scanned: bool,
    /// What is free on the file system, and how much of it is left free; `None` if the file system does not say.
    pub free: Option<(u64, u64)>,
}

/// No space is free, and nothing is left to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in the store for {bytes} bytes")]
pub struct Full {
    /// The bytes that were asked for.
    pub bytes: u64,
}

/// The space of the store, and the limits on it.
#[derive(Debug)]
pub struct Space {
    root: PathBuf,
    limits: Mutex<Limits>,
    opened: Instant,
    ledger: Mutex<Ledger>,
    /// Signals the end of the scan.
    scanned: Condvar,
    /// Signals background work.
    work: Condvar,
}

/// The limits, which a reload of the configuration may change.
#[derive(Clone, Copy, Debug)]
struct Limits {
    max_size: u64,
    min_free: MinFree,
}

impl Limits {
    fn of(settings: &Settings) -> Self {
        Self {
            max_size: settings.max_size,
            min_free: settings.min_free,
        }
    }

    /// The headroom for the next fills, in bytes.
    fn headroom(self) -> u64 {
        (self.max_size / HEADROOM_PART).min(MAX_HEADROOM)
    }

    fn free_space(self, root: &Path) -> Option<FreeSpace> {
        FreeSpace::of(root, self.min_free)
    }
}

#[derive(Debug)]
struct Ledger {
    index: BlobIndex,
    /// Bytes reserved for fills, written or not.
    reserved: u64,
    /// Reserved bytes that are not written yet.
    unwritten: u64,
    /// Reserved bytes ever written.
    written: u64,
    /// Bytes of victims whose files are not removed yet.
    removing: u64,
    /// The number of records.
    records: u64,
    /// The blocks of all records.
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
            limits: Mutex::new(Limits::of(settings)),
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

    /// Reserves `size` bytes, evicting the least recently used blobs where needed. Blocks on the disk, and for some
    /// seconds after the start on the scan: call it from a fill.
    ///
    /// # Errors
    /// [`Full`] when that would still exceed `max_size` or `min_free`.
    pub fn reserve(self: &Arc<Self>, size: u64) -> Result<Reservation, Full> {
        let mut reservation = Reservation::new(self);
        reservation.grow_to(size)?;
        Ok(reservation)
    }

    /// Changes the limits. What exceeds them is evicted in the background.
    pub(crate) fn set_limits(&self, settings: &Settings) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Limits::of(settings);
        self.wake();
    }

    /// Whether a file of `size` bytes fits within `max_size` without eviction.
    pub(crate) fn has_room(&self, size: u64) -> bool {
        self.used().saturating_add(with_note(size)) <= self.limits().max_size
    }

    /// Reserves space for one record of `size` bytes.
    ///
    /// # Errors
    /// [`Full`] also when records take too much space already.
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

    /// Bytes on disk and reserved.
    pub fn used(&self) -> u64 {
        self.ledger().used()
    }

    /// The number of blobs.
    pub fn blobs(&self) -> usize {
        self.ledger().index.len()
    }

    /// The number of records.
    pub fn records(&self) -> u64 {
        self.ledger().records
    }

    /// What is taken, by what takes it.
    pub(crate) fn usage(&self) -> StoreUsage {
        let free = self.limits().free_space(&self.root);
        let ledger = self.ledger();
        StoreUsage {
            blobs: ledger.index.len() as u64,
            used: ledger.used(),
            partials: ledger.reserved,
            records: ledger.record_blocks * BLOCK,
            quarantined: ledger.aside_bytes(),
            is_scanned: ledger.scanned,
            free: free.map(|disk| (disk.free, disk.min_free)),
        }
    }

    /// Notes a use, and returns what is known of the blob.
    pub(crate) fn touch(&self, digest: &Digest, now: SystemTime) -> Option<KnownBlob> {
        self.ledger().index.touch(digest, unix(now))
    }

    /// Notes a use and prevents the eviction of the blob, which may be absent, until the pin is dropped.
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

    /// Prevents the eviction of a blob until the pin is dropped, without noting a use.
    pub(crate) fn hold(self: &Arc<Self>, digest: &Digest) -> Pin {
        self.ledger().index.pin(digest);
        Pin {
            digest: *digest,
            space: self.clone(),
        }
    }

    /// Calls `act` with the index under its lock. Keep it short: hits wait meanwhile.
    pub(crate) fn index<T>(&self, act: impl FnOnce(&mut BlobIndex) -> T) -> T {
        act(&mut self.ledger().index)
    }

    /// Removes a blob from the index, or inserts it again if its file exists.
    pub(crate) fn reindex(&self, digest: &Digest) {
        self.index(|index| index.remove(digest));
        // It may have been committed just now.
        if let Ok(meta) = std::fs::metadata(blob_path(&self.root, digest)) {
            let used = meta.modified().map_or(0, unix);
            self.index(|index| index.insert_found(*digest, meta.len(), used));
        }
    }

    /// Counts records found by the scan, and their blocks.
    pub(crate) fn count_records(&self, records: u64, blocks: u64) {
        let mut ledger = self.ledger();
        ledger.records += records;
        ledger.record_blocks += blocks;
    }

    /// Uncounts a record of `size` bytes.
    pub(crate) fn remove_record(&self, size: u64) {
        let mut ledger = self.ledger();
        ledger.records = ledger.records.saturating_sub(1);
        ledger.record_blocks = ledger.record_blocks.saturating_sub(blocks(size));
    }

    /// The blocks that records may take.
    pub(crate) fn max_record_blocks(&self) -> u64 {
        self.limits().max_size / RECORDS_PART / BLOCK
    }

    /// How many blocks records take beyond that.
    pub(crate) fn excess_record_blocks(&self) -> u64 {
        let taken = self.ledger().record_blocks;
        taken.saturating_sub(self.max_record_blocks())
    }

    /// Counts a quarantined file.
    pub(crate) fn add_quarantined(&self, path: PathBuf, size: u64) {
        self.ledger().quarantined.push((path, footprint(size)));
    }

    /// The paths of quarantined files.
    pub(crate) fn quarantined(&self) -> Vec<PathBuf> {
        let ledger = self.ledger();
        ledger
            .quarantined
            .iter()
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Uncounts a quarantined file.
    pub(crate) fn forget_quarantined(&self, path: &Path) {
        self.ledger().quarantined.retain(|(known, _)| known != path);
    }

    /// Ends the scan: everything on disk is counted.
    pub(crate) fn finish_scan(&self) {
        self.ledger().scanned = true;
        self.scanned.notify_all();
    }

    pub(crate) fn is_scanned(&self) -> bool {
        self.ledger().scanned
    }

    /// Waits for background work, at most `within`.
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
        // Every critical section leaves the ledger consistent, so poisoning is harmless.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of the scan for the first seconds after the start; returns whether it ended.
    fn wait_for_scan(&self) -> bool {
        let left = RESERVE_TIMEOUT.saturating_sub(self.opened.elapsed());
        let waited = self
            .scanned
            .wait_timeout_while(self.ledger(), left, |ledger| !ledger.scanned);
        waited.is_ok_and(|(ledger, _)| ledger.scanned)
    }

    fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The space of a file of `size` bytes while it is filled, with its note if it can be resumed.
fn with_note(size: u64) -> u64 {
    let note = if size >= MIN_RESUMABLE { BLOCK } else { 0 };
    footprint(size) + note
}

/// The blocks of a record of `size` bytes.
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
