//! Several ranges of a blob that is being fetched.

use testkit::http::{End, Fetched, Head, Raw, Reply, Web, block_on};
use testkit::image::random;
use testkit::origin::{Fault, Latch};

use super::multipart::{Expect, as_reply, borrowed, boundary, cases, judge};
use super::{LARGE, TAIL, scene};

#[test]
fn uncached_blob_costs_one_upstream_request() {
    let many = cases(LARGE, "").len();
    let layers: Vec<_> = (0..many).map(|i| random(i as u64, LARGE)).collect();
    let (origin, image, gateway) = scene(&layers);
    let mut raw = Raw::connect(gateway.url(1), None);
    for (layer, bytes) in layers.iter().enumerate() {
        let tag = format!("\"{}\"", image.layer(layer).0);
        let (headers, expected) = cases(LARGE, &tag).swap_remove(layer);
        let path = image.layer_path(layer);
        let reply = raw.exchange("GET", &path, &borrowed(&headers));
        judge(&reply, bytes, &expected, &format!("cold, {headers:?}"));
        let status = reply.header("cache-status").expect("a status");
        assert!(status.starts_with("roadstead; fwd=uri-miss"), "{status}");
        let requests = origin.requests_for("GET", &path);
        assert_eq!(requests.len(), 1, "{headers:?}");
        assert_eq!(requests[0].header("range"), None, "the fill is whole");
    }
}

/// A stalled fill: available parts are sent, others are waited for, in the client's order.
#[test]
fn multipart_follows_the_fill() {
    let (origin, image, gateway) = scene(&[random(1, LARGE)]);
    let latch = Latch::new();
    let half = LARGE / 2;
    origin.fault(Fault::PauseAt(half as u64, latch.clone()).on("GET", "*/blobs/*"));
    let (path, content) = (image.layer_path(0), &image.layer(0).1);
    let set = format!("bytes=100-199,{half}-{},1000-1099,-50", half + 99);
    let range = [("Range", set.as_str())];
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &path, &range);
    let head = raw.read_head().expect("a head");
    let h2 = Web::h2(Some(&gateway.ca_path()));
    let url = format!("{}{path}", gateway.url(0));
    let request = h2.client().get(&url).header("Range", &set);
    let mut answer = block_on(async { request.send().await }).expect("an answer");

    // The first part arrives while the second is missing.
    let first = |head: &Head| {
        let frame = "Content-Type: application/octet-stream\r\nContent-Range: bytes";
        let boundary = boundary(head);
        let mut bytes = format!("--{boundary}\r\n{frame} 100-199/{LARGE}\r\n\r\n").into_bytes();
        bytes.extend(&content[100..200]);
        let (from, to) = (half, half + 99);
        bytes.extend(
            format!("\r\n--{boundary}\r\n{frame} {from}-{to}/{LARGE}\r\n\r\n").into_bytes(),
        );
        bytes
    };
    let early = first(&head);
    assert!(raw.read_exactly(early.len() as u64) == early);
    let web_head = as_reply(Fetched {
        version: answer.version(),
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: Vec::new(),
        broken: None,
    })
    .head;
    let web_early = first(&web_head);
    let mut web_body = Vec::new();
    while web_body.len() < web_early.len() {
        let piece = block_on(answer.chunk()).expect("no error");
        web_body.extend(piece.expect("not the end"));
    }
    assert!(web_body == web_early);

    latch.release();
    let expected = Expect::Parts(vec![
        (100, 200),
        (half, half + 100),
        (1000, 1100),
        (LARGE - 50, LARGE),
    ]);
    let mut body = early.clone();
    let length = head.length().expect("a length");
    body.extend(raw.read_exactly(length - early.len() as u64));
    let end = End::Complete;
    judge(&Reply { head, body, end }, content, &expected, "h1");
    let head = web_head;
    while let Some(piece) = block_on(answer.chunk()).expect("no error") {
        web_body.extend(piece);
    }
    let (body, end) = (web_body, End::Complete);
    judge(&Reply { head, body, end }, content, &expected, "h2");
    assert_eq!(raw.get("/v2/").status(), 200, "the connection is in step");
    assert_eq!(origin.count("GET", "*/blobs/*"), 1);
}

#[test]
fn last_part_waits_for_the_digest() {
    for is_right in [true, false] {
        let (origin, image, gateway) = scene(&[random(1, LARGE)]);
        let latch = Latch::new();
        let last = LARGE as u64 - 1;
        origin.fault(Fault::PauseAt(last, latch.clone()).on("GET", "*/blobs/*"));
        if !is_right {
            origin.fault(Fault::WrongByteAt(last).on("GET", "*/blobs/*"));
            origin.fault(Fault::status(404).on("GET", "*/blobs/*").after(1));
        }
        let (path, content) = (image.layer_path(0), &image.layer(0).1);
        // Parts inside the tail are released as they arrive.
        let inside = (LARGE - TAIL / 2, LARGE - TAIL / 2 + 10);
        let mut raw = Raw::connect(gateway.url(1), None);
        let set = format!("bytes={}-{},0-9", inside.0, inside.1 - 1);
        let reply = raw.exchange("GET", &path, &[("Range", &set)]);
        let parts = Expect::Parts(vec![inside, (0, 10)]);
        judge(&reply, content, &parts, "inside");

        let set = format!("bytes=0-9,{}-", LARGE - 20);
        raw.request("GET", &path, &[("Range", &set)]);
        let head = raw.read_head().expect("a head");
        let length = head.length().expect("a length");
        let end = format!("\r\n--{}--\r\n", boundary(&head));
        let early = length - 20 - end.len() as u64;
        let mut body = raw.read_exactly(early);
        latch.release();
        if is_right {
            body.extend(raw.read_exactly(length - early));
            let expected = Expect::Parts(vec![(0, 10), (LARGE - 20, LARGE)]);
            let end = End::Complete;
            judge(&Reply { head, body, end }, content, &expected, "released");
        } else {
            // No byte of the last part was sent.
            assert!(raw.read_to_end().0.is_empty());
        }
    }
}

