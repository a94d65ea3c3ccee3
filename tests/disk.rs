//! A broken disk makes pulls slower, never wrong, and never stops them (invariant 4): every failure of a disk under a
//! running gateway, and storing again after its repair, without a restart.
//!
//! Disks that can be filled and broken are mounted in the gateway's own namespace, so that they vanish with it. Missing
//! mount support is reported, see [`testkit::real::found`].

pub mod mount;

use mount::Disk;
use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Latch, Origin};
use testkit::real::{Missing, found};
use testkit::until;

/// A layer's length: enough for a partial, and more than a full disk can take.
const SIZE: usize = 2 << 20;

/// Pulls an image whole; everything must be complete and correct. Returns the layer's response.
#[track_caller]
fn pull(gateway: &Gateway, image: &Image) -> Reply {
    let paths = [image.tag_path(), image.digest_path(), image.blob_path(0)];
    let right = [&image.manifest, &image.manifest, &image.blobs[0].1];
    for (path, right) in paths.iter().zip(right) {
        let reply = get(gateway.url(1), None, path);
        assert_eq!(
            (reply.status(), &reply.end),
            (200, &End::Complete),
            "{path}"
        );
        assert!(reply.body == *right, "{path}");
    }
    let layer = get(gateway.url(1), None, &image.layer_path(0));
    assert_eq!((layer.status(), &layer.end), (200, &End::Complete));
    assert!(layer.body == image.layer(0).1);
    layer
}

fn committed(gateway: &Gateway, image: &Image) {
    let line = format!("committed digest={}", image.layer(0).0);
    until("the commit", || gateway.log().contains(&line));
}

/// The log lines about the store between two positions of the log.
fn complaints(log: &str, from: usize) -> Vec<&str> {
    log[from..]
        .lines()
        .filter(|line| line.contains(" ERROR ") || line.contains(" WARN "))
        // Logged for each aborted body, and not about the store.
        .filter(|line| !line.contains("a body was broken off"))
        .collect()
}

/// A disk that breaks and is repaired under a running gateway.
fn breaks(disk: Result<Disk, Missing>) {
    let Some(mut disk) = found(disk) else { return };
    let origin = Origin::start();
    let layers = |seed| [random(seed, SIZE)];
    let images: Vec<Image> = (0..6)
        .map(|n| origin.push_image(&format!("team/app{n}"), "latest", &layers(n)))
        .collect();
    let [here, half, cold, again, repaired, late] = &images[..] else {
        unreachable!("six images")
    };
    let more = "store: {min_free: 0B, tag_ttl: 0s}\n";
    let yaml = format!(
        "registries: [{{name: docker.io, v2: \"{}\"}}]\n{more}",
        origin.url()
    );
    let mut gateway = disk.gateway(&yaml);
    pull(&gateway, here);

    // One download is half done when the disk breaks.
    let latch = Latch::new();
    let path = half.layer_path(0);
    origin.fault(Fault::PauseAt(SIZE as u64 / 2, latch.clone()).on("GET", &path));
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &path, &[]);
    let head = raw.read_head().expect("a head");
    assert_eq!((head.status, head.length()), (200, Some(SIZE as u64)));
    let mut body = raw.read_exactly(SIZE as u64 / 2);
    let before = gateway.log().len();
    let broken = std::time::Instant::now();
    disk.break_it(&gateway);
    latch.release();
    let (rest, end) = raw.read_body(
        "GET",
        &testkit::http::Head {
            headers: vec![("content-length".into(), (SIZE / 2).to_string())],
            ..head
        },
    );
    body.extend(rest);
    // If sent bytes can no longer be read, the body is visibly incomplete.
    let right = &half.layer(0).1;
    assert!(right.starts_with(&body), "other bytes");
    assert!(disk.may_break_off || end == End::Complete, "{end:?}");
    assert_eq!(end == End::Complete, body.len() == SIZE);
    // Breaks the space that the download freed.
    disk.break_further(&gateway);

    // Nothing is stored, everything is served, however often it is requested.
    for image in [cold, cold, again, half] {
        origin.clear_requests();
        let layer = pull(&gateway, image);
        let status = layer.header("cache-status").unwrap_or_default();
        assert!(
            !status.ends_with("hit"),
            "it cannot have been stored: {status}"
        );
        assert!(origin.count("GET", &image.layer_path(0)) > 0);
    }
    pull(&gateway, here);
    let log = gateway.log();
    let lines = complaints(&log, before);
    let minutes = usize::try_from(broken.elapsed().as_secs() / 60).expect("a few");
    assert!(
        !lines.is_empty() && lines.len() <= 1 + minutes,
        "{lines:#?}"
    );

    // After the repair it is used again at once.
    disk.repair(&gateway);
    for image in [repaired, cold, late] {
        pull(&gateway, image);
        committed(&gateway, image);
        origin.clear_requests();
        let layer = pull(&gateway, image);
        assert_eq!(layer.header("cache-status"), Some("roadstead; hit"));
        assert_eq!(origin.count("GET", "*"), 0, "all of it is stored");
    }
    pull(&gateway, here);
    assert!(gateway.is_running());
}

#[test]
fn full_disk_enospc() {
    breaks(Disk::full());
}

#[test]
fn read_only_disk_erofs() {
    breaks(Disk::read_only());
}

#[test]
fn failing_disk_eio() {
    breaks(Disk::failing());
}

#[test]
fn full_block_device_fails_the_fsync() {
    breaks(Disk::thin());
}

#[test]
fn file_size_limit_efbig() {
    breaks(Ok(Disk::limited()));
}

#[test]
fn folder_that_is_a_file_enotdir() {
    breaks(Ok(Disk::misplaced()));
}

/// A disk with less room than `min_free` keeps its content and stores nothing new, also from the start.
#[test]
fn disk_filled_by_others_keeps_cached_content() {
    let Some(mut disk) = found(Disk::full()) else {
        return;
    };
    let origin = Origin::start();
    let image = |n| origin.push_image(&format!("team/app{n}"), "latest", &[random(n, SIZE)]);
    let (here, other) = (image(1), image(2));
    let yaml = format!(
        "registries: [{{name: docker.io, v2: \"{}\"}}]\nstore: {{min_free: 4MiB}}\n",
        origin.url()
    );
    let gateway = disk.gateway(&yaml);
    pull(&gateway, &here);
    disk.break_it(&gateway);
    pull(&gateway, &other);
    origin.clear_requests();
    let layer = pull(&gateway, &here);
    assert_eq!(layer.header("cache-status"), Some("roadstead; hit"));
    assert_eq!(origin.requests().len(), 0, "all of it is still here");
    disk.repair(&gateway);
    pull(&gateway, &other);
    committed(&gateway, &other);
}
