//! Several ranges in one request: `multipart/byteranges`, checked byte by byte, for blobs in memory, on disk and in a
//! fill.

use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{End, Fetched, Head, Raw, Reply, Web, block_on};
use testkit::image::random;
use testkit::origin::{Fault, Image, Latch, Origin};
use testkit::until;

/// Small enough for the memory cache.
const SMALL: usize = 20_000;
/// Always read from its file.
const LARGE: usize = 300_000;
/// The bytes of a body held back until it is verified.
const TAIL: usize = 64 << 10;

fn scene(layers: &[Vec<u8>]) -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", layers);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    (origin, image, gateway)
}

/// The expected response to a blob request; spans are `(first, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expect {
    Whole,
    Part(usize, usize),
    Parts(Vec<(usize, usize)>),
    Unsatisfiable,
}

/// Headers and their expected responses, for a blob of `size` bytes with this entity tag.
fn cases(size: usize, tag: &str) -> Vec<(Vec<(&'static str, String)>, Expect)> {
    use Expect::{Part, Parts, Unsatisfiable, Whole};
    let end = size;
    let several = || ("Range", "bytes=0-9,1000-1009".to_owned());
    let spread = |n: usize| {
        let set: Vec<_> = (0..n).map(|i| format!("{0}-{0}", i * 200)).collect();
        format!("bytes={}", set.join(","))
    };
    let mut cases = vec![
        (
            vec![("If-Range", tag.to_owned()), several()],
            Parts(vec![(0, 10), (1000, 1010)]),
        ),
        (vec![("If-Range", "\"other\"".to_owned()), several()], Whole),
        (vec![("If-Range", format!("W/{tag}")), several()], Whole),
        (vec![("Range", "bytes=5-9".to_owned()), several()], Whole),
    ];
    for (set, expected) in [
        ("bytes=0-9,1000-1009", Parts(vec![(0, 10), (1000, 1010)])),
        // The client's order.
        (
            "bytes=-10, 5000-5999 ,0-0",
            Parts(vec![(end - 10, end), (5000, 6000), (0, 1)]),
        ),
        // Overlapping, touching and nearly touching ones are one part.
        (
            "bytes=1000-1999,10000-10009,1500-2499,2500-2509,2550-2599",
            Parts(vec![(1000, 2600), (10_000, 10_010)]),
        ),
        ("bytes=0-9,5-19,60-99", Part(0, 100)),
        ("bytes=0-0,0-0,0-0,0-0", Part(0, 1)),
        ("bytes=0-,0-,0-", Part(0, end)),
        // Ranges outside the blob are left out.
        (
            "bytes=0-9,99999999-,3000-3009,-0",
            Parts(vec![(0, 10), (3000, 3010)]),
        ),
        ("bytes=0-9,99999999-", Part(0, 10)),
        ("bytes=99999999-,-0,88888888-99999999", Unsatisfiable),
        // A range that ends before it begins selects no byte either.
        ("bytes=500-0", Unsatisfiable),
        ("bytes=9-8,-0", Unsatisfiable),
        ("bytes=0-9,9-8", Part(0, 10)),
        // As much as the whole, or malformed.
        ("bytes=0-9999,10110-", Whole),
        ("bytes=0-9,x", Whole),
    ] {
        cases.push((vec![("Range", set.to_owned())], expected));
    }
    let spots = (0..64).map(|i| (i * 200, i * 200 + 1)).collect();
    cases.push((vec![("Range", spread(64))], Parts(spots)));
    cases.push((vec![("Range", spread(65))], Whole));
    cases
}

/// One part of a multipart body: its bytes, their first offset and end.
type Part<'a> = (&'a [u8], usize, usize);

