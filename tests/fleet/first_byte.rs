//! How soon a cold blob's first byte comes through a gateway that reads it from the one that fetches it.
//!
//! `ROADSTEAD_ROLLOUT` (`make test-long`) bounds the time; otherwise the bytes alone are checked.

use std::time::{Duration, Instant};

use testkit::origin::Fault;

use super::*;

/// Blobs, each of which both gateways are asked for at once.
const BLOBS: u64 = 15;
/// What the upstream sends in a second: a blob takes a while.
const RATE: u64 = 16 << 20;
/// The most of the median.
const SOON: Duration = Duration::from_millis(100);

#[test]
fn first_byte_comes_through_both_nodes_at_once() {
    let _turn = crate::heavy_test();
    let scene = Scene::new(1);
    let throttled = Fault::Throttle(RATE).on("GET", "*/blobs/*");
    scene.origin.fault(throttled);
    let nodes = [(); 2].map(|()| scene.node());
    let mut delays: Vec<Duration> = (0..BLOBS)
        .map(|n| {
            let bytes = random(n + 2, SIZE);
            let digest = scene.origin.push_blob("library/app", bytes.clone());
            let path = format!("/v2/library/app/blobs/{digest}");
            let came = nodes.each_ref().map(|node| {
                let (url, path, first) = (node.url(), path.clone(), bytes[0]);
                std::thread::spawn(move || {
                    let mut raw = Raw::connect(&url, None);
                    raw.request("GET", &path, &[]);
                    assert_eq!(raw.read_head().expect("a head").status, 200);
                    assert_eq!(raw.read_exactly(1), [first]);
                    let came = Instant::now();
                    raw.read_exactly(SIZE as u64 - 1);
                    came
                })
            });
            let [one, other] = came.map(|thread| thread.join().expect("a whole blob"));
            let sent = scene.origin.bytes_sent(&path);
            assert_eq!(sent, SIZE as u64, "each byte once");
            one.max(other) - one.min(other)
        })
        .collect();
    delays.sort_unstable();
    let median = delays[delays.len() / 2];
    println!("| first bytes through two gateways | {median:.1?} apart |");
    if std::env::var_os("ROADSTEAD_ROLLOUT").is_some() {
        assert!(median <= SOON, "{delays:?}");
    }
}
