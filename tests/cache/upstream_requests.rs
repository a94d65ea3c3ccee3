//! Requests to the upstream: denials, accounts, headers, statuses.

use testkit::gateway::Gateway;
use testkit::http::get;
use testkit::image::random;
use testkit::origin::Fault;

use super::{plain, scene};

#[test]
fn upstream_error_statuses_are_mapped() {
    for (status, answer, code) in [
        (401, 403, "DENIED"),
        (403, 403, "DENIED"),
        (404, 404, "MANIFEST_UNKNOWN"),
        (429, 429, "TOOMANYREQUESTS"),
        (500, 503, "UNAVAILABLE"),
        (503, 503, "UNAVAILABLE"),
        (418, 502, "UNKNOWN"),
    ] {
        let (origin, image, gateway) = scene("");
        origin.fault(Fault::status_with(status, "Retry-After", "7").on("*", "*"));
        let reply = get(gateway.url(1), None, &image.digest_path());
        assert_eq!(reply.status(), answer, "{status}");
        assert_eq!(reply.error_code().as_deref(), Some(code), "{status}");
        assert!(status != 429 || reply.header("retry-after") == Some("7"));
        let blob = get(gateway.url(1), None, &image.layer_path(0));
        assert_eq!(blob.status(), answer, "{status}");
    }
    let (mut origin, image, gateway) = scene("");
    origin.down();
    let reply = get(gateway.url(1), None, &image.tag_path());
    assert_eq!(
        (reply.status(), reply.error_code().as_deref()),
        (503, Some("UNAVAILABLE"))
    );
}

#[test]
fn denied_request_reaches_no_upstream() {
    let (origin, image, _) = scene("");
    let rules = "access: {rules: [{users: [anonymous], repositories: [\"docker.io/library/open\"], actions: [pull]}]}\n";
    let gateway = Gateway::mirror("docker.io", &origin.url(), rules);
    origin.push_image("library/open", "latest", &[random(3, 100)]);
    assert_eq!(
        get(gateway.url(1), None, "/v2/open/manifests/latest").status(),
        200
    );
    origin.clear_requests();
    for path in [
        image.tag_path(),
        image.layer_path(0),
        "/v2/none/manifests/latest".into(),
        "/v2/app/tags/list".into(),
    ] {
        let denied = get(gateway.url(1), None, &path);
        assert_eq!(
            (denied.status(), denied.error_code().as_deref()),
            (403, Some("DENIED")),
            "{path}"
        );
    }
    // The gateway's account can fetch, but without rules no client is served with it.
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", credentials: {{username: u, password: p}}}}]\n",
        origin.url()
    ));
    assert_eq!(get(gateway.url(1), None, &image.tag_path()).status(), 403);
    assert!(origin.requests().is_empty());
}

#[test]
fn upstream_basic_challenge_gets_the_account() {
    let (origin, image, _) = scene("");
    origin.require(testkit::origin::Auth::basic("me", "s3cret-word"));
    let yaml = |password: &str| {
        format!(
            "registries: [{{name: docker.io, v2: \"{}\", credentials: {{username: me, password: {password}}}}}]\n\
             access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull]}}]}}\n",
            origin.url()
        )
    };
    let gateway = Gateway::start(&yaml("s3cret-word"));
    assert!(get(gateway.url(1), None, &image.tag_path()).body == image.manifest);
    assert!(get(gateway.url(1), None, &image.layer_path(0)).body == image.layer(0).1);
    assert!(!gateway.log().contains("s3cret-word"));

    let gateway = Gateway::start(&yaml("wrong-word"));
    let denied = get(gateway.url(1), None, &image.tag_path());
    assert_eq!(
        (denied.status(), denied.error_code().as_deref()),
        (403, Some("DENIED"))
    );
    assert!(denied.text().contains("account"), "{}", denied.text());
    assert!(!gateway.log().contains("wrong-word") && !denied.text().contains("wrong-word"));

    let anonymous = Gateway::mirror("docker.io", &origin.url(), "");
    assert_eq!(get(anonymous.url(1), None, &image.tag_path()).status(), 403);
}

#[test]
fn client_headers_are_not_forwarded() {
    let (origin, image, gateway) = scene("");
    let headers = [
        ("Authorization", "Basic bWU6c2VjcmV0"),
        ("Cookie", "session=secret"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("User-Agent", "docker/20.10.24"),
        ("Accept-Encoding", "gzip"),
    ];
    let mut raw = plain(&gateway);
    raw.exchange("GET", &image.tag_path(), &headers);
    raw.exchange("GET", &image.layer_path(0), &headers);
    for request in origin.requests() {
        for name in ["authorization", "cookie", "x-forwarded-for"] {
            assert_eq!(request.header(name), None);
        }
        assert!(
            request
                .header("user-agent")
                .is_some_and(|agent| agent.starts_with("roadstead/"))
        );
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
    assert!(!gateway.log().contains("bWU6c2VjcmV0") && !gateway.log().contains("session=secret"));
}
