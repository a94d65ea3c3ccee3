//! Leases: one gateway fetches, the others wait.

use std::time::Instant;

use testkit::http::Raw;
use testkit::origin::{Fault, Latch};
use testkit::s3::blob_key;
use testkit::until;

use super::operators::counted;
use super::{READ_TIMEOUT, SMALL, ask, gateway, scene};

#[test]
fn two_cold_pulls_through_two_gateways_cost_one_request() {
    let (origin, image, s3, first) = scene(SMALL);
    let second = gateway(&origin, &s3.yaml());
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(SMALL as u64 / 2, latch.clone()).on("GET", "*/blobs/*"));
    let path = image.layer_path(0);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| ask(&first, &path));
        latch.wait_reached(1);
        let other = scope.spawn(|| ask(&second, &path));
        until("the second gateway sees the lease", || {
            s3.count("GET", "leases/*") > 0
        });
        latch.release();
        for reply in [one, other] {
            let reply = reply.join().expect("an answer");
            assert_eq!(reply.status(), 200);
            assert!(reply.is_complete() && reply.body == image.layer(0).1);
        }
    });
    assert_eq!(origin.count("GET", &path), 1);
    assert!(second.log().contains("came from the bucket"));
}

#[test]
fn killed_lease_holder_delays_others_briefly() {
    let (origin, image, s3, mut first) = scene(SMALL);
    let second = gateway(&origin, &s3.yaml());
    let latch = Latch::new();
    let half = Fault::PauseAt(SMALL as u64 / 2, latch.clone());
    origin.fault(half.on("GET", "*/blobs/*").times(1));
    let path = image.layer_path(0);
    let mut raw = Raw::connect(first.url(1), None);
    raw.request("GET", &path, &[]);
    latch.wait_reached(1);
    first.kill();
    assert_eq!(s3.keys("leases/*").len(), 1);
    let started = Instant::now();
    let reply = ask(&second, &path);
    let waited = started.elapsed();
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    assert!(waited < READ_TIMEOUT, "{waited:?}");
    assert!(second.log().contains("another node takes too long"));
    assert_eq!(counted(&second, "lease_timeouts"), 1);
    assert_eq!(origin.count("GET", &path), 2);
    latch.release();
    until("the bucket has it", || {
        s3.object(&blob_key(&image.layer(0).0)).is_some()
    });
}

#[test]
fn expired_lease_is_taken_over() {
    let (origin, image, s3, first) = scene(SMALL);
    let path = image.layer_path(0);
    ask(&first, &path);
    let key = blob_key(&image.layer(0).0);
    until("the bucket has it", || s3.object(&key).is_some());
    let (algorithm, hex) = image.layer(0).0.split_once(':').expect("a digest");
    let lease = format!("leases/{algorithm}-{hex}");
    until("no lease", || s3.keys("leases/*").is_empty());
    s3.remove(&key);
    s3.put(&lease, br#"{"node":"dead","expires_at":1}"#);
    let second = gateway(&origin, &s3.yaml());
    let reply = ask(&second, &path);
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    assert!(!second.log().contains("another node takes too long"));
    until("it is there again", || s3.object(&key).is_some());
    until("the lease is given up", || s3.keys("leases/*").is_empty());
}
