//! Rights by token: the scope of a token, and images that belong to one repository.

use crate::v1::{Daemon, OLD, PUSHER, READER, gateway, gateway_with};
use testkit::basic;
use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::image::random;
use testkit::v1::{Script, V1Registry};

fn ask(gateway: &Gateway, method: &str, path: &str, authorization: &str) -> Reply {
    let headers = [("Authorization", authorization), ("X-Docker-Token", "true")];
    let headers = &headers[usize::from(authorization.is_empty())..];
    Raw::connect(gateway.url(1), None).exchange(method, path, headers)
}

/// The token that a repository's image list comes with.
#[track_caller]
fn token(gateway: &Gateway, user: &str, name: &str) -> String {
    let authorization = match user {
        "" => String::new(),
        user => basic(user, "password"),
    };
    let list = ask(
        gateway,
        "GET",
        &format!("/v1/repositories/{name}/images"),
        &authorization,
    );
    assert_eq!(list.status(), 200, "{list:?}");
    list.header("x-docker-token").expect("a token").to_owned()
}

fn image(id: &str, part: &str) -> String {
    format!("/v1/images/{id}/{part}")
}

/// Every request for another repository's image gets the same answer, whether the image exists or not.
#[test]
fn image_is_served_only_with_its_repositorys_token() {
    let registry = V1Registry::start();
    let mine = registry.push_image("team/app", "1", &[b"root of mine", b"top of mine"]);
    let theirs = registry.push_image("secret/app", "1", &[b"root", b"top"]);
    let open = registry.push_image("open/app", "1", &[b"public"]);
    let mut gateway = gateway(&registry);
    // A permitted user has pulled them before.
    for name in ["secret/app", "team/app", "open/app"] {
        Daemon::new(OLD[3], &gateway, PUSHER)
            .pull(name, "1")
            .expect("pulled");
    }
    for restarted in [false, true] {
        if restarted {
            gateway.restart();
        }
        let reader = format!("Token {}", token(&gateway, "reader", "team/app"));
        let anybody = format!("Token {}", token(&gateway, "", "open/app"));
        let absent = "f".repeat(64);
        for part in ["json", "layer", "ancestry"] {
            for method in ["GET", "HEAD"] {
                let status =
                    |id: &str, with: &str| ask(&gateway, method, &image(id, part), with).status();
                for id in &mine {
                    assert_eq!(status(id, &reader), 200, "{method} {part}");
                    assert_eq!(status(id, &anybody), 404, "{method} {part}");
                }
                assert_eq!(status(&open[0], &anybody), 200);
                for id in [&theirs[0], &theirs[1], &open[0], &absent] {
                    assert_eq!(status(id, &reader), 404, "{method} {part} {id}");
                }
                // Without a token the repository is unknown.
                for with in ["", "Basic Og==", "Token ", &basic("pusher", "password")] {
                    assert_eq!(status(&mine[0], with), 401, "{method} {part} {with}");
                }
            }
            let there = ask(&gateway, "GET", &image(&theirs[0], part), &reader);
            let nowhere = ask(&gateway, "GET", &image(&absent, part), &reader);
            assert_eq!(there.body, nowhere.body);
        }
        let ranged = Raw::connect(gateway.url(1), None).exchange(
            "GET",
            &image(&theirs[0], "layer"),
            &[("Authorization", &reader), ("Range", "bytes=0-1")],
        );
        assert_eq!(ranged.status(), 404);
    }
    assert!(gateway.store().join("v1/hosted/secret/app").is_dir());
}

