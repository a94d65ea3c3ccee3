//! Tests of blobs: commits, restarts, partials and quarantine.

use super::*;
use crate::scan::read_dir;
use crate::{CommitError, Settings, StagedBlob, Store};
use oci::digest::Algorithm;

/// A store after its scan.
fn store_of(root: &Path, max_size: u64) -> Store {
    let settings = Settings {
        max_size,
        ..Settings::at(&root.join("store"))
    };
    let store = Store::open(&settings, &[]).expect("a store");
    store.scan();
    store
}

fn store(root: &Path) -> Store {
    store_of(root, 4 << 20)
}

fn stage(store: &Store, digest: &Digest, total: Option<u64>) -> StagedBlob {
    let note = PartialNote {
        total,
        ..PartialNote::default()
    };
    let room = store.blobs.reserve(0).expect("room");
    store.blobs.stage(digest, room, note).expect("a partial")
}

#[test]
fn only_matching_bytes_are_committed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    let digest = Digest::of(Algorithm::Sha256, b"hello");
    let attempt = |bytes: &[u8], size| {
        let mut staged = stage(&store, &digest, size);
        staged.append(bytes)?;
        staged.commit()
    };
    assert!(matches!(
        attempt(b"hell", Some(5)),
        Err(CommitError::Truncated { .. })
    ));
    assert!(matches!(
        attempt(b"hello!", Some(5)),
        Err(CommitError::Overlong { .. })
    ));
    assert!(matches!(
        attempt(b"hallo", Some(5)),
        Err(CommitError::Mismatch(_))
    ));
    assert!(matches!(
        attempt(b"hell", None),
        Err(CommitError::Mismatch(_))
    ));
    assert!(store.blobs.open(&digest, None).expect("readable").is_none());
    assert_eq!(read_dir(&folder.path().join("store/partials")).count(), 0);
    assert_eq!(store.space.used(), 0);

    assert_eq!(attempt(b"hello", Some(5)).expect("it matches").size, 5);
    assert_eq!(
        store
            .blobs
            .open(&digest, None)
            .expect("readable")
            .map(|blob| blob.size),
        Some(5)
    );
    assert_eq!(store.space.used(), 4096);
}

#[test]
fn restart_finds_committed_blobs_and_resumable_partials() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = Digest::of(Algorithm::Sha512, b"retained");
    let large = vec![7; 900 << 10];
    let whole: Vec<u8> = large.iter().chain(&large).copied().collect();
    let resumed = Digest::of(Algorithm::Sha256, &whole);
    {
        let store = store(folder.path());
        store.blobs.put(&digest, b"retained").expect("room");
        let mut small = stage(&store, &Digest::of(Algorithm::Sha256, b"lost"), Some(4));
        small.append(b"lo").expect("room");
        std::mem::forget(small);
        let mut staged = stage(&store, &resumed, Some(whole.len() as u64));
        staged.append(&large).expect("room");
        std::mem::forget(staged);
    }
    let store = store(folder.path());
    assert_eq!(store.space.blobs(), 1);
    let note = 4096;
    assert_eq!(store.space.used(), 4096 + large.len() as u64 + note);
    let names = || read_dir(&folder.path().join("store/partials")).count();
    assert_eq!(names(), 2, "the file and its note");
    assert!(store.blobs.open(&digest, None).expect("readable").is_some());

    let mut staged = store
        .blobs
        .resume(&resumed)
        .expect("readable")
        .expect("a partial");
    assert_eq!(
        (staged.written(), staged.total()),
        (large.len() as u64, Some(whole.len() as u64))
    );
    staged.append(&large[..10]).expect("room");
    staged.park();
    let mut staged = store
        .blobs
        .resume(&resumed)
        .expect("readable")
        .expect("a partial");
    staged.append(&large[10..]).expect("room");
    staged.commit().expect("it matches");
    assert_eq!((names(), store.space.blobs()), (0, 2));
}

#[test]
fn partial_is_dropped_when_its_space_is_needed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store_of(folder.path(), 3 << 20);
    let digest = Digest::of(Algorithm::Sha256, b"whatever");
    let mut staged = stage(&store, &digest, Some(2 << 20));
    staged.append(&vec![1; 2 << 20]).expect("room");
    staged.park();
    assert_eq!(store.blobs.partials().len(), 1);
    let _room = store
        .blobs
        .reserve(2 << 20)
        .expect("the partial is dropped");
    assert!(store.blobs.partials().is_empty());
    assert!(store.blobs.resume(&digest).expect("readable").is_none());
}

#[test]
fn a_second_process_and_an_unknown_version_are_refused() {
    use crate::OpenError;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = Settings::at(folder.path());
    let first = Store::open(&settings, &[]).expect("a fresh store");
    assert!(matches!(
        Store::open(&settings, &[]),
        Err(OpenError::Locked { .. })
    ));
    drop(first);
    std::fs::write(folder.path().join("VERSION"), "2\n").expect("writable");
    assert!(matches!(
        Store::open(&settings, &[]),
        Err(OpenError::Version { .. })
    ));
}

