//! Other ways in: listeners, and other gateways.

use super::*;
use testkit::http::get;
use testkit::image::random;
use testkit::s3::S3;

#[test]
fn read_only_listener_of_a_registry_is_gated() {
    let origin = Origin::start();
    let denied = origin.push_image("library/evil", "1", &[random(1, 1000)]);
    let allowed = origin.push_image("library/app", "1", &[random(2, 1000)]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", gate: {{deny: [library/evil, \"**:2\"]}}}}]\n\
         listen: [{{address: \"127.0.0.1:0\", tls: off, read_only: true, registry: docker.io}}]\n",
        origin.url()
    ));
    let ask = |path: &str, headers: &[(&str, &str)]| {
        Raw::connect(gateway.url(0), None).exchange("GET", path, headers)
    };
    let mut paths = content(&denied);
    paths.extend([denied.tag_path(), allowed.manifest_path("2")]);
    for path in paths {
        for headers in [
            &[][..],
            &[("Host", "ghcr.io")],
            &[("Authorization", "Basic eDp5")],
        ] {
            assert_eq!(rule(&ask(&path, headers)), "deny", "{path} {headers:?}");
        }
    }
    assert_eq!(ask(&allowed.tag_path(), &[]).status(), 200);
}

#[test]
fn gateways_of_a_bucket_have_gates_of_their_own() {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("library/app", "latest", &[random(1, 200_000)]);
    let node = |gate: &str| {
        let address = testkit::private_address();
        Gateway::start(&format!(
            "registries: [{{name: docker.io, v2: \"{}\"{gate}}}]\n\
             listen: [{{address: \"{address}\", tls: off}}]\nstore: {{min_free: 0B, {}}}\n",
            origin.url(),
            s3.yaml_with(&format!("advertise: \"http://{address}\"")),
        ))
    };
    let open = node("");
    for path in [image.tag_path(), image.blob_path(0), image.layer_path(0)] {
        assert_eq!(get(open.url(0), None, &path).status(), 200, "{path}");
    }
    // Records and bytes of all of it are in the bucket, and the other gateway has just fetched it.
    testkit::until("the bucket to have the layer", || {
        let gated = node("");
        get(gated.url(0), None, &image.layer_path(0))
            .header("cache-status")
            .is_some()
    });
    for (gate, rule_name) in [
        (", gate: {deny: [\"library/app\"]}", "deny"),
        (", gate: {deny: [\"library/app:latest\"]}", "deny"),
        (", gate: {platforms: [linux/arm64]}", "platforms"),
    ] {
        let gated = node(gate);
        for path in [image.tag_path(), image.digest_path(), image.layer_path(0)] {
            let reply = get(gated.url(0), None, &path);
            assert_eq!(rule(&reply), rule_name, "{gate} {path}: {reply:?}");
        }
    }
}
