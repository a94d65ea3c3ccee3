//! A disk that hangs delays only the requests that need it.
//!
//! A FIFO stands for such a disk: opening it blocks until a writer comes.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use testkit::gateway::Gateway;
use testkit::http::{Raw, get};
use testkit::image::random;
use testkit::origin::{Image, Origin};
use testkit::{process, until};

/// More than the threads that serve requests.
const MANY: usize = 64;

/// Replaces a file with a FIFO.
fn stall(path: &Path) {
    std::fs::remove_file(path).expect("a file");
    let made = process::command("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo runs").success());
}

/// Releases the readers of a FIFO; returns whether there was one.
fn release(path: &Path) -> bool {
    // O_NONBLOCK: without a reader it fails at once.
    let mut options = std::fs::File::options();
    options.write(true).custom_flags(0o4000);
    options.open(path).is_ok()
}

fn stored(gateway: &Gateway, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").expect("sha256");
    let folder = gateway.store().join("blobs/sha256").join(&hex[..2]);
    folder.join(hex)
}

fn images(origin: &Origin) -> Vec<Image> {
    let push = |n| origin.push_image("team/app", &format!("v{n}"), &[random(n, 100_000)]);
    (0..=MANY as u64).map(push).collect()
}

#[track_caller]
fn pull(gateway: &Gateway, image: &Image) {
    for path in [image.tag_path(), image.digest_path(), image.layer_path(0)] {
        let reply = get(gateway.url(1), None, &path);
        assert!(reply.status() == 200 && reply.is_complete(), "{path}");
    }
}

#[test]
fn stalled_open_delays_no_other_blob() {
    let origin = Origin::start();
    let images = images(&origin);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    for image in &images {
        pull(&gateway, image);
    }
    let (well, stalled) = images.split_first().expect("many");
    for image in stalled {
        stall(&stored(&gateway, &image.layer(0).0));
    }
    let waiting: Vec<Raw> = stalled
        .iter()
        .map(|image| {
            let mut client = Raw::connect(gateway.url(1), None);
            client.send(format!(
                "GET {} HTTP/1.1\r\nHost: x\r\n\r\n",
                image.layer_path(0)
            ));
            client
        })
        .collect();
    pull(&gateway, well);
    for image in stalled {
        let fifo = stored(&gateway, &image.layer(0).0);
        until("it to be waited for", || release(&fifo));
    }
    pull(&gateway, well);
    drop(waiting);
}

/// A use is recorded in the file's mtime, after the response.
#[test]
fn stalled_touch_delays_no_response() {
    let origin = Origin::start();
    let images = images(&origin);
    // Uses are written every 10 s.
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {unused_ttl: 40s}\n");
    let began = SystemTime::now();
    for image in &images {
        let reply = get(gateway.url(1), None, &image.digest_path());
        assert!(reply.status() == 200 && reply.is_complete());
    }
    for image in &images {
        stall(&stored(&gateway, &image.digest));
    }
    // These are in memory.
    let mut waited = vec![false; images.len()];
    until("all uses to be due", || {
        for image in &images {
            let reply = get(gateway.url(1), None, &image.digest_path());
            assert!(reply.status() == 200 && reply.body == image.manifest);
        }
        began
            .elapsed()
            .is_ok_and(|since| since > Duration::from_secs(12))
    });
    for (image, waited) in images.iter().zip(&mut waited) {
        *waited = release(&stored(&gateway, &image.digest));
    }
    assert!(waited.contains(&true), "a use was to be written");
}
