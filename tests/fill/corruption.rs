//! Dropped downloads and digest mismatches.

use testkit::gateway::Gateway;
use testkit::http::{End, Web, at_once};
use testkit::image::random;
use testkit::origin::{Fault, Origin};
use testkit::{sha512, until};

use super::{SIZE, TAIL, blob_gets, committed, files, scene};

/// Dropped bodies, which a fill survives by resuming.
fn drops() -> Vec<(&'static str, Vec<Fault>)> {
    let size = SIZE as u64;
    let most = size * 6 / 10;
    vec![
        ("cut", vec![Fault::TruncateAt(most)]),
        (
            "cut before the last byte",
            vec![Fault::TruncateAt(size - 1)],
        ),
        ("reset", vec![Fault::ResetAt(most)]),
        (
            "chunked, cut",
            vec![Fault::Chunked, Fault::TruncateAt(most)],
        ),
        ("chunked, reset", vec![Fault::Chunked, Fault::ResetAt(most)]),
        (
            "chunked, without the last chunk",
            vec![Fault::Chunked, Fault::TruncateAt(size)],
        ),
        (
            "cut, without ranges",
            vec![Fault::TruncateAt(most), Fault::IgnoreRange],
        ),
    ]
}

/// All faults of an upstream's body.
fn faults_of_a_body() -> Vec<(&'static str, Vec<Fault>)> {
    let size = SIZE as u64;
    let most = size * 6 / 10;
    vec![
        ("cut at once", vec![Fault::TruncateAt(0)]),
        (
            "until close, cut",
            vec![Fault::CloseDelimited, Fault::TruncateAt(most)],
        ),
        (
            "until close, cut before the last byte",
            vec![Fault::CloseDelimited, Fault::TruncateAt(size - 1)],
        ),
        ("overlong", vec![Fault::Overlong(10)]),
        (
            "overlong, chunked",
            vec![Fault::Chunked, Fault::Overlong(10)],
        ),
        (
            "overlong, until close",
            vec![Fault::CloseDelimited, Fault::Overlong(1)],
        ),
        ("a wrong first byte", vec![Fault::WrongByteAt(0)]),
        (
            "a wrong byte in the middle",
            vec![Fault::WrongByteAt(size / 2)],
        ),
        ("a wrong last byte", vec![Fault::WrongByteAt(size - 1)]),
        (
            "a wrong last byte, chunked",
            vec![Fault::Chunked, Fault::WrongByteAt(size - 1)],
        ),
        (
            "a wrong byte, and cut",
            vec![Fault::WrongByteAt(7), Fault::TruncateAt(most)],
        ),
        ("another body", vec![Fault::Body(random(9, SIZE))]),
        ("a shorter body", vec![Fault::Body(random(1, 1000))]),
        ("an empty body", vec![Fault::Body(Vec::new())]),
        ("gzip", vec![Fault::Gzip]),
    ]
}

/// Three ways to read a blob whole: its bytes, or `None` if it was visibly incomplete.
fn read_whole(gateway: &Gateway, path: &str) -> [Option<Vec<u8>>; 3] {
    let ca = gateway.ca_path();
    let url = format!("{}{path}", gateway.url(0));
    let plain = testkit::http::get(gateway.url(1), None, path);
    let whole = plain.status() == 200 && plain.is_complete();
    // A stream reset before its headers is an error too.
    let [h1, h2] = [Web::h1(Some(&ca)), Web::h2(Some(&ca))].map(|web| {
        let fetched = testkit::http::block_on(web.fetch_async("GET", &url, &[])).ok();
        fetched
            .filter(|fetched| fetched.status == 200 && fetched.broken.is_none())
            .map(|fetched| fetched.body)
    });
    [whole.then_some(plain.body), h1, h2]
}

#[test]
fn dropped_download_is_resumed_while_readers_wait() {
    for (name, faults) in drops() {
        let (origin, image, gateway) = scene(SIZE);
        for fault in faults {
            // All responses except the last are dropped, since an upstream without ranges sends everything again.
            let times = if name.contains("without ranges") {
                2
            } else {
                20
            };
            origin.fault(fault.on("GET", "*/blobs/*").times(times));
        }
        for body in read_whole(&gateway, &image.layer_path(0)) {
            assert!(body.is_some_and(|body| body == image.layer(0).1), "{name}");
        }
        let asked = origin.requests_for("GET", &image.layer_path(0));
        assert!(asked.len() >= 2 || name.ends_with("last chunk"), "{name}");
        assert_eq!(asked[0].header("range"), None);
        assert!(
            asked[1..]
                .iter()
                .all(|request| request.header("range").is_some()),
            "{name}"
        );
        // Staged bytes are not fetched again if the upstream supports ranges. (A reset loses bytes in flight, so they
        // cannot be counted.)
        let sent = origin.bytes_sent(&image.layer_path(0));
        let sparing = !name.contains("reset") && !name.contains("without ranges");
        assert!(
            !sparing || sent <= SIZE as u64 + (256 << 10),
            "{name}: {sent}"
        );
        committed(&gateway, 1);
    }
}

