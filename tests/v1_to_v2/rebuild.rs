//! A converted image after its bytes are evicted, its links are gone, and the registries stop.

use crate::v1_to_v2::{Scene, blobs, configuration, exists, layers, push, stored};
use testkit::http::{End, Raw};
use testkit::{sha256, until};

const MANIFEST: &str = "/v2/team/app/manifests/1";

/// After all content is evicted, manifest and configuration are regenerated without a request, and layers are fetched
/// again with the same digests.
#[test]
fn evicted_conversion_is_rebuilt_identically() {
    let mut scene = Scene::with("tag_ttl: 1h");
    push(&scene.v1, "team/app", "1", 1);
    let manifest = scene.get(MANIFEST);
    let (layers, config) = blobs(&manifest);
    let digests = [
        sha256(&manifest.body),
        config.clone(),
        layers[0].clone(),
        layers[1].clone(),
    ];
    let blob = |scene: &Scene, digest: &str| scene.get(&format!("/v2/team/app/blobs/{digest}"));
    let before: Vec<Vec<u8>> = [&config, &layers[0], &layers[1]]
        .map(|digest| blob(&scene, digest).body)
        .into();
    scene.gateway.terminate();
    for digest in &digests {
        let file = stored(&scene.gateway, digest);
        assert!(exists(&file), "{digest}");
        std::fs::remove_file(file).expect("evicted");
    }
    scene.gateway.restart();
    scene.v1.clear_requests();
    scene.v2.clear_requests();
    let again = scene.get(MANIFEST);
    assert_eq!(again.status(), 200, "{again:?}");
    assert!(again.body == manifest.body);
    let by_digest = scene.get(&format!("/v2/team/app/manifests/{}", digests[0]));
    assert!(by_digest.body == manifest.body);
    assert!(blob(&scene, &config).body == before[0]);
    assert_eq!(scene.v1.requests().len(), 0, "no registry was asked");
    // A HEAD fetches nothing.
    let head = scene.ask("HEAD", &format!("/v2/team/app/blobs/{}", layers[0]));
    assert_eq!(
        head.header("content-length"),
        Some(&*before[1].len().to_string())
    );
    assert_eq!(scene.v1.count("GET", "/layer"), 0);
    for (digest, before) in layers.iter().zip(&before[1..]) {
        let reply = blob(&scene, digest);
        assert_eq!(reply.status(), 200, "{reply:?}");
        assert!(reply.body == *before);
        assert!(exists(&stored(&scene.gateway, digest)));
        assert!(blob(&scene, digest).body == *before);
    }
    assert_eq!(
        scene.v1.count("GET", "/layer"),
        1,
        "what the other is made of was still here"
    );
    assert_eq!(
        scene.v2.requests().len(),
        0,
        "the v2 side has nothing to say to that"
    );
}

/// A registry that has other bytes for the same image than before is not trusted.
#[test]
fn changed_rebuild_is_refused() {
    let mut scene = Scene::with("tag_ttl: 1h");
    let ids = push(&scene.v1, "team/app", "1", 1);
    let (digests, _) = blobs(&scene.get(MANIFEST));
    scene.gateway.terminate();
    std::fs::remove_file(stored(&scene.gateway, &digests[0])).expect("evicted");
    scene.v1.put_layer(&ids[0], &layers(9)[0]);
    scene.gateway.restart();
    let path = format!("/v2/team/app/blobs/{}", digests[0]);
    let reply = scene.get(&path);
    assert_ne!(reply.end, End::Complete, "{reply:?}");
    // Another length is detected before the first byte is sent.
    scene.v1.put_layer(&ids[0], b"something short");
    let reply = scene.get(&path);
    assert_eq!(reply.status(), 404, "the v2 side has it not: {reply:?}");
    assert!(!exists(&stored(&scene.gateway, &digests[0])));
    assert!(!exists(&stored(&scene.gateway, &sha256(&layers(9)[0]))));
}

