//! The index of blobs: their sizes and the order of eviction.
//!
//! A slab threaded by two doubly linked lists, most recently used first, found through a table of slab
//! numbers, so that an entry costs under 100 bytes and every operation is O(1). One list has layers and
//! configurations, the other manifests: indexes, their children, referrers. They take little space, and layers
//! are useless without them, so they are evicted after unused layers. Pure: it never touches the
//! disk.

mod order;

pub use order::EvictionCandidate;

use std::collections::HashMap;
use std::ops::Range;

use ahash::RandomState;
use hashbrown::HashTable;

use super::entry::{BlobKind, BlobStatus, EntryState, IndexEntry, ListEnds, NONE};
use crate::layout::BLOCK;
use oci::digest::Digest;

/// The index's knowledge of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownBlob {
    /// In bytes; at most 1 TiB.
    pub size: u64,
    /// Whether this process has verified its digest.
    pub verified: bool,
    /// Whether the file's mtime has fallen behind and should be touched.
    pub behind: bool,
}

/// Blobs in order of use.
#[derive(Debug)]
pub struct BlobIndex {
    entries: Vec<IndexEntry>,
    free: Vec<u32>,
    table: HashTable<u32>,
    hasher: RandomState,
    layers: ListEnds,
    manifests: ListEnds,
    /// How long a last use may stay unwritten, in seconds.
    persist_after: u32,
    /// Pins of digests without an entry.
    unindexed_pins: HashMap<Digest, u32>,
    /// Bytes of files that were removed while they were read, until the last reader is done.
    deleted: HashMap<Digest, u64>,
}

/// Bytes that a file of `size` bytes takes on disk; even an empty one has an inode.
pub fn footprint(size: u64) -> u64 {
    size.div_ceil(BLOCK).max(1) * BLOCK
}