/// The list may be empty, as the last request of a push leaves it in some registries.
#[test]
fn tags_and_ancestors_require_the_repository() {
    let registry = V1Registry::start();
    let ids = registry.push_image("team/app", "1", &[b"root", b"middle", b"top"]);
    registry.empty_list("team/app");
    let gateway = gateway(&registry);
    let with = format!("Token {}", token(&gateway, "reader", "team/app"));
    let status = |id: &str| ask(&gateway, "GET", &image(id, "json"), &with).status();
    assert_eq!(status(&ids[2]), 404);
    let tag = ask(&gateway, "GET", "/v1/repositories/team/app/tags/1", &with);
    assert_eq!(tag.status(), 200, "{tag:?}");
    assert_eq!(
        [&ids[2], &ids[1], &ids[0]].map(|id| status(id)),
        [200, 404, 404]
    );
    let ancestry = ask(&gateway, "GET", &image(&ids[2], "ancestry"), &with);
    assert_eq!(ancestry.status(), 200);
    assert_eq!([&ids[2], &ids[1], &ids[0]].map(|id| status(id)), [200; 3]);
}

/// A read token does not write, a write token reads, and neither is valid for another repository.
#[test]
fn token_covers_one_repository_and_action() {
    let registry = V1Registry::start();
    let ids = registry.push_image("team/app", "1", &[b"layer"]);
    registry.push_image("open/app", "1", &[b"other"]);
    let gateway = gateway(&registry);
    let read = token(&gateway, "pusher", "team/app");
    let begun = ask(
        &gateway,
        "PUT",
        "/v1/repositories/team/app/",
        &basic("pusher", "password"),
    );
    assert_eq!(begun.status(), 200, "{begun:?}");
    let write = begun.header("x-docker-token").expect("a token").to_owned();
    assert!(read.contains("access=read") && write.contains("access=write"));
    assert!(write.contains("repository=\"team/app\""), "{write}");

    for (prefix, good) in [
        ("", true),
        ("Token ", true),
        ("Token Token ", true),
        ("Bearer ", false),
    ] {
        for token in [&read, &write] {
            let with = format!("{prefix}{token}");
            let expected = if good { 200 } else { 401 };
            for method in ["GET", "HEAD"] {
                let reply = ask(&gateway, method, &image(&ids[0], "layer"), &with);
                assert_eq!(reply.status(), expected, "{prefix} {method}");
            }
            let tags = ask(&gateway, "GET", "/v1/repositories/team/app/tags", &with);
            assert_eq!(tags.status(), expected, "{prefix}");
        }
    }
    let (read, write) = (format!("Token {read}"), format!("Token {write}"));
    let new = "a".repeat(64);
    for (method, path, with, expected) in [
        ("PUT", image(&new, "json"), &read, 401),
        ("PUT", image(&new, "json"), &write, 200),
        // only content that it has put itself
        ("PUT", image(&"b".repeat(64), "layer"), &write, 404),
        ("PUT", image(&"b".repeat(64), "checksum"), &write, 404),
        ("PUT", "/v1/repositories/team/app/tags/2".into(), &read, 401),
        (
            "PUT",
            "/v1/repositories/open/app/tags/2".into(),
            &write,
            401,
        ),
        ("GET", "/v1/repositories/open/app/tags".into(), &read, 401),
        (
            "GET",
            "/v1/repositories/library/team/app/tags".into(),
            &read,
            403,
        ),
        ("DELETE", "/v1/repositories/team/app/".into(), &write, 401),
    ] {
        let reply = ask(&gateway, method, &path, with);
        if expected == 403 {
            assert!(
                matches!(reply.status(), 401 | 403),
                "{method} {path}: {reply:?}"
            );
        } else {
            assert_eq!(reply.status(), expected, "{method} {path}: {reply:?}");
        }
    }
    // A token yields no other token, and foreign tokens are ignored.
    let again = ask(&gateway, "GET", "/v1/repositories/team/app/images", &read);
    assert_eq!(
        (again.status(), again.header("x-docker-token")),
        (200, None)
    );
    let forged = read.replace("signature=", "signature=A");
    assert_eq!(
        ask(&gateway, "GET", &image(&ids[0], "json"), &forged).status(),
        401
    );
    assert_eq!(
        registry
            .requests()
            .iter()
            .filter(|seen| seen.header("authorization").is_some())
            .count(),
        0
    );
}

