//! Three gateways and one bucket behind a TCP balancer, and 50 clients that pull while gateways are killed and others
//! are added: no client gets a wrong byte, and the upstream sends little more than each byte once.
//!
//! A few seconds; `ROADSTEAD_SCALE` sets the number of rounds, of larger blobs then (`make test-long`: 3). Its figures
//! are in docs/scale.md.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use testkit::origin::Fault;

use super::client::Blob;
use super::*;

const CLIENTS: usize = 50;
const BLOBS: usize = 40;
const BODIES: usize = CLIENTS * BLOBS;
/// Clients pull in nearly the same order, as those of one image do: in any within so many blobs.
const WINDOW: usize = 5;
/// The most bytes that the upstream may send, as a multiple of the blobs' size.
const MOST: f64 = 1.3;

/// What happens to the fleet once clients have so many percent of their bodies.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// SIGKILL; its clients connect to another gateway.
    Kill(usize),
    /// A gateway with an empty store.
    Add,
}

const CHANGES: [(usize, Change); 4] = [
    (20, Change::Kill(0)),
    (35, Change::Add),
    (55, Change::Kill(1)),
    (70, Change::Add),
];

/// A TCP balancer: each connection goes to the next gateway that takes it.
struct Balancer {
    address: SocketAddr,
    nodes: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Balancer {
    fn start(nodes: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let nodes = Arc::new(Mutex::new(nodes));
        let shared = nodes.clone();
        std::thread::spawn(move || {
            for (turn, client) in listener.incoming().flatten().enumerate() {
                let nodes = shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                std::thread::spawn(move || balance(&client, &nodes, turn));
            }
        });
        Self { address, nodes }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn add(&self, node: SocketAddr) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.push(node);
    }
}

/// Connects a client to a gateway and passes bytes both ways. A client whose gateway is lost is cut off.
fn balance(client: &TcpStream, nodes: &[SocketAddr], turn: usize) {
    let connected = (0..nodes.len()).find_map(|next| {
        let node = nodes[(turn + next) % nodes.len()];
        TcpStream::connect_timeout(&node, Duration::from_secs(2)).ok()
    });
    let Some(node) = connected else { return };
    std::thread::scope(|threads| {
        threads.spawn(|| pass(client, &node));
        pass(&node, client);
    });
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(read @ 1..) if to.write_all(&buffer[..read]).is_ok() => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[test]
fn fleet_behind_a_balancer_survives_changes() {
    let _turn = crate::heavy_test();
    let rounds = std::env::var("ROADSTEAD_SCALE").ok();
    let rounds: Option<u64> = rounds.and_then(|text| text.parse().ok());
    let (largest, rate) = match rounds {
        None => (150_000, 1 << 20),
        Some(_) => (4 << 20, 8 << 20),
    };
    for _ in 0..rounds.unwrap_or(1) {
        round(fastrand::u64(..), largest, rate);
    }
}

/// One round, with gateways and a bucket of its own.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn round(seed: u64, largest: usize, rate: u64) {
    println!("seed {seed}");
    let scene = Scene::new(1);
    let blobs = Blob::push(&scene, seed, BLOBS, largest);
    let size: usize = blobs.iter().map(|blob| blob.bytes.len()).sum();
    scene
        .origin
        .fault(Fault::Throttle(rate).on("GET", "*/blobs/*"));
    let mut nodes: Vec<Node> = (0..3).map(|_| scene.node()).collect();
    let balancer = Balancer::start(nodes.iter().map(|node| node.address).collect());
    let url = balancer.url();
    let (done, retried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let started = Instant::now();
    std::thread::scope(|threads| {
        for client in 0..CLIENTS {
            let (blobs, url, done, retried) = (&blobs, &url, &done, &retried);
            threads.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ (client as u64 + 1) << 32);
                for window in blobs.chunks(WINDOW) {
                    let mut window: Vec<&Blob> = window.iter().collect();
                    random.shuffle(&mut window);
                    for blob in window {
                        retried.fetch_add(blob.pull(url), Relaxed);
                        done.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        for (percent, change) in CHANGES {
            let wanted = BODIES * percent / 100;
            testkit::eventually_within(Duration::from_secs(300), "progress", || {
                (done.load(Relaxed) >= wanted).then_some(())
            });
            match change {
                Change::Kill(number) => nodes[number].gateway.kill(),
                Change::Add => {
                    let node = scene.node();
                    balancer.add(node.address);
                    nodes.push(node);
                }
            }
        }
    });
    assert_eq!(done.load(Relaxed), BODIES);
    let seconds = started.elapsed().as_secs_f64();
    let factor = scene.origin.bytes_sent("*/blobs/*") as f64 / size as f64;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "| {CLIENTS} | {BODIES} | {:.1} MiB | {:.1} MiB | {factor:.2} | {} | {seconds:.1} s |",
        mib(size),
        mib(size * CLIENTS),
        retried.load(Relaxed)
    );
    assert!(factor <= MOST, "the upstream sent {factor} times the blobs");
}
