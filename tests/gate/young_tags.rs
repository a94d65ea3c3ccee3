//! Ways around `min_age`: other tags, digests, indexes, old clients.

use super::*;
use testkit::image::random;
use testkit::origin::MEDIA_INDEX;

/// A tag that moved to `new`, and was seen to.
fn moved() -> (Scene, Image, Image) {
    let scene = Scene::new("min_age: 3d");
    let old = scene
        .origin
        .push_image("library/app", "latest", &[random(1, 1000)]);
    scene.pull(&old);
    let new = scene
        .origin
        .push_image("library/app", "latest", &[random(2, 1000)]);
    let reply = scene.get(&new.tag_path());
    assert_eq!(digest(&reply), old.digest);
    (scene, old, new)
}

#[test]
fn another_tag_of_a_young_target_is_denied() {
    let (scene, _, new) = moved();
    scene.origin.tag("library/app", "other", &new.digest);
    for path in [
        new.manifest_path("other"),
        format!("{}?ns=docker.io", new.manifest_path("other")),
        new.manifest_path("other")
            .replacen("/v2/", "/v2/docker.io/", 1),
        new.manifest_path("other").replacen("/library/", "/", 1),
    ] {
        scene.assert_denied("min_age", &[path]);
    }
    scene.assert_denied("min_age", &content(&new));
    // A tag that was never seen, of an image that no tag moved to.
    let released = scene
        .origin
        .push_image("library/app", "3.1", &[random(3, 1000)]);
    scene.pull(&released);
    // A tag that moves to it counts from its own time.
    scene.origin.tag("library/app", "latest", &released.digest);
    let reply = scene.get(&new.tag_path());
    assert!(reply.header("warning").is_some(), "{reply:?}");
    scene.assert_served(&content(&released));
}

#[test]
fn young_target_is_denied_inside_an_index() {
    let (scene, _, new) = moved();
    let origin = &scene.origin;
    let other = origin.push_image("library/app", "", &[random(4, 1000)]);
    let index = origin.push_index("library/app", "multi", &[&new, &other]);
    scene.assert_served(&[index.tag_path()]);
    scene.assert_served(&content(&other));
    scene.assert_denied("min_age", &content(&new));
    // Nested.
    let descriptor = descriptor(MEDIA_INDEX, &(index.digest.clone(), index.manifest.clone()));
    let outer = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [descriptor]});
    let outer = push_json(
        origin,
        "library/app",
        "outer",
        MEDIA_INDEX,
        &outer,
        Vec::new(),
    );
    scene.assert_served(&[outer.tag_path(), index.digest_path()]);
    scene.assert_denied("min_age", &content(&new));
    // A client that cannot read indexes is given the first image of it.
    let images = [(
        "Accept",
        "application/vnd.docker.distribution.manifest.v2+json",
    )];
    let reply = scene.ask("GET", &index.tag_path(), &images);
    assert_eq!(
        (reply.status(), rule(&reply)),
        (403, "min_age".to_owned()),
        "{reply:?}"
    );
}

#[test]
fn index_that_is_held_back_does_not_vouch() {
    let scene = Scene::new("min_age: 3d");
    let origin = &scene.origin;
    let old = origin.push_image("library/app", "", &[random(1, 1000)]);
    let first = origin.push_index("library/app", "latest", &[&old]);
    scene.assert_served(&[first.tag_path()]);
    scene.assert_served(&content(&old));
    let new = origin.push_image("library/app", "", &[random(2, 1000)]);
    let second = origin.push_index("library/app", "latest", &[&new, &old]);
    let reply = scene.get(&second.tag_path());
    assert_eq!(digest(&reply), first.digest);
    scene.assert_denied("min_age", &[second.digest_path()]);
    scene.assert_denied("min_age", &content(&new));
    scene.assert_served(&content(&old));
}

#[test]
fn schema1_of_a_young_target_is_denied() {
    let scene = Scene::new("min_age: 3d");
    let origin = &scene.origin;
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let convert = |seed: u8| {
        let body =
            json!({"schemaVersion": 1, "name": "library/app", "tag": "latest", "seed": seed});
        let body = body.to_string();
        let digest = testkit::sha256(body.as_bytes());
        origin.convert("library/app", "latest", &digest, schema1, body);
        digest
    };
    let old = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let converted = convert(1);
    let ask = || scene.ask("GET", &old.tag_path(), &[("Accept", schema1)]);
    assert_eq!(digest(&ask()), converted);
    scene.pull(&old);
    origin.push_image("library/app", "latest", &[random(2, 1000)]);
    convert(2);
    let reply = ask();
    assert_eq!(
        (reply.status(), rule(&reply)),
        (403, "min_age".to_owned()),
        "{reply:?}"
    );
    assert_eq!(digest(&scene.get(&old.tag_path())), old.digest);
}
