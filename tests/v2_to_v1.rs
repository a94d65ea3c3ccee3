//! v2 images pulled by v1 clients: request by request, and file by file.

pub mod image;
mod layers;
mod refusals;
mod rights;
mod tags;
mod tree;
mod unreachable;

use serde_json::Value;

use crate::v1::daemon::Daemon;
use crate::v1::versions::{BY_TAG, FALLS_BACK, OLD, Version};
use image::{Entry, GZIP, TAR, ZSTD, file, gzip, mark, push, tar, zstd};
use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::origin::Origin;
use tree::{Client, unpack};

/// A v2-only registry, whose images the gateway serves over v1.
pub fn bridged(origin: &Origin) -> Gateway {
    Gateway::start(&yaml(origin))
}

pub fn yaml(origin: &Origin) -> String {
    format!(
        "registries:\n- {{name: up.test, v2: \"{}\", bridge: true, default: true, tag_ttl: 1h}}\n",
        origin.url()
    )
}

/// Sends a request to the plain listener, as a daemon of this version.
pub fn ask(gateway: &Gateway, version: &Version, line: &str, more: &[(&str, &str)]) -> Reply {
    let (method, path) = line.split_once(' ').expect("a method");
    let mut headers = vec![("User-Agent", version.agent)];
    headers.extend(more);
    let mut connection = Raw::connect(gateway.url(1), None);
    connection.exchange(method, path, &headers)
}

pub fn json(reply: &Reply) -> Value {
    assert_eq!(reply.status(), 200, "{reply:?}");
    serde_json::from_slice(&reply.body).expect("JSON")
}

/// The image id of a tag.
pub fn top(gateway: &Gateway, name: &str, tag: &str) -> String {
    let id = json(&ask(
        gateway,
        &OLD[4],
        &format!("GET /v1/repositories/{name}/tags/{tag}"),
        &[],
    ));
    id.as_str().expect("an id").to_owned()
}

/// The ancestry of an image, from the top to the root.
pub fn ancestry(gateway: &Gateway, id: &str) -> Vec<String> {
    let ids = json(&ask(
        gateway,
        &OLD[4],
        &format!("GET /v1/images/{id}/ancestry"),
        &[],
    ));
    serde_json::from_value(ids).expect("ids")
}

/// Layers with all kinds of file changes, the last two with opaque folders.
pub fn layers() -> Vec<Vec<Entry>> {
    use Entry::{Attributed, Folder, Hardlink, Symlink};

    vec![
        vec![
            Folder("etc/"),
            file("etc/passwd", 1),
            Folder("data/"),
            file("data/one", 2),
            Folder("data/sub/"),
            file("data/sub/two", 3),
            file("data/sub/three", 4),
            Folder("data/gone/"),
            file("data/gone/four", 5),
            Symlink("link", "etc/passwd"),
            Hardlink("hard", "etc/passwd"),
            Folder("srv/"),
            file("srv/old", 6),
        ],
        vec![
            mark("data/.wh.one"),
            mark(".wh.hard"),
            Attributed("etc/with", vec![7; 3000]),
            file("data/five", 8),
            file("srv", 9),
        ],
        vec![
            Folder("data/"),
            mark("data/.wh..wh..opq"),
            Folder("data/sub/"),
            file("data/sub/two", 10),
            file("data/new", 11),
            mark(".wh.srv"),
        ],
        vec![
            // The whiteout comes after the new files.
            file("data/sub/six", 12),
            mark("data/sub/.wh..wh..opq"),
            mark("etc/.wh.passwd"),
            file("last", 13),
        ],
    ]
}

/// Each layer in a builder's compression; the third and fourth need to be rebuilt.
pub fn compressed(layers: &[Vec<Entry>]) -> Vec<(&'static str, Vec<u8>)> {
    let mut layers = layers.iter().map(|entries| tar(entries));
    let mut next = || layers.next().expect("four");
    vec![
        (GZIP, gzip(&next())),
        (ZSTD, zstd(&next())),
        (GZIP, gzip(&next())),
        (ZSTD, zstd(&next())),
    ]
}

