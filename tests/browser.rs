//! The dashboard of the real binary, driven in headless Chromium by `tests/browser/page.mjs`. `make test-browser` runs it.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::real::{Missing, found, program};
use testkit::{basic, process};

/// Longer than it takes on a busy machine; each step has a limit of its own.
const WITHIN: Duration = Duration::from_secs(1500);
/// A pull that takes half a minute, and one that outlasts the test.
const SLOW: (usize, u64) = (30 << 20, 1 << 20);
const ENDLESS: (usize, u64) = (30 << 20, 2 << 10);
/// More repositories than a page of the list has.
const REPOSITORIES: usize = 60;

/// The folder of the script, if what it needs is installed.
fn browser_tests() -> Result<(PathBuf, PathBuf), Missing> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    program("chromium")?;
    let node = program("node")?;
    for package in ["axe-core", "playwright-core"] {
        if !folder.join("node_modules").join(package).exists() {
            return Err(Missing(format!("npm's {package}")));
        }
    }
    Ok((node, folder))
}

/// Pulls an image's manifest and blobs.
fn pull(gateway: &Gateway, image: &Image) {
    for path in [image.tag_path(), image.blob_path(0), image.layer_path(0)] {
        assert_eq!(get(gateway.url(0), None, &path).status(), 200, "{path}");
    }
}

/// Images in the cache, failures, denials, a download that outlasts the test; and a slow one that can be started.
fn scene(users: &Path) -> (Origin, Gateway, Image) {
    let origin = Origin::start();
    let slow = origin.push_image("library/node", "22", &[random(1, SLOW.0)]);
    origin.fault(Fault::Throttle(SLOW.1).on("GET", &slow.layer_path(0)));
    let endless = origin.push_image("library/postgres", "17", &[random(2, ENDLESS.0)]);
    origin.fault(Fault::Throttle(ENDLESS.1).on("GET", &endless.layer_path(0)));
    origin.fault(Fault::status(500).on("*", "/v2/library/broken/*"));
    std::fs::write(users, "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n").expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", visibility: public, default: true, connections_per_fill: 1}}, ghcr.io]\n\
         access: {{htpasswd: {}, rules: [{{users: [anonymous], repositories: [\"docker.io/**\"], actions: [pull]}}]}}\n\
         listen: [{{address: \"127.0.0.1:0\", tls: off}}]\nadmin: {{address: \"127.0.0.1:0\"}}\n",
        origin.url(),
        users.display(),
    ));
    for (number, name) in ["library/alpine", "library/golang"].into_iter().enumerate() {
        let image = origin.push_image(name, "3.20", &[random(number as u64 + 3, 200_000)]);
        pull(&gateway, &image);
        pull(&gateway, &image);
    }
    for number in 0..REPOSITORIES {
        let name = format!("team/app-{number}");
        let image = origin.push_image(&name, "latest", &[random(number as u64 + 10, 10)]);
        let manifest = get(gateway.url(0), None, &image.tag_path());
        assert_eq!(manifest.status(), 200, "{manifest:?}");
    }
    let broken = get(gateway.url(0), None, "/v2/library/broken/manifests/latest");
    assert!(broken.status() >= 500, "{broken:?}");
    let login = basic("alice", "password");
    let denied = Raw::connect(gateway.url(0), None).exchange(
        "GET",
        "/v2/ghcr.io/secret/app/manifests/latest",
        &[("Authorization", &login)],
    );
    assert_eq!(denied.status(), 403, "{denied:?}");
    // The download goes on when its client leaves.
    let mut left = Raw::connect(gateway.url(0), None);
    left.request("GET", &endless.layer_path(0), &[]);
    left.read_head().expect("an answer");
    (origin, gateway, slow)
}

#[test]
#[ignore = "it takes minutes with a machine to itself: make test-browser"]
fn operators_use_the_dashboard() {
    let Some((node, folder)) = found(browser_tests()) else {
        return;
    };
    let dir = testkit::temp_dir();
    let (_origin, gateway, slow) = scene(&dir.path().join("users"));
    let fetch = "fetch(process.argv[1]).then((answer) => answer.arrayBuffer())";
    let layer = format!("{}{}", gateway.url(0), slow.layer_path(0));
    let facts = json!({
        "pulled": "docker.io/library/node:22",
        "pull": [node, "-e", fetch, layer],
        "search": "LIBRARY alp",
        "found": {"registry": "docker.io", "repository": "library/alpine", "tag": "3.20"},
        "purged": "docker.io/library/golang",
        "repositories": REPOSITORIES + 2,
        "filter": "library/alpine",
        "noLine": "gibt-es-nicht",
        "listeners": 16,
    });
    let file = dir.path().join("facts.json");
    std::fs::write(&file, facts.to_string()).expect("writable");
    let mut script = process::command(&node);
    script
        .arg(folder.join("page.mjs"))
        .arg(gateway.operators("admin.address"))
        .arg(&file);
    let (done, ended) = mpsc::sync_channel::<()>(0);
    let output = std::thread::scope(|scope| {
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
        let output = process::run(&mut script, WITHIN);
        drop(done);
        output
    });
    let output = output.expect("the script ends");
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    assert!(output.status.success(), "{}", said.concat());
}
