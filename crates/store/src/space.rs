//! Room on the disk: reserved before it is written, made by eviction, given back when unused.
//!
//! What counts is what files take, in blocks of 4 KiB: blobs, partials with their notes, records, and what
//! is set aside as damaged. Folders do not count. Until the scan has seen all of it nothing new is written.

#![allow(
    clippy::disallowed_methods,
    reason = "eviction runs on blocking threads, which hold no event loop"
)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::degraded::warn_degraded;
use super::disk::Disk;
use super::index::{Index, Kind, Known, footprint};
use super::layout::BLOCK;
use super::layout::blob_path;
use super::settings::{MinFree, Settings};
use oci::digest::Digest;

/// How long a fill waits until it is known what there is, or until there is room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many blobs are evicted at once.
const SLICE: usize = 64;
/// Records take at most this part of everything.
const RECORDS_PART: u64 = 4;
/// What is kept ready for the next fills: this part of everything, but no more than so many bytes.
const READY_PART: u64 = 64;
const READY: u64 = 1 << 30;
/// How often a file system that was given room back may fail to say so, and the wait before each look.
const LOOKS: u32 = 5;
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// There is no room, and nothing more that may go.
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
    /// Damaged files that are still there: they are the first to go.
    aside: Vec<(PathBuf, u64)>,
    settled: bool,
    busy: bool,
}

impl Account {
    fn used(&self) -> u64 {
        let aside: u64 = self.aside.iter().map(|(_, bytes)| bytes).sum();
        let open = self.index.deleted_but_open();
        self.index.bytes()
            + open
            + self.reserved
            + self.leaving
            + self.record_blocks * BLOCK
            + aside
    }

    fn evictable(&self) -> u64 {
        let aside: u64 = self.aside.iter().map(|(_, bytes)| bytes).sum();
        self.index.evictable() + aside
    }

    /// Gives up what may go first, until that are `bytes` or a slice of it.
    fn give_up(&mut self, bytes: u64) -> Vec<Victim> {
        let mut victims = Vec::new();
        let mut sum = 0;
        while sum < bytes && victims.len() < SLICE {
            let victim = match self.aside.pop() {
                Some((path, bytes)) => Victim::Aside(path, bytes),
                None => match self.index.pop_oldest() {
                    Some((digest, bytes)) => Victim::Blob(digest, bytes),
                    None => break,
                },
            };
            sum += victim.bytes();
            victims.push(victim);
        }
        self.leaving += sum;
        victims
    }
}

/// What trimming came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trimmed {
    Enough,
    /// There may be more to do.
    More,
    /// The disk does not let go, or cannot say how full it is.
    Refused,
}

/// Something that is to be removed.
#[derive(Debug)]
enum Victim {
    Blob(Digest, u64),
    Aside(PathBuf, u64),
}

impl Victim {
    fn bytes(&self) -> u64 {
        match self {
            Self::Blob(_, bytes) | Self::Aside(_, bytes) => *bytes,
        }
    }
}

