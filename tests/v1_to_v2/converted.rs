//! The converted image: the same digests on every machine, layer types by their bytes, empty layers left out.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::v1_to_v2::{DOCKER_MANIFEST, Scene, blobs, descriptions, layers, push};
use testkit::gateway::Gateway;
use testkit::http::End;
use testkit::image::{random, tar};
use testkit::{gzip, process, sha256};

const MANIFEST: &str = "/v2/team/app/manifests/1";

#[test]
fn v1_tag_is_converted_once() {
    let scene = Scene::start();
    let ids = push(&scene.v1, "team/app", "1", 1);
    let manifest = scene.get(MANIFEST);
    assert_eq!((manifest.status(), &manifest.end), (200, &End::Complete));
    assert_eq!(manifest.header("content-type"), Some(DOCKER_MANIFEST));
    let digest = sha256(&manifest.body);
    assert_eq!(manifest.header("docker-content-digest"), Some(&*digest));

    // Layer types depend on the bytes; the empty layer appears in the history only.
    let [base, _, data] = layers(1);
    let (layers, config) = blobs(&manifest);
    let blob = |digest: &str| scene.get(&format!("/v2/team/app/blobs/{digest}"));
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[0], sha256(&base), "gzip stays as it is");
    assert!(blob(&layers[0]).body == base);
    let packed = blob(&layers[1]);
    assert_eq!(sha256(&packed.body), layers[1]);
    assert!(unpacked("gzip", &packed.body) == data);
    let config = blob(&config);
    let config: Value = serde_json::from_slice(&config.body).expect("JSON");
    let diff_ids = [sha256(&unpacked("gzip", &base)), sha256(&data)];
    assert_eq!(
        config["rootfs"],
        json!({"type": "layers", "diff_ids": diff_ids})
    );
    let empty: Vec<&Value> = config["history"]
        .as_array()
        .expect("a history")
        .iter()
        .map(|it| &it["empty_layer"])
        .collect();
    assert_eq!(empty, [&Value::Null, &json!(true), &Value::Null]);
    assert_eq!(config["config"]["Cmd"], json!(["/run"]));

    // Everything is fetched once; a tag is revalidated each time, on both sides.
    for _ in 0..3 {
        let again = scene.get(MANIFEST);
        assert!(again.body == manifest.body);
        let head = scene.ask("HEAD", MANIFEST);
        assert_eq!(head.header("docker-content-digest"), Some(&*digest));
    }
    for id in &ids {
        for part in ["json", "layer"] {
            assert_eq!(scene.v1.count("GET", &format!("{id}/{part}")), 1, "{part}");
        }
    }
    let by_digest = scene.get(&format!("/v2/team/app/manifests/{digest}"));
    assert!(by_digest.body == manifest.body);
}

/// The digests depend only on the image's descriptions and layers: this is the digest of earlier conversions, on any
/// machine.
#[test]
fn conversion_is_reproducible() {
    for _ in 0..2 {
        let scene = Scene::start();
        push(&scene.v1, "team/app", "1", 1);
        push(&scene.v1, "team/app", "other", 2);
        let digest = |tag: &str| sha256(&scene.get(&format!("/v2/team/app/manifests/{tag}")).body);
        assert_eq!(
            digest("1"),
            "sha256:ad8326e411c3da30e97243f60008a313b23eb5f2b3e255eab15a8315e39ab506"
        );
        assert_ne!(digest("1"), digest("other"));
    }
}

/// gzip in two members, xz, nothing; archives of zeros in any compression.
#[test]
fn layer_compression_is_detected_by_magic_bytes() {
    let scene = Scene::start();
    let archive = tar(&[("a", &random(7, 200_000))]);
    let members = [gzip(&archive[..1000]), gzip(&archive[1000..])].concat();
    let xz = packed("xz", &archive);
    let plain = archive.clone();
    let (zeros, nothing) = (vec![0; 10_240], Vec::new());
    let empty = [gzip(&zeros), packed("xz", &zeros), zeros.clone(), nothing];
    let mut packed_anew = Vec::new();
    for (number, layer) in [&members, &xz, &plain]
        .into_iter()
        .chain(&empty)
        .enumerate()
    {
        let description = json!({"number": number});
        let tag = number.to_string();
        scene
            .v1
            .put_image("team/kinds", &tag, &[(description, layer)]);
        let manifest = scene.get(&format!("/v2/team/kinds/manifests/{number}"));
        assert_eq!(manifest.status(), 200, "{number} {manifest:?}");
        let (layers, config) = blobs(&manifest);
        let config = scene.get(&format!("/v2/team/kinds/blobs/{config}"));
        let config: Value = serde_json::from_slice(&config.body).expect("JSON");
        let diff_ids = &config["rootfs"]["diff_ids"];
        if number >= 3 {
            assert_eq!((layers.len(), diff_ids), (0, &json!([])), "{number}");
            assert_eq!(config["history"][0]["empty_layer"], json!(true));
            continue;
        }
        assert_eq!(diff_ids, &json!([sha256(&archive)]), "{number}");
        let layer_bytes = scene
            .get(&format!("/v2/team/kinds/blobs/{}", layers[0]))
            .body;
        assert_eq!(sha256(&layer_bytes), layers[0]);
        assert!(unpacked("gzip", &layer_bytes) == archive, "{number}");
        if number == 0 {
            assert!(layer_bytes == members);
        } else {
            packed_anew.push(layers[0].clone());
        }
    }
    assert_eq!(
        packed_anew[0], packed_anew[1],
        "xz and nothing are packed alike"
    );
}

