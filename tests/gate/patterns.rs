//! `allow` and `deny`: names, tags, and the digests behind them.

use super::*;
use testkit::http::get;
use testkit::image::random;

const LIBRARY: &str = "allow: [\"library/**\"], deny: [\"library/evil\"]";

#[test]
fn denied_repositories_are_denied_by_every_path() {
    let scene = Scene::new(LIBRARY);
    let (evil, foreign) = (
        scene
            .origin
            .push_image("library/evil", "1", &[random(1, 1000)]),
        scene.origin.push_image("team/app", "1", &[random(2, 1000)]),
    );
    for (image, expected) in [(&evil, "deny"), (&foreign, "allow")] {
        let name = &image.repository;
        let mut paths = content(image);
        paths.extend([
            image.tag_path(),
            image.referrers_path(),
            format!("/v2/{name}/tags/list"),
            // What does not exist is denied like what does.
            image.manifest_path("absent"),
            image.manifest_path(&testkit::sha256(b"absent")),
        ]);
        let prefixed = paths
            .iter()
            .map(|path| path.replacen("/v2/", "/v2/docker.io/", 1));
        let spelled = ["ns=docker.io", "ns=index.docker.io", "x=y&ns=docker.io"].iter();
        let spelled =
            spelled.flat_map(|query| paths.iter().map(move |path| format!("{path}?{query}")));
        let spelled: Vec<String> = spelled.chain(prefixed).collect();
        paths.extend(spelled);
        scene.assert_denied(expected, &paths);
        let ranged = scene.ask("GET", &image.layer_path(0), &[("Range", "bytes=0-9")]);
        assert_eq!((ranged.status(), rule(&ranged)), (403, expected.to_owned()));
        let conditional = format!("\"{}\"", image.layer(0).0);
        let conditional = [("If-None-Match", conditional.as_str())];
        assert_eq!(
            scene
                .ask("GET", &image.layer_path(0), &conditional)
                .status(),
            403
        );
    }
    // docker.io's short name is the same repository.
    scene.assert_denied("deny", &["/v2/evil/manifests/1".to_owned()]);
    assert_eq!(scene.origin.count("*", "/v2/*"), 0, "nothing was looked up");
    let app = scene
        .origin
        .push_image("library/app", "1", &[random(3, 1000)]);
    scene.pull(&app);
}

#[test]
fn hostile_names_reach_no_denied_repository() {
    let scene = Scene::new(LIBRARY);
    scene
        .origin
        .push_image("library/evil", "1", &[random(1, 1000)]);
    let long = format!("library/{}", "a/".repeat(200));
    for name in [
        "library//evil",
        "library/./evil",
        "library/app/../evil",
        "library/%2e%2e/library/evil",
        "library%2fevil",
        "library%252fevil",
        "LIBRARY/evil",
        "Library/Evil",
        "library/evil%00",
        "library/evil/",
        "/library/evil",
        "docker.io/docker.io/library/evil",
        "index.docker.io/library/evil",
        "registry-1.docker.io/library/evil",
        "library/evil:1",
        "library/evil@sha256:00",
        "library\\evil",
        "library/\u{117}vil",
        &long,
        "",
    ] {
        for path in [
            format!("/v2/{name}/manifests/1"),
            format!("/v2/{name}/tags/list"),
        ] {
            let status = scene.ask("GET", &path, &[]).status();
            assert!(matches!(status, 400 | 403 | 404), "{path}: {status}");
        }
    }
    assert_eq!(scene.origin.count("*", "*evil*"), 0);
}

#[test]
fn denied_tag_is_denied_and_its_content_is_served_by_an_allowed_one() {
    let scene = Scene::new("deny: [\"library/app:*-rc*\"]");
    let rc = scene
        .origin
        .push_image("library/app", "2.0-rc1", &[random(1, 1000)]);
    scene.assert_denied("deny", &[rc.tag_path()]);
    // No allowed tag has led to its digest, so nothing of it is served either.
    scene.assert_denied("deny", &content(&rc));
    assert_eq!(scene.origin.count("*", &rc.tag_path()), 0);
    // The same image under an allowed tag.
    scene.origin.tag("library/app", "2.0", &rc.digest);
    let released = Image {
        tag: "2.0".to_owned(),
        ..rc.clone()
    };
    scene.pull(&released);
    scene.assert_denied("deny", &[rc.tag_path()]);
}