/// Parses a multipart body strictly by RFC 2046 §5.1.1.
fn parts<'a>(body: &'a [u8], boundary: &str, size: usize) -> Vec<Part<'a>> {
    let take = |rest: &'a [u8], text: &str| {
        rest.strip_prefix(text.as_bytes()).unwrap_or_else(|| {
            let found = rest[..rest.len().min(100)].escape_ascii();
            panic!("{text:?} is missing before {found}")
        })
    };
    let mut rest = take(body, &format!("--{boundary}"));
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        rest = take(rest, "\r\nContent-Type: application/octet-stream\r\n");
        rest = take(rest, "Content-Range: bytes ");
        let line_end = rest.windows(4).position(|window| window == b"\r\n\r\n");
        let (range, bytes) = rest.split_at(line_end.expect("an empty line"));
        let range = std::str::from_utf8(range).expect("a range");
        let range = range.strip_suffix(&format!("/{size}")).expect("the size");
        let (first, last) = range.split_once('-').expect("a range");
        let first: usize = first.parse().expect("a number");
        let end: usize = last.parse::<usize>().expect("a number") + 1;
        let (part, after) = bytes[4..].split_at(end - first);
        parts.push((part, first, end));
        rest = take(after, &format!("\r\n--{boundary}"));
    }
    assert_eq!(rest, b"--\r\n", "the end");
    parts
}

/// The boundary of a multipart answer.
fn boundary(head: &Head) -> &str {
    let media_type = head.header("content-type").expect("a media type");
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=");
    let boundary = boundary.unwrap_or_else(|| panic!("not multipart: {media_type}"));
    assert!((1..=70).contains(&boundary.len()), "{boundary}");
    boundary
}

/// Checks the response to a GET, to the byte.
fn judge(reply: &Reply, content: &[u8], expected: &Expect, said: &str) {
    let size = content.len();
    assert_eq!(reply.end, End::Complete, "{said}");
    judge_head(&reply.head, size, expected, said);
    if *expected != Expect::Unsatisfiable {
        let length = reply.head.length().expect("a length");
        assert_eq!(length, reply.body.len() as u64, "{said}");
    }
    match expected {
        Expect::Whole => assert!(reply.body == content, "{said}"),
        Expect::Part(first, end) => assert!(reply.body == content[*first..*end], "{said}"),
        Expect::Parts(spans) => {
            let boundary = boundary(&reply.head);
            let parts = parts(&reply.body, boundary, size);
            let found: Vec<_> = parts.iter().map(|&(_, first, end)| (first, end)).collect();
            assert_eq!(found, *spans, "{said}");
            for (bytes, first, end) in parts {
                assert!(*bytes == content[first..end], "{said}: {first}-{end}");
            }
        }
        Expect::Unsatisfiable => {
            assert_eq!(reply.error_code().as_deref(), Some("RANGE_INVALID"));
        }
    }
}

/// Checks status and headers of the response to a GET or HEAD.
fn judge_head(head: &Head, size: usize, expected: &Expect, said: &str) {
    let (status, content_range) = match expected {
        Expect::Whole => (200, None),
        Expect::Part(first, end) => (206, Some(format!("bytes {first}-{}/{size}", end - 1))),
        Expect::Parts(_) => (206, None),
        Expect::Unsatisfiable => (416, Some(format!("bytes */{size}"))),
    };
    assert_eq!(head.status, status, "{said}: {head:?}");
    let found = head.header("content-range");
    assert_eq!(found, content_range.as_deref(), "{said}");
    match expected {
        Expect::Parts(_) => assert_eq!(boundary(head).len(), 32),
        Expect::Unsatisfiable => {
            assert_eq!(head.header("content-type"), Some("application/json"));
            return;
        }
        Expect::Whole | Expect::Part(..) => {
            let media_type = head.header("content-type");
            assert_eq!(media_type, Some("application/octet-stream"), "{said}");
        }
    }
    assert_eq!(head.header("accept-ranges"), Some("bytes"), "{said}");
}

fn as_reply(fetched: Fetched) -> Reply {
    let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
    let headers = fetched.headers.iter();
    let head = Head {
        status: fetched.status,
        reason: String::new(),
        headers: headers
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
    };
    let end = match fetched.broken {
        None => End::Complete,
        Some(error) => End::Malformed(error),
    };
    let body = fetched.body;
    Reply { head, body, end }
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    let pairs = headers.iter().map(|(name, value)| (*name, value.as_str()));
    pairs.collect()
}

