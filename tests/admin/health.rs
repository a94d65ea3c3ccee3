//! `/livez` and `/readyz`.

use super::*;
use testkit::origin::{Fault, Latch};
use testkit::until;

#[track_caller]
fn told(gateway: &Gateway, path: &str) -> (u16, String) {
    let reply = ask(gateway, path);
    (reply.status(), reply.text())
}

#[test]
fn gateway_is_ready_while_an_upstream_is_down() {
    let (mut origin, image, gateway) = scene(1000, ANYWHERE);
    origin.down();
    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 503);
    assert_eq!(told(&gateway, "/livez"), (200, "alive\n".to_owned()));
    assert_eq!(told(&gateway, "/readyz"), (200, "ready\n".to_owned()));
}

#[test]
fn gateway_is_not_ready_while_the_store_is_read_only() {
    let (_origin, image, gateway) = scene(1000, ANYWHERE);
    pull(&gateway, &image);
    assert_eq!(told(&gateway, "/readyz").0, 200);
    // A file in the folder's place: not even root can write below it.
    let (partials, aside) = (
        gateway.store().join("partials"),
        gateway.store().join("aside"),
    );
    std::fs::rename(&partials, &aside).expect("a folder");
    std::fs::write(&partials, b"").expect("writable");
    until("the store to be found read-only", || {
        told(&gateway, "/readyz").0 == 503
    });
    let (_, reason) = told(&gateway, "/readyz");
    assert!(
        reason.starts_with("not ready: the store cannot be written: "),
        "{reason}"
    );
    assert!(!reason.contains("var/store"), "{reason}");
    // It stays alive, and serves cached content.
    assert_eq!(told(&gateway, "/livez").0, 200);
    pull(&gateway, &image);
    let stats: serde_json::Value =
        serde_json::from_slice(&ask(&gateway, "/api/v1/overview").body).expect("JSON");
    assert_eq!(stats["ready"], false);

    std::fs::remove_file(&partials).expect("a file");
    std::fs::rename(&aside, &partials).expect("a folder");
    until("the store to be found writable", || {
        told(&gateway, "/readyz").0 == 200
    });
    let left = std::fs::read_dir(&partials).expect("a folder").count();
    assert_eq!(left, 0, "the probe is removed");
}

#[test]
fn draining_gateway_is_live_and_not_ready() {
    let (origin, image, mut gateway) = scene(2 << 20, ANYWHERE);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", "*/blobs/*"));
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &image.layer_path(0), &[]);
    raw.read_exactly(1);
    latch.wait_reached(1);
    gateway.begin_termination();
    until("it to be unready", || told(&gateway, "/readyz").0 == 503);
    assert_eq!(told(&gateway, "/readyz").1, "not ready: it is draining\n");
    assert_eq!(told(&gateway, "/livez").0, 200);
    latch.release();
    let (rest, _) = raw.read_to_end();
    assert!(rest.len() >= 2 << 20);
    assert_eq!(gateway.wait().code(), Some(0));
}

/// For health checks: 0 where the gateway is ready, 1 where it is not or cannot be reached, 78 where there is no address to ask.
#[test]
fn health_command_tells_whether_the_gateway_is_ready() {
    for admin in [
        "address: \"127.0.0.1:PORT\"",
        "address: off, metrics: \"127.0.0.1:PORT\"",
    ] {
        let port = testkit::private_address();
        let admin = admin.replace("127.0.0.1:PORT", &port.to_string());
        let mut gateway = Gateway::start(&format!("admin: {{{admin}}}\n"));
        let health = |gateway: &Gateway| {
            let output = gateway.roadstead(&["health"]);
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), out)
        };
        assert_eq!(health(&gateway), (Some(0), "ready\n".to_owned()), "{admin}");
        gateway.kill();
        assert_eq!(health(&gateway), (Some(1), String::new()), "{admin}");
    }
    let gateway = Gateway::start("admin: {address: off}\n");
    assert_eq!(gateway.roadstead(&["health"]).status.code(), Some(78));
}
