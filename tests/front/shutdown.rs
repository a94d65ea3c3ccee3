//! SIGTERM drains requests in flight, closes idle connections, and ends in time.

use std::time::{Duration, Instant};

use super::Scene;
use crate::wire::h2::{self, DATA, END_STREAM, GOAWAY, H2, HEADERS, WINDOW_UPDATE};
use testkit::http::{Connect, Cut, End, Raw};
use testkit::image::random;
use testkit::origin::{Fault, Latch};
use testkit::until;

const SIZE: usize = 3 << 20;
/// The bytes that the origin sends before it waits.
const HALF: usize = 1 << 20;
/// A shutdown without requests in flight does not wait.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A cold download over each listener, of which some bytes have arrived.
fn begun(scene: &Scene) -> Vec<(Raw, u64)> {
    let ca = scene.gateway.ca_path();
    let begin = |index: usize| {
        let mut raw = Raw::connect(scene.gateway.url(index), Some(&ca));
        raw.request("GET", &scene.path, &[]);
        let head = raw.read_head().expect("an answer");
        assert_eq!((head.status, head.length()), (200, Some(SIZE as u64)));
        assert_eq!(raw.read_exactly(1_000), random(1, 1_000));
        (raw, SIZE as u64 - 1_000)
    };
    vec![begin(0), begin(1)]
}

fn refuses(scene: &Scene, index: usize) -> bool {
    let ca = scene.gateway.ca_path();
    let how = Connect {
        ca: Some(&ca),
        ..Connect::default()
    };
    Raw::connect_with(scene.gateway.url(index), how).is_err()
}

