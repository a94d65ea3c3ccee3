//! Tests of segments: bytes written out of order, parked, and found after a restart.

use std::path::Path;

use super::*;
use crate::{PartialNote, Settings, StagedBlob, Store};
use oci::digest::{Algorithm, Digest};

const MIB: usize = 1 << 20;
/// A length that ends within a block.
const ODD: usize = MIB + 1;

fn store(root: &Path) -> Store {
    let settings = Settings {
        max_size: 64 << 20,
        ..Settings::at(&root.join("store"))
    };
    let store = Store::open(&settings, &[]).expect("a store");
    store.scan();
    store
}

/// Bytes of which no two blocks are equal.
fn content() -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..2_u32 << 20).flat_map(u32::to_le_bytes).collect();
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    (bytes, digest)
}

fn stage(store: &Store, digest: &Digest, total: usize) -> StagedBlob {
    let note = PartialNote {
        total: Some(total as u64),
        ..PartialNote::default()
    };
    let room = store.blobs.reserve(total as u64).expect("room");
    store.blobs.stage(digest, room, note).expect("a partial")
}

fn open(staged: &mut StagedBlob, start: usize, end: usize) -> SegmentWriter {
    let opened = staged.open_segment(start as u64, end as u64);
    opened.expect("a note").expect("free bytes")
}

fn absorb_all(staged: &mut StagedBlob) {
    while staged.absorb().expect("readable") > 0 {}
}

#[test]
fn segments_are_hashed_when_the_contiguous_bytes_reach_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    let (bytes, digest) = content();
    let mut staged = stage(&store, &digest, bytes.len());
    staged.append(&bytes[..MIB]).expect("room");
    let mut second = open(&mut staged, 4 * MIB, 8 * MIB);
    assert_eq!(
        second.write(&bytes[4 * MIB..5 * MIB]).expect("room"),
        SegmentRoom::Left
    );
    // A third one takes the end of the second.
    let mut third = open(&mut staged, 6 * MIB, 8 * MIB);
    assert_eq!(
        third.write(&bytes[6 * MIB..]).expect("room"),
        SegmentRoom::Full
    );
    assert_eq!(
        second.write(&bytes[5 * MIB..]).expect("room"),
        SegmentRoom::Full
    );
    assert_eq!(
        (staged.written(), staged.stored()),
        (MIB as u64, 5 * MIB as u64)
    );
    assert_eq!(
        staged.absorb().expect("readable"),
        0,
        "they are not reached yet"
    );
    assert_eq!(
        staged.next_segment().map(|next| next.start),
        Some(4 * MIB as u64)
    );
    staged.append(&bytes[MIB..4 * MIB]).expect("room");
    absorb_all(&mut staged);
    assert_eq!(
        (staged.written(), staged.segments()),
        (8 * MIB as u64, Vec::new())
    );
    drop((second, third));
    assert_eq!(staged.commit().expect("it matches").size, 8 * MIB as u64);
    assert_eq!(store.space.used(), 8 * MIB as u64);
}

#[test]
fn segments_do_not_overlap() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    let (bytes, digest) = content();
    let mut staged = stage(&store, &digest, bytes.len());
    staged.append(&bytes[..MIB]).expect("room");
    let mut open_at = |start: usize, end: usize| {
        let opened = staged.open_segment(start as u64, end as u64);
        opened.expect("a note")
    };
    let mut first = open_at(2 * MIB, 4 * MIB).expect("free bytes");
    first.write(&bytes[2 * MIB..3 * MIB]).expect("room");
    for (start, end) in [
        (MIB / 2, MIB),
        (MIB, 2 * MIB),
        (2 * MIB, 3 * MIB),
        (3 * MIB - 1, 4 * MIB),
        (5 * MIB, 9 * MIB),
    ] {
        assert!(open_at(start, end).is_none(), "{start} {end}");
    }
    drop(first);
    // What a dropped connection did not write is free again, at once.
    assert!(open_at(3 * MIB, 4 * MIB).is_some());
    assert!(open_at(3 * MIB, 4 * MIB).is_some());
    drop(staged);
    assert_eq!(store.space.used(), 0);
}

#[test]
fn parked_segments_are_resumed_exactly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    let (bytes, digest) = content();
    let mut staged = stage(&store, &digest, bytes.len());
    staged.append(&bytes[..ODD]).expect("room");
    let mut segment = open(&mut staged, 4 * MIB, 8 * MIB);
    segment.write(&bytes[4 * MIB..5 * MIB + 7]).expect("room");
    staged.park();
    assert_eq!(
        segment.write(b"more").expect("nothing is written"),
        SegmentRoom::Full
    );
    assert!(
        store.space.used() < 3 * MIB as u64,
        "{}",
        store.space.used()
    );
    let mut staged = store
        .blobs
        .resume(&digest)
        .expect("readable")
        .expect("a partial");
    assert_eq!(staged.written(), ODD as u64);
    let next = staged.next_segment().expect("a segment");
    assert_eq!(
        (next.start, next.written),
        (4 * MIB as u64, 5 * MIB as u64 + 7)
    );
    staged.append(&bytes[ODD..4 * MIB]).expect("room");
    absorb_all(&mut staged);
    staged.append(&bytes[5 * MIB + 7..]).expect("room");
    assert_eq!(staged.commit().expect("it matches").size, 8 * MIB as u64);
}

#[test]
fn segments_of_a_killed_process_are_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (bytes, digest) = content();
    {
        let store = store(folder.path());
        let mut staged = stage(&store, &digest, bytes.len());
        staged.append(&bytes[..ODD]).expect("room");
        let mut segment = open(&mut staged, 4 * MIB, 8 * MIB);
        segment.write(&bytes[4 * MIB..5 * MIB + 7]).expect("room");
        std::mem::forget((staged, segment));
    }
    let store = store(folder.path());
    let mut staged = store
        .blobs
        .resume(&digest)
        .expect("readable")
        .expect("a partial");
    // Of each part the last block is not trusted.
    assert_eq!(staged.written(), MIB as u64);
    let next = staged.next_segment().expect("a segment");
    assert_eq!((next.start, next.written), (4 * MIB as u64, 5 * MIB as u64));
    staged.append(&bytes[MIB..4 * MIB]).expect("room");
    absorb_all(&mut staged);
    staged.append(&bytes[5 * MIB..]).expect("room");
    assert_eq!(staged.commit().expect("it matches").size, 8 * MIB as u64);
    assert_eq!(store.space.used(), 8 * MIB as u64);
}
