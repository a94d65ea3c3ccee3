//! Deleted files that are still open: they count until they are closed, and they are closed in time.

#![allow(
    clippy::disallowed_methods,
    reason = "clients and observers pause on threads of their own"
)]

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{Connect, End, Raw, at_once, get};
use testkit::image::random;
use testkit::origin::{Fault, Latch, Origin};
use testkit::until;

const MAX_SIZE: u64 = 64 << 20;
const BLOCK: u64 = 4096;

/// The bytes that the store's files take on its file system, deleted but open ones included.
fn taken(gateway: &Gateway) -> u64 {
    let mut files = HashMap::new();
    named(&gateway.store(), &mut files);
    for (_, path) in deleted(gateway) {
        if let Ok(meta) = std::fs::metadata(&path) {
            files.insert(meta.ino(), meta.blocks() * 512);
        }
    }
    files.values().sum()
}

fn named(folder: &Path, files: &mut HashMap<u64, u64>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => named(&entry.path(), files),
            Ok(meta) => drop(files.insert(meta.ino(), meta.blocks() * 512)),
            Err(_) => {}
        }
    }
}

/// The open descriptors of deleted files of the store: former names, and paths in /proc.
fn deleted(gateway: &Gateway) -> Vec<(String, std::path::PathBuf)> {
    let folder = format!("/proc/{}/fd", gateway.pid());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let name = std::fs::read_link(entry.path()).ok()?;
        let name = name.to_str()?.to_owned();
        (name.ends_with(" (deleted)") && name.contains("/store/")).then(|| (name, entry.path()))
    });
    found.collect()
}

#[test]
fn small_store_keeps_its_cap_and_leaks_no_descriptor() {
    let origin = Origin::start();
    let blobs: Vec<(String, Vec<u8>)> = (0..60)
        .map(|seed| random(seed, 5 << 20))
        .map(|bytes| (origin.push_blob("library/app", bytes.clone()), bytes))
        .collect();
    let gateway = Gateway::mirror(
        "docker.io",
        &origin.url(),
        "store: {max_size: 64MiB, min_free: 0}\nlimits: {fills: 8}\n",
    );
    let stop = AtomicBool::new(false);
    let peak = std::thread::scope(|threads| {
        let sampler = threads.spawn(|| {
            let mut peak = 0;
            while !stop.load(Relaxed) {
                let mut size = taken(&gateway);
                // A file that disappears while another appears may be counted twice, so an excess is measured again.
                for _ in 0..3 {
                    if size > MAX_SIZE {
                        size = size.min(taken(&gateway));
                    }
                }
                peak = peak.max(size);
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        for _ in 0..2 {
            at_once(12, |client| {
                for (digest, bytes) in blobs.iter().skip(client % 4).step_by(4) {
                    let path = format!("/v2/library/app/blobs/{digest}");
                    let reply = get(gateway.url(1), None, &path);
                    assert_eq!(reply.end, End::Complete, "{reply:?}");
                    assert!(reply.body == *bytes);
                }
            });
        }
        stop.store(true, Relaxed);
        sampler.join().expect("a peak")
    });
    until("the last descriptors to be closed", || {
        deleted(&gateway).is_empty()
    });
    assert!(
        peak <= MAX_SIZE,
        "{peak} bytes, {} blocks over",
        (peak - MAX_SIZE) / BLOCK
    );
}

/// Slow readers of a fill keep its file open: its space must not be reused meanwhile.
#[test]
fn open_fill_is_not_evicted() {
    let origin = Origin::start();
    let size = 24 << 20;
    let blobs: Vec<(String, Vec<u8>)> = (0..4)
        .map(|seed| random(seed, size))
        .map(|bytes| (origin.push_blob("library/app", bytes.clone()), bytes))
        .collect();
    let path = |n: usize| format!("/v2/library/app/blobs/{}", blobs[n].0);
    let gateway = Gateway::mirror(
        "docker.io",
        &origin.url(),
        "store: {max_size: 64MiB, min_free: 0}\n",
    );
    let slow = Connect {
        receive_buffer: Some(64 << 10),
        ..Connect::default()
    };
    let mut reader = Raw::connect_with(gateway.url(1), slow).expect("a connection");
    reader.request("GET", &path(0), &[]);
    let head = reader.read_head().expect("a head");
    until("the first blob", || {
        gateway.log().matches("fill: committed").count() == 1
    });
    for (n, (_, bytes)) in blobs.iter().enumerate().skip(1) {
        assert!(get(gateway.url(1), None, &path(n)).body == *bytes);
        assert_eq!(deleted(&gateway), [], "it was evicted under its reader");
    }
    let (body, end) = reader.read_body("GET", &head);
    assert_eq!(end, End::Complete);
    assert!(body == blobs[0].1);
}

/// A download that was replaced frees its space when its last reader has left.
#[test]
fn abandoned_fill_counts_until_its_readers_leave() {
    let origin = Origin::start();
    let size = 40 << 20;
    let digest = origin.push_blob("library/app", random(1, size));
    let other = origin.push_blob("library/app", random(2, 20 << 20));
    let path = format!("/v2/library/app/blobs/{digest}");
    let latch = Latch::new();
    origin.fault(Fault::WrongByteAt(7).on("GET", &path).times(1));
    origin.fault(
        Fault::PauseAt(size as u64 - 1, latch.clone())
            .on("GET", &path)
            .times(1),
    );
    origin.fault(Fault::status(404).on("GET", &path).after(1));
    let gateway = Gateway::mirror(
        "docker.io",
        &origin.url(),
        "store: {max_size: 64MiB, min_free: 0}\nadmin: {address: \"unix:admin.sock\"}\n",
    );
    let slow = Connect {
        receive_buffer: Some(64 << 10),
        ..Connect::default()
    };
    let mut reader = Raw::connect_with(gateway.url(1), slow).expect("a connection");
    reader.request("GET", &path, &[]);
    reader.read_head().expect("a head");
    latch.wait_reached(1);
    latch.release();
    until("the fill to fail", || {
        gateway.log().contains("fill: failed")
    });
    // The slow reader still has the file open.
    assert_eq!(deleted(&gateway).len(), 1);
    let elsewhere = get(
        gateway.url(1),
        None,
        &format!("/v2/library/app/blobs/{other}"),
    );
    let status = elsewhere.header("cache-status").expect("a status");
    assert!(
        elsewhere.is_complete() && status.contains("detail=no-room") || taken(&gateway) <= MAX_SIZE
    );
    assert!(taken(&gateway) <= MAX_SIZE, "{} bytes", taken(&gateway));
    drop(reader);
    until("the file to be closed", || deleted(&gateway).is_empty());
}
