//! Tests of reservations and evictions.

use super::*;

fn space(root: &Path, max_size: u64, min_free: MinFree) -> Arc<Space> {
    let space = Space::new(&Settings {
        max_size,
        min_free,
        ..Settings::at(root)
    });
    space.finish_scan();
    Arc::new(space)
}

/// Commits a blob of one byte.
fn fill(space: &Arc<Space>, n: u8) -> Digest {
    let digest = Digest::Sha256([n; 32]);
    let path = blob_path(&space.root, &digest);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
    std::fs::write(&path, [n]).expect("writable");
    let room = space.reserve(1).expect("room");
    room.commit_blob(digest, 1, SystemTime::now(), BlobKind::Layer);
    digest
}

#[test]
fn reservations_are_counted_in_blocks_and_given_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), 10 * BLOCK, MinFree::Bytes(0));
    let first = space.reserve(1).expect("room");
    assert_eq!(space.used(), BLOCK);
    let mut second = space.reserve(8 * BLOCK).expect("room");
    assert_eq!(
        space.reserve(BLOCK + 1).map(drop),
        Err(Full { bytes: 8192 })
    );
    second.grow_to(9 * BLOCK).expect("room");
    assert!(second.grow_to(9 * BLOCK + 1).is_err());
    drop(second);
    drop(first);
    assert_eq!(space.used(), 0);
}

#[test]
fn min_free_refuses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for min_free in [MinFree::Percent(100.0), MinFree::Bytes(u64::MAX)] {
        let space = space(folder.path(), u64::MAX, min_free);
        assert!(space.reserve(1).is_err(), "{min_free:?}");
    }
}

/// The file system counts the written part of a reservation.
#[test]
fn written_bytes_count_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), 1 << 30, MinFree::Bytes(0));
    let mut room = space.reserve(8 * BLOCK).expect("room");
    assert_eq!(space.ledger().unwritten, 8 * BLOCK);
    room.wrote(3 * BLOCK + 1);
    assert_eq!(space.ledger().unwritten, 5 * BLOCK - 1);
    room.wrote(100 * BLOCK);
    assert_eq!(space.ledger().unwritten, 0);
    room.grow_to(9 * BLOCK).expect("room");
    drop(room);
    let ledger = space.ledger();
    assert_eq!((ledger.unwritten, ledger.reserved), (0, 0));
}

#[test]
fn nothing_is_evicted_where_that_would_not_help() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), 4 * BLOCK, MinFree::Bytes(0));
    for n in [1, 2] {
        fill(&space, n);
    }
    assert!(
        space.reserve(4 * BLOCK + 1).is_err(),
        "more than there may be"
    );
    let held = space.reserve(2 * BLOCK).expect("room");
    assert!(space.reserve(3 * BLOCK).is_err(), "the rest is promised");
    assert_eq!(space.blobs(), 2);
    let (pin, _) = space.pin(&Digest::Sha256([1; 32]), SystemTime::now());
    assert!(space.reserve(2 * BLOCK).is_err(), "one of both is read");
    assert_eq!(space.blobs(), 2);
    drop((held, pin));
    // A disk that others filled.
    space.set_limits(&Settings {
        min_free: MinFree::Bytes(u64::MAX / 2),
        ..Settings::at(folder.path())
    });
    assert_eq!(space.reserve(1).map(drop), Err(Full { bytes: BLOCK }));
    assert_ne!(space.trim(), Trimmed::More);
    assert_eq!(space.blobs(), 2);
}

#[test]
fn lower_limit_evicts_what_exceeds_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), 4 * BLOCK, MinFree::Bytes(0));
    for n in 0..3 {
        fill(&space, n);
    }
    space.set_limits(&Settings {
        max_size: 2 * BLOCK,
        ..Settings::at(folder.path())
    });
    while space.trim() == Trimmed::More {}
    // Headroom takes the place of one of the two.
    assert_eq!(space.used(), BLOCK);
}

#[test]
fn blob_that_cannot_be_removed_is_indexed_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), BLOCK, MinFree::Bytes(0));
    let digest = Digest::Sha256([1; 32]);
    // A folder cannot be removed like a file, whatever the rights.
    std::fs::create_dir_all(blob_path(folder.path(), &digest)).expect("a folder");
    let room = space.reserve(1).expect("room");
    room.commit_blob(digest, 1, SystemTime::now(), BlobKind::Layer);
    assert!(space.reserve(1).is_err());
    assert_eq!((space.blobs(), space.used()), (1, BLOCK));
}

#[test]
fn least_recently_used_is_evicted_unless_it_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), 3 * BLOCK, MinFree::Bytes(0));
    let digests = [1, 2, 3].map(|n| fill(&space, n));
    let (_pin, known) = space.pin(&digests[0], SystemTime::now());
    assert_eq!(known.map(|known| known.size), Some(1));
    space.touch(&digests[1], SystemTime::now());
    let _held = space.reserve(1).expect("room");
    let here = digests.map(|digest| blob_path(folder.path(), &digest).exists());
    assert_eq!(here, [true, true, false]);
}

#[test]
fn trim_frees_headroom_for_the_next_fill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), 128 * BLOCK, MinFree::Bytes(0));
    for n in 0..128 {
        fill(&space, n);
    }
    while space.trim() == Trimmed::More {}
    assert_eq!(space.used(), 126 * BLOCK);
    assert!(!blob_path(folder.path(), &Digest::Sha256([1; 32])).exists());
    assert!(blob_path(folder.path(), &Digest::Sha256([2; 32])).exists());
}

#[test]
fn nothing_is_reserved_before_the_scan() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut space = Space::new(&Settings::at(folder.path()));
    space.opened -= RESERVE_TIMEOUT;
    let space = Arc::new(space);
    assert!(space.reserve(1).is_err());
    space.finish_scan();
    assert!(space.reserve(1).is_ok());
}

#[test]
fn records_take_a_fraction_at_most() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), 16 * BLOCK, MinFree::Bytes(0));
    for _ in 0..5 {
        space.reserve_record(1).expect("room").commit_record(None);
    }
    assert!(space.reserve_record(1).is_err());
    assert_eq!((space.used(), space.excess_record_blocks()), (5 * BLOCK, 1));
    space.remove_record(1);
    assert!(space.reserve_record(1).is_ok());
}

#[test]
fn records_count_by_their_blocks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let space = space(folder.path(), 40 * BLOCK, MinFree::Bytes(0));
    let counted = || {
        (
            space.records(),
            space.used() / BLOCK,
            space.excess_record_blocks(),
        )
    };
    let reserve = |blocks: u64| space.reserve_record(blocks * BLOCK - 1).expect("room");
    reserve(3).commit_record(None);
    assert_eq!(counted(), (1, 3, 0));
    // Both files exist until the rename.
    let larger = reserve(5);
    assert_eq!(counted(), (1, 8, 0));
    larger.commit_record(Some(3 * BLOCK - 1));
    assert_eq!(counted(), (1, 5, 0));
    drop(reserve(7));
    reserve(8).commit_record(None);
    assert_eq!(counted(), (2, 13, 3));
    assert!(space.reserve_record(1).is_err());
    space.remove_record(5 * BLOCK - 1);
    assert_eq!(counted(), (1, 8, 0));
    assert!(space.reserve_record(40 * BLOCK).is_err(), "the cap is hard");
}
