//! Lengths, ranges and slow layers.

use crate::v2_to_v1::image::{GZIP, ZSTD, file, gzip, push, tar, zstd};
use crate::v2_to_v1::{Entry, OLD, ancestry, ask, bridged, compressed, json, layers, top};
use testkit::http::Raw;
use testkit::image::random;
use testkit::origin::{Fault, Latch, Origin};

/// Checks the ranges by which old Docker resumes a download; returns the layer.
fn check_ranges(gateway: &crate::v2_to_v1::Gateway, id: &str) -> Vec<u8> {
    let path = format!("GET /v1/images/{id}/layer");
    let whole = ask(gateway, &OLD[4], &path, &[]);
    assert_eq!((whole.status(), whole.is_complete()), (200, true));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-encoding"), None);
    let size = whole.body.len();
    assert_eq!(whole.head.length(), Some(size as u64));
    let described = ask(gateway, &OLD[4], &format!("GET /v1/images/{id}/json"), &[]);
    let said = described.header("x-docker-size").map(str::to_owned);
    assert_eq!(said, Some(size.to_string()));
    // Old Docker's range ends one byte too far.
    for (have, end) in [(10, size), (0, 10), (size - 1, size), (3, size - 1)] {
        let part = ask(
            gateway,
            &OLD[4],
            &path,
            &[("Range", &format!("bytes={have}-{end}"))],
        );
        let last = end.min(size - 1);
        assert_eq!((part.status(), part.is_complete()), (206, true));
        assert!(part.body == whole.body[have..=last]);
        let range = format!("bytes {have}-{last}/{size}");
        assert_eq!(part.header("content-range"), Some(&*range));
    }
    let nothing = ask(
        gateway,
        &OLD[4],
        &path,
        &[("Range", &format!("bytes={size}-{size}"))],
    );
    assert_eq!((nothing.status(), nothing.head.length()), (416, Some(0)));
    let head = ask(
        gateway,
        &OLD[0],
        &format!("HEAD /v1/images/{id}/layer"),
        &[],
    );
    assert_eq!(head.head.length(), Some(size as u64));
    whole.body
}

