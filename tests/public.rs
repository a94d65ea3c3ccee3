//! `visibility: public` with an account of the gateway: only public repositories are served.

use testkit::gateway::Gateway;
use testkit::http::{Reply, get};
use testkit::image::random;
use testkit::origin::{Auth, Bearer, Fault, Image, Origin};

/// An upstream with a public and a private repository, and a gateway whose account may read both.
fn scene(more: &str) -> (Origin, Image, Image, Gateway) {
    let origin = Origin::start();
    let open = origin.push_image("team/open", "latest", &[random(1, 100_000)]);
    let closed = origin.push_image("team/closed", "latest", &[random(2, 100_000)]);
    origin.require(Auth::Bearer(Bearer {
        account: Some(("me".into(), "s3cret".into())),
        public: vec!["team/open"],
        ..Bearer::default()
    }));
    let gateway = Gateway::start(&yaml(&origin, more));
    (origin, open, closed, gateway)
}

fn yaml(origin: &Origin, more: &str) -> String {
    format!(
        "registries: [{{name: up, v2: \"{}\", visibility: public, credentials: {{username: me, password: s3cret}}}}]\n{more}",
        origin.url()
    )
}

fn denied(reply: &Reply) -> bool {
    (reply.status(), reply.error_code().as_deref()) == (403, Some("DENIED"))
}

#[test]
fn public_repositories_are_served_and_private_ones_denied() {
    let (origin, open, closed, gateway) = scene("");
    let url = gateway.url(1);
    for path in [open.tag_path(), open.digest_path(), open.layer_path(0)] {
        let reply = get(url, None, &path);
        assert_eq!(reply.status(), 200, "{path} {}", reply.text());
        assert_eq!(
            reply
                .header("cache-control")
                .is_some_and(|it| it.starts_with("public")),
            path != open.tag_path()
        );
    }
    let tags = "/v2/team/closed/tags/list".to_owned();
    for path in [
        closed.tag_path(),
        closed.digest_path(),
        closed.layer_path(0),
        tags,
    ] {
        let reply = get(url, None, &path);
        assert!(denied(&reply), "{path} {reply:?}");
        assert!(reply.text().contains("not public"), "{}", reply.text());
    }
    // Nothing of the private one was fetched, not even with the account.
    let fetched = origin.requests_for("GET", "/v2/team/closed/*");
    assert!(
        fetched.iter().all(|request| request.status == 401),
        "{fetched:?}"
    );
    // A layer that both have gives no access either.
    let shared = closed.layer(0).1.clone();
    let again = origin.push_image("team/open", "again", &[shared.to_vec()]);
    assert_eq!(get(url, None, &again.layer_path(0)).status(), 200);
    assert!(denied(&get(url, None, &closed.layer_path(0))));
}

#[test]
fn anonymous_check_is_cached_for_a_day() {
    let (mut origin, open, _, mut gateway) = scene("store: {tag_ttl: 0s}\n");
    let pull = |gateway: &Gateway| {
        for path in [open.tag_path(), open.digest_path(), open.layer_path(0)] {
            assert_eq!(get(gateway.url(1), None, &path).status(), 200, "{path}");
        }
    };
    pull(&gateway);
    let anonymous = || {
        let tokens = origin.requests_for("GET", "/token");
        tokens
            .iter()
            .filter(|token| token.header("authorization").is_none())
            .count()
    };
    assert_eq!(anonymous(), 1);
    // The record survives a restart and an outage.
    gateway.restart();
    pull(&gateway);
    assert_eq!(anonymous(), 1);
    origin.down();
    gateway.restart();
    pull(&gateway);
}

#[test]
fn repository_made_private_is_denied_after_a_day() {
    let (origin, open, _, mut gateway) = scene("");
    assert_eq!(get(gateway.url(1), None, &open.tag_path()).status(), 200);
    let record = gateway.store().join("repositories/up/team/open/_public");
    let age = |seconds: u64| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        let then = now.expect("a clock").as_secs() - seconds;
        std::fs::write(&record, format!("{{\"checked_at\":{then}}}")).expect("writable");
    };
    origin.change_bearer(|bearer| bearer.public.clear());
    origin.revoke_tokens();
    // Within the day it is remembered.
    age(23 * 3600);
    gateway.restart();
    assert_eq!(get(gateway.url(1), None, &open.tag_path()).status(), 200);
    // After it the upstream decides, if it can be reached.
    age(25 * 3600);
    gateway.restart();
    let down = origin.fault(Fault::status(503));
    assert_eq!(get(gateway.url(1), None, &open.tag_path()).status(), 200);
    origin.heal(down);
    testkit::until("the pause after the failure is over", || {
        denied(&get(gateway.url(1), None, &open.tag_path()))
    });
    assert!(!record.exists());
    assert!(denied(&get(gateway.url(1), None, &open.layer_path(0))));
}

/// A login or welcome page does not prove that a repository is public.
#[test]
fn login_page_does_not_make_a_repository_public() {
    for kind in ["text/html; charset=utf-8", "application/json", "text/plain"] {
        let (origin, open, closed, gateway) = scene("");
        let page = || {
            let headers = vec![("Content-Type".to_owned(), kind.to_owned())];
            Fault::Status(200, headers)
                .on("*", "/v2/team/closed/*")
                .times(1)
        };
        let paths = [
            closed.tag_path(),
            closed.digest_path(),
            closed.layer_path(0),
        ];
        for path in paths {
            origin.fault(page());
            let reply = get(gateway.url(1), None, &path);
            assert!(denied(&reply), "{kind} {path} {reply:?}");
        }
        origin.fault(page());
        let tags = get(gateway.url(1), None, "/v2/team/closed/tags/list");
        assert!(denied(&tags), "{kind} {tags:?}");
        let record = gateway.store().join("repositories/up/team/closed/_public");
        assert!(!record.exists());
        for path in [open.layer_path(0), open.tag_path()] {
            assert_eq!(get(gateway.url(1), None, &path).status(), 200, "{path}");
        }
    }
}

#[test]
fn rules_precede_public_checks() {
    let rules = "access: {rules: [{users: [anonymous], repositories: [\"up/team/closed\"], actions: [pull]}]}\n";
    let (origin, open, closed, gateway) = scene(rules);
    assert!(denied(&get(gateway.url(1), None, &open.tag_path())));
    assert_eq!(origin.count("*", "*"), 0, "denied before anybody was asked");
    assert!(denied(&get(gateway.url(1), None, &closed.tag_path())));
}
