//! Images that cannot be served to v1 clients are refused with a clear message.

use serde_json::json;

use crate::v2_to_v1::image::{GZIP, TAR, file, gzip, push, push_index, push_manifest, tar};
use crate::v2_to_v1::{BY_TAG, OLD, ancestry, ask, bridged, top};
use testkit::gateway::Gateway;
use testkit::http::Reply;
use testkit::origin::{MEDIA_CONFIG, MEDIA_INDEX, MEDIA_MANIFEST, Origin};

fn error(reply: &Reply) -> String {
    let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    body["error"].as_str().expect("an error").to_owned()
}

#[test]
fn images_that_v1_cannot_express() {
    let origin = Origin::start();
    let layer = (GZIP, gzip(&tar(&[file("one", 1)])));
    let image = push(
        &origin,
        "team/app",
        Some("plain"),
        "amd64",
        std::slice::from_ref(&layer),
    );
    let descriptor = |platform| image.descriptor(MEDIA_MANIFEST, platform);
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let config = json!({"os": "linux", "architecture": "amd64"});
    let image_of = |tag, layers: &[(&str, Vec<u8>)]| {
        push_manifest(
            &origin,
            "team/app",
            Some(tag),
            (MEDIA_CONFIG, &config),
            layers,
        );
    };
    image_of("foreign", &[(foreign, layer.1.clone())]);
    image_of("odd", &[("application/x-iso", layer.1.clone())]);
    image_of("long", &vec![layer.clone(); 125]);
    image_of("longest", &vec![layer.clone(); 124]);
    let artifact = ("application/vnd.example", &config);
    push_manifest(
        &origin,
        "team/app",
        Some("artifact"),
        artifact,
        std::slice::from_ref(&layer),
    );
    push_index(
        &origin,
        "team/app",
        Some("windows"),
        &[descriptor(Some(("windows", "amd64")))],
    );
    let mut attestation = descriptor(Some(("unknown", "unknown")));
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let only = [attestation.clone()];
    push_index(&origin, "team/app", Some("attested"), &only);
    let with = [attestation, descriptor(Some(("linux", "amd64")))];
    let inner = push_index(&origin, "team/app", Some("both"), &with);
    let mut nested = inner;
    for depth in 1..=4 {
        let below = [nested.descriptor(MEDIA_INDEX, None)];
        nested = push_index(&origin, "team/app", Some(&format!("nested{depth}")), &below);
    }
    let schema1 = json!({"schemaVersion": 1, "name": "team/app", "fsLayers": [], "history": []});
    let kind = "application/vnd.docker.distribution.manifest.v1+json";
    origin.push_manifest("team/app", Some("first"), kind, schema1.to_string());
    let gateway = bridged(&origin);
    for (tag, expected) in [
        ("plain", Ok(1)),
        ("both", Ok(1)),
        ("nested1", Ok(1)),
        ("nested2", Ok(1)),
        ("nested4", Err("nested too deep")),
        ("longest", Ok(124)),
        ("long", Err("125 layers")),
        ("foreign", Err("foreign layer")),
        ("odd", Err("application/x-iso")),
        ("artifact", Err("application/vnd.example")),
        ("windows", Err("not available for linux/amd64")),
        ("attested", Err("not available for linux/amd64")),
        ("first", Err("schema 1 manifest")),
    ] {
        let id = top(&gateway, "team/app", tag);
        let reply = ask(
            &gateway,
            &OLD[0],
            &format!("GET /v1/images/{id}/ancestry"),
            &[],
        );
        match expected {
            Ok(length) => assert_eq!(ancestry(&gateway, &id).len(), length, "{tag}"),
            Err(word) => {
                assert_eq!(reply.status(), 404, "{tag}");
                assert!(error(&reply).contains(word), "{tag}: {}", error(&reply));
            }
        }
    }
}

#[test]
fn absent_images_and_tags() {
    let origin = Origin::start();
    push(
        &origin,
        "team/app",
        Some("1"),
        "amd64",
        &[(TAR, tar(&[file("one", 1)]))],
    );
    push(
        &origin,
        "team/app",
        Some("broken"),
        "amd64",
        &[(GZIP, vec![7; 5000])],
    );
    let gateway = bridged(&origin);
    let id = "0".repeat(64);
    for (line, status) in [
        ("GET /v1/_ping".to_owned(), 200),
        ("GET /_ping".into(), 200),
        ("GET /v1/users/".into(), 200),
        ("GET /v1/repositories/team/app/images".into(), 200),
        ("GET /v1/repositories/team/none/images".into(), 404),
        ("GET /v1/repositories/team/none/tags".into(), 404),
        ("GET /v1/repositories/team/app/tags/none".into(), 404),
        ("GET /v1/repositories/team/app/json".into(), 404),
        ("PUT /v1/repositories/team/app/".into(), 405),
        ("DELETE /v1/repositories/team/app/tags/1".into(), 405),
        (format!("PUT /v1/images/{id}/json"), 405),
        (format!("GET /v1/images/{id}/json"), 404),
        (format!("GET /v1/images/{id}/ancestry"), 404),
        (format!("GET /v1/images/{id}/layer"), 404),
        ("GET /v2/".into(), 404),
    ] {
        let reply = ask(&gateway, &OLD[4], &line, &[]);
        assert_eq!(reply.status(), status, "{line}: {}", reply.text());
        if status != 200 && line != "GET /v2/" {
            assert!(!error(&reply).is_empty(), "{line}");
        }
    }
    let list = ask(
        &gateway,
        &OLD[4],
        "GET /v1/repositories/team/app/images",
        &[],
    );
    assert_eq!(list.text(), "[]");
    assert_eq!(list.header("x-docker-endpoints"), Some("localhost"));
    let broken = top(&gateway, "team/app", "broken");
    let layer = ask(
        &gateway,
        &OLD[4],
        &format!("GET /v1/images/{broken}/layer"),
        &[],
    );
    assert_eq!(layer.status(), 502);
    assert!(error(&layer).contains("unpacked"), "{}", layer.text());
}

#[test]
fn without_bridge_v2_images_are_not_served_over_v1() {
    let origin = Origin::start();
    push(
        &origin,
        "team/app",
        Some("1"),
        "amd64",
        &[(TAR, tar(&[file("one", 1)]))],
    );
    for more in ["", ", bridge: false", ", bridge: true, cache: off"] {
        let gateway = Gateway::start(&format!(
            "registries:\n- {{name: up.test, v2: \"{}\", default: true{more}}}\n",
            origin.url()
        ));
        for path in [
            "/v1/_ping",
            "/v1/users/",
            "/v1/repositories/team/app/images",
        ] {
            let reply = ask(&gateway, &BY_TAG[0], &format!("GET {path}"), &[]);
            assert_eq!(reply.status(), 404, "{more} {path}");
        }
    }
}
