//! Upstream redirects: followed as registries intend, never with the account, never into private networks.

use std::net::Ipv4Addr;

use testkit::gateway::Gateway;
use testkit::http::{End, Raw, get};
use testkit::image::random;
use testkit::origin::{Auth, Fault, Image, Origin};

const RULES: &str =
    "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n";

/// A registry, and a storage host with the same content that it redirects to.
fn scene() -> (Origin, Origin, Image) {
    let (registry, storage) = (
        Origin::start(),
        Origin::start_on(Ipv4Addr::new(127, 0, 0, 8)),
    );
    let image = registry.push_image("library/app", "latest", &[random(1, 300_000)]);
    storage.push_image("library/app", "latest", &[random(1, 300_000)]);
    (registry, storage, image)
}

#[test]
fn redirects_are_followed_for_blobs_and_manifests() {
    for status in [301, 302, 303, 307, 308] {
        let (registry, storage, image) = scene();
        registry.fault(
            Fault::Redirect(status, format!("{}{{path}}?signed=1", storage.url()))
                .on("*", "/v2/library/*"),
        );
        let gateway = Gateway::mirror("docker.io", &registry.url(), "");
        assert!(
            get(gateway.url(1), None, &image.tag_path()).body == image.manifest,
            "{status}"
        );
        assert!(
            get(gateway.url(1), None, &image.layer_path(0)).body == image.layer(0).1,
            "{status}"
        );
        assert_eq!(storage.count("GET", &image.layer_path(0)), 1);
    }
}

/// Object stores answer 400 to a request with both a signed URL and an Authorization header.
#[test]
fn account_is_not_sent_to_redirect_targets() {
    let (registry, storage, image) = scene();
    storage.fault(Fault::status(400).on("*", "*").with_header("Authorization"));
    registry.require(Auth::basic("me", "s3cret-word"));
    registry
        .fault(Fault::Redirect(307, format!("{}{{path}}", storage.url())).on("GET", "*/blobs/*"));
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", credentials: {{username: me, password: s3cret-word}}}}]\n{RULES}",
        registry.url()
    ));
    // After the registry's challenge the account is sent without one.
    assert!(get(gateway.url(1), None, &image.tag_path()).body == image.manifest);
    assert!(get(gateway.url(1), None, &image.layer_path(0)).body == image.layer(0).1);
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("cookie"), None);
    }
    assert!(
        registry
            .requests()
            .iter()
            .any(|request| request.header("authorization").is_some())
    );
}

/// A redirect's target may ask for a token: it gets an anonymous one.
#[test]
fn challenge_of_a_redirect_target_is_answered_anonymously() {
    let (registry, storage, image) = scene();
    storage.require(Auth::bearer());
    registry
        .fault(Fault::Redirect(307, format!("{}{{path}}", storage.url())).on("*", "/v2/library/*"));
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", credentials: {{username: me, password: s3cret-word}}}}]\n{RULES}",
        registry.url()
    ));
    // Its realm is plain HTTP on a foreign host, so it gets not even that.
    assert!(get(gateway.url(1), None, &image.tag_path()).status() >= 400);
    assert!(
        storage
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

#[test]
fn expired_redirect_is_requested_again() {
    let (registry, storage, image) = scene();
    registry.fault(
        Fault::Redirect(307, format!("{}{{path}}?old", storage.url()))
            .on("GET", "*/blobs/*")
            .times(1),
    );
    registry.fault(
        Fault::Redirect(307, format!("{}{{path}}?new", storage.url()))
            .on("GET", "*/blobs/*")
            .after(1),
    );
    storage.fault(Fault::status(403).on("GET", "*").times(1));
    let gateway = Gateway::mirror("docker.io", &registry.url(), "");
    assert!(get(gateway.url(1), None, &image.layer_path(0)).body == image.layer(0).1);
    let queries: Vec<String> = storage
        .requests()
        .into_iter()
        .map(|request| request.query)
        .collect();
    assert_eq!(queries.len(), 2, "{queries:?}");
    // Presigned links are secrets.
    assert!(!gateway.log().contains("?old") && !gateway.log().contains("?new"));
}

#[test]
fn endless_redirects_fail() {
    let (registry, storage, image) = scene();
    let path = image.layer_path(0);
    for target in [
        format!("{}{{path}}", registry.url()),
        "ftp://127.0.0.1/x".to_owned(),
        "http://".to_owned(),
        String::new(),
    ] {
        let rule = registry.fault(Fault::Redirect(302, target.clone()).on("GET", "*/blobs/*"));
        registry.clear_requests();
        let reply = get(gateway_of(&registry).url(1), None, &path);
        assert_eq!(reply.status(), 502, "{target}");
        assert!(registry.count("GET", &path) <= 11, "{target}");
        registry.heal(rule);
    }
    assert!(storage.requests().is_empty());
}

fn gateway_of(registry: &Origin) -> Gateway {
    Gateway::mirror("docker.io", &registry.url(), "")
}

/// A registry on https cannot redirect to plain http.
#[test]
fn redirects_from_https_to_http_are_refused() {
    let registry = Origin::start_tls();
    let storage = Origin::start();
    let image = registry.push_image("library/app", "latest", &[random(1, 1000)]);
    storage.push_image("library/app", "latest", &[random(1, 1000)]);
    registry
        .fault(Fault::Redirect(307, format!("{}{{path}}", storage.url())).on("GET", "*/blobs/*"));
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", ca: {}}}]\n",
        registry.url(),
        registry.ca_path().display()
    ));
    assert!(get(gateway.url(1), None, &image.tag_path()).body == image.manifest);
    assert_eq!(
        get(gateway.url(1), None, &image.layer_path(0)).status(),
        502
    );
    assert!(storage.requests().is_empty());
}

/// The range of a side request survives the redirect.
#[test]
fn redirects_keep_ranges() {
    let (registry, storage, image) = scene();
    registry
        .fault(Fault::Redirect(307, format!("{}{{path}}", storage.url())).on("GET", "*/blobs/*"));
    let gateway = Gateway::mirror("docker.io", &registry.url(), "store: {max_size: 64KiB}\n");
    let mut raw = Raw::connect(gateway.url(1), None);
    let part = raw.exchange("GET", &image.layer_path(0), &[("Range", "bytes=1000-1999")]);
    assert_eq!((part.status(), part.end.clone()), (206, End::Complete));
    assert!(part.body == image.layer(0).1[1000..2000]);
    let ranged = storage
        .requests()
        .iter()
        .any(|request| request.header("range") == Some("bytes=1000-1999"));
    assert!(ranged, "the range went along");
}

/// A configured proxy is used, and `NO_PROXY` exempts hosts from it.
#[test]
fn proxies_are_honoured() {
    let (registry, proxy, image) = scene();
    let environment = [("HTTP_PROXY", proxy.url()), ("http_proxy", proxy.url())];
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, url)| (*name, url.as_str()))
        .collect();
    let yaml = format!(
        "registries: [{{name: docker.io, v2: \"{}\"}}]\n",
        registry.url()
    );
    let through = Gateway::start_with(&yaml, &environment);
    get(through.url(1), None, &image.tag_path());
    assert!(
        registry.requests().is_empty(),
        "everything goes to the proxy"
    );
    assert!(!proxy.requests().is_empty());
    let without = [
        &environment[..],
        &[("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")],
    ]
    .concat();
    let past = Gateway::start_with(&yaml, &without);
    assert_eq!(get(past.url(1), None, &image.tag_path()).status(), 200);
}
