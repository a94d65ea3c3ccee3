//! The index of the disk: which blobs there are, how much they take, and in which order they may go.
//!
//! A slab threaded by a doubly linked list, most recently used first, found through a table of slab
//! numbers, so that an entry costs under 100 bytes and every act is O(1). Pure: it never touches the
//! disk.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::spec::digest::Digest;

/// The unit in which disk space is counted, in bytes.
const BLOCK: u64 = 4096;

/// No slot.
const NONE: u32 = u32::MAX;

/// How long a last use may stay unwritten, in seconds.
const PERSIST_AFTER: u32 = 3600;

#[derive(Debug)]
struct Entry {
    digest: Digest,
    blocks: u32,
    /// Seconds since 1970, as it stands in the file's mtime.
    persisted_use: u32,
    newer: u32,
    older: u32,
    /// How many readers there are; a pinned entry is not evicted.
    pins: u32,
}

/// Blobs in order of use.
#[derive(Debug)]
pub struct Index {
    entries: Vec<Entry>,
    free: Vec<u32>,
    table: HashTable<u32>,
    hasher: RandomState,
    newest: u32,
    oldest: u32,
    blocks: u64,
}

/// Bytes that a file of `size` bytes takes on disk; even an empty one has an inode.
pub fn footprint(size: u64) -> u64 {
    size.div_ceil(BLOCK).max(1) * BLOCK
}

