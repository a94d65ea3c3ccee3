//! Links: a digest is served only for repositories that have it.

use testkit::http::get;
use testkit::image::random;
use testkit::origin::Fault;
use testkit::until;

use super::{cache_status, plain, scene};

#[test]
fn digest_is_served_only_where_it_is_linked() {
    let (origin, image, gateway) = scene("");
    let (digest, bytes) = image.layer(0).clone();
    assert!(get(gateway.url(1), None, &image.layer_path(0)).body == bytes);
    assert!(get(gateway.url(1), None, &image.digest_path()).body == image.manifest);

    origin.push_blob("library/other", random(5, 10));
    for (path, code) in [
        (format!("/v2/library/other/blobs/{digest}"), "BLOB_UNKNOWN"),
        (
            format!("/v2/library/other/manifests/{}", image.digest),
            "MANIFEST_UNKNOWN",
        ),
        // A blob's link does not serve a manifest, nor the reverse.
        (
            format!("/v2/library/app/blobs/{}", image.digest),
            "BLOB_UNKNOWN",
        ),
        (
            format!("/v2/library/app/manifests/{digest}"),
            "MANIFEST_UNKNOWN",
        ),
    ] {
        for method in ["GET", "HEAD", "GET"] {
            let reply = plain(&gateway).exchange(method, &path, &[]);
            assert_eq!(reply.status(), 404, "{method} {path}");
            assert!(
                method == "HEAD" || reply.error_code().as_deref() == Some(code),
                "{path}"
            );
        }
    }

    // A third repository has it: a HEAD proves that, and no byte is fetched again.
    origin.push_blob_as("library/third", &digest, bytes.clone());
    let path = format!("/v2/library/third/blobs/{digest}");
    for status in ["roadstead; fwd=uri-miss; detail=claimed", "roadstead; hit"] {
        let reply = get(gateway.url(1), None, &path);
        assert!(reply.body == bytes);
        assert_eq!(cache_status(&reply), status);
    }
    assert_eq!(
        (origin.count("HEAD", &path), origin.count("GET", &path)),
        (1, 0)
    );
}

/// A fill for one repository is not open to a repository that lacks the blob, but to one that has it.
#[test]
fn joining_a_fill_requires_a_link_of_the_same_repository() {
    let (origin, image, gateway) = scene("");
    let latch = testkit::origin::Latch::new();
    origin.fault(Fault::PauseAt(50_000, latch.clone()).on("GET", "*/blobs/*"));
    let (digest, bytes) = image.layer(0).clone();
    origin.push_blob_as("library/third", &digest, bytes.clone());
    let mut filler = plain(&gateway);
    filler.request("GET", &image.layer_path(0), &[]);
    latch.wait_reached(1);
    let refused = get(
        gateway.url(1),
        None,
        &format!("/v2/library/other/blobs/{digest}"),
    );
    assert_eq!(refused.error_code().as_deref(), Some("BLOB_UNKNOWN"));
    let mut third = plain(&gateway);
    third.request("GET", &format!("/v2/library/third/blobs/{digest}"), &[]);
    third
        .read_head()
        .expect("a head while the fill is under way");
    latch.release();
    assert!(third.read_exactly(bytes.len() as u64) == bytes);
    assert!(filler.reply("GET").body == bytes);
    assert_eq!(origin.count("GET", &format!("*/blobs/{digest}")), 1);
}

#[test]
fn stale_link_is_served_while_revalidated() {
    let (origin, image, gateway) = scene("store: {link_ttl: 0s, missing_ttl: 0s}\n");
    let paths = [image.layer_path(0), image.digest_path()];
    for path in &paths {
        assert_eq!(get(gateway.url(1), None, path).status(), 200);
        assert_eq!(origin.count("HEAD", path), 0);
        assert_eq!(
            cache_status(&get(gateway.url(1), None, path)),
            "roadstead; hit"
        );
        origin.wait_for("HEAD", path, 1);
    }
    // The upstream deletes it: the next response is still served, the one after the revalidation is not.
    origin.delete_blob("library/app", &image.layer(0).0);
    origin.delete_manifest("library/app", &image.digest);
    for path in &paths {
        assert_eq!(get(gateway.url(1), None, path).status(), 200);
        until("the link to go", || {
            get(gateway.url(1), None, path).status() == 404
        });
    }
}
