//! The bridge, end to end: docker-registry 2.8.2 and docker-registry 0.9.1 behind one hostname, each with an image that
//! the other does not have, and real clients of either API. All clients get the same files.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::v2_to_v1::image::{Entry, GZIP, ZSTD, file, gzip, mark, tar, zstd};
use testkit::gateway::Gateway;
use testkit::image::Layout;
use testkit::real::{
    Account, Client, Containerd, Marks, Member, Missing, OldRegistry, Registry, Skopeo, Unpacked,
    V1Client, V1Found, V1Session, check_same, found,
};
use testkit::temp_dir;

/// The image that only the v2 side has, and the one that only the v1 side has.
const NEW: &str = "team/new";
const OLD: &str = "team/old";
/// The number of files and folders in each.
const IN_NEW: usize = 10;
const IN_OLD: usize = 11;

const READER: (&str, &str) = ("reader", "password");
/// The account `reader`, with the password `password`.
const ACCOUNT: &str = "reader:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";

/// The base of both images.
fn base() -> Vec<Entry> {
    use Entry::{Folder, Hardlink, Symlink};
    vec![
        Folder("etc/"),
        file("etc/passwd", 1),
        Hardlink("etc/hard", "etc/passwd"),
        Symlink("link", "etc/passwd"),
        Folder("data/"),
        file("data/one", 2),
        Folder("data/sub/"),
        file("data/sub/two", 3),
        file("data/sub/three", 4),
        Folder("srv/"),
        file("srv/old", 5),
        file("gone", 6),
    ]
}

/// Two names are removed, and one is added.
fn change() -> Vec<Entry> {
    vec![
        mark(".wh.gone"),
        Entry::Folder("data/"),
        mark("data/.wh.one"),
        file("data/five", 7),
    ]
}

/// Layers of gzip and of zstd in turn, the last two with opaque folders.
fn push_new(registry: &Registry) -> Result<(), Missing> {
    use Entry::Folder;
    let archives = [
        base(),
        change(),
        vec![
            Folder("data/"),
            mark("data/.wh..wh..opq"),
            Folder("data/sub/"),
            file("data/sub/two", 8),
            file("data/new", 9),
        ],
        // The whiteout comes after the new files.
        vec![
            Folder("srv/"),
            file("srv/new", 10),
            mark("srv/.wh..wh..opq"),
        ],
    ]
    .map(|entries| tar(&entries));
    let packed = |(number, archive)| match number % 2 {
        0 => (archive, GZIP, gzip(archive)),
        _ => (archive, ZSTD, zstd(archive)),
    };
    let archives = archives.iter().map(Vec::as_slice).enumerate();
    let layers: Vec<(&[u8], &str, Vec<u8>)> = archives.map(packed).collect();
    let mut layout = Layout::new();
    let made = layout.add_layers("new", &layers);
    registry.push(&layout, &made, &format!("{NEW}:1"))
}

/// A base, a command without changes, and the changes.
fn push_old(registry: &OldRegistry) {
    let layers = [gzip(&tar(&base())), vec![0; 1024], gzip(&tar(&change()))];
    let described = |(second, layer): (usize, &'static str)| {
        json!({
            "created": format!("2014-10-01T20:46:{second:02}.5Z"),
            "docker_version": "1.2.0",
            "architecture": "amd64",
            "os": "linux",
            "container_config": {"Cmd": ["/bin/sh", "-c", layer]},
            "config": {"Cmd": ["/run"]},
        })
    };
    let commands = ["#(nop) ADD file:1 in /", "#(nop) CMD [/run]", "make data"];
    let images: Vec<(Value, &[u8])> = commands
        .into_iter()
        .enumerate()
        .map(described)
        .zip(layers.iter().map(Vec::as_slice))
        .collect();
    registry.push(OLD, "1", &images);
}

/// Both registries, and the gateway in front of them.
struct Scene {
    v1: OldRegistry,
    v2: Registry,
    gateway: Gateway,
    _users: TempDir,
}

