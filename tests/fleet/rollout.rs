//! A rollout: 24 clients pull 60 cold blobs at once through three gateways that share a bucket, and the upstream sends
//! each byte once, even while gateways are killed and the bucket goes away. No client ever gets wrong bytes.
//!
//! A few seconds; `ROADSTEAD_ROLLOUT` sets the number of rounds, of larger blobs then (`make test-long`: 5).

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use testkit::origin::Fault;
use testkit::s3::Ill;

use super::client::Blob;
use super::*;

const NODES: usize = 3;
const CLIENTS: usize = 24;
const BLOBS: usize = 60;
/// The bodies that all clients get.
const BODIES: usize = CLIENTS * BLOBS;
/// Clients pull in nearly the same order, as those of one image do: in any within so many blobs.
const WINDOW: usize = 6;

/// What happens during a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Calm,
    /// Two gateways are killed, one after the other.
    Kills,
    /// The bucket goes away as well. Without it the gateways cannot find each other.
    KillsAndOutage,
}

impl Weather {
    /// The most bytes that the upstream may send while gateways find each other, as a multiple of the blobs' size.
    fn most(self) -> f64 {
        match self {
            Self::Calm => 1.1,
            Self::Kills | Self::KillsAndOutage => 1.3,
        }
    }
}

/// The rounds of `make test`, and of `make test-long`.
const SHORT: [Weather; 2] = [Weather::Calm, Weather::Kills];
const LONG: [Weather; 3] = [Weather::Calm, Weather::Kills, Weather::KillsAndOutage];

#[test]
fn rollout_crosses_the_line_once() {
    let _turn = crate::heavy_test();
    let rounds = std::env::var("ROADSTEAD_ROLLOUT").ok();
    let rounds: Option<u64> = rounds.and_then(|text| text.parse().ok());
    let seed = std::env::var("ROADSTEAD_SEED").ok();
    let seed = seed
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("ROADSTEAD_SEED={seed}");
    let (largest, rate) = match rounds {
        None => (200_000, 1 << 20),
        Some(_) => (4 << 20, 8 << 20),
    };
    for round in 0..rounds.unwrap_or(1) {
        for weather in rounds.map_or(&SHORT[..], |_| &LONG[..]) {
            rollout(seed.wrapping_add(round), largest, rate, *weather);
        }
    }
}

/// One round, with gateways and a bucket of its own.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rollout(seed: u64, largest: usize, rate: u64, weather: Weather) {
    let scene = Scene::new(1);
    let blobs = Blob::push(&scene, seed, BLOBS, largest);
    let size: usize = blobs.iter().map(|blob| blob.bytes.len()).sum();
    scene
        .origin
        .fault(Fault::Throttle(rate).on("GET", "*/blobs/*"));
    let mut nodes = [(); NODES].map(|()| scene.node());
    let urls = nodes.each_ref().map(Node::url);
    let done = AtomicUsize::new(0);
    let started = Instant::now();
    let alone = std::thread::scope(|threads| {
        for client in 0..CLIENTS {
            let (blobs, url, done) = (&blobs, &urls[client % NODES], &done);
            threads.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ (client as u64 + 1) << 32);
                for window in blobs.chunks(WINDOW) {
                    let mut window: Vec<&Blob> = window.iter().collect();
                    random.shuffle(&mut window);
                    for blob in window {
                        blob.pull(url);
                        done.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        match weather {
            Weather::Calm => 0,
            Weather::Kills => {
                kills(&mut nodes, &done);
                0
            }
            Weather::KillsAndOutage => {
                let alone = outage(&scene, &nodes, &done);
                kills(&mut nodes, &done);
                alone
            }
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let sent = sent(&scene);
    let factor = sent as f64 / size as f64;
    println!(
        "| {weather:?} | {BODIES} bodies | {:.1} MiB | {factor:.2} times over the line | {seconds:.1} s |",
        size as f64 / f64::from(1 << 20)
    );
    // On a busy machine the bucket may answer too late, and then this is no calm round.
    let bucket_failed = nodes.iter().any(|node| node.counted("failures") > 0);
    let weather = match weather {
        Weather::Calm if bucket_failed => Weather::KillsAndOutage,
        weather => weather,
    };
    // Gateways that cannot find each other fetch the same bytes, each once.
    let alone = (alone - alone / NODES as u64) as f64 / size as f64;
    assert!(
        factor <= weather.most() + alone,
        "{weather:?}: {factor}, {alone} of it without the bucket"
    );
}

/// The bytes of blobs that the upstream has sent.
fn sent(scene: &Scene) -> u64 {
    scene.origin.bytes_sent("*/blobs/*")
}

/// Waits until clients have so many percent of their bodies.
fn reached(done: &AtomicUsize, percent: usize) {
    let wanted = BODIES * percent / 100;
    testkit::eventually_within(Duration::from_secs(300), "progress", || {
        (done.load(Relaxed) >= wanted).then_some(())
    });
}

fn kills(nodes: &mut [Node], done: &AtomicUsize) {
    for (node, percent) in [(0, 30), (1, 60)] {
        reached(done, percent);
        let node = &mut nodes[node];
        node.gateway.kill();
        let yaml = node.yaml.clone();
        node.gateway.restart_with(&yaml);
    }
}

/// Takes the bucket away until clients have 3 % more. Returns what the upstream sent until each gateway had used the
/// bucket again.
fn outage(scene: &Scene, nodes: &[Node], done: &AtomicUsize) -> u64 {
    reached(done, 15);
    let before = sent(scene);
    scene.s3.set(Ill::Down);
    reached(done, 18);
    scene.s3.set(None);
    let answers = |node: &Node| node.counted("hits") + node.counted("misses");
    for node in nodes {
        let answered = answers(node);
        testkit::eventually_within(Duration::from_secs(120), "an answer of the bucket", || {
            (answers(node) > answered || done.load(Relaxed) == BODIES).then_some(())
        });
    }
    sent(scene) - before
}
