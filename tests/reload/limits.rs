//! Limits of clients that a reload changes.

use std::net::IpAddr;

use super::{Scene, applied};
use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw};
use testkit::origin::Fault;
use testkit::until;

const OPEN: &str =
    "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n";

fn yaml(scene: &Scene, limits: &str) -> String {
    scene.yaml(&format!("{OPEN}limits: {{per_client: {{{limits}}}}}\n"))
}

/// A connection of a client on an address of its own. 127.0.0.1 has no limit.
fn connect(gateway: &Gateway) -> Raw {
    let how = Connect {
        source: Some(IpAddr::from([127, 0, 0, 9])),
        ..Connect::default()
    };
    Raw::connect_with(gateway.url(1), how).expect("the kernel accepts it")
}

#[test]
fn rates_change() {
    let scene = Scene::new(1000);
    let gateway = Gateway::start(&yaml(&scene, "rate: 2/h"));
    let mut client = connect(&gateway);
    let path = scene.image.tag_path();
    let mut statuses = |times: usize| -> Vec<u16> {
        let ask = |_| client.get(&path).status();
        (0..times).map(ask).collect()
    };
    assert_eq!(statuses(3), [200, 200, 429]);
    // What a client has used of a rate is not forgotten by a reload of something else.
    applied(&gateway.reload(&yaml(&scene, "rate: 2/h, connections: 100")));
    assert_eq!(statuses(1), [429]);
    applied(&gateway.reload(&yaml(&scene, "rate: off")));
    assert_eq!(statuses(5), [200; 5]);
    applied(&gateway.reload(&yaml(&scene, "rate: 3/h")));
    assert_eq!(statuses(4), [200, 200, 200, 429]);
    applied(&gateway.reload(&scene.yaml(OPEN)));
    assert_eq!(statuses(1), [200], "the default is no limit");
}

#[test]
fn connections_change() {
    let scene = Scene::new(1000);
    let gateway = Gateway::start(&yaml(&scene, "connections: 2"));
    let path = scene.image.tag_path();
    let is_served = |client: &mut Raw| {
        let sent = client.try_send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = sent.ok().and_then(|()| client.read_head().ok());
        let status = head.map(|head| {
            client.read_body("GET", &head);
            head.status
        });
        status == Some(200)
    };
    let mut open: Vec<Raw> = (0..2).map(|_| connect(&gateway)).collect();
    assert!(open.iter_mut().all(is_served));
    assert!(!is_served(&mut connect(&gateway)));
    applied(&gateway.reload(&yaml(&scene, "connections: 3")));
    open.push(connect(&gateway));
    assert!(open.iter_mut().all(is_served));
    assert!(!is_served(&mut connect(&gateway)));
    // Those that are open beyond a lower limit stay, and count.
    applied(&gateway.reload(&yaml(&scene, "connections: 1")));
    assert!(open.iter_mut().all(is_served));
    assert!(!is_served(&mut connect(&gateway)));
    open.clear();
    until("room for a connection", || {
        is_served(&mut connect(&gateway))
    });
}

#[test]
fn requests_in_flight_change() {
    let scene = Scene::new(1000);
    scene.origin.fault(Fault::Stall.on("*", "/v2/team/slow*"));
    let gateway = Gateway::start(&yaml(&scene, "requests: 1"));
    let path = scene.image.tag_path();
    let stall = |number: usize| {
        let mut client = connect(&gateway);
        client.request("GET", &format!("/v2/team/slow{number}/manifests/x"), &[]);
        until("the request to be under way", || {
            scene.origin.count("*", &format!("/v2/team/slow{number}/*")) > 0
        });
        client
    };
    let status = || connect(&gateway).get(&path).status();
    let one = stall(1);
    assert_eq!(status(), 429);
    applied(&gateway.reload(&yaml(&scene, "requests: 2")));
    let two = stall(2);
    // What began before the reload counts on.
    assert_eq!(status(), 429);
    applied(&gateway.reload(&yaml(&scene, "requests: off")));
    assert_eq!(status(), 200);
    drop((one, two));
}
