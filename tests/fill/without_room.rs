//! Pass-through when the store has no room.

use testkit::gateway::Gateway;
use testkit::http::{End, Raw};
use testkit::image::random;
use testkit::origin::{Fault, Origin};

use super::{SIZE, TAIL, files};

#[test]
fn bodies_without_room_pass_through_verified() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {max_size: 1MiB}\n");
    let path = image.layer_path(0);
    for n in 1..=2 {
        let reply = testkit::http::get(gateway.url(1), None, &path);
        assert_eq!((reply.status(), reply.end.clone()), (200, End::Complete));
        assert!(reply.body == image.layer(0).1);
        let status = reply.header("cache-status").expect("a status").to_owned();
        assert!(status.contains("detail=no-room"), "{n}: {status}");
    }
    let mut raw = Raw::connect(gateway.url(1), None);
    for (range, from, to) in [("bytes=5-9", 5, 10), ("bytes=-7", SIZE - 7, SIZE)] {
        let part = raw.exchange("GET", &path, &[("Range", range)]);
        assert_eq!((part.status(), part.end.clone()), (206, End::Complete));
        assert!(part.body == image.layer(0).1[from..to]);
    }
    origin.fault(Fault::WrongByteAt(7).on("GET", "*/blobs/*"));
    let corrupt = testkit::http::get(gateway.url(1), None, &path);
    assert!(
        !corrupt.is_complete() && corrupt.body.len() <= SIZE - TAIL,
        "{}",
        corrupt.body.len()
    );
    assert_eq!(files(&gateway.store().join("blobs")), 0);
    assert_eq!(files(&gateway.store().join("partials")), 0);
}

/// The client was promised the length of the first response and gets the bytes of the second.
#[test]
fn pass_through_with_a_changed_length_is_cut_off() {
    for framing in [None, Some(Fault::Chunked)] {
        let origin = Origin::start();
        let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
        let short = image.layer(0).1[..SIZE / 2].to_vec();
        origin.fault(Fault::Body(short).on("GET", "*/blobs/*").times(1));
        if let Some(framing) = framing {
            origin.fault(framing.on("GET", "*/blobs/*").after(1));
        }
        let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {max_size: 64KiB}\n");
        let reply = testkit::http::get(gateway.url(1), None, &image.layer_path(0));
        assert_eq!(origin.count("GET", "*/blobs/*"), 2);
        assert!(!reply.is_complete() || reply.status() >= 500, "{reply:?}");
    }
}
