use super::*;
use crate::{Settings, Space};

impl Record for Vec<u32> {}

#[test]
fn components_are_safe() {
    for (name, file) in [
        ("docker.io", "docker.io"),
        ("registry.local:5000", "registry.local%3A5000"),
        (".", "%2E"),
        ("..", "%2E."),
        ("a/b", "a%2Fb"),
    ] {
        assert_eq!(component(name), file);
    }
}

fn records(root: &Path) -> Records<Vec<u32>> {
    let space = Arc::new(Space::new(&Settings::at(root)));
    space.settle();
    let files = Arc::new(Files::new(root, space, 3600));
    Records::new(&files, 10)
}

#[tokio::test]
async fn records_outlive_the_cache() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("repositories/a/b");
    let first = records(folder.path());
    let open = async |records: &Records<Vec<u32>>, path: &str| {
        records.open(path.into()).await.expect("readable")
    };
    assert_eq!(open(&first, "a/b").await, None);
    first.put("a/b".into(), vec![1, 2]).await;
    first.put("a/b".into(), vec![3]).await;

    let again = records(folder.path());
    assert_eq!(open(&again, "a/b").await.as_deref(), Some(&vec![3]));
    // A file where a folder would be: absent, as ENOTDIR says.
    assert_eq!(open(&again, "a/b/c").await, None);

    std::fs::write(&file, b"{broken").expect("writable");
    let again = records(folder.path());
    assert_eq!(open(&again, "a/b").await, None);
    again.remove("a/b".into()).await;
    assert!(!file.exists());
}

/// What is in a record may be a stranger's choice.
#[tokio::test]
async fn a_record_that_is_too_long_is_kept_nowhere() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = records(folder.path());
    let long = vec![1_000_000; 512];
    first.put("a/b".into(), vec![1]).await;
    let kept = first.put("a/b".into(), long.clone()).await;
    assert_eq!(*kept, long, "who kept it goes on");
    for records in [first, records(folder.path())] {
        let open = records.open("a/b".into()).await.expect("readable");
        assert_eq!(open, None, "neither it nor what was before");
    }

    let space = Arc::new(Space::new(&Settings::at(folder.path())));
    space.settle();
    let files = Arc::new(Files::new(folder.path(), space.clone(), 3600));
    let records: Records<Vec<u32>> = Records::long(&files, 2 * BLOCK, 10, |_| 1);
    for (record, blocks) in [(vec![1], 1), (long.clone(), 2), (vec![1], 1), (long, 2)] {
        records.put("a/b".into(), record.clone()).await;
        assert_eq!((space.records(), space.used()), (1, blocks * BLOCK));
        let again: Records<Vec<u32>> = Records::new(&files, 10);
        let open = again.open("a/b".into()).await.expect("readable");
        assert_eq!(open.as_deref(), Some(&record));
    }
    records.remove("a/b".into()).await;
    assert_eq!((space.records(), space.used()), (0, 0));
}

#[tokio::test]
async fn a_last_use_is_written_hourly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("repositories/a/b");
    let first = records(folder.path());
    first.put("a/b".into(), vec![1]).await;
    let old = SystemTime::now() - std::time::Duration::from_secs(3700);
    let handle = std::fs::File::open(&file).expect("readable");
    handle.set_modified(old).expect("writable");
    let used = || {
        let meta = std::fs::metadata(&file).expect("a record");
        meta.modified().expect("a time")
    };
    first.open("a/b".into()).await.expect("readable");
    assert!(used() <= old, "it is known to be used");
    let again = records(folder.path());
    again.open("a/b".into()).await.expect("readable");
    while used() <= old {
        tokio::task::yield_now().await;
    }
}

fn small_records(root: &Path) -> Records<Vec<u32>> {
    // Nearly every look is one at the disk.
    Records {
        recent: moka::sync::Cache::new(1),
        ..records(root)
    }
}

/// Whoever looks once something was written or removed sees that or what came later, whoever looks, removes and
/// answers meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_what_was_before() {
    use std::sync::atomic::{AtomicBool, AtomicU32};

    let folder = tempfile::tempdir().expect("a temporary folder");
    let records = small_records(folder.path());
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
                let question = records.ask("a/b".into());
                let open = records.open("a/b".into()).await.expect("readable");
                if let Some(record) = open {
                    seen += 1;
                    assert!(record[0] >= at_least, "{} after {at_least}", record[0]);
                    // An answer that takes its time, and may be of before.
                    tokio::task::yield_now().await;
                    if task % 2 == 0 {
                        let old = vec![record[0], task];
                        records.keep(&question, old, Reach::Here).await;
                    }
                }
                records.open("a/other".into()).await.expect("readable");
            }
            seen
        }));
    }
    for number in 1..=400 {
        if number % 7 == 0 {
            records.remove("a/b".into()).await;
        } else {
            let question = records.ask("a/b".into());
            records.write(&question, vec![number]).await;
        }
        least.store(number, Ordering::SeqCst);
    }
    done.store(true, Ordering::SeqCst);
    for task in tasks {
        assert!(task.await.expect("no panic") > 0, "it saw nothing at all");
    }
    let again = records.open("a/b".into()).await.expect("readable");
    assert_eq!(again.map(|record| record[0]), Some(400));
}

