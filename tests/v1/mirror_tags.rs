//! Tags and lists of a mirrored registry: cached for `tag_ttl`, then revalidated, and stale while it fails.

use testkit::gateway::Gateway;
use testkit::v1::V1Registry;

use super::mirror::{ask, cache, fetch, mirror, mirror_with, named};
use crate::v1::{Daemon, OLD};

/// `tag_ttl`, as the recipe sets it from docker-registry's default.
#[test]
fn tags_are_cached_for_tag_ttl() {
    let registry = V1Registry::start();
    let ids = registry.push_image("team/app", "1", &[b"first", b"second"]);
    let recipe =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/v1-mirror.yaml"))
            .expect("the recipe");
    assert!(recipe.contains("tag_ttl: 172800s"), "{recipe}");
    let ttl = |seconds| {
        let url = registry.url();
        let recipe = recipe.replace("https://old.example.com", &url);
        let recipe = recipe.replace("172800s", seconds);
        recipe
            .replace(":443\", tls: auto", "127.0.0.1:0\", tls: auto")
            .replace(":80\"", "127.0.0.1:0\"")
    };
    let mut gateway = Gateway::start(&ttl("172800s"));
    let top = format!("\"{}\"", ids[1]);
    let (tags, one) = (named("team/app", "tags"), named("team/app", "tags/1"));
    let first = fetch(&gateway, &one);
    assert_eq!(first.text(), top, "{first:?}");
    assert!(cache(&first).contains("fwd=uri-miss; stored"), "{first:?}");
    registry.put_tag("team/app", "1", &ids[0]);
    let again = fetch(&gateway, &one);
    assert_eq!(again.text(), top, "it is trusted");
    assert!(cache(&again).contains("hit; ttl=17"), "{again:?}");
    assert_eq!(registry.requests_to("/tags/1").len(), 1);

    // After that it is requested once more.
    gateway.restart_with(&ttl("0s"));
    let moved = fetch(&gateway, &one);
    assert_eq!(moved.text(), format!("\"{}\"", ids[0]));
    assert!(cache(&moved).contains("detail=moved"), "{moved:?}");
    assert!(cache(&fetch(&gateway, &one)).contains("detail=revalidated"));
    assert_eq!(fetch(&gateway, &tags).status(), 200);

    // Stale while the upstream fails.
    for broken in [500, 503, 429] {
        registry.script(|script| script.broken = Some(broken));
        for path in [&one, &tags] {
            let stale = fetch(&gateway, path);
            assert_eq!(stale.status(), 200, "{broken} {stale:?}");
            assert!(cache(&stale).contains("fwd=stale"), "{stale:?}");
            assert!(stale.header("warning").is_some() && stale.header("age").is_some());
        }
    }
    registry.script(|script| script.broken = None);
    drop(registry);
    gateway.restart_with(&ttl_of(&gateway));
    let stale = fetch(&gateway, &one);
    assert_eq!(stale.text(), format!("\"{}\"", ids[0]));
    assert!(cache(&stale).contains("detail=unavailable"), "{stale:?}");
}

/// The gateway's configuration with another `tag_ttl`.
fn ttl_of(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.dir().join("roadstead.yaml")).expect("its configuration")
}

/// A deleted tag is not answered from the cache.
#[test]
fn deleted_tag_is_404() {
    let registry = V1Registry::start();
    registry.push_image("team/app", "1", &[b"layer"]);
    let gateway = mirror_with(&registry, ", tag_ttl: 0s");
    let one = named("team/app", "tags/1");
    assert_eq!(fetch(&gateway, &one).status(), 200);
    registry.delete_tag("team/app", "1");
    assert_eq!(fetch(&gateway, &one).status(), 404);
    registry.script(|script| script.broken = Some(500));
    let reply = fetch(&gateway, &one);
    assert_eq!(reply.status(), 503, "nothing is known of it: {reply:?}");
}

/// A cached tag does not hide an uncached one.
#[test]
fn cached_tag_hides_no_other() {
    let registry = V1Registry::start();
    registry.push_image("team/app", "1", &[b"one"]);
    registry.push_image("team/app", "2", &[b"two"]);
    let gateway = mirror(&registry);
    assert_eq!(fetch(&gateway, &named("team/app", "tags/1")).status(), 200);
    Daemon::new(OLD[4], &gateway, None)
        .pull("team/app", "1")
        .expect("pulled");
    let tags = fetch(&gateway, &named("team/app", "tags")).text();
    let tags: serde_json::Value = serde_json::from_str(&tags).expect("JSON");
    assert_eq!(tags.as_object().expect("a map").len(), 2, "{tags}");
    // No tag can be local, since the mirror takes no pushes.
    let put = ask(&gateway, "PUT", &named("team/app", "tags/3"), &[]);
    assert_eq!(put.status(), 405);
    assert_eq!(fetch(&gateway, &named("team/app", "tags/2")).status(), 200);
    assert_eq!(fetch(&gateway, &named("team/app", "tags/3")).status(), 404);
}

/// Concurrent clients of a stale list cause one upstream request.
#[test]
fn concurrent_lists_cost_one_request() {
    let registry = V1Registry::start();
    registry.push_image("team/app", "1", &[b"layer"]);
    let gateway = mirror(&registry);
    let replies = testkit::http::at_once(5, |_| fetch(&gateway, &named("team/app", "tags")));
    assert!(replies.iter().all(|reply| reply.status() == 200));
    let requests = registry.requests_to("/tags").len();
    assert_eq!(requests, 1, "five asked at once");
}
