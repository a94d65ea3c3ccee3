//! `roadstead migrate`: from docker-registry 0.9.1 to docker-registry 2.8.2.

use super::v1::{description, layers, push};
use super::{Told, get, run};
use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::origin::{Fault, Origin};
use testkit::real::{Client, Docker, DockerRegistry, Registry, Skopeo, found, found_perhaps};
use testkit::sha256;
use testkit::v1::V1Registry;

/// How many images are migrated.
const IMAGES: usize = 20;

/// Both registries, and a gateway in front of them.
struct Scene {
    v1: DockerRegistry,
    v2: Registry,
    gateway: Gateway,
    /// The layers of each image, root first.
    layers: Vec<[Vec<u8>; 2]>,
}

/// The repository and the tag of an image: five repositories with four tags each.
fn name(number: usize) -> (String, String) {
    (
        format!("team/app{}", number % 5),
        format!("v{}", number / 5),
    )
}

impl Scene {
    fn start(images: usize) -> Option<Self> {
        let v1 = found_perhaps(DockerRegistry::start())?;
        let v2 = found(Registry::start())?;
        let layers = (0..images).map(|number| {
            let (repository, tag) = name(number);
            push(&v1, &repository, &tag, number as u64 * 2)
        });
        let layers = layers.collect();
        let gateway = Gateway::start(&format!(
            "registries: [{{name: hosted, v1: \"{}\", v2: \"{}\", push: true}}]\n\
             access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull]}}]}}\n",
            v1.url(),
            v2.url()
        ));
        Some(Self {
            v1,
            v2,
            gateway,
            layers,
        })
    }

    fn migrate(&self, images: &[&str]) -> Told {
        let mut arguments = vec!["migrate", "--registry", "hosted"];
        arguments.extend(images);
        run(&self.gateway, &arguments)
    }

    /// A manifest of the v2 side itself.
    fn on_v2(&self, number: usize) -> Reply {
        let (repository, tag) = name(number);
        let accept = "application/vnd.docker.distribution.manifest.v2+json";
        let path = format!("/v2/{repository}/manifests/{tag}");
        Raw::connect(&self.v2.url(), None).exchange("GET", &path, &[("Accept", accept)])
    }
}

#[test]
fn images_are_migrated_beside_the_running_gateway() {
    let Some(mut scene) = Scene::start(IMAGES) else {
        return;
    };
    // One of them is on the v2 side before it is migrated, as the bridge shows it.
    let (repository, tag) = name(3);
    let shown = get(&scene.gateway, &format!("/v2/{repository}/manifests/{tag}"));
    assert_eq!(shown.status(), 200, "{shown:?}");

    // Interrupted: only some were done.
    let some: Vec<String> = (0..6)
        .map(|number| {
            let (repository, tag) = name(number);
            format!("{repository}:{tag}")
        })
        .collect();
    let some: Vec<&str> = some.iter().map(String::as_str).collect();
    let first = scene.migrate(&some);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.line("pushed").starts_with("6 images; "), "{first:?}");

    let rest = scene.migrate(&[]);
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert!(rest.line("pushed").starts_with("14 images; "), "{rest:?}");
    assert_eq!(
        (rest.line("already there"), rest.line("failed")),
        ("6", "0")
    );
    let pushes = scene.v2.counters().of("PUT */manifests/*").requests;
    assert_eq!(pushes, IMAGES as u64);
    let again = scene.migrate(&[]);
    assert_eq!(again.line("already there"), "20", "{again:?}");
    assert_eq!(scene.v2.counters().of("PUT *").requests, {
        // Two layers, a configuration and a manifest of each.
        IMAGES as u64 * 4
    });
    assert!(scene.on_v2(3).body == shown.body, "as the bridge showed it");

    // The v1 side is gone, and so is the gateway.
    scene.v1.down();
    scene.gateway.terminate();
    let Some(mut skopeo) = found(Skopeo::new(&scene.v2.url(), None)) else {
        return;
    };
    for (number, layers) in scene.layers.iter().enumerate() {
        let (repository, tag) = name(number);
        skopeo.wipe();
        let pulled = skopeo.pull(&format!("{repository}:{tag}"));
        let pulled = pulled.unwrap_or_else(|said| panic!("{repository}:{tag}: {said}"));
        assert_eq!(pulled.digest, sha256(&scene.on_v2(number).body));
        assert!(skopeo.layers() == layers);
    }
    let Some(mut docker) = found(Docker::start()) else {
        return;
    };
    for number in [0, 7, 19] {
        let (repository, tag) = name(number);
        let reference = format!("{}/{repository}:{tag}", scene.v2.authority());
        let pulled = docker
            .pull(&reference)
            .expect("docker pulls it from the v2 side");
        assert_eq!(pulled.digest, sha256(&scene.on_v2(number).body));
    }
}