#[tokio::test]
async fn an_answer_from_before_is_not_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = records(folder.path());
    let open = async |records: &Records<Vec<u32>>| {
        let record = records.open("a/b".into()).await.expect("readable");
        record.map(|record| record[0])
    };
    let before = first.ask("a/b".into());
    first.put("a/b".into(), vec![1]).await;
    first.remove("a/b".into()).await;
    let outcome = first.keep(&before, vec![2], Reach::Here).await;
    assert_eq!(outcome, Outcome::Outdated(Arc::new(vec![2])));
    assert_eq!(open(&first).await, None);

    // That it is gone is an answer as well.
    let before = first.ask("a/b".into());
    first.put("a/b".into(), vec![3]).await;
    first.gone(&before).await;
    assert_eq!(open(&first).await, Some(3));
    first.gone(&first.ask("a/b".into())).await;
    assert_eq!(open(&first).await, None);

    // Of two writes at once nothing is known; what is asked for then counts.
    let (one, other) = (first.ask("a/b".into()), first.ask("a/b".into()));
    first.write(&one, vec![4]).await;
    assert_eq!(open(&first).await, Some(4));
    first.write(&other, vec![5]).await;
    for records in [first, records(folder.path())] {
        assert_eq!(open(&records).await, None);
    }
}

#[tokio::test]
async fn answers_below_a_folder_end_together() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let records = records(folder.path());
    for (name, number) in [("r/t/full/a", 1), ("r/t/full/b", 2), ("r/t2/full/a", 1)] {
        records.put(name.into(), vec![number]).await;
    }
    let questions =
        ["r/t/full/a", "r/t/full/new", "r/t2/full/a"].map(|path| records.ask(path.into()));
    records
        .remove_where("r/t".into(), |record| record[0] == 1)
        .await;
    let mut current = Vec::new();
    for question in &questions {
        let outcome = records.keep(question, vec![9], Reach::Here).await;
        current.push(matches!(outcome, Outcome::Current(_)));
    }
    assert_eq!(current, [false, false, true]);
    for (name, number) in [
        ("r/t/full/a", None),
        ("r/t/full/b", Some(2)),
        ("r/t2/full/a", Some(9)),
    ] {
        let record = records.open(name.into()).await.expect("readable");
        assert_eq!(record.map(|record| record[0]), number, "{name}");
    }
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Timed {
    checked_at: u64,
    says: u32,
}

impl Record for Timed {
    fn checked_at(&self) -> Option<u64> {
        Some(self.checked_at)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.says == other.says
    }
}

/// A restart may take a record for older than it is, never for fresher.
#[tokio::test]
async fn a_confirmation_is_written_hourly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = || {
        let Records { files, .. } = records(folder.path());
        Records::<Timed>::new(&files, 10)
    };
    let first = open();
    for (checked_at, says, on_disk) in [
        (10_000, 1, (10_000, 1)),
        (10_001, 1, (10_000, 1)),
        (13_599, 1, (10_000, 1)),
        (13_600, 1, (13_600, 1)),
        (13_601, 2, (13_601, 2)),
        (13_602, 1, (13_602, 1)),
        // The clock was set back: what the disk says would be fresher.
        (9_000, 1, (9_000, 1)),
        (9_001, 1, (9_000, 1)),
    ] {
        let record = Timed { checked_at, says };
        let outcome = first
            .keep(&first.ask("a/b".into()), record.clone(), Reach::Here)
            .await;
        assert_eq!(outcome, Outcome::Current(Arc::new(record.clone())));
        let known = first.open("a/b".into()).await.expect("readable");
        assert_eq!(known.as_deref(), Some(&record));
        let known = open().open("a/b".into()).await.expect("readable");
        let known = known.map(|known| (known.checked_at, known.says));
        assert_eq!(known, Some(on_disk), "{checked_at} {says}");
    }
}

#[test]
fn what_the_disk_does_not_let_go_is_absent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Records { files, .. } = records(folder.path());
    let place = folder.path().join("repositories/a/b");
    // A folder that is not empty cannot be removed as a file is.
    std::fs::create_dir_all(place.join("c")).expect("writable");
    assert!(files.change("a/b").remove().is_err());
    std::fs::remove_dir_all(&place).expect("writable");
    std::fs::write(&place, b"[1]").expect("writable");
    assert!(files.read("a/b").is_err_and(|error| is_absent(&error)));
    files.retry_stuck();
    assert!(!place.exists(), "it goes once it can");
    files.change("a/b").write(b"[2]").expect("writable");
    files.retry_stuck();
    assert_eq!(files.read("a/b").expect("readable").0, b"[2]");
}
