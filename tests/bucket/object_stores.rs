//! Real object stores: signatures, conditional writes, uploads in parts.

use testkit::image::random;
use testkit::origin::{Fault, Latch, Origin};
use testkit::real::{ObjectStore, found};
use testkit::until;

use super::{BIG, SMALL, ask, gateway, pull};

/// Shares content between gateways, with their leases, and survives the death of the store.
fn with_a_real_store(mut store: ObjectStore) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, BIG)]);
    let (first, second) = (
        gateway(&origin, &store.yaml()),
        gateway(&origin, &store.yaml()),
    );
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", &image.layer_path(0)));
    let path = image.layer_path(0);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| ask(&first, &path));
        latch.wait_reached(1);
        let other = scope.spawn(|| ask(&second, &path));
        latch.release();
        for reply in [one, other] {
            let reply = reply.join().expect("an answer");
            assert!(
                reply.is_complete() && reply.body == image.layer(0).1,
                "{}",
                store.name
            );
        }
    });
    assert_eq!(origin.count("GET", &path), 1, "{}", store.name);
    pull(&first, &image);
    // The layer, the configuration and the manifest.
    until("everything is in the bucket", || {
        first.log().matches("written to the bucket").count() == 3
    });
    let third = gateway(&origin, &store.yaml());
    until("what is known is in the bucket", || {
        origin.clear_requests();
        ask(&third, &image.tag_path()).status() == 200 && origin.requests().is_empty()
    });
    pull(&third, &image);
    assert_eq!(origin.count("GET", "*/blobs/*"), 0, "{}", store.name);
    // Killed during a fill, before its content can be written to the bucket.
    let last = origin.push_image("library/last", "latest", &[random(2, SMALL)]);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(1 << 17, latch.clone()).on("GET", &last.layer_path(0)));
    let path = last.layer_path(0);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| ask(&third, &path));
        latch.wait_reached(1);
        store.kill();
        latch.release();
        let reply = one.join().expect("an answer");
        assert!(reply.is_complete() && reply.body == last.layer(0).1);
    });
    pull(&third, &last);
    pull(&gateway(&origin, &store.yaml()), &image);
    assert_eq!(
        origin.count("GET", &image.layer_path(0)),
        1,
        "{}",
        store.name
    );
}

#[test]
fn moto() {
    if let Some(store) = found(ObjectStore::moto()) {
        with_a_real_store(store);
    }
}

#[test]
fn s3s_fs() {
    if let Some(store) = found(ObjectStore::s3s_fs()) {
        with_a_real_store(store);
    }
}

#[test]
fn wrong_bucket_secret_is_logged_and_pulls_succeed() {
    let Some(store) = found(ObjectStore::s3s_fs()) else {
        return;
    };
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, SMALL)]);
    let gateway = gateway(&origin, &store.yaml_with("wrong-secret"));
    pull(&gateway, &image);
    until("it is said", || gateway.log().contains("the bucket fails"));
    assert!(!gateway.log().contains("wrong-secret"));
}