/// An evicted layer is streamed as it arrives, in parts as well.
#[test]
fn evicted_conversion_is_streamed_while_rebuilt() {
    let mut scene = Scene::with("tag_ttl: 1h");
    push(&scene.v1, "team/app", "1", 1);
    let (digests, _) = blobs(&scene.get(MANIFEST));
    scene.gateway.terminate();
    std::fs::remove_file(stored(&scene.gateway, &digests[0])).expect("evicted");
    scene.gateway.restart();
    scene.v1.clear_requests();
    scene.v1.script(|script| script.hold = Some(60_000));
    let path = format!("/v2/team/app/blobs/{}", digests[0]);
    let part = Raw::connect(scene.gateway.url(1), None).exchange(
        "GET",
        &path,
        &[("Range", "bytes=1000-1999")],
    );
    let base = &layers(1)[0];
    assert_eq!((part.status(), &part.end), (206, &End::Complete));
    assert!(part.body == base[1000..2000]);
    assert!(!exists(&stored(&scene.gateway, &digests[0])));
    scene.v1.script(|script| script.hold = None);
    assert!(scene.get(&path).body == *base);
    assert_eq!(scene.v1.count("GET", "/layer"), 1);
}

/// Without room in the store, evicted layers pass through, and nothing new is converted, as the response and the log
/// say.
#[test]
fn layers_without_room_pass_through() {
    let mut scene = Scene::start();
    push(&scene.v1, "team/app", "1", 1);
    push(&scene.v1, "team/app", "2", 3);
    let manifest = scene.get(MANIFEST);
    let (digests, _) = blobs(&manifest);
    let path = |digest: &str| format!("/v2/team/app/blobs/{digest}");
    let before = scene.get(&path(&digests[1])).body;
    scene.gateway.terminate();
    let [base, _, data] = layers(1);
    for digest in [&digests[0], &digests[1], &sha256(&data)] {
        std::fs::remove_file(stored(&scene.gateway, digest)).expect("evicted");
    }
    let yaml = configuration(&scene.v1.url(), &scene.v2.url(), "tag_ttl: 0s");
    scene
        .gateway
        .restart_with(&format!("{yaml}store: {{min_free: 99.99%}}\n"));
    for (digest, bytes) in [(&digests[0], &base), (&digests[1], &before)] {
        let reply = scene.get(&path(digest));
        assert_eq!((reply.status(), &reply.end), (200, &End::Complete));
        assert!(reply.body == *bytes, "{digest}");
        let status = reply.header("cache-status").expect("how it came about");
        assert!(status.contains("detail=no-room"), "{status}");
        assert!(!exists(&stored(&scene.gateway, digest)));
    }
    let reply = scene.get("/v2/team/app/manifests/2");
    assert_eq!(reply.status(), 503, "{reply:?}");
    assert_eq!(reply.header("retry-after"), Some("30"));
    assert_eq!(reply.error_code().as_deref(), Some("UNAVAILABLE"));
    let log = scene.gateway.log();
    let said = log
        .lines()
        .find(|line| line.contains("an image of v1 cannot be converted"))
        .expect("a line");
    assert!(said.contains("the store has no room"), "{said}");
    // The other image is served from its records.
    assert!(scene.get(MANIFEST).body == manifest.body);
}

/// Unused links expire; conversions are recorded permanently, and the image's link to the repository grants access.
#[test]
fn digest_without_links_stays_with_its_repository() {
    let mut scene = Scene::start();
    push(&scene.v1, "team/app", "1", 1);
    let manifest = scene.get(MANIFEST);
    let digest = sha256(&manifest.body);
    let (layers, config) = blobs(&manifest);
    scene.gateway.terminate();
    std::fs::remove_dir_all(scene.gateway.store().join("repositories")).expect("gone");
    scene.gateway.restart();
    let by_digest = scene.get(&format!("/v2/team/app/manifests/{digest}"));
    assert_eq!(by_digest.status(), 200, "{by_digest:?}");
    assert!(by_digest.body == manifest.body);
    for digest in [&layers[0], &layers[1], &config] {
        let path = format!("/v2/team/app/blobs/{digest}");
        assert_eq!(scene.ask("HEAD", &path).status(), 200);
        assert_eq!(sha256(&scene.get(&path).body), *digest);
        // They belong to that repository only.
        assert_eq!(scene.get(&path.replace("app", "other")).status(), 404);
    }
    let other = scene.get(&format!("/v2/team/other/manifests/{digest}"));
    assert_eq!(other.status(), 404);
}

