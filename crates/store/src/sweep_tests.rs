//! What goes unasked, and by whose time.

use std::fs::File;

use super::*;
use std::path::Path;

use crate::{
    BlobKey, BlobLink, Made, MadeKind, ManifestKey, ManifestLink, Pointer, PreparedLayer, Reach,
    Settings, TagKey, V1Body,
};
use oci::digest::{Algorithm, Digest};
use oci::manifest::AcceptClass;
use oci::name::{Registry, Repository, Tag};
use oci::v1::{Endpoint, ImageId, Part, Resource};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn settings(root: &Path) -> Settings {
    Settings {
        unused_ttl: Some(30 * DAY),
        unused_ttls: vec![
            (Registry::new("short.example"), Some(2 * DAY)),
            (Registry::new("hub.example"), Some(30 * DAY)),
            (Registry::new("kept.example"), None),
        ],
        ..Settings::at(root)
    }
}

fn store(root: &Path) -> Store {
    let store = Store::open(&settings(root)).expect("a store");
    store.scan();
    store
}

fn digest(n: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[n])
}

fn repository() -> Repository {
    "team/app".parse().expect("a name")
}

async fn link(store: &Store, registry: &str, n: u8) {
    let link = BlobLink {
        checked_at: 0,
        size: None,
    };
    let (registry, repository) = (Registry::new(registry), repository());
    let key = BlobKey::new(&registry, &repository, &digest(n));
    let question = store.records.ask(&key);
    store.records.answer(&question, link, Reach::Shared).await;
}

/// Everything below a folder was last used that long ago.
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

fn here(store: &Store) -> Vec<u8> {
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
async fn a_blob_lives_by_the_longest_of_those_that_link_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    for n in 1..=5 {
        first.blobs.keep(&digest(n), &[n]).expect("room");
    }
    for (registry, n) in [
        ("short.example", 1),
        ("short.example", 2),
        ("hub.example", 2),
        ("short.example", 3),
        ("kept.example", 3),
        ("gone.example", 4),
    ] {
        link(&first, registry, n).await;
    }
    assert_eq!(first.sweep(SystemTime::now()), Swept::default());
    drop(first);
    // One reads what was used before; nothing is opened, since that is a use.
    for (days, records, left) in [
        (1, 6, vec![1, 2, 3, 4, 5]),
        // The fifth is linked by nobody.
        (3, 3, vec![2, 3, 4]),
        (31, 1, vec![3]),
        (3000, 1, vec![3]),
    ] {
        age(root, days * DAY);
        let store = store(root);
        store.sweep(SystemTime::now());
        assert_eq!(store.space.records(), records, "{days}");
        assert_eq!(store.space.blobs(), left.len(), "{days}");
        assert_eq!(here(&store), left, "{days}");
        let blocks = records + left.len() as u64;
        assert_eq!(store.space.used(), blocks * 4096, "{days}");
    }
    let repositories = read_dir(&root.join("repositories"));
    assert_eq!(repositories.count(), 1, "empty folders go");
}

#[tokio::test]
async fn records_that_are_used_stay() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let store = store(root);
    let (registry, repository) = (Registry::new("hub.example"), repository());
    let tag = |name: &str| name.parse::<Tag>().expect("a tag");
    let manifest = ManifestLink {
        media_type: "application/json".into(),
        size: 1,
        checked_at: 0,
        subject: None,
        stored: None,
    };
    let (records, link) = (&store.records, digest(1));
    let link = ManifestKey::new(&registry, &repository, &link);
    let question = records.ask(&link);
    records.answer(&question, manifest, Reach::Shared).await;
    for name in ["old", "new"] {
        let pointer = Pointer {
            digest: digest(1),
            media_type: "application/json".into(),
            size: None,
            checked_at: 0,
        };
        let key = TagKey::new(&registry, &repository, AcceptClass::Full, &tag(name));
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
        let key = TagKey::new(&registry, &repository, AcceptClass::Full, &tag(name));
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
    first.blobs.keep(&digest(1), &[1]).expect("room");
    let link = ManifestLink {
        media_type: "application/json".into(),
        size: 1,
        checked_at: 0,
        subject: None,
        stored: Some(digest(1)),
    };
    let registry = Registry::new("kept.example");
    let key = ManifestKey::new(&registry, &repository(), &digest(9));
    first.records.put(&key, link).await;
    drop(first);
    age(root, 3 * DAY);
    let store = store(root);
    store.sweep(SystemTime::now());
    assert_eq!(here(&store), [1]);
}

