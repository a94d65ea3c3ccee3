//! The index against a plain vector, and the order of eviction.

use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::Sha256([n; 32])
}

fn index() -> BlobIndex {
    BlobIndex::new(3600)
}

#[test]
fn an_entry_is_small() {
    let bytes = size_of::<IndexEntry>() + size_of::<u32>() * 2;
    assert!(bytes < 100, "{bytes}");
}

#[test]
fn last_use_is_persisted_hourly() {
    let mut index = index();
    index.insert(digest(1), 10, 1000, BlobKind::Layer);
    let mut behind = |n, now| index.touch(&digest(n), now).map(|known| known.behind);
    assert_eq!(behind(1, 1000 + 3599), Some(false));
    assert_eq!(behind(1, 1000 + 3600), Some(true));
    assert_eq!(behind(1, 1000 + 3601), Some(false));
    assert_eq!(behind(2, 99_999), None);
}

#[test]
fn sizes_are_exact_and_found_blobs_are_not_verified() {
    let mut index = index();
    let known = |index: &mut BlobIndex, n| {
        let known = index.touch(&digest(n), 0).expect("known");
        (known.size, known.verified)
    };
    index.insert(digest(1), (300 << 30) + 1, 0, BlobKind::Layer);
    index.insert_oldest(digest(2), 5000, 0, BlobKind::Layer);
    assert_eq!(known(&mut index, 1), ((300 << 30) + 1, true));
    assert_eq!(known(&mut index, 2), (5000, false));
    index.set_verified(&digest(2));
    assert_eq!(known(&mut index, 2), (5000, true));
}

#[test]
fn manifests_are_evicted_after_layers_unless_there_are_too_many() {
    let mut index = index();
    for n in 0..3 {
        index.insert(digest(n), 1, 0, BlobKind::Manifest);
    }
    for n in 3..12 {
        index.insert(digest(n), 1, 0, BlobKind::Layer);
    }
    let mut gone = std::iter::from_fn(|| index.pop_oldest().map(|(digest, _)| digest));
    // Three in twelve are at the limit; with fewer layers manifests exceed it.
    for n in [3, 0, 4, 5, 6, 1] {
        assert_eq!(gone.next(), Some(digest(n)), "{n}");
    }
    let rest: Vec<Digest> = gone.collect();
    assert_eq!(rest, [7, 8, 9, 2, 10, 11].map(digest));
}

#[test]
fn unused_blobs_are_removed_by_their_ttl() {
    let mut index = index();
    for (n, used) in [(1, 100), (2, 100), (3, 900), (4, 100)] {
        index.insert(digest(n), 1, used, BlobKind::Layer);
    }
    index.mark(&digest(2), 1);
    index.mark(&digest(2), 0);
    index.pin(&digest(4));
    let gone = index.pop_unused(0..index.slots(), &[500, 50]);
    assert_eq!(gone, [(digest(1), BLOCK)]);
    index.unmark(0..usize::MAX);
    index.unpin(&digest(4));
    let gone: Vec<Digest> = index
        .pop_unused(0..10, &[500, 50])
        .into_iter()
        .map(|(digest, _)| digest)
        .collect();
    assert_eq!(gone, [digest(2), digest(4)]);
    assert_eq!(index.len(), 1);
}

#[derive(Clone, Debug)]
enum Act {
    Insert(u8, u64),
    InsertFound(u8, u64),
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
        (key.clone(), 0..20_000_u64).prop_map(|(key, size)| Act::InsertFound(key, size)),
        (key.clone(), 0..20_000_u64).prop_map(|(key, size)| Act::InsertOldest(key, size)),
        key.clone().prop_map(Act::Touch),
        key.clone().prop_map(Act::Pin),
        key.clone().prop_map(Act::Unpin),
        key.prop_map(Act::Remove),
        Just(Act::Pop),
    ]
}

/// Every third blob is a manifest.
fn kind(key: u8) -> BlobKind {
    if key.is_multiple_of(3) {
        BlobKind::Manifest
    } else {
        BlobKind::Layer
    }
}

/// A plain vector, newest first, of (key, footprint, kind), and the pins.
#[derive(Default)]
struct Model {
    blobs: Vec<(u8, u64, BlobKind)>,
    pins: [u32; 12],
}

impl Model {
    fn take(&mut self, key: u8) -> Option<(u8, u64, BlobKind)> {
        let at = self.blobs.iter().position(|blob| blob.0 == key)?;
        Some(self.blobs.remove(at))
    }

    fn bytes(&self, counted: impl Fn(&(u8, u64, BlobKind)) -> bool) -> u64 {
        let counted = self.blobs.iter().filter(|blob| counted(blob));
        counted.map(|blob| blob.1).sum()
    }

    fn pop(&mut self) -> Option<u8> {
        let manifests = self.bytes(|blob| blob.2 == BlobKind::Manifest);
        let all = self.bytes(|_| true);
        let mut order = [BlobKind::Layer, BlobKind::Manifest];
        if manifests > all / 4 && manifests < all {
            order.reverse();
        }
        for kind in order {
            let free =
                |blob: &&(u8, u64, BlobKind)| blob.2 == kind && self.pins[blob.0 as usize] == 0;
            let last = self.blobs.iter().rev().find(free).map(|blob| blob.0);
            let Some(key) = last else { continue };
            // The ones behind it are pinned: they move to the front.
            while let Some(at) = self.blobs.iter().rposition(|blob| blob.2 == kind) {
                let blob = self.blobs.remove(at);
                if blob.0 == key {
                    return Some(key);
                }
                self.blobs.insert(0, blob);
            }
        }
        None
    }
}

proptest! {
    /// The slab agrees with the vector.
    #[test]
    fn agrees_with_a_reference_model(acts in proptest::collection::vec(act(), 0..200)) {
        let mut index = index();
        let mut model = Model::default();
        for act in acts {
            match act {
                Act::Insert(key, size) => {
                    index.insert(digest(key), size, 0, kind(key));
                    model.take(key);
                    model.blobs.insert(0, (key, footprint(size), kind(key)));
                }
                Act::InsertFound(key, size) => {
                    index.insert_found(digest(key), size, 0);
                    if model.blobs.iter().all(|blob| blob.0 != key) {
                        model.blobs.insert(0, (key, footprint(size), BlobKind::Layer));
                    }
                }
                Act::InsertOldest(key, size) => {
                    index.insert_oldest(digest(key), size, 0, kind(key));
                    if model.blobs.iter().all(|blob| blob.0 != key) {
                        model.blobs.push((key, footprint(size), kind(key)));
                    }
                }
                Act::Touch(key) => {
                    let known = index.touch(&digest(key), 0);
                    let blob = model.take(key);
                    prop_assert_eq!(known.is_some(), blob.is_some());
                    model.blobs.splice(0..0, blob);
                }
                Act::Pin(key) => {
                    index.pin(&digest(key));
                    model.pins[key as usize] += 1;
                }
                Act::Unpin(key) => {
                    index.unpin(&digest(key));
                    let pins = &mut model.pins[key as usize];
                    *pins = pins.saturating_sub(1);
                }
                Act::Remove(key) => {
                    index.remove(&digest(key));
                    model.take(key);
                }
                Act::Pop => {
                    let popped = index.pop_oldest().map(|(digest, _)| digest);
                    prop_assert_eq!(popped, model.pop().map(digest));
                }
            }
            prop_assert_eq!(index.len(), model.blobs.len());
            prop_assert_eq!(index.bytes(), model.bytes(|_| true));
            prop_assert_eq!(index.evictable(), model.bytes(|blob| model.pins[blob.0 as usize] == 0));
        }
    }
}