#[test]
fn ranges_and_sizes_of_every_kind_of_layer() {
    let origin = Origin::start();
    let parts = compressed(&layers());
    push(&origin, "team/app", Some("1"), "amd64", &parts);
    // An empty archive: the empty layer.
    push(&origin, "team/empty", Some("1"), "amd64", &[]);
    let mut gateway = bridged(&origin);
    let ids = ancestry(&gateway, &top(&gateway, "team/app", "1"));
    let pulled: Vec<Vec<u8>> = ids
        .iter()
        .rev()
        .map(|id| check_ranges(&gateway, id))
        .collect();
    assert!(pulled[0] == parts[0].1, "as it is");
    for (layer, (_, part)) in pulled.iter().zip(&parts).skip(1) {
        assert!(
            layer.starts_with(&[0x1f, 0x8b]) && layer != part,
            "made anew"
        );
    }
    let empty = top(&gateway, "team/empty", "1");
    assert_eq!(check_ranges(&gateway, &empty).len(), 32);

    // Rebuilt layers are stored, and rebuilt again if they are lost.
    let asked = origin.count("GET", "*/blobs/*");
    gateway.restart();
    for (id, layer) in ids.iter().rev().zip(&pulled) {
        assert!(check_ranges(&gateway, id) == *layer);
    }
    gateway.terminate();
    for layer in &pulled[1..] {
        let digest = testkit::sha256(layer);
        let hex = &digest[7..];
        let path = gateway
            .store()
            .join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
        std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    gateway.restart();
    for (id, layer) in ids.iter().rev().zip(&pulled) {
        assert!(check_ranges(&gateway, id) == *layer);
    }
    assert_eq!(origin.count("GET", "*/blobs/*"), asked, "of what was here");
}

/// A layer rebuilt for v1 is no blob of v2.
#[test]
fn converted_layers_are_not_served_over_v2() {
    let origin = Origin::start();
    let part = zstd(&tar(&[file("one", 1)]));
    push(&origin, "team/app", Some("1"), "amd64", &[(ZSTD, part)]);
    let gateway = bridged(&origin);
    let layer = check_ranges(&gateway, &top(&gateway, "team/app", "1"));
    let path = format!("/v2/team/app/blobs/{}", testkit::sha256(&layer));
    let mut connection = Raw::connect(gateway.url(1), None);
    assert_eq!(connection.get(&path).status(), 404);
}

/// A slow layer: the response begins before its content is known.
#[test]
fn slow_layer_starts_in_time() {
    let origin = Origin::start();
    let tar = tar(&[Entry::File("big", random(1, 300_000))]);
    let parts = [(GZIP, gzip(&tar)), (ZSTD, zstd(&tar))];
    let image = push(&origin, "team/app", Some("1"), "amd64", &parts);
    let gateway = bridged(&origin);
    let ids = ancestry(&gateway, &top(&gateway, "team/app", "1"));
    std::thread::scope(|scope| {
        for (digest, id) in image.layers.iter().zip(ids.iter().rev()) {
            let (origin, gateway, tar) = (&origin, &gateway, &tar);
            scope.spawn(move || {
                let latch = Latch::default();
                let paused = Fault::PauseAt(100_000, latch.clone());
                origin.fault(paused.on("GET", &format!("*/blobs/{digest}")));
                let description = ask(gateway, &OLD[0], &format!("GET /v1/images/{id}/json"), &[]);
                assert_eq!(
                    description.header("x-docker-size"),
                    None,
                    "the size is unknown"
                );
                let path = format!("/v1/images/{id}/layer");
                let mut connection = Raw::connect(gateway.url(1), None);
                connection.request("GET", &path, &[("User-Agent", OLD[0].agent)]);
                let head = connection.read_head().expect("headers");
                assert_eq!((head.status, head.length()), (200, None));
                // A range of it cannot be served yet.
                let part = ask(
                    gateway,
                    &OLD[0],
                    &format!("GET {path}"),
                    &[("Range", "bytes=5-9")],
                );
                assert_eq!(part.status(), 503);
                latch.release();
                let (body, _) = connection.read_body("GET", &head);
                assert!(body.starts_with(&[0x1f, 0x8b]));
                let mut unpacked = Vec::new();
                let mut decoder = flate2::read::MultiGzDecoder::new(&*body);
                std::io::Read::read_to_end(&mut decoder, &mut unpacked).expect("gzip");
                assert!(unpacked == *tar);
                check_ranges(gateway, id);
            });
        }
    });
}

#[test]
fn image_json() {
    let origin = Origin::start();
    let parts = compressed(
        &layers()[..2]
            .iter()
            .chain(&layers()[..2])
            .cloned()
            .collect::<Vec<_>>(),
    );
    push(&origin, "team/app", Some("1"), "amd64", &parts);
    let gateway = bridged(&origin);
    let ids = ancestry(&gateway, &top(&gateway, "team/app", "1"));
    assert_eq!(ids.len(), 4, "entries without a layer are left out");
    for (at, id) in ids.iter().enumerate() {
        let described = json(&ask(
            &gateway,
            &OLD[0],
            &format!("GET /v1/images/{id}/json"),
            &[],
        ));
        assert_eq!(described["id"], **id);
        assert_eq!(
            described["parent"].as_str(),
            ids.get(at + 1).map(String::as_str)
        );
        assert_eq!(described["os"], "linux");
        let step = format!("RUN step {}", ids.len() - 1 - at);
        let command = &described["container_config"]["Cmd"][0];
        assert_eq!(*command, if at == 0 { "/bin/sh" } else { &*step });
        assert!(described["config"].is_object());
    }
    let described = json(&ask(
        &gateway,
        &OLD[0],
        &format!("GET /v1/images/{}/json", ids[0]),
        &[],
    ));
    assert_eq!(described["config"], described["container_config"]);
    assert_eq!(described["config"]["Healthcheck"], serde_json::Value::Null);
}
