//! An upstream's `ca`: which certificates it makes trusted, and changes of the file at runtime.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use testkit::gateway::Gateway;
use testkit::http::{Raw, get};
use testkit::image::random;
use testkit::origin::{Auth, Fault, Image, Latch, Origin};
use testkit::tls::Ca;
use testkit::{temp_dir, until};

const IN_USE: &str = "reloaded changed files";
const REFUSED: &str = "changed files are refused";
/// The length of a layer, in bytes.
const SIZE: usize = 1 << 20;

/// An upstream behind https with a token server, and a gateway that trusts its CA by a file.
struct Scene {
    origin: Origin,
    gateway: Gateway,
    file: PathBuf,
    images: usize,
    _dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::started(Gateway::start)
    }

    fn started(start: impl FnOnce(&str) -> Gateway) -> Self {
        let dir = temp_dir();
        let file = dir.path().join("corporate.pem");
        let origin = Origin::start_tls();
        origin.require(Auth::bearer());
        // Every request needs a handshake of its own, and so the current trust.
        origin.fault(Fault::Close);
        std::fs::copy(origin.ca_path(), &file).expect("copied");
        let gateway = start(&trusting(&origin.url(), &file));
        Self {
            origin,
            gateway,
            file,
            images: 0,
            _dir: dir,
        }
    }

    /// A new image, in a repository that needs a token of its own.
    fn image(&mut self) -> Image {
        self.images += 1;
        let seed = self.images as u64;
        self.origin
            .push_image(&format!("team/app{seed}"), "latest", &[random(seed, SIZE)])
    }

    /// Whether an uncached image can be pulled: token, manifest and blob.
    fn pulls(&mut self) -> bool {
        let image = self.image();
        let manifest = get(self.gateway.url(1), None, &image.tag_path());
        if manifest.status() != 200 {
            assert_eq!(manifest.status(), 503, "{manifest:?}");
            return false;
        }
        let layer = get(self.gateway.url(1), None, &image.layer_path(0));
        layer.body == image.layer(0).1
    }

    fn log_lines(&self, words: &str) -> usize {
        let (log, file) = (self.gateway.log(), self.file.display().to_string());
        let lines = log.lines();
        lines
            .filter(|line| line.contains(words) && line.contains(&file))
            .count()
    }

    fn write(&self, text: impl AsRef<[u8]>) {
        std::fs::write(&self.file, text).expect("writable");
    }
}

fn trusting(url: &str, ca: &Path) -> String {
    format!(
        "registries: [{{name: docker.io, v2: \"{url}\", ca: \"{}\"}}]\n",
        ca.display()
    )
}

#[test]
fn reloaded_ca_file_is_used_and_downloads_continue() {
    let mut scene = Scene::new();
    assert!(scene.pulls());
    let latch = Latch::new();
    let image = scene.image();
    let paused = Fault::PauseAt(SIZE as u64 / 2, latch.clone());
    scene.origin.fault(paused.on("GET", &image.layer_path(0)));
    let (early, late) = image.layer(0).1.split_at(SIZE / 2);
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.request("GET", &image.layer_path(0), &[]);
    assert_eq!(raw.read_head().expect("an answer").status, 200);
    assert!(raw.read_exactly(early.len() as u64) == early);

    let former = scene.origin.move_to(Ca::new()).expect("the first CA");
    assert!(!scene.pulls(), "the new CA is not trusted yet");
    std::fs::copy(scene.origin.ca_path(), &scene.file).expect("copied");
    until("a line that says so", || scene.log_lines(IN_USE) == 1);
    until("a pull", || scene.pulls());

    latch.release();
    assert!(raw.read_exactly(late.len() as u64) == late);
    let gets = scene.origin.requests_for("GET", &image.layer_path(0));
    let whole = gets.iter().filter(|request| request.status == 200).count();
    assert_eq!(whole, 1, "it was not asked for again: {gets:?}");

    // The former CA is no longer trusted.
    let second = scene.origin.move_to(former).expect("the second CA");
    assert!(!scene.pulls());
    scene.origin.move_to(second);
    until("a pull", || scene.pulls());
}

#[test]
fn broken_ca_file_is_logged_once_and_ignored() {
    let mut scene = Scene::new();
    assert!(scene.pulls());
    let good = std::fs::read(&scene.file).expect("readable");
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let torn = &good[..good.len() / 2];
    let harms: [&[u8]; 4] = [b"no pem", b"", hollow.as_bytes(), torn];
    for (count, harm) in harms.into_iter().enumerate() {
        scene.write(harm);
        until("the refusal", || scene.log_lines(REFUSED) == count + 1);
        assert!(scene.pulls());
        assert_eq!(scene.log_lines(IN_USE), 0);
    }
    std::fs::remove_file(&scene.file).expect("removable");
    until("the refusal", || {
        scene.log_lines(REFUSED) == harms.len() + 1
    });
    assert!(scene.pulls());
    let log = scene.gateway.log();
    let mut lines = log.lines().filter(|line| line.contains(REFUSED));
    assert!(lines.all(|line| line.contains("ERROR") && line.contains("registry docker.io: ")));

    // Repaired, with the next CA beside the old one.
    let next = Ca::new();
    let both = [good.clone(), std::fs::read(next.path()).expect("readable")].concat();
    scene.write(both);
    until("a line that says so", || scene.log_lines(IN_USE) == 1);
    assert!(scene.pulls());
    scene.origin.move_to(next);
    assert!(scene.pulls());
    assert_eq!(scene.log_lines(REFUSED), harms.len() + 1);
}

/// `ca` is added to the system's CAs, at start and when it changes.
#[test]
fn system_roots_stay_trusted() {
    let system = Ca::new();
    let file = system.path();
    let environment = [("SSL_CERT_FILE", file.to_str().expect("UTF-8"))];
    let mut scene = Scene::started(|yaml| Gateway::start_with(yaml, &environment));
    assert!(scene.pulls(), "by ca");
    let own = scene.origin.move_to(system).expect("a CA");
    assert!(scene.pulls(), "by the system");
    std::fs::copy(Ca::new().path(), &scene.file).expect("copied");
    until("a line that says so", || scene.log_lines(IN_USE) == 1);
    assert!(scene.pulls(), "by the system");
    scene.origin.move_to(own);
    assert!(!scene.pulls(), "its ca is another now");
}

#[test]
fn unusable_ca_file_is_named_at_start() {
    let dir = temp_dir();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path
    };
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bad in [
        dir.path().join("absent.pem"),
        file("garbage.pem", "no pem at all\n"),
        file("empty.pem", ""),
        file("torn.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n"),
        file("hollow.pem", hollow),
    ] {
        let yaml = trusting("https://registry.example", &bad)
            + "listen: [{address: \"127.0.0.1:0\", tls: off}]\nadmin: {address: off}\n";
        let output = Gateway::refused(&yaml);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{stderr}");
        assert!(stderr.contains(&bad.display().to_string()), "{stderr}");
        assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    }
}