/// A committed blob, and the path of its file.
fn committed(store: &Store, root: &Path, bytes: &[u8]) -> (Digest, PathBuf) {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let mut staged = stage(store, &digest, Some(bytes.len() as u64));
    staged.append(bytes).expect("room");
    staged.commit().expect("it matches");
    (digest, blob_path(&root.join("store"), &digest))
}

#[test]
fn wrong_length_is_noticed_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let here = store(root);
    let (digest, path) = committed(&here, root, b"four");
    let open = |store: &Store, expected| {
        let blob = store.blobs.open(&digest, expected).expect("readable");
        blob.map(|blob| blob.size)
    };
    // The index knows a committed blob better than a link does.
    assert_eq!(open(&here, Some(5)), Some(4));
    std::fs::write(&path, b"fou").expect("writable");
    assert_eq!(open(&here, None), None);
    assert!(!path.exists() && here.quarantined().len() == 1);
    assert_eq!((here.space.blobs(), here.space.used()), (0, 4096));

    committed(&here, root, b"four");
    drop(here);
    std::fs::write(&path, b"fou").expect("writable");
    let again = store(root);
    // A new process knows only the files and the links, which may be wrong as well.
    assert_eq!(open(&again, None), Some(3));
    assert_eq!(open(&again, Some(4)), None);
    committed(&again, root, b"four");
    drop(again);
    let third = store(root);
    assert_eq!(open(&third, Some(5)), Some(4));
    assert_eq!(third.quarantined().len(), 1);
}

#[test]
fn loaded_blob_is_hashed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let small = store(root);
    let (digest, path) = committed(&small, root, b"manifest");
    let load = |store: &Store, digest| store.blobs.load(digest, u64::MAX).expect("readable");
    assert_eq!(load(&small, &digest).as_deref(), Some(&b"manifest"[..]));
    std::fs::write(&path, b"Manifest").expect("writable");
    assert_eq!(load(&small, &digest), None);
    assert_eq!(small.quarantined().len(), 1);
    let (large, path) = committed(&small, root, &vec![7; 100_000]);
    drop(small);
    let mut bytes = vec![7; 100_000];
    bytes[99] = 6;
    std::fs::write(&path, bytes).expect("writable");
    assert_eq!(load(&store(root), &large), None);
}

#[test]
fn unnamed_blob_is_committed_or_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    let key = Digest::of(Algorithm::Sha256, b"a name for the time being");
    let attempt = |bytes: &[u8], total| {
        let room = store.blobs.reserve(0).expect("room");
        let mut staged = store.blobs.stage_unnamed(&key, room, total)?;
        staged.append(bytes)?;
        staged.commit_unnamed().map(|(digest, _)| digest)
    };
    let digest = Digest::of(Algorithm::Sha256, b"hello");
    for total in [Some(5), None] {
        assert_eq!(attempt(b"hello", total).expect("committed"), digest);
    }
    for total in [4, 6] {
        assert!(attempt(b"hello", Some(total)).is_err(), "{total}");
    }
    assert_eq!(
        store
            .blobs
            .load(&digest, u64::MAX)
            .expect("readable")
            .as_deref(),
        Some(&b"hello"[..])
    );
    assert!(store.blobs.open(&key, None).expect("readable").is_none());
    assert_eq!(read_dir(&folder.path().join("store/partials")).count(), 0);
}

/// A reservation may block: on the only thread of a runtime it would stop everything else.
#[test]
fn reservation_does_not_block_the_runtime() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&Settings::at(folder.path()), &[]).expect("a store");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .expect("a runtime");
    let (blobs, space) = (store.blobs.clone(), store.space.clone());
    let digest = Digest::of(Algorithm::Sha256, b"x");
    // Before the scan there is no space to reserve.
    let begun = runtime.spawn(async move {
        blobs
            .reserve_and_stage(&digest, 1, PartialNote::default())
            .await
    });
    let settled = runtime.spawn(async move { space.finish_scan() });
    runtime.block_on(settled).expect("no panic");
    let begun = runtime.block_on(begun).expect("no panic");
    assert!(begun.is_ok(), "{begun:?}");
}

