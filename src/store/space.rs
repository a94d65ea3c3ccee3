//! Room on the disk: reserved before it is written, made by eviction, given back when unused.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::Settings;
use super::blobs::blob_path;
use super::index::{Index, footprint};
use super::trouble::trouble;
use crate::spec::digest::Digest;

/// How much of the file system is left to others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MinFree {
    Bytes(u64),
    /// Of the file system's size.
    Percent(f64),
}

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
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    index: Index,
    /// Bytes promised to fills, whether written yet or not.
    reserved: u64,
}

impl Space {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            root: settings.path.clone(),
            max_size: settings.max_size,
            min_free: settings.min_free,
            account: Mutex::new(Account {
                index: Index::new(),
                reserved: 0,
            }),
        }
    }

    /// Reserves room for `size` bytes, evicting the least recently used blobs where needed. Blocks on the
    /// disk: call it from a fill.
    ///
    /// # Errors
    /// [`Full`] when `max_size` or `min_free` cannot be kept even so.
    pub fn reserve(self: &Arc<Self>, size: u64) -> Result<Reservation, Full> {
        let mut reservation = Reservation {
            space: self.clone(),
            bytes: 0,
        };
        reservation.grow_to(size)?;
        Ok(reservation)
    }

    /// Bytes on disk and promised.
    pub fn used(&self) -> u64 {
        let account = self.account();
        account.index.bytes() + account.reserved
    }

    /// The number of blobs.
    pub fn blobs(&self) -> usize {
        self.account().index.len()
    }

    /// Notes a use; true when the file's mtime should follow.
    pub(super) fn touch(&self, digest: &Digest, now: SystemTime) -> bool {
        self.account().index.touch(digest, unix(now))
    }

    /// Keeps a blob from eviction until [`Space::unpin`].
    pub(super) fn pin(&self, digest: &Digest) {
        self.account().index.pin(digest);
    }

    pub(super) fn unpin(&self, digest: &Digest) {
        self.account().index.unpin(digest);
    }

    /// Enters a blob that the scan found; from new to old.
    pub(super) fn found(&self, digest: Digest, size: u64, last_use: u64) {
        self.account().index.insert_oldest(digest, size, last_use);
    }

    /// Forgets a blob that turned out to be gone.
    pub(super) fn lost(&self, digest: &Digest) {
        self.account().index.remove(digest);
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        // Every section below leaves the account whole, so a panic elsewhere does not spoil it.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `more` bytes, or says why not. What is here goes only where that can help: a disk that others
    /// filled, or that cannot say how full it is, costs no blob.
    fn take(&self, more: u64) -> Result<(), Full> {
        let full = Full { bytes: more };
        loop {
            let (victim, bytes) = {
                let mut account = self.account();
                let held = account.index.bytes();
                let used = held.saturating_add(account.reserved).saturating_add(more);
                let too_much = used.saturating_sub(self.max_size);
                let missing = self.missing(more, account.reserved).ok_or(full)?;
                if too_much == 0 && missing == 0 {
                    account.reserved += more;
                    return Ok(());
                }
                if too_much.max(missing) > held {
                    return Err(full);
                }
                let held = account.index.bytes();
                let victim = account.index.pop_oldest().ok_or(full)?;
                (victim, held - account.index.bytes())
            };
            self.evict(&victim).map_err(|()| full)?;
            crate::metrics::evicted(bytes);
        }
    }

    /// Removes a blob that the index gave up. One that the disk does not let go stays.
    fn evict(&self, victim: &Digest) -> Result<(), ()> {
        let path = blob_path(&self.root, victim);
        match std::fs::remove_file(&path) {
            Ok(()) => tracing::debug!(digest = %victim, "evicted"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                trouble("a blob cannot be evicted", &error);
                if let Ok(meta) = std::fs::metadata(&path) {
                    self.found(*victim, meta.len(), meta.modified().map_or(0, unix));
                }
                return Err(());
            }
        }
        Ok(())
    }

    /// How many bytes the file system lacks to keep `min_free` after all that is promised and `more` was
    /// written; `None` when it cannot say. What is already written of the promised bytes counts twice, which
    /// errs on the safe side.
    fn missing(&self, more: u64, reserved: u64) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a disk's size; the exact byte does not matter"
        )]
        let keep = match self.min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        };
        let wanted = keep.saturating_add(more).saturating_add(reserved);
        Some(wanted.saturating_sub(free))
    }
}