impl Scene {
    /// With logins and pushes; or open to all, as a mirror of both.
    fn start(closed: bool) -> Result<Self, Missing> {
        let (v1, v2) = (OldRegistry::start(), Registry::start()?);
        push_new(&v2)?;
        push_old(&v1);
        let users = temp_dir();
        let htpasswd = users.path().join("users");
        std::fs::write(&htpasswd, ACCOUNT).expect("writable");
        let access = format!(
            "access: {{htpasswd: {}, rules: [{{users: [reader], repositories: [\"**\"], actions: [pull]}}]}}",
            htpasswd.display()
        );
        let gateway = Gateway::start(&format!(
            // npm's client speaks plain HTTP to 127.0.0.1.
            "listen: [{{address: \"127.0.0.2:0\"}}]
registries: [{{name: hosted, v1: \"{}\", v2: \"{}\", push: {closed}}}]
{}
",
            v1.url(),
            v2.url(),
            if closed { &access } else { "" }
        ));
        Ok(Self {
            v1,
            v2,
            gateway,
            _users: users,
        })
    }

    /// A whole pull by a v1-only client.
    fn old_client(
        &self,
        client: V1Client,
        repository: &str,
        account: Option<(&str, &str)>,
    ) -> Result<V1Found, Missing> {
        client.run(V1Session {
            url: self.gateway.url(0),
            ca: &self.gateway.ca_path(),
            repository,
            tag: "1",
            account,
            add: None,
        })
    }

    fn skopeo(&self, account: Option<(&str, &str)>) -> Result<Skopeo, Missing> {
        let skopeo = Skopeo::new(self.gateway.url(0), Some(&self.gateway.ca_path()))?;
        Ok(match account {
            Some((user, password)) => skopeo.account(user, password),
            None => skopeo,
        })
    }

    /// The numbers of upstream requests for layers and other blobs.
    fn asked(&self) -> (usize, u64) {
        let blobs = self.v2.counters().of("GET */blobs/*");
        (self.v1.layers_asked(), blobs.requests)
    }
}

/// The files that npm's client has after a pull.
#[track_caller]
fn npm(scene: &Scene, repository: &str, account: Option<(&str, &str)>) -> Option<Unpacked> {
    let pulled = found(scene.old_client(V1Client::Npm, repository, account))?;
    Some(Unpacked::new(Marks::Names, &pulled.layers()))
}

#[track_caller]
fn skopeo(scene: &Scene, repository: &str, account: Option<(&str, &str)>) -> Option<Unpacked> {
    let mut skopeo = found(scene.skopeo(account))?;
    let pulled = Client::pull(&mut skopeo, &format!("{repository}:1"));
    pulled.unwrap_or_else(|said| panic!("{repository}: {said}"));
    Some(Unpacked::new(Marks::Opaque, &skopeo.layers()))
}

/// Pulls with an empty containerd, which unpacks by itself, and compares.
#[track_caller]
fn check_ctr(ctr: &mut Containerd, repository: &str, tree: &Unpacked, entries: usize) {
    ctr.wipe();
    let pulled = Member::pull(ctr, &format!("{repository}:1"));
    pulled.unwrap_or_else(|said| panic!("{repository}: {said}"));
    check_same(&ctr.unpacked(), &tree.path(), entries);
}

/// A v1-only client and v2-only clients each pull the image that only the other registry has.
#[test]
fn v1_and_v2_clients_pull_across_the_bridge() {
    let Some(mut scene) = found(Scene::start(true)) else {
        return;
    };
    let (authority, ca) = (scene.gateway.authority(0), scene.gateway.ca_path());
    let Some(mut ctr) = found(Containerd::member(authority, &ca)) else {
        return;
    };
    let (user, password) = READER;
    ctr.be(Some(Account { user, password }));
    let reader = Some(READER);

    // Cold: neither image was pulled before.
    let Some(new) = npm(&scene, NEW, reader) else {
        return;
    };
    let Some(old) = skopeo(&scene, OLD, reader) else {
        return;
    };
    // The same files as the client of that registry has.
    let by_skopeo = skopeo(&scene, NEW, reader).expect("it was there before");
    check_same(&new.path(), &by_skopeo.path(), IN_NEW);
    let by_npm = npm(&scene, OLD, reader).expect("it was there before");
    check_same(&old.path(), &by_npm.path(), IN_OLD);
    check_ctr(&mut ctr, NEW, &new, IN_NEW);
    check_ctr(&mut ctr, OLD, &old, IN_OLD);

    // Warm, and with both registries stopped.
    let asked = scene.asked();
    assert!(asked.0 >= 3, "each layer once: {asked:?}");
    assert_eq!(asked.1, 5, "four layers and a configuration, each once");
    for stopped in [false, true] {
        if stopped {
            scene.v1 = OldRegistry::Scripted(testkit::v1::V1Registry::start());
            scene.v2.down();
        }
        let again = npm(&scene, NEW, reader).expect("it was there before");
        check_same(&again.path(), &new.path(), IN_NEW);
        let again = skopeo(&scene, OLD, reader).expect("it was there before");
        check_same(&again.path(), &old.path(), IN_OLD);
        check_ctr(&mut ctr, OLD, &old, IN_OLD);
        if !stopped {
            assert_eq!(scene.asked(), asked, "warm, nothing is asked for again");
        }
    }
}

/// Both v1-only clients pull the image that only the v2 side has, and have the same files as skopeo. Python's knows no
/// tokens, so it works with public registries only.
#[test]
fn npm_and_python_clients_get_the_content_skopeo_gets() {
    let Some(mut scene) = found(Scene::start(false)) else {
        return;
    };
    let Some(python) = found(scene.old_client(V1Client::Python, NEW, None)) else {
        return;
    };
    let by_python = Unpacked::new(Marks::Names, &python.layers());
    let Some(by_npm) = npm(&scene, NEW, None) else {
        return;
    };
    let Some(by_skopeo) = skopeo(&scene, NEW, None) else {
        return;
    };
    check_same(&by_python.path(), &by_skopeo.path(), IN_NEW);
    check_same(&by_npm.path(), &by_skopeo.path(), IN_NEW);
    // The description of each image beside its layer.
    let ids = python.said["ancestry"].as_array().expect("an ancestry");
    assert_eq!(ids.len(), 4, "{}", python.said);
    for (at, id) in ids.iter().filter_map(Value::as_str).enumerate() {
        let said = &python.said["json"][id];
        assert_eq!(said["id"], id, "{said}");
        assert_eq!(said.get("parent"), ids.get(at + 1), "{said}");
        assert_eq!(
            (&said["os"], &said["architecture"]),
            (&json!("linux"), &json!("amd64"))
        );
    }
    assert_eq!(python.said["tags"], json!(["1"]));

    scene.v2.down();
    let again = found(scene.old_client(V1Client::Python, NEW, None)).expect("it was there before");
    assert!(again.layers() == python.layers());
}
