//! Folders of docker-registry 2.8.2, hosting and as a pull-through cache.

use super::{get, import, run};
use testkit::gateway::Gateway;
use testkit::image::{Layout, Made};
use testkit::real::{Client, Registry, Skopeo, found};
use testkit::{sha256, until};

/// An image of `payload` bytes and an index of two, pushed as `library/small:1` and `library/multi:1`.
pub fn push(registry: &Registry) -> Option<(Made, Made)> {
    let mut layout = Layout::new();
    let small = layout.add_image("small", 1, 400_000);
    let multi = layout.add_index("multi", 2, 300_000);
    found(registry.push(&layout, &small, "library/small:1"))?;
    found(registry.push(&layout, &multi, "library/multi:1"))?;
    Some((small, multi))
}

fn configuration(v2: &str) -> String {
    format!("registries: [{{name: hosted, v2: \"{v2}\"}}]\n")
}

/// Pulls everything of an image, while its registry is gone.
#[track_caller]
pub fn check(gateway: &Gateway, name: &str, made: &Made) {
    let manifest = get(gateway, &format!("/v2/{name}/manifests/1"));
    assert_eq!(
        (manifest.status(), sha256(&manifest.body)),
        (200, made.digest.clone())
    );
    for digest in &made.content {
        let blob = get(gateway, &format!("/v2/{name}/blobs/{digest}"));
        let blob = match blob.status() {
            200 => blob,
            _ => get(gateway, &format!("/v2/{name}/manifests/{digest}")),
        };
        assert_eq!((blob.status(), sha256(&blob.body)), (200, digest.clone()));
    }
}

#[test]
fn hosting_registry_is_imported_and_served_without_it() {
    let Some(mut registry) = found(Registry::start()) else {
        return;
    };
    let Some((small, multi)) = push(&registry) else {
        return;
    };
    let mut gateway = Gateway::start(&configuration(&registry.url()));
    let running = import(&gateway, &registry.storage());
    assert_eq!((running.code, &*running.out), (Some(69), ""), "{running:?}");
    assert!(running.err.contains("stop the gateway"), "{running:?}");
    gateway.terminate();

    let first = import(&gateway, &registry.storage());
    assert_eq!(first.code, Some(0), "{first:?}");
    assert_eq!(first.line("repositories"), "2");
    assert!(
        first.line("imported").starts_with("2 tags, 4 manifests, "),
        "{first:?}"
    );
    assert!(
        first.line("imported").contains("by hard links"),
        "{first:?}"
    );
    assert_eq!(
        (first.line("already there"), first.line("left out")),
        ("nothing", "nothing")
    );
    assert!(first.err.contains("100 %"), "{first:?}");
    let again = import(&gateway, &registry.storage());
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(again.line("imported"), "nothing; 0 B");
    assert!(
        again
            .line("already there")
            .starts_with("2 tags, 4 manifests, "),
        "{again:?}"
    );

    registry.down();
    gateway.restart();
    check(&gateway, "library/small", &small);
    check(&gateway, "library/multi", &multi);
    let Some(mut skopeo) = found(Skopeo::new(gateway.url(0), Some(&gateway.ca_path()))) else {
        return;
    };
    let pulled = skopeo
        .pull("library/small:1")
        .expect("a pull without the registry");
    assert_eq!(pulled.digest, small.digest);
    // What was not imported is not made up.
    let other = get(&gateway, "/v2/library/small/manifests/2");
    assert_eq!(other.status(), 503, "{other:?}");
}