/// Anonymous pulls get a token as well, which old Docker needs for its next requests.
#[test]
fn anonymous_client_gets_a_token_for_public_repositories() {
    let registry = V1Registry::start();
    let ids = registry.push_image("open/app", "1", &[b"layer"]);
    let gateway = gateway(&registry);
    let ping = ask(&gateway, "GET", "/v1/_ping", "");
    assert_eq!(ping.header("x-docker-registry-standalone"), Some("false"));
    for authorization in ["", "Basic Og==", "Token"] {
        let list = ask(
            &gateway,
            "GET",
            "/v1/repositories/open/app/images",
            authorization,
        );
        let token = list.header("x-docker-token").expect("a token");
        let with = format!("Token {token}");
        assert_eq!(
            ask(&gateway, "GET", &image(&ids[0], "layer"), &with).body,
            b"layer"
        );
        // It is anonymous, whatever repository it names.
        let put = ask(&gateway, "PUT", "/v1/repositories/open/app/tags/2", &with);
        assert_eq!(put.status(), 401, "{put:?}");
    }
}

#[test]
fn read_only_listener_is_anonymous() {
    let registry = V1Registry::start();
    let ids = registry.push_image("open/app", "1", &[b"layer"]);
    registry.push_image("team/app", "1", &[b"other"]);
    let gateway = gateway_with_listener(&registry);
    let anonymous = |method: &str, path: &str, with: &str| ask(&gateway, method, path, with);
    let reader = basic("reader", "password");
    let list = anonymous("GET", "/v1/repositories/open/app/images", &reader);
    let token = format!("Token {}", list.header("x-docker-token").expect("a token"));
    assert_eq!(
        anonymous("GET", &image(&ids[0], "layer"), &token).status(),
        200
    );
    for (method, path, expected) in [
        ("GET", "/v1/repositories/team/app/images", 403),
        ("PUT", "/v1/repositories/open/app/", 405),
        ("POST", "/v1/users/", 405),
    ] {
        let reply = anonymous(method, path, &reader);
        assert_eq!(reply.status(), expected, "{method} {path}");
        assert_eq!(reply.header("www-authenticate"), None);
    }
}

/// On a read-only listener a permitted user's token grants no more than none.
#[test]
fn user_token_is_ignored_on_a_read_only_listener() {
    let registry = V1Registry::start();
    let open = registry.push_image("open/app", "1", &[b"layer"]);
    let secret = registry.push_image("secret/app", "1", &[b"other"]);
    let mut gateway = gateway(&registry);
    let mine = token(&gateway, "pusher", "secret/app");
    let token = format!("Token {mine}");
    assert_eq!(
        ask(&gateway, "GET", &image(&secret[0], "layer"), &token).body,
        b"other"
    );
    let password = basic("pusher", "password");
    let v2 = Raw::connect(gateway.url(1), None).exchange(
        "GET",
        "/token?scope=repository:secret/app:pull",
        &[("Authorization", &password)],
    );
    let v2: serde_json::Value = serde_json::from_str(&v2.text()).expect("JSON");
    let bearer = format!("Bearer {}", v2["token"].as_str().expect("a token"));
    let path = gateway.dir().join("roadstead.yaml");
    let yaml = std::fs::read_to_string(path).expect("its configuration");
    gateway.restart_with(&yaml.replace("tls: off}", "tls: off, read_only: true}"));
    for with in [&token, &bearer, &password, &format!("Basic {mine}")] {
        for path in [
            "/v1/repositories/secret/app/images".to_owned(),
            "/v1/repositories/secret/app/tags".to_owned(),
            "/v1/repositories/secret/app/tags/1".to_owned(),
            "/v2/secret/app/manifests/1".to_owned(),
            "/v2/secret/app/tags/list".to_owned(),
        ] {
            let plain = Raw::connect(gateway.url(1), None);
            let reply = { plain }.exchange("GET", &path, &[("Authorization", with)]);
            assert_eq!(reply.status(), 403, "{path} {with}");
            assert_eq!(reply.header("x-docker-token"), None, "{path}");
            let cookie = [
                ("Cookie", with.as_str()),
                ("X-Docker-Token", mine.as_str()),
                ("Proxy-Authorization", with.as_str()),
            ];
            let reply = Raw::connect(gateway.url(1), None).exchange("GET", &path, &cookie);
            assert_eq!(reply.status(), 403, "{path} {with} elsewhere");
        }
        for part in ["json", "layer", "ancestry"] {
            let reply = ask(&gateway, "GET", &image(&secret[0], part), with);
            assert!(
                matches!(reply.status(), 401 | 403),
                "{part} {with}: {reply:?}"
            );
            let reply = ask(&gateway, "HEAD", &image(&secret[0], part), with);
            assert!(
                matches!(reply.status(), 401 | 403),
                "{part} {with}: {reply:?}"
            );
        }
        // Public access works with any header, including a token for another repository.
        let list = ask(&gateway, "GET", "/v1/repositories/open/app/images", with);
        assert_eq!(list.status(), 200, "{with}");
        let anybody = list.header("x-docker-token").expect("a token");
        let reply = ask(
            &gateway,
            "GET",
            &image(&open[0], "layer"),
            &format!("Token {anybody}"),
        );
        assert_eq!(reply.body, b"layer");
        let found = ask(&gateway, "GET", "/v1/search?q=app", with);
        assert!(!found.text().contains("secret"), "{}", found.text());
        let users = ask(&gateway, "GET", "/v1/users/", with);
        assert_eq!(users.status(), 200);
    }
}

