//! The folder of docker-registry 0.9.1.

use serde_json::{Value, json};

use super::{get, import};
use crate::v1::daemon::Daemon;
use crate::v1::versions::OLD;
use testkit::gateway::Gateway;
use testkit::image::{random, tar};
use testkit::real::{Client, DockerRegistry, Registry, Skopeo, found, found_perhaps};
use testkit::{gzip, sha256};

/// Two layers, as Docker 1.x packed them.
pub fn layers(seed: u64) -> [Vec<u8>; 2] {
    let base = tar(&[("etc/", b""), ("etc/base", &random(seed, 60_000))]);
    let data = tar(&[("data/", b""), ("data/payload", &random(seed + 1, 30_000))]);
    [gzip(&base), gzip(&data)]
}

pub fn description(second: u64) -> Value {
    json!({
        "created": format!("2014-10-01T20:46:{:02}.5Z", second % 60),
        "docker_version": "1.2.0",
        "architecture": "amd64",
        "os": "linux",
        "container_config": {"Cmd": ["/bin/sh", "-c", "make"]},
        "config": {"Cmd": ["/run"]},
    })
}

pub fn push(registry: &DockerRegistry, name: &str, tag: &str, seed: u64) -> [Vec<u8>; 2] {
    let layers = layers(seed);
    let images: Vec<(Value, &[u8])> = layers
        .iter()
        .enumerate()
        .map(|(number, layer)| (description(seed + number as u64), &layer[..]))
        .collect();
    registry.push(name, tag, &images);
    layers
}

#[test]
fn folder_is_imported_for_v1_clients() {
    let Some(mut registry) = found_perhaps(DockerRegistry::start()) else {
        return;
    };
    let layers = push(&registry, "team/app", "1", 1);
    push(&registry, "library/base", "latest", 11);
    let mut gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v1: \"{}\"}}]\n",
        registry.url()
    ));
    gateway.terminate();
    registry.down();
    let told = import(&gateway, &registry.storage());
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(
        told.line("imported").starts_with("2 tags, 4 images; "),
        "{told:?}"
    );
    let again = import(&gateway, &registry.storage());
    assert_eq!(again.line("imported"), "nothing; 0 B", "{again:?}");
    assert_eq!(again.line("already there"), "2 tags, 4 images");
    gateway.restart();
    let whole = Ok(layers.into_iter().rev().collect());
    for version in [OLD[0], OLD[4]] {
        let pulled = Daemon::new(version, &gateway, None).pull("team/app", "1");
        assert!(pulled == whole, "{} {:?}", version.agent, pulled.err());
        let base = Daemon::new(version, &gateway, None).pull("base", "latest");
        assert!(base.is_ok(), "{} {:?}", version.agent, base.err());
    }
}

#[test]
fn folder_is_imported_for_v2_clients() {
    let Some(mut registry) = found_perhaps(DockerRegistry::start()) else {
        return;
    };
    let Some(mut v2) = found(Registry::start()) else {
        return;
    };
    let layers = push(&registry, "team/app", "1", 1);
    let yaml = format!(
        "registries: [{{name: hosted, v1: \"{}\", v2: \"{}\"}}]\n",
        registry.url(),
        v2.url()
    );
    // What the bridge shows while both are there.
    let asked = Gateway::start(&yaml);
    let shown = get(&asked, "/v2/team/app/manifests/1");
    assert_eq!(shown.status(), 200, "{shown:?}");
    drop(asked);

    let mut gateway = Gateway::start(&yaml);
    gateway.terminate();
    registry.down();
    let told = import(&gateway, &registry.storage());
    assert_eq!(told.code, Some(0), "{told:?}");
    v2.down();
    gateway.restart();
    let imported = get(&gateway, "/v2/team/app/manifests/1");
    assert_eq!(imported.status(), 200, "{imported:?}");
    assert!(imported.body == shown.body);
    let Some(mut skopeo) = found(Skopeo::new(gateway.url(0), Some(&gateway.ca_path()))) else {
        return;
    };
    let pulled = skopeo
        .pull("team/app:1")
        .expect("a pull without both registries");
    assert_eq!(pulled.digest, sha256(&shown.body));
    assert!(skopeo.layers() == layers);
}

#[test]
fn damaged_images_are_named_and_the_rest_imported() {
    let Some(mut registry) = found_perhaps(DockerRegistry::start()) else {
        return;
    };
    let good = push(&registry, "team/good", "1", 1);
    push(&registry, "team/bad", "1", 21);
    push(&registry, "team/cut", "1", 41);
    push(&registry, "team/begun", "1", 61);
    registry.down();
    let folder = registry.storage();
    let top = |name: &str| {
        let tag = folder.join(format!("repositories/team/{name}/tag_1"));
        std::fs::read_to_string(tag).expect("a tag")
    };
    let image = |name: &str| folder.join("images").join(top(name));
    // A byte of one that has a checksum; the end of one that has none, as docker-registry's own mirror left it.
    let layer = image("bad").join("layer");
    let mut bytes = std::fs::read(&layer).expect("a layer");
    bytes[20] ^= 1;
    std::fs::write(&layer, bytes).expect("writable");
    std::fs::remove_file(image("cut").join("_checksum")).expect("a checksum");
    let layer = image("cut").join("layer");
    let bytes = std::fs::read(&layer).expect("a layer");
    std::fs::write(&layer, &bytes[..bytes.len() / 2]).expect("writable");
    std::fs::write(image("begun").join("_inprogress"), "").expect("writable");
    let outside = testkit::temp_dir();
    std::os::unix::fs::symlink(outside.path(), folder.join("images").join("f".repeat(64)))
        .expect("writable");

    let mut gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v1: \"{0}\", v2: \"{0}\"}}]\n",
        registry.url()
    ));
    gateway.terminate();
    let told = import(&gateway, &folder);
    assert_eq!(told.code, Some(1), "{told:?}");
    for (path, words) in [
        (
            format!("damaged: images/{}", top("bad")),
            "have the checksum",
        ),
        (
            format!("damaged: images/{}", top("cut")),
            "does not decompress to its end",
        ),
        (
            format!("skipped: images/{}", top("begun")),
            "its upload did not end",
        ),
        (
            format!("skipped: images/{}", "f".repeat(64)),
            "symbolic link",
        ),
        (
            "skipped: repositories/team/bad/tag_1".into(),
            "cannot be converted",
        ),
    ] {
        let named = told.err.lines().find(|line| line.starts_with(&path));
        let named = named.unwrap_or_else(|| panic!("{path}: {told:?}"));
        assert!(named.contains(words), "{named}");
    }
    assert_eq!(told.line("left out"), "2 damaged, 5 skipped");
    gateway.restart();
    let shown = get(&gateway, "/v2/team/good/manifests/1");
    assert_eq!(shown.status(), 200, "{shown:?}");
    for layer in good {
        let path = format!("/v2/team/good/blobs/{}", sha256(&layer));
        assert!(get(&gateway, &path).body == layer);
    }
}
