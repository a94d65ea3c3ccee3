//! v1 sides that a reload adds, removes and changes.

use super::{Scene, applied};
use crate::v1::daemon::Daemon;
use crate::v1::versions::OLD;
use testkit::gateway::Gateway;
use testkit::http::Raw;
use testkit::origin::Origin;
use testkit::v1::V1Registry;

const MORE: &str =
    "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n";

/// A gateway's registry with these sides.
fn yaml(v2: &Origin, v1: Option<&V1Registry>, keys: &str) -> String {
    let v1 = v1.map_or(String::new(), |v1| format!(", v1: \"{}\"", v1.url()));
    let url = v2.url();
    format!(
        "registries: [{{name: hosted, v2: \"{url}\"{v1}{keys}}}]\n{}{MORE}",
        super::ADMIN
    )
}

fn pull(gateway: &Gateway, name: &str, tag: &str) -> Option<Vec<Vec<u8>>> {
    Daemon::new(OLD[1], gateway, None).pull(name, tag).ok()
}

#[test]
fn v1_sides_come_and_go() {
    let scene = Scene::new(1000);
    let (one, other) = (V1Registry::start(), V1Registry::start());
    one.push_image("team/old", "1", &[b"base of one", b"top of one"]);
    other.push_image("team/old", "1", &[b"base of other", b"top of other"]);
    other.push_image("team/new", "1", &[b"new"]);
    let first = Some(vec![b"top of one".to_vec(), b"base of one".to_vec()]);
    let second = Some(vec![b"top of other".to_vec(), b"base of other".to_vec()]);
    let with = |v1: Option<&V1Registry>| {
        yaml(
            &scene.origin,
            v1,
            ", bridge: false, tag_ttl: 0s, missing_ttl: 1h",
        )
    };
    let gateway = Gateway::start(&with(None));
    let modern = || {
        Raw::connect(gateway.url(1), None)
            .get(&scene.image.tag_path())
            .status()
    };
    assert_eq!(pull(&gateway, "team/old", "1"), None);
    applied(&gateway.reload(&with(Some(&one))));
    assert_eq!(pull(&gateway, "team/old", "1"), first);
    // It is cached, and a reload of something else keeps that.
    assert_eq!(pull(&gateway, "team/new", "1"), None);
    let layers = || one.count("GET", "/layer");
    let cached = layers();
    assert_eq!(cached, 2);
    applied(&gateway.reload(&(with(Some(&one)) + "limits: {idle_timeout: 60s}\n")));
    assert_eq!(pull(&gateway, "team/old", "1"), first);
    assert_eq!(layers(), cached);
    // Another registry: nothing that the former one said is an answer of this one.
    applied(&gateway.reload(&with(Some(&other))));
    let requests = one.requests().len();
    assert_eq!(pull(&gateway, "team/new", "1"), Some(vec![b"new".to_vec()]));
    assert_eq!(pull(&gateway, "team/old", "1"), second);
    assert_eq!(one.requests().len(), requests, "it is not asked any more");
    assert_eq!(modern(), 200);
    applied(&gateway.reload(&with(None)));
    assert_eq!(pull(&gateway, "team/old", "1"), None);
    assert_eq!(modern(), 200);
}

#[test]
fn bridge_shows_what_a_reload_adds() {
    let scene = Scene::new(1000);
    let registry = V1Registry::start();
    let layer = testkit::gzip(&testkit::image::tar(&[("etc/", b""), ("etc/base", b"1")]));
    let json = serde_json::json!({
        "created": "2014-10-01T20:46:00.5Z", "docker_version": "1.2.0", "architecture": "amd64", "os": "linux",
    });
    registry.put_image("team/bridged", "1", &[(json, &layer)]);
    let without = yaml(&scene.origin, None, ", tag_ttl: 0s, missing_ttl: 1h");
    let with = yaml(
        &scene.origin,
        Some(&registry),
        ", tag_ttl: 0s, missing_ttl: 1h",
    );
    let gateway = Gateway::start(&without);
    let get = || Raw::connect(gateway.url(1), None).get("/v2/team/bridged/manifests/1");
    assert_eq!(get().status(), 404);
    applied(&gateway.reload(&with));
    let shown = get();
    assert_eq!(shown.status(), 200, "{shown:?}");
    // Its tags are the v1 side's alone.
    applied(&gateway.reload(&without));
    assert_eq!(get().status(), 404);
    applied(&gateway.reload(&with));
    assert_eq!(get().body, shown.body);
}
