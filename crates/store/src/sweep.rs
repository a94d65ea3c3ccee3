//! The sweep: deletes unused content, in slices with pauses.
//!
//! A record is deleted when its registry's `unused_ttl` has passed since its last use. A blob is retained for the
//! longest `unused_ttl` of the registries whose records refer to it. A blob without such a record cannot be served
//! without a request upstream, and is retained for the shortest of all. Last uses are written hourly, so
//! content is retained up to an hour longer. Damaged files stay for a week.
//!
//! Permanent records have no `unused_ttl`. If there are too many records, the least recently used permanent ones are
//! deleted like others, but only those beyond half of the space for records: neither sort crowds out the other.
//! All records that lead to permanent ones are then deleted too, so that the lost ones are made again.

#![allow(
    clippy::disallowed_methods,
    reason = "sleeps on a thread of the store, which holds no event loop"
)]

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::Store;
use crate::degraded::warn_degraded;
use crate::layout::QUARANTINE;
use crate::record::{RecordKey, Retention, StoredValue};
use crate::records::Visited;
use crate::scan::read_dir;
use crate::space::{blocks, unix};

/// How many entries are visited between two pauses.
const SLICE: usize = 512;
const SLICE_PAUSE: Duration = Duration::from_millis(2);
/// How long damaged files are retained.
const DAMAGED_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a sweep deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Records that were deleted.
    pub records: u64,
    /// Blobs that were deleted.
    pub blobs: u64,
    /// The bytes of those blobs.
    pub bytes: u64,
}

/// A record on disk.
struct Found<'a> {
    /// Its path below the store's folder.
    path: &'a str,
    /// `None` for a file of an unknown kind.
    key: Option<RecordKey>,
    file: PathBuf,
    /// The index of its registry's TTL in the policy.
    ttl_index: u8,
    /// Last used, in seconds since 1970.
    used: u64,
    /// The space that it takes.
    blocks: u64,
}

impl Found<'_> {
    fn retention(&self) -> Retention {
        let key = self.key.as_ref();
        key.map_or(Retention::WhileUsed, RecordKey::retention)
    }

    fn is_permanent(&self) -> bool {
        self.retention().is_permanent()
    }
}

impl Store {
    /// Deletes content whose `unused_ttl` has passed at `now`, and records if there are too many. Blocks for
    /// long.
    pub fn sweep(&self, now: SystemTime) -> Swept {
        let mut swept = Swept::default();
        self.limit_records(&mut swept);
        if self.retention.current().shortest().is_some() {
            self.sweep_unused(now, &mut swept);
        }
        self.remove_damaged(unix(now).saturating_sub(DAMAGED_TTL.as_secs()));
        swept
    }

    fn sweep_unused(&self, now: SystemTime, swept: &mut Swept) {
        let cutoffs = self.retention.current().cutoffs(now);
        let cutoff = |ttl_index: u8| cutoffs.get(usize::from(ttl_index)).copied().unwrap_or(0);
        self.in_slices(|slots| self.space.index(|index| index.unmark(slots)));
        self.each_record(&mut |found| {
            let read = || std::fs::read(&found.file).ok();
            let key = found.key.as_ref();
            let reference = key.and_then(|key| key.reference(StoredValue::new(&read)));
            if let Some(reference) = reference {
                let digest = reference.digest();
                self.space
                    .index(|index| index.mark(&digest, found.ttl_index));
            }
            let cutoff = cutoff(found.ttl_index);
            if !found.is_permanent() && found.used < cutoff && self.remove_record(found, cutoff) {
                swept.records += 1;
            }
        });
        self.in_slices(|slots| {
            let unused = self.space.index(|index| index.pop_unused(slots, &cutoffs));
            if !unused.is_empty() {
                swept.blobs += unused.len() as u64;
                swept.bytes += unused.iter().map(|(_, bytes)| bytes).sum::<u64>();
                // Blobs that the disk refuses to delete are indexed again.
                let _ = self.space.remove_blobs(unused);
            }
        });
    }

