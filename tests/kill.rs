//! SIGKILLs at random moments of fills: no wrong bytes are ever served, stored or left behind.
//!
//! A moment is a number of bytes that the upstream has sent, drawn from a printed seed; `ROADSTEAD_SEED` repeats a run,
//! `ROADSTEAD_KILLS` sets the number of kills (20; `make test-long`: 200).

use std::path::{Path, PathBuf};
use std::time::Instant;

use testkit::gateway::Gateway;
use testkit::http::{End, Raw, at_once, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Latch, Origin};
use testkit::until;

/// The number of gateways that are killed.
const LANES: usize = 2;
/// Everything on disk is hashed once in this many rounds.
const HASHED_EVERY: u64 = 20;
/// The size from which a partial is stored.
const WORTH: usize = 1 << 20;
/// The upstream stops within a layer once in this many rounds, so that a kill leaves a partial however fast both are.
const STOPS_EVERY: u64 = 5;

#[test]
fn store_is_consistent_after_kills() {
    let _alone = crate::heavy_test();
    let seed = std::env::var("ROADSTEAD_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("ROADSTEAD_SEED={seed}");
    let kills = std::env::var("ROADSTEAD_KILLS").ok();
    let rounds = kills.map_or(20, |kills| kills.parse().expect("a number")) / LANES as u64;
    let lanes = at_once(LANES, |lane| Lane::new(seed ^ lane as u64).run(rounds));
    let resumed: usize = lanes.iter().sum();
    assert!(resumed > 0, "no partial was ever resumed");
    println!("{resumed} downloads were resumed after a kill");
}

/// One gateway with its upstream.
struct Lane {
    random: fastrand::Rng,
    origin: Origin,
    gateway: Gateway,
    /// Requests with a range, which only a partial causes.
    resumed: usize,
}

impl Lane {
    fn new(seed: u64) -> Self {
        let origin = Origin::start();
        // Small enough for evictions too.
        let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {max_size: 24MiB}\n");
        Self {
            random: fastrand::Rng::with_seed(seed),
            origin,
            gateway,
            resumed: 0,
        }
    }

    fn run(mut self, rounds: u64) -> usize {
        let mut last: Option<Image> = None;
        for round in 0..rounds {
            // The image whose pull was killed is pulled whole.
            if let Some(image) = last.take() {
                for path in paths(&image) {
                    let reply = get(self.gateway.url(1), None, &path);
                    assert_eq!(
                        (reply.status(), &reply.end),
                        (200, &End::Complete),
                        "{path}"
                    );
                    assert!(
                        reply.body == content(&image, &path),
                        "round {round}: {path}"
                    );
                }
                for (digest, _) in &image.blobs {
                    self.origin.delete_blob(&image.repository, digest);
                }
            }
            let image = self.image(round);
            self.kill_during(&image, round % STOPS_EVERY == 0);
            self.gateway.restart();
            self.inspect(round % HASHED_EVERY == 0 || round + 1 == rounds);
            last = Some(image);
        }
        assert!(self.gateway.terminate().success());
        self.inspect(true);
        self.resumed
    }

    /// An image of two new layers: one large enough to be resumed, one not.
    fn image(&mut self, round: u64) -> Image {
        let large = 2 * WORTH + self.random.usize(0..WORTH);
        let small = self.random.usize(1..300_000);
        let layers = [
            random(self.random.u64(..), large),
            random(self.random.u64(..), small),
        ];
        let name = format!("team/app{}", round % 7);
        self.origin.push_image(&name, &format!("v{round}"), &layers)
    }

    /// Pulls everything at once, and kills the gateway when the upstream has sent a number of bytes. The bytes that
    /// clients have by then are correct. With `stops` the upstream stops beyond the size of a partial, and the kill
    /// waits until that is on disk.
    fn kill_during(&mut self, image: &Image, stops: bool) {
        self.resumed += self.ranges();
        self.origin.clear_requests();
        let latch = Latch::new();
        if stops {
            let point = WORTH + self.random.usize(1..WORTH);
            let fault = Fault::PauseAt(point as u64, latch.clone());
            self.origin.fault(fault.on("GET", &image.layer_path(0)));
        }
        let paths = paths(image);
        let total: usize = paths.iter().map(|path| content(image, path).len()).sum();
        // One in eight waits for the very end, when files are renamed.
        let moment = match self.random.u8(0..8) {
            0 => total,
            _ => self.random.usize(0..total),
        };
        let url = self.gateway.url(1).to_owned();
        std::thread::scope(|threads| {
            let clients: Vec<_> = paths
                .iter()
                .map(|path| {
                    let url = &url;
                    threads.spawn(move || pull(url, path))
                })
                .collect();
            let done = || {
                clients
                    .iter()
                    .all(std::thread::ScopedJoinHandle::is_finished)
            };
            let moment = moment as u64;
            until("the moment", || {
                if stops {
                    self.has_partial()
                } else {
                    self.origin.bytes_sent("*") >= moment || done()
                }
            });
            self.gateway.kill();
            self.origin.heal_all();
            latch.release();
            for (client, path) in clients.into_iter().zip(&paths) {
                let (body, complete) = client.join().expect("a client");
                let right = content(image, path);
                let same = if complete {
                    body == right
                } else {
                    right.starts_with(&body)
                };
                assert!(same, "{path}: {} bytes, complete: {complete}", body.len());
            }
        });
    }

    /// Whether a partial and its note are on disk.
    fn has_partial(&self) -> bool {
        let partials = files(&self.gateway.store().join("partials"));
        partials.iter().any(|file| {
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            size >= WORTH as u64 && file.with_extension("json").exists()
        })
    }

    fn ranges(&self) -> usize {
        let requests = self.origin.requests_for("GET", "*/blobs/*");
        requests
            .iter()
            .filter(|request| request.header("range").is_some())
            .count()
    }

    /// Checks the disk just after a start.
    fn inspect(&self, hashed: bool) {
        let store = self.gateway.store();
        for file in files(&store) {
            let name = file
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            let place = file.strip_prefix(&store).expect("below the store");
            let place = place.to_string_lossy().into_owned();
            if place.starts_with("blobs/") {
                let bytes = hashed.then(|| std::fs::read(&file).expect("a blob"));
                let digest = bytes.map(|bytes| testkit::sha256(&bytes));
                let named = format!("sha256:{name}");
                assert!(digest.is_none_or(|digest| digest == named), "{place}");
            } else if place.starts_with("partials/") {
                // Only partials and their notes.
                let pair = match name.strip_suffix(".json") {
                    Some(bytes) => file.with_file_name(bytes),
                    None => file.with_file_name(format!("{name}.json")),
                };
                // A resumed partial is being written.
                until(&format!("{place} to be no orphan"), || {
                    pair.exists() || !file.exists()
                });
            } else if place.starts_with("repositories/") || place.starts_with("state/") {
                let json = serde_json::from_slice::<serde_json::Value>(
                    &std::fs::read(&file).expect("a record"),
                );
                assert!(json.is_ok(), "half a record: {place}");
                assert!(!name.starts_with('.'), "an orphan: {place}");
            } else {
                assert!(
                    ["lock", "VERSION", "scrub"].contains(&&*place),
                    "an unexpected file: {place}"
                );
            }
        }
    }
}

/// The paths of an image: manifest by tag, configuration, layers.
fn paths(image: &Image) -> Vec<String> {
    let blobs = (0..image.blobs.len()).map(|blob| image.blob_path(blob));
    std::iter::once(image.tag_path()).chain(blobs).collect()
}

/// The correct content of one of [`paths`].
fn content<'a>(image: &'a Image, path: &str) -> &'a [u8] {
    let blob = image
        .blobs
        .iter()
        .find(|(digest, _)| path.ends_with(digest.as_str()));
    blob.map_or(&image.manifest, |(_, bytes)| bytes)
}

