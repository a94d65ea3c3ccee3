//! Requests and responses: headers, ranges, locations, rights.

use testkit::basic;
use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Reply, get};
use testkit::image::random;
use testkit::v1::V1Registry;

use crate::v1::{PUSHER, gateway, gateway_with};

const OLD_AGENT: &str =
    "docker/1.5.0 go/go1.4.1 git-commit/a8a31ef kernel/3.18.0 os/linux arch/amd64";

pub(super) fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    Raw::connect(gateway.url(1), None).exchange(method, path, headers)
}

/// A gateway without rules and without a cache, in front of an image of one layer of 103 bytes; returns the layer's
/// path too.
pub(super) fn open(registry: &V1Registry) -> (Gateway, Vec<u8>, String) {
    let layer = random(5, 103);
    let ids = registry.push_image("library/app", "latest", &[&layer]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v1: \"{}\", cache: false}}]",
        registry.url()
    ));
    (gateway, layer, format!("/v1/images/{}/layer", ids[0]))
}

#[test]
fn old_clients_are_not_shown_v2() {
    let registry = V1Registry::start();
    let gateway = gateway(&registry);
    for (agent, old) in [
        (OLD_AGENT, true),
        ("docker/1.0.1 go/go1.2.1", true),
        ("Go 1.1 package http", true),
        ("docker/1.5.0-dev go/go1.4.1", false),
        ("docker/1.6.2 go/go1.4.2", false),
        ("docker/20.10.24 go/go1.19", false),
        ("Go-http-client/1.1", false),
        ("containerd/v1.7", false),
    ] {
        for path in [
            "/v2/",
            "/v2",
            "//v2//",
            "/%762/",
            "/v2/team/app/manifests/1",
            "/v2/nothing",
        ] {
            let reply = ask(&gateway, "GET", path, &[("User-Agent", agent)]);
            let said = reply
                .head
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("docker-distribution-api-version"))
                .count();
            assert_eq!(said, usize::from(!old), "{agent} {path}: {reply:?}");
            if old {
                assert_eq!(reply.status(), 404, "{agent} {path}");
                assert!(reply.text().starts_with("{\"error\":"), "{reply:?}");
            }
        }
        // v1 is served to all clients.
        for path in ["/_ping", "/v1/_ping", "/v1/search?q=x"] {
            let reply = ask(&gateway, "GET", path, &[("User-Agent", agent)]);
            assert_eq!(reply.status(), 200, "{agent} {path}");
        }
    }
}

#[test]
fn the_table_of_old_clients_can_be_replaced() {
    let registry = V1Registry::start();
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v1: \"{}\", v2: \"http://127.0.0.1:1\"}}]
routing: {{old_clients: ['^docker/1\\.6\\.', '^mine$']}}",
        registry.url()
    ));
    for (agent, status) in [
        (OLD_AGENT, 200),
        ("docker/1.6.2 go/go1.4.2", 404),
        ("mine", 404),
        ("mine too", 200),
        ("", 200),
    ] {
        let reply = ask(&gateway, "GET", "/v2/", &[("User-Agent", agent)]);
        assert_eq!(reply.status(), status, "{agent}");
    }
}

