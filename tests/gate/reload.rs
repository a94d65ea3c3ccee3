//! A gate that a reload changes: the rules of now hold from the next request on, whatever is cached and was served before.

use super::signer::Signer;
use super::*;

/// Changes the gate of a gateway that runs.
#[track_caller]
fn reload(scene: &Scene, gate: &str) {
    let output = scene.gateway.reload(&yaml(&scene.origin, gate, ""));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Pushes an image and has the gateway cache it.
#[track_caller]
fn pulled(scene: &Scene, tag: &str, platform: &str, seed: u64) -> Image {
    let image = push_for(&scene.origin, "library/app", tag, platform, seed);
    scene.pull(&image);
    image
}

/// All paths of an image: by its tag, which leads to the others, and by digest.
fn paths(image: &Image) -> Vec<String> {
    let tag = std::iter::once(image.tag_path());
    tag.chain(content(image)).collect()
}

#[test]
fn changed_gate_holds_for_cached_content_at_once() {
    let scene = Scene::new("");
    let one = pulled(&scene, "1.0", "linux/amd64", 1);
    let two = pulled(&scene, "2.0", "linux/arm64", 2);
    let unchanged = |image: &Image| scene.assert_served(&paths(image));
    for (gate, rule) in [
        ("deny: [\"library/app:2.*\"]", "deny"),
        ("allow: [\"library/app:1.*\"]", "allow"),
        ("platforms: [linux/amd64]", "platforms"),
    ] {
        reload(&scene, gate);
        scene.assert_denied(rule, &paths(&two));
        unchanged(&one);
    }
    reload(&scene, "deny: [library/app]");
    scene.assert_denied("deny", &paths(&one));
    scene.assert_denied("deny", &paths(&two));
    reload(&scene, "mode: report, deny: [library/app]");
    unchanged(&two);
    reload(&scene, "");
    unchanged(&two);
}

#[test]
fn former_verdicts_do_not_outlive_a_reload() {
    let scene = Scene::new("allow: [\"library/app:1.*\"]");
    let one = pulled(&scene, "1.0", "linux/amd64", 1);
    let two = push_for(&scene.origin, "library/app", "2.0", "linux/amd64", 2);
    scene.assert_denied("allow", &paths(&two));
    reload(&scene, "allow: [\"library/app:2.*\"]");
    scene.assert_denied("allow", &paths(&one));
    scene.pull(&two);
    reload(&scene, "allow: [\"library/app:1.*\"]");
    scene.assert_served(&paths(&one));
    scene.assert_denied("allow", &paths(&two));
    // The list of tags is cached too.
    let tags = scene.get("/v2/library/app/tags/list");
    assert_eq!(tags.text(), r#"{"name":"library/app","tags":["1.0"]}"#);
    reload(&scene, "allow: [\"library/app:2.*\"]");
    let tags = scene.get("/v2/library/app/tags/list");
    assert_eq!(tags.text(), r#"{"name":"library/app","tags":["2.0"]}"#);
}

#[test]
fn signatures_are_demanded_from_a_reload_on() {
    let (key, other) = (Signer::new(), Signer::new());
    let scene = Scene::new("");
    let signed = pulled(&scene, "1.0", "linux/amd64", 1);
    let unsigned = pulled(&scene, "2.0", "linux/amd64", 2);
    key.sign(&scene.origin, &signed);
    reload(&scene, &key.gate());
    scene.assert_served(&paths(&signed));
    scene.assert_denied("signed_by", &paths(&unsigned));
    // Another key in the same file, with the configuration as it was.
    std::fs::copy(other.public(), key.public()).expect("writable");
    scene.assert_served(&paths(&signed));
    let output = scene.gateway.roadstead(&["reload"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    scene.assert_denied("signed_by", &paths(&signed));
    // A key that is none changes nothing.
    std::fs::write(key.public(), "no key").expect("writable");
    let output = scene.gateway.roadstead(&["reload"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    scene.assert_denied("signed_by", &paths(&signed));
}

#[test]
fn young_target_stays_held_back_across_reloads() {
    let scene = Scene::new("");
    let old = pulled(&scene, "latest", "linux/amd64", 1);
    reload(&scene, "min_age: 3d");
    let new = push_for(&scene.origin, "library/app", "latest", "linux/amd64", 2);
    let held_back = || {
        let reply = scene.get(&new.tag_path());
        assert_eq!((reply.status(), digest(&reply)), (200, &*old.digest));
        assert!(reply.header("warning").is_some(), "{reply:?}");
        scene.assert_denied("min_age", &content(&new));
    };
    held_back();
    reload(&scene, "min_age: 4d");
    held_back();
    reload(
        &scene,
        &format!("pins: {{\"library/app:latest\": \"{}\"}}", new.digest),
    );
    assert_eq!(digest(&scene.get(&new.tag_path())), new.digest);
    scene.assert_served(&content(&new));
    // Without the pin its age counts again.
    reload(&scene, "min_age: 3d");
    held_back();
}