#[test]
fn pull_through_cache_is_imported_and_served_without_it() {
    let Some(mut registry) = found(Registry::start()) else {
        return;
    };
    let Some((small, _)) = push(&registry) else {
        return;
    };
    let Some(mut proxy) = found(Registry::mirror_of(&registry.url(), false)) else {
        return;
    };
    let Some(mut skopeo) = found(Skopeo::new(&proxy.url(), None)) else {
        return;
    };
    skopeo
        .pull("library/small:1")
        .expect("a pull through the cache");
    until("the cache writes what expires", || {
        proxy.storage().join("scheduler-state.json").exists()
    });
    let layers = "docker/registry/v2/repositories/library/small/_layers/sha256";
    until("the cache has stored every blob", || {
        let stored = std::fs::read_dir(proxy.storage().join(layers));
        stored.is_ok_and(|stored| stored.count() == 3)
    });
    let mut gateway = Gateway::start(&configuration(&registry.url()));
    gateway.terminate();
    let folder = proxy.storage();
    // It is taken as it is, with the cache still running.
    let told = import(&gateway, &folder);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(
        told.line("imported")
            .starts_with("1 tag, 1 manifest, 3 blobs"),
        "{told:?}"
    );
    registry.down();
    proxy.down();
    gateway.restart();
    check(&gateway, "library/small", &small);
}

#[test]
fn damaged_content_is_named_and_the_rest_imported() {
    let Some(mut registry) = found(Registry::start()) else {
        return;
    };
    let Some((small, multi)) = push(&registry) else {
        return;
    };
    // One byte of a layer that only one image has.
    let layer = small
        .content
        .iter()
        .find(|digest| !multi.content.contains(digest));
    let hex = &layer.expect("a layer")[7..];
    let blobs = registry.storage().join("docker/registry/v2/blobs/sha256");
    let path = blobs.join(&hex[..2]).join(hex).join("data");
    let mut bytes = std::fs::read(&path).expect("a blob");
    bytes[10] ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    let mut gateway = Gateway::start(&configuration(&registry.url()));
    gateway.terminate();
    let told = import(&gateway, &registry.storage());
    assert_eq!(told.code, Some(1), "{told:?}");
    assert_eq!(told.line("left out"), "1 damaged");
    let named = format!("damaged: repositories/library/small/_layers/sha256/{hex}: its bytes have");
    assert!(told.err.contains(&named), "{told:?}");
    // The store links to no byte of it, and the registry's own file stays.
    assert!(path.exists());
    registry.down();
    gateway.restart();
    check(&gateway, "library/multi", &multi);
    let lost = get(&gateway, &format!("/v2/library/small/blobs/sha256:{hex}"));
    assert_eq!(lost.status(), 503, "{lost:?}");
}

#[test]
fn unsuitable_folders_and_registries_are_refused() {
    let empty = testkit::temp_dir();
    let mut gateway = Gateway::start(
        "registries: [{name: hosted, v2: \"http://127.0.0.1:1\"}, \
         {name: routed, v2: \"http://127.0.0.1:1\", cache: false}]\n",
    );
    gateway.terminate();
    let folder = empty.path().display().to_string();
    std::fs::create_dir_all(empty.path().join("v1/images")).expect("writable");
    std::fs::create_dir_all(empty.path().join("v1/repositories")).expect("writable");
    let v1 = format!("{folder}/v1");
    let none = format!("{folder}/none");
    for (registry, from, folder, code, words) in [
        (
            "other",
            None,
            &folder,
            78,
            "no registry other; it has hosted, routed",
        ),
        ("routed", None, &folder, 78, "cache: false"),
        ("hosted", None, &none, 1, "No such file"),
        ("hosted", None, &folder, 1, "no storage folder"),
        ("hosted", Some("distribution"), &v1, 1, "another kind (v1)"),
        (
            "hosted",
            Some("nexus"),
            &folder,
            2,
            "distribution, proxy or v1",
        ),
    ] {
        let mut arguments = vec!["import", "--registry", registry, folder];
        arguments.extend(from.iter().flat_map(|from| ["--from", from]));
        let told = run(&gateway, &arguments);
        assert_eq!((told.code, &*told.out), (Some(code), ""), "{told:?}");
        assert!(told.err.contains(words), "{told:?}");
    }
}