impl BlobIndex {
    /// A last use may stay unwritten for `persist_after` seconds.
    pub fn new(persist_after: u32) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            layers: ListEnds::NONE,
            manifests: ListEnds::NONE,
            persist_after,
            unindexed_pins: HashMap::new(),
            deleted: HashMap::new(),
        }
    }

    /// Bytes of removed files that are still open.
    pub fn deleted_but_open(&self) -> u64 {
        self.deleted.values().sum()
    }

    /// Whether a reader has a removed file of this digest open.
    pub fn is_deleted_but_open(&self, digest: &Digest) -> bool {
        self.deleted.contains_key(digest)
    }

    /// Whether there is an entry.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.find(digest).is_some()
    }

    /// Bytes that all entries take.
    pub fn bytes(&self) -> u64 {
        self.layers.bytes + self.manifests.bytes
    }

    /// Bytes without readers.
    pub fn evictable(&self) -> u64 {
        self.bytes() - self.layers.pinned - self.manifests.pinned
    }

    /// The number of blobs.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Inserts or moves a blob with a verified digest as the most recently used.
    pub fn insert(&mut self, digest: Digest, size: u64, now: u64, kind: BlobKind) {
        self.remove(&digest);
        let slot = self.place(digest, size, now, EntryState::verified(kind));
        self.thread_newest(slot);
    }

    /// Inserts a blob that was found on disk as the most recently used.
    pub fn insert_found(&mut self, digest: Digest, size: u64, last_use: u64) {
        if self.find(&digest).is_none() {
            let slot = self.place(digest, size, last_use, EntryState::FoundLayer);
            self.thread_newest(slot);
        }
    }

    /// Inserts a blob that was found on disk as the least recently used: the scan goes from new to old.
    pub fn insert_oldest(&mut self, digest: Digest, size: u64, last_use: u64, kind: BlobKind) {
        if self.find(&digest).is_none() {
            let slot = self.place(digest, size, last_use, EntryState::found(kind));
            self.thread_oldest(slot);
        }
    }

    /// Notes a use, and returns what is known of the blob.
    pub fn touch(&mut self, digest: &Digest, now: u64) -> Option<KnownBlob> {
        let slot = self.find(digest)?;
        self.unthread(slot);
        self.thread_newest(slot);
        let (now, persist_after) = (seconds(now), self.persist_after);
        let entry = &mut self.entries[slot as usize];
        let behind = now.saturating_sub(entry.persisted_use) >= persist_after;
        if behind {
            entry.persisted_use = now;
        }
        Some(KnownBlob {
            size: entry.size(),
            verified: entry.state.is_verified(),
            behind,
        })
    }

    /// Notes that a blob's digest was verified.
    pub fn set_verified(&mut self, digest: &Digest) {
        if let Some(slot) = self.find(digest) {
            let entry = &mut self.entries[slot as usize];
            entry.state = EntryState::verified(entry.state.kind());
        }
    }

    /// Prevents the eviction of a blob while it is read; it may be inserted later.
    pub fn pin(&mut self, digest: &Digest) {
        let Some(slot) = self.find(digest) else {
            *self.unindexed_pins.entry(*digest).or_default() += 1;
            return;
        };
        let entry = &mut self.entries[slot as usize];
        entry.pins += 1;
        if entry.pins == 1 {
            let (kind, bytes) = (entry.state.kind(), footprint(entry.size()));
            self.list(kind).pinned += bytes;
        }
    }

    pub fn unpin(&mut self, digest: &Digest) {
        let Some(slot) = self.find(digest) else {
            if let Some(pins) = self.unindexed_pins.get_mut(digest) {
                *pins -= 1;
                if *pins == 0 {
                    self.unindexed_pins.remove(digest);
                    self.deleted.remove(digest);
                }
            }
            return;
        };
        let entry = &mut self.entries[slot as usize];
        if entry.pins == 0 {
            return;
        }
        entry.pins -= 1;
        if entry.pins == 0 {
            let (kind, bytes) = (entry.state.kind(), footprint(entry.size()));
            self.list(kind).pinned -= bytes;
            self.deleted.remove(digest);
        }
    }

    /// Removes a blob. Its pins remain, also for a later insertion, and its open file still counts.
    pub fn remove(&mut self, digest: &Digest) {
        if let Some(slot) = self.find(digest) {
            self.release(slot);
        }
    }

    /// The size and the last use of a blob, without noting a use.
    pub fn status(&self, digest: &Digest) -> Option<BlobStatus> {
        let slot = self.find(digest)?;
        Some(self.entries[slot as usize].status())
    }

    /// The number of slots, for loops over slices.
    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    /// Resets the TTL of all blobs in these slots to the shortest.
    pub fn unmark(&mut self, slots: Range<usize>) {
        for entry in self.entries_in(slots) {
            entry.ttl_index = 0;
        }
    }

    /// Raises the TTL of a blob to the one at `ttl_index`.
    pub fn mark(&mut self, digest: &Digest, ttl_index: u8) {
        if let Some(slot) = self.find(digest) {
            let entry = &mut self.entries[slot as usize];
            entry.ttl_index = entry.ttl_index.max(ttl_index);
        }
    }

    /// Takes out the unpinned blobs of these slots that were last used before the cutoff of their TTL.
    pub fn pop_unused(&mut self, slots: Range<usize>, cutoffs: &[u64]) -> Vec<(Digest, u64)> {
        let first = slots.start;
        let unused = |entry: &IndexEntry| {
            let cutoff = cutoffs
                .get(usize::from(entry.ttl_index))
                .copied()
                .unwrap_or(0);
            entry.state != EntryState::Free
                && entry.pins == 0
                && u64::from(entry.persisted_use) < cutoff
        };
        let found = self.entries_in(slots).iter().enumerate();
        let found = found.filter(|(_, entry)| unused(entry));
        let found: Vec<usize> = found.map(|(at, _)| first + at).collect();
        found
            .into_iter()
            .filter_map(|slot| Some(self.release(u32::try_from(slot).ok()?)))
            .collect()
    }

    fn entries_in(&mut self, slots: Range<usize>) -> &mut [IndexEntry] {
        let end = slots.end.min(self.entries.len());
        self.entries.get_mut(slots.start..end).unwrap_or_default()
    }

    fn ends(&self, kind: BlobKind) -> &ListEnds {
        match kind {
            BlobKind::Layer => &self.layers,
            BlobKind::Manifest => &self.manifests,
        }
    }

    fn list(&mut self, kind: BlobKind) -> &mut ListEnds {
        match kind {
            BlobKind::Layer => &mut self.layers,
            BlobKind::Manifest => &mut self.manifests,
        }
    }

    fn find(&self, digest: &Digest) -> Option<u32> {
        let hash = self.hasher.hash_one(digest);
        self.table
            .find(hash, |&slot| self.entries[slot as usize].digest == *digest)
            .copied()
    }

    fn place(&mut self, digest: Digest, size: u64, now: u64, state: EntryState) -> u32 {
        let held = IndexEntry::packed(size);
        let entry = IndexEntry {
            digest,
            state,
            ttl_index: 0,
            size: held,
            persisted_use: seconds(now),
            newer: NONE,
            older: NONE,
            pins: self.unindexed_pins.remove(&digest).unwrap_or(0),
        };
        let bytes = footprint(entry.size());
        let pinned = entry.pins > 0;
        let list = self.list(state.kind());
        list.bytes += bytes;
        if pinned {
            list.pinned += bytes;
        }
        let slot = if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = entry;
            slot
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.table
            .insert_unique(hasher.hash_one(digest), slot, |&slot| {
                hasher.hash_one(entries[slot as usize].digest)
            });
        slot
    }

    fn release(&mut self, slot: u32) -> (Digest, u64) {
        self.unthread(slot);
        let entry = &mut self.entries[slot as usize];
        let (digest, kind, pins) = (entry.digest, entry.state.kind(), entry.pins);
        let bytes = footprint(entry.size());
        entry.state = EntryState::Free;
        let list = self.list(kind);
        list.bytes -= bytes;
        if pins > 0 {
            list.pinned -= bytes;
            self.unindexed_pins.insert(digest, pins);
            *self.deleted.entry(digest).or_default() += bytes;
        }
        if let Ok(found) = self
            .table
            .find_entry(self.hasher.hash_one(digest), |&other| other == slot)
        {
            found.remove();
        }
        self.free.push(slot);
        (digest, bytes)
    }
}

fn seconds(time: u64) -> u32 {
    u32::try_from(time).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