/// Whose the images of the v1 API are is a record like others.
#[tokio::test]
async fn images_of_the_v1_api_are_counted_and_go() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    let id = ["a".repeat(64).parse().expect("an id")];
    let name = |name: &str| Registry::new(name);
    for registry in ["short.example", "hub.example", "kept.example"] {
        let (registry, repository) = (name(registry), repository());
        let linked = first.images.link(&registry, &repository, &id);
        linked.await.expect("writable");
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
    assert_eq!(read_dir(&root.join("v1")).count(), 1, "empty folders go");
    // Also from memory, or it would not be written again.
    let store = store(root);
    let (registry, repository) = (name("hub.example"), repository());
    let linked = store.images.link(&registry, &repository, &id);
    linked.await.expect("writable");
    age(root, 40 * DAY);
    store.sweep(SystemTime::now());
    let known = store.images.is_linked(&registry, &repository, &id[0]);
    assert!(!known.await.expect("readable"));
}

#[tokio::test]
async fn of_too_many_records_the_least_used_go() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    for n in 0..40 {
        link(&first, "kept.example", n).await;
    }
    age(root, 9 * DAY);
    for n in 0..10 {
        let name = digest(n).to_string().replace(':', "-");
        let link = root.join("repositories/kept.example/team/app/_blobs");
        let file = File::open(link.join(name)).expect("a link");
        file.set_modified(SystemTime::now()).expect("writable");
    }
    drop(first);
    let store = Store::open(&Settings {
        // A quarter of it is 32 records; the lock and VERSION have their blocks.
        max_size: 130 * 4096,
        ..settings(root)
    });
    let store = store.expect("a store");
    store.scan();
    assert_eq!(store.space.excess_records(), 8);
    let swept = store.sweep(SystemTime::now());
    assert_eq!((swept.records, store.space.records()), (8 + 40 / 8, 27));
    for n in 0..10 {
        let (registry, repository) = (Registry::new("kept.example"), repository());
        let key = BlobKey::new(&registry, &repository, &digest(n));
        let link = store.records.open(&key).await;
        assert!(link.expect("readable").is_some(), "{n}");
    }
}

/// Bytes that no link leads to, but a pointer of the v1 API, a derived layer or a conversion.
#[tokio::test]
async fn a_blob_lives_by_what_else_leads_to_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    for n in 1..=5 {
        first.blobs.keep(&digest(n), &[n]).expect("room");
    }
    let (hub, kept) = (Registry::new("hub.example"), Registry::new("kept.example"));
    let id: ImageId = "a".repeat(64).parse().expect("an id");
    for (n, what) in [
        (
            1,
            Endpoint::Image {
                id: id.clone(),
                part: Part::Layer,
            },
        ),
        (
            2,
            Endpoint::Named {
                repository: repository(),
                resource: Resource::Tags,
            },
        ),
    ] {
        let body = V1Body {
            digest: digest(n),
            size: 1,
            checked_at: 0,
            layer_size: None,
            checksum: None,
        };
        first.v1.point(&first.v1.ask(&hub, &what), body).await;
    }
    let layer = PreparedLayer::Derived {
        digest: digest(3),
        size: 1,
    };
    first.synthesis.keep_layer(&hub, &digest(9), layer).await;
    let conversions = &first.conversions;
    conversions
        .keep_made_of(&kept, &digest(4), MadeKind::Layer, &id)
        .await
        .expect("readable");
    drop(first);
    // Records are swept before the blobs that they lead to are marked again.
    for (days, records, left) in [
        (1, 4, vec![1, 2, 3, 4, 5]),
        (3, 4, vec![1, 2, 3, 4]),
        // A conversion stays, whoever had it made.
        (31, 1, vec![4]),
    ] {
        age(root, days * DAY);
        let store = store(root);
        store.sweep(SystemTime::now());
        assert_eq!(store.space.records(), records, "{days}");
        assert_eq!(here(&store), left, "{days}");
    }
}

