//! The order of eviction: two doubly linked lists through the index's entries.

use super::super::entry::{BlobKind, BlobStatus, NONE};
use super::BlobIndex;
use oci::digest::Digest;

/// Manifests are evicted after layers while they take at most this fraction of all bytes.
const MANIFESTS_PART: u64 = 4;

/// A blob in the order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictionCandidate {
    /// Its digest.
    pub digest: Digest,
    /// Whether it is a manifest.
    pub is_manifest: bool,
    /// Its size and last use.
    pub status: BlobStatus,
}

impl BlobIndex {
    /// Takes out the first blob to evict, and returns its bytes. A pinned one at the end is in use, so it moves to
    /// the front: each is skipped once.
    pub fn pop_oldest(&mut self) -> Option<(Digest, u64)> {
        let order = self.eviction_order();
        order.into_iter().find_map(|kind| self.pop_oldest_of(kind))
    }

    /// Which list is evicted from first.
    fn eviction_order(&self) -> [BlobKind; 2] {
        let manifests_first = self.manifests.bytes > self.bytes() / MANIFESTS_PART;
        if manifests_first && self.layers.bytes > 0 {
            [BlobKind::Manifest, BlobKind::Layer]
        } else {
            [BlobKind::Layer, BlobKind::Manifest]
        }
    }

    fn pop_oldest_of(&mut self, kind: BlobKind) -> Option<(Digest, u64)> {
        while self.list(kind).bytes > self.list(kind).pinned {
            let slot = self.list(kind).oldest;
            if self.entries[slot as usize].pins == 0 {
                return Some(self.release(slot));
            }
            self.unthread(slot);
            self.thread_newest(slot);
        }
        None
    }

    /// The blobs that [`Self::pop_oldest`] takes next, up to `limit`: those of the list that it begins with.
    pub fn next_evicted(&self, limit: usize) -> Vec<EvictionCandidate> {
        let mut candidates = Vec::new();
        for kind in self.eviction_order() {
            let mut slot = self.ends(kind).oldest;
            while slot != NONE && candidates.len() < limit {
                let entry = &self.entries[slot as usize];
                if entry.pins == 0 {
                    candidates.push(EvictionCandidate {
                        digest: entry.digest,
                        is_manifest: kind == BlobKind::Manifest,
                        status: entry.status(),
                    });
                }
                slot = entry.newer;
            }
        }
        candidates
    }

    pub(super) fn thread_newest(&mut self, slot: u32) {
        let kind = self.entries[slot as usize].state.kind();
        let next = std::mem::replace(&mut self.list(kind).newest, slot);
        let entry = &mut self.entries[slot as usize];
        (entry.newer, entry.older) = (NONE, next);
        match next {
            NONE => self.list(kind).oldest = slot,
            next => self.entries[next as usize].newer = slot,
        }
    }

    pub(super) fn thread_oldest(&mut self, slot: u32) {
        let kind = self.entries[slot as usize].state.kind();
        let next = std::mem::replace(&mut self.list(kind).oldest, slot);
        let entry = &mut self.entries[slot as usize];
        (entry.newer, entry.older) = (next, NONE);
        match next {
            NONE => self.list(kind).newest = slot,
            next => self.entries[next as usize].older = slot,
        }
    }

    pub(super) fn unthread(&mut self, slot: u32) {
        let entry = &self.entries[slot as usize];
        let (newer, older, kind) = (entry.newer, entry.older, entry.state.kind());
        match newer {
            NONE => self.list(kind).newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.list(kind).oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}