/// A registry that sends wrong or unreadable bytes is reported, and nothing of them is stored.
#[test]
fn layers_that_cannot_be_converted() {
    let scene = Scene::start();
    let archive = tar(&[("a", &random(7, 100_000))]);
    let whole = gzip(&archive);
    let mut flipped = whole.clone();
    flipped[50_000] ^= 1;
    let trailing = [whole.clone(), b"garbage".to_vec()].concat();
    let xz = packed("xz", &archive);
    for (name, layer) in [
        ("cut", &whole[..60_000]),
        ("flipped", &flipped),
        ("trailing", &trailing),
        ("xz-cut", &xz[..xz.len() / 2]),
        ("bzip2", b"BZh91AY&SY and so on"),
        ("zstd", b"\x28\xb5\x2f\xfd and so on"),
    ] {
        scene
            .v1
            .put_image("team/bad", name, &[(json!({"a": name}), layer)]);
        let manifest = scene.get(&format!("/v2/team/bad/manifests/{name}"));
        assert_eq!(manifest.status(), 502, "{name} {manifest:?}");
    }
    // The checksum covers the description, a line feed and the layer.
    scene
        .v1
        .script(|script| script.claims = Some(sha256(b"something else")));
    scene
        .v1
        .put_image("team/bad", "sum", &[(json!({}), &whole)]);
    assert_eq!(scene.get("/v2/team/bad/manifests/sum").status(), 502);
    let ids = scene
        .v1
        .put_image("team/bad", "right", &[(json!({"b": 1}), &whole)]);
    let right = [
        json!({"b": 1, "id": ids[0]}).to_string().as_bytes(),
        b"\n",
        &whole,
    ]
    .concat();
    scene
        .v1
        .script(|script| script.claims = Some(sha256(&right)));
    assert_eq!(scene.get("/v2/team/bad/manifests/right").status(), 200);
    let retained = std::fs::read_dir(scene.gateway.store().join("partials")).expect("a folder");
    assert_eq!(retained.count(), 0);
}

/// Some images have sparse or invalid descriptions.
#[test]
fn image_json_of_every_kind() {
    let scene = Scene::start();
    let layer = gzip(&tar(&[("a", b"1")]));
    for (tag, description) in [
        ("little", json!({})),
        ("null", json!({"created": null, "config": null, "os": null})),
        (
            "nonsense",
            json!({"created": "yesterday", "os": "", "container_config": 7}),
        ),
        (
            "long",
            json!({"config": {"Labels": {"text": "\"".repeat(20_000)}}}),
        ),
    ] {
        scene
            .v1
            .put_image("team/said", tag, &[(description.clone(), &layer)]);
        let manifest = scene.get(&format!("/v2/team/said/manifests/{tag}"));
        assert_eq!(manifest.status(), 200, "{tag}");
        let config = scene.get(&format!("/v2/team/said/blobs/{}", blobs(&manifest).1));
        let config: Value = serde_json::from_slice(&config.body).expect("JSON");
        assert_eq!(
            (&config["os"], &config["architecture"]),
            (&json!("linux"), &json!("amd64"))
        );
        assert_eq!(config["created"], Value::Null, "{tag}");
        assert_eq!(config["id"], Value::Null);
        assert_eq!(config["config"], description["config"]);
    }
    // The JSON of another image is refused.
    let ids = scene
        .v1
        .put_image("team/said", "other", &[(descriptions()[0].clone(), &layer)]);
    scene.v1.put_json(&ids[0], &json!({"id": "0".repeat(64)}));
    assert_eq!(scene.get("/v2/team/said/manifests/other").status(), 502);
}

