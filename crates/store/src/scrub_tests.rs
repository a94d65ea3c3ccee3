//! Tests of the scrub: damaged blobs are found, and passes resume.

use super::*;
use crate::Settings;

fn open(root: &Path) -> Store {
    let store = Store::open(&Settings::at(root), &[]).expect("a store");
    store.scan();
    store
}

/// Ten blobs, of which one has a wrong byte, one is truncated, and one is empty.
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
fn verify_finds_damaged_blobs_and_reports_progress() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, wrong) = damaged(folder.path());
    let mut reported = Vec::new();
    let verified = store.verify(|progress| {
        reported.push(progress.blobs);
        ControlFlow::Continue(())
    });
    assert_eq!(verified.damaged, wrong);
    assert_eq!((verified.blobs, verified.of_blobs), (10, 10));
    assert_eq!(verified.bytes, verified.of_bytes);
    assert_eq!(reported, (1..=10).collect::<Vec<u64>>());
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
fn scrub_resumes_its_pass_and_starts_the_next_one_in_time() {
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
    // A stopped folder is not recorded.
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
    // The interval has passed: the next pass begins.
    let done = second.read_pass();
    second.scrub_some(&mut pass, Duration::ZERO, &|| false);
    assert_eq!(second.read_pass().done, None);
    assert!(second.read_pass().began >= done.began);
}

/// If the position cannot be written, a restart loses it, but this process goes on.
#[test]
fn scrub_goes_on_when_its_position_cannot_be_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, wrong) = damaged(folder.path());
    // A file cannot replace a folder.
    std::fs::create_dir_all(folder.path().join("scrub/in-its-place")).expect("writable");
    let (mut pass, every) = (store.read_pass(), Duration::from_millis(20));
    for _ in 0..shards(folder.path()).len() {
        store.scrub_some(&mut pass, every, &|| false);
    }
    assert_eq!(store.quarantined().len(), wrong.len());
}

/// A pass may sleep for days between two chunks: a blob removed meanwhile must not take space that long.
#[test]
fn blob_is_not_open_between_two_chunks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open(folder.path());
    let bytes = vec![1; 3 * CHUNK];
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    store.blobs.put(&digest, &bytes).expect("room");
    let mut chunks = 0;
    let outcome = store.check(&digest, |_| {
        chunks += 1;
        store.blobs.remove(&digest).expect("removable");
        assert_eq!(store.space.used(), 0);
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, CheckOutcome::Gone));
    assert_eq!(chunks, 1);
}
