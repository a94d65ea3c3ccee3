//! Tests of the sweep: which unused content is deleted, by which registry's `unused_ttl`.

use std::fs::File;

mod space;

use super::*;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::record::{ExtensionKey, ExtensionKeyOf, ExtensionKind, Record, Reference};
use crate::{
    BlobKey, BlobLink, Extension, ManifestKey, ManifestLink, Pointer, Reach, Settings, TagKey,
    digest_name, parse_digest_name,
};
use oci::digest::{Algorithm, Digest};
use oci::manifest::AcceptClass;
use oci::name::{Registry, RepositoryName, Tag};

/// A list that may be long.
static LISTS: ExtensionKind = ExtensionKind {
    max_bytes: 1 << 20,
    ..ExtensionKind::new("extra", "_list-")
};
static POINTERS: ExtensionKind = ExtensionKind {
    reference: |_, value| value.parse().map(Reference::Claim),
    ..ExtensionKind::new("extra", "_pointer/")
};
static LAYERS: ExtensionKind = ExtensionKind {
    reference: |_, value| value.parse().map(Reference::Claim),
    ..ExtensionKind::new("repositories", "_layer-")
};
static RECIPES: ExtensionKind = ExtensionKind {
    retention: Retention::Permanent,
    reference: |key, _| parse_digest_name(key.name()).map(Reference::Recipe),
    ..ExtensionKind::new("permanent", "digests/")
};
static TOPS: ExtensionKind = ExtensionKind {
    retention: Retention::PermanentIndex,
    ..ExtensionKind::new("permanent", "tops/")
};
static EXTENSION: Extension = Extension {
    kinds: &[&LISTS, &POINTERS, &LAYERS, &RECIPES, &TOPS],
    also_purged: |_, _| Vec::new(),
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Names(Vec<String>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct To(Digest);

impl Record for Names {}

impl Record for To {}

fn list(registry: &str) -> ExtensionKeyOf<Names> {
    LISTS.key(&app(&Registry::new(registry)), "0").of()
}

fn to(key: ExtensionKey) -> ExtensionKeyOf<To> {
    key.of()
}

/// A permanent record: the recipe of a blob.
async fn put_recipe(store: &Store, registry: &Registry, n: u8) {
    let key = to(RECIPES.key(registry, &digest_name(&digest(n))));
    store.records.put(&key, To(digest(n))).await;
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn settings(root: &Path) -> Settings {
    Settings {
        unused_ttl: Some(30 * DAY),
        unused_ttls: vec![
            (Registry::new("short.example"), Some(2 * DAY)),
            (Registry::new("hub.example"), Some(30 * DAY)),
            (Registry::new("retained.example"), None),
        ],
        ..Settings::at(root)
    }
}

fn store(root: &Path) -> Store {
    let store = Store::open(&settings(root), &[EXTENSION]).expect("a store");
    store.scan();
    store
}

fn digest(n: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[n])
}

fn app(registry: &Registry) -> RepositoryName {
    RepositoryName::new(registry, &"team/app".parse().expect("a name"))
}

async fn link(store: &Store, registry: &str, n: u8) {
    let link = BlobLink {
        checked_at: 0,
        size: None,
    };
    let key = BlobKey::new(&app(&Registry::new(registry)), &digest(n));
    let question = store.records.ask(&key);
    store.records.answer(&question, link, Reach::Shared).await;
}

/// Sets the last use of everything below a folder to that long ago.
fn age(folder: &Path, age: Duration) {
    for entry in read_dir(folder) {
        let path = entry.path();
        if path.is_dir() {
            self::age(&path, age);
        } else {
            let file = File::open(&path).expect("a file");
            let used = SystemTime::now() - age;
            file.set_modified(used).expect("writable");
        }
    }
}

fn present(store: &Store) -> Vec<u8> {
    let here = |n: &u8| {
        store
            .blobs
            .open(&digest(*n), None)
            .expect("readable")
            .is_some()
    };
    (1..=5).filter(here).collect()
}

#[tokio::test]
async fn blob_is_retained_for_the_longest_ttl_of_its_links() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    for n in 1..=5 {
        first.blobs.put(&digest(n), &[n]).expect("room");
    }
    for (registry, n) in [
        ("short.example", 1),
        ("short.example", 2),
        ("hub.example", 2),
        ("short.example", 3),
        ("retained.example", 3),
        ("gone.example", 4),
    ] {
        link(&first, registry, n).await;
    }
    assert_eq!(first.sweep(SystemTime::now()), Swept::default());
    drop(first);
    // Reads the files: opening a blob through the store would be a use.
    for (days, records, left) in [
        (1, 6, vec![1, 2, 3, 4, 5]),
        // No record links the fifth.
        (3, 3, vec![2, 3, 4]),
        (31, 1, vec![3]),
        (3000, 1, vec![3]),
    ] {
        age(root, days * DAY);
        let store = store(root);
        store.sweep(SystemTime::now());
        assert_eq!(store.space.records(), records, "{days}");
        assert_eq!(store.space.blobs(), left.len(), "{days}");
        assert_eq!(present(&store), left, "{days}");
        let blocks = records + left.len() as u64;
        assert_eq!(store.space.used(), blocks * 4096, "{days}");
    }
    let repositories = read_dir(&root.join("repositories"));
    assert_eq!(repositories.count(), 1, "empty folders go");
}

#[tokio::test]
async fn used_records_stay() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let store = store(root);
    let app = app(&Registry::new("hub.example"));
    let tag = |name: &str| name.parse::<Tag>().expect("a tag");
    let manifest = ManifestLink {
        media_type: "application/json".into(),
        size: 1,
        checked_at: 0,
        subject: None,
        stored: None,
    };
    let (records, link) = (&store.records, digest(1));
    let link = ManifestKey::new(&app, &link);
    let question = records.ask(&link);
    records.answer(&question, manifest, Reach::Shared).await;
    for name in ["old", "new"] {
        let pointer = Pointer {
            digest: digest(1),
            media_type: "application/json".into(),
            size: None,
            checked_at: 0,
        };
        let key = TagKey::new(&app, AcceptClass::Full, &tag(name));
        let question = records.ask(&key);
        records.answer(&question, pointer, Reach::Shared).await;
    }
    age(&root.join("repositories"), 40 * DAY);
    let used = root.join("repositories/hub.example/team/app/_tags/full/new");
    let used = File::open(used).expect("a record");
    used.set_modified(SystemTime::now()).expect("writable");
    let swept = store.sweep(SystemTime::now());
    assert_eq!((swept.records, store.space.records()), (2, 1));
    // Also from memory.
    let open = async |name: &str| {
        let key = TagKey::new(&app, AcceptClass::Full, &tag(name));
        let found = records.open(&key);
        found.await.expect("readable").is_some()
    };
    assert_eq!((open("old").await, open("new").await), (false, true));
    let link = records.open(&link);
    assert_eq!(link.await.expect("readable"), None);
}

