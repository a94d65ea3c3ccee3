//! Upstream bodies without a length that end with their connection: a truncated one looks complete. Those that can be
//! verified are served, the others are refused.

use crate::bodies::scene;
use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, Web, block_on, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::sha256;

/// Manifests and lists end with their connection.
fn close(origin: &Origin, path: &str) {
    origin.fault(Fault::CloseDelimited.on("GET", path));
}

fn cut(origin: &Origin, path: &str, at: usize) {
    origin.fault(Fault::TruncateAt(at as u64).on("GET", path));
}

/// A gateway that stores nothing.
fn routed(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", cache: false}}]\n",
        origin.url()
    ))
}

/// The bodies of the responses over both protocol versions, where they are complete and 200.
fn complete(gateway: &Gateway, path: &str) -> [Option<Vec<u8>>; 2] {
    let plain = get(gateway.url(1), None, path);
    let plain = (plain.status() == 200 && plain.is_complete()).then_some(plain.body);
    let h2 = Web::h2(Some(&gateway.ca_path()));
    let url = format!("{}{path}", gateway.url(0));
    let fetched = block_on(h2.fetch_async("GET", &url, &[])).ok();
    let fetched = fetched.filter(|fetched| fetched.status == 200 && fetched.broken.is_none());
    [plain, fetched.map(|fetched| fetched.body)]
}

/// A manifest whose last byte is a line feed: without it, it is another valid manifest.
fn with_line_feed(origin: &Origin, image: &Image) -> (String, Vec<u8>) {
    // Not the image's own manifest with a byte appended, since the gateway knows that one.
    let mut manifest = vec![b' '];
    manifest.extend(&image.manifest);
    manifest.push(b'\n');
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    origin.push_manifest("library/app", Some("feed"), media_type, manifest.clone());
    ("/v2/library/app/manifests/feed".to_owned(), manifest)
}

#[test]
fn truncated_close_delimited_manifest_is_not_complete() {
    let (origin, image, gateway) = scene(1000);
    let (path, manifest) = with_line_feed(&origin, &image);
    origin.fault(Fault::NoDigestHeader.on("*", "*/manifests/*"));
    close(&origin, "*/manifests/*");
    for at in [
        0,
        1,
        manifest.len() / 2,
        manifest.len() - 2,
        manifest.len() - 1,
    ] {
        let fault = origin.fault(Fault::TruncateAt(at as u64).on("GET", &path));
        assert_eq!(complete(&gateway, &path), [None, None], "cut at {at}");
        origin.heal(fault);
    }
    let blobs = gateway.store().join("blobs/sha256");
    let retained = std::fs::read_dir(blobs).map_or(0, Iterator::count);
    assert_eq!(retained, 0, "some of it was stored");
    // The complete manifest is served.
    let whole = [Some(manifest.clone()), Some(manifest.clone())];
    assert_eq!(complete(&gateway, &path), whole);
    let reply = get(gateway.url(1), None, &path);
    let digest = sha256(&manifest);
    assert_eq!(reply.header("docker-content-digest"), Some(&*digest));
}

#[test]
fn truncated_close_delimited_list_is_not_complete() {
    let (origin, image, gateway) = scene(1000);
    let referrers = format!("/v2/library/app/referrers/{}", sha256(&image.manifest));
    for path in ["/v2/library/app/tags/list", &referrers] {
        close(&origin, path);
        let fault = origin.fault(Fault::TruncateAt(10).on("GET", path));
        assert_eq!(complete(&gateway, path), [None, None], "{path}");
        origin.heal(fault);
        let [plain, h2] = complete(&gateway, path);
        assert!(plain.is_some() && plain == h2, "{path}");
    }
}

#[test]
fn pass_through_by_digest_is_verified() {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 300_000)]);
    let gateway = routed(&origin);
    let bodies = [
        (image.layer_path(0), image.layer(0).1.to_vec()),
        (image.digest_path(), image.manifest.to_vec()),
        // The registry's header names the digest.
        (image.tag_path(), image.manifest.to_vec()),
    ];
    close(&origin, "*");
    for (path, bytes) in &bodies {
        let whole = [Some(bytes.clone()), Some(bytes.clone())];
        assert!(complete(&gateway, path) == whole, "{path}");
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let fault = origin.fault(Fault::TruncateAt(at as u64).on("GET", path));
            assert!(complete(&gateway, path) == [None, None], "{path} at {at}");
            origin.heal(fault);
        }
    }
    let list = "/v2/team/app/tags/list";
    let [plain, h2] = complete(&gateway, list);
    assert!(plain.is_some() && plain == h2);
    cut(&origin, list, 12);
    assert_eq!(complete(&gateway, list), [None, None]);
}

#[test]
fn unverifiable_body_is_refused_with_its_reason() {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 300_000)]);
    let gateway = routed(&origin);
    close(&origin, "*");
    origin.fault(Fault::NoDigestHeader.on("*", "*/manifests/*"));
    let refused = |reply: &Reply| {
        assert_eq!(reply.status(), 502, "{reply:?}");
        assert!(
            reply.text().contains("neither a length nor a digest"),
            "{reply:?}"
        );
    };
    refused(&get(gateway.url(1), None, &image.tag_path()));
    // A part of a blob, whose digest is that of the whole.
    let mut raw = Raw::connect(gateway.url(1), None);
    refused(&raw.exchange("GET", &image.layer_path(0), &[("Range", "bytes=5-900")]));
    assert_eq!(raw.get("/v2/").status(), 200, "the connection is in step");
}
