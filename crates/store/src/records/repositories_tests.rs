use super::*;
use crate::{ManifestKey, ManifestLink, PublicKey, PublicLink, Reach, Store};

fn named(found: &[KnownRepository]) -> Vec<(&str, bool)> {
    let named = found.iter();
    named
        .map(|known| (known.repository.as_str(), known.public))
        .collect()
}

#[test]
fn repositories_are_the_folders_with_manifests() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("registry.local%3A5000");
    assert_eq!(walk(&root).expect("readable"), []);
    for (folder, file) in [
        ("app/_manifests", "sha256-x"),
        ("team/app/_manifests", "sha256-x"),
        ("team/app/sub/_manifests", "sha256-x"),
        ("team/app", "_public"),
        // Its folder was removed.
        ("team/gone/_manifests", ""),
        ("team/blobs/_blobs", "sha256-x"),
        ("_manifests", "sha256-x"),
    ] {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder).expect("writable");
        if !file.is_empty() {
            std::fs::write(folder.join(file), b"{}").expect("writable");
        }
    }
    let found = walk(&root).expect("readable");
    let expected = [("app", false), ("team/app", true), ("team/app/sub", false)];
    assert_eq!(named(&found), expected);
}

#[tokio::test]
async fn a_change_is_seen_by_the_next_list() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(&crate::Settings::at(dir.path()), &[]).expect("a store");
    store.scan();
    let (records, registry) = (&store.records, Registry::new("up.example"));
    let manifest = |name: &'static str, n: u8| {
        let digest = oci::digest::Digest::of(oci::digest::Algorithm::Sha256, &[n]);
        let link = ManifestLink {
            media_type: "x".into(),
            size: 1,
            checked_at: 0,
            subject: None,
            stored: None,
        };
        let name = RepositoryName::new(&registry, &name.parse().expect("a name"));
        async move {
            let key = ManifestKey::new(&name, &digest);
            records.answer(&records.ask(&key), link, Reach::Local).await;
        }
    };
    let found = || async { records.repositories(&registry).await.expect("readable") };
    assert_eq!(named(&found().await), []);
    manifest("team/app", 1).await;
    let first = found().await;
    assert_eq!(named(&first), [("team/app", false)]);
    manifest("team/app", 2).await;
    assert!(Arc::ptr_eq(&first, &found().await), "nothing new");
    manifest("base/app", 3).await;
    assert_eq!(
        named(&found().await),
        [("base/app", false), ("team/app", false)]
    );
    let app = RepositoryName::new(&registry, &"team/app".parse().expect("a name"));
    let key = PublicKey::new(&app);
    let link = PublicLink { checked_at: 0 };
    records
        .answer(&records.ask(&key), link, Reach::Shared)
        .await;
    assert_eq!(
        named(&found().await),
        [("base/app", false), ("team/app", true)]
    );
    records.answer_absent(&records.ask(&key)).await;
    assert_eq!(
        named(&found().await),
        [("base/app", false), ("team/app", false)]
    );
}

#[test]
fn repositories_with_blobs_are_the_folders_with_blobs() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(&crate::Settings::at(dir.path()), &[]).expect("a store");
    let root = dir.path().join("repositories/up.example");
    for folder in ["team/blobs/_blobs", "team/app/_manifests"] {
        std::fs::create_dir_all(root.join(folder)).expect("writable");
    }
    let found = store
        .records
        .repositories_with_blobs(&Registry::new("up.example"));
    assert_eq!(
        found.expect("readable"),
        ["team/blobs".parse().expect("a name")]
    );
}