/// The bytes of a signed manifest have another digest than its name: they are retained by its link all the same.
#[tokio::test]
async fn signed_manifests_are_retained_by_their_links() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    first.blobs.put(&digest(1), &[1]).expect("room");
    let link = ManifestLink {
        media_type: "application/json".into(),
        size: 1,
        checked_at: 0,
        subject: None,
        stored: Some(digest(1)),
    };
    let app = app(&Registry::new("retained.example"));
    let key = ManifestKey::new(&app, &digest(9));
    first.records.put(&key, link).await;
    drop(first);
    age(root, 3 * DAY);
    let store = store(root);
    store.sweep(SystemTime::now());
    assert_eq!(present(&store), [1]);
}

#[tokio::test]
async fn records_of_extensions_are_counted_and_deleted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    let names = Names(vec!["a".repeat(64)]);
    for registry in ["short.example", "hub.example", "retained.example"] {
        first.records.put(&list(registry), names.clone()).await;
    }
    link(&first, "hub.example", 1).await;
    assert_eq!((first.space.records(), first.space.used()), (4, 4 * 4096));
    drop(first);
    for (days, records) in [(1, 4), (3, 3), (31, 1), (3000, 1)] {
        age(root, days * DAY);
        let store = store(root);
        assert_eq!(store.space.used(), store.space.records() * 4096, "{days}");
        store.sweep(SystemTime::now());
        assert_eq!(store.space.records(), records, "{days}");
        assert_eq!(store.space.used(), records * 4096, "{days}");
    }
    assert_eq!(read_dir(&root.join("extra")).count(), 1, "empty folders go");
    // Also from memory, or it would not be written again.
    let store = store(root);
    let key = list("hub.example");
    store.records.put(&key, names).await;
    age(root, 40 * DAY);
    store.sweep(SystemTime::now());
    assert_eq!(store.records.open(&key).await.expect("readable"), None);
}

/// Bytes that no link refers to, but the record of an extension.
#[tokio::test]
async fn a_blob_is_retained_by_records_of_extensions() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    for n in 1..=5 {
        first.blobs.put(&digest(n), &[n]).expect("room");
    }
    let (hub, retained) = (
        Registry::new("hub.example"),
        Registry::new("retained.example"),
    );
    let (records, app) = (&first.records, app(&hub));
    for (key, n) in [
        (POINTERS.key(&hub, "a/layer"), 1),
        (POINTERS.key(&app, "tags"), 2),
        (LAYERS.key(&hub, "a"), 3),
    ] {
        records.put(&to(key), To(digest(n))).await;
    }
    put_recipe(&first, &retained, 4).await;
    drop(first);
    // Records are swept before the blobs that they lead to are marked again.
    for (days, records, left) in [
        (1, 4, vec![1, 2, 3, 4, 5]),
        (3, 4, vec![1, 2, 3, 4]),
        // A permanent record stays.
        (31, 1, vec![4]),
    ] {
        age(root, days * DAY);
        let store = store(root);
        store.sweep(SystemTime::now());
        assert_eq!(store.space.records(), records, "{days}");
        assert_eq!(present(&store), left, "{days}");
    }
}

#[test]
fn damaged_files_stay_a_week_unless_space_is_needed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    for n in [1, 2] {
        store.blobs.put(&digest(n), &[n]).expect("room");
        store.blobs.quarantine(&digest(n));
    }
    assert_eq!((store.quarantined().len(), store.space.used()), (2, 8192));
    store.sweep(SystemTime::now() + 6 * DAY);
    assert_eq!(store.quarantined().len(), 2);
    store.sweep(SystemTime::now() + 8 * DAY);
    assert_eq!((store.quarantined().len(), store.space.used()), (0, 0));
}

/// A file that the disk refuses to delete still counts, and is tried again.
#[test]
fn damaged_files_that_cannot_be_removed_still_count() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    store.blobs.put(&digest(1), &[1]).expect("room");
    store.blobs.quarantine(&digest(1));
    let used = store.space.used();
    assert_eq!(used, 4096);
    // A folder cannot be removed like a file.
    let aside = store.quarantined().pop().expect("a damaged file");
    std::fs::remove_file(&aside).expect("writable");
    std::fs::create_dir(&aside).expect("writable");
    let later = SystemTime::now() + 8 * DAY;
    store.sweep(later);
    assert_eq!(store.space.used(), used);
    std::fs::remove_dir(&aside).expect("writable");
    std::fs::write(&aside, [1]).expect("writable");
    store.sweep(later);
    assert_eq!((store.quarantined().len(), store.space.used()), (0, 0));
}
