//! Partials: interrupted downloads are resumed, after a drop, from a host with another version, after a SIGKILL.

use testkit::gateway::Gateway;
use testkit::http::{End, Raw, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Latch, Origin};
use testkit::until;

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
    let requests = origin.requests_for("GET", &image.layer_path(0));
    let range = |request: &testkit::origin::Recorded| request.header("range").map(str::to_owned);
    requests.iter().map(range).collect()
}

/// Kills the gateway when half of the layer has arrived.
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
fn partials_of_a_killed_gateway_are_resumed_at_start() {
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
fn damaged_partial_is_refetched() {
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
    let requested = ranges(&origin, &image);
    assert_eq!(
        (requested.len(), requested.last()),
        (3, Some(&None)),
        "{requested:?}"
    );
}

#[test]
fn partial_of_a_removed_registry_is_left_alone() {
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
fn changed_version_is_compared_with_the_partial() {
    let (origin, image, gateway) = scene();
    let half = SIZE as u64 / 2;
    let blobs = ("GET", "*/blobs/*");
    origin.fault(Fault::TruncateAt(half).on(blobs.0, blobs.1).times(1));
    let other = Fault::header("ETag", "\"another version\"");
    origin.fault(other.on(blobs.0, blobs.1).after(1));
    // The reader waits and notices nothing.
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    let requested = ranges(&origin, &image);
    assert_eq!(requested, [None, Some(format!("bytes={half}-")), None]);
}

#[test]
fn partial_is_dropped_when_a_version_differs() {
    let (origin, image, gateway) = scene();
    let half = SIZE as u64 / 2;
    let rule = |fault: Fault| fault.on("GET", "*/blobs/*");
    origin.fault(rule(Fault::WrongByteAt(10)).times(1));
    origin.fault(rule(Fault::TruncateAt(half)).times(1));
    origin.fault(rule(Fault::header("ETag", "\"another version\"")).after(1));
    // A reader with wrong bytes is cut off; the fill starts again without them.
    let cut = get(gateway.url(1), None, &image.layer_path(0));
    assert!(!cut.is_complete() && cut.body.len() < SIZE);
    committed(&gateway, 1);
    let whole = get(gateway.url(1), None, &image.layer_path(0));
    assert!(whole.is_complete() && whole.body == image.layer(0).1);
}

/// A graceful stop leaves the same partials as SIGKILL, with and without readers.
#[test]
fn fill_interrupted_by_shutdown_is_resumed() {
    for reads in [true, false] {
        let origin = Origin::start();
        let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
        let drain = "limits: {drain: 1s}\n";
        let mut gateway = Gateway::mirror("docker.io", &origin.url(), drain);
        let pause = Fault::PauseAt(SIZE as u64 / 2, Latch::new());
        let pause = origin.fault(pause.on("GET", "*/blobs/*"));
        let mut raw = Raw::connect(gateway.url(1), None);
        raw.request("GET", &image.layer_path(0), &[]);
        raw.read_head().expect("a head");
        assert!(raw.read_exactly(SIZE as u64 / 2) == image.layer(0).1[..SIZE / 2]);
        let raw = reads.then_some(raw);
        assert!(gateway.terminate().success());
        drop(raw);
        origin.heal(pause);
        gateway.restart();
        committed(&gateway, 1);
        let rest = Some(format!("bytes={}-", SIZE / 2));
        assert_eq!(ranges(&origin, &image), [None, rest], "read: {reads}");
        let reply = get(gateway.url(1), None, &image.layer_path(0));
        assert!(reply.body == image.layer(0).1);
    }
}

/// A failed download counts with its written bytes, not with its full length.
#[test]
fn parked_partial_evicts_nothing() {
    let origin = Origin::start();
    let large = random(1, 40 << 20);
    let path = format!(
        "/v2/library/app/blobs/{}",
        origin.push_blob("library/app", large.clone())
    );
    origin.fault(Fault::TruncateAt(1 << 20).on("GET", &path).times(1));
    let gone = origin.fault(Fault::status(404).on("GET", &path).after(1));
    let gateway = Gateway::mirror(
        "docker.io",
        &origin.url(),
        "store: {max_size: 64MiB, min_free: 0}\n",
    );
    assert!(!get(gateway.url(1), None, &path).is_complete());
    until("the fill to fail", || {
        gateway.log().contains("fill: failed")
    });
    let small: Vec<String> = (0..20)
        .map(|seed| origin.push_blob("library/app", random(100 + seed, 2 << 20)))
        .map(|digest| format!("/v2/library/app/blobs/{digest}"))
        .collect();
    for round in 1..=2 {
        for path in &small {
            let reply = get(gateway.url(1), None, path);
            assert_eq!((reply.status(), reply.end.clone()), (200, End::Complete));
        }
        committed(&gateway, small.len());
        let counts: Vec<usize> = small.iter().map(|path| origin.count("GET", path)).collect();
        assert_eq!(counts, vec![1; small.len()], "round {round}");
    }
    // It can be resumed: the rest of its room is reserved then.
    origin.heal(gone);
    let reply = get(gateway.url(1), None, &path);
    assert!(reply.is_complete() && reply.body == large);
    let requests = origin.requests_for("GET", &path);
    let last = requests.last().and_then(|request| request.header("range"));
    assert_eq!(last, Some("bytes=1048576-"));
}

/// Large partials of an earlier process are hashed without delaying other requests.
#[test]
fn requests_are_served_while_partials_are_hashed() {
    let origin = Origin::start();
    let cold = origin.push_blob("library/app", random(1, 100_000));
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "");
    gateway.terminate();
    let size = 8_u64 << 30;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    for n in 0..=workers {
        let name = format!("sha256-{:064x}", n + 1);
        let file = gateway.store().join("partials").join(&name);
        // A sparse file takes no room: unwritten bytes read as zeros.
        let sparse = std::fs::File::create(&file).expect("a file");
        sparse.set_len(size).expect("a sparse file");
        let note = format!(
            "{{\"total\": {}, \"sources\": [[\"docker.io\", \"library/app\"]]}}",
            size * 2
        );
        std::fs::write(file.with_extension("json"), note).expect("a note");
    }
    gateway.restart();
    let reply = get(
        gateway.url(1),
        None,
        &format!("/v2/library/app/blobs/{cold}"),
    );
    assert_eq!((reply.status(), reply.end), (200, End::Complete));
    // None of them is hashed yet, else they would be requested.
    let resumed = origin.requests_for("GET", "*/blobs/*");
    let resumed = resumed
        .iter()
        .filter(|request| request.header("range").is_some());
    assert_eq!(resumed.count(), 0);
}
