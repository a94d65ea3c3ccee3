//! Pushes are authorised, by the gateway and the upstream, before their bodies are read.

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::image::random;
use testkit::origin::{Auth, Bearer, Fault, Origin};

use super::{ANYTHING, Pusher};

#[test]
fn push_is_authorised_before_the_body() {
    let origin = Origin::start();
    let rules = "access: {rules: [{users: [anonymous], repositories: [\"hosted/open/**\"], actions: [pull, push]}]}\n";
    let gateway = Gateway::start(&format!(
        "registries: [docker.io, {{name: hosted, v2: \"{}\", push: true, default: true}}]\n{rules}\
         listen: [{{address: \"127.0.0.1:0\"}}, {{address: \"127.0.0.1:0\", tls: off}}, {{address: \"127.0.0.1:0\", tls: off, read_only: true}}]\n",
        origin.url()
    ));
    let put = |listener: usize, path: &str| -> Reply {
        let mut raw = Raw::connect(gateway.url(listener), None);
        raw.request(
            "PUT",
            path,
            &[("Expect", "100-continue"), ("Content-Length", "1000000")],
        );
        // Nothing of the body is sent: the response must not wait for it.
        raw.reply("PUT")
    };
    for (listener, path, status, code) in [
        (1, "/v2/closed/app/manifests/latest", 403, "DENIED"),
        (
            1,
            "/v2/closed/app/blobs/uploads/u?digest=sha256:a",
            400,
            "DIGEST_INVALID",
        ),
        (
            1,
            "/v2/docker.io/library/app/manifests/latest",
            405,
            "UNSUPPORTED",
        ),
        (2, "/v2/open/app/manifests/latest", 405, "UNSUPPORTED"),
    ] {
        let refused = put(listener, path);
        assert_eq!(
            (refused.status(), refused.error_code().as_deref()),
            (status, Some(code)),
            "{path}"
        );
    }
    // The right to push does not include deletes.
    let mut raw = Raw::connect(gateway.url(1), None);
    let deleted = raw.exchange("DELETE", "/v2/open/app/manifests/latest", &[]);
    assert_eq!(deleted.status(), 403);
    assert_eq!(origin.count("*", "*"), 0, "no registry was asked");
    // With the right, the client gets 100 Continue.
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request(
        "PUT",
        "/v2/open/app/manifests/latest",
        &[("Expect", "100-continue"), ("Content-Length", "2")],
    );
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(raw.read_exactly(go_on.len() as u64), go_on.as_bytes());
    raw.send("{}");
    assert_eq!(
        raw.reply("PUT").status(),
        405,
        "what this upstream says to any PUT"
    );
    // A form could name parameters that the query does not.
    let form = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Length", "0"),
    ];
    let mut raw = Raw::connect(gateway.url(1), None);
    assert_eq!(
        raw.exchange("POST", "/v2/open/app/blobs/uploads/", &form)
            .status(),
        415
    );
}

#[test]
fn push_token_is_fetched_before_the_body() {
    let origin = Origin::start();
    origin.require(Auth::Bearer(Bearer {
        account: Some(("me".into(), "s3cret".into())),
        ..Bearer::default()
    }));
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, credentials: {{username: me, password: s3cret}}}}]\n{ANYTHING}",
        origin.url()
    ));
    let patch = origin.fault(Fault::status(202).on("PATCH", "*"));
    let [(_, client), (_, h2)] = Pusher::all(&gateway);
    for client in [&client, &h2] {
        let patched = client.stream(
            "PATCH",
            "/v2/team/app/blobs/uploads/u",
            vec![random(1, 100_000)],
        );
        assert_eq!(patched.status, 202, "{patched:?}");
    }
    assert_eq!(origin.applied(patch), 2);
    let sent = origin.requests_for("PATCH", "*");
    assert!(sent.iter().all(|request| {
        request
            .header("authorization")
            .is_some_and(|it| it.starts_with("Bearer "))
    }));
    assert!(sent.iter().all(|request| request.body.len() == 100_000));
    let tokens = origin.requests_for("GET", "/token");
    assert_eq!(tokens.len(), 1);
    assert!(
        tokens[0]
            .query
            .contains("scope=repository%3Ateam%2Fapp%3Apull%2Cpush"),
        "{}",
        tokens[0].query
    );
    // The client's own login is not forwarded.
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.exchange(
        "PATCH",
        "/v2/team/app/blobs/uploads/u",
        &[
            ("Authorization", "Basic bWU6b3RoZXI="),
            ("Cookie", "a=b"),
            ("Content-Length", "0"),
        ],
    );
    let last = origin.requests_for("PATCH", "*").pop().expect("a request");
    assert!(
        last.header("authorization")
            .is_some_and(|it| it.starts_with("Bearer "))
    );
    assert_eq!(last.header("cookie"), None);
}
