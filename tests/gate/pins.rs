//! `pins`: tags that answer a digest, whatever the registry says.

use super::*;
use testkit::image::random;

fn pin(repository: &str, image: &Image) -> String {
    format!("pins: {{\"{repository}:latest\": \"{}\"}}", image.digest)
}

#[test]
fn pinned_tag_answers_its_digest() {
    let origin = Origin::start();
    let old = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let new = origin.push_image("library/app", "latest", &[random(2, 1000)]);
    let scene = Scene::of(origin, &pin("library/app", &old), "");
    let reply = scene.get(&old.tag_path());
    assert!(reply.body == old.manifest, "{reply:?}");
    assert_eq!(
        reply.header("cache-status"),
        Some("roadstead; fwd=uri-miss; stored; detail=pinned")
    );
    assert_eq!(digest(&scene.ask("HEAD", &old.tag_path(), &[])), old.digest);
    scene.assert_served(&content(&old));
    assert_eq!(
        scene.origin.count("*", &old.tag_path()),
        0,
        "its target is not asked for"
    );
    // The registry's own target is not served by its digest either.
    scene.assert_denied("pins", &content(&new));
    // Another tag that is not pinned is free, and so is what it leads to.
    scene.origin.tag("library/app", "edge", &new.digest);
    scene.assert_served(&[
        new.manifest_path("edge"),
        new.digest_path(),
        new.layer_path(0),
    ]);
    // Other repositories have no pins.
    let other = scene
        .origin
        .push_image("library/other", "1", &[random(3, 1000)]);
    scene.assert_served(&content(&other));
}

#[test]
fn pins_beat_every_rule_but_deny() {
    let origin = Origin::start();
    let image = push_for(&origin, "team/app", "latest", "windows/amd64", 1);
    let pin = pin("team/app", &image);
    let rest = "allow: [\"library/**\"], min_age: 3d, platforms: [linux/amd64]";
    let mut scene = Scene::of(origin, &format!("{rest}, {pin}"), "");
    scene.assert_served(&[image.tag_path()]);
    scene.assert_served(&content(&image));
    let other = scene.origin.push_image("team/app", "1", &[random(2, 1000)]);
    scene.assert_denied("allow", &[other.tag_path(), other.digest_path()]);
    for deny in ["team/app", "team/app:latest"] {
        scene.restart_with(&format!("deny: [\"{deny}\"], {pin}"));
        scene.assert_denied(
            "deny",
            &[image.tag_path(), image.digest_path(), image.layer_path(0)],
        );
    }
}

#[test]
fn pin_to_a_digest_that_the_registry_lacks_is_not_found() {
    let absent = testkit::sha256(b"absent");
    let scene = Scene::new(&format!("pins: {{\"library/app:latest\": \"{absent}\"}}"));
    scene
        .origin
        .push_image("library/app", "latest", &[random(1, 1000)]);
    let reply = scene.get("/v2/library/app/manifests/latest");
    assert_eq!(reply.error_code().as_deref(), Some("MANIFEST_UNKNOWN"));
}
