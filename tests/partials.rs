//! Partials: what was begun is gone on with, after a drop, by another version's host, after a SIGKILL.

mod support;

use support::gateway::Gateway;
use support::http::{Raw, get};
use support::image::random;
use support::origin::{Fault, Image, Latch, Origin};
use support::until;

const SIZE: usize = 4 << 20;

fn scene() -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    (origin, image, gateway)
}

fn committed(gateway: &Gateway, n: usize) {
    until(&format!("{n} committed fills"), || {
        gateway.log().matches("fill: committed").count() >= n
    });
}

fn ranges(origin: &Origin, image: &Image) -> Vec<Option<String>> {
    let asked = origin.requests_for("GET", &image.layer_path(0));
    let range = |request: &support::origin::Recorded| request.header("range").map(str::to_owned);
    asked.iter().map(range).collect()
}

/// Kills the gateway when half of the layer was received.
fn killed_half_way() -> (Origin, Image, Gateway) {
    let (origin, image, mut gateway) = scene();
    let pause = Fault::PauseAt(SIZE as u64 / 2, Latch::new());
    let pause = origin.fault(pause.on("GET", "*/blobs/*"));
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &image.layer_path(0), &[]);
    raw.read_head().expect("a head");
    assert!(raw.read_exactly(SIZE as u64 / 2) == image.layer(0).1[..SIZE / 2]);
    gateway.kill();
    origin.heal(pause);
    (origin, image, gateway)
}

#[test]
fn what_a_killed_gateway_had_begun_is_gone_on_with_before_anybody_asks() {
    let (origin, image, mut gateway) = killed_half_way();
    gateway.restart();
    committed(&gateway, 1);
    assert_eq!(
        ranges(&origin, &image),
        [None, Some(format!("bytes={}-", SIZE / 2))]
    );
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert!(reply.body == image.layer(0).1);
    assert_eq!(reply.header("cache-status"), Some("roadstead; hit"));
    let left = std::fs::read_dir(gateway.store().join("partials"));
    assert_eq!(left.expect("a folder").count(), 0);
}

#[test]
fn a_partial_that_was_damaged_is_fetched_anew() {
    let (origin, image, mut gateway) = killed_half_way();
    let name = image.layer(0).0.replacen(':', "-", 1);
    let file = gateway.store().join("partials").join(name);
    let mut bytes = std::fs::read(&file).expect("a partial");
    bytes[1000] ^= 1;
    std::fs::write(&file, bytes).expect("writable");
    gateway.restart();
    committed(&gateway, 1);
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert!(reply.body == image.layer(0).1);
    let asked = ranges(&origin, &image);
    assert_eq!((asked.len(), asked.last()), (3, Some(&None)), "{asked:?}");
}

#[test]
fn a_partial_of_a_registry_that_is_gone_is_left_alone() {
    let (origin, image, mut gateway) = killed_half_way();
    let elsewhere = Origin::start();
    gateway.restart_with(&format!(
        "registries: [{{name: other, v2: \"{}\"}}]",
        elsewhere.url()
    ));
    assert_eq!(
        get(gateway.url(1), None, &image.layer_path(0)).status(),
        404
    );
    assert_eq!(ranges(&origin, &image).len(), 1);
}

#[test]
fn another_version_from_the_same_host_is_compared_with_what_is_here() {
    let (origin, image, gateway) = scene();
    let half = SIZE as u64 / 2;
    let blobs = ("GET", "*/blobs/*");
    origin.fault(Fault::TruncateAt(half).on(blobs.0, blobs.1).times(1));
    let other = Fault::header("ETag", "\"another version\"");
    origin.fault(other.on(blobs.0, blobs.1).after(1));
    // The reader waits and never knows.
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    let asked = ranges(&origin, &image);
    assert_eq!(asked, [None, Some(format!("bytes={half}-")), None]);
}

#[test]
fn what_is_here_goes_when_another_version_differs() {
    let (origin, image, gateway) = scene();
    let half = SIZE as u64 / 2;
    let rule = |fault: Fault| fault.on("GET", "*/blobs/*");
    origin.fault(rule(Fault::WrongByteAt(10)).times(1));
    origin.fault(rule(Fault::TruncateAt(half)).times(1));
    origin.fault(rule(Fault::header("ETag", "\"another version\"")).after(1));
    // Who has the wrong bytes is cut off; the fill starts anew without them.
    let cut = get(gateway.url(1), None, &image.layer_path(0));
    assert!(!cut.is_complete() && cut.body.len() < SIZE);
    committed(&gateway, 1);
    let whole = get(gateway.url(1), None, &image.layer_path(0));
    assert!(whole.is_complete() && whole.body == image.layer(0).1);
}
