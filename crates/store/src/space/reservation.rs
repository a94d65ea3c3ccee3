//! Reservations of space, and pins that keep blobs from eviction.

use std::sync::Arc;
use std::time::SystemTime;

use super::entry::BlobKind;
use super::index::footprint;
use super::{Full, Ledger, Space, blocks, unix, with_note};
use crate::layout::BLOCK;
use oci::digest::Digest;

/// A blob that is being read.
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

/// Room that belongs to one fill. What is not committed is given back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    pub(super) bytes: u64,
    /// How many of them are on disk.
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
    pub(crate) fn shrink_to(&mut self, size: u64) {
        let kept = (footprint(size) + BLOCK).clamp(self.written, self.bytes);
        let mut ledger = self.space.ledger();
        ledger.reserved -= self.bytes - kept;
        ledger.unwritten -= self.bytes - kept;
        drop(ledger);
        self.bytes = kept;
    }

    /// Gives back what is not on disk.
    pub(crate) fn shrink_to_written(&mut self) {
        self.shrink_to(self.written);
    }

    /// `size` bytes of it are on disk: the file system counts them by itself now.
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

    /// The reserved bytes have become a committed blob.
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

    /// The reserved bytes have become a record, in the place of one of `replaced` bytes if there was one.
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
        // Two guards of one lock would wait for each other: what scanned holds none by now.
        if self.bytes > 0 {
            self.give_back(&mut space.ledger());
        }
    }
}