#[test]
fn tag_patterns_hold_by_digest() {
    let mut scene = Scene::new("allow: [\"library/app:1.*\"]");
    let origin = &scene.origin;
    let shared = random(7, 1000);
    let one = origin.push_image("library/app", "1.0", &[random(1, 1000), shared.clone()]);
    let two = origin.push_image("library/app", "2.0", &[random(2, 1000), shared]);
    // The bytes of the denied image are stored, by way of another repository that is allowed.
    let elsewhere = origin.push_image("library/app", "2.0", &[random(2, 1000)]);
    scene.assert_denied("allow", &content(&one));
    scene.pull(&one);
    scene.assert_denied(
        "allow",
        &[two.tag_path(), two.digest_path(), two.layer_path(0)],
    );
    // A layer of both is one of the allowed image.
    scene.assert_served(&[two.layer_path(1)]);
    scene.assert_denied("allow", &content(&elsewhere));
    // A manifest is no blob, and a blob no manifest.
    let as_blob = format!("/v2/library/app/blobs/{}", one.digest);
    let as_manifest = one.manifest_path(&one.layer(0).0);
    scene.assert_denied("allow", &[as_blob, as_manifest]);
    // What was admitted is on record.
    scene.origin.clear_requests();
    scene.gateway.restart();
    scene.assert_served(&content(&one));
    scene.assert_denied("allow", &content(&elsewhere));
    // The rules of now apply to what was admitted before.
    scene.restart_with("allow: [\"library/app:2.*\"]");
    scene.assert_denied("allow", &content(&one));
    scene.restart_with("allow: [\"library/app:1.*\"]");
    scene.assert_served(&content(&one));
}

#[test]
fn content_of_a_denied_repository_is_not_served_through_it() {
    let origin = Origin::start();
    let other = Origin::start();
    let layer = random(1, 100_000);
    let denied = origin.push_image("library/evil", "1", std::slice::from_ref(&layer));
    let allowed = origin.push_image("library/app", "1", std::slice::from_ref(&layer));
    let elsewhere = other.push_image("team/app", "1", &[layer]);
    let gateway = Gateway::start(&format!(
        "registries:\n- {{name: docker.io, v2: \"{}\", default: true, gate: {{{LIBRARY}}}}}\n\
         - {{name: ghcr.io, v2: \"{}\"}}\n",
        origin.url(),
        other.url()
    ));
    let status = |path: &str| get(gateway.url(1), None, path).status();
    // Stored and linked by two others.
    assert_eq!(status(&allowed.tag_path()), 200);
    assert_eq!(status(&allowed.layer_path(0)), 200);
    let in_ghcr = elsewhere.layer_path(0).replacen("/v2/", "/v2/ghcr.io/", 1);
    assert_eq!(status(&in_ghcr), 200);
    assert_eq!(status(&denied.layer_path(0)), 403);
    assert_eq!(status(&denied.digest_path()), 403);
}

#[test]
fn lists_show_what_is_served() {
    let scene = Scene::new("allow: [\"library/app:1.*\", \"library/all\"]");
    for tag in ["1.0", "1.1", "2.0", "latest"] {
        scene
            .origin
            .push_image("library/app", tag, &[random(1, 1000)]);
        scene
            .origin
            .push_image("library/all", tag, &[random(1, 1000)]);
    }
    let tags = |path: &str| -> Value {
        let reply = scene.get(path);
        assert_eq!(reply.status(), 200, "{reply:?}");
        serde_json::from_slice(&reply.body).expect("JSON")
    };
    let app = tags("/v2/library/app/tags/list");
    assert_eq!(app, json!({"name": "library/app", "tags": ["1.0", "1.1"]}));
    let all = tags("/v2/library/all/tags/list");
    assert_eq!(all["tags"].as_array().map(Vec::len), Some(4));
    // A page may be shorter than was asked for; the link to the next one stays.
    let page = scene.get("/v2/library/app/tags/list?n=1&last=1.1");
    assert_eq!(page.text(), r#"{"name":"library/app","tags":[]}"#);
    assert!(
        page.header("link")
            .is_some_and(|link| link.contains("last=2.0")),
        "{page:?}"
    );
}

#[test]
fn catalogue_and_search_show_served_repositories() {
    let origin = Origin::start();
    for name in ["team/app", "team/evil", "other/app"] {
        origin.push_image(name, "1", &[random(1, 1000)]);
    }
    let gateway = Gateway::start(&format!(
        "registries:\n- {{name: hosted, v2: \"{}\", default: true, gate: {{allow: [\"team/**\"], deny: [team/evil]}}}}\n",
        origin.url()
    ));
    let catalogue = get(gateway.url(1), None, "/v2/_catalog");
    assert_eq!(catalogue.text(), r#"{"repositories":["team/app"]}"#);
    let found = get(gateway.url(1), None, "/v1/search?q=app");
    let found: Value = serde_json::from_slice(&found.body).expect("JSON");
    let names: Vec<&str> = found["results"]
        .as_array()
        .expect("results")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["team/app"]);
}

#[test]
fn list_that_cannot_be_read_is_not_shown() {
    // It might name what is not served.
    let scene = Scene::new("allow: [\"library/app:1.*\"]");
    scene
        .origin
        .push_image("library/app", "1.0", &[random(1, 1000)]);
    scene
        .origin
        .fault(testkit::origin::Fault::TruncateAt(3).on("GET", "*/tags/list"));
    scene
        .origin
        .fault(testkit::origin::Fault::CloseDelimited.on("GET", "*/tags/list"));
    let reply = scene.get("/v2/library/app/tags/list");
    assert!(reply.status() >= 500, "{reply:?}");
}