#[test]
fn killed_migration_is_continued() {
    let Some(scene) = Scene::start(IMAGES) else {
        return;
    };
    let mut command = testkit::process::command(testkit::binary());
    command
        .current_dir(scene.gateway.dir())
        .args(["migrate", "--registry", "hosted", "-c", "roadstead.yaml"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("the binary runs");
    testkit::eventually_within(super::END, "some images to be pushed", || {
        (scene.on_v2(1).status() == 200).then_some(())
    });
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    // Waits until the registry has answered what was in flight.
    let before = scene.v2.counters().of("PUT */manifests/*").requests;
    let done = (0..IMAGES).filter(|number| scene.on_v2(*number).status() == 200);
    let done = done.count();
    let told = scene.migrate(&[]);
    assert_eq!((told.code, told.line("failed")), (Some(0), "0"), "{told:?}");
    assert_eq!(told.line("already there"), done.to_string(), "{told:?}");
    let after = scene.v2.counters().of("PUT */manifests/*").requests;
    assert_eq!(after - before, (IMAGES - done) as u64);
    for number in 0..IMAGES {
        assert_eq!(scene.on_v2(number).status(), 200);
    }
}

#[test]
fn damaged_layer_is_reported_and_stops_no_other_image() {
    let Some(scene) = Scene::start(3) else {
        return;
    };
    let (repository, tag) = name(1);
    let tag_file = scene
        .v1
        .storage()
        .join(format!("repositories/{repository}/tag_{tag}"));
    let top = std::fs::read_to_string(tag_file).expect("a tag");
    let layer = scene.v1.storage().join(format!("images/{top}/layer"));
    let mut bytes = std::fs::read(&layer).expect("a layer");
    bytes[20] ^= 1;
    std::fs::write(&layer, bytes).expect("writable");
    let told = scene.migrate(&[]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.line("pushed").starts_with("2 images; "), "{told:?}");
    assert_eq!(told.line("failed"), "1");
    let named = format!("failed: {repository}:{tag}: it cannot be converted: ");
    assert!(told.err.contains(&named), "{told:?}");
    let found: Vec<u16> = (0..3).map(|number| scene.on_v2(number).status()).collect();
    assert_eq!(found, [200, 404, 200]);
}

#[test]
fn image_of_the_v2_side_is_not_replaced() {
    let Some(scene) = Scene::start(2) else {
        return;
    };
    let mut layout = testkit::image::Layout::new();
    let made = layout.add_image("other", 5, 1000);
    let (repository, tag) = name(0);
    if found(
        scene
            .v2
            .push(&layout, &made, &format!("{repository}:{tag}")),
    )
    .is_none()
    {
        return;
    }
    let told = scene.migrate(&[]);
    assert_eq!((told.code, told.line("failed")), (Some(0), "0"), "{told:?}");
    let kept = format!(
        "kept: {repository}:{tag}: the v2 side has another image, {}",
        made.digest
    );
    assert!(told.err.contains(&kept), "{told:?}");

    // A tag that moved on the v1 side since it was migrated does move.
    let (repository, tag) = name(1);
    let before = scene.on_v2(1).body;
    push(&scene.v1, &repository, &tag, 90);
    let moved = scene.migrate(&[&format!("{repository}:{tag}")]);
    assert!(moved.line("pushed").starts_with("1 image; "), "{moved:?}");
    assert!(scene.on_v2(1).body != before);
    let absent = scene.migrate(&["team/none", &format!("{repository}:none")]);
    assert_eq!(
        (absent.code, absent.line("failed")),
        (Some(1), "2"),
        "{absent:?}"
    );
}

/// The images of [`sharing`].
const SHARING: [(&str, &str); 4] = [
    ("team/one", "1"),
    ("team/one", "2"),
    ("team/two", "1"),
    ("team/two", "2"),
];

/// A registry of two repositories: all images have one base, and the first of each repository have both layers in common.
fn sharing() -> V1Registry {
    let registry = V1Registry::start();
    let (shared, other, last) = (layers(1), layers(11), layers(21));
    let tops = [&shared[1], &other[1], &shared[1], &last[1]];
    for ((repository, tag), top) in SHARING.into_iter().zip(tops) {
        let images = [(description(1), &shared[0][..]), (description(2), &top[..])];
        registry.put_image(repository, tag, &images);
    }
    registry
}

/// A gateway of both sides, and the images to migrate.
fn between(v1: &V1Registry, v2: &str) -> (Gateway, Vec<String>) {
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v1: \"{}\", v2: \"{v2}\", push: true}}]\n\
         access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull]}}]}}\n",
        v1.url()
    ));
    let images = SHARING.map(|(repository, tag)| format!("{repository}:{tag}"));
    (gateway, images.to_vec())
}

