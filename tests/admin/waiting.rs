//! The clients that wait for a fill, as operators see them.

use std::net::{IpAddr, Ipv4Addr};

use super::explain::accounts;
use super::*;
use serde_json::json;
use testkit::basic;
use testkit::origin::Fault;

/// A GET of this path, answered as far as its head, by a client at an address.
#[track_caller]
fn waiter(gateway: &Gateway, path: &str, last: u8, login: Option<&str>) -> Raw {
    let how = Connect {
        source: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))),
        ..Connect::default()
    };
    let mut raw = Raw::connect_with(gateway.url(0), how).expect("a connection");
    let login = login.map(|user| ("Authorization", basic(user, "secret")));
    let headers: Vec<_> = login
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    raw.request("GET", path, &headers);
    let head = raw.read_head().expect("an answer");
    assert_eq!(head.status, 200, "{head:?}");
    raw
}

/// Who waits for the one fill, and how many requests do.
#[track_caller]
fn waiting(gateway: &Gateway) -> (Vec<Value>, u64) {
    let fill = &read(gateway, "/api/v1/fills")["items"][0];
    let readers = fill["readers"].as_array().cloned().unwrap_or_default();
    (readers, fill["readers_total"].as_u64().unwrap_or_default())
}

fn reader(last: u8, user: Option<&str>) -> Value {
    json!({"client": format!("127.0.0.{last}"), "user": user})
}

/// A gateway with users, and an origin whose layer outlasts the test: who has left is noticed with the next bytes.
fn slow() -> (Origin, Image, Gateway, tempfile::TempDir) {
    let dir = testkit::temp_dir();
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 16 << 20)]);
    origin.fault(Fault::Throttle(100_000).on("GET", &image.layer_path(0)));
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", visibility: public, default: true, connections_per_fill: 1}}]\n\
         access: {{htpasswd: {}, rules: [{{users: [anonymous, alice], repositories: [\"**\"], actions: [pull]}}]}}\n\
         listen: [{{address: \"127.0.0.1:0\", tls: off}}]\n{ANYWHERE}",
        origin.url(),
        accounts(dir.path()).display(),
    ));
    assert_eq!(get(gateway.url(0), None, &image.tag_path()).status(), 200);
    (origin, image, gateway, dir)
}

/// Waits until no request waits for the one fill, which goes on.
#[track_caller]
fn until_all_have_left(gateway: &Gateway) {
    until("all clients to have left", || {
        waiting(gateway) == (vec![], 0)
    });
    assert_eq!(read(gateway, "/api/v1/fills")["total"], 1);
}

#[test]
fn clients_that_wait_for_a_fill_are_named() {
    let (_origin, image, gateway, _dir) = slow();
    let path = image.layer_path(0);
    let alice = waiter(&gateway, &path, 2, Some("alice"));
    let other = waiter(&gateway, &path, 3, None);
    let again = waiter(&gateway, &path, 3, None);
    let both = vec![reader(2, Some("alice")), reader(3, None)];
    assert_eq!(waiting(&gateway), (both, 3), "each is named once");
    drop(alice);
    until("alice to have left", || {
        waiting(&gateway) == (vec![reader(3, None)], 2)
    });
    drop((other, again));
    until_all_have_left(&gateway);
}

/// However many wait, twenty are named, and all are counted.
#[test]
fn clients_that_are_named_are_bounded() {
    let (_origin, image, gateway, _dir) = slow();
    let path = image.layer_path(0);
    let all: Vec<Raw> = (2..=102)
        .map(|last| waiter(&gateway, &path, last, None))
        .collect();
    let (readers, total) = waiting(&gateway);
    let expected: Vec<Value> = (2..=21).map(|last| reader(last, None)).collect();
    assert_eq!((readers, total), (expected, 101));
    drop(all);
    until_all_have_left(&gateway);
}

#[cfg(feature = "v1")]
#[test]
fn clients_that_wait_for_a_v1_layer_are_named() {
    let registry = testkit::v1::V1Registry::start();
    registry.script(|script| script.hold = Some(100_000));
    let layer = random(1, 300_000);
    let ids = registry.push_image("team/app", "1", &[&layer]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\", visibility: public, default: true}}]\n\
         listen: [{{address: \"127.0.0.1:0\", tls: off}}]\n{ANYWHERE}",
        registry.url()
    ));
    let images = get(gateway.url(0), None, "/v1/repositories/team/app/images");
    assert_eq!(images.status(), 200, "{images:?}");
    let layer = waiter(&gateway, &format!("/v1/images/{}/layer", ids[0]), 2, None);
    assert_eq!(waiting(&gateway), (vec![reader(2, None)], 1));
    let kind = &read(&gateway, "/api/v1/fills")["items"][0]["kind"];
    assert_eq!(kind, "v1-layer");
    drop(layer);
    registry.script(|script| script.hold = None);
    until("nobody to wait", || waiting(&gateway).1 == 0);
}
