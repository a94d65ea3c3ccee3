//! `signed_by`: nothing is served before its signature is verified.

use super::signer::{ARTIFACT, Signer};
use super::*;
use testkit::image::random;
use testkit::origin::Fault;

#[test]
fn only_signed_images_are_served() {
    let (signer, other) = (Signer::new(), Signer::new());
    let scene = Scene::new(&signer.gate());
    let origin = &scene.origin;
    let image = |tag: &str, seed| origin.push_image("library/app", tag, &[random(seed, 1000)]);
    let unsigned = image("unsigned", 1);
    scene.assert_denied("signed_by", &[unsigned.tag_path()]);
    scene.assert_denied("signed_by", &content(&unsigned));
    let good = image("signed", 2);
    signer.sign(origin, &good);
    scene.pull(&good);
    // By its digest alone.
    let direct = image("direct", 3);
    signer.sign(origin, &direct);
    scene.assert_served(&content(&direct));
    // Among the referrers.
    let referred = image("referred", 4);
    signer.refer(origin, &referred);
    scene.pull(&referred);
    // By a key that is not trusted; by a signature of another image; by a changed signature.
    let foreign = image("foreign", 5);
    other.sign(origin, &foreign);
    other.refer(origin, &foreign);
    scene.assert_denied("signed_by", &[foreign.tag_path()]);
    let borrowed = image("borrowed", 6);
    signer.sign_as(origin, &good, &borrowed.digest);
    scene.assert_denied("signed_by", &[borrowed.tag_path()]);
    // Two signatures, of which one is by the key.
    signer.refer(origin, &foreign);
    scene.pull(&foreign);
}

#[test]
fn wrong_payloads_sign_nothing() {
    let signer = Signer::new();
    let scene = Scene::new(&signer.gate());
    let origin = &scene.origin;
    let image = origin.push_image("library/app", "1", &[random(1, 1000)]);
    let (payload, layer) = signer.layer("library/app", &image.digest);
    let tag = format!("{}.sig", image.digest.replacen(':', "-", 1));
    let push = |layers: Value| {
        let manifest = json!({"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "layers": layers});
        let bytes = manifest.to_string();
        origin.push_manifest("library/app", Some(&tag), MEDIA_MANIFEST, bytes)
    };
    let changed = {
        let mut changed = layer.clone();
        let other = origin.push_blob("library/app", [&payload[..], b" "].concat());
        changed["digest"] = json!(other);
        changed
    };
    let mut no_signature = layer.clone();
    no_signature["annotations"] = json!({});
    let mut other_type = layer.clone();
    other_type["mediaType"] = json!("application/octet-stream");
    // The payload itself is not pushed yet.
    for layers in [
        json!([]),
        json!("none"),
        json!([changed]),
        json!([no_signature]),
        json!([other_type]),
        json!([layer]),
    ] {
        push(layers.clone());
        assert_eq!(
            scene.fate(&image.tag_path()),
            (403, "signed_by".to_owned()),
            "{layers}"
        );
    }
    origin.push_blob("library/app", payload);
    push(json!([changed, layer]));
    scene.pull(&image);
}

#[test]
fn signature_that_cannot_be_asked_for_is_not_assumed() {
    let signer = Signer::new();
    let mut scene = Scene::new(&signer.gate());
    let push = |tag: &str, seed| {
        let image = scene
            .origin
            .push_image("library/app", tag, &[random(seed, 1000)]);
        signer.sign(&scene.origin, &image);
        image
    };
    let (first, image) = (push("1", 1), push("2", 2));
    let down = scene.origin.fault(Fault::status(503).on("*", "*.sig"));
    for path in [first.tag_path(), first.digest_path()] {
        assert_eq!(scene.get(&path).status(), 503);
    }
    scene.origin.heal(down);
    scene.assert_denied("signed_by", &[first.layer_path(0)]);
    let limited = Fault::status_with(429, "Retry-After", "1").on("*", "*/referrers/*");
    let limited = scene.origin.fault(limited);
    // The tag is enough.
    scene.pull(&image);
    scene.origin.heal(limited);
    // It was verified: that is remembered, also while the registry cannot be asked.
    scene.origin.down();
    scene.gateway.restart();
    scene.assert_served(&content(&image));
    assert_eq!(scene.fate(&image.tag_path()).0, 200);
    // Another key asks again.
    let other = Signer::new();
    scene.restart_with(&other.gate());
    assert_eq!(scene.fate(&image.tag_path()).0, 503);
    scene.origin.up();
    testkit::until("the registry to be asked again", || {
        scene.get(&image.tag_path()).status() != 503
    });
    scene.assert_denied("signed_by", &[image.tag_path()]);
    scene.assert_denied("signed_by", &content(&image));
}

#[test]
fn signed_index_vouches_for_what_it_names() {
    let signer = Signer::new();
    let scene = Scene::new(&signer.gate());
    let origin = &scene.origin;
    let amd64 = push_for(origin, "library/app", "", "linux/amd64", 1);
    let arm64 = push_for(origin, "library/app", "", "linux/arm64", 2);
    let other = push_for(origin, "library/app", "", "linux/arm64", 3);
    let index = origin.push_index("library/app", "latest", &[&amd64, &arm64]);
    signer.sign(origin, &index);
    // Without the index, nothing is known of its images.
    scene.assert_denied("signed_by", &content(&arm64));
    scene.assert_served(&[index.tag_path()]);
    scene.assert_served(&content(&amd64));
    scene.assert_served(&content(&arm64));
    scene.assert_denied("signed_by", &content(&other));
}

#[test]
fn clients_can_verify_signatures_themselves() {
    let signer = Signer::new();
    let scene = Scene::new(&signer.gate());
    let origin = &scene.origin;
    let image = origin.push_image("library/app", "1", &[random(1, 1000)]);
    let by_tag = signer.sign(origin, &image);
    let referrer = signer.refer(origin, &image);
    scene.pull(&image);
    scene.pull(&by_tag);
    let list = scene.get(&format!(
        "{}?artifactType={}",
        image.referrers_path(),
        ARTIFACT.replace('+', "%2B")
    ));
    assert!(list.text().contains(&referrer.digest), "{list:?}");
    scene.assert_served(&content(&referrer));
}
