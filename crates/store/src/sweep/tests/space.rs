//! Which records are deleted when there are too many, and how they are counted.

use super::*;

/// A store with room for 32 records, once it is scanned.
fn small_store(root: &Path) -> Store {
    let settings = Settings {
        // A quarter of it is 32 records; the lock and VERSION have their blocks.
        max_size: 130 * 4096,
        ..settings(root)
    };
    let store = Store::open(&settings, &[EXTENSION]).expect("a store");
    store.scan();
    store
}

#[tokio::test]
async fn least_recently_used_records_are_deleted_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    for n in 0..40 {
        link(&first, "retained.example", n).await;
    }
    age(root, 9 * DAY);
    for n in 0..10 {
        let name = digest(n).to_string().replace(':', "-");
        let link = root.join("repositories/retained.example/team/app/_blobs");
        let file = File::open(link.join(name)).expect("a link");
        file.set_modified(SystemTime::now()).expect("writable");
    }
    drop(first);
    let store = small_store(root);
    assert_eq!(store.space.excess_record_blocks(), 8);
    let swept = store.sweep(SystemTime::now());
    assert_eq!((swept.records, store.space.records()), (8 + 40 / 8, 27));
    for n in 0..10 {
        let app = app(&Registry::new("retained.example"));
        let key = BlobKey::new(&app, &digest(n));
        let link = store.records.open(&key).await;
        assert!(link.expect("readable").is_some(), "{n}");
    }
}

/// Permanent records have half of what records may take, whatever else is used, and no more if others need it.
#[tokio::test]
async fn permanent_and_other_records_do_not_crowd_each_other_out() {
    // Of each, how many there are, how long ago they were used, and how many are left of 32.
    for (made, links, made_age, link_age, left) in [
        // No other records need the rest.
        (30, 0, 9, 0, (30, 0)),
        // Those beyond half are deleted, though used later: 8 and an eighth.
        (30, 10, 1, 9, (17, 10)),
        // Half stays, though used long ago.
        (16, 24, 9, 1, (16, 11)),
        (36, 4, 9, 9, (23, 4)),
        // A much smaller store than it was.
        (200, 200, 9, 9, (16, 8)),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        let first = store(root);
        let registry = Registry::new("retained.example");
        for n in 0..made {
            put_recipe(&first, &registry, n).await;
        }
        for n in 0..links {
            link(&first, "retained.example", n).await;
        }
        age(&root.join("permanent"), made_age * DAY);
        age(&root.join("repositories"), link_age * DAY);
        drop(first);
        let store = small_store(root);
        store.sweep(SystemTime::now());
        let made_left = count_files(&root.join("permanent"));
        let links_left = count_files(&root.join("repositories"));
        assert_eq!((made_left, links_left), left, "{made} {links}");
        assert_eq!(store.space.records(), (left.0 + left.1) as u64);
        assert_eq!(store.space.excess_record_blocks(), 0);
        link(&store, "retained.example", 255).await;
        assert_eq!(count_files(&root.join("repositories")), left.1 + 1);
    }
}

/// Records that lead to lost ones are deleted, so that the lost ones are made again.
#[tokio::test]
async fn index_records_are_deleted_with_permanent_ones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let store = small_store(root);
    let registry = Registry::new("retained.example");
    let top = to(TOPS.key(&registry, "a"));
    store.records.put(&top, To(digest(0))).await;
    for n in 0..32 {
        put_recipe(&store, &registry, n).await;
    }
    assert_eq!(store.space.excess_record_blocks(), 1);
    store.sweep(SystemTime::now());
    assert_eq!(store.space.excess_record_blocks(), 0);
    // Also from memory.
    assert_eq!(store.records.open(&top).await.expect("readable"), None);
    let mut left = 0;
    for n in 0..32 {
        let key = to(RECIPES.key(&registry, &digest_name(&digest(n))));
        let known = store.records.open(&key).await;
        left += usize::from(known.expect("readable").is_some());
    }
    assert_eq!(left, count_files(&root.join("permanent")));
    assert!((16..32).contains(&left), "{left}");
}

/// Records of more than a block are counted in full, also by the scan, and deleted.
#[tokio::test]
async fn long_records_are_counted_by_their_blocks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    let name = |n: u64| format!("0{n:063x}");
    for (names, blocks) in [(60, 1), (62, 2), (300, 5)] {
        let names = Names((0..names).map(name).collect());
        first.records.put(&list("hub.example"), names).await;
        assert_eq!(
            (first.space.records(), first.space.used()),
            (1, blocks * 4096)
        );
    }
    drop(first);
    let again = store(root);
    assert_eq!((again.space.records(), again.space.used()), (1, 5 * 4096));
    age(root, 40 * DAY);
    again.sweep(SystemTime::now());
    assert_eq!((again.space.records(), again.space.used()), (0, 0));
}

fn count_files(folder: &Path) -> usize {
    let entries = read_dir(folder).map(|entry| {
        let path = entry.path();
        if path.is_dir() { count_files(&path) } else { 1 }
    });
    entries.sum()
}
