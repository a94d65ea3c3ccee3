//! Request heads: their length, their deadline, and one after the other.

use std::time::{Duration, Instant};

use super::Scene;
use crate::wire::h2::{self, GOAWAY, H2, HEADERS, PREFACE, Refused};
use testkit::http::{Cut, End, Raw};
use testkit::image::random;

/// The tolerance of a deadline of one second.
const LATE: Duration = Duration::from_secs(6);
const EARLY: Duration = Duration::from_millis(700);

/// A connection to each listener in turn, opened when needed.
fn listeners(scene: &Scene) -> impl Iterator<Item = Raw> {
    let ca = scene.gateway.ca_path();
    (0..2).map(move |index| Raw::connect(scene.gateway.url(index), Some(&ca)))
}

#[track_caller]
fn assert_about_a_second(since: Instant) {
    let waited = since.elapsed();
    assert!((EARLY..LATE).contains(&waited), "{waited:?}");
}

/// A head of exactly `bytes` bytes.
fn head_of(bytes: usize) -> String {
    let (start, end) = ("GET /v2/ HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n");
    format!(
        "{start}{}{end}",
        "x".repeat(bytes - start.len() - end.len())
    )
}

#[test]
fn request_heads_are_limited() {
    let scene = Scene::new(10, "limits: {header_bytes: 2KiB}\n");
    for mut raw in listeners(&scene) {
        for length in [2047, 2048] {
            raw.send(head_of(length));
            assert_eq!(raw.reply("GET").status(), 200, "{length}");
        }
        raw.send(head_of(2049));
        let reply = raw.reply("GET");
        assert_eq!((reply.status(), &reply.end), (431, &End::Complete));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert!(reply.error_code().is_some(), "{reply:?}");
        assert_eq!(raw.read_to_end(), (Vec::new(), Cut::Closed));
    }
    for bytes in [3_000, 20_000, 200_000] {
        for mut raw in listeners(&scene) {
            // The gateway need not read all of it.
            let _ = raw.try_send(head_of(bytes));
            let head = raw.read_head().expect("an answer");
            assert_eq!(head.status, 431, "{bytes}");
        }
    }
}

#[test]
fn long_h2_head_is_refused_without_effect_on_others() {
    let scene = Scene::new(10, "limits: {header_bytes: 2KiB}\n");
    let ca = scene.gateway.ca_path();
    let connect = || H2::connect(scene.gateway.url(0), &ca, 1 << 20);
    for bytes in [2_100, 16_000, 60_000, 1_000_000] {
        let mut connection = connect();
        let value = "x".repeat(bytes);
        let mut fields = h2::pseudo("GET", "/v2/").to_vec();
        fields.push((b"x", value.as_bytes()));
        match connection.exchange(1, &fields) {
            Ok(reply) => assert_eq!(reply.status(), 431, "{bytes}"),
            Err(Refused::Ended(Cut::TimedOut)) => panic!("{bytes}: a hang"),
            Err(Refused::Reset(_) | Refused::GoAway(_) | Refused::Ended(_)) => {}
        }
        let reply = connect().exchange(1, &h2::pseudo("GET", "/v2/"));
        assert_eq!(reply.expect("an answer").status(), 200);
    }
}

#[test]
fn h2_connection_with_many_invalid_requests_is_closed() {
    const ENHANCE_YOUR_CALM: u32 = 0xb;

    let scene = Scene::new(10, "");
    let mut connection = H2::connect(scene.gateway.url(0), &scene.gateway.ca_path(), 1 << 20);
    let mut streams = (1..).step_by(2);
    let mut exchange = |fields: &[h2::Field<'_>]| {
        let stream = streams.next().expect("a stream");
        connection.exchange(stream, fields)
    };
    let ping = h2::pseudo("GET", "/v2/");
    let mut two_hosts = ping.to_vec();
    two_hosts.push((b"host", b"elsewhere"));
    for _ in 1..32 {
        assert_eq!(exchange(&two_hosts).expect("an answer").status(), 400);
        assert_eq!(exchange(&ping).expect("an answer").status(), 200);
    }
    let refused = exchange(&two_hosts);
    let refused = refused.map(|reply| reply.status());
    assert_eq!(refused, Err(Refused::GoAway(ENHANCE_YOUR_CALM)));
}