#[test]
fn cached_blob_over_every_protocol() {
    let (origin, image, gateway) = scene(&[random(1, SMALL), random(2, LARGE)]);
    let mut raw = Raw::connect(gateway.url(1), None);
    let mut tls = Raw::connect(gateway.url(0), Some(&gateway.ca_path()));
    let h2 = Web::h2(Some(&gateway.ca_path()));
    for layer in 0..2 {
        let (digest, content) = image.layer(layer);
        let path = image.layer_path(layer);
        until("the blob to be here", || {
            raw.get(&path).header("cache-status") == Some("roadstead; hit")
        });
        for (headers, expected) in cases(content.len(), &format!("\"{digest}\"")) {
            let headers = borrowed(&headers);
            let said = format!("{} bytes, {headers:?}", content.len());
            let plain = raw.exchange("GET", &path, &headers);
            judge(&plain, content, &expected, &said);
            let tls = tls.exchange("GET", &path, &headers);
            judge(&tls, content, &expected, &said);
            let url = format!("{}{path}", gateway.url(0));
            let web = as_reply(h2.fetch("GET", &url, &headers));
            judge(&web, content, &expected, &said);
            for reply in [plain, tls, web] {
                let etag = format!("\"{digest}\"");
                let tagged = reply.header("etag") == Some(&*etag);
                assert!(tagged || expected == Expect::Unsatisfiable, "{said}");
                assert_eq!(reply.header("cache-status"), Some("roadstead; hit"));
            }
        }
    }
    assert_eq!(origin.count("GET", "*/blobs/*"), 2);
}

/// RFC 9110 §14.2: Range is defined for GET only.
#[test]
fn head_ignores_ranges() {
    let (origin, image, gateway) = scene(&[random(1, LARGE)]);
    let (digest, content) = image.layer(0);
    let path = image.layer_path(0);
    let mut raw = Raw::connect(gateway.url(1), None);
    // The first time the upstream gets only HEADs, the second time the bytes are stored.
    for gets in 0..2 {
        for (headers, _) in cases(content.len(), &format!("\"{digest}\"")) {
            let head = raw.exchange("HEAD", &path, &borrowed(&headers));
            let length = Some(content.len() as u64);
            assert_eq!(
                (head.status(), head.head.length()),
                (200, length),
                "{headers:?}"
            );
        }
        assert_eq!(origin.count("GET", "*"), gets);
        raw.get(&path);
    }
}

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
        let asked = origin.requests_for("GET", &path);
        assert_eq!(asked.len(), 1, "{headers:?}");
        assert_eq!(asked[0].header("range"), None, "the fill is whole");
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

    // The first part is available, and no byte of the second.
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
    assert!(raw.is_silent(Duration::from_millis(100)));
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
    let (origin, image, gateway) = scene(&[random(1, LARGE)]);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(LARGE as u64 - 1, latch.clone()).on("GET", "*/blobs/*"));
    let (path, content) = (image.layer_path(0), &image.layer(0).1);
    // Parts inside the tail are released as they arrive.
    let inside = (LARGE - TAIL / 2, LARGE - TAIL / 2 + 10);
    let mut raw = Raw::connect(gateway.url(1), None);
    let set = format!("bytes={}-{},0-9", inside.0, inside.1 - 1);
    let reply = raw.exchange("GET", &path, &[("Range", &set)]);
    judge(
        &reply,
        content,
        &Expect::Parts(vec![inside, (0, 10)]),
        "inside",
    );

    let set = format!("bytes=0-9,{}-", LARGE - 20);
    raw.request("GET", &path, &[("Range", &set)]);
    let head = raw.read_head().expect("a head");
    let length = head.length().expect("a length");
    let end = format!("\r\n--{}--\r\n", boundary(&head));
    let early = length - 20 - end.len() as u64;
    let mut body = raw.read_exactly(early);
    assert!(
        raw.is_silent(Duration::from_millis(200)),
        "the tail came before the last byte"
    );
    latch.release();
    body.extend(raw.read_exactly(length - early));
    let expected = Expect::Parts(vec![(0, 10), (LARGE - 20, LARGE)]);
    let end = End::Complete;
    judge(&Reply { head, body, end }, content, &expected, "released");
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
    let mut patient = Raw::connect(gateway.url(1), None);
    patient.request("GET", &other.layer_path(0), &[("Range", "bytes=-20,0-9")]);
    let patient_head = patient.read_head().expect("a head");
    latch.release();

    let (rest, end) = deceived.read_to_end();
    body.extend(rest);
    assert!(
        (body.len() as u64) < head.length().expect("a length"),
        "{end:?}"
    );
    let (body, end) = patient.read_body("GET", &patient_head);
    let expected = Expect::Parts(vec![(LARGE - 20, LARGE), (0, 10)]);
    let head = patient_head;
    judge(
        &Reply { head, body, end },
        content,
        &expected,
        "the second source",
    );
    assert_eq!(origin.count("GET", &other.layer_path(0)), 1);
}

