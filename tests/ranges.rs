//! Several ranges in one request: `multipart/byteranges`, checked byte by byte, for blobs in memory, on disk and in a
//! fill.

mod fills;
mod multipart;

use multipart::{Expect, as_reply, borrowed, cases, judge};
use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Reply, Web};
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
            let label = format!("{} bytes, {headers:?}", content.len());
            let plain = raw.exchange("GET", &path, &headers);
            judge(&plain, content, &expected, &label);
            let tls = tls.exchange("GET", &path, &headers);
            judge(&tls, content, &expected, &label);
            let url = format!("{}{path}", gateway.url(0));
            let web = as_reply(h2.fetch("GET", &url, &headers));
            judge(&web, content, &expected, &label);
            for reply in [plain, tls, web] {
                let etag = format!("\"{digest}\"");
                let tagged = reply.header("etag") == Some(&*etag);
                assert!(tagged || expected == Expect::Unsatisfiable, "{label}");
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
    let requests = origin.requests_for("GET", &path);
    let ranges: Vec<_> = requests
        .iter()
        .map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges, [None, None, Some("bytes=1000-1009")]);
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