impl Space {
    pub(super) fn new(settings: &Settings) -> Self {
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
    pub(super) fn has_room(&self, size: u64) -> bool {
        self.used().saturating_add(with_note(size)) <= self.max_size
    }

    /// Reserves room for one record of `size` bytes.
    ///
    /// # Errors
    /// [`Full`] also when records take too large a part of everything already.
    pub(super) fn reserve_record(self: &Arc<Self>, size: u64) -> Result<Reservation, Full> {
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
    pub(super) fn adopt(self: &Arc<Self>, size: u64) -> Reservation {
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
    pub(super) fn touch(&self, digest: &Digest, now: SystemTime) -> Option<Known> {
        self.account().index.touch(digest, unix(now))
    }

    /// Notes a use and keeps the blob from eviction until the pin is dropped. There need not be such a blob.
    pub(super) fn pin(self: &Arc<Self>, digest: &Digest, now: SystemTime) -> (Pin, Option<Known>) {
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
    pub(super) fn hold(self: &Arc<Self>, digest: &Digest) -> Pin {
        self.account().index.pin(digest);
        Pin {
            digest: *digest,
            space: self.clone(),
        }
    }

    /// Does something with the index, briefly: hits wait meanwhile.
    pub(super) fn index<T>(&self, act: impl FnOnce(&mut Index) -> T) -> T {
        act(&mut self.account().index)
    }

    /// Forgets a blob that turned out to be gone.
    pub(super) fn lost(&self, digest: &Digest) {
        self.index(|index| index.remove(digest));
        // One that was committed just now must not be forgotten.
        if let Ok(meta) = std::fs::metadata(blob_path(&self.root, digest)) {
            let used = meta.modified().map_or(0, unix);
            self.index(|index| index.insert_found(*digest, meta.len(), used));
        }
    }

    /// Counts records that were found, and the blocks that they take.
    pub(super) fn count_records(&self, records: u64, blocks: u64) {
        let mut account = self.account();
        account.records += records;
        account.record_blocks += blocks;
    }

    /// A record of `size` bytes is gone.
    pub(super) fn record_gone(&self, size: u64) {
        let mut account = self.account();
        account.records = account.records.saturating_sub(1);
        account.record_blocks = account.record_blocks.saturating_sub(blocks(size));
    }

    /// The most blocks that records may take.
    pub(super) fn most_records(&self) -> u64 {
        self.max_size / RECORDS_PART / BLOCK
    }

    /// How many blocks records take beyond their part of everything.
    pub(super) fn excess_records(&self) -> u64 {
        let taken = self.account().record_blocks;
        taken.saturating_sub(self.most_records())
    }

    /// Counts a damaged file that was set aside.
    pub(super) fn set_aside(&self, path: PathBuf, size: u64) {
        self.account().aside.push((path, footprint(size)));
    }

    /// The damaged files that were set aside.
    pub(super) fn aside(&self) -> Vec<PathBuf> {
        let account = self.account();
        account.aside.iter().map(|(path, _)| path.clone()).collect()
    }

    /// A damaged file is gone.
    pub(super) fn forget_aside(&self, path: &Path) {
        self.account().aside.retain(|(known, _)| known != path);
    }

    /// Everything on disk has been counted.
    pub(super) fn settle(&self) {
        self.account().settled = true;
        self.settled.notify_all();
    }

    pub(super) fn is_settled(&self) -> bool {
        self.account().settled
    }

    /// Waits for the scan, or for something to do in the background.
    pub(super) fn wait_for_work(&self, within: Duration) {
        let account = self.account();
        let waited = self
            .work
            .wait_timeout_while(account, within, |account| !account.busy);
        if let Ok((mut account, _)) = waited {
            account.busy = false;
        }
    }

    pub(super) fn wake(&self) {
        self.account().busy = true;
        self.work.notify_all();
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        // Every section below leaves the account whole, so a panic elsewhere does not spoil it.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything on disk is counted, or soon is.
    fn soon_settled(&self) -> bool {
        let left = PATIENCE.saturating_sub(self.opened.elapsed());
        let waited = self
            .settled
            .wait_timeout_while(self.account(), left, |account| !account.settled);
        waited.is_ok_and(|(account, _)| account.settled)
    }

    /// What is kept ready for the next fills, in bytes.
    fn ready(&self) -> u64 {
        (self.max_size / READY_PART).min(READY)
    }

    /// Takes `more` bytes, or says why not. What is here goes only where that can help: a disk that others
    /// filled, or that cannot say how full it is, costs no blob.
    fn take(&self, more: u64) -> Result<(), Full> {
        let full = Full { bytes: more };
        if !self.soon_settled() {
            return Err(full);
        }
        let began = Instant::now();
        let mut looks = 0;
        loop {
            let written = self.account().written;
            // No look at the disk under the lock that every hit takes.
            let disk = Disk::of(&self.root, self.min_free).ok_or(full)?;
            let mut account = self.account();
            let too_much = (account.used().saturating_add(more)).saturating_sub(self.max_size);
            // What was written since that look may be in it or not.
            let since = account.written - written;
            let wanted = account.unwritten.saturating_add(since);
            let missing = disk.missing(wanted.saturating_add(more));
            let short = too_much.max(missing);
            if short == 0 {
                account.reserved += more;
                account.unwritten += more;
                let tight = account.used() > self.max_size - self.ready() / 2;
                drop(account);
                if tight {
                    self.wake();
                }
                return Ok(());
            }
            if short > account.evictable() || began.elapsed() > PATIENCE {
                return Err(full);
            }
            let victims = account.give_up(short);
            drop(account);
            if victims.is_empty() {
                return Err(full);
            }
            let bytes: u64 = victims.iter().map(Victim::bytes).sum();
            self.remove(victims).map_err(|()| full)?;
            // Some file systems free their blocks later: what they owe must not cost everything.
            let freed = Disk::of(&self.root, self.min_free)
                .ok_or(full)?
                .free
                .saturating_sub(disk.free);
            if too_much == 0 && freed < bytes / 2 {
                looks += 1;
                if looks > LOOKS {
                    return Err(full);
                }
                std::thread::sleep(LOOK_AFTER);
            }
        }
    }

    /// Evicts a slice of what is too much, and of what makes room for the next fills. Blocks on the disk; for the
    /// background.
    pub(super) fn trim(&self) -> Trimmed {
        let Some(disk) = Disk::of(&self.root, self.min_free) else {
            return Trimmed::Refused;
        };
        let mut account = self.account();
        let used = account.used();
        let too_much = if used > self.max_size - self.ready() / 2 {
            used - (self.max_size - self.ready())
        } else {
            0
        };
        let missing = disk.missing(account.unwritten);
        let missing = if missing > account.evictable() {
            0
        } else {
            missing
        };
        let short = too_much.max(missing);
        if !account.settled || short == 0 {
            return Trimmed::Enough;
        }
        let victims = account.give_up(short);
        drop(account);
        if victims.is_empty() {
            return Trimmed::Enough;
        }
        match self.remove(victims) {
            Err(()) => Trimmed::Refused,
            // What a file system frees later is seen at the next look.
            Ok(()) if too_much > 0 => Trimmed::More,
            Ok(()) => Trimmed::Enough,
        }
    }

    /// Whether there is more than there may be.
    pub(super) fn is_over(&self) -> bool {
        self.used() > self.max_size
    }

    /// Removes blobs that the index gave up.
    pub(super) fn remove_blobs(&self, blobs: Vec<(Digest, u64)>) -> Result<(), ()> {
        self.account().leaving += blobs.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let victims = blobs.into_iter();
        self.remove(
            victims
                .map(|(digest, bytes)| Victim::Blob(digest, bytes))
                .collect(),
        )
    }

    /// Removes what was given up. What the disk does not let go stays.
    fn remove(&self, victims: Vec<Victim>) -> Result<(), ()> {
        let mut outcome = Ok(());
        for victim in victims {
            let path = match &victim {
                Victim::Blob(digest, _) => blob_path(&self.root, digest),
                Victim::Aside(path, _) => path.clone(),
            };
            let removed = std::fs::remove_file(&path);
            let mut account = self.account();
            account.leaving -= victim.bytes();
            drop(account);
            match removed {
                Ok(()) => {
                    if let Victim::Blob(digest, _) = &victim
                        && self.index(|index| index.knows(digest))
                    {
                        // Somebody opened it just before: they read on, but nobody finds it any more.
                        self.lost(digest);
                    }
                    telemetry::metrics::evicted(victim.bytes());
                    tracing::debug!(?victim, "evicted");
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn_degraded("a blob cannot be evicted", &error);
                    outcome = Err(());
                    match victim {
                        Victim::Aside(path, bytes) => self.account().aside.push((path, bytes)),
                        Victim::Blob(digest, _) => {
                            if let Ok(meta) = std::fs::metadata(&path) {
                                let used = meta.modified().map_or(0, unix);
                                let kind = Kind::Layer;
                                self.index(|index| {
                                    index.insert_oldest(digest, meta.len(), used, kind);
                                });
                            }
                        }
                    }
                }
            }
        }
        outcome
    }
}

/// A blob that is being read.
#[derive(Debug)]
pub(super) struct Pin {
    digest: Digest,
    space: Arc<Space>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.space.account().index.unpin(&self.digest);
    }
}

/// What a file of `size` bytes takes while it is filled: one that is worth resuming has a note beside it.
fn with_note(size: u64) -> u64 {
    let note = if size >= super::partials::WORTH {
        BLOCK
    } else {
        0
    };
    footprint(size) + note
}

/// Room that belongs to one fill. What is not committed is given back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    bytes: u64,
    /// How many of them are on disk.
    written: u64,
}

impl Reservation {
    fn new(space: &Arc<Space>) -> Self {
        Self {
            space: space.clone(),
            bytes: 0,
            written: 0,
        }
    }

    /// Makes sure that a file of `size` bytes has room.
    ///
    /// # Errors
    /// [`Full`] when there is none; what was reserved before stays.
    pub fn grow_to(&mut self, size: u64) -> Result<(), Full> {
        let wanted = with_note(size);
        if wanted > self.bytes {
            self.space.take(wanted - self.bytes)?;
            self.bytes = wanted;
        }
        Ok(())
    }

    /// Gives back what a file of `size` bytes, all of them on disk, and its note do not take.
    pub(super) fn shrink_to(&mut self, size: u64) {
        let kept = (footprint(size) + BLOCK).clamp(self.written, self.bytes);
        let mut account = self.space.account();
        account.reserved -= self.bytes - kept;
        account.unwritten -= self.bytes - kept;
        drop(account);
        self.bytes = kept;
    }

    /// Gives back what is not on disk.
    pub(super) fn shrink_to_written(&mut self) {
        self.shrink_to(self.written);
    }

    /// `size` bytes of it are on disk: the file system counts them by itself now.
    pub(super) fn wrote(&mut self, size: u64) {
        let written = size.min(self.bytes);
        let more = written.saturating_sub(self.written);
        if more > 0 {
            let mut account = self.space.account();
            account.unwritten -= more;
            account.written += more;
            self.written = written;
        }
    }

    /// The reserved bytes have become a committed blob.
    pub(super) fn settle(mut self, digest: Digest, size: u64, now: SystemTime, kind: Kind) {
        let space = self.space.clone();
        let mut account = space.account();
        self.give_back(&mut account);
        account.index.insert(digest, size, unix(now), kind);
    }

    /// The reserved bytes have become a record, in the place of one of `replaced` bytes if there was one.
    pub(super) fn settle_record(mut self, replaced: Option<u64>) {
        let space = self.space.clone();
        let mut account = space.account();
        account.record_blocks += self.bytes / BLOCK;
        self.give_back(&mut account);
        match replaced {
            Some(size) => {
                account.record_blocks = account.record_blocks.saturating_sub(blocks(size));
            }
            None => account.records += 1,
        }
    }

    fn give_back(&mut self, account: &mut Account) {
        account.reserved -= self.bytes;
        account.unwritten -= self.bytes - self.written;
        (self.bytes, self.written) = (0, 0);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let space = self.space.clone();
        // Two guards of one lock would wait for each other: what settled holds none by now.
        if self.bytes > 0 {
            self.give_back(&mut space.account());
        }
    }
}

/// The blocks that a record of `size` bytes takes.
pub(super) fn blocks(size: u64) -> u64 {
    footprint(size) / BLOCK
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
