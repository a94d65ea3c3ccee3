//! Manifests: unchanged, verified, limited in size.

use testkit::gateway::Gateway;
use testkit::http::{End, get};
use testkit::origin::{Fault, Origin};
use testkit::sha256;

use super::{FULL, plain, scene};

#[test]
fn manifest_bytes_are_unchanged() {
    let (origin, image, gateway) = scene("");
    let mut raw = plain(&gateway);
    for path in [image.tag_path(), image.digest_path()] {
        for method in ["GET", "HEAD"] {
            let reply = raw.exchange(method, &path, &FULL);
            assert_eq!(
                (reply.status(), reply.end.clone()),
                (200, End::Complete),
                "{method} {path}"
            );
            assert_eq!(
                reply.header("content-type"),
                Some("application/vnd.oci.image.manifest.v1+json")
            );
            assert_eq!(
                reply.header("content-length"),
                Some(&*image.manifest.len().to_string())
            );
            assert_eq!(reply.header("docker-content-digest"), Some(&*image.digest));
            assert_eq!(
                reply.header("etag"),
                Some(&*format!("\"{}\"", image.digest))
            );
            assert_eq!(
                reply.header("docker-distribution-api-version"),
                Some("registry/2.0")
            );
            if method == "GET" {
                assert!(reply.body == image.manifest);
            }
        }
    }
    // One HEAD for the tag and one GET by digest; Docker Hub would count a GET by tag twice.
    assert_eq!(origin.count("HEAD", &image.tag_path()), 1);
    assert_eq!(origin.count("GET", &image.digest_path()), 1);
    assert_eq!(origin.requests().len(), 2);
    let accepts = origin.requests_for("HEAD", "*")[0]
        .headers_named("accept")
        .join(", ");
    for kind in FULL {
        assert!(accepts.contains(kind.1), "{accepts}");
    }
}

#[test]
fn registries_without_digest_header_or_head_are_supported() {
    for fault in [
        Fault::NoDigestHeader.on("HEAD", "*/manifests/*"),
        Fault::status(405).on("HEAD", "*/manifests/*"),
        Fault::Chunked.on("*", "*/manifests/*"),
    ] {
        let (origin, image, gateway) = scene("");
        origin.fault(fault.clone());
        for method in ["HEAD", "GET", "GET"] {
            let reply = plain(&gateway).exchange(method, &image.tag_path(), &FULL);
            assert_eq!(reply.status(), 200, "{fault:?}");
            assert_eq!(
                reply.header("docker-content-digest"),
                Some(&*image.digest),
                "{fault:?}"
            );
            assert_eq!(
                reply.header("content-length"),
                Some(&*image.manifest.len().to_string()),
                "{fault:?}"
            );
            assert!(
                method == "HEAD" || reply.body == image.manifest,
                "{fault:?}"
            );
        }
        assert!(origin.count("GET", "*") <= 1, "{fault:?}");
        let by_digest = get(gateway.url(1), None, &image.digest_path());
        assert!(by_digest.body == image.manifest, "{fault:?}");
    }
}

#[test]
fn manifest_with_a_digest_mismatch_is_not_served() {
    let (origin, image, gateway) = scene("");
    for fault in [
        Fault::WrongByteAt(10),
        Fault::Body(b"{}".to_vec()),
        Fault::TruncateAt(20),
        Fault::DigestHeader(sha256(b"another")),
        Fault::Body(vec![b' '; (4 << 20) + 1]),
    ] {
        let rule = origin.fault(fault.clone().on("GET", "*/manifests/*"));
        let reply = get(gateway.url(1), None, &image.digest_path());
        if matches!(fault, Fault::DigestHeader(_)) {
            // The bytes have the requested digest; the header does not matter.
            assert_eq!(reply.status(), 200);
            break;
        }
        assert!((500..504).contains(&reply.status()), "{fault:?}: {reply:?}");
        assert!(reply.error_code().is_some(), "{fault:?}");
        origin.heal(rule);
    }
    assert!(get(gateway.url(1), None, &image.digest_path()).body == image.manifest);
}

#[test]
fn manifests_are_limited_to_four_mebibytes() {
    let origin = Origin::start();
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    for (size, status) in [(4 << 20, 200), ((4 << 20) + 1, 502)] {
        let mut bytes = br#"{"schemaVersion":2,"mediaType":"a/b"}"#.to_vec();
        bytes.resize(size, b' ');
        let digest = sha256(&bytes);
        origin.push_manifest("library/app", Some("big"), "a/b", bytes.clone());
        let reply = get(
            gateway.url(1),
            None,
            &format!("/v2/library/app/manifests/{digest}"),
        );
        assert_eq!(reply.status(), status);
        assert!(status != 200 || reply.body == bytes);
        assert!(status != 200 || reply.header("content-type") == Some("a/b"));
    }
}