/// Room that belongs to one fill. What is not committed is given back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    bytes: u64,
}

impl Reservation {
    /// Makes sure that a file of `size` bytes has room.
    ///
    /// # Errors
    /// [`Full`] when there is none; what was reserved before stays.
    pub fn grow_to(&mut self, size: u64) -> Result<(), Full> {
        let wanted = footprint(size);
        if wanted > self.bytes {
            self.space.take(wanted - self.bytes)?;
            self.bytes = wanted;
        }
        Ok(())
    }

    /// The reserved bytes have become a committed blob.
    pub(super) fn settle(mut self, digest: Digest, size: u64, now: SystemTime) {
        let mut account = self.space.account();
        account.reserved -= self.bytes;
        account.index.insert(digest, size, unix(now));
        drop(account);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.account().reserved -= self.bytes;
    }
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(root: &std::path::Path, max_size: u64, min_free: MinFree) -> Arc<Space> {
        Arc::new(Space::new(&Settings {
            path: root.to_owned(),
            max_size,
            min_free,
        }))
    }

    #[test]
    fn reservations_are_counted_in_blocks_and_given_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let space = space(folder.path(), 10 * 4096, MinFree::Bytes(0));
        let first = space.reserve(1).expect("room");
        assert_eq!(space.used(), 4096);
        let mut second = space.reserve(8 * 4096).expect("room");
        assert_eq!(space.reserve(4097).map(|_| ()), Err(Full { bytes: 8192 }));
        second.grow_to(9 * 4096).expect("room");
        assert!(second.grow_to(9 * 4096 + 1).is_err());
        drop(second);
        drop(first);
        assert_eq!(space.used(), 0);
    }

    #[test]
    fn min_free_refuses() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(
            space(folder.path(), u64::MAX, MinFree::Percent(100.0))
                .reserve(1)
                .is_err()
        );
        assert!(
            space(folder.path(), u64::MAX, MinFree::Bytes(u64::MAX))
                .reserve(1)
                .is_err()
        );
    }

    #[test]
    fn nothing_goes_where_that_would_not_help() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let space = space(folder.path(), 4 * 4096, MinFree::Bytes(0));
        for n in [1, 2] {
            let room = space.reserve(1).expect("room");
            room.settle(Digest::Sha256([n; 32]), 1, SystemTime::now());
        }
        assert!(
            space.reserve(4 * 4096 + 1).is_err(),
            "more than there may be"
        );
        let held = space.reserve(2 * 4096).expect("room");
        assert!(space.reserve(3 * 4096).is_err(), "the rest is promised");
        assert_eq!(space.blobs(), 2);
        drop(held);
        // A disk that others filled.
        let full = Space {
            min_free: MinFree::Bytes(u64::MAX / 2),
            ..Arc::into_inner(space).expect("one owner")
        };
        let full = Arc::new(full);
        assert_eq!(full.reserve(1).map(drop), Err(Full { bytes: 4096 }));
        assert_eq!(full.blobs(), 2);
    }

    #[test]
    fn what_cannot_be_removed_is_not_forgotten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let space = space(folder.path(), 4096, MinFree::Bytes(0));
        let digest = Digest::Sha256([1; 32]);
        // A folder is what no rights make a file of.
        std::fs::create_dir_all(blob_path(folder.path(), &digest)).expect("a folder");
        let room = space.reserve(1).expect("room");
        room.settle(digest, 1, SystemTime::now());
        assert!(space.reserve(1).is_err());
        assert_eq!(space.blobs(), 1);
    }

    #[test]
    fn the_least_recently_used_goes_and_what_is_read_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let space = space(folder.path(), 3 * 4096, MinFree::Bytes(0));
        let digests = [1, 2, 3].map(|n| Digest::Sha256([n; 32]));
        for digest in digests {
            space
                .reserve(1)
                .expect("room")
                .settle(digest, 1, SystemTime::now());
        }
        space.pin(&digests[0]);
        space.touch(&digests[1], SystemTime::now());
        let _held = space.reserve(1).expect("room");
        assert!(
            space
                .account()
                .index
                .pop_oldest()
                .is_some_and(|gone| gone != digests[2])
        );
    }
}