/// v2 wins, before a tag is converted and after; a tag deleted on v1 is gone.
#[test]
fn v2_registry_precedes_the_bridge() {
    let scene = Scene::start();
    let ids = push(&scene.v1, "team/app", "1", 1);
    let theirs = scene.v2.push_image("team/app", "2", &[random(1, 1000)]);
    scene.v1.put_tag("team/app", "2", &ids[2]);
    let digest = |tag: &str| {
        let reply = scene.get(&format!("/v2/team/app/manifests/{tag}"));
        reply.header("docker-content-digest").map(str::to_owned)
    };
    let converted = digest("1").expect("converted");
    assert_eq!(digest("2").as_ref(), Some(&theirs.digest));
    scene.v2.tag("team/app", "1", &theirs.digest);
    assert_eq!(digest("1").as_ref(), Some(&theirs.digest));
    scene.v2.delete_tag("team/app", "1");
    assert_eq!(digest("1").as_ref(), Some(&converted));
    // Another image under the tag.
    push(&scene.v1, "team/app", "1", 5);
    let moved = digest("1").expect("converted");
    assert_ne!(moved, converted);
    scene.v1.delete_tag("team/app", "1");
    assert_eq!(
        scene
            .get("/v2/team/app/manifests/1")
            .error_code()
            .as_deref(),
        Some("MANIFEST_UNKNOWN")
    );
    assert_eq!(scene.get("/v2/team/none/manifests/1").status(), 404);
    // By digest it is served as long as its record exists.
    assert_eq!(
        scene
            .get(&format!("/v2/team/app/manifests/{moved}"))
            .status(),
        200
    );
}

/// Without a v2 side, `bridge: true` serves v2 clients the images of the v1 side, and refuses their pushes.
#[test]
fn registry_without_v2() {
    let v1 = testkit::v1::V1Registry::start();
    push(&v1, "team/app", "1", 1);
    let config = |keys: &str| {
        format!(
            "registries: [{{name: old, v1: \"{}\", bridge: true{keys}}}]\n",
            v1.url()
        )
    };
    let gateway = Gateway::start(&config(""));
    let get = |path: &str| testkit::http::get(gateway.url(1), None, path);
    let manifest = get(MANIFEST);
    assert_eq!(manifest.status(), 200, "{manifest:?}");
    for digest in blobs(&manifest).0 {
        let blob = get(&format!("/v2/team/app/blobs/{digest}"));
        assert_eq!(sha256(&blob.body), digest);
    }
    let json = |path: &str| -> Value { serde_json::from_slice(&get(path).body).expect("JSON") };
    assert_eq!(json("/v2/team/app/tags/list")["tags"], json!(["1"]));
    assert_eq!(json("/v2/_catalog"), json!({"repositories": ["team/app"]}));
    assert_eq!(get("/v2/team/app/manifests/2").status(), 404);
    assert_eq!(get("/v2/team/none/tags/list").status(), 404);
    assert!(v1.requests().iter().all(|seen| !seen.line.contains("/v2/")));
}

/// A name of one component, and layers that are redirected or chunked.
#[test]
fn names_redirects_and_broken_lines() {
    let scene = Scene::start();
    push(&scene.v1, "library/app", "1", 1);
    scene.v1.script(|script| script.cuts = 2);
    let manifest = scene.get("/v2/app/manifests/1");
    assert_eq!(manifest.status(), 200, "{manifest:?}");
    assert_eq!(blobs(&manifest).0[0], sha256(&layers(1)[0]));
    // On the v1 side that is `app`, which needs another right.
    assert_eq!(scene.get("/v2/library/app/manifests/1").status(), 404);

    let elsewhere = testkit::origin::Origin::start();
    let layer = gzip(&tar(&[("a", b"1")]));
    let digest = elsewhere.push_blob("store", layer.clone());
    scene.v1.script(|script| {
        script.storage = Some(format!("{}/v2/store/blobs/{digest}", elsewhere.url()));
    });
    scene
        .v1
        .put_image("team/moved", "1", &[(json!({}), &layer)]);
    let manifest = scene.get("/v2/team/moved/manifests/1");
    assert_eq!(blobs(&manifest).0, [digest]);
}

#[test]
fn bridge_can_be_disabled() {
    let scene = Scene::with("bridge: false");
    push(&scene.v1, "team/app", "1", 1);
    assert_eq!(scene.get(MANIFEST).status(), 404);
    assert_eq!(scene.v1.requests().len(), 0, "it was asked nothing");
    // With one side only, there is no bridge.
    let gateway = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\"}}]",
        scene.v1.url()
    ));
    let path = "/v2/team/app/manifests/1";
    let reply = testkit::http::get(gateway.url(1), None, path);
    assert_eq!(reply.status(), 404);
    assert_eq!(scene.v1.requests().len(), 0, "it was asked nothing");
}

fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
    piped(program, &["--stdout"], bytes)
}

fn unpacked(program: &str, bytes: &[u8]) -> Vec<u8> {
    piped(program, &["--decompress", "--stdout"], bytes)
}

fn piped(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut command = process::command(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("written");
    assert!(output.status.success());
    output.stdout
}
