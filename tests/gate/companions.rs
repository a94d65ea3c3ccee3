//! Signatures, attestations and lists of referrers: served with what they belong to, and no way in for anything else.

use super::*;
use testkit::image::random;
use testkit::origin::MEDIA_INDEX;

const TAGS: &str = "allow: [\"library/app:1.*\"]";

fn companion_tag(image: &Image, kind: &str) -> String {
    format!("{}{kind}", image.digest.replacen(':', "-", 1))
}

#[test]
fn companions_are_served_with_their_subject() {
    let scene = Scene::new(TAGS);
    let origin = &scene.origin;
    let image = origin.push_image("library/app", "1.0", &[random(1, 1000)]);
    let denied = origin.push_image("library/app", "2.0", &[random(2, 1000)]);
    let artifact = |tag: &str, seed| {
        let layer = ("application/vnd.dsse.envelope.v1+json", vec![seed; 10]);
        push_of(
            origin,
            "library/app",
            tag,
            (MEDIA_CONFIG, "{}".to_owned()),
            layer,
        )
    };
    let attestation = artifact(&companion_tag(&image, ".att"), 1);
    let of_denied = artifact(&companion_tag(&denied, ".att"), 2);
    let referrer = origin.push_referrer(&image, "application/x-sbom", b"sbom");
    let referrer_of_denied = origin.push_referrer(&denied, "application/x-sbom", b"other");
    // The subject comes first.
    scene.assert_denied("allow", &[attestation.tag_path()]);
    scene.assert_denied("allow", &[referrer.digest_path(), referrer.layer_path(0)]);
    scene.pull(&image);
    scene.pull(&attestation);
    scene.assert_served(&[image.referrers_path()]);
    scene.assert_served(&content(&referrer));
    scene.assert_denied("allow", &[of_denied.tag_path(), of_denied.digest_path()]);
    scene.assert_denied("allow", &[denied.referrers_path()]);
    scene.assert_denied(
        "allow",
        &[
            referrer_of_denied.digest_path(),
            referrer_of_denied.layer_path(0),
        ],
    );
}

#[test]
fn images_do_not_pass_as_companions() {
    let scene = Scene::new(TAGS);
    let origin = &scene.origin;
    let image = origin.push_image("library/app", "1.0", &[random(1, 1000)]);
    scene.pull(&image);
    // An image under the tag of a signature, and one that names an admitted image as its subject.
    let disguised = push_for(
        origin,
        "library/app",
        &companion_tag(&image, ".sig"),
        "linux/amd64",
        2,
    );
    scene.assert_denied("allow", &[disguised.tag_path()]);
    scene.assert_denied("allow", &content(&disguised));
    let subject = descriptor(
        MEDIA_MANIFEST,
        &(image.digest.clone(), image.manifest.clone()),
    );
    let mut manifest: Value = serde_json::from_slice(&disguised.manifest).expect("JSON");
    manifest["subject"] = subject.clone();
    let blobs = disguised.blobs.clone();
    let referring = push_json(origin, "library/app", "", MEDIA_MANIFEST, &manifest, blobs);
    scene.assert_denied("allow", &content(&referring));
    // The list of referrers of a registry without the referrers API is served, and vouches for nothing that it names.
    let smuggled = push_for(origin, "library/app", "", "linux/amd64", 3);
    let artifact = origin.push_referrer(&image, "application/x-sbom", b"sbom");
    let manifests: Vec<Value> = [&smuggled, &artifact]
        .iter()
        .map(|image| {
            descriptor(
                MEDIA_MANIFEST,
                &(image.digest.clone(), image.manifest.clone()),
            )
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": manifests});
    let tag = companion_tag(&image, "");
    let list = push_json(origin, "library/app", &tag, MEDIA_INDEX, &index, Vec::new());
    scene.assert_served(&[list.tag_path(), list.digest_path()]);
    scene.assert_denied("allow", &content(&smuggled));
    scene.assert_served(&content(&artifact));
    // Neither does an index with a subject.
    let mut index = index;
    index["subject"] = subject;
    let index = push_json(origin, "library/app", "", MEDIA_INDEX, &index, Vec::new());
    scene.assert_served(&[index.digest_path()]);
    scene.assert_denied("allow", &content(&smuggled));
}