fn migrate(gateway: &Gateway, images: &[String]) -> Told {
    let mut arguments = vec!["migrate", "--registry", "hosted"];
    arguments.extend(images.iter().map(String::as_str));
    run(gateway, &arguments)
}

/// The repositories and digests of all blobs of the images at this registry, whose bytes are compared.
fn blobs_of(url: &str) -> Vec<(&'static str, String)> {
    let accept = [(
        "Accept",
        "application/vnd.docker.distribution.manifest.v2+json",
    )];
    let mut all = Vec::new();
    for (repository, tag) in SHARING {
        let mut client = Raw::connect(url, None);
        let path = format!("/v2/{repository}/manifests/{tag}");
        let manifest = client.exchange("GET", &path, &accept);
        assert_eq!(manifest.status(), 200, "{manifest:?}");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest.body).expect("JSON");
        let layers = manifest["layers"].as_array().expect("layers");
        for blob in layers.iter().chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().expect("a digest").to_owned();
            let bytes = client.get(&format!("/v2/{repository}/blobs/{digest}"));
            assert_eq!((bytes.status(), sha256(&bytes.body)), (200, digest.clone()));
            all.push((repository, digest));
        }
    }
    all.sort();
    all.dedup();
    all
}

#[test]
fn layers_that_repositories_share_are_sent_once() {
    let Some(v2) = found(Registry::start()) else {
        return;
    };
    let v1 = sharing();
    let (gateway, images) = between(&v1, &v2.url());
    let told = migrate(&gateway, &images);
    assert_eq!((told.code, told.line("failed")), (Some(0), "0"), "{told:?}");
    let blobs = blobs_of(&v2.url());
    let mut digests: Vec<&String> = blobs.iter().map(|(_, digest)| digest).collect();
    digests.sort();
    digests.dedup();
    // One base, three other layers, and a configuration of each image that differs.
    let sent = v2.counters().of("PUT */blobs/uploads/*").requests;
    assert_eq!(sent, digests.len() as u64, "each once");
    let mounted = blobs.len() - digests.len();
    assert!(mounted >= 2, "{blobs:?}");
    let report = told.line("pushed");
    assert!(report.starts_with("4 images; "), "{told:?}");
    assert!(
        report.contains(&format!("; {} blobs sent (", digests.len())),
        "{told:?}"
    );
    assert!(
        report.contains(&format!(", {mounted} mounted, ")),
        "{told:?}"
    );
    // Each image but the first of its repository has the base there.
    assert!(report.ends_with(", 2 there before"), "{told:?}");
    // What is there is not sent again to a repository that is migrated later.
    let again = migrate(&gateway, &images);
    assert_eq!(again.line("already there"), "4", "{again:?}");
    assert_eq!(v2.counters().of("PUT */blobs/uploads/*").requests, sent);
}

#[test]
fn layers_are_sent_where_the_v2_side_mounts_none() {
    let (v1, v2) = (sharing(), Origin::start());
    // It answers a mount with an upload.
    v2.take_pushes();
    let (gateway, images) = between(&v1, &v2.url());
    let told = migrate(&gateway, &images);
    assert_eq!((told.code, told.line("failed")), (Some(0), "0"), "{told:?}");
    let blobs = blobs_of(&v2.url());
    assert_eq!(v2.count("PUT", "*/blobs/uploads/*"), blobs.len());
    assert!(told.line("pushed").contains(", 0 mounted, "), "{told:?}");

    // An error is no reason to give up either, as long as the blob itself is taken.
    let (v1, v2) = (sharing(), Origin::start());
    v2.take_pushes();
    v2.fault(
        Fault::status(405)
            .on("POST", "/v2/team/two/blobs/uploads/")
            .times(1),
    );
    let (gateway, images) = between(&v1, &v2.url());
    let told = migrate(&gateway, &images);
    assert_eq!((told.code, told.line("failed")), (Some(0), "0"), "{told:?}");
    assert_eq!(blobs_of(&v2.url()), blobs);
}
