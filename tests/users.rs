//! Users and their rights: actions, challenges, tokens, and the secrecy of what a caller may not see.

mod passwords;
mod tokens;

use serde_json::Value;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::{basic, until};

/// `reader` and `pusher`, both with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n\
                     pusher:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

const RULES: &str = "  rules:
  - {users: [pusher], repositories: [\"hosted/team/**\"], actions: [pull, push, delete]}
  - {users: [\"*\"], repositories: [\"hosted/team/**\"], actions: [pull]}
  - {users: [anonymous], repositories: [\"hosted/open/**\"], actions: [pull]}
";

struct Scene {
    origin: Origin,
    team: Image,
    open: Image,
    gateway: Gateway,
    users: tempfile::TempDir,
}

fn scene(more: &str) -> Scene {
    let origin = Origin::start();
    let team = origin.push_image("team/app", "latest", &[random(1, 50_000)]);
    let open = origin.push_image("open/app", "latest", &[random(2, 50_000)]);
    origin.fault(Fault::status(202).on("DELETE", "*"));
    origin.fault(Fault::status(201).on("PUT", "*"));
    let users = tempfile::tempdir().expect("a folder");
    let path = users.path().join("users");
    std::fs::write(&path, USERS).expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, tag_ttl: 1h}}]\n\
         access:\n  htpasswd: {}\n{RULES}{more}\
         listen: [{{address: \"127.0.0.1:0\"}}, {{address: \"127.0.0.1:0\", tls: off}}, {{address: \"127.0.0.1:0\", tls: off, read_only: true}}]\n",
        origin.url(),
        path.display()
    ));
    Scene {
        origin,
        team,
        open,
        gateway,
        users,
    }
}

impl Scene {
    fn ask(&self, method: &str, path: &str, login: Option<&str>) -> Reply {
        self.ask_at(1, method, path, login)
    }

    fn ask_at(&self, listener: usize, method: &str, path: &str, login: Option<&str>) -> Reply {
        let mut headers = vec![("Host", "gate.example.com")];
        headers.extend(login.map(|login| ("Authorization", login)));
        if method == "PUT" {
            headers.extend([("Content-Length", "0"), ("Content-Type", "a/b")]);
        }
        Raw::connect(self.gateway.url(listener), None).exchange(method, path, &headers)
    }

    /// A token for a scope, and the scope that it was granted.
    fn token(&self, scope: &str, login: Option<&str>) -> (String, String) {
        let path = format!("/token?service=gate.example.com&scope={scope}");
        let reply = self.ask("GET", &path, login);
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let answer: Value = serde_json::from_str(&reply.text()).expect("JSON");
        assert_eq!(answer["token"], answer["access_token"]);
        assert!(
            answer["expires_in"]
                .as_u64()
                .is_some_and(|life| (60..=300).contains(&life))
        );
        assert!(answer["issued_at"].is_string() && answer.get("refresh_token").is_none());
        let text = |key: &str| answer[key].as_str().expect("text").to_owned();
        (format!("Bearer {}", text("token")), text("scope"))
    }
}

fn outcome(reply: &Reply) -> (u16, Option<String>) {
    (reply.status(), reply.error_code())
}

/// All callers and their rights: the same with passwords and with tokens.
#[test]
fn rules_grant_exactly_their_actions() {
    let scene = scene("");
    let (reader, pusher) = (basic("reader", "s3cret"), basic("pusher", "s3cret"));
    let (team, open) = (scene.team.tag_path(), scene.open.tag_path());
    let ok = |status| (status, None::<&str>);
    let login = (401, Some("UNAUTHORIZED"));
    let denied = (403, Some("DENIED"));
    for (who, pull, push, delete, pull_open, push_open) in [
        (None, login, login, login, ok(200), login),
        (Some(&reader), ok(200), denied, denied, ok(200), denied),
        (Some(&pusher), ok(200), ok(201), ok(202), ok(200), denied),
    ] {
        for (method, path, expected) in [
            ("GET", &team, pull),
            ("HEAD", &team, pull),
            ("PUT", &team, push),
            ("DELETE", &team, delete),
            ("GET", &open, pull_open),
            ("PUT", &open, push_open),
        ] {
            let reply = scene.ask(method, path, who.map(String::as_str));
            let (status, code) = outcome(&reply);
            let code = code.filter(|_| status >= 400);
            let told = if method == "HEAD" {
                (status, None)
            } else {
                (status, code.as_deref())
            };
            let expected = if method == "HEAD" {
                (expected.0, None)
            } else {
                expected
            };
            assert_eq!(told, expected, "{who:?} {method} {path}");
            // A token grants no more than its owner's rights, whatever scope was requested.
            let name = path
                .split("/manifests/")
                .next()
                .expect("a name")
                .trim_start_matches("/v2/");
            let (token, _) = scene.token(
                &format!("repository:{name}:pull,push,delete"),
                who.map(String::as_str),
            );
            let (status, _) = outcome(&scene.ask(method, path, Some(&token)));
            assert_eq!(status, expected.0, "{who:?} by token: {method} {path}");
        }
    }
    for wrong in [
        basic("reader", "wrong"),
        basic("nobody", "s3cret"),
        "Digest x".to_owned(),
    ] {
        for path in [&team, &open, &"/v2/".to_owned(), &"/token".to_owned()] {
            let reply = scene.ask("GET", path, Some(&wrong));
            assert_eq!(
                outcome(&reply),
                (401, Some("UNAUTHORIZED".into())),
                "{wrong} {path}"
            );
        }
    }
}

#[test]
fn read_only_listener_is_anonymous_without_challenge() {
    let scene = scene("");
    for login in [
        None,
        Some(basic("pusher", "s3cret")),
        Some(basic("pusher", "wrong")),
        Some("x".into()),
    ] {
        let login = login.as_deref();
        let ask = |method: &str, path: &str| scene.ask_at(2, method, path, login);
        assert_eq!(ask("GET", "/v2/").status(), 200);
        assert_eq!(ask("GET", &scene.open.tag_path()).status(), 200);
        let closed = ask("GET", &scene.team.tag_path());
        assert_eq!(
            (closed.status(), closed.header("www-authenticate")),
            (403, None)
        );
        assert_eq!(ask("PUT", &scene.team.tag_path()).status(), 405);
        assert_eq!(ask("GET", "/token").status(), 404);
    }
}

/// No response discloses whether something exists that the caller may not see.
#[test]
fn denied_and_absent_are_indistinguishable() {
    let scene = scene("");
    let reader = basic("reader", "s3cret");
    // Cached for a caller who may read it.
    for path in [
        scene.team.tag_path(),
        scene.team.digest_path(),
        scene.team.layer_path(0),
    ] {
        assert_eq!(scene.ask("GET", &path, Some(&reader)).status(), 200);
    }
    let count = scene.origin.count("*", "*");
    let none = format!("sha256:{}", "0".repeat(64));
    for login in [None, Some("Bearer x")] {
        for method in ["GET", "HEAD"] {
            let there = [
                scene.team.tag_path(),
                scene.team.digest_path(),
                scene.team.layer_path(0),
                "/v2/team/app/tags/list".into(),
            ];
            let not = [
                "/v2/team/app/manifests/none".to_owned(),
                format!("/v2/team/app/manifests/{none}"),
                format!("/v2/team/app/blobs/{none}"),
                "/v2/team/none/tags/list".into(),
            ];
            for (there, not) in there.iter().zip(&not) {
                let (there, not) = (
                    scene.ask(method, there, login),
                    scene.ask(method, not, login),
                );
                assert_eq!(there.status(), 401);
                assert_eq!(there.text(), not.text());
                let bare = |reply: &Reply| {
                    let mut headers = reply.head.headers.clone();
                    headers.retain(|(name, _)| {
                        !["date", "www-authenticate", "x-request-id"]
                            .contains(&name.to_ascii_lowercase().as_str())
                    });
                    headers
                };
                assert_eq!(bare(&there), bare(&not));
            }
        }
    }
    assert_eq!(scene.origin.count("*", "*"), count, "no registry was asked");
    // A layer's digest gives no access through a readable repository.
    let layer = scene.team.layer(0).0.clone();
    let through = scene.ask("GET", &format!("/v2/open/app/blobs/{layer}"), None);
    assert_eq!(outcome(&through), (404, Some("BLOB_UNKNOWN".into())));
}

#[test]
fn mount_requires_pull_on_its_source() {
    let scene = scene("");
    scene
        .origin
        .fault(Fault::status_with(202, "Location", "/v2/team/app/blobs/uploads/u").on("POST", "*"));
    let digest = scene.open.layer(0).0.clone();
    let pusher = basic("pusher", "s3cret");
    for (from, goes_along) in [("team/other", true), ("closed/app", false)] {
        let path = format!("/v2/team/app/blobs/uploads/?mount={digest}&from={from}");
        let mut raw = Raw::connect(scene.gateway.url(1), None);
        let begun = raw.exchange(
            "POST",
            &path,
            &[("Authorization", &pusher), ("Content-Length", "0")],
        );
        assert_eq!(begun.status(), 202);
        let sent = scene
            .origin
            .requests_for("POST", "*")
            .pop()
            .expect("a request");
        assert_eq!(
            sent.query.contains("mount="),
            goes_along,
            "{from}: {}",
            sent.query
        );
        assert_eq!(
            sent.header("authorization"),
            None,
            "the user's login stays here"
        );
    }
}

#[test]
fn access_log_names_users() {
    let scene = scene("");
    scene.ask(
        "GET",
        &scene.team.tag_path(),
        Some(&basic("reader", "s3cret")),
    );
    until("the request is logged", || {
        scene.gateway.log().contains("user=\"reader\"")
    });
}
