//! The headers of a client's request that reach the registry.

use crate::uploads::Place;
use testkit::http::get;
use testkit::image::random;
use testkit::origin::{Fault, Origin};
use testkit::real::{Registry, found};

const OWN: &str = concat!("roadstead/", env!("CARGO_PKG_VERSION"));

/// Headers that identify the client or proxies, or that concern only the client's connection.
const NOISE: &[(&str, &str)] = &[
    ("User-Agent", "docker/28.5.2 secret"),
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "gopher"),
    ("Forwarded", "for=6.6.6.6"),
    ("Via", "1.1 somewhere"),
    ("Referer", "https://internal.example/"),
    ("Cookie", "a=b"),
    ("Accept-Encoding", "gzip"),
    ("X-Registry-Auth", "e30="),
    ("X-Http-Method-Override", "DELETE"),
    ("Content-Encoding", "gzip"),
    ("Content-Disposition", "form-data; name=\"mount\""),
];

#[test]
fn only_protocol_headers_are_forwarded() {
    let origin = Origin::start();
    origin.fault(Fault::status(202).on("P*", "*"));
    origin.fault(Fault::status(202).on("DELETE", "*"));
    let place = Place::of(&origin.url());
    let upload = "/v2/mine/a/blobs/uploads/u";
    for (method, path, needed) in [
        ("POST", "/v2/mine/a/blobs/uploads/", &["content-type"][..]),
        ("PATCH", upload, &["content-type", "content-range"]),
        ("PUT", upload, &["content-type", "content-range"]),
        ("GET", upload, &[]),
        ("DELETE", upload, &[]),
        ("PUT", "/v2/mine/a/manifests/x", &["content-type"]),
        ("DELETE", "/v2/mine/a/manifests/x", &[]),
    ] {
        let mut headers = NOISE.to_vec();
        headers.extend([
            ("Content-Type", "application/octet-stream"),
            ("Content-Range", "0-1"),
            ("Range", "bytes=0-1"),
            ("If-None-Match", "\"x\""),
        ]);
        let body: &[u8] = if method == "GET" { b"" } else { b"{}" };
        place.send("pusher", method, path, &headers, body);
        let sent = origin.requests_for(method, path).pop().expect("a request");
        let mut names: Vec<String> = sent
            .headers
            .iter()
            .map(|(name, _)| name.to_lowercase())
            .collect();
        names.sort_unstable();
        let mut expected = vec!["accept", "host", "user-agent"];
        expected.extend(needed);
        if !needed.is_empty() {
            expected.push("content-length");
        }
        expected.sort_unstable();
        assert_eq!(names, expected, "{method} {path}");
        assert_eq!(sent.header("user-agent"), Some(OWN), "{method}");
        assert_eq!(sent.header("host"), Some(&*origin.authority()));
    }
}

/// A registry that learns nothing about the client names itself by its own authority, which the gateway rewrites.
#[test]
fn locations_of_a_real_registry_lead_to_the_gateway() {
    let Some(registry) = found(Registry::start()) else {
        return;
    };
    let place = Place::of(&registry.url());
    let begun = place.send(
        "pusher",
        "POST",
        "/v2/mine/a/blobs/uploads/",
        &[("X-Forwarded-Host", "evil.example")],
        b"",
    );
    let location = begun.header("location").expect("a Location");
    assert!(
        location.starts_with("http://localhost/v2/mine/a/blobs/uploads/"),
        "{location}"
    );
    let digest = place.push("mine/a", &random(1, 1000));
    assert_eq!(
        place
            .get("pusher", &format!("/v2/mine/a/blobs/{digest}"))
            .status(),
        200
    );
    assert_eq!(
        get(&registry.url(), None, &format!("/v2/mine/a/blobs/{digest}")).status(),
        200
    );
}