/// These layers as a v2 client gets them through the same gateway, root first.
pub fn pull_v2(gateway: &Gateway, name: &str, layers: &[String]) -> Vec<Vec<u8>> {
    let blob = |digest: &String| {
        let mut connection = Raw::connect(gateway.url(1), None);
        let reply = connection.get(&format!("/v2/{name}/blobs/{digest}"));
        assert!(
            reply.status() == 200 && reply.is_complete(),
            "{:?}",
            reply.head
        );
        reply.body
    };
    layers.iter().map(blob).collect()
}

fn pull_v1(version: Version, gateway: &Gateway, name: &str) -> Vec<Vec<u8>> {
    let mut layers = Daemon::new(version, gateway, None)
        .pull(name, "1")
        .unwrap_or_else(|told| panic!("{} {told:?}", version.agent));
    layers.reverse();
    layers
}

#[test]
fn unpacked_layers_are_identical() {
    let mut origin = Origin::start();
    let entries = layers();
    let image = push(
        &origin,
        "team/app",
        Some("1"),
        "amd64",
        &compressed(&entries),
    );
    let mut gateway = bridged(&origin);
    // With the original layers an old client would see removed files.
    let plain: Vec<Vec<u8>> = entries.iter().map(|entries| gzip(&tar(entries))).collect();
    assert_ne!(unpack(Client::Old, &plain), unpack(Client::Modern, &plain));

    // Cold, and warm.
    let cold = pull_v1(OLD[0], &gateway, "team/app");
    let expected = unpack(
        Client::Modern,
        &pull_v2(&gateway, "team/app", &image.layers),
    );
    let paths: Vec<&String> = expected.keys().collect();
    let wanted = [
        "data",
        "data/new",
        "data/sub",
        "data/sub/six",
        "etc",
        "etc/with",
        "last",
        "link",
    ];
    assert_eq!(paths, wanted);
    assert_eq!(unpack(Client::Old, &cold), expected);
    assert_eq!(unpack(Client::Modern, &cold), expected);
    for version in OLD.into_iter().chain([FALLS_BACK]).chain(BY_TAG) {
        assert!(
            pull_v1(version, &gateway, "team/app") == cold,
            "{}",
            version.agent
        );
    }
    assert_eq!(
        origin.count("GET", "/v2/team/app/blobs/*"),
        5,
        "everything once"
    );

    // Without the upstream, also after a restart.
    origin.down();
    assert!(pull_v1(OLD[1], &gateway, "team/app") == cold);
    gateway.restart();
    for version in [OLD[0], OLD[4], BY_TAG[0]] {
        assert!(
            pull_v1(version, &gateway, "team/app") == cold,
            "{}",
            version.agent
        );
    }
}

#[test]
fn gzip_layers_are_unchanged() {
    let origin = Origin::start();
    let entries = &layers()[..2];
    let tars: Vec<Vec<u8>> = entries.iter().map(|entries| tar(entries)).collect();
    // Uncompressed layers are compressed.
    let parts = [(GZIP, gzip(&tars[0])), (TAR, tars[1].clone())];
    push(&origin, "library/app", Some("1"), "amd64", &parts);
    let yaml = format!(
        "registries:\n- {{name: docker.io, v2: \"{}\", bridge: true, default: true}}\n",
        origin.url()
    );
    let gateway = Gateway::start(&yaml);
    // With and without `library/`, as v1 clients request both in one pull, and as users may type it.
    for name in ["app", "library/app", "docker.io/app"] {
        let pulled = pull_v1(OLD[3], &gateway, name);
        assert!(
            pulled[0] == parts[0].1 && pulled[1].starts_with(&[0x1f, 0x8b]),
            "{name}"
        );
        assert_eq!(unpack(Client::Old, &pulled), unpack(Client::Modern, &tars));
    }
}
