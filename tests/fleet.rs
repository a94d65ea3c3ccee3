//! `store.bucket.advertise`: gateways that share a bucket read a cold blob from the one that fetches it, while it does.

mod client;
mod corruption;
mod first_byte;
mod losses;
mod rights;
mod rollout;
mod scale;
mod slow;
mod tickets;
mod transport;

use std::net::SocketAddr;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Latch, Origin};
use testkit::s3::S3;
use testkit::{private_address, until};

/// Large enough for a partial, and for bytes before the tail.
const SIZE: usize = 4 << 20;
const HALF: u64 = SIZE as u64 / 2;
/// The bytes of a blob that are held back until it is verified.
const TAIL: u64 = 64 << 10;

/// An upstream with a blob, and the bucket.
struct Scene {
    origin: Origin,
    s3: S3,
    layer: Vec<u8>,
    digest: String,
    path: String,
}

/// A gateway of the fleet.
struct Node {
    gateway: Gateway,
    address: SocketAddr,
    yaml: String,
}

impl Scene {
    fn new(size: usize) -> Self {
        let (origin, s3) = (Origin::start(), S3::start());
        let layer = random(1, size);
        let digest = origin.push_blob("library/app", layer.clone());
        Self {
            path: format!("/v2/library/app/blobs/{digest}"),
            origin,
            s3,
            layer,
            digest,
        }
    }

    /// Starts a gateway that advertises itself.
    fn node(&self) -> Node {
        let address = private_address();
        let yaml = format!(
            "registries: [{{name: docker.io, v2: \"{}\"}}]\n\
             listen: [{{address: \"{address}\", tls: off}}]\n\
             admin: {{address: \"unix:admin.sock\", metrics: \"127.0.0.1:0\"}}\n\
             log: {{level: debug}}\nstore: {{min_free: 0B, {}}}\n",
            self.origin.url(),
            self.s3
                .yaml_with(&format!("advertise: \"http://{address}\"")),
        );
        Node {
            gateway: Gateway::start(&yaml),
            address,
            yaml,
        }
    }

    /// Requests for the blob's bytes that the upstream got.
    fn fetches(&self) -> usize {
        self.origin.count("GET", &self.path)
    }

    /// Asks a node, and returns the connection once it has read `bytes` of the body, which must be right.
    fn begin(&self, node: &Node, bytes: u64) -> Begun<'_> {
        let mut raw = Raw::connect(&node.url(), None);
        raw.request("GET", &self.path, &[]);
        let head = raw.read_head().expect("a head");
        assert_eq!(head.status, 200);
        let body = raw.read_exactly(bytes);
        assert!(self.layer.starts_with(&body), "other bytes");
        Begun {
            raw,
            length: head.length(),
            body,
            scene: self,
        }
    }

    /// The key of its lease.
    fn lease(&self) -> String {
        format!("leases/{}", self.digest.replace(':', "-"))
    }

    /// The node that holds the lease, by its URL.
    fn holder(&self) -> Option<String> {
        let note = self.s3.object(&self.lease())?;
        let note: serde_json::Value = serde_json::from_slice(&note).ok()?;
        Some(note["holder"].as_str()?.to_owned())
    }

    /// Writes a lease of a node with this URL, as that node would.
    fn lease_to(&self, node: &str, url: &str) {
        let lease = serde_json::json!({
            "node": node,
            "expires_at": tickets::now() + 30,
            "holder": url,
        });
        self.s3.put(&self.lease(), lease.to_string().as_bytes());
    }

    fn is_right(&self, reply: &Reply) {
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert!(reply.is_complete(), "{:?}", reply.end);
        assert!(reply.body == self.layer, "other bytes");
    }
}

impl Node {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn ask(&self, path: &str) -> Reply {
        get(&self.url(), None, path)
    }

    /// A counter of the bucket.
    fn counted(&self, name: &str) -> u64 {
        let text = get(self.gateway.operators("admin.metrics"), None, "/metrics").text();
        let start = format!("roadstead_bucket_{name}_total ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        let value = value.unwrap_or_else(|| panic!("nothing is said of {name}"));
        value.parse().expect("a count")
    }
}

/// A response of which the first bytes were read.
struct Begun<'a> {
    raw: Raw,
    length: Option<u64>,
    body: Vec<u8>,
    scene: &'a Scene,
}

impl Begun<'_> {
    /// Reads the rest, which must be right and complete.
    fn finish(mut self) {
        let length = self.length.expect("a length");
        let rest = length - self.body.len() as u64;
        self.body.extend(self.raw.read_exactly(rest));
        assert!(self.body == self.scene.layer, "other bytes");
    }
}

#[test]
fn cold_blob_is_read_from_the_node_that_fetches_it() {
    let scene = Scene::new(SIZE);
    let [first, second, third] = [(); 3].map(|()| scene.node());
    let latch = Latch::new();
    let paused = testkit::origin::Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*"));
    let one = scene.begin(&first, HALF);
    // The others have the same bytes while the upstream has sent no more.
    let others = [&second, &third].map(|node| scene.begin(node, HALF));
    assert_eq!(scene.holder(), Some(first.url()));
    latch.release();
    one.finish();
    others.into_iter().for_each(Begun::finish);
    assert_eq!(scene.fetches(), 1);
    assert_eq!(scene.origin.bytes_sent(&scene.path), SIZE as u64);
    for node in [&second, &third] {
        until("it is committed", || node.counted("peer_hits") == 1);
        assert_eq!(node.counted("peer_received_bytes"), SIZE as u64);
        assert_eq!(node.counted("uploads"), 0);
        scene.is_right(&node.ask(&scene.path));
    }
    until("the first wrote it to the bucket", || {
        first.counted("uploads") == 1
    });
    until("the bytes are counted", || {
        first.counted("peer_sent_bytes") >= 2 * SIZE as u64
    });
    // They are no clients' requests.
    let log = first.gateway.log();
    assert!(log.contains("sent to another gateway"));
    assert!(
        !log.contains("_peer") && !log.contains("Roadstead-Peer"),
        "{log}"
    );
    assert_eq!(scene.fetches(), 1);
}

#[test]
fn blob_that_was_just_committed_is_read_from_its_node() {
    let scene = Scene::new(SIZE);
    let (first, second) = (scene.node(), scene.node());
    scene.is_right(&first.ask(&scene.path));
    until("it is released", || scene.s3.keys("leases/*").is_empty());
    // As if the upload had not begun.
    let blob = testkit::s3::blob_key(&scene.digest);
    scene.s3.remove(&blob);
    scene.lease_to("first", &first.url());
    scene.is_right(&second.ask(&scene.path));
    assert_eq!(scene.fetches(), 1);
    assert_eq!(second.counted("peer_hits"), 1);
}

#[test]
fn only_missing_bytes_of_a_partial_are_read() {
    let scene = Scene::new(SIZE);
    let (first, mut second) = (scene.node(), scene.node());
    let latch = Latch::new();
    let paused = testkit::origin::Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*"));
    let one = scene.begin(&first, HALF);
    drop(scene.begin(&second, HALF));
    second.gateway.kill();
    let yaml = second.yaml.clone();
    // It resumes its partial by itself.
    second.gateway.restart_with(&yaml);
    let other = scene.begin(&second, HALF);
    latch.release();
    one.finish();
    other.finish();
    until("it is committed", || second.counted("peer_hits") == 1);
    let received = second.counted("peer_received_bytes");
    assert!(received <= HALF + TAIL, "{received}");
    assert_eq!(scene.fetches(), 1);
}
