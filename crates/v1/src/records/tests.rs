//! What a purge removes of the v1 API's records: on disk, from memory, and no more.

use std::path::Path;

use super::*;
use oci::digest::Algorithm;
use oci::name::{NameScope, Registry};
use oci::v1::{Endpoint, ImageId, Part, Resource};
use oci::v1_to_v2::ConvertedLayer;
use store::{Settings, Store};

/// A scanned store with the records of the v1 API.
pub fn store_in(root: &Path) -> Store {
    let store = Store::open(&Settings::at(root), &[RECORDS]).expect("a store");
    store.scan();
    store
}

fn digest_of(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

fn id(digit: &str) -> ImageId {
    digit.repeat(64).parse().expect("an id")
}

fn old() -> Registry {
    Registry::new("old")
}

fn in_old(repository: &str) -> RepositoryName {
    RepositoryName::new(&old(), &repository.parse().expect("a name"))
}

fn named(name: &str, resource: Resource) -> Endpoint {
    Endpoint::Named {
        repository: name.parse().expect("a name"),
        resource,
    }
}

fn layer_of(digit: &str) -> Endpoint {
    Endpoint::Image {
        id: id(digit),
        part: Part::Layer,
    }
}

fn tag(name: &str, tag: &str) -> Endpoint {
    named(name, Resource::Tag(tag.parse().expect("a tag")))
}

/// The pointers: registry, request target and body.
fn pointers() -> Vec<(&'static str, Endpoint, &'static str)> {
    vec![
        ("old", layer_of("a"), "layer a"),
        ("old", layer_of("b"), "layer b"),
        ("old", tag("app", "1"), "app 1"),
        ("old", tag("app", "2"), "app 2"),
        ("old", named("app", Resource::Tags), "{\"1\": \"a\"}"),
        // Another repository, whose name has the first as a prefix.
        ("old", tag("app/sub", "1"), "sub 1"),
        ("other", layer_of("a"), "layer a"),
        ("other", tag("app", "1"), "other 1"),
    ]
}

async fn filled(root: &Path) -> Store {
    let store = store_in(root);
    for (registry, what, bytes) in pointers() {
        let registry = Registry::new(registry);
        let digest = digest_of(bytes);
        store.blobs.put(&digest, bytes.as_bytes()).expect("room");
        let body = BodyPointer {
            digest,
            size: bytes.len() as u64,
            checked_at: 0,
            layer_size: None,
            checksum: None,
        };
        let bodies = BodyRecords::of(&store);
        bodies.store(&bodies.ask(&registry, &what), body).await;
    }
    let registry = old();
    for (name, ids) in [("app", ["a", "b"]), ("app/sub", ["b", "c"])] {
        let ids = ids.map(id);
        let images = ImageRecords::of(&store);
        let linked = images.link(&in_old(name), &ids).await;
        linked.expect("writable");
    }
    let scopes: [(NameScope, &str); 3] = [
        ((&registry).into(), "app"),
        ((&in_old("app")).into(), "app"),
        ((&in_old("app/sub")).into(), "app/sub"),
    ];
    for (scope, repository) in scopes {
        let image = V1ImageRecord {
            repository: repository.to_owned(),
            manifest: digest_of("manifest"),
            os: "linux".into(),
            architecture: "arm64".into(),
            position: None,
        };
        let images = V1ImageRecords::of(&store);
        images.store_image(scope, &id("d"), image).await;
    }
    let derived = b"derived";
    let digest = digest_of("derived");
    store.blobs.put(&digest, derived).expect("room");
    let layer = PreparedLayer::Derived { digest, size: 7 };
    let images = V1ImageRecords::of(&store);
    images
        .store_layer(&registry, &digest_of("key"), layer)
        .await;

    let image = SourceImage {
        parent: None,
        json: "{}".into(),
        layer: ConvertedLayer {
            digest: digest_of("converted"),
            size: 9,
            diff_id: digest_of("plain"),
            is_empty: false,
        },
    };
    let digest = digest_of("converted");
    store.blobs.put(&digest, b"converted").expect("room");
    let conversions = ConvertedRecords::of(&store);
    conversions.store_image(&registry, &id("a"), &image).await;
    conversions
        .add_origin(&registry, &digest, ConvertedKind::Layer, &id("a"))
        .await
        .expect("readable");
    let manifest = digest_of("manifest");
    let made = ConvertedManifest { manifest, size: 1 };
    conversions.store_manifest(&registry, &id("a"), made).await;
    store
}

/// The records that remain, in memory or on disk, and the blobs that remain.
async fn known(store: &Store) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (registry, what, bytes) in pointers() {
        let registry = Registry::new(registry);
        let found = BodyRecords::of(store).open(&registry, &what).await;
        if found.expect("readable").is_some() {
            known.insert(format!("{registry} {bytes}"));
        }
    }
    let registry = old();
    for (name, digit) in [
        ("app", "a"),
        ("app", "b"),
        ("app/sub", "b"),
        ("app/sub", "c"),
    ] {
        let images = ImageRecords::of(store);
        let linked = images.is_linked(&in_old(name), &id(digit)).await;
        if linked.expect("readable") {
            known.insert(format!("{name} has {digit}"));
        }
    }
    let scopes: [(&str, NameScope); 3] = [
        ("", (&registry).into()),
        ("app", (&in_old("app")).into()),
        ("app/sub", (&in_old("app/sub")).into()),
    ];
    for (name, scope) in scopes {
        let image = V1ImageRecords::of(store).image(scope, &id("d")).await;
        if image.expect("readable").is_some() {
            known.insert(format!("{name} bridged"));
        }
    }
    let images = V1ImageRecords::of(store);
    let layer = images.layer(&registry, &digest_of("key")).await;
    if layer.expect("readable").is_some() {
        known.insert("prepared layer".into());
    }
    let conversions = ConvertedRecords::of(store);
    let image = conversions.image(&registry, &id("a")).await;
    let made = conversions.manifest(&registry, &id("a")).await;
    let of = conversions
        .origin_of(&registry, &digest_of("converted"))
        .await;
    let found = [
        image.expect("readable").is_some(),
        made.expect("readable").is_some(),
        of.expect("readable").is_some(),
    ];
    assert!(found == [true; 3] || found == [false; 3], "{found:?}");
    if found[0] {
        known.insert("conversion".into());
    }
    let mut contents: BTreeSet<&str> = pointers().iter().map(|(.., bytes)| *bytes).collect();
    contents.extend(["derived", "converted"]);
    for bytes in contents {
        let open = store.blobs.open(&digest_of(bytes), None);
        if open.expect("readable").is_some() {
            known.insert(format!("bytes of {bytes}"));
        }
    }
    known
}