/// Pulls from a gateway that may be killed at any moment; returns the bytes, and whether the body looked complete.
fn pull(url: &str, path: &str) -> (Vec<u8>, bool) {
    let nothing = (Vec::new(), false);
    let Ok(mut raw) = Raw::connect_with(url, testkit::http::Connect::default()) else {
        return nothing;
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    if raw.try_send(request).is_err() {
        return nothing;
    }
    let Ok(head) = raw.read_head() else {
        return nothing;
    };
    assert_eq!(head.status, 200, "{path}");
    let (body, end) = raw.read_body("GET", &head);
    (body, end == End::Complete)
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// A gateway that was killed with two thirds of a blob.
fn killed(size: usize) -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, size)]);
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(size as u64 * 2 / 3, latch.clone()).on("GET", "*/blobs/*"));
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &image.layer_path(0), &[]);
    raw.read_exactly(size as u64 / 2);
    latch.wait_reached(1);
    gateway.kill();
    origin.heal_all();
    origin.clear_requests();
    (origin, image, gateway)
}

#[test]
fn restart_resumes_partials() {
    let _alone = crate::heavy_test();
    let size = 3 * WORTH;
    let (origin, image, mut gateway) = killed(size);
    gateway.restart();
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert_eq!((reply.status(), &reply.end), (200, &End::Complete));
    assert!(reply.body == image.layer(0).1);
    let requests = origin.requests_for("GET", &image.layer_path(0));
    assert_eq!(requests.len(), 1);
    let from: usize = requests[0]
        .header("range")
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        })
        .expect("a range to the end");
    assert!(from >= size / 2, "{from} of {size}");
}

/// A partial needs a link as a stored blob does.
#[test]
fn partial_is_served_only_if_the_upstream_has_the_blob() {
    let _alone = crate::heavy_test();
    let (origin, image, mut gateway) = killed(3 * WORTH);
    gateway.restart();
    let other = origin.push_image("team/other", "latest", &[random(2, 10)]);
    let digest = &image.layer(0).0;
    let reply = get(
        gateway.url(1),
        None,
        &format!("/v2/{}/blobs/{digest}", other.repository),
    );
    assert_eq!(
        (reply.status(), reply.error_code().as_deref()),
        (404, Some("BLOB_UNKNOWN"))
    );
    assert_eq!(reply.header("docker-content-digest"), None);
    // It is still served to those with a link.
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    let requests = origin.requests_for("GET", &image.layer_path(0));
    assert!(requests.len() == 1 && requests[0].header("range").is_some());
}

/// A partial is not served while the upstream cannot be reached.
#[test]
fn partial_without_its_upstream_is_unavailable_at_once() {
    let _alone = crate::heavy_test();
    let (mut origin, image, mut gateway) = killed(3 * WORTH);
    origin.down();
    gateway.restart();
    let started = Instant::now();
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert_eq!(
        (reply.status(), reply.error_code().as_deref()),
        (503, Some("UNAVAILABLE"))
    );
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    origin.up();
    until("the upstream to be asked again", || {
        let reply = get(gateway.url(1), None, &image.layer_path(0));
        reply.is_complete() && reply.body == image.layer(0).1
    });
    let requests = origin.requests_for("GET", &image.layer_path(0));
    assert!(
        requests
            .iter()
            .all(|request| request.header("range").is_some())
    );
}
