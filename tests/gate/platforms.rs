//! `platforms`: an index passes unchanged, its images for other platforms do not.

use super::*;
use testkit::origin::{Fault, MEDIA_INDEX};

const LINUX: &str = "platforms: [linux/amd64, linux/arm64]";

/// Pushes an index with the platforms that it claims for its manifests.
fn push_index(origin: &Origin, tag: &str, children: &[(&Image, &str)]) -> Image {
    let manifests: Vec<Value> = children
        .iter()
        .map(|(image, platform)| {
            let (os, architecture) = platform.split_once('/').expect("a platform");
            let mut descriptor = descriptor(
                &image.media_type,
                &(image.digest.clone(), image.manifest.clone()),
            );
            descriptor["platform"] = json!({"os": os, "architecture": architecture});
            descriptor
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": manifests});
    push_json(
        origin,
        &children[0].0.repository,
        tag,
        MEDIA_INDEX,
        &index,
        Vec::new(),
    )
}

/// An attestation as builders add it to an index.
fn attestation(origin: &Origin, seed: u8) -> Image {
    let config = json!({"os": "unknown", "architecture": "unknown", "seed": seed}).to_string();
    let layer = ("application/vnd.in-toto+json", vec![seed; 100]);
    push_of(origin, "library/app", "", (MEDIA_CONFIG, config), layer)
}

#[test]
fn images_of_other_platforms_are_denied() {
    let mut scene = Scene::new(LINUX);
    let origin = &scene.origin;
    let amd64 = push_for(origin, "library/app", "amd64", "linux/amd64", 1);
    let windows = push_for(origin, "library/app", "windows", "windows/amd64", 2);
    let riscv = push_for(origin, "library/app", "", "linux/riscv64", 3);
    let attested = attestation(origin, 1);
    let index = push_index(
        origin,
        "latest",
        &[
            (&amd64, "linux/amd64"),
            (&windows, "windows/amd64"),
            (&riscv, "linux/riscv64"),
            (&attested, "unknown/unknown"),
        ],
    );
    // By its tag and by its digest, with an index or without.
    scene.pull(&amd64);
    scene.assert_denied("platforms", &[windows.tag_path()]);
    scene.assert_denied("platforms", &content(&windows));
    let reply = scene.get(&index.tag_path());
    assert!(reply.body == index.manifest, "bytes pass unchanged");
    scene.assert_denied("platforms", &content(&windows));
    scene.assert_denied("platforms", &content(&riscv));
    scene.assert_served(&content(&attested));
    scene.origin.clear_requests();
    scene.gateway.restart();
    scene.assert_served(&content(&amd64));
    scene.assert_denied("platforms", &content(&windows));
}

#[test]
fn platform_is_that_of_the_configuration() {
    let scene = Scene::new(LINUX);
    let origin = &scene.origin;
    // The index says otherwise.
    let windows = push_for(origin, "library/app", "", "windows/amd64", 2);
    let index = push_index(origin, "latest", &[(&windows, "linux/amd64")]);
    scene.assert_served(&[index.tag_path()]);
    scene.assert_denied("platforms", &content(&windows));
    // A client that cannot read indexes is given an image of it.
    let images = [(
        "Accept",
        "application/vnd.docker.distribution.manifest.v2+json",
    )];
    let reply = scene.ask("GET", &index.tag_path(), &images);
    assert_eq!(
        (reply.status(), rule(&reply)),
        (403, "platforms".to_owned())
    );
    // Neither an image without a platform nor one that cannot be read.
    let unknown = push_for(origin, "library/app", "unknown", "unknown/unknown", 4);
    scene.assert_denied("platforms", &[unknown.tag_path(), unknown.digest_path()]);
    let no_json = (MEDIA_CONFIG, "no JSON".to_owned());
    let broken = push_of(
        origin,
        "library/app",
        "broken",
        no_json,
        (MEDIA_LAYER, vec![1]),
    );
    scene.assert_denied("platforms", &[broken.tag_path(), broken.layer_path(0)]);
    let long = json!({"os": "linux", "architecture": "amd64", "x": "x".repeat(5 << 20)});
    let long = (MEDIA_CONFIG, long.to_string());
    let long = push_of(origin, "library/app", "long", long, (MEDIA_LAYER, vec![2]));
    scene.assert_denied("platforms", &[long.tag_path()]);
    assert_eq!(
        origin.count("*", &long.blob_path(0)),
        0,
        "it is not fetched"
    );
    // What is no image has no platform.
    let config = ("application/vnd.cncf.helm.config.v1+json", "{}".to_owned());
    let chart = push_of(
        origin,
        "library/app",
        "chart",
        config,
        (MEDIA_LAYER, vec![3]),
    );
    scene.pull(&chart);
}

#[test]
fn platform_that_cannot_be_learnt_is_not_served() {
    let scene = Scene::new(LINUX);
    let image = push_for(&scene.origin, "library/app", "1", "linux/amd64", 1);
    let down = scene
        .origin
        .fault(Fault::status(503).on("GET", &image.blob_path(0)));
    let reply = scene.get(&image.tag_path());
    assert_eq!(reply.status(), 503, "{reply:?}");
    scene.assert_denied("platforms", &[image.layer_path(0)]);
    scene.origin.heal(down);
    testkit::until("the registry to be asked again", || {
        scene.get(&image.tag_path()).status() != 503
    });
    scene.pull(&image);
}