impl Index {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            newest: NONE,
            oldest: NONE,
            blocks: 0,
        }
    }

    /// Bytes that all entries take.
    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK
    }

    /// The number of blobs.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Enters a blob as the most recently used; one that is known already only moves.
    pub fn insert(&mut self, digest: Digest, size: u64, now: u64) {
        if let Some(slot) = self.find(&digest) {
            self.unthread(slot);
            self.thread_newest(slot);
            return;
        }
        let slot = self.place(digest, size, now);
        self.thread_newest(slot);
    }

    /// Enters a blob found on disk as the least recently used: the scan goes from new to old.
    pub fn insert_oldest(&mut self, digest: Digest, size: u64, last_use: u64) {
        if self.find(&digest).is_none() {
            let slot = self.place(digest, size, last_use);
            self.thread_oldest(slot);
        }
    }

    /// Notes a use. True when the file's mtime has fallen behind by an hour and should be touched.
    pub fn touch(&mut self, digest: &Digest, now: u64) -> bool {
        let Some(slot) = self.find(digest) else {
            return false;
        };
        self.unthread(slot);
        self.thread_newest(slot);
        let now = seconds(now);
        let entry = &mut self.entries[slot as usize];
        let behind = now.saturating_sub(entry.persisted_use) >= PERSIST_AFTER;
        if behind {
            entry.persisted_use = now;
        }
        behind
    }

    /// Keeps a blob from being evicted while it is read.
    pub fn pin(&mut self, digest: &Digest) {
        if let Some(slot) = self.find(digest) {
            self.entries[slot as usize].pins += 1;
        }
    }

    pub fn unpin(&mut self, digest: &Digest) {
        if let Some(slot) = self.find(digest) {
            let pins = &mut self.entries[slot as usize].pins;
            *pins = pins.saturating_sub(1);
        }
    }

    /// Forgets a blob.
    pub fn remove(&mut self, digest: &Digest) {
        if let Some(slot) = self.find(digest) {
            self.release(slot);
        }
    }

    /// Takes out the least recently used blob that nobody reads. A pinned one at the end is in use, so
    /// it moves to the front: each is stepped over once.
    pub fn pop_oldest(&mut self) -> Option<Digest> {
        for _ in 0..self.table.len() {
            let slot = self.oldest;
            if self.entries[slot as usize].pins == 0 {
                return Some(self.release(slot));
            }
            self.unthread(slot);
            self.thread_newest(slot);
        }
        None
    }

    fn find(&self, digest: &Digest) -> Option<u32> {
        let hash = self.hasher.hash_one(digest);
        self.table
            .find(hash, |&slot| self.entries[slot as usize].digest == *digest)
            .copied()
    }

    fn place(&mut self, digest: Digest, size: u64, now: u64) -> u32 {
        let blocks = footprint(size) / BLOCK;
        let entry = Entry {
            digest,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            persisted_use: seconds(now),
            newer: NONE,
            older: NONE,
            pins: 0,
        };
        self.blocks += u64::from(entry.blocks);
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

    fn release(&mut self, slot: u32) -> Digest {
        self.unthread(slot);
        let entry = &self.entries[slot as usize];
        let digest = entry.digest;
        self.blocks -= u64::from(entry.blocks);
        if let Ok(found) = self
            .table
            .find_entry(self.hasher.hash_one(digest), |&other| other == slot)
        {
            found.remove();
        }
        self.free.push(slot);
        digest
    }

    fn thread_newest(&mut self, slot: u32) {
        let next = std::mem::replace(&mut self.newest, slot);
        let entry = &mut self.entries[slot as usize];
        (entry.newer, entry.older) = (NONE, next);
        match next {
            NONE => self.oldest = slot,
            next => self.entries[next as usize].newer = slot,
        }
    }

    fn thread_oldest(&mut self, slot: u32) {
        let next = std::mem::replace(&mut self.oldest, slot);
        let entry = &mut self.entries[slot as usize];
        (entry.newer, entry.older) = (next, NONE);
        match next {
            NONE => self.newest = slot,
            next => self.entries[next as usize].older = slot,
        }
    }

    fn unthread(&mut self, slot: u32) {
        let entry = &self.entries[slot as usize];
        let (newer, older) = (entry.newer, entry.older);
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}

fn seconds(time: u64) -> u32 {
    u32::try_from(time).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    #[test]
    fn an_entry_is_small() {
        assert!(
            size_of::<Entry>() + size_of::<u32>() * 2 < 100,
            "{}",
            size_of::<Entry>()
        );
    }

    #[test]
    fn last_use_is_persisted_hourly() {
        let mut index = Index::new();
        index.insert(digest(1), 10, 1000);
        assert!(!index.touch(&digest(1), 1000 + 3599));
        assert!(index.touch(&digest(1), 1000 + 3600));
        assert!(!index.touch(&digest(1), 1000 + 3601));
        assert!(!index.touch(&digest(2), 99_999));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u8, u64),
        InsertOldest(u8, u64),
        Touch(u8),
        Pin(u8),
        Unpin(u8),
        Remove(u8),
        Pop,
    }

    fn act() -> impl Strategy<Value = Act> {
        let key = 0..12_u8;
        prop_oneof![
            (key.clone(), 0..20_000_u64).prop_map(|(key, size)| Act::Insert(key, size)),
            (key.clone(), 0..20_000_u64).prop_map(|(key, size)| Act::InsertOldest(key, size)),
            key.clone().prop_map(Act::Touch),
            key.clone().prop_map(Act::Pin),
            key.clone().prop_map(Act::Unpin),
            key.prop_map(Act::Remove),
            Just(Act::Pop),
        ]
    }

    proptest! {
        /// The slab agrees with a plain vector, newest first, of (digest, footprint, pins).
        #[test]
        fn agrees_with_a_reference_model(acts in proptest::collection::vec(act(), 0..200)) {
            let mut index = Index::new();
            let mut model: Vec<(Digest, u64, u32)> = Vec::new();
            for act in acts {
                match act {
                    Act::Insert(key, size) => {
                        index.insert(digest(key), size, 0);
                        let at = model.iter().position(|entry| entry.0 == digest(key));
                        let entry = at.map_or((digest(key), footprint(size), 0), |at| model.remove(at));
                        model.insert(0, entry);
                    }
                    Act::InsertOldest(key, size) => {
                        index.insert_oldest(digest(key), size, 0);
                        if model.iter().all(|entry| entry.0 != digest(key)) {
                            model.push((digest(key), footprint(size), 0));
                        }
                    }
                    Act::Touch(key) => {
                        index.touch(&digest(key), 0);
                        if let Some(at) = model.iter().position(|entry| entry.0 == digest(key)) {
                            let entry = model.remove(at);
                            model.insert(0, entry);
                        }
                    }
                    Act::Pin(key) => {
                        index.pin(&digest(key));
                        model.iter_mut().filter(|entry| entry.0 == digest(key)).for_each(|entry| entry.2 += 1);
                    }
                    Act::Unpin(key) => {
                        index.unpin(&digest(key));
                        model.iter_mut().filter(|entry| entry.0 == digest(key))
                            .for_each(|entry| entry.2 = entry.2.saturating_sub(1));
                    }
                    Act::Remove(key) => {
                        index.remove(&digest(key));
                        model.retain(|entry| entry.0 != digest(key));
                    }
                    Act::Pop => {
                        let mut expected = None;
                        for _ in 0..model.len() {
                            if let Some(last) = model.pop() {
                                if last.2 == 0 {
                                    expected = Some(last.0);
                                    break;
                                }
                                model.insert(0, last);
                            }
                        }
                        prop_assert_eq!(index.pop_oldest(), expected);
                    }
                }
                prop_assert_eq!(index.len(), model.len());
                prop_assert_eq!(index.bytes(), model.iter().map(|entry| entry.1).sum::<u64>());
            }
        }
    }
}
