//! Images that only the v1 side of a registry has, for v2 clients: the conversion, its time limits, its state after
//! evictions and outages, and the rights that apply.

mod converted;
mod lists;
mod real;
mod rebuild;
mod rights;
mod slow;
mod tree;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use testkit::gateway::Gateway;
use testkit::gzip;
use testkit::http::{Raw, Reply};
use testkit::image::{random, tar};
use testkit::origin::Origin;
use testkit::v1::V1Registry;

pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Both sides of one registry, and the gateway in front of them. Every pull revalidates on both.
pub struct Scene {
    pub v1: V1Registry,
    pub v2: Origin,
    pub gateway: Gateway,
}

impl Scene {
    pub fn start() -> Self {
        Self::with("tag_ttl: 0s, missing_ttl: 0s")
    }

    /// A scene with these keys of the registry.
    pub fn with(keys: &str) -> Self {
        let (v1, v2) = (V1Registry::start(), Origin::start());
        let gateway = Gateway::start(&configuration(&v1.url(), &v2.url(), keys));
        Self { v1, v2, gateway }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path)
    }

    pub fn ask(&self, method: &str, path: &str) -> Reply {
        let accept = format!("{DOCKER_MANIFEST}, application/vnd.oci.image.index.v1+json");
        Raw::connect(self.gateway.url(1), None).exchange(method, path, &[("Accept", &accept)])
    }
}

pub fn configuration(v1: &str, v2: &str, keys: &str) -> String {
    format!("registries: [{{name: hosted, v1: \"{v1}\", v2: \"{v2}\", {keys}}}]\n")
}

/// An image as Docker 1.x pushed it: a base, a command without changes, and a layer on top.
pub fn push(v1: &V1Registry, name: &str, tag: &str, seed: u64) -> Vec<String> {
    let layers = layers(seed);
    let images: Vec<(Value, &[u8])> = descriptions()
        .into_iter()
        .zip(layers.iter().map(Vec::as_slice))
        .collect();
    v1.put_image(name, tag, &images)
}

/// Layers of such an image: gzip, nothing, and an uncompressed archive.
pub fn layers(seed: u64) -> [Vec<u8>; 3] {
    let base = tar(&[("etc/", b""), ("etc/base", &random(seed, 90_000))]);
    let data = tar(&[("data/", b""), ("data/payload", &random(seed + 1, 50_000))]);
    [gzip(&base), vec![0; 1024], data]
}

pub fn descriptions() -> Vec<Value> {
    let made = |second: u32, command: &str| {
        json!({
            "created": format!("2014-10-01T20:46:{second:02}.5Z"),
            "docker_version": "1.2.0",
            "architecture": "amd64",
            "os": "linux",
            "container_config": {"Cmd": ["/bin/sh", "-c", command]},
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/run"]},
            "Size": 1,
        })
    };
    vec![
        made(1, "#(nop) ADD file:1 in /"),
        made(2, "#(nop) CMD [/run]"),
        made(3, "make data"),
    ]
}

/// The digests of a manifest's layers and of its configuration.
pub fn blobs(manifest: &Reply) -> (Vec<String>, String) {
    let json: Value = serde_json::from_slice(&manifest.body).expect("JSON");
    let digest = |it: &Value| it["digest"].as_str().expect("a digest").to_owned();
    let layers = json["layers"].as_array().expect("layers");
    (layers.iter().map(digest).collect(), digest(&json["config"]))
}

/// The path of a blob on disk.
pub fn stored(gateway: &Gateway, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").expect("sha256");
    let folder: PathBuf = gateway.store().join("blobs/sha256").join(&hex[..2]);
    folder.join(hex)
}

pub fn exists(path: &Path) -> bool {
    path.try_exists().expect("the disk says so")
}
