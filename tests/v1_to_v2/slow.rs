//! Slow layers: a client gets 503 with Retry-After, and the conversion continues without it.

use std::time::{Duration, Instant};

use crate::v1_to_v2::{DOCKER_MANIFEST, Scene, blobs, configuration, layers, push};
use testkit::http::{Raw, Reply, at_once};
use testkit::{sha256, until};

const MANIFEST: &str = "/v2/team/app/manifests/1";

/// Half of the layers arrive; the rest when the registry is released.
#[test]
fn slow_conversion_gets_503_with_retry_after_and_continues() {
    let scene = Scene::start();
    push(&scene.v1, "team/app", "1", 1);
    scene.v1.script(|script| script.hold = Some(1));
    let began = Instant::now();
    let replies = at_once(3, |number| {
        let method = ["GET", "GET", "HEAD"][number];
        scene.ask(method, MANIFEST)
    });
    // The response waits for the conversion, but at most 25 s.
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    for reply in &replies {
        assert_eq!(reply.status(), 503, "{reply:?}");
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    assert_eq!(replies[0].error_code().as_deref(), Some("UNAVAILABLE"));
    let told = replies[0]
        .header("cache-status")
        .expect("it says how it came about");
    assert!(told.contains("detail=converting"), "{told}");
    let under_way = scene.v1.count("GET", "/layer");
    assert!(under_way > 0);

    // The conversion completes without a waiting client.
    scene.v1.script(|script| script.hold = None);
    until("the conversion to end", || {
        scene.gateway.log().contains("an image of v1 was converted")
    });
    assert_eq!(
        scene.v1.count("GET", "/layer"),
        3,
        "each was asked for once"
    );
    let reply = scene.get(MANIFEST);
    assert_eq!(reply.status(), 200);
    assert_eq!(blobs(&reply).0[0], sha256(&layers(1)[0]));
    assert_eq!(scene.v1.count("GET", "/layer"), 3);
}

/// The conversion continues when its client hangs up.
#[test]
fn conversion_continues_after_its_client_disconnects() {
    let scene = Scene::start();
    push(&scene.v1, "team/app", "1", 1);
    scene.v1.script(|script| script.hold = Some(1));
    let mut client = Raw::connect(scene.gateway.url(1), None);
    client.request("GET", MANIFEST, &[("Accept", DOCKER_MANIFEST)]);
    until("a layer to be asked for", || {
        scene.v1.count("GET", "/layer") > 0
    });
    drop(client);
    scene.v1.script(|script| script.hold = None);
    until("the conversion to end", || {
        scene.gateway.log().contains("an image of v1 was converted")
    });
    assert_eq!(scene.get(MANIFEST).status(), 200);
    assert_eq!(scene.v1.count("GET", "/layer"), 3);
}

/// Layers read before a restart are not read again, nor for another image on the same base.
#[test]
fn converted_layers_are_read_once() {
    let mut scene = Scene::start();
    let ids = push(&scene.v1, "team/app", "1", 1);
    scene.v1.put_tag("team/app", "base", &ids[0]);
    let base = scene.get("/v2/team/app/manifests/base");
    assert_eq!(base.status(), 200);
    assert_eq!(scene.v1.count("GET", &format!("{}/layer", ids[0])), 1);
    // Killed while the others are in flight.
    scene.v1.script(|script| script.hold = Some(1));
    let mut client = Raw::connect(scene.gateway.url(1), None);
    client.request("GET", MANIFEST, &[("Accept", DOCKER_MANIFEST)]);
    until("both to be asked for", || {
        scene.v1.count("GET", "/layer") == 3
    });
    scene.gateway.kill();
    scene.v1.script(|script| script.hold = None);
    let yaml = configuration(&scene.v1.url(), &scene.v2.url(), "tag_ttl: 0s");
    scene.gateway.restart_with(&yaml);
    let reply: Reply = scene.get(MANIFEST);
    assert_eq!(reply.status(), 200);
    assert_eq!(
        scene.v1.count("GET", &format!("{}/layer", ids[0])),
        1,
        "the base was known"
    );
    assert_eq!(scene.v1.count("GET", &format!("{}/layer", ids[2])), 2);
    assert_eq!(blobs(&reply).0[0], blobs(&base).0[0]);
}

/// Many clients at once cost as much as one.
#[test]
fn concurrent_clients_share_one_conversion() {
    let scene = Scene::start();
    let ids = push(&scene.v1, "team/app", "1", 1);
    scene.v1.put_tag("other/app", "1", &ids[2]);
    let paths = [MANIFEST, "/v2/other/app/manifests/1"];
    let replies = at_once(16, |number| scene.get(paths[number % 2]));
    for reply in &replies {
        assert_eq!(reply.status(), 200, "{reply:?}");
        assert!(reply.body == replies[0].body);
    }
    for id in ids {
        assert_eq!(scene.v1.count("GET", &format!("{id}/layer")), 1);
    }
}
