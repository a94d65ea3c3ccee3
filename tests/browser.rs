//! The dashboard in headless Chromium, driven by `tests/browser/page.mjs`: that of the real binary with 100,000
//! repositories, and over a mock with names that no registry has. A target of its own, since it needs the machine to itself:
//! `make test` and `make test-browser` run it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::real::{Missing, found, program};
use testkit::{basic, process};

/// Longer than it takes on a busy machine; each step has a limit of its own.
const WITHIN: Duration = Duration::from_secs(900);
/// A pull that takes ten seconds, and one that outlasts the test.
const SLOW: (usize, u64) = (10 << 20, 1 << 20);
const ENDLESS: (usize, u64) = (30 << 20, 2 << 10);
/// Beside those that are pulled.
const REPOSITORIES: usize = 100_000;
/// The names that Chromium has; the first is Debian's.
const CHROMIUM: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// What a page that took text for markup would run.
const HOSTILE: &str = "<img src=x onerror=window.broken=1>";

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());

/// What the scripts need, if it is installed.
struct Browser {
    node: PathBuf,
    chromium: PathBuf,
    python: PathBuf,
    folder: PathBuf,
}

impl Browser {
    fn find() -> Result<Self, Missing> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        let chromium = CHROMIUM.into_iter().find_map(|name| program(name).ok());
        let browser = Self {
            chromium: chromium.ok_or_else(|| Missing("chromium".to_owned()))?,
            node: program("node")?,
            python: program("python3")?,
            folder,
        };
        for package in ["axe-core", "playwright-core"] {
            if !browser.folder.join("node_modules").join(package).exists() {
                return Err(Missing(format!("npm's {package}")));
            }
        }
        Ok(browser)
    }

    /// A script of the folder.
    fn script(&self, name: &str) -> Command {
        let mut script = process::command(&self.node);
        script.arg(self.folder.join(name));
        script.env("CHROMIUM", &self.chromium);
        script.env("PYTHON", &self.python);
        script
    }
}

/// Runs a script to its end.
fn pass(mut script: Command) {
    let output = process::run(&mut script, WITHIN).expect("the script ends");
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    assert!(output.status.success(), "{}", said.concat());
    println!("{}", said.concat());
}

/// Pulls an image's manifest and blobs.
fn pull(gateway: &Gateway, image: &Image) {
    for path in [image.tag_path(), image.blob_path(0), image.layer_path(0)] {
        assert_eq!(get(gateway.url(0), None, &path).status(), 200, "{path}");
    }
}

/// Images in the cache, failures, denials, a download that outlasts the test; and a slow one that can be started.
fn scene(users: &Path, store: &Path) -> (Origin, Gateway, Image) {
    let origin = Origin::start();
    let slow = origin.push_image("library/node", "22", &[random(1, SLOW.0)]);
    origin.fault(Fault::Throttle(SLOW.1).on("GET", &slow.layer_path(0)));
    let endless = origin.push_image("library/postgres", "17", &[random(2, ENDLESS.0)]);
    origin.fault(Fault::Throttle(ENDLESS.1).on("GET", &endless.layer_path(0)));
    origin.fault(Fault::status(500).on("*", "/v2/library/broken/*"));
    std::fs::write(users, "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n").expect("writable");
    let mut gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", visibility: public, default: true, connections_per_fill: 1}}, ghcr.io,\n\
         {{name: quay.io, v2: \"{}\", visibility: public, tag_ttl: 0s, gate: {{deny: [\"banned/**\"], min_age: 3d}}}}]\n\
         access: {{htpasswd: {}, rules: [{{users: [anonymous], repositories: [\"docker.io/**\", \"quay.io/**\"], actions: [pull]}}]}}\n\
         listen: [{{address: \"127.0.0.1:0\", tls: off}}]\nadmin: {{address: \"127.0.0.1:0\"}}\nstore: {{path: {}}}\n",
        origin.url(),
        origin.url(),
        users.display(),
        store.display(),
    ));
    gateway.terminate();
    testkit::store::add_repositories(store, "docker.io", REPOSITORIES);
    add_traffic(store);
    gateway.restart();
    testkit::eventually_within(WITHIN, "the store to be counted", || {
        let overview = get(gateway.operators("admin.address"), None, "/api/v1/overview");
        let overview: serde_json::Value = serde_json::from_slice(&overview.body).expect("JSON");
        (overview["store"]["scanning"] == false).then_some(())
    });
    for (number, name) in ["library/alpine", "library/golang"].into_iter().enumerate() {
        let image = origin.push_image(name, "3.20", &[random(number as u64 + 3, 200_000)]);
        pull(&gateway, &image);
        pull(&gateway, &image);
    }
    fail(&origin, &gateway);
    meet_gate(&origin, &gateway);
    // The first survey of so many takes longer than a request waits.
    testkit::eventually_within(WITHIN, "the largest repositories", || {
        let largest = "/api/v1/repositories?sort=size";
        let reply = get(gateway.operators("admin.address"), None, largest);
        (reply.status() == 200).then_some(())
    });
    // The download goes on when its client leaves.
    let mut left = Raw::connect(gateway.url(0), None);
    left.request("GET", &endless.layer_path(0), &[]);
    left.read_head().expect("an answer");
    (origin, gateway, slow)
}