#[test]
fn digest_mismatch_is_never_served_complete_or_committed() {
    let (origin, image, gateway) = scene(SIZE);
    let path = image.layer_path(0);
    for (name, faults) in faults_of_a_body() {
        origin.heal_all();
        for fault in &faults {
            origin.fault(fault.clone().on("GET", "*/blobs/*"));
        }
        assert_eq!(read_whole(&gateway, &path), [None, None, None], "{name}");
        assert_eq!(
            gateway.log().matches("fill: committed").count(),
            0,
            "{name}"
        );
    }
    assert_eq!(files(&gateway.store().join("blobs")), 0);
    assert_eq!(files(&gateway.store().join("partials")), 0);
    // Once its bytes are correct, they are stored.
    origin.heal_all();
    until("the truth", || {
        read_whole(&gateway, &path)
            .iter()
            .flatten()
            .all(|body| *body == image.layer(0).1)
    });
    assert!(read_whole(&gateway, &path).iter().all(Option::is_some));
}

/// The cost of a source with wrong bytes once: a second download, and an error only for readers of a wrong byte.
#[test]
fn digest_mismatch_is_retried_once() {
    let size = SIZE as u64;
    for (name, corrupt, survives) in [
        ("in the tail", Fault::WrongByteAt(size - 1), true),
        ("overlong", Fault::Overlong(10), false),
        ("another body", Fault::Body(random(9, SIZE)), false),
        ("at the beginning", Fault::WrongByteAt(0), false),
    ] {
        let (origin, image, gateway) = scene(SIZE);
        origin.fault(corrupt.on("GET", "*/blobs/*").times(1));
        let path = image.layer_path(0);
        let replies = at_once(4, |i| {
            if i == 0 {
                testkit::http::get(gateway.url(1), None, &path)
            } else {
                testkit::http::get(gateway.url(0), Some(&gateway.ca_path()), &path)
            }
        });
        committed(&gateway, 1);
        assert_eq!(blob_gets(&origin, &image), 2, "{name}");
        for reply in replies {
            // A reader that had nothing when the mismatch was found gets the second download.
            assert!(reply.is_complete() || !survives, "{name}");
            assert!(
                !reply.is_complete() || reply.body == image.layer(0).1,
                "{name}"
            );
        }
        let after = testkit::http::get(gateway.url(1), None, &path);
        assert!(after.is_complete() && after.body == image.layer(0).1);
        assert_eq!(blob_gets(&origin, &image), 2, "{name}");
    }
}

#[test]
fn correct_bodies_are_complete_in_every_framing_and_size() {
    let origin = Origin::start();
    let sizes = [0, 1, 100, TAIL - 1, TAIL, TAIL + 1, 3 * TAIL];
    let framings = [vec![], vec![Fault::Chunked], vec![Fault::CloseDelimited]];
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let h2 = Web::h2(Some(&gateway.ca_path()));
    let mut seed = 0;
    for faults in framings {
        origin.heal_all();
        for fault in &faults {
            origin.fault(fault.clone().on("GET", "*/blobs/*"));
        }
        for size in sizes {
            for sha512_too in [false, true] {
                seed += 1;
                let bytes = random(seed, size);
                let digest = if sha512_too {
                    sha512(&bytes)
                } else {
                    testkit::sha256(&bytes)
                };
                origin.push_blob_as("library/app", &digest, bytes.clone());
                let path = format!("/v2/library/app/blobs/{digest}");
                let case = format!("{size} bytes, {faults:?}, {digest}");
                let cold = testkit::http::get(gateway.url(1), None, &path);
                assert_eq!(
                    (cold.status(), cold.end.clone()),
                    (200, End::Complete),
                    "{case}"
                );
                assert!(cold.body == bytes, "{case}");
                // An empty body is complete before it is committed.
                until("the commit", || {
                    gateway
                        .log()
                        .contains(&format!("committed digest={digest}"))
                });
                let warm = h2.get(&format!("{}{path}", gateway.url(0)));
                assert_eq!((warm.status, &warm.broken), (200, &None), "{case}");
                assert!(warm.body == bytes, "{case}");
                assert_eq!(
                    warm.header("content-length"),
                    Some(&*size.to_string()),
                    "{case}"
                );
                assert_eq!(
                    warm.header("cache-status"),
                    Some("roadstead; hit"),
                    "{case}"
                );
                assert_eq!(origin.count("GET", &path), 1, "{case}");
            }
        }
    }
}
