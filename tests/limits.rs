//! The store's limits and checks with the real binary: it never exceeds `max_size` nor violates `min_free`, unused
//! content is deleted, damage is detected and fetched again.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use testkit::disk::{files, measured};
use testkit::gateway::Gateway;
use testkit::http::{End, at_once, get};
use testkit::image::random;
use testkit::origin::{Image, Origin};
use testkit::real::found;
use testkit::until;

const MIB: u64 = 1 << 20;

fn blob_path(store: &Path, digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    store
        .join("blobs")
        .join(algorithm)
        .join(&hex[..2])
        .join(hex)
}

/// Pulls an image whole; everything must be complete and correct.
#[track_caller]
fn pull(gateway: &Gateway, image: &Image) {
    let manifest = get(gateway.url(1), None, &image.tag_path());
    assert_eq!((manifest.status(), &manifest.end), (200, &End::Complete));
    for (index, (digest, bytes)) in image.blobs.iter().enumerate() {
        let reply = get(gateway.url(1), None, &image.blob_path(index));
        assert_eq!((reply.status(), &reply.end), (200, &End::Complete));
        assert!(reply.body == *bytes, "{digest}");
    }
}

/// The number of an image's blobs served from the store.
fn hits(gateway: &Gateway, image: &Image) -> usize {
    let is_hit = |index: &usize| {
        let reply = get(gateway.url(1), None, &image.blob_path(*index));
        assert!(reply.is_complete() && reply.body == image.blobs[*index].1);
        reply.header("cache-status") == Some("roadstead; hit")
    };
    (0..image.blobs.len()).filter(is_hit).count()
}

fn known(gateway: &Gateway, times: usize) {
    until("the scan", || {
        gateway.log().matches("the store is known").count() >= times
    });
}

/// Sets the last use of everything below a folder to an hour and a minute ago.
fn age(folder: &Path) {
    for file in files(folder) {
        let used = SystemTime::now() - Duration::from_secs(3660);
        let file = std::fs::File::open(file).expect("readable");
        file.set_modified(used).expect("writable");
    }
}

/// Pulls images with sixteen clients at once, and returns the maximum of `measure` meanwhile.
fn most_measured(gateway: &Gateway, images: &[Image], measure: impl Fn() -> u64 + Sync) -> u64 {
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(measure(), Ordering::Relaxed);
            }
        });
        at_once(16, |client| {
            for round in 0..images.len() {
                pull(gateway, &images[(client * 5 + round) % images.len()]);
            }
        });
        done.store(true, Ordering::Relaxed);
    });
    most.into_inner()
}

/// Forty images of two layers each, 40 MiB in all; beside other fills, some layers exceed the room in a store of 6 MiB.
fn images(origin: &Origin) -> Vec<Image> {
    let image = |n: u64| {
        let large = if n.is_multiple_of(8) {
            4 << 20
        } else {
            400_000
        };
        let layers = [random(n, large), random(1000 + n, 30_000)];
        origin.push_image(&format!("team/app{}", n % 7), &format!("v{n}"), &layers)
    };
    (0..40).map(image).collect()
}

#[test]
fn concurrent_fills_stay_below_max_size() {
    let origin = Origin::start();
    let images = images(&origin);
    let yaml = "store: {max_size: 6MiB, min_free: 0B}\n";
    let gateway = Gateway::mirror("docker.io", &origin.url(), yaml);
    let store = gateway.store();
    let most = most_measured(&gateway, &images, || measured(&store));
    assert!(most <= 6 * MIB, "{most}");
    assert!(most > 4 * MIB, "most of it is used: {most}");
    // Records survive their bytes, which are fetched again on request.
    let image = &images[0];
    for (digest, _) in &image.blobs {
        let _ = std::fs::remove_file(blob_path(&store, digest));
    }
    pull(&gateway, image);
    assert_eq!(hits(&gateway, image), image.blobs.len());
}

