//! Purges of cached v1 content: it is removed, reported, and fetched again.

use super::*;
use crate::admin::purge::{files, purge, sum};
use testkit::v1::V1Registry;

/// A mirror with one image of two layers, pulled, and the paths of the upstream requests.
fn pulled() -> (V1Registry, Gateway, Vec<String>) {
    let registry = V1Registry::start();
    let layers = [random(1, 90_000), random(2, 300)];
    let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let ids = registry.push_image("team/app", "1", &parts);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\"}}]\n{SOCKET}",
        registry.url()
    ));
    let of_repository =
        ["images", "tags", "tags/1"].map(|what| format!("/v1/repositories/team/app/{what}"));
    let of_images = ids
        .iter()
        .flat_map(|id| ["json", "ancestry", "layer"].map(|part| format!("/v1/images/{id}/{part}")));
    let paths: Vec<String> = of_repository.into_iter().chain(of_images).collect();
    assert_eq!(asked(&registry, &gateway, &paths), paths);
    assert_eq!(asked(&registry, &gateway, &paths), [""; 0]);
    (registry, gateway, paths)
}

/// The paths that the registry received when a client requested all of these.
#[track_caller]
fn asked(registry: &V1Registry, gateway: &Gateway, paths: &[String]) -> Vec<String> {
    registry.clear_requests();
    for path in paths {
        let reply = fetch(gateway, path);
        assert_eq!(reply.status(), 200, "{path} {reply:?}");
    }
    let asked = |path: &&String| registry.count("GET", path) > 0;
    paths.iter().filter(asked).cloned().collect()
}

#[test]
fn purge_of_a_v1_mirror() {
    let (registry, gateway, paths) = pulled();
    for target in ["old", "old/team/app"] {
        let dry = purge(&gateway, &[target, "--dry-run"]);
        // The lists, six parts of images, and the records of the images' repositories.
        let others = 2 + 6 + files_named(&gateway, "_images-");
        let said = format!("would remove 1 tag, 0 manifests, 0 blobs, {others} other records: ");
        assert!(sum(&dry).starts_with(&said), "{target}: {dry}");
        for name in ["old/team/app:1\n", "v1/old/team/app/_named/tags\n"] {
            assert!(dry.contains(name), "{name} in {dry}");
        }
        assert_eq!(asked(&registry, &gateway, &paths), [""; 0], "{target}");
        let done = purge(&gateway, &[target]);
        assert_eq!(done.replace("removed", "would remove"), dry, "{target}");
        for folder in ["v1", "blobs", "repositories"] {
            assert_eq!(files(&gateway.store().join(folder)), 0, "{target} {folder}");
        }
        assert_eq!(purge(&gateway, &[target]), "nothing matches\n");
        Metrics::of(&gateway)
            .assert(&[("roadstead_store_objects", 0), ("roadstead_store_bytes", 0)]);
        assert_eq!(asked(&registry, &gateway, &paths), paths, "{target}");
    }
}

fn files_named(gateway: &Gateway, start: &str) -> usize {
    let folder = gateway.store().join("v1/old/team/app");
    let entries = std::fs::read_dir(folder).expect("a repository").flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    named.count()
}

#[test]
fn purged_v1_tag_takes_its_list() {
    let (registry, gateway, paths) = pulled();
    let said = purge(&gateway, &["old/team/app:1"]);
    assert!(
        sum(&said).starts_with("removed 1 tag, 0 manifests, 0 blobs, 1 other record: 2 files"),
        "{said}"
    );
    let again: Vec<_> = paths
        .iter()
        .filter(|path| path.contains("/tags"))
        .cloned()
        .collect();
    assert_eq!(asked(&registry, &gateway, &paths), again);
}
