//! Bodies of pushes: refused early, truncated, long.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use testkit::gateway::Gateway;
use testkit::http::{Raw, get};
use testkit::image::random;
use testkit::origin::Origin;

use super::{Pusher, gateway};

#[test]
fn early_refusal_reaches_a_sending_client() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true}}]\n",
        origin.url()
    ));
    let mut raw = Raw::connect(gateway.url(1), None);
    let body = random(1, 500_000);
    raw.request(
        "PATCH",
        "/v2/a/blobs/uploads/u",
        &[("Content-Length", "500000")],
    );
    raw.send(&body);
    assert_eq!(raw.reply("PATCH").status(), 403);
    // The body was small enough to be read to its end, so the connection persists.
    assert_eq!(raw.get("/v2/").status(), 200);
}

#[test]
fn truncated_push_is_never_complete() {
    let origin = Origin::start();
    let gateway = gateway(&origin.url(), "");
    for headers in [
        [("Transfer-Encoding", "chunked")],
        [("Content-Length", "100000")],
    ] {
        let mut raw = Raw::connect(gateway.url(1), None);
        raw.request("PATCH", "/v2/team/app/blobs/uploads/u", &headers);
        let piece = if headers[0].0 == "Content-Length" {
            "some".to_owned()
        } else {
            "4\r\nsome\r\n".to_owned()
        };
        raw.send(piece);
        drop(raw);
    }
    // The upstream records complete requests only.
    assert_eq!(
        get(gateway.url(1), None, "/v2/team/app/tags/list").status(),
        404
    );
    assert_eq!(origin.count("PATCH", "*"), 0);
}

/// Accepts one request, reads and discards its body, and answers 202.
fn sink() -> (String, std::thread::JoinHandle<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let taken = std::thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().expect("a connection");
            let (mut buffer, mut head, mut read) = (vec![0; 256 << 10], Vec::new(), 0);
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                let n = stream.read(&mut buffer).expect("a head");
                head.extend_from_slice(&buffer[..n]);
            }
            let patch = head.starts_with(b"PATCH");
            if !patch {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .expect("an answer");
                continue;
            }
            // Bytes that came with the head count too. The last chunk ends it.
            let end = head.windows(4).position(|four| four == b"\r\n\r\n");
            read += (head.len() - end.expect("a head") - 4) as u64;
            let mut tail = head;
            while !tail.ends_with(b"\r\n0\r\n\r\n") {
                let n = stream.read(&mut buffer).expect("a body");
                assert!(n > 0, "broken off");
                read += n as u64;
                tail.extend_from_slice(&buffer[..n]);
                let keep = tail.len().min(16);
                tail.drain(..tail.len() - keep);
            }
            stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nLocation: /v2/a/blobs/uploads/u\r\n\r\n").expect("an answer");
            return read;
        }
    });
    (url, taken)
}

/// `ROADSTEAD_PUSH_MIB` sets its length (192; `make test-long`: 1024).
#[test]
fn long_patch_keeps_memory_flat() {
    let mib = std::env::var("ROADSTEAD_PUSH_MIB").ok();
    let mib = mib.map_or(192, |mib| mib.parse().expect("a number"));
    let (url, taken) = sink();
    let gateway = gateway(&url, "");
    gateway.reset_peak();
    let [(_, client), _] = Pusher::all(&gateway);
    let piece = random(1, 1 << 20);
    let patched = client.stream("PATCH", "/v2/a/blobs/uploads/u", vec![piece; mib]);
    assert_eq!(patched.status, 202);
    assert!(taken.join().expect("it took all") >= (mib as u64) << 20);
    let peak = gateway.peak_rss_kib();
    assert!(peak < 64 << 10, "{peak} KiB");
}