#[test]
fn lowered_max_size_evicts_at_start() {
    let origin = Origin::start();
    let images: Vec<Image> = (0..10)
        .map(|n| origin.push_image("team/app", &format!("v{n}"), &[random(n, 1 << 20)]))
        .collect();
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "store: {max_size: 20MiB}\n");
    for image in &images {
        pull(&gateway, image);
    }
    let before = measured(&gateway.store());
    assert!(before > 10 * MIB, "{before}");
    // The most recently used content stays.
    age(&gateway.store().join("blobs"));
    let last = blob_path(&gateway.store(), &images[3].layer(0).0);
    let used = std::fs::File::open(&last).expect("a blob");
    used.set_modified(SystemTime::now()).expect("writable");
    let url = origin.url();
    gateway.restart_with(&format!(
        "registries: [{{name: docker.io, v2: \"{url}\"}}]\nstore: {{max_size: 4MiB}}\n"
    ));
    until("the eviction", || measured(&gateway.store()) <= 4 * MIB);
    assert!(last.exists());
    assert!(measured(&gateway.store()) > 2 * MIB, "no more than needed");
    for image in &images {
        pull(&gateway, image);
    }
}

#[test]
fn unused_content_is_deleted_and_used_content_stays() {
    let origin = Origin::start();
    let image = |n: u64| origin.push_image(&format!("team/app{n}"), "v", &[random(n, 100_000)]);
    let (used, unused, retained) = (image(1), image(2), image(3));
    let url = origin.url();
    let yaml = format!(
        "registries: [{{name: docker.io, v2: \"{url}\", default: true}}, {{name: other.example, v2: \"{url}\", unused_ttl: off}}]\n"
    );
    let ttl = |ttl: &str| format!("{yaml}store: {{unused_ttl: {ttl}}}\n");
    let mut gateway = Gateway::start(&ttl("30d"));
    for image in [&used, &unused, &retained] {
        pull(&gateway, image);
    }
    // A registry with `unused_ttl: off` has it as well.
    let elsewhere = format!(
        "/v2/other.example/{}/blobs/{}",
        retained.repository,
        retained.layer(0).0
    );
    assert!(get(gateway.url(0), Some(&gateway.ca_path()), &elsewhere).is_complete());
    let store = gateway.store();
    age(&store.join("blobs"));
    age(&store.join("repositories"));
    // A use is recorded at most once an hour.
    gateway.restart();
    pull(&gateway, &used);
    let is_old = |file: &PathBuf| {
        let meta = std::fs::metadata(file).expect("a file");
        let used = meta.modified().expect("a time");
        used.elapsed()
            .is_ok_and(|since| since > Duration::from_secs(3600))
    };
    let records = store.join("repositories/docker.io/team/app1");
    let blobs: Vec<PathBuf> = used
        .blobs
        .iter()
        .map(|(digest, _)| blob_path(&store, digest))
        .collect();
    until("the uses to be written", || {
        !files(&records).iter().chain(&blobs).any(is_old)
    });
    gateway.restart_with(&ttl("2m"));
    let path = |image: &Image| blob_path(&store, &image.layer(0).0);
    until("the unused blob to go", || !path(&unused).exists());
    assert!(path(&retained).exists(), "one registry retains it");
    assert!(path(&used).exists(), "it was asked for");
    let pointer = store.join("repositories/docker.io/team/app2/_tags");
    until("its pointers to go", || !pointer.exists());
    let pointer = store.join("repositories/docker.io/team/app1/_tags");
    assert!(pointer.exists());
    pull(&gateway, &unused);
}

/// Flips the byte in the middle.
fn flip(path: &Path) {
    let file = std::fs::File::options().read(true).write(true).open(path);
    let file = file.expect("a blob");
    let middle = file.metadata().expect("a blob").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("a byte");
    byte[0] ^= 1;
    file.write_all_at(&byte, middle).expect("writable");
}

