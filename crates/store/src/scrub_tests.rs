//! What a scrub finds, and where it goes on.

use super::*;
use crate::Settings;

fn open(root: &Path) -> Store {
    let store = Store::open(&Settings::at(root), &[]).expect("a store");
    store.scan();
    store
}

/// Ten blobs, of which one has another byte, one an end too early, and one is empty.
fn damaged(root: &Path) -> (Store, Vec<Digest>) {
    let store = open(root);
    let digests: Vec<Digest> = (0..10_u8)
        .map(|n| {
            let bytes = vec![n; 3000 + usize::from(n)];
            let digest = Digest::of(Algorithm::Sha256, &bytes);
            store.blobs.put(&digest, &bytes).expect("room");
            digest
        })
        .collect();
    let mut other = vec![2; 3002];
    other[1500] ^= 1;
    for (n, bytes) in [(2, &other[..]), (5, &[5; 2999]), (7, &[])] {
        std::fs::write(blob_path(root, &digests[n]), bytes).expect("writable");
    }
    let mut wrong = [2, 5, 7].map(|n| digests[n]).to_vec();
    wrong.sort();
    (store, wrong)
}

#[test]
fn verify_finds_what_is_damaged_and_says_how_far_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, wrong) = damaged(folder.path());
    let mut said = Vec::new();
    let verified = store.verify(|progress| {
        said.push(progress.blobs);
        ControlFlow::Continue(())
    });
    assert_eq!(verified.damaged, wrong);
    assert_eq!((verified.blobs, verified.of_blobs), (10, 10));
    assert_eq!(verified.bytes, verified.of_bytes);
    assert_eq!(said, (1..=10).collect::<Vec<u64>>());
    assert_eq!((store.space.blobs(), store.quarantined().len()), (7, 3));
    for digest in &wrong {
        let blob = store.blobs.open(digest, None).expect("readable");
        assert!(blob.is_none());
    }
    let stopped = store.verify(|_| ControlFlow::Break(()));
    assert_eq!((stopped.blobs, stopped.of_blobs), (1, 7));
    assert!(stopped.damaged.is_empty());
}

#[test]
fn a_scrub_goes_on_where_it_was_and_begins_anew_in_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let (first, wrong) = damaged(root);
    let every = Duration::from_millis(20);
    let folders = shards(root).len();
    let mut pass = first.read_pass();
    for _ in 0..folders / 2 {
        first.scrub_some(&mut pass, every, &|| false);
    }
    let before = first.quarantined().len();
    let reached = first.read_pass().done;
    drop(first);
    let second = open(root);
    let mut pass = second.read_pass();
    assert_eq!(pass.done, reached);
    // Stopped, it remembers nothing.
    second.scrub_some(&mut pass, Duration::from_secs(3600), &|| true);
    assert_eq!(second.read_pass().done, reached);
    for _ in folders / 2..folders {
        second.scrub_some(&mut pass, every, &|| false);
    }
    assert!(before <= 3 && second.quarantined().len() == wrong.len());
    let last = shards(root)
        .pop()
        .map(|(_, shard)| shard_name(root, &shard));
    assert_eq!(second.read_pass().done, last);
    // The time of a whole pass is over: the next begins.
    let done = second.read_pass();
    second.scrub_some(&mut pass, Duration::ZERO, &|| false);
    assert_eq!(second.read_pass().done, None);
    assert!(second.read_pass().began >= done.began);
}

/// A disk that takes no note costs a restart its place, not the scrub its progress.
#[test]
fn a_scrub_goes_on_without_its_note() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, wrong) = damaged(folder.path());
    // No file takes the place of a folder.
    std::fs::create_dir_all(folder.path().join("scrub/in-its-place")).expect("writable");
    let (mut pass, every) = (store.read_pass(), Duration::from_millis(20));
    for _ in 0..shards(folder.path()).len() {
        store.scrub_some(&mut pass, every, &|| false);
    }
    assert_eq!(store.quarantined().len(), wrong.len());
}

/// Between two pieces a pass may sleep for days: what is removed meanwhile must not take room as long.
#[test]
fn what_is_being_hashed_is_not_open_between_two_pieces() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open(folder.path());
    let bytes = vec![1; 3 * CHUNK];
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    store.blobs.put(&digest, &bytes).expect("room");
    let mut pieces = 0;
    let outcome = store.check(&digest, |_| {
        pieces += 1;
        store.blobs.remove(&digest).expect("removable");
        assert_eq!(store.space.used(), 0);
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, CheckOutcome::Gone));
    assert_eq!(pieces, 1);
}