#[test]
fn v1_paths_without_v1_are_404_in_json() {
    let gateway = Gateway::start("registries: [{name: a, v2: \"http://127.0.0.1:1\"}]");
    for (method, path) in [
        ("GET", "/_ping"),
        ("HEAD", "/_ping"),
        ("GET", "/v1/_ping"),
        ("GET", "/v1/users/"),
        ("POST", "/v1/users/"),
        ("GET", "/v1/repositories/app/images"),
        ("PUT", "/v1/repositories/app/"),
        ("GET", "/v1/anything/else"),
    ] {
        let reply = ask(&gateway, method, path, &[]);
        assert_eq!(reply.status(), 404, "{method} {path}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("docker-distribution-api-version"), None);
        if method != "HEAD" {
            assert!(reply.text().starts_with("{\"error\":"), "{reply:?}");
        }
    }
}

/// The registry's own responses to these are a byte short, or lack the unit.
#[test]
fn ranges_are_corrected() {
    let registry = V1Registry::start();
    let (gateway, layer, path) = open(&registry);
    for no_ranges in [false, true] {
        registry.script(|script| script.no_ranges = no_ranges);
        for (range, expected) in [
            ("bytes=0-9", Some(0..10)),
            ("bytes=0-0", Some(0..1)),
            ("bytes=50-50", Some(50..51)),
            ("bytes=10-", Some(10..103)),
            // Docker resumes with a range up to the size, which is one byte too far
            ("bytes=10-103", Some(10..103)),
            ("bytes=102-103", Some(102..103)),
            ("bytes=0-103", Some(0..103)),
            ("bytes=50-5000", Some(50..103)),
            ("bytes=-5", Some(98..103)),
            // everything has arrived already
            ("bytes=103-103", None),
            ("bytes=103-", None),
            ("bytes=200-300", None),
        ] {
            let mut connection = Raw::connect(gateway.url(1), None);
            let reply = connection.exchange("GET", &path, &[("Range", range)]);
            assert_eq!(reply.end, End::Complete, "{range}: {reply:?}");
            if let Some(span) = expected {
                assert_eq!(reply.status(), 206, "{range}: {reply:?}");
                assert!(reply.body == layer[span.clone()], "{range}");
                let range = format!("bytes {}-{}/103", span.start, span.end - 1);
                assert_eq!(reply.header("content-range"), Some(&*range));
                assert_eq!(reply.head.length(), Some(span.len() as u64));
            } else {
                assert_eq!(
                    (reply.status(), reply.head.length()),
                    (416, Some(0)),
                    "{range}"
                );
                assert_eq!(reply.header("content-range"), Some("bytes */103"));
            }
            // The connection persists.
            let whole = connection.get(&path);
            assert!(whole.body == layer, "{range}");
        }
        for range in ["items=0-1", "bytes=x", ""] {
            let reply = ask(&gateway, "GET", &path, &[("Range", range)]);
            assert_eq!(reply.status(), 200, "{range}");
            assert!(reply.body == layer && reply.header("content-encoding").is_none());
        }
        let head = ask(&gateway, "HEAD", &path, &[("Range", "bytes=0-9")]);
        assert_eq!((head.status(), head.head.length()), (200, Some(103)));
        assert_eq!(head.header("accept-ranges"), Some("bytes"));
    }
    assert!(
        registry
            .requests()
            .iter()
            .all(|seen| seen.header("range") != Some("bytes=10-103"))
    );
}

#[test]
fn forwarded_headers_are_rendered_by_the_gateway() {
    let registry = V1Registry::start();
    let (gateway, _, path) = open(&registry);
    let json = path.replace("layer", "json");
    let reply = ask(
        &gateway,
        "GET",
        &json,
        &[
            ("Host", "gate.example:5000"),
            ("User-Agent", OLD_AGENT),
            ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-Proto", "gopher"),
            ("X-Forwarded-Host", "evil.example"),
            ("Forwarded", "for=6.6.6.6"),
            ("Authorization", "Basic c2VjcmV0OnNlY3JldA=="),
            ("Cookie", "a=b"),
            ("X-Docker-Endpoints", "https://evil.example/v1/"),
            ("X-Signature", "x"),
        ],
    );
    assert_eq!(reply.status(), 200, "{reply:?}");
    assert_eq!(reply.header("x-docker-size"), Some("103"));
    assert_eq!(reply.header("set-cookie"), None);
    let seen = registry.requests().pop().expect("a request");
    let header = |name: &str| seen.header(name).map(str::to_owned);
    assert_eq!(header("host"), Some(registry.authority()));
    let own = concat!("roadstead/", env!("CARGO_PKG_VERSION"));
    assert_eq!(header("user-agent").as_deref(), Some(own));
    for name in [
        "if-modified-since",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
        "authorization",
        "cookie",
        "x-docker-endpoints",
        "x-signature",
    ] {
        assert_eq!(header(name), None, "{name}");
    }
    // Endpoints have the name by which the client reached the gateway.
    let list = ask(
        &gateway,
        "GET",
        "/v1/repositories/app/images",
        &[("Host", "gate.example:5000")],
    );
    assert_eq!(list.header("x-docker-endpoints"), Some("gate.example:5000"));
    let seen = registry.requests().pop().expect("a request");
    assert_eq!(
        seen.line,
        "GET /v1/repositories/library/app/images HTTP/1.1"
    );
}

#[test]
fn responses_under_rules_are_private() {
    let registry = V1Registry::start();
    let (gateway, _, path) = open(&registry);
    let public = get(gateway.url(1), None, &path);
    assert_eq!(
        public.header("cache-control"),
        Some("public, max-age=31536000")
    );

    let guarded = crate::v1::gateway(&registry);
    let authorization = basic("pusher", "password");
    let headers = [("Authorization", &*authorization)];
    let list = ask(&guarded, "GET", "/v1/repositories/app/images", &headers);
    let token = format!("Token {}", list.header("x-docker-token").expect("a token"));
    let private = ask(&guarded, "GET", &path, &[("Authorization", &token)]);
    assert_eq!(private.status(), 200, "{private:?}");
    assert_eq!(private.header("cache-control"), Some("private, no-store"));
    assert_eq!(private.header("expires"), None);
}

#[test]
fn endpoints_and_locations_are_rewritten() {
    let registry = V1Registry::start();
    let (gateway, _, path) = open(&registry);
    for (storage, expected) in [
        (
            "https://bucket.example/layer?sig=a%2Bb",
            "https://bucket.example/layer?sig=a%2Bb".to_owned(),
        ),
        (
            "/v1/images/x/layer",
            "http://localhost/v1/images/x/layer".to_owned(),
        ),
    ] {
        registry.script(|script| script.storage = Some(storage.into()));
        for headers in [&[][..], &[("Range", "bytes=5-")]] {
            let reply = ask(&gateway, "GET", &path, headers);
            assert_eq!(reply.status(), 302, "{reply:?}");
            assert_eq!(reply.header("location"), Some(&*expected));
        }
    }
}

#[test]
fn delete_requires_the_right() {
    let registry = V1Registry::start();
    let ids = registry.push_image("team/app", "1", &[b"layer"]);
    let gateway = gateway(&registry);
    let by = |user: &str| basic(user, "password");
    let delete = |user: &str, path: &str| {
        ask(&gateway, "DELETE", path, &[("Authorization", &by(user))]).status()
    };
    let list = ask(
        &gateway,
        "GET",
        "/v1/repositories/team/app/images",
        &[("Authorization", &by("reader"))],
    );
    let token = format!("Token {}", list.header("x-docker-token").expect("a token"));
    let json = format!("/v1/images/{}/json", ids[0]);
    let image = || ask(&gateway, "GET", &json, &[("Authorization", &token)]).status();
    assert_eq!(image(), 200);
    for path in [
        "/v1/repositories/team/app",
        "/v1/repositories/team/app/tags",
    ] {
        assert_eq!(delete("reader", path), 403);
    }
    assert_eq!(delete("pusher", "/v1/repositories/team/app"), 200);
    // Nothing remembers that it existed.
    assert_eq!(image(), 404);
}

#[test]
fn layer_is_streamed_both_ways() {
    let registry = V1Registry::start();
    let gateway = gateway_with(&registry, ", hosts: [localhost]");
    let layer = random(9, 40 << 20);
    let mut daemon = crate::v1::Daemon::new(crate::v1::OLD[4], &gateway, PUSHER);
    let ids = daemon.push("team/large", "1", &[&layer]).expect("pushed");
    assert!(registry.layer(&ids[0]) == Some(layer.clone()));
    assert!(daemon.pull("team/large", "1") == Ok(vec![layer]));
    let peak = gateway.peak_rss_kib();
    assert!(peak < 200 << 10, "{peak} KiB");
}
