//! A registry that limits pulls or hangs, and pushers who make the gate read more than it should.

use std::time::{Duration, Instant};

use super::signer::Signer;
use super::*;
use testkit::image::random;
use testkit::origin::Fault;

#[test]
fn limited_registry_takes_no_signed_tag_away() {
    let signer = Signer::new();
    let scene = Scene::new(&signer.gate());
    let push = |seed| {
        scene
            .origin
            .push_image("library/app", "latest", &[random(seed, 1000)])
    };
    let old = push(1);
    signer.sign(&scene.origin, &old);
    scene.pull(&old);
    let new = push(2);
    let signature = signer.sign(&scene.origin, &new);
    // The new manifest can be fetched, and its signature cannot.
    let limited = Fault::status_with(429, "Retry-After", "1").on("GET", &signature.digest_path());
    let limited = scene.origin.fault(limited);
    let reply = scene.get(&new.tag_path());
    assert_eq!(
        (reply.status(), digest(&reply)),
        (200, &*old.digest),
        "{reply:?}"
    );
    let warning = reply.header("warning").expect("a warning");
    assert!(warning.contains("stale"), "{warning}");
    assert!(scene.origin.applied(limited) > 0);
    scene.origin.heal(limited);
    testkit::until("the tag to follow", || {
        digest(&scene.get(&new.tag_path())) == new.digest
    });
    scene.pull(&new);
    // One that is not signed is not waited for.
    let unsigned = push(3);
    scene.assert_denied("signed_by", &[unsigned.tag_path()]);
    scene.assert_denied("signed_by", &content(&unsigned));
}

#[test]
fn signature_that_hangs_is_an_error_within_ten_seconds() {
    let signer = Signer::new();
    let scene = Scene::new(&signer.gate());
    let image = scene
        .origin
        .push_image("library/app", "1", &[random(1, 1000)]);
    signer.sign(&scene.origin, &image);
    for pattern in ["*.sig", "*/referrers/*"] {
        scene.origin.fault(Fault::Stall.on("*", pattern));
    }
    let started = Instant::now();
    let reply = scene.get(&image.tag_path());
    assert_eq!(reply.error_code().as_deref(), Some("UNAVAILABLE"));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(reply.header("retry-after").is_some(), "{reply:?}");
    scene.assert_denied("signed_by", &[image.layer_path(0)]);
}

#[test]
fn lengths_in_manifests_are_not_believed() {
    let signer = Signer::new();
    let scene = Scene::new(&format!("platforms: [linux/amd64], {}", signer.gate()));
    let origin = &scene.origin;
    let large = random(9, 9 << 20);
    let large = (
        origin.push_blob("library/app", large.clone()),
        bytes::Bytes::from_static(b"short"),
    );
    // A signature whose payload is large, though its manifest says otherwise.
    let image = push_for(origin, "library/app", "1", "linux/amd64", 1);
    let (_, mut layer) = signer.layer("library/app", &image.digest);
    layer["digest"] = json!(large.0);
    layer["size"] = json!(100);
    let tag = format!("{}.sig", image.digest.replacen(':', "-", 1));
    let manifest = json!({"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "layers": [layer]});
    push_json(
        origin,
        "library/app",
        &tag,
        MEDIA_MANIFEST,
        &manifest,
        Vec::new(),
    );
    scene.assert_denied("signed_by", &[image.tag_path(), image.digest_path()]);
    // An image with such a configuration.
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": descriptor(MEDIA_CONFIG, &large),
        "layers": [],
    });
    let strange = push_json(
        origin,
        "library/app",
        "2",
        MEDIA_MANIFEST,
        &manifest,
        Vec::new(),
    );
    scene.assert_denied("platforms", &[strange.tag_path()]);
    let path = format!("/v2/library/app/blobs/{}", large.0);
    assert_eq!(origin.count("GET", &path), 0, "nothing of it is fetched");
    assert!(origin.count("HEAD", &path) > 0);
}

#[test]
fn few_of_many_signatures_are_looked_at() {
    let signer = Signer::new();
    let scene = Scene::new(&signer.gate());
    let origin = &scene.origin;
    let image = origin.push_image("library/app", "1", &[random(1, 1000)]);
    let (_, layer) = signer.layer("library/app", &image.digest);
    let layers = |count: u32| -> Vec<Value> {
        let other = |n: u32| {
            let mut other = layer.clone();
            other["digest"] = json!(testkit::sha256(&n.to_le_bytes()));
            other
        };
        (0..count).map(other).collect()
    };
    let tag = format!("{}.sig", image.digest.replacen(':', "-", 1));
    let push = |layers: Vec<Value>| {
        let manifest = json!({"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "layers": layers});
        push_json(
            origin,
            "library/app",
            &tag,
            MEDIA_MANIFEST,
            &manifest,
            Vec::new(),
        )
    };
    push(layers(5000));
    let reply = scene.get(&image.tag_path());
    assert_eq!(rule(&reply), "signed_by", "{reply:?}");
    assert_eq!(origin.count("HEAD", "*/blobs/*"), 32);
    assert_eq!(origin.count("GET", "*/blobs/*"), 0);
    // cosign appends: the newest are looked at first.
    let (payload, newest) = signer.layer("library/app", &image.digest);
    origin.push_blob("library/app", payload);
    push([layers(4999), vec![newest]].concat());
    scene.pull(&image);
}
