//! Limits for each client address and for each HTTP/2 connection.

use std::io;
use std::net::IpAddr;

use super::Scene;
use crate::wire::h2::{self, H2, HEADERS, WINDOW_UPDATE};
use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw};
use testkit::image::random;
use testkit::origin::{Fault, Origin};
use testkit::{eventually, until};

/// A client on an address of its own. 127.0.0.1 has no limit.
fn from(last: u8) -> Connect<'static> {
    Connect {
        source: Some(IpAddr::from([127, 0, 0, last])),
        ..Connect::default()
    }
}

fn connect(gateway: &Gateway, last: u8) -> io::Result<Raw> {
    Raw::connect_with(gateway.url(1), from(last))
}

/// Whether a client on this address is served.
fn is_served(gateway: &Gateway, last: u8) -> bool {
    let Ok(mut raw) = connect(gateway, last) else {
        return false;
    };
    let sent = raw.try_send("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n");
    sent.is_ok() && raw.read_head().is_ok_and(|head| head.status == 200)
}

#[test]
fn connections_are_limited_per_address() {
    let scene = Scene::new(10, "limits: {connections: 300, header_timeout: 5m}\n");
    let gateway = &scene.gateway;
    let open: Vec<Raw> = (0..300).filter_map(|_| connect(gateway, 9).ok()).collect();
    assert_eq!(open.len(), 300, "the kernel accepts them");
    assert!(is_served(gateway, 8), "another client is shut out");
    assert!(!is_served(gateway, 9), "its share is taken");
    drop(open);
    until("its connections to be gone", || is_served(gateway, 9));
}

#[test]
fn shares_are_per_address_and_exempt_this_machine() {
    let more = "limits: {header_timeout: 5m, per_client: {connections: 3}}\n";
    let scene = Scene::new(10, more);
    let gateway = &scene.gateway;
    let mut open: Vec<Raw> = (0..3)
        .map(|_| connect(gateway, 9).expect("a connection"))
        .collect();
    for raw in &mut open {
        assert_eq!(raw.get("/v2/").status(), 200);
    }
    let mut refused = connect(gateway, 9).expect("the kernel accepts it");
    assert!(refused.read_to_end().0.is_empty(), "it is closed at once");
    assert!(is_served(gateway, 8));
    // A proxy on this machine is not limited.
    let mut local: Vec<Raw> = (0..20)
        .map(|_| Raw::connect(gateway.url(1), None))
        .collect();
    for raw in &mut local {
        assert_eq!(raw.get("/v2/").status(), 200);
    }
    open.pop();
    let mut again = eventually("room for another", || {
        let mut raw = connect(gateway, 9).ok()?;
        raw.try_send("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
        let head = raw.read_head().ok()?;
        raw.read_body("GET", &head);
        Some(raw)
    });
    assert_eq!(again.get("/v2/").status(), 200);
    until("it is logged", || {
        let log = gateway.log();
        log.contains("limits.per_client.connections") && log.contains("127.0.0.9")
    });
}

#[test]
fn requests_in_flight_are_limited_per_address() {
    let origin = Origin::start();
    let digest = origin.push_blob("library/app", random(1, 1_000));
    origin.fault(Fault::Stall.on("*", "/v2/library/slow*"));
    let more = "limits: {per_client: {requests: 3}}\n";
    let gateway = Gateway::mirror("docker.io", &origin.url(), more);
    let stalled: Vec<Raw> = (0..3)
        .map(|number| {
            let mut raw = connect(&gateway, 9).expect("a connection");
            raw.request("GET", &format!("/v2/library/slow{number}/manifests/x"), &[]);
            raw
        })
        .collect();
    until("all of them to be under way", || {
        origin.count("*", "/v2/library/slow*") >= 3
    });
    let path = format!("/v2/library/app/blobs/{digest}");
    let ask = |last| connect(&gateway, last).expect("a connection").get(&path);
    let refused = ask(9);
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.error_code().as_deref(), Some("TOOMANYREQUESTS"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(ask(8).status(), 200);
    drop(stalled);
}

/// Work of a reset stream counts until it ends, so that a client cannot pile it up.
#[test]
fn reset_streams_count_until_their_work_ends() {
    const STREAMS: u32 = 100;

    let origin = Origin::start();
    origin.fault(Fault::Stall.on("*", "/v2/library/slow*"));
    let gateway = Gateway::mirror("docker.io", &origin.url(), "limits: {connections: 2}\n");
    let mut connection = H2::connect(gateway.url(0), &gateway.ca_path(), 1 << 20);
    let streams = || (1..2 * STREAMS).step_by(2);
    for stream in streams() {
        let path = format!("/v2/library/slow{stream}/manifests/x");
        let request = h2::request(stream, &h2::pseudo("GET", &path));
        connection.send(&request).expect("it is taken");
    }
    until("all of them to be under way", || {
        origin.count("*", "/v2/library/slow*") >= STREAMS as usize
    });
    for stream in streams() {
        let reset = h2::frame(h2::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        connection.send(&reset).expect("it is taken");
    }
    let ping = connection.exchange(2 * STREAMS + 1, &h2::pseudo("GET", "/v2/"));
    let ping = ping.expect("an answer");
    assert_eq!(ping.status(), 503, "{}", ping.text());
    assert!(ping.header("retry-after").is_some());
    until("their work to end", || is_served(&gateway, 9));
}

/// The bytes that a connection may send before the gateway reads any.
fn window(connection: &mut H2) -> u64 {
    let request = h2::request(1, &h2::pseudo("GET", "/v2/"));
    connection.send(&request).expect("it is taken");
    let mut window = 65_535;
    loop {
        let frame = connection.next().expect("a frame");
        match frame.kind {
            WINDOW_UPDATE if frame.stream == 0 => {
                let more = frame.payload.first_chunk().expect("four bytes");
                window += u64::from(u32::from_be_bytes(*more));
            }
            HEADERS => return window,
            _ => {}
        }
    }
}

#[test]
fn h2_buffering_is_bounded() {
    const WIDE: usize = 128;
    const MORE: usize = 12;

    let scene = Scene::new(10, "");
    let ca = scene.gateway.ca_path();
    let mut open: Vec<H2> = (0..WIDE + MORE)
        .map(|_| H2::connect(scene.gateway.url(0), &ca, 1 << 20))
        .collect();
    let windows: Vec<u64> = open.iter_mut().map(window).collect();
    assert!(
        windows.iter().all(|&window| window <= 2 << 20),
        "{windows:?}"
    );
    let narrow = windows.iter().filter(|&&window| window == 65_535).count();
    assert_eq!(narrow, MORE, "{windows:?}");
    // Streams that end free their room.
    open.clear();
    until("a wide window again", || {
        let mut connection = H2::connect(scene.gateway.url(0), &ca, 1 << 20);
        window(&mut connection) == 2 << 20
    });
}