/// The history of a gateway that has run for a day: one that has just started has a single step, without another to move to.
fn add_traffic(store: &Path) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a clock").as_secs();
    let steps = |step: u64, steps: u64| {
        let last = now / step;
        let steps = (last - steps..last).map(|number| {
            let requests = step * (2 + number % 5) / 60;
            let counts = json!({
                "requests": requests, "hits": requests - requests / 6, "misses": requests / 6, "coalesced": 0,
                "served_bytes": requests << 20, "fetched_bytes": (number % 7) * (requests << 20) / 20, "errors": 0, "denials": 0,
            });
            json!({"at": number * step, "counts": counts})
        });
        steps.collect::<Vec<_>>()
    };
    let history = json!({"hour": steps(60, 50), "day": steps(900, 80)});
    std::fs::write(store.join("state/traffic.json"), history.to_string()).expect("writable");
}

/// An error, a denial, and what a hostile registry and a hostile client may write: annotations, platforms, users, paths.
fn fail(origin: &Origin, gateway: &Gateway) {
    let broken = get(gateway.url(0), None, "/v2/library/broken/manifests/latest");
    assert!(broken.status() >= 500, "{broken:?}");
    let status = |path: &str, user: &str| {
        let login = basic(user, "password");
        let headers = [("Authorization", &*login), ("User-Agent", HOSTILE)];
        let mut raw = Raw::connect(gateway.url(0), None);
        raw.exchange("GET", path, &headers).status()
    };
    assert_eq!(
        status("/v2/ghcr.io/secret/app/manifests/latest", "alice"),
        403
    );
    assert_eq!(status("/v2/library/alpine/manifests/3.20", HOSTILE), 401);
    assert!(
        status(
            "/v2/library/%3Cscript%3Ewindow.broken=1%3C/script%3E/tags/list",
            "alice"
        ) >= 400
    );
    let media_type = "application/vnd.oci.image.index.v1+json";
    let platform = json!({"os": HOSTILE, "architecture": HOSTILE});
    let child = json!({"mediaType": HOSTILE, "digest": testkit::sha256(b"child"), "size": 7, "platform": platform});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "artifactType": HOSTILE,
        "manifests": [child],
        "annotations": {"org.opencontainers.image.title": HOSTILE, HOSTILE: "\u{202e}gnp.exe"},
    });
    origin.push_manifest("team/hostile", Some("1"), media_type, index.to_string());
    let hostile = get(gateway.url(0), None, "/v2/team/hostile/manifests/1");
    assert_eq!(hostile.status(), 200, "{hostile:?}");
}

/// An image that the gate of quay.io denies, and a tag that moved to one that is too young.
fn meet_gate(origin: &Origin, gateway: &Gateway) {
    let get = |image: &Image| {
        let path = image.tag_path().replacen("/v2/", "/v2/quay.io/", 1);
        get(gateway.url(0), None, &path)
    };
    let banned = origin.push_image("banned/tool", "1", &[random(7, 1000)]);
    assert_eq!(get(&banned).status(), 403);
    let old = origin.push_image("team/moving", "latest", &[random(8, 1000)]);
    assert_eq!(get(&old).status(), 200);
    let young = origin.push_image("team/moving", "latest", &[random(9, 1000)]);
    let reply = get(&young);
    assert_eq!(reply.body, old.manifest, "{reply:?}");
}

#[test]
fn operators_use_the_dashboard() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(browser) = found(Browser::find()) else {
        return;
    };
    let dir = testkit::temp_dir();
    let store = testkit::store::memory_dir();
    let (_origin, gateway, slow) = scene(&dir.path().join("users"), store.path());
    let fetch = "fetch(process.argv[1]).then((answer) => answer.arrayBuffer())";
    let layer = format!("{}{}", gateway.url(0), slow.layer_path(0));
    let facts = json!({
        "pulled": "docker.io/library/node:22",
        "pull": [browser.node, "-e", fetch, layer],
        "search": "LIBRARY alp",
        "found": {"registry": "docker.io", "repository": "library/alpine", "tag": "3.20"},
        "purged": "docker.io/library/golang",
        "repositories": REPOSITORIES,
        "filter": "library/alpine",
        "noLine": "no-such-line",
        "explain": true,
        "gateDenies": "quay.io/banned/tool:1",
        "gateHoldsBack": "quay.io/team/moving:latest",
        "hostileText": HOSTILE,
        "hostileImage": {"registry": "docker.io", "repository": "team/hostile", "reference": "1"},
        "listeners": 16,
    });
    let file = dir.path().join("facts.json");
    std::fs::write(&file, facts.to_string()).expect("writable");
    let mut script = browser.script("page.mjs");
    script.arg(gateway.operators("admin.address")).arg(&file);
    let (done, ended) = mpsc::sync_channel::<()>(0);
    std::thread::scope(|scope| {
        // The log is never still.
        let gateway = &gateway;
        scope.spawn(move || {
            let pause = Duration::from_millis(300);
            while ended.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                // A machine that is too busy to answer in time is none of the page's faults.
                if let Ok(mut raw) = Raw::connect_with(gateway.url(0), Connect::default()) {
                    let request =
                        "GET /v2/library/alpine/manifests/3.20 HTTP/1.1\r\nHost: a\r\n\r\n";
                    let _ = raw.try_send(request).map(|()| raw.read_head());
                }
            }
        });
        // Its end, also by a panic, ends the requests.
        let _done = done;
        pass(script);
    });
}

/// Names that no registry accepts, very long ones, umlauts; and the mock's answers keep the contract of the API.
#[test]
fn hostile_names_are_text() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(browser) = found(Browser::find()) else {
        return;
    };
    pass(browser.script("run.mjs"));
}
