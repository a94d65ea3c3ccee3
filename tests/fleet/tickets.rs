//! Tickets: what a gateway answers to whom.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use testkit::origin::{Fault, Latch};

use super::*;

/// The bucket's secret, its name and its prefix in `S3::yaml`.
const SECRET: &str = "hunter2hunter2";
const BUCKET: &str = "shared\ntier";

pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A ticket as decision 49 describes it.
fn ticket(secret: &str, holder: &str, digest: &str, range: &str, expires_at: u64) -> String {
    let key = mac(
        secret.as_bytes(),
        &format!("roadstead peer key 1\n{BUCKET}"),
    );
    let text = format!("GET\n{holder}\n/_peer/blobs/{digest}\n{range}\n{expires_at}");
    let mut ticket = format!("Roadstead-Peer {expires_at}.");
    for byte in mac(&key, &text) {
        let _ = write!(ticket, "{byte:02x}");
    }
    ticket
}

/// The answer, without what differs from one to the next.
fn answer(node: &Node, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let reply = Raw::connect(&node.url(), None).exchange(method, path, headers);
    let mut fields = reply.head.headers.clone();
    fields.retain(|(name, _)| {
        !["date", "x-request-id"].contains(&name.to_ascii_lowercase().as_str())
    });
    format!("{} {fields:?} {}", reply.status(), reply.text())
}

#[test]
fn without_a_valid_ticket_the_path_is_unknown() {
    let scene = Scene::new(SIZE);
    let (node, other) = (scene.node(), scene.node());
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*"));
    let begun = scene.begin(&node, HALF);
    let (url, digest) = (node.url(), scene.digest.as_str());
    let path = format!("/_peer/blobs/{digest}");
    let unknown = answer(&node, "GET", "/_other/blobs/x", &[]);
    assert!(unknown.starts_with("404 "), "{unknown}");
    let absent = testkit::sha256(b"absent");
    let until = now() + 60;
    let valid = ticket(SECRET, &url, digest, "-", until);
    let refused = |node: &Node, path: &str, headers: &[(&str, &str)]| {
        assert_eq!(answer(node, "GET", path, headers), unknown, "{headers:?}");
    };
    refused(&node, &path, &[]);
    for wrong in [
        "Basic bWU6cHc=",
        "Roadstead-Peer",
        "Roadstead-Peer x.y",
        &ticket("other", &url, digest, "-", until),
        &ticket(SECRET, &other.url(), digest, "-", until),
        &ticket(SECRET, &url, &absent, "-", until),
        &ticket(SECRET, &url, digest, "bytes=5-", until),
        &ticket(SECRET, &url, digest, "-", now() - 70),
        &ticket(SECRET, &url, digest, "-", now() + 1000),
    ] {
        refused(&node, &path, &[("Authorization", wrong)]);
    }
    // A valid one for another request.
    let valid = [("Authorization", valid.as_str())];
    refused(&node, &path, &[valid[0], ("Range", "bytes=5-")]);
    refused(&node, &path.replace("blobs", "manifests"), &valid);
    // A node that only follows, and a blob that no node fetches.
    drop(scene.begin(&other, 1));
    let at_other = ticket(SECRET, &other.url(), digest, "-", until);
    refused(&other, &path, &[("Authorization", &at_other)]);
    let for_absent = ticket(SECRET, &url, &absent, "-", until);
    let absent = format!("/_peer/blobs/{absent}");
    refused(&node, &absent, &[("Authorization", &for_absent)]);
    for method in ["HEAD", "POST", "PUT", "DELETE"] {
        let found = answer(&node, method, &path, &valid);
        assert!(found.starts_with("404 "), "{method}: {found}");
    }
    // With it the bytes are sent as they arrive.
    let ranged = ticket(SECRET, &url, digest, "bytes=1048576-", until);
    let mut raw = Raw::connect(&url, None);
    let headers = [
        ("Authorization", ranged.as_str()),
        ("Range", "bytes=1048576-"),
    ];
    raw.request("GET", &path, &headers);
    let head = raw.read_head().expect("a head");
    assert_eq!(head.status, 206);
    let first = raw.read_exactly(1 << 20);
    assert!(first == scene.layer[1 << 20..2 << 20]);
    latch.release();
    let rest = raw.read_exactly(HALF);
    assert!(rest == scene.layer[2 << 20..]);
    begun.finish();
}

#[test]
fn stored_content_is_not_readable_with_a_ticket() {
    let scene = Scene::new(SIZE);
    let mut node = scene.node();
    scene.is_right(&node.ask(&scene.path));
    let path = format!("/_peer/blobs/{}", scene.digest);
    let ask = |node: &Node| {
        let valid = ticket(SECRET, &node.url(), &scene.digest, "-", now() + 60);
        let headers = [("Authorization", valid.as_str())];
        Raw::connect(&node.url(), None).exchange("GET", &path, &headers)
    };
    // It was fetched under a lease a moment ago.
    scene.is_right(&ask(&node));
    // Its next process has it, and did not fetch it.
    let yaml = node.yaml.clone();
    node.gateway.restart_with(&yaml);
    assert_eq!(ask(&node).status(), 404);
    scene.is_right(&node.ask(&scene.path));
    assert_eq!(scene.fetches(), 1);
}

#[test]
fn without_advertise_nothing_is_answered_or_read() {
    let scene = Scene::new(SIZE);
    let node = scene.node();
    let mut plain = scene.node();
    let yaml = plain.yaml.replace(", advertise: ", ", region: ");
    assert_ne!(yaml, plain.yaml);
    plain.gateway.restart_with(&yaml);
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    let paused = scene.origin.fault(paused.on("GET", "*/blobs/*").times(1));
    let begun = scene.begin(&plain, HALF);
    assert_eq!(scene.holder(), None);
    let valid = ticket(SECRET, &plain.url(), &scene.digest, "-", now() + 60);
    let path = format!("/_peer/blobs/{}", scene.digest);
    assert_eq!(
        answer(&plain, "GET", &path, &[("Authorization", &valid)]),
        answer(&plain, "GET", "/_other", &[])
    );
    // The other waits for the bucket, as long as it always did.
    scene.is_right(&node.ask(&scene.path));
    assert_eq!((scene.fetches(), node.counted("lease_timeouts")), (2, 1));
    assert_eq!(scene.origin.applied(paused), 1);
    latch.release();
    begun.finish();
}

/// Gateways of other buckets, or with another secret, get nothing.
#[test]
fn nodes_with_different_secrets_fetch_for_themselves() {
    let scene = Scene::new(SIZE);
    let node = scene.node();
    let mut other = scene.node();
    let yaml = other.yaml.replace(SECRET, "another secret");
    other.gateway.restart_with(&yaml);
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*").times(1));
    let begun = scene.begin(&node, HALF);
    scene.is_right(&other.ask(&scene.path));
    assert_eq!(scene.fetches(), 2);
    assert_eq!(other.counted("peer_received_bytes"), 0);
    latch.release();
    begun.finish();
}
