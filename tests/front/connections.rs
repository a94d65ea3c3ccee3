//! The number of connections, and readers that do not read.

use std::time::{Duration, Instant};

use super::Scene;
use crate::wire::h2::{self, DATA, END_STREAM, GOAWAY, H2, RST_STREAM};
use testkit::http::{Connect, Cut, End, Raw};
use testkit::image::random;
use testkit::{eventually, until};

/// More than all buffers between two sockets can hold.
const LARGE: usize = 48 << 20;
/// The tolerance of a deadline.
const LATE: Duration = Duration::from_secs(10);

#[test]
fn connections_are_limited() {
    const LIMIT: usize = 4;

    let scene = Scene::new(10, "limits: {connections: 4, header_timeout: 60s}\n");
    let ca = scene.gateway.ca_path();
    let listener = |index: usize| (scene.gateway.url(index % 2), Some(ca.as_path()));
    // On all listeners together; silent connections count too.
    let mut open: Vec<Raw> = (0..LIMIT)
        .map(|index| {
            let (url, ca) = listener(index);
            Raw::connect(url, ca)
        })
        .collect();
    for raw in &mut open[1..] {
        assert_eq!(raw.get("/v2/").status(), 200);
    }
    for _ in 0..3 {
        let since = Instant::now();
        let mut refused = Raw::connect(scene.gateway.url(1), None);
        let (bytes, cut) = refused.read_to_end();
        assert!(
            bytes.is_empty() && cut != Cut::TimedOut,
            "{bytes:?} {cut:?}"
        );
        assert!(since.elapsed() < Duration::from_secs(5), "not at once");
        let (url, ca) = listener(0);
        let how = Connect {
            ca,
            ..Connect::default()
        };
        assert!(
            Raw::connect_with(url, how).is_err(),
            "a handshake over the limit"
        );
    }
    for raw in &mut open {
        assert_eq!(raw.get("/v2/").status(), 200);
    }
    // Each that closes frees a slot.
    for index in 0..LIMIT {
        drop(open.remove(0));
        let (url, ca) = listener(index);
        let how = Connect {
            ca,
            ..Connect::default()
        };
        open.push(eventually("room for another", || {
            let mut raw = Raw::connect_with(url, how).ok()?;
            raw.try_send("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
            let head = raw.read_head().ok()?;
            raw.read_body("GET", &head);
            (head.status == 200).then_some(raw)
        }));
    }
    let mut refused = Raw::connect(scene.gateway.url(1), None);
    assert!(refused.read_to_end().0.is_empty());
}

/// Reads the head of the large blob and a little more, then stops.
fn stopped(scene: &Scene, index: usize) -> Raw {
    let ca = scene.gateway.ca_path();
    let how = Connect {
        ca: Some(&ca),
        receive_buffer: Some(64 << 10),
        ..Connect::default()
    };
    let mut raw = Raw::connect_with(scene.gateway.url(index), how).expect("a connection");
    raw.request("GET", &scene.path, &[]);
    let head = raw.read_head().expect("an answer");
    assert_eq!((head.status, head.length()), (200, Some(LARGE as u64)));
    assert_eq!(raw.read_exactly(1_000), random(1, 1_000));
    raw
}

#[test]
fn stalled_reader_is_cut_off_and_others_continue() {
    let scene = Scene::warm(LARGE, "limits: {idle_timeout: 1s}\n");
    let mut idle: Vec<Raw> = (0..4).map(|index| stopped(&scene, index % 2)).collect();
    assert!(idle.iter().all(Raw::peer_is_open));
    // Another client's download completes meanwhile.
    let reply = testkit::http::get(scene.gateway.url(1), None, &scene.path);
    assert_eq!((reply.body.len(), reply.end), (LARGE, End::Complete));
    let since = Instant::now();
    until("the stopped readers to go", || {
        !idle.iter().any(Raw::peer_is_open)
    });
    assert!(since.elapsed() < LATE, "{:?}", since.elapsed());
    for raw in &mut idle {
        let (rest, cut) = raw.read_to_end();
        assert!(
            rest.len() < LARGE - 1_000 && cut != Cut::TimedOut,
            "{} {cut:?}",
            rest.len()
        );
    }
}

#[test]
fn slow_reader_is_not_cut_off() {
    let scene = Scene::warm(LARGE, "limits: {idle_timeout: 1s}\n");
    for index in 0..2 {
        let mut raw = stopped(&scene, index);
        let slow = raw.read_slowly(900_000, 300_000).expect("it goes on");
        assert!(slow == random(1, 901_000)[1_000..]);
        let left = (LARGE - 901_000) as u64;
        assert_eq!(raw.read_exactly(left).len() as u64, left);
    }
}

/// On h2 the connection lives, and only the stream's window stays closed.
#[test]
fn stalled_h2_stream_is_cut_off() {
    let scene = Scene::warm(LARGE, "limits: {idle_timeout: 1s}\n");
    let mut connection = H2::connect(scene.gateway.url(0), &scene.gateway.ca_path(), 100_000);
    connection
        .send(&h2::request(1, &h2::pseudo("GET", &scene.path)))
        .expect("it is taken");
    let mut received = 0;
    while received < 100_000 {
        let frame = connection.next().expect("a frame");
        assert!(
            frame.flags & END_STREAM == 0 || frame.kind != DATA,
            "it ended"
        );
        if frame.kind == DATA {
            received += frame.payload.len();
        }
    }
    let since = Instant::now();
    // Another stream is served, and the connection answers, while this one stalls.
    let ping = connection.exchange(3, &h2::pseudo("GET", "/v2/"));
    assert_eq!(ping.expect("an answer").status(), 200);
    connection.read_timeout(Duration::from_millis(200));
    let reset = loop {
        match connection.next() {
            Ok(frame) if frame.kind == RST_STREAM && frame.stream == 1 => break true,
            Ok(frame) if frame.kind == GOAWAY => break false,
            Err(Cut::TimedOut) => {
                let waited = since.elapsed();
                assert!(waited < LATE, "a stream stands still for {waited:?}");
            }
            Err(_) => break false,
            Ok(_) => {}
        }
    };
    if reset {
        connection.read_timeout(LATE);
        let ping = connection.exchange(5, &h2::pseudo("GET", "/v2/"));
        assert_eq!(ping.expect("an answer").status(), 200);
    }
}

/// On h2 as on h1: the client does not read the socket at all.
#[test]
fn stalled_h2_connection_is_cut_off() {
    // The scrub would open files now and then.
    let more = "limits: {idle_timeout: 1s}\nstore: {scrub_every: off}\n";
    let scene = Scene::warm(LARGE, more);
    let ca = scene.gateway.ca_path();
    let before = scene.gateway.open_fds();
    let mut connections: Vec<H2> = (0..2)
        .map(|_| {
            let mut connection = H2::connect(scene.gateway.url(0), &ca, 1 << 30);
            for stream in [1, 3] {
                let request = h2::request(stream, &h2::pseudo("GET", &scene.path));
                connection.send(&request).expect("it is taken");
            }
            connection.next().expect("an answer begins");
            connection
        })
        .collect();
    let since = Instant::now();
    until("both to go", || scene.gateway.open_fds() <= before);
    assert!(since.elapsed() < LATE, "{:?}", since.elapsed());
    for connection in &mut connections {
        assert_ne!(connection.end(), Cut::TimedOut);
    }
    let reply = testkit::http::get(scene.gateway.url(1), None, "/v2/");
    assert_eq!(reply.status(), 200);
}