#[test]
fn slow_head_times_out() {
    let scene = Scene::new(10, "limits: {header_timeout: 1s, idle_timeout: 60s}\n");
    for mut raw in listeners(&scene) {
        let since = Instant::now();
        raw.send("GET /v2/ HTTP/1.1\r\nHost: a\r\n");
        // A field now and then, each in time for a deadline between bytes.
        while raw.is_silent(Duration::from_millis(50)) {
            assert!(since.elapsed() < LATE, "it may dribble for ever");
            let _ = raw.try_send("X: y\r\n");
        }
        let reply = raw.reply("GET");
        assert_eq!((reply.status(), &reply.end), (408, &End::Complete));
        assert!(reply.error_code().is_some(), "{reply:?}");
        assert_about_a_second(since);
        let (rest, cut) = raw.read_to_end();
        assert!(rest.is_empty() && cut != Cut::TimedOut, "{rest:?} {cut:?}");
    }
}

/// A server ignores blank lines before a request line (RFC 9112 section 2.2), but with a deadline and a limit.
#[test]
fn blank_lines_before_a_request_are_limited() {
    let scene = Scene::new(
        10,
        "limits: {header_timeout: 1s, idle_timeout: 2s, header_bytes: 2KiB}\n",
    );
    for mut raw in listeners(&scene) {
        for before in ["\r\n", "\n", "\r\n\r\n", "\n\n\r\n"] {
            raw.send(format!("{before}GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(raw.reply("GET").status(), 200, "{before:?}");
        }
        // A bare CR does not end a line.
        raw.send("\rGET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(raw.reply("GET").status(), 400);
    }
    for first in [false, true] {
        for mut raw in listeners(&scene) {
            if !first {
                assert_eq!(raw.get("/v2/").status(), 200);
            }
            let since = Instant::now();
            raw.send("\r\n\r\n");
            while raw.is_silent(Duration::from_millis(50)) {
                assert!(since.elapsed() < LATE, "blank lines keep it open");
                let _ = raw.try_send("\r\n");
            }
            let (rest, cut) = raw.read_to_end();
            assert!(cut != Cut::TimedOut, "{cut:?}");
            assert!(
                rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 "),
                "{}",
                rest.escape_ascii()
            );
        }
    }
    for mut raw in listeners(&scene) {
        let _ = raw.try_send("\r\n".repeat(50_000));
        let head = raw.read_head().expect("an answer");
        assert_eq!(head.status, 431);
    }
}

/// The deadline applies to the head, not to the connection.
#[test]
fn second_head_has_its_own_timeout() {
    let scene = Scene::new(10, "limits: {header_timeout: 1s, idle_timeout: 60s}\n");
    for mut raw in listeners(&scene) {
        assert_eq!(raw.get("/v2/").status(), 200);
        // Idle for as long as another connection's head may take.
        let mut late = Raw::connect(scene.gateway.url(1), None);
        late.send("GET /v2/");
        assert_eq!(late.reply("GET").status(), 408);
        let since = Instant::now();
        raw.send("GET /v2/");
        assert_eq!(raw.reply("GET").status(), 408);
        assert_about_a_second(since);
    }
}

#[test]
fn silent_connection_times_out() {
    let scene = Scene::new(10, "limits: {header_timeout: 1s, idle_timeout: 60s}\n");
    let since = Instant::now();
    let bare = format!("http://{}", scene.gateway.authority(0));
    let mut listeners = listeners(&scene);
    let (tls, plain) = (
        listeners.next().expect("TLS"),
        listeners.next().expect("plain"),
    );
    let without_hello = Raw::connect(&bare, None);
    let mut half_a_hello = Raw::connect(&bare, None);
    half_a_hello.send(b"\x16\x03\x01\x02");
    for mut raw in [tls, plain, without_hello, half_a_hello] {
        let (bytes, cut) = raw.read_to_end();
        assert!(
            bytes.is_empty() && cut != Cut::TimedOut,
            "{bytes:?} {cut:?}"
        );
        assert_about_a_second(since);
    }
    let ca = scene.gateway.ca_path();
    for said in [[&b""[..], b""], [&PREFACE[..10], &PREFACE[10..20]]] {
        let since = Instant::now();
        let mut silent = H2::bare(scene.gateway.url(0), &ca).expect("a handshake");
        for part in said {
            silent.send(part).expect("it is taken");
            // The next part comes long after the handshake.
            silent.read_timeout(Duration::from_millis(300));
            assert_eq!(silent.end(), Cut::TimedOut);
        }
        silent.read_timeout(LATE);
        assert_ne!(silent.end(), Cut::TimedOut);
        assert_about_a_second(since);
    }
}

#[test]
fn idle_connection_is_closed() {
    let scene = Scene::new(10, "limits: {header_timeout: 60s, idle_timeout: 1s}\n");
    for mut raw in listeners(&scene) {
        assert_eq!(raw.get("/v2/").status(), 200);
        let since = Instant::now();
        assert_eq!(raw.read_to_end(), (Vec::new(), Cut::Closed));
        assert_about_a_second(since);
    }
    let mut connection = H2::connect(scene.gateway.url(0), &scene.gateway.ca_path(), 1 << 20);
    let reply = connection.exchange(1, &h2::pseudo("GET", "/v2/"));
    assert_eq!(reply.expect("an answer").status(), 200);
    let since = Instant::now();
    // It does not answer, and is closed all the same.
    assert_ne!(connection.end(), Cut::TimedOut);
    assert_about_a_second(since);
}

/// A client may send a request just when the gateway ends the connection.
#[test]
fn request_that_crosses_the_end_of_an_idle_http2_connection_is_answered() {
    let scene = Scene::new(10, "limits: {header_timeout: 60s, idle_timeout: 1s}\n");
    let mut client = H2::connect(scene.gateway.url(0), &scene.gateway.ca_path(), 1 << 20);
    let reply = client.exchange(1, &h2::pseudo("GET", "/v2/"));
    assert_eq!(reply.expect("an answer").status(), 200);
    let told = client.next().expect("a frame");
    assert_eq!(told.kind, GOAWAY);
    // It is not yet said which stream is the last.
    assert_eq!(told.payload[..4], [0x7f, 0xff, 0xff, 0xff]);
    let request = h2::request(3, &h2::pseudo("GET", "/v2/"));
    client.send(&request).expect("it is taken");
    let (mut status, mut last) = (0, 0);
    let cut = loop {
        match client.next() {
            Ok(frame) if frame.kind == HEADERS => status = h2::head(&frame.payload).status,
            Ok(frame) if frame.kind == GOAWAY => last = frame.payload[3],
            Ok(_) => {}
            Err(cut) => break cut,
        }
    };
    assert_eq!((status, last, cut), (200, 3, Cut::Closed));
}

#[test]
fn one_connection_serves_many_requests() {
    let scene = Scene::warm(5_000, "");
    let path = &scene.path;
    let part = [("Range", "bytes=10-19")];
    for mut raw in listeners(&scene) {
        for _ in 0..60 {
            assert_eq!(raw.get(path).body, random(1, 5_000));
            assert_eq!(raw.head(path).header("content-length"), Some("5000"));
            assert_eq!(raw.exchange("GET", path, &part).body, random(1, 20)[10..]);
            assert_eq!(raw.get("/v2/A/tags/list").status(), 400);
            assert_eq!(raw.head("/v2/nothing").status(), 404);
        }
    }
    let mut connection = H2::connect(scene.gateway.url(0), &scene.gateway.ca_path(), 1 << 20);
    for stream in (1..600).step_by(2) {
        let reply = connection.exchange(stream, &h2::pseudo("GET", path));
        assert_eq!(reply.expect("an answer").body.len(), 5_000, "{stream}");
    }
}

/// An unexpected body, and requests that come before the response: each response belongs to the request it follows, and
/// a body that the gateway does not read ends the connection.
#[test]
fn bytes_after_a_head_are_not_misread() {
    let scene = Scene::warm(5_000, "");
    let good = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", scene.path);
    let ping = "GET /v2/ HTTP/1.1\r\nHost: a\r\n";
    let cases = [
        (format!("{ping}Content-Length: 5\r\n\r\nhello"), 1),
        (format!("{ping}Content-Length: 0\r\n\r\n"), 1),
        (
            format!("{ping}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            1,
        ),
        (
            format!("{ping}Content-Length: {}\r\n\r\n{good}", good.len()),
            1,
        ),
        (format!("{ping}\r\n{good}"), 2),
        (format!("{ping}\r\n{good}{good}{ping}\r\n"), 4),
    ];
    for (text, most) in cases {
        for mut raw in listeners(&scene) {
            raw.send(&text);
            let first = raw.reply("GET");
            assert_eq!(
                (first.status(), first.text()),
                (200, "{}".to_owned()),
                "{text}"
            );
            // Reads once more, unless the connection has ended.
            let mut more = 0;
            let again = raw.try_send(&good).is_ok();
            while again && let Ok(head) = raw.read_head() {
                let (body, end) = raw.read_body("GET", &head);
                let whole = body == random(1, 5_000) || (body == b"{}" && more + 2 == most);
                assert!(
                    head.status == 200 && end == End::Complete && whole,
                    "{text}: {head:?}"
                );
                more += 1;
                if more == most {
                    break;
                }
            }
        }
    }
}
