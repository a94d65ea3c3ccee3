//! Reservations of space, and pins that keep blobs from eviction.

use std::sync::Arc;
use std::time::SystemTime;

use super::entry::BlobKind;
use super::index::footprint;
use super::{Full, Ledger, Space, blocks, unix, with_note};
use crate::layout::BLOCK;
use oci::digest::Digest;

/// Prevents the eviction of a blob while it is read.
#[derive(Debug)]
pub(crate) struct Pin {
    pub(super) digest: Digest,
    pub(super) space: Arc<Space>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.space.ledger().index.unpin(&self.digest);
    }
}

/// Space reserved for one fill. What is not committed is returned on drop.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    pub(super) bytes: u64,
    /// The bytes that are on disk.
    pub(super) written: u64,
}

impl Reservation {
    pub(super) fn new(space: &Arc<Space>) -> Self {
        Self {
            space: space.clone(),
            bytes: 0,
            written: 0,
        }
    }

    /// Grows the reservation to a file of `size` bytes.
    ///
    /// # Errors
    /// [`Full`] when no space is free; the previous reservation stays.
    pub fn grow_to(&mut self, size: u64) -> Result<(), Full> {
        let required = with_note(size);
        if required > self.bytes {
            self.space.take(required - self.bytes)?;
            self.bytes = required;
        }
        Ok(())
    }

    /// Returns what exceeds a file of `size` bytes, all of them on disk, and its note.
    pub(crate) fn shrink_to(&mut self, size: u64) {
        let remaining = (footprint(size) + BLOCK).clamp(self.written, self.bytes);
        let mut ledger = self.space.ledger();
        ledger.reserved -= self.bytes - remaining;
        ledger.unwritten -= self.bytes - remaining;
        drop(ledger);
        self.bytes = remaining;
    }

    /// Returns what is not on disk.
    pub(crate) fn shrink_to_written(&mut self) {
        self.shrink_to(self.written);
    }

    /// Notes that `size` bytes are on disk, where the file system counts them.
    pub(crate) fn wrote(&mut self, size: u64) {
        let written = size.min(self.bytes);
        let more = written.saturating_sub(self.written);
        if more > 0 {
            let mut ledger = self.space.ledger();
            ledger.unwritten -= more;
            ledger.written += more;
            self.written = written;
        }
    }

    /// Turns the reservation into a committed blob.
    pub(crate) fn commit_blob(
        mut self,
        digest: Digest,
        size: u64,
        now: SystemTime,
        kind: BlobKind,
    ) {
        let space = self.space.clone();
        let mut ledger = space.ledger();
        self.give_back(&mut ledger);
        ledger.index.insert(digest, size, unix(now), kind);
    }

    /// Turns the reservation into a record, which may replace one of `replaced` bytes.
    pub(crate) fn commit_record(mut self, replaced: Option<u64>) {
        let space = self.space.clone();
        let mut ledger = space.ledger();
        ledger.record_blocks += self.bytes / BLOCK;
        self.give_back(&mut ledger);
        match replaced {
            Some(size) => {
                ledger.record_blocks = ledger.record_blocks.saturating_sub(blocks(size));
            }
            None => ledger.records += 1,
        }
    }

    fn give_back(&mut self, ledger: &mut Ledger) {
        ledger.reserved -= self.bytes;
        ledger.unwritten -= self.bytes - self.written;
        (self.bytes, self.written) = (0, 0);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let space = self.space.clone();
        // The commits hold the lock here, with nothing left to return: locking again would deadlock.
        if self.bytes > 0 {
            self.give_back(&mut space.ledger());
        }
    }
}
