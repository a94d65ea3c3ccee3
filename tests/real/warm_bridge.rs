//! `roadstead warm` of images that only a registry's v1 side has: skopeo needs nothing else once every registry is
//! gone.

use std::time::Duration;

use serde_json::{Value, json};

use crate::v2_to_v1::image::{Entry, file, gzip, mark, tar};
use testkit::gateway::Gateway;
use testkit::origin::Origin;
use testkit::process::{self, Process};
use testkit::real::{Client, Marks, Missing, Skopeo, Unpacked, check_same, found};
use testkit::v1::V1Registry;
use testkit::{eventually_within, temp_dir};

const SOCKET: &str = "admin: {address: \"unix:admin.sock\"}\n";
/// A client waits 23 s for a conversion before it gets a 503.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const ENTRIES: usize = 4;

/// Two layers, gzip and plain.
fn layers() -> [Vec<u8>; 2] {
    let folder = || Entry::Folder("data/");
    let base = [folder(), file("data/one", 1), file("data/two", 2)];
    let top = [
        folder(),
        mark("data/.wh.one"),
        file("data/three", 3),
        Entry::Symlink("link", "data/two"),
    ];
    [gzip(&tar(&base)), tar(&top)]
}

fn push(registry: &V1Registry) {
    let layers = layers();
    let description = json!({
        "created": "2014-10-01T20:46:01.5Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/run"]},
    });
    let images: Vec<(Value, &[u8])> = layers
        .iter()
        .map(|layer| (description.clone(), layer.as_slice()))
        .collect();
    registry.put_image("team/app", "1", &images);
}

/// skopeo has the pushed image.
#[track_caller]
fn check_pull(skopeo: &mut Skopeo) {
    let pulled = skopeo.pull("team/app:1");
    pulled.unwrap_or_else(|said| panic!("{said}"));
    let tree = Unpacked::new(Marks::Opaque, &skopeo.layers());
    let pushed = Unpacked::new(Marks::Names, &layers());
    check_same(&tree.path(), &pushed.path(), ENTRIES);
}

fn skopeo(gateway: &Gateway) -> Result<Skopeo, Missing> {
    Skopeo::new(gateway.url(0), Some(&gateway.ca_path()))
}

/// The command waits for a conversion that takes longer than a client waits, and reports it.
#[test]
fn warm_waits_for_a_conversion() {
    let (v1, mut v2) = (V1Registry::start(), Origin::start());
    push(&v1);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v1: \"{}\", v2: \"{}\", default: true}}]\n{SOCKET}",
        v1.url(),
        v2.url()
    ));
    let Some(mut skopeo) = found(skopeo(&gateway)) else {
        return;
    };
    v1.script(|script| script.hold = Some(1));
    let dir = temp_dir();
    let log = dir.path().join("warm.log");
    let mut command = process::command(testkit::binary());
    command
        .args(["warm", "team/app:1", "-c", "roadstead.yaml"])
        .current_dir(gateway.dir());
    let mut warm = Process::spawn_logged(&mut command, &log).expect("the binary runs");
    let waiting = "; waiting: the image is being converted; try again later\n";
    eventually_within(READ_TIMEOUT, "warm to say that it waits", || {
        assert!(warm.exited().is_none(), "it gave up");
        warm.log().contains(waiting).then_some(())
    });
    v1.script(|script| script.hold = None);
    let status = warm.wait(READ_TIMEOUT).expect("it ends");
    let told = warm.log();
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(told.contains("team/app:1: 3 blobs, "), "{told}");
    assert_eq!(v1.count("GET", "/layer"), 2, "each layer was sent once");

    drop(v1);
    v2.down();
    check_pull(&mut skopeo);
}

/// A v1-only registry, served to v2 clients.
#[test]
fn v1_only_registry_is_warmed() {
    let v1 = V1Registry::start();
    push(&v1);
    let mut gateway = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\", bridge: true, default: true}}]\n{SOCKET}",
        v1.url()
    ));
    let Some(mut skopeo) = found(skopeo(&gateway)) else {
        return;
    };
    let output = gateway.roadstead(&["warm", "team/app:1"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let asked = v1.count("GET", "/layer");
    assert_eq!(asked, 2);
    // Warming again costs no layer, and an absent image is reported.
    let again = gateway.roadstead(&["warm", "old/team/app:1", "team/none:1"]);
    let told = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{told}");
    let unknown = "roadstead: team/none:1: the manifest is unknown to the registry";
    assert!(told.lines().any(|line| line.starts_with(unknown)), "{told}");
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(
        said.starts_with("old/team/app:1: 3 blobs, ") && said.contains("; 0 B fetched\n"),
        "{said}"
    );
    assert_eq!(v1.count("GET", "/layer"), asked);

    drop(v1);
    check_pull(&mut skopeo);
    // The same, warmed and never pulled, on a restarted gateway.
    gateway.restart();
    let Some(mut skopeo) = found(self::skopeo(&gateway)) else {
        return;
    };
    check_pull(&mut skopeo);
}