    /// Deletes files that were quarantined before `cutoff`, in seconds since 1970. Those that the disk refuses to
    /// delete stay counted.
    fn remove_damaged(&self, cutoff: u64) {
        for path in self.space.quarantined() {
            let set_aside = std::fs::metadata(&path).and_then(|meta| meta.modified());
            if set_aside.is_ok_and(|at| unix(at) >= cutoff) {
                continue;
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn_degraded("a damaged file cannot be removed", &error);
                }
                _ => self.space.forget_quarantined(&path),
            }
        }
    }

    /// Deletes the least recently used records if records take too much space: an eighth more than needed, so that
    /// it is not due again at once.
    fn limit_records(&self, swept: &mut Swept) {
        let (excess, most) = (
            self.space.excess_record_blocks(),
            self.space.max_record_blocks(),
        );
        if excess == 0 {
            return;
        }
        let (mut uses, mut permanent) = (Vec::new(), Vec::new());
        self.each_record(&mut |found| {
            let uses = if found.is_permanent() {
                &mut permanent
            } else {
                &mut uses
            };
            uses.push((found.used, found.blocks));
        });
        let taken = |uses: &[(u64, u64)]| uses.iter().map(|(_, blocks)| blocks).sum::<u64>();
        let all = taken(&uses) + taken(&permanent);
        let excess = excess + (all / 8).min(most / 4);
        let of_permanent = excess.min(taken(&permanent).saturating_sub(most / 2));
        let mut permanent = LeastUsed::select(permanent, of_permanent);
        let mut uses = LeastUsed::select(uses, excess - of_permanent);
        self.each_record(&mut |found| {
            let least = if found.is_permanent() {
                &mut permanent
            } else {
                &mut uses
            };
            if least.includes(found) && self.remove_record(found, least.cutoff) {
                least.left = least.left.saturating_sub(found.blocks);
                swept.records += 1;
            }
        });
        if of_permanent > 0 {
            self.each_record(&mut |found| {
                let leads = found.retention() == Retention::PermanentIndex;
                swept.records += u64::from(leads && self.remove_record(found, u64::MAX));
            });
        }
    }

    /// Deletes a record unless it was used meanwhile; returns whether it did.
    fn remove_record(&self, found: &Found<'_>, cutoff: u64) -> bool {
        let key = found.key.as_ref();
        self.records.remove_unused(found.path, key, cutoff)
    }

    /// Visits every record, and removes empty folders.
    fn each_record(&self, act: &mut dyn FnMut(&Found<'_>)) {
        let retention = self.retention.current();
        let mut seen = 0_usize;
        self.records.walk(&mut |visited| {
            seen += 1;
            if seen.is_multiple_of(SLICE) {
                std::thread::sleep(SLICE_PAUSE);
            }
            match visited {
                Visited::Record {
                    path,
                    registry,
                    entry,
                } => {
                    let Ok(meta) = entry.metadata() else { return };
                    let Ok(used) = meta.modified() else { return };
                    act(&Found {
                        path,
                        key: self.records.parse(path),
                        file: entry.path(),
                        ttl_index: retention.index(registry),
                        used: unix(used),
                        blocks: blocks(meta.len()),
                    });
                }
                // Fails unless the folder is empty.
                Visited::Folder(folder) => drop(std::fs::remove_dir(folder)),
            }
        });
    }

    /// Calls `act` for all slots of the index, in slices.
    fn in_slices(&self, mut act: impl FnMut(std::ops::Range<usize>)) {
        let all = self.space.index(|index| index.slots());
        for first in (0..all).step_by(SLICE) {
            act(first..first + SLICE);
        }
    }

    /// The files in quarantine.
    pub fn quarantined(&self) -> Vec<PathBuf> {
        read_dir(&self.root.join(QUARANTINE))
            .map(|entry| entry.path())
            .collect()
    }
}

/// A selection of the least recently used records.
struct LeastUsed {
    /// Records used at this time or later stay, in seconds since 1970.
    cutoff: u64,
    /// How many blocks are still to be freed: many may have been used in the same second.
    left: u64,
}

impl LeastUsed {
    /// Selects, from pairs of last use and blocks, the oldest that take at least `blocks`.
    fn select(mut uses: Vec<(u64, u64)>, blocks: u64) -> Self {
        uses.sort_unstable();
        let mut sum = 0;
        let last = uses.iter().find(|(_, taken)| {
            sum += taken;
            sum >= blocks
        });
        let last = last.or(uses.last()).map_or(0, |(used, _)| *used);
        Self {
            cutoff: last.saturating_add(1),
            left: blocks,
        }
    }

    fn includes(&self, found: &Found<'_>) -> bool {
        self.left > 0 && found.used < self.cutoff
    }
}

#[cfg(test)]
mod tests;