/// Conversions have half of what records may take, whatever else is used, and no more if that is wanted.
#[tokio::test]
async fn conversions_and_other_records_leave_each_other_room() {
    // Of each, how many there are, how long ago they were used, and how many are left of 32.
    for (made, links, made_age, link_age, left) in [
        // Nobody wants the rest.
        (30, 0, 9, 0, (30, 0)),
        // What is above half goes, though it was used later: 8 and an eighth.
        (30, 10, 1, 9, (17, 10)),
        // Half stays, though it was used long ago.
        (16, 24, 9, 1, (16, 11)),
        (36, 4, 9, 9, (23, 4)),
        // A much smaller store than it was.
        (200, 200, 9, 9, (16, 8)),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        let first = store(root);
        let registry = Registry::new("kept.example");
        let id: ImageId = "a".repeat(64).parse().expect("an id");
        for n in 0..made {
            let conversions = &first.conversions;
            let digest = digest(n);
            let kept = conversions.keep_made_of(&registry, &digest, MadeKind::Layer, &id);
            kept.await.expect("readable");
        }
        for n in 0..links {
            link(&first, "kept.example", n).await;
        }
        age(&root.join("conversions"), made_age * DAY);
        age(&root.join("repositories"), link_age * DAY);
        drop(first);
        let small = Store::open(&Settings {
            // A quarter of it is 32 records; the lock and VERSION have their blocks.
            max_size: 130 * 4096,
            ..settings(root)
        });
        let store = small.expect("a store");
        store.scan();
        store.sweep(SystemTime::now());
        let made_left = count_files(&root.join("conversions"));
        let links_left = count_files(&root.join("repositories"));
        assert_eq!((made_left, links_left), left, "{made} {links}");
        assert_eq!(store.space.records(), (left.0 + left.1) as u64);
        assert_eq!(store.space.excess_records(), 0);
        link(&store, "kept.example", 255).await;
        assert_eq!(count_files(&root.join("repositories")), left.1 + 1);
    }
}

/// Without what leads to it, what was lost is made anew; with it, it would be missed.
#[tokio::test]
async fn of_too_many_conversions_those_that_lead_to_them_go() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let store = Store::open(&Settings {
        max_size: 130 * 4096,
        ..settings(root)
    });
    let store = store.expect("a store");
    store.scan();
    let registry = Registry::new("kept.example");
    let (conversions, id) = (&store.conversions, "a".repeat(64));
    let id: ImageId = id.parse().expect("an id");
    let made = Made {
        manifest: digest(0),
        size: 1,
    };
    conversions.keep_made(&registry, &id, made).await;
    for n in 0..32 {
        let digest = digest(n);
        let kept = conversions.keep_made_of(&registry, &digest, MadeKind::Layer, &id);
        kept.await.expect("readable");
    }
    assert_eq!(store.space.excess_records(), 1);
    store.sweep(SystemTime::now());
    assert_eq!(store.space.excess_records(), 0);
    // Also from memory.
    let made = conversions.made(&registry, &id).await;
    assert_eq!(made.expect("readable"), None);
    let mut left = 0;
    for n in 0..32 {
        let known = conversions.made_of(&registry, &digest(n)).await;
        left += usize::from(known.expect("readable").is_some());
    }
    assert_eq!(left, count_files(&root.join("conversions")));
    assert!((16..32).contains(&left), "{left}");
}

/// Records of more than a block are counted whole, at the start as well, and go.
#[tokio::test]
async fn long_records_are_counted_by_their_blocks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let first = store(root);
    let registry = Registry::new("hub.example");
    let id = |n: u64| format!("0{n:063x}").parse::<ImageId>().expect("an id");
    for (ids, blocks) in [(60, 1), (62, 2), (300, 5)] {
        let ids: Vec<ImageId> = (0..ids).map(id).collect();
        let (images, repository) = (&first.images, repository());
        let linked = images.link(&registry, &repository, &ids).await;
        linked.expect("writable");
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

#[test]
fn damaged_files_stay_a_week_unless_the_room_is_needed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    for n in [1, 2] {
        store.blobs.keep(&digest(n), &[n]).expect("room");
        store.blobs.quarantine(&digest(n));
    }
    assert_eq!((store.quarantined().len(), store.space.used()), (2, 8192));
    store.sweep(SystemTime::now() + 6 * DAY);
    assert_eq!(store.quarantined().len(), 2);
    store.sweep(SystemTime::now() + 8 * DAY);
    assert_eq!((store.quarantined().len(), store.space.used()), (0, 0));
}

/// What the disk does not let go still takes its room, and is tried again.
#[test]
fn damaged_files_that_cannot_be_removed_still_count() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store(folder.path());
    store.blobs.keep(&digest(1), &[1]).expect("room");
    store.blobs.quarantine(&digest(1));
    let used = store.space.used();
    assert_eq!(used, 4096);
    // A folder is no file to be removed.
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