/// A link is revalidated in the background, and stays as long as the v1 side has the image.
#[test]
fn links_are_revalidated_at_the_v1_registry() {
    let scene = Scene::with("tag_ttl: 0s, missing_ttl: 0s, link_ttl: 0s");
    let ids = push(&scene.v1, "team/app", "1", 1);
    let manifest = scene.get(MANIFEST);
    let digest = sha256(&manifest.body);
    let by_digest = format!("/v2/team/app/manifests/{digest}");
    let layer = format!("/v2/team/app/blobs/{}", blobs(&manifest).0[0]);
    for path in [&by_digest, &layer] {
        let json = format!("{}/json", if *path == layer { &ids[0] } else { &ids[2] });
        for _ in 0..3 {
            let before = scene.v1.count("GET", &json);
            // A running revalidation is not started twice.
            until("the image to be asked for", || {
                assert_eq!(scene.get(path).status(), 200, "{path}");
                scene.v1.count("GET", &json) > before
            });
        }
    }
    // The images are deleted: so are their conversions.
    scene.v1.delete_image(&ids[0]);
    scene.v1.delete_image(&ids[2]);
    for path in [&by_digest, &layer] {
        until("it to be gone", || scene.get(path).status() == 404);
    }
}

/// While the v2 side is down, earlier conversions are served stale, and nothing is converted.
#[test]
fn only_404_falls_back_to_v1() {
    let Scene {
        v1,
        mut v2,
        gateway,
    } = Scene::start();
    push(&v1, "team/app", "1", 1);
    push(&v1, "team/app", "2", 3);
    let scene = Scene {
        v1,
        v2: testkit::origin::Origin::start(),
        gateway,
    };
    let known = scene.get(MANIFEST);
    assert_eq!(known.status(), 200);
    v2.down();
    scene.v1.clear_requests();
    let stale = scene.get(MANIFEST);
    assert!(stale.body == known.body);
    assert_eq!(
        stale.header("warning"),
        Some("299 - \"stale copy, upstream unavailable\"")
    );
    assert_eq!(scene.get("/v2/team/app/manifests/2").status(), 503);
    assert_eq!(scene.v1.requests().len(), 0);
    v2.up();
    // The v1 side fails, and the v2 side answers 404.
    scene.v1.script(|script| script.broken = Some(503));
    until("the v2 side to be asked again", || {
        let reply = scene.get(MANIFEST);
        reply.header("warning").is_some() && v2.count("HEAD", MANIFEST) > 1
    });
    let unknown = scene.get("/v2/team/app/manifests/2");
    assert_eq!(unknown.status(), 503, "{unknown:?}");
    scene.v1.script(|script| script.broken = Some(401));
    until("its refusal to be told", || {
        scene.get("/v2/team/app/manifests/2").status() == 403
    });
}

/// The conversion survives a time in which the registry was not configured.
#[test]
fn conversions_survive_a_restart() {
    let mut scene = Scene::start();
    push(&scene.v1, "team/app", "1", 1);
    let manifest = scene.get(MANIFEST);
    let yaml = configuration(
        &scene.v1.url(),
        &scene.v2.url(),
        "bridge: false, tag_ttl: 0s, missing_ttl: 0s",
    );
    scene.gateway.restart_with(&yaml);
    assert_eq!(scene.get(MANIFEST).status(), 404);
    let yaml = configuration(&scene.v1.url(), &scene.v2.url(), "tag_ttl: 0s");
    scene.gateway.restart_with(&yaml);
    assert!(scene.get(MANIFEST).body == manifest.body);
    assert_eq!(scene.v1.count("GET", "/layer"), 3);
}