#[test]
fn ranges_without_a_length_are_ignored() {
    let (origin, image, gateway) = scene(&[random(1, LARGE)]);
    let latch = Latch::new();
    origin.fault(Fault::Chunked.on("GET", "*/blobs/*"));
    origin.fault(Fault::PauseAt(LARGE as u64 / 2, latch.clone()).on("GET", "*/blobs/*"));
    let path = image.layer_path(0);
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &path, &[("Range", "bytes=0-9,1000-1009")]);
    let head = raw.read_head().expect("a head");
    assert_eq!((head.status, head.length()), (200, None));
    latch.release();
    let (body, end) = raw.read_body("GET", &head);
    assert_eq!(end, End::Complete);
    assert!(body == image.layer(0).1);
}

/// Without room in the store every part would cost an upstream request: the whole costs one.
#[test]
fn several_ranges_without_room_are_ignored() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 2 << 20)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {max_size: 1MiB}\n");
    let path = image.layer_path(0);
    let mut raw = Raw::connect(gateway.url(1), None);
    for (set, expected) in [
        ("bytes=0-9,100000-100009", Expect::Whole),
        ("bytes=0-9,5-19", Expect::Part(0, 20)),
    ] {
        origin.clear_requests();
        let reply = raw.exchange("GET", &path, &[("Range", set)]);
        judge(&reply, &image.layer(0).1, &expected, set);
        let status = reply.header("cache-status").expect("a status");
        assert!(status.contains("detail=no-room"), "{status}");
    }
}

/// The disk breaks after a part was sent: the next parts come from the upstream, and the one that reaches the end is
/// verified.
#[test]
fn parts_pass_through_when_the_disk_breaks_between_them() {
    let (origin, image, gateway) = scene(&[random(1, LARGE)]);
    let latch = Latch::new();
    origin.fault(
        Fault::PauseAt(LARGE as u64 / 2, latch.clone())
            .on("GET", "*/blobs/*")
            .times(1),
    );
    let path = image.layer_path(0);
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &path, &[("Range", "bytes=0-9,-20,1000-1009")]);
    let head = raw.read_head().expect("a head");
    let mut body = raw.read_exactly(100);
    // A file where the blobs' folder should be.
    let blobs = gateway.store().join("blobs");
    std::fs::remove_dir_all(&blobs).expect("no blobs yet");
    std::fs::write(&blobs, "").expect("a file in their place");
    latch.release();
    let left = head.length().expect("a length") - 100;
    body.extend(raw.read_exactly(left));
    let end = End::Complete;
    let expected = Expect::Parts(vec![(0, 10), (LARGE - 20, LARGE), (1000, 1010)]);
    judge(
        &Reply { head, body, end },
        &image.layer(0).1,
        &expected,
        "broken disk",
    );
    let asked = origin.requests_for("GET", &path);
    let ranges: Vec<_> = asked
        .iter()
        .map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges, [None, None, Some("bytes=1000-1009")]);
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
    let asked = origin.requests_for("GET", &path);
    let ranges: Vec<_> = asked
        .iter()
        .filter_map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges, ["bytes=1500000-1500099", "bytes=1200000-1200099"]);
}

#[test]
fn manifest_ranges_are_ignored() {
    let (_origin, image, gateway) = scene(&[random(1, SMALL)]);
    let mut raw = Raw::connect(gateway.url(1), None);
    for path in [image.tag_path(), image.digest_path()] {
        for set in ["bytes=0-9", "bytes=0-9,200-209", "bytes=99999999-"] {
            let reply = raw.exchange("GET", &path, &[("Range", set)]);
            assert_eq!((reply.status(), reply.end.clone()), (200, End::Complete));
            assert!(reply.body == image.manifest, "{set}");
        }
    }
}