fn gateway_with_listener(registry: &V1Registry) -> Gateway {
    let mut gateway = gateway(registry);
    let path = gateway.dir().join("roadstead.yaml");
    let yaml = std::fs::read_to_string(path).expect("its configuration");
    let yaml = yaml.replace("tls: off}", "tls: off, read_only: true}");
    gateway.restart_with(&yaml);
    gateway
}

/// If index and registry are two servers, only the gateway uses the index's token.
#[test]
fn index_token_is_never_forwarded_to_clients() {
    const THEIRS: &str = "signature=INDEX123,repository=\"team/app\",access=any";
    let layer = random(6, 2000);
    let index = V1Registry::with(Script {
        index: Some(THEIRS.into()),
        ..Script::default()
    });
    let registry = V1Registry::with(Script {
        tokens: Some(THEIRS.into()),
        ..Script::default()
    });
    let ids = registry.push_image("team/app", "1", &[&layer]);
    index.push_image("team/app", "1", &[&layer]);
    let mut gateway = gateway_with(&registry, &format!(", v1_index: \"{}\"", index.url()));
    for version in OLD {
        let pulled = Daemon::new(version, &gateway, READER).pull("team/app", "1");
        assert!(pulled == Ok(vec![layer.clone()]), "{:?}", pulled.err());
    }
    let ours = token(&gateway, "reader", "team/app");
    assert!(!ours.contains("INDEX123"), "{ours}");
    // A client that continues after a restart sends the gateway's token; the gateway fetches a new one from the index.
    let with = format!("Token {ours}");
    gateway.restart();
    assert_eq!(
        ask(&gateway, "GET", &image(&ids[0], "layer"), &with).body,
        layer
    );
    // A refused token is fetched anew, once.
    registry.script(|script| script.tokens = Some("signature=NEW".into()));
    index.script(|script| script.index = Some("signature=NEW".into()));
    assert_eq!(
        ask(&gateway, "GET", &image(&ids[0], "layer"), &with).body,
        layer
    );

    let pushed = Daemon::new(OLD[4], &gateway, PUSHER).push("team/new", "1", &[&layer]);
    let pushed = pushed.expect("pushed");
    assert!(registry.layer(&pushed[0]) == Some(layer));
    let lines = |registry: &V1Registry, word: &str| {
        registry
            .requests()
            .iter()
            .filter(|seen| seen.line.contains(word))
            .count()
    };
    assert!(lines(&index, "PUT /v1/repositories/team/new/ ") == 1);
    assert!(lines(&index, "PUT /v1/repositories/team/new/images ") == 1);
    assert_eq!(
        (lines(&index, "/v1/images/"), lines(&index, "/tags")),
        (0, 0)
    );
    assert_eq!(lines(&registry, "/images "), 0);
}