/// A removed file takes space until its last reader closes it.
#[test]
fn deleted_file_counts_until_it_is_closed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    let bytes = vec![1; 1 << 20];
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    // A committed blob, opened and purged.
    store.blobs.put(&digest, &bytes).expect("room");
    let first = store.blobs.open(&digest, None).expect("readable");
    let second = store.blobs.open(&digest, None).expect("readable");
    store.blobs.remove(&digest).expect("removable");
    drop(first);
    assert_eq!(store.space.used(), 1 << 20);
    drop(second);
    assert_eq!(store.space.used(), 0);
    // A staged file, followed and dropped; the unwritten part of its reservation is free at once.
    let mut staged = stage(&store, &digest, Some(3 << 20));
    staged.append(&bytes).expect("room");
    let reader = staged.file();
    drop(staged);
    let used = store.space.used();
    assert!((1 << 20..2 << 20).contains(&used), "{used}");
    drop(reader);
    assert_eq!(store.space.used(), 0);
    // A staged file, followed and committed: it is not evicted under its reader.
    let mut staged = stage(&store, &digest, None);
    staged.append(&bytes).expect("room");
    let reader = staged.file();
    drop(staged.commit().expect("it matches"));
    assert!(store.blobs.reserve(7 << 19).is_err());
    drop(reader);
    let room = store.blobs.reserve(7 << 19).expect("room");
    assert_eq!(store.space.blobs(), 0);
    drop(room);
    // A partial, followed and dropped.
    let large = Digest::of(Algorithm::Sha256, b"large");
    let mut staged = stage(&store, &large, Some(2 << 20));
    staged.append(&bytes).expect("room");
    let reader = staged.file();
    staged.park();
    assert!(store.blobs.drop_oldest_partial());
    assert!(store.space.used() >= 1 << 20);
    drop(reader);
    assert_eq!(store.space.used(), 0);
}

/// A reader may have a damaged blob open when it is quarantined: the file still takes its space only once.
#[test]
fn quarantined_blob_that_is_open_counts_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    let bytes = vec![1; 1 << 20];
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    store.blobs.put(&digest, &bytes).expect("room");
    let reader = store.blobs.open(&digest, None).expect("readable");
    store.blobs.quarantine(&digest);
    assert_eq!(store.space.used(), 1 << 20);
    // Removing the file frees nothing while it is open.
    assert!(store.blobs.reserve(7 << 19).is_err());
    drop(reader);
    assert_eq!(store.space.used(), 1 << 20);
    drop(
        store
            .blobs
            .reserve(7 << 19)
            .expect("the quarantined file is evicted"),
    );
    assert_eq!(store.space.used(), 0);
}

/// A parked partial takes its bytes on disk, is dropped before whole blobs once it is idle, and finally expires.
#[test]
fn parked_partial_takes_its_written_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    let whole = vec![7; 2 << 20];
    let digest = Digest::of(Algorithm::Sha256, &whole);
    let park = || {
        let note = PartialNote {
            total: Some(2 << 20),
            ..PartialNote::default()
        };
        let room = store.blobs.reserve(2 << 20).expect("room");
        let staged = store.blobs.stage(&digest, room, note);
        let mut staged = staged.expect("a partial");
        staged.append(&whole[..100]).expect("room");
        staged.park();
    };
    park();
    // A block and its note.
    assert_eq!(store.space.used(), 2 * 4096);
    let resumed = store.blobs.resume(&digest).expect("readable");
    let mut resumed = resumed.expect("a partial");
    assert_eq!(store.space.used(), (2 << 20) + 4096);
    resumed.append(&whole[100..]).expect("room");
    drop(resumed.commit().expect("it matches"));
    store.blobs.remove(&digest).expect("removable");

    park();
    let now = SystemTime::now();
    let hours = |hours: u64| now + std::time::Duration::from_secs(hours * 3600);
    assert!(!store.blobs.partials.drop_idle(now));
    assert!(!store.blobs.partials.drop_expired(hours(2)));
    assert!(store.blobs.partials.drop_idle(hours(2)));
    park();
    store.blobs.drop_expired_partials(hours(25));
    assert!(store.blobs.partials().is_empty());
    assert_eq!(read_dir(&folder.path().join("store/partials")).count(), 0);
    assert_eq!(store.space.used(), 0);
}

/// A staged blob stays on disk at shutdown, and the next process resumes it.
#[test]
fn blob_staged_at_shutdown_is_resumed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = vec![7; 2 << 20];
    let digest = Digest::of(Algorithm::Sha256, &whole);
    {
        let store = store(folder.path());
        let mut staged = stage(&store, &digest, Some(2 << 20));
        staged.append(&whole[..1 << 20]).expect("room");
        store.blobs.stop();
        drop(staged);
    }
    let store = store(folder.path());
    assert!(store.blobs.resume_hashes(&digest));
    let resumed = store.blobs.resume(&digest).expect("readable");
    assert_eq!(resumed.map(|staged| staged.written()), Some(1 << 20));
}

/// A handover that the disk delayed until the store was taken back has no effect.
#[test]
fn handover_after_the_store_was_taken_back_fails() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    store.blobs.stop();
    store.take_back();
    store.hand_over().expect_err("it was taken back");
    assert!(!store.is_handed_over());
    assert!(store.blobs.partials.own().is_ok());
    store.blobs.stop();
    store.hand_over().expect("a lock");
    assert!(store.is_handed_over() && store.blobs.partials.own().is_err());
}
