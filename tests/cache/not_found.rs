//! Cached 404s.

use testkit::http::get;
use testkit::image::random;
use testkit::{sha256, until};

use super::{cache_status, scene};

#[test]
fn not_found_is_cached_for_missing_ttl() {
    let (origin, _, mut gateway) = scene("store: {missing_ttl: 1h}\n");
    let digest = sha256(b"nothing");
    let paths = [
        "/v2/library/app/manifests/none".to_owned(),
        format!("/v2/library/app/manifests/{digest}"),
        format!("/v2/library/app/blobs/{digest}"),
        "/v2/library/none/tags/list".to_owned(),
    ];
    for path in &paths {
        for _ in 0..3 {
            let reply = get(gateway.url(1), None, path);
            assert_eq!(reply.status(), 404, "{path}");
            assert!(
                reply.error_code().expect("JSON").ends_with("_UNKNOWN"),
                "{path}"
            );
            assert_eq!(reply.header("content-type"), Some("application/json"));
        }
        let again = get(gateway.url(1), None, path);
        assert_eq!(
            cache_status(&again),
            "roadstead; hit; detail=negative",
            "{path}"
        );
        assert_eq!(origin.count("*", path), 1, "{path}");
    }
    // With nothing remembered each request costs an upstream request.
    gateway.restart_with(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", missing_ttl: 0s}}]\n",
        origin.url()
    ));
    for path in &paths {
        let before = origin.count("*", path);
        get(gateway.url(1), None, path);
        get(gateway.url(1), None, path);
        assert_eq!(origin.count("*", path), before + 2, "{path}");
    }
}

/// Signatures, attestations and referrers tags are pushed after their image, often by others: their absence is
/// remembered no longer than that of other tags.
#[test]
fn not_found_tag_is_cached_equally_for_every_accept_class() {
    let (origin, _, gateway) = scene("store: {missing_ttl: 1s}\n");
    let companion = format!("sha256-{}", "0".repeat(64));
    let companions = ["", ".sig", ".att", ".sbom"].map(|kind| format!("{companion}{kind}"));
    let tags = companions.into_iter().chain(["none".to_owned()]);
    let paths: Vec<(String, String)> = tags
        .map(|tag| (format!("/v2/library/app/manifests/{tag}"), tag))
        .collect();
    for (path, tag) in &paths {
        assert_eq!(get(gateway.url(1), None, path).status(), 404, "{tag}");
        origin.push_image("library/app", tag, &[random(1, 1000)]);
    }
    for (path, tag) in &paths {
        until(&format!("{tag} is asked for again"), || {
            get(gateway.url(1), None, path).status() == 200
        });
    }
}
