//! Real programs: docker-registry 0.9.1 as the v1 side, if its Python is installed, and dockerd and containerd as
//! v2-only clients.

use std::path::Path;

use serde_json::json;

use crate::v1_to_v2::tree::{self, Tree};
use crate::v1_to_v2::{Scene, configuration};
use testkit::gateway::Gateway;
use testkit::origin::Origin;
use testkit::real::{
    Client, Containerd, Docker, DockerRegistry, Missing, Registry, found, found_perhaps,
};
use testkit::{private_address, sha256, temp_dir};

#[test]
fn docker_registry_and_distribution_behind_one_gateway() {
    let Some(v1) = found_perhaps(DockerRegistry::start()) else {
        return;
    };
    let Some(v2) = found(Registry::start()) else {
        return;
    };
    let tree = Tree::new();
    let layers = tree.layers();
    v1.push("team/app", "1", &tree::images(&layers));
    let gateway = Gateway::start(&configuration(&v1.url(), &v2.url(), "tag_ttl: 0s"));
    tree.check(&tree::pulled(&gateway, "team/app:1", temp_dir().path()).expect("pulled"));
    for (path, expected) in [
        (
            "/v2/team/app/tags/list",
            json!({"name": "team/app", "tags": ["1"]}),
        ),
        ("/v2/_catalog", json!({"repositories": ["team/app"]})),
    ] {
        let reply = testkit::http::get(gateway.url(1), None, path);
        let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(body, expected, "{path}");
    }
    // The scripted registry has the same images, which convert to the same digests.
    let scene = Scene::start();
    scene.v1.put_image("team/app", "1", &tree::images(&layers));
    let manifest = |gateway: &Gateway| {
        let reply = testkit::http::get(gateway.url(1), None, "/v2/team/app/manifests/1");
        sha256(&reply.body)
    };
    assert_eq!(manifest(&gateway), manifest(&scene.gateway));
    drop(v1);
    drop(v2);
    let stopped = temp_dir();
    tree.check(&tree::pulled(&gateway, "team/app:1", stopped.path()).expect("pulled"));
}

/// Pulls `reference` by a v2-only client: cold, warm, and with both registries stopped.
fn pulls<T: Client>(
    client: impl FnOnce(&Gateway) -> Result<T, Missing>,
    reference: impl Fn(&Gateway) -> String,
    check: impl Fn(&T, &Tree, &str),
) {
    let (v1, v2) = (testkit::v1::V1Registry::start(), Origin::start());
    let tree = Tree::new();
    let layers = tree.layers();
    v1.put_image("team/app", "1", &tree::images(&layers));
    let plain = private_address();
    let gateway = Gateway::start(&format!(
        "listen: [{{address: \"127.0.0.1:0\"}}, {{address: \"{plain}\", tls: off}}]\n{}",
        configuration(&v1.url(), &v2.url(), "tag_ttl: 0s")
    ));
    let Some(mut client) = found(client(&gateway)) else {
        return;
    };
    let reference = reference(&gateway);
    let cold = client.pull(&reference).expect("the cold pull");
    let asked = v1.count("GET", "/layer");
    assert_eq!(asked, 3);
    check(&client, &tree, &reference);
    client.wipe();
    assert_eq!(client.pull(&reference).expect("the warm pull"), cold);
    assert_eq!(v1.count("GET", "/layer"), asked);
    drop((v1, v2));
    client.wipe();
    assert_eq!(client.pull(&reference).expect("without both"), cold);
    check(&client, &tree, &reference);
}

#[test]
fn dockerd_pulls_a_v1_image() {
    pulls(
        |_| Docker::start(),
        |gateway| format!("{}/team/app:1", gateway.authority(1)),
        |docker, tree, reference| {
            let dir = temp_dir();
            let created = docker.docker(&["create", reference]).expect("created");
            let file = dir.path().join("image.tar");
            let export = [
                "export",
                "--output",
                &file.display().to_string(),
                created.trim(),
            ];
            docker.docker(&export).expect("exported");
            tree.check(&unpacked(dir.path(), &file));
        },
    );
}

/// Unpacks an export, without the files that dockerd adds to every container.
fn unpacked(dir: &Path, file: &Path) -> std::path::PathBuf {
    let script = r#"set -e
mkdir export; tar -C export -xpf "$1"; cd export
rm -rf .dockerenv dev proc sys etc/hostname etc/hosts etc/resolv.conf etc/mtab"#;
    tree::shell(dir, script, &[&file.display().to_string()]);
    dir.join("export")
}

#[test]
fn ctr_pulls_a_v1_image() {
    pulls(
        |gateway| Containerd::member(gateway.authority(0), &gateway.ca_path()),
        |gateway| format!("{}/team/app:1", gateway.authority(0)),
        |ctr, tree, reference| {
            // Its export, unpacked, has the tree that was pushed.
            let dir = temp_dir();
            let file = dir.path().join("image.tar");
            let export = ["images", "export", &file.display().to_string(), reference];
            ctr.ctr(&export).expect("exported");
            let layout = dir.path().join("layout");
            std::fs::create_dir(&layout).expect("a folder");
            tree::shell(&layout, "tar -xf \"$1\"", &[&file.display().to_string()]);
            let manifest = std::fs::read(layout.join("manifest.json")).expect("a manifest");
            let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
            let layers = manifest[0]["Layers"].as_array().expect("layers").iter();
            let layers = layers.map(|layer| layer.as_str().expect("a path"));
            let layers: Vec<&str> = layers.collect();
            tree::shell(&layout, tree::UNPACK, &layers);
            tree.check(&layout.join("tree"));
        },
    );
}
