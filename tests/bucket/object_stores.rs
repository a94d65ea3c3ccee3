//! Real object stores: signatures, conditional writes, uploads in parts.

use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::origin::{Fault, Image, Latch, Origin};
use testkit::real::{ObjectStore, found};
use testkit::until;

use super::{BIG, SMALL, ask, gateway, pull};

/// Pulls a layer through two gateways at the same time; returns how often the registry was asked for it.
fn requests_of_two_pulls(origin: &Origin, gateways: [&Gateway; 2], image: &Image) -> usize {
    let latch = Latch::new();
    let path = image.layer_path(0);
    origin.fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", &path));
    std::thread::scope(|scope| {
        let one = scope.spawn(|| ask(gateways[0], &path));
        latch.wait_reached(1);
        let other = scope.spawn(|| ask(gateways[1], &path));
        latch.release();
        for reply in [one, other] {
            let reply = reply.join().expect("an answer");
            assert!(reply.is_complete() && reply.body == image.layer(0).1);
        }
    });
    origin.count("GET", &path)
}

/// Shares content between gateways, with their leases, and survives the death of the store.
fn with_a_real_store(mut store: ObjectStore) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, BIG)]);
    let (first, second) = (
        gateway(&origin, &store.yaml()),
        gateway(&origin, &store.yaml()),
    );
    let mut requests = requests_of_two_pulls(&origin, [&first, &second], &image);
    for attempt in 3..6 {
        if requests == 1 {
            break;
        }
        // A store that takes longer than a second to answer is not waited for, as on a machine that is busy.
        let failed = |gateway: &Gateway| gateway.log().contains("the bucket fails");
        assert!(failed(&first) || failed(&second), "{}", store.name);
        let other = origin.push_image("library/more", "latest", &[random(attempt, BIG)]);
        requests = requests_of_two_pulls(&origin, [&first, &second], &other);
    }
    assert_eq!(requests, 1, "{}", store.name);
    pull(&first, &image);
    // The layer, the configuration and the manifest, at least.
    until("everything is in the bucket", || {
        let written = |gateway: &Gateway| gateway.log().matches("written to the bucket").count();
        written(&first) + written(&second) >= 3
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