#[test]
fn scrub_quarantines_damage_and_the_next_pull_refetches() {
    let origin = Origin::start();
    let layers = |n: u64| [random(n, 300_000), random(n + 100, 200_000)];
    let image = origin.push_image("team/app", "latest", &layers(1));
    let other = origin.push_image("team/other", "latest", &layers(2));
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "store: {scrub_every: 30d}\n");
    pull(&gateway, &image);
    pull(&gateway, &other);
    let store = gateway.store();
    let (flipped, cut) = (&image.layer(0).0, &image.layer(1).0);
    flip(&blob_path(&store, flipped));
    let file = std::fs::File::options()
        .write(true)
        .open(blob_path(&store, cut));
    file.and_then(|file| file.set_len(199_999))
        .expect("writable");
    let url = origin.url();
    gateway.restart_with(&format!(
        "registries: [{{name: docker.io, v2: \"{url}\"}}]\nstore: {{scrub_every: 1s}}\n"
    ));
    let quarantine = store.join("quarantine");
    for digest in [flipped, cut] {
        let aside = quarantine.join(digest.replace(':', "-"));
        until("the quarantine", || aside.exists());
        assert!(!blob_path(&store, digest).exists());
    }
    assert_eq!(files(&quarantine).len(), 2, "the rest is right");
    origin.clear_requests();
    pull(&gateway, &image);
    assert_eq!(origin.count("GET", "*/blobs/*"), 2);
    assert_eq!(hits(&gateway, &image), image.blobs.len());
    assert_eq!(hits(&gateway, &other), other.blobs.len());
    let log = gateway.log();
    assert_eq!(log.matches("a blob was damaged on disk").count(), 2);
}

/// Without waiting for the scrub: a wrong length is detected when a blob is opened, a wrong byte of a manifest when it
/// is read.
#[test]
fn wrong_file_length_is_detected_at_open() {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 300_000)]);
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "store: {scrub_every: off}\n");
    pull(&gateway, &image);
    let store = gateway.store();
    let cut = |length| {
        let layer = blob_path(&store, &image.layer(0).0);
        let file = std::fs::File::options().write(true).open(layer);
        file.and_then(|file| file.set_len(length))
            .expect("writable");
    };
    cut(299_999);
    pull(&gateway, &image);
    // A new process knows only the files.
    cut(300_001);
    flip(&blob_path(&store, &image.digest));
    gateway.restart();
    known(&gateway, 2);
    origin.clear_requests();
    pull(&gateway, &image);
    assert_eq!(origin.count("GET", "*"), 2, "the manifest and the layer");
    assert_eq!(hits(&gateway, &image), image.blobs.len());
}

#[test]
fn second_process_and_newer_layout_are_refused() {
    let origin = Origin::start();
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let store = gateway.store();
    let refused = || {
        let yaml = format!(
            "store: {{path: {}}}\nlisten: [{{address: \"127.0.0.1:0\", tls: off}}]\nadmin: {{address: off}}\n",
            store.display()
        );
        let output = Gateway::refused(&yaml);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let message = refused();
    assert!(
        message.contains("is in use by another process"),
        "{message}"
    );
    assert!(gateway.terminate().success());
    std::fs::write(store.join("VERSION"), "2\n").expect("writable");
    let message = refused();
    for part in [
        "VERSION has the layout version \"2\"",
        "it knows 1",
        "another store.path",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

/// The free bytes on the file system of a gateway's store.
fn free(store: &Path) -> u64 {
    let stat = rustix::fs::statvfs(store).expect("a file system");
    stat.f_bavail * stat.f_frsize
}

/// The file system has 12 MiB, of which 4 MiB must stay free.
#[test]
fn concurrent_fills_leave_min_free_to_others() {
    let Some(disk) = found(crate::disk::mount::Disk::full()) else {
        return;
    };
    let origin = Origin::start();
    let images = images(&origin);
    let yaml = format!(
        "registries: [{{name: docker.io, v2: \"{}\"}}]\nstore: {{min_free: 4MiB}}\n",
        origin.url()
    );
    let gateway = disk.gateway(&yaml);
    // The path in the gateway's own mount namespace.
    let inside = PathBuf::from(format!("/proc/{}/root", gateway.pid()));
    let store = inside.join(gateway.store().strip_prefix("/").expect("an absolute path"));
    let size = {
        let stat = rustix::fs::statvfs(&store).expect("a file system");
        stat.f_blocks * stat.f_frsize
    };
    assert_eq!(size, 12 * MIB, "the mounted one");
    let most = most_measured(&gateway, &images, || size - free(&store));
    assert!(most <= 8 * MIB, "{most}");
    assert!(most > 6 * MIB, "most of it is used: {most}");
    assert!(gateway.log().matches("committed").count() > images.len());
}