#[tokio::test]
async fn a_purge_removes_records_of_the_v1_api() {
    let to_tag = |name: &str| PurgeTarget::Tag(in_old("app"), name.parse().expect("a tag"));
    let of_old: &[&str] = &[
        "old layer a",
        "old layer b",
        "old app 1",
        "old app 2",
        "old {\"1\": \"a\"}",
        "old sub 1",
        "app has a",
        "app has b",
        "app/sub has b",
        "app/sub has c",
        " bridged",
        "app bridged",
        "app/sub bridged",
        "prepared layer",
        "conversion",
        "bytes of layer b",
        "bytes of app 1",
        "bytes of app 2",
        "bytes of {\"1\": \"a\"}",
        "bytes of sub 1",
        "bytes of derived",
        "bytes of converted",
    ];
    // What is purged, and how many tags and other records the plan reports.
    let cases: Vec<(PurgeTarget, &[&str], (usize, usize))> = vec![
        (PurgeTarget::Registry(old()), of_old, (3, 15)),
        (
            PurgeTarget::Repository(in_old("app")),
            &[
                // Layer b is also linked to another repository.
                "old layer a",
                "old app 1",
                "old app 2",
                "old {\"1\": \"a\"}",
                "app has a",
                "app has b",
                " bridged",
                "app bridged",
                "bytes of app 1",
                "bytes of app 2",
                "bytes of {\"1\": \"a\"}",
            ],
            (2, 6),
        ),
        (
            to_tag("1"),
            &[
                "old app 1",
                "old {\"1\": \"a\"}",
                "bytes of app 1",
                "bytes of {\"1\": \"a\"}",
            ],
            (1, 1),
        ),
        // The list does not name it.
        (to_tag("2"), &["old app 2", "bytes of app 2"], (1, 0)),
        (to_tag("tags"), &[], (0, 0)),
        (
            PurgeTarget::Content(in_old("app"), digest_of("app 2")),
            &["old app 2", "bytes of app 2"],
            (1, 0),
        ),
        (
            PurgeTarget::Everywhere(digest_of("layer a")),
            &["old layer a", "other layer a", "bytes of layer a"],
            (0, 2),
        ),
        (
            PurgeTarget::Everywhere(digest_of("derived")),
            &["prepared layer", "bytes of derived"],
            (0, 1),
        ),
    ];
    for (target, purged, reported) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = filled(folder.path()).await;
        let before = known(&store).await;
        let purge = store.plan(&target);
        assert_eq!(
            (purge.tags.len(), purge.others.len()),
            reported,
            "{purge:?}"
        );
        assert_eq!(known(&store).await, before, "a plan changes nothing");
        store.purge(&purge).expect("removed");
        let after = known(&store).await;
        let gone: BTreeSet<&str> = before.difference(&after).map(String::as_str).collect();
        assert_eq!(gone, purged.iter().copied().collect(), "{target:?}");
        let (records, used) = (store.space.records(), store.space.used());
        drop(store);
        // Purged on disk as well, and counted.
        let store = store_in(folder.path());
        assert_eq!(known(&store).await, after, "{target:?}");
        assert_eq!((store.space.records(), store.space.used()), (records, used));
        assert!(store.plan(&target).others.is_empty(), "{target:?}");
    }
}
