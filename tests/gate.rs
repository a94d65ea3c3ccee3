//! `registries[].gate`: what is served, and every way around it that should not lead anywhere.

mod clock;
mod companions;
mod explain;
mod limits;
mod listeners;
mod min_age;
#[cfg(feature = "v1")]
mod old_clients;
mod patterns;
mod pins;
mod platforms;
mod pushes;
mod real;
mod reload;
mod report;
mod signatures;
pub mod signer;
mod young_tags;

use std::path::PathBuf;

use serde_json::{Value, json};

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::origin::{Image, MEDIA_CONFIG, MEDIA_LAYER, MEDIA_MANIFEST, Origin};

/// A scripted docker.io, and a gateway whose tags are revalidated each time.
struct Scene {
    origin: Origin,
    gateway: Gateway,
}

impl Scene {
    /// With a gate of these keys.
    fn new(gate: &str) -> Self {
        Self::of(Origin::start(), gate, "")
    }

    fn of(origin: Origin, gate: &str, more: &str) -> Self {
        let gateway = Gateway::start(&yaml(&origin, gate, more));
        Self { origin, gateway }
    }

    /// Starts the gateway anew with another gate.
    fn restart_with(&mut self, gate: &str) {
        self.gateway.restart_with(&yaml(&self.origin, gate, ""));
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        Raw::connect(self.gateway.url(1), None).exchange(method, path, headers)
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[])
    }

    /// The status of a GET, and the rule if the gate denied it. A HEAD must have the same status.
    #[track_caller]
    fn fate(&self, path: &str) -> (u16, String) {
        let reply = self.get(path);
        let head = self.ask("HEAD", path, &[]);
        assert_eq!(head.status(), reply.status(), "{path}: {head:?}");
        (reply.status(), rule(&reply))
    }

    /// Asserts that each path is denied by a rule.
    #[track_caller]
    fn assert_denied(&self, rule: &str, paths: &[String]) {
        for path in paths {
            assert_eq!(self.fate(path), (403, rule.to_owned()), "{path}");
        }
    }

    /// Asserts that each path is served.
    #[track_caller]
    fn assert_served(&self, paths: &[String]) {
        for path in paths {
            assert_eq!(self.fate(path), (200, String::new()), "{path}");
        }
    }

    /// Pulls an image as clients do: HEAD by tag, manifest by digest, blobs.
    #[track_caller]
    fn pull(&self, image: &Image) {
        let head = self.ask("HEAD", &image.tag_path(), &[]);
        assert_eq!(head.status(), 200, "{head:?}");
        assert_eq!(digest(&head), image.digest);
        self.assert_served(&content(image));
    }

    /// The file of a record below the repository's folder of the gate.
    fn record(&self, repository: &str, name: &str) -> PathBuf {
        let folder = self.gateway.store().join("repositories/docker.io");
        folder.join(repository).join("_gate").join(name)
    }
}

fn yaml(origin: &Origin, gate: &str, more: &str) -> String {
    let gate = if gate.is_empty() {
        String::new()
    } else {
        format!(", gate: {{{gate}}}")
    };
    format!(
        "registries: [{{name: docker.io, v2: \"{}\", tag_ttl: 0s, missing_ttl: 0s{gate}}}]\n\
         admin: {{address: \"unix:admin.sock\", metrics: \"127.0.0.1:0\"}}\n{more}",
        origin.url()
    )
}

/// The rule that a 403 names; empty for any other answer.
fn rule(reply: &Reply) -> String {
    if reply.status() != 403 {
        return String::new();
    }
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    let error = &body["errors"][0];
    assert_eq!(error["code"], "DENIED", "{reply:?}");
    let rule = error["detail"]["rule"].as_str().unwrap_or_default();
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(&format!("gate rule {rule}:")), "{message}");
    rule.to_owned()
}

fn digest(reply: &Reply) -> &str {
    reply.header("docker-content-digest").expect("a digest")
}

/// The paths of an image by its digests.
fn content(image: &Image) -> Vec<String> {
    let blobs = (0..image.blobs.len()).map(|index| image.blob_path(index));
    std::iter::once(image.digest_path()).chain(blobs).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Pushes an image whose configuration names a platform.
fn push_for(origin: &Origin, repository: &str, tag: &str, platform: &str, seed: u64) -> Image {
    let (os, architecture) = platform.split_once('/').expect("a platform");
    let config = json!({"os": os, "architecture": architecture, "seed": seed});
    let layer = testkit::image::random(seed, 1000);
    push_of(
        origin,
        repository,
        tag,
        (MEDIA_CONFIG, config.to_string()),
        (MEDIA_LAYER, layer),
    )
}

/// Pushes a manifest of one configuration and one layer, each with its type.
fn push_of(
    origin: &Origin,
    repository: &str,
    tag: &str,
    (config_type, config): (&str, String),
    (layer_type, layer): (&str, Vec<u8>),
) -> Image {
    let blobs = [config.into_bytes(), layer];
    let blobs = blobs.map(|bytes| (origin.push_blob(repository, bytes.clone()), bytes.into()));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": descriptor(config_type, &blobs[0]),
        "layers": [descriptor(layer_type, &blobs[1])],
    });
    push_json(
        origin,
        repository,
        tag,
        MEDIA_MANIFEST,
        &manifest,
        blobs.to_vec(),
    )
}

fn push_json(
    origin: &Origin,
    repository: &str,
    tag: &str,
    media_type: &str,
    manifest: &Value,
    blobs: Vec<(String, bytes::Bytes)>,
) -> Image {
    let manifest = bytes::Bytes::from(manifest.to_string());
    let name = Some(tag).filter(|tag| !tag.is_empty());
    let digest = origin.push_manifest(repository, name, media_type, manifest.clone());
    Image {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest,
        media_type: media_type.to_owned(),
        manifest,
        blobs,
    }
}

fn descriptor(media_type: &str, (digest, bytes): &(String, bytes::Bytes)) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}
