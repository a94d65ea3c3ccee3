//! The node that fetches a blob is lost, stops, or is separated from the others.

use testkit::origin::{Fault, Latch};
use testkit::s3::Ill;
use testkit::until;

use super::*;

/// The most that the upstream may send of one blob where its node was lost once.
const LOST_ONCE: u64 = SIZE as u64 * 13 / 10;

#[test]
fn next_node_goes_on_from_the_bytes_that_it_has() {
    let scene = Scene::new(SIZE);
    let [mut first, second, third] = [(); 3].map(|()| scene.node());
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*").times(1));
    let one = scene.begin(&first, HALF);
    let others = [&second, &third].map(|node| scene.begin(node, HALF));
    first.gateway.kill();
    drop(one);
    others.into_iter().for_each(Begun::finish);
    latch.release();
    // One of them took the lease, and the other followed.
    assert_eq!(scene.fetches(), 2);
    let sent = scene.origin.bytes_sent(&scene.path);
    assert!(sent <= LOST_ONCE, "{sent}");
    until("it is in the bucket", || {
        let blob = testkit::s3::blob_key(&scene.digest);
        scene
            .s3
            .object(&blob)
            .is_some_and(|blob| blob == scene.layer)
    });
    let lost = second.counted("peers_lost") + third.counted("peers_lost");
    assert!(lost >= 1, "{lost}");
}

/// Its partial is resumed at once, by whichever node gets the lease.
#[test]
fn restarted_node_with_the_same_url_is_another_node() {
    let scene = Scene::new(SIZE);
    let [mut first, second] = [(); 2].map(|()| scene.node());
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*").times(1));
    drop(scene.begin(&first, HALF));
    let other = scene.begin(&second, HALF);
    first.gateway.kill();
    let yaml = first.yaml.clone();
    first.gateway.restart_with(&yaml);
    other.finish();
    scene.is_right(&first.ask(&scene.path));
    latch.release();
    let sent = scene.origin.bytes_sent(&scene.path);
    assert!(sent <= LOST_ONCE, "{sent}");
}

#[test]
fn bucket_outage_does_not_separate_nodes_that_read() {
    let scene = Scene::new(SIZE);
    let [first, second] = [(); 2].map(|()| scene.node());
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*"));
    let begun = [&first, &second].map(|node| scene.begin(node, HALF));
    scene.s3.set(Ill::Down);
    latch.release();
    begun.into_iter().for_each(Begun::finish);
    assert_eq!(scene.fetches(), 1);
}

#[test]
fn drained_node_sends_what_it_began() {
    let scene = Scene::new(SIZE);
    let [mut first, second] = [(); 2].map(|()| scene.node());
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*"));
    let begun = [&first, &second].map(|node| scene.begin(node, HALF));
    first.gateway.begin_termination();
    until("it drains", || first.gateway.log().contains("draining"));
    latch.release();
    begun.into_iter().for_each(Begun::finish);
    assert!(first.gateway.wait().success());
    assert_eq!(scene.fetches(), 1);
    until("it is committed", || second.counted("peer_hits") == 1);
}

#[test]
fn unreachable_node_is_fetched_around() {
    let scene = Scene::new(SIZE);
    let node = scene.node();
    for (holder, url) in [
        ("none", "http://127.0.0.1:1"),
        ("no URL", "https://me:pw@node/"),
        // Not of this fleet: nothing listens there as a gateway.
        ("an upstream", scene.origin.url().as_str()),
    ] {
        scene.lease_to(holder, url);
        let before = scene.fetches();
        scene.is_right(&node.ask(&scene.path));
        assert_eq!(scene.fetches(), before + 1, "{holder}");
        until("it has the lease no more", || {
            scene.s3.keys("leases/*").is_empty()
        });
        let purged = node.gateway.roadstead(&["purge", &scene.digest]);
        assert!(purged.status.success(), "{purged:?}");
        let blob = testkit::s3::blob_key(&scene.digest);
        until("it is gone", || scene.s3.object(&blob).is_none());
    }
    assert_eq!(node.counted("lease_timeouts"), 0);
}
