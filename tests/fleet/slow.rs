//! A node that is slow is followed; one that sends nothing is not.

use testkit::http::at_once;
use testkit::origin::{Fault, Latch};

use super::*;

#[test]
fn slow_node_is_followed_to_the_end() {
    // Ten seconds each. The first sends all but the tail slowly, of the second the tail is all.
    at_once(2, |n| {
        let (size, rate) = [(2 << 20, 200 << 10), (50_000, 6_000)][n];
        let scene = Scene::new(size);
        let nodes = [(); 2].map(|()| scene.node());
        scene
            .origin
            .fault(Fault::Throttle(rate).on("GET", "*/blobs/*"));
        std::thread::scope(|scope| {
            let one = scope.spawn(|| nodes[0].ask(&scene.path));
            scene.origin.wait_for("GET", &scene.path, 1);
            scene.is_right(&nodes[1].ask(&scene.path));
            scene.is_right(&one.join().expect("an answer"));
        });
        assert_eq!(scene.fetches(), 1);
        assert_eq!(nodes[1].counted("peer_hits"), 1);
    });
}

#[test]
fn silent_node_is_fetched_around_after_five_seconds() {
    let scene = Scene::new(SIZE);
    let [first, second, third] = [(); 3].map(|()| scene.node());
    let latch = Latch::new();
    let stalled = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(stalled.on("GET", "*/blobs/*").times(1));
    let one = scene.begin(&first, HALF);
    let others = [&second, &third].map(|node| scene.begin(node, HALF));
    others.into_iter().for_each(Begun::finish);
    // One of them asked for the other half, and the last one had it from that one or from the bucket.
    assert_eq!(scene.fetches(), 2);
    latch.release();
    one.finish();
    let sent = scene.origin.bytes_sent(&scene.path);
    assert!(sent <= SIZE as u64 + HALF, "{sent}");
}