/// A body from a failed fill is never taken for complete.
#[test]
fn failed_body_is_cut_off() {
    for fault in [Fault::WrongByteAt(200_000), Fault::TruncateAt(200_000)] {
        let (origin, image, gateway) = scene(&[random(1, LARGE)]);
        let latch = Latch::new();
        origin.fault(Fault::PauseAt(100_000, latch.clone()).on("GET", "*/blobs/*"));
        origin.fault(fault.on("GET", "*/blobs/*"));
        origin.fault(Fault::status(404).on("GET", "*/blobs/*").after(1));
        let (path, content) = (image.layer_path(0), &image.layer(0).1);
        let mut raw = Raw::connect(gateway.url(1), None);
        let range = [("Range", "bytes=0-9,-20")];
        raw.request("GET", &path, &range);
        let head = raw.read_head().expect("a head");
        let h2 = Web::h2(Some(&gateway.ca_path()));
        let url = format!("{}{path}", gateway.url(0));
        let request = h2.client().get(&url).header(range[0].0, range[0].1);
        let mut answer = block_on(async { request.send().await }).expect("an answer");
        assert_eq!((head.status, answer.status().as_u16()), (206, 206));
        latch.release();

        let (body, end) = raw.read_body("GET", &head);
        assert!(matches!(end, End::Short { .. }), "{end:?}");
        let (missing, part) = (head.length().expect("a length"), &content[..10]);
        assert!(body.windows(10).any(|window| window == part));
        assert!(body.len() as u64 + 20 <= missing, "some of the tail came");
        let broken = loop {
            match block_on(answer.chunk()) {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(broken, "h2: the stream ended in order");
    }
}

/// The first source sends wrong bytes, the second does not: their parts are never mixed in one body.
#[test]
fn parts_come_from_one_download() {
    let (origin, image, gateway) = scene(&[random(1, LARGE)]);
    let other = origin.push_image("library/other", "latest", &[random(1, LARGE)]);
    let latch = Latch::new();
    let (path, content) = (image.layer_path(0), &image.layer(0).1);
    origin.fault(Fault::WrongByteAt(5).on("GET", &path));
    origin.fault(Fault::PauseAt(LARGE as u64 / 2, latch.clone()).on("GET", &path));
    let mut deceived = Raw::connect(gateway.url(1), None);
    deceived.request("GET", &path, &[("Range", "bytes=0-9,-20")]);
    let head = deceived.read_head().expect("a head");
    let mut body = deceived.read_exactly(150);
    // This client has nothing yet: its first part is the end.
    let mut waiting = Raw::connect(gateway.url(1), None);
    waiting.request("GET", &other.layer_path(0), &[("Range", "bytes=-20,0-9")]);
    let waiting_head = waiting.read_head().expect("a head");
    latch.release();

    let (rest, end) = deceived.read_to_end();
    body.extend(rest);
    assert!(
        (body.len() as u64) < head.length().expect("a length"),
        "{end:?}"
    );
    let (body, end) = waiting.read_body("GET", &waiting_head);
    let expected = Expect::Parts(vec![(LARGE - 20, LARGE), (0, 10)]);
    let head = waiting_head;
    judge(
        &Reply { head, body, end },
        content,
        &expected,
        "the second source",
    );
    assert_eq!(origin.count("GET", &other.layer_path(0)), 1);
}

/// Far ahead of a slow fill, parts come from side requests; earlier parts are still served.
#[test]
fn far_parts_use_side_requests() {
    let size = 2 << 20;
    let (origin, image, gateway) = scene(&[random(1, size)]);
    origin.fault(Fault::Throttle(16 << 10).on("GET", "*/blobs/*"));
    let unthrottled = Fault::Throttle(8 << 20).on("GET", "*/blobs/*");
    origin.fault(unthrottled.with_header("Range"));
    let path = image.layer_path(0);
    let mut raw = Raw::connect(gateway.url(1), None);
    let spans = [(1_500_000, 1_500_100), (0, 100), (1_200_000, 1_200_100)];
    let set = spans.map(|(first, end)| format!("{first}-{}", end - 1));
    let set = format!("bytes={}", set.join(","));
    let reply = raw.exchange("GET", &path, &[("Range", &set)]);
    judge(
        &reply,
        &image.layer(0).1,
        &Expect::Parts(spans.to_vec()),
        "far",
    );
    let requests = origin.requests_for("GET", &path);
    let ranges: Vec<_> = requests
        .iter()
        .filter_map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges, ["bytes=1500000-1500099", "bytes=1200000-1200099"]);
}
