//! Every upload method of the specification.

use testkit::http::get;
use testkit::image::random;
use testkit::origin::{Fault, Origin};
use testkit::sha256;

use super::{Pusher, gateway, real, with};

#[test]
fn blob_upload_methods() {
    let Some((registry, gateway)) = real("") else {
        return;
    };
    for (version, client) in Pusher::all(&gateway) {
        let repository = format!("team/{version}");
        let blob = random(7, 3 << 20);
        let digest = sha256(&blob);
        let there = |digest: &str| {
            let direct = get(
                &registry.url(),
                None,
                &format!("/v2/{repository}/blobs/{digest}"),
            );
            direct.body == blob
        };
        // One stream of unknown length, then an empty PUT, as Docker does.
        let location = client.begin(&repository);
        let pieces = blob.chunks(100_000).map(<[u8]>::to_vec).collect();
        let patched = client.stream("PATCH", &location, pieces);
        assert_eq!(patched.status, 202, "{version} {patched:?}");
        assert_eq!(patched.header("range"), Some("0-3145727"));
        assert!(patched.header("docker-upload-uuid").is_some());
        let location = patched.location(&client.base);
        let done = client.ask("PUT", &with(&location, "digest", &digest));
        assert_eq!(
            (done.status, done.header("docker-content-digest")),
            (201, Some(digest.as_str()))
        );
        let blob_url = done.location(&client.base);
        assert_eq!(
            blob_url,
            client.url(&format!("/v2/{repository}/blobs/{digest}"))
        );
        assert!(there(&digest), "{version}");
        // Chunks with their ranges, resumed by the status in between.
        let location = client.begin(&repository);
        let first = client.send(
            "PATCH",
            &location,
            &[
                ("Content-Range", "0-999999"),
                ("Content-Type", "application/octet-stream"),
            ],
            Some(blob[..1_000_000].to_vec()),
        );
        assert_eq!(first.status, 202, "{version} {first:?}");
        let status = client.ask("GET", &first.location(&client.base));
        assert_eq!(
            (status.status, status.header("range")),
            (204, Some("0-999999"))
        );
        let range = format!("1000000-{}", blob.len() - 1);
        let second = client.send(
            "PATCH",
            &status.location(&client.base),
            &[
                ("Content-Range", &range),
                ("Content-Type", "application/octet-stream"),
            ],
            Some(blob[1_000_000..].to_vec()),
        );
        assert_eq!(second.status, 202, "{version} {second:?}");
        let done = client.ask(
            "PUT",
            &with(&second.location(&client.base), "digest", &digest),
        );
        assert_eq!(done.status, 201, "{version} {done:?}");
        // In one PUT, and by a POST with the digest, to which this registry responds with a plain upload.
        client.blob(&repository, &blob);
        let post = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let post = client.send(
            "POST",
            &post,
            &[("Content-Type", "application/octet-stream")],
            Some(blob.clone()),
        );
        assert_eq!(post.status, 202, "{post:?}");
        // The registry refuses a wrong digest.
        let location = client.begin(&repository);
        let wrong = client.send(
            "PUT",
            &with(&location, "digest", &sha256(b"other")),
            &[],
            Some(blob.clone()),
        );
        assert_eq!(
            (wrong.status, wrong.code().as_deref()),
            (400, Some("DIGEST_INVALID"))
        );
        // Cancelled uploads are gone.
        let location = client.begin(&repository);
        assert_eq!(client.ask("DELETE", &location).status, 204);
        let gone = client.ask("GET", &location);
        assert_eq!(
            (gone.status, gone.code().as_deref()),
            (404, Some("BLOB_UPLOAD_UNKNOWN"))
        );
    }
}

#[test]
fn chunked_upload_keeps_content_range() {
    let origin = Origin::start();
    let gateway = gateway(&origin.url(), "");
    let answer = [
        ("Location", "/v2/team/app/blobs/uploads/u?b"),
        ("Range", "0-9"),
        ("Docker-Upload-UUID", "u"),
        ("OCI-Chunk-Min-Length", "5"),
        ("X-Other", "x"),
    ];
    let answer = answer.map(|(name, value)| (name.to_owned(), value.to_owned()));
    origin.fault(Fault::Status(202, answer.to_vec()).on("PATCH", "*"));
    for (version, client) in Pusher::all(&gateway) {
        let headers = [
            ("Content-Range", "5-9"),
            ("Content-Type", "application/octet-stream"),
        ];
        let patched = client.send(
            "PATCH",
            "/v2/team/app/blobs/uploads/u?a",
            &headers,
            Some(b"bytes".to_vec()),
        );
        assert_eq!(patched.status, 202, "{version}");
        for (name, value) in [
            ("range", "0-9"),
            ("docker-upload-uuid", "u"),
            ("oci-chunk-min-length", "5"),
            ("docker-distribution-api-version", "registry/2.0"),
        ] {
            assert_eq!(patched.header(name), Some(value), "{version} {name}");
        }
        assert_eq!(patched.header("x-other"), None);
        let sent = origin.requests_for("PATCH", "*").pop().expect("a request");
        assert_eq!((&sent.body[..], sent.query.as_str()), (&b"bytes"[..], "a"));
        assert_eq!(sent.header("content-length"), Some("5"));
        for (name, value) in headers {
            assert_eq!(sent.header(name), Some(value), "{version} {name}");
        }
    }
}
