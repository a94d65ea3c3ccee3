//! The view of Docker 1.6 to 1.9: docker-registry converts Docker's schema 2 into a signed schema 1 for clients of
//! nothing newer, and the gateway serves its answer.
//!
//! Such a manifest's digest is that of its payload, without the signatures, which differ each time
//! (distribution 2.8, "Image Manifest Version 2, Schema 1").

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::image::Layout;
use testkit::real::{Missing, Registry, found};
use testkit::{http, sha256};

const TAG: &str = "/v2/library/old/manifests/1";
const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const SCHEMA2: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_1_6: &str = "docker/1.6.2 go/go1.4.1 kernel/3.16 os/linux arch/amd64";

/// A registry that supports schema 1, with `library/old:1` in Docker's format; returns the blobs' digests.
fn filled() -> Result<(Registry, Vec<String>), Missing> {
    let registry = Registry::start_with(json!({"compatibility": {"schema1": {"enabled": true}}}))?;
    let mut layout = Layout::new();
    let made = layout.add_image("old", 16, 100_000);
    registry.push_as_docker(&layout, &made, "library/old:1")?;
    Ok((registry, made.content))
}

/// The signed bytes of a schema 1 manifest: the part before the signatures, and the tail they hold.
#[track_caller]
fn payload(manifest: &[u8]) -> Vec<u8> {
    let decode = |text: &Value| {
        let text = text.as_str().expect("a text");
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    };
    let parsed: Value = serde_json::from_slice(manifest).expect("JSON");
    assert_eq!(parsed["schemaVersion"], 1);
    let protected = decode(&parsed["signatures"][0]["protected"]);
    let protected: Value = serde_json::from_slice(&protected).expect("JSON");
    let length = protected["formatLength"].as_u64().expect("a length");
    let length = usize::try_from(length).expect("in memory");
    [&manifest[..length], &decode(&protected["formatTail"])].concat()
}

/// Checks that a response is the signed manifest with `digest`.
#[track_caller]
fn check(reply: &Reply, digest: &str) {
    assert_eq!(reply.status(), 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some(SIGNED), "{reply:?}");
    assert_eq!(reply.header("docker-content-digest"), Some(digest));
    assert_eq!(sha256(&payload(&reply.body)), digest);
}

#[test]
fn old_client_gets_the_signed_schema_1() {
    let Some((registry, content)) = found(filled()) else {
        return;
    };
    let direct = http::get(&registry.url(), None, TAG);
    let digest = direct.header("docker-content-digest").expect("a digest");
    check(&direct, digest);
    let again = http::get(&registry.url(), None, TAG);
    check(&again, digest);
    assert!(again.body != direct.body, "it signs anew each time");
    for headers in [
        [("Accept", SIGNED)].as_slice(),
        &[("User-Agent", DOCKER_1_6)],
        &[("User-Agent", DOCKER_1_6), ("Accept", SIGNED)],
    ] {
        let gateway = Gateway::mirror("docker.io", &registry.url(), "");
        let ca = gateway.ca_path();
        let ask = |headers: &[(&str, &str)]| {
            Raw::connect(gateway.url(0), Some(&ca)).exchange("GET", TAG, headers)
        };
        let first = ask(headers);
        check(&first, digest);
        let second = ask(headers);
        check(&second, digest);
        assert!(second.body == first.body, "{headers:?}");
        let status = second.header("cache-status").expect("a status");
        assert!(
            status.starts_with("roadstead; hit"),
            "{headers:?}: {status}"
        );

        // A modern client gets another manifest by the same tag.
        let modern = ask(&[("Accept", SCHEMA2)]);
        assert_eq!(modern.status(), 200, "{modern:?}");
        assert_eq!(modern.header("content-type"), Some(SCHEMA2));
        let modern_digest = modern.header("docker-content-digest").expect("a digest");
        assert_eq!(modern_digest, sha256(&modern.body));
        assert_ne!(modern_digest, digest);
        check(&ask(headers), digest);

        // The layers are the same for both.
        let old: Value = serde_json::from_slice(&first.body).expect("JSON");
        let layers = old["fsLayers"].as_array().expect("layers");
        assert_eq!(layers.len(), 2);
        for layer in layers {
            let layer = layer["blobSum"].as_str().expect("a digest");
            assert!(content.iter().any(|known| known == layer), "{layer}");
            let path = format!("/v2/library/old/blobs/{layer}");
            let blob = http::get(gateway.url(0), Some(&ca), &path);
            assert_eq!((blob.status(), &*sha256(&blob.body)), (200, layer));
        }
    }
}