#[test]
fn shutdown_finishes_requests_and_closes_idle_connections() {
    let mut scene = Scene::new(SIZE, "limits: {drain: 30s, idle_timeout: 60s}\n");
    let latch = Latch::new();
    let hold = Fault::PauseAt(HALF as u64, latch.clone());
    scene.origin.fault(hold.on("GET", "*/blobs/*"));
    let ca = scene.gateway.ca_path();
    let url = scene.gateway.url(0).to_owned();

    let running = begun(&scene);
    let mut stream = H2::connect(&url, &ca, 1 << 30);
    stream
        .send(&h2::request(1, &h2::pseudo("GET", &scene.path)))
        .expect("it is taken");
    while stream.next().expect("a frame").kind != HEADERS {}
    let mut idle = [
        Raw::connect(&url, Some(&ca)),
        Raw::connect(scene.gateway.url(1), None),
    ];
    for raw in &mut idle {
        assert_eq!(raw.get("/v2/").status(), 200);
    }
    let mut silent = Raw::connect(scene.gateway.url(1), None);
    let mut idle_h2 = H2::connect(&url, &ca, 1 << 20);
    let reply = idle_h2.exchange(1, &h2::pseudo("GET", "/v2/"));
    assert_eq!(reply.expect("an answer").status(), 200);

    let since = Instant::now();
    scene.gateway.begin_termination();
    for raw in &mut idle {
        assert_eq!(raw.read_to_end(), (Vec::new(), Cut::Closed));
    }
    let (bytes, cut) = silent.read_to_end();
    assert!(bytes.is_empty() && cut != Cut::TimedOut, "{cut:?}");
    let cut = loop {
        match idle_h2.next() {
            Ok(frame) => assert_eq!(frame.kind, GOAWAY),
            Err(cut) => break cut,
        }
    };
    assert_ne!(cut, Cut::TimedOut);
    for index in 0..2 {
        until("new connections to be refused", || refuses(&scene, index));
    }
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    assert!(scene.gateway.is_running(), "downloads run");

    latch.release();
    for (mut raw, left) in running {
        let rest = raw.read_exactly(left);
        assert!(rest == random(1, SIZE)[1_000..]);
        // The connection is not reused for another request.
        assert_eq!(raw.read_to_end(), (Vec::new(), Cut::Closed));
    }
    let mut body: Vec<u8> = Vec::new();
    loop {
        let frame = stream.next().expect("a frame");
        if frame.kind == DATA && frame.stream == 1 {
            body.extend(&frame.payload);
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert!(body == random(1, SIZE));
    drop(stream);
    assert_eq!(scene.gateway.wait().code(), Some(0));
    assert!(
        since.elapsed() < Duration::from_secs(25),
        "it did not wait for the drain's end"
    );
}

#[test]
fn requests_beyond_the_drain_are_cut_off() {
    let mut scene = Scene::new(SIZE, "limits: {drain: 1s}\n");
    let stall = Fault::StallAt(HALF as u64);
    scene.origin.fault(stall.on("GET", "*/blobs/*"));
    let running = begun(&scene);
    let since = Instant::now();
    scene.gateway.begin_termination();
    assert_eq!(scene.gateway.wait().code(), Some(0));
    let took = since.elapsed();
    assert!(
        (Duration::from_millis(900)..AT_ONCE).contains(&took),
        "{took:?}"
    );
    for (mut raw, left) in running {
        let (rest, cut) = raw.read_to_end();
        assert!(
            (rest.len() as u64) < left && cut != Cut::TimedOut,
            "{} {cut:?}",
            rest.len()
        );
    }
}

#[test]
fn idle_gateway_stops_at_once() {
    let mut scene = Scene::warm(10, "limits: {drain: 60s}\n");
    let ca = scene.gateway.ca_path();
    let mut retained = Raw::connect(scene.gateway.url(0), Some(&ca));
    assert_eq!(retained.get("/v2/").end, End::Complete);
    for _ in 0..3 {
        let since = Instant::now();
        assert_eq!(scene.gateway.terminate().code(), Some(0));
        assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
        scene.gateway.restart();
    }
    let log = scene.gateway.log();
    assert!(
        !log.contains("cut off") && !log.contains("panicked"),
        "{log}"
    );
}

/// A client that receives slowly, as on a long line, goes on opening windows after the gateway has sent all.
#[test]
fn last_response_of_an_http2_connection_arrives_whole() {
    const WINDOW: u32 = 64 << 10;

    let mut scene = Scene::warm(1 << 20, "limits: {drain: 60s, idle_timeout: 60s}\n");
    let ca = scene.gateway.ca_path();
    let sent = |scene: &Scene| {
        scene
            .gateway
            .log()
            .matches("status=200 bytes=1048576")
            .count()
    };
    let before = sent(&scene);
    let mut client = H2::connect(scene.gateway.url(0), &ca, WINDOW);
    let request = h2::request(1, &h2::pseudo("GET", &scene.path));
    client.send(&request).expect("it is taken");
    let mut body: Vec<u8> = Vec::new();
    while body.len() < WINDOW as usize {
        let frame = client.next().expect("a frame");
        if frame.kind == DATA {
            body.extend(&frame.payload);
        }
    }
    scene.gateway.begin_termination();
    // The first GOAWAY is of all streams, the second of those that were seen.
    while client.next().expect("a frame").kind != GOAWAY {}
    loop {
        let frame = client.next().expect("a frame");
        if frame.kind == GOAWAY && frame.payload[..4] == [0, 0, 0, 1] {
            break;
        }
    }
    let open = |stream, bytes: u32| h2::frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    client.send(&open(1, 1 << 20)).expect("it is taken");
    until("all is sent", || sent(&scene) > before);
    loop {
        let frame = client.next().expect("a frame");
        if frame.kind == DATA {
            body.extend(&frame.payload);
            if frame.flags & END_STREAM != 0 {
                break;
            }
            client.send(&open(0, 1 << 10)).expect("it is taken");
        }
    }
    assert!(body == random(1, 1 << 20));
    assert_eq!(client.end(), Cut::Closed);
    drop(client);
    assert_eq!(scene.gateway.wait().code(), Some(0));
}
