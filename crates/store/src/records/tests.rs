use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::*;
use crate::Settings;
use crate::layout::BLOCK;
use crate::record::{ExtensionKey, ExtensionKeyOf};
use oci::name::Registry;

static NUMBERS: ExtensionKind = ExtensionKind::new("numbers", "_n-");
static LONG: ExtensionKind = ExtensionKind {
    max_bytes: 2 * BLOCK,
    ..ExtensionKind::new("numbers", "_long-")
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Numbers(Vec<u32>);

impl Record for Numbers {}

fn key_of(kind: &'static ExtensionKind, name: &str) -> ExtensionKey {
    kind.key(&Registry::new("a"), name)
}

fn key(name: &str) -> ExtensionKeyOf<Numbers> {
    key_of(&NUMBERS, name).of()
}

fn numbers(number: u32) -> Numbers {
    Numbers(vec![number])
}

fn space(root: &Path) -> Arc<Space> {
    let space = Arc::new(Space::new(&Settings::at(root)));
    space.finish_scan();
    space
}

fn records(root: &Path) -> RecordStore {
    RecordStore::new(root, space(root), 3600, vec![&NUMBERS, &LONG])
}

async fn first_of(records: &RecordStore, name: &str) -> Option<u32> {
    let record = records.open(&key(name)).await.expect("readable");
    record.map(|record| record.0[0])
}

#[tokio::test]
async fn records_outlive_the_cache() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("numbers/a/_n-b");
    let first = records(folder.path());
    assert_eq!(first_of(&first, "b").await, None);
    first.put(&key("b"), Numbers(vec![1, 2])).await;
    first.put(&key("b"), numbers(3)).await;

    let again = records(folder.path());
    assert_eq!(first_of(&again, "b").await, Some(3));
    // A file in place of a folder means absent: ENOTDIR.
    assert_eq!(first_of(&again, "b/c").await, None);

    std::fs::write(&file, b"{broken").expect("writable");
    let again = records(folder.path());
    assert_eq!(first_of(&again, "b").await, None);
    again.remove(&key("b")).await;
    assert!(!file.exists());
}

/// Values may come from an untrusted upstream.
#[tokio::test]
async fn a_record_that_is_too_long_is_not_stored() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = records(folder.path());
    let long = Numbers(vec![1_000_000; 512]);
    first.put(&key("b"), numbers(1)).await;
    let stored = first.put(&key("b"), long.clone()).await;
    assert_eq!(*stored, long, "the caller goes on with it");
    for records in [first, records(folder.path())] {
        let open = records.open(&key("b")).await.expect("readable");
        assert_eq!(open, None, "neither it nor the one before");
    }

    let space = space(folder.path());
    let records = RecordStore::new(folder.path(), space.clone(), 3600, vec![&LONG]);
    let key = key_of(&LONG, "b").of::<Numbers>();
    for (record, blocks) in [
        (numbers(1), 1),
        (long.clone(), 2),
        (numbers(1), 1),
        (long, 2),
    ] {
        records.put(&key, record.clone()).await;
        assert_eq!((space.records(), space.used()), (1, blocks * BLOCK));
        let again = RecordStore::new(folder.path(), space.clone(), 3600, vec![&LONG]);
        let open = again.open(&key).await.expect("readable");
        assert_eq!(open.as_deref(), Some(&record));
        assert_eq!(again.count(&mut |_| ()), (1, blocks));
    }
    records.remove(&key).await;
    assert_eq!((space.records(), space.used()), (0, 0));
}

#[tokio::test]
async fn a_last_use_is_written_hourly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("numbers/a/_n-b");
    let first = records(folder.path());
    first.put(&key("b"), numbers(1)).await;
    let old = SystemTime::now() - std::time::Duration::from_secs(3700);
    let handle = std::fs::File::open(&file).expect("readable");
    handle.set_modified(old).expect("writable");
    let used = || {
        let meta = std::fs::metadata(&file).expect("a record");
        meta.modified().expect("a time")
    };
    first.open(&key("b")).await.expect("readable");
    assert!(used() <= old, "it is known to be used");
    let again = records(folder.path());
    again.open(&key("b")).await.expect("readable");
    while used() <= old {
        tokio::task::yield_now().await;
    }
}

/// A cache so small that nearly every read goes to the disk.
fn forgetful_records(root: &Path) -> RecordStore {
    RecordStore::with_cache(
        root,
        space(root),
        3600,
        vec![&NUMBERS],
        RecordCache::of(1000),
    )
}

/// After a write or removal, readers see it or a later change, whatever calls run concurrently.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_sees_a_record_from_before_a_change() {
    use std::sync::atomic::{AtomicBool, AtomicU32};

    let folder = tempfile::tempdir().expect("a temporary folder");
    let records = forgetful_records(folder.path());
    let (least, done) = (
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut tasks = Vec::new();
    for task in 0..6 {
        let (records, least, done) = (records.clone(), least.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            let mut seen = 0_u32;
            while !done.load(Ordering::SeqCst) {
                let at_least = least.load(Ordering::SeqCst);
                let question = records.ask(&key("b"));
                let open = records.open(&key("b")).await.expect("readable");
                if let Some(record) = open {
                    seen += 1;
                    assert!(record.0[0] >= at_least, "{} after {at_least}", record.0[0]);
                    // A slow answer, which may be outdated.
                    tokio::task::yield_now().await;
                    if task % 2 == 0 {
                        let old = Numbers(vec![record.0[0], task]);
                        records.answer(&question, old, Reach::Local).await;
                    }
                }
                records.open(&key("other")).await.expect("readable");
            }
            seen
        }));
    }
    for number in 1..=400 {
        if number % 7 == 0 {
            records.remove(&key("b")).await;
        } else {
            let question = records.ask(&key("b"));
            records.write(&question, numbers(number)).await;
        }
        least.store(number, Ordering::SeqCst);
    }
    done.store(true, Ordering::SeqCst);
    for task in tasks {
        assert!(task.await.expect("no panic") > 0, "it saw nothing at all");
    }
    assert_eq!(first_of(&records, "b").await, Some(400));
}

#[tokio::test]
async fn an_answer_from_before_a_change_is_not_stored() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = records(folder.path());
    let before = first.ask(&key("b"));
    first.put(&key("b"), numbers(1)).await;
    first.remove(&key("b")).await;
    let outcome = first.answer(&before, numbers(2), Reach::Local).await;
    assert_eq!(outcome, Outcome::Outdated(Arc::new(numbers(2))));
    assert_eq!(first_of(&first, "b").await, None);

    // A 404 is an answer as well.
    let before = first.ask(&key("b"));
    first.put(&key("b"), numbers(3)).await;
    first.answer_absent(&before).await;
    assert_eq!(first_of(&first, "b").await, Some(3));
    first.answer_absent(&first.ask(&key("b"))).await;
    assert_eq!(first_of(&first, "b").await, None);

    // Of two concurrent writes the winner is unknown; the next answer decides.
    let (one, other) = (first.ask(&key("b")), first.ask(&key("b")));
    first.write(&one, numbers(4)).await;
    assert_eq!(first_of(&first, "b").await, Some(4));
    first.write(&other, numbers(5)).await;
    for records in [first, records(folder.path())] {
        assert_eq!(first_of(&records, "b").await, None);
    }
}

/// Concurrent updates are not lost, even without a cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_updates_are_serialized() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for records in [records(folder.path()), forgetful_records(folder.path())] {
        records.remove(&key("b")).await;
        let updates = (0..40).map(|number| {
            let records = records.clone();
            tokio::spawn(async move {
                let add = move |known: Option<&Numbers>| {
                    let mut all = known.map_or_else(Vec::new, |known| known.0.clone());
                    all.push(number);
                    Some(Numbers(all))
                };
                records.update(&key("b"), add).await
            })
        });
        for update in updates.collect::<Vec<_>>() {
            update.await.expect("no panic").expect("readable");
        }
        let all = records.open(&key("b")).await.expect("readable");
        let mut all = all.expect("a record").0.clone();
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
        records.update(&key("b"), |_| None).await.expect("readable");
        assert!(first_of(&records, "b").await.is_some(), "it was left alone");
    }
    // An answer from before an update is not stored.
    let records = records(folder.path());
    let key = key("c");
    let before = records.ask(&key);
    let update = records.update(&key, |_| Some(numbers(1)));
    update.await.expect("readable");
    records.answer(&before, numbers(2), Reach::Local).await;
    assert_eq!(first_of(&records, "c").await, Some(1));
}

#[tokio::test]
async fn an_update_of_a_record_that_cannot_be_read_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let records = records(folder.path());
    // A folder cannot be read like a file.
    std::fs::create_dir_all(folder.path().join("numbers/a/_n-b/c")).expect("writable");
    let update = records.update(&key("b"), |_| Some(numbers(1))).await;
    assert!(update.is_err());
}

fn name(repository: &str) -> RepositoryName {
    RepositoryName::new(&Registry::new("r"), &repository.parse().expect("a name"))
}

fn tag(repository: &str, class: AcceptClass, tag: &str) -> TagKey {
    TagKey::new(&name(repository), class, &tag.parse().expect("a tag"))
}

fn pointer(n: u8) -> crate::Pointer {
    crate::Pointer {
        digest: Digest::Sha256([n; 32]),
        media_type: "a/b".into(),
        size: None,
        checked_at: 1,
    }
}

#[tokio::test]
async fn tags_of_a_manifest_are_removed_together() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let records = records(folder.path());
    let (one, two) = (AcceptClass::Full, AcceptClass::Schema1);
    let known = [
        (tag("t", one, "a"), 1),
        (tag("t", two, "a"), 1),
        (tag("t", one, "b"), 2),
        (tag("t2", one, "a"), 1),
        (tag("t/sub", one, "a"), 1),
    ];
    for (key, n) in &known {
        records.put(key, pointer(*n)).await;
    }
    let asked = [
        tag("t", one, "a"),
        tag("t", one, "new"),
        tag("t2", one, "a"),
        tag("t/sub", one, "a"),
    ];
    let questions = asked.clone().map(|key| records.ask(&key));
    records.remove_tags_of(&name("t"), pointer(1).digest).await;
    let mut left = Vec::new();
    for (key, _) in &known {
        left.push(records.open(key).await.expect("readable").is_some());
    }
    assert_eq!(left, [false, false, true, true, true]);
    let mut current = Vec::new();
    for question in &questions {
        let outcome = records.answer(question, pointer(9), Reach::Local).await;
        current.push(matches!(outcome, Outcome::Current(_)));
    }
    assert_eq!(current, [false, false, true, true]);
    let tags = records.known_tags(&name("t")).expect("readable");
    assert_eq!(tags, ["b".parse().expect("a tag")]);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Timed {
    checked_at: u64,
    says: u32,
}

impl Record for Timed {
    fn checked_at(&self) -> Option<u64> {
        Some(self.checked_at)
    }

    fn has_same_content(&self, other: &Self) -> bool {
        self.says == other.says
    }
}

/// A restart may take a record for older than it is, never for fresher.
#[tokio::test]
async fn a_confirmation_is_written_hourly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = key_of(&NUMBERS, "b").of::<Timed>();
    let first = records(folder.path());
    for (checked_at, says, on_disk) in [
        (10_000, 1, (10_000, 1)),
        (10_001, 1, (10_000, 1)),
        (13_599, 1, (10_000, 1)),
        (13_600, 1, (13_600, 1)),
        (13_601, 2, (13_601, 2)),
        (13_602, 1, (13_602, 1)),
        // The clock was set back: the record on disk would be fresher.
        (9_000, 1, (9_000, 1)),
        (9_001, 1, (9_000, 1)),
    ] {
        let record = Timed { checked_at, says };
        let outcome = first
            .answer(&first.ask(&key), record.clone(), Reach::Local)
            .await;
        assert_eq!(outcome, Outcome::Current(Arc::new(record.clone())));
        let known = first.open(&key).await.expect("readable");
        assert_eq!(known.as_deref(), Some(&record));
        let known = records(folder.path()).open(&key).await.expect("readable");
        let known = known.map(|known| (known.checked_at, known.says));
        assert_eq!(known, Some(on_disk), "{checked_at} {says}");
    }
}

#[test]
fn a_record_that_the_disk_refuses_to_delete_is_absent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = RecordFiles::new(folder.path(), space(folder.path()), 3600);
    let place: PathBuf = folder.path().join("numbers/a/b");
    // A folder cannot be removed like a file.
    std::fs::create_dir_all(place.join("c")).expect("writable");
    assert!(files.lock("numbers/a/b").remove().is_err());
    std::fs::remove_dir_all(&place).expect("writable");
    std::fs::write(&place, b"[1]").expect("writable");
    assert!(
        files
            .read("numbers/a/b")
            .is_err_and(|error| is_absent(&error))
    );
    files.retry_deletions();
    assert!(!place.exists(), "it goes once it can");
    files.lock("numbers/a/b").write(b"[2]").expect("writable");
    files.retry_deletions();
    assert_eq!(files.read("numbers/a/b").expect("readable").0, b"[2]");
}
