//! How a pull is routed, and who may.

use super::*;

/// Registries that are chosen in every way, behind an upstream that nothing is asked of.
fn gateway(folder: &Path) -> (Origin, Gateway) {
    let origin = Origin::start();
    let (url, users) = (origin.url(), accounts(folder));
    let gateway = Gateway::start(&format!(
        "registries:\n\
         - {{name: docker.io, v2: \"{url}\", default: true}}\n\
         - {{name: ghcr.io, v2: \"{url}\"}}\n\
         - {{name: hosted, v2: \"{url}\", hosts: [registry.test], owns: [\"team/**\"], visibility: rules}}\n\
         listen:\n\
         - {{address: \"127.0.0.1:0\", tls: off}}\n\
         - {{address: \"localhost:0\", tls: off, read_only: true, registry: ghcr.io}}\n\
         access:\n  htpasswd: {}\n  rules:\n\
         \x20 - {{users: [alice], repositories: [\"hosted/**\"], actions: [pull, push]}}\n\
         \x20 - {{users: [\"*\"], repositories: [\"docker.io/**\"], actions: [pull]}}\n\
         \x20 - {{users: [anonymous], repositories: [\"ghcr.io/open/*\"], actions: [pull]}}\n\
         {ANYWHERE}",
        users.display()
    ));
    (origin, gateway)
}

#[test]
fn registry_is_named_with_what_selects_it() {
    let folder = testkit::temp_dir();
    let (origin, gateway) = gateway(folder.path());
    let own = gateway.authority(0).to_owned();
    for (question, registry, repository, by, words) in [
        (
            json!({"image": "alpine:3.20"}),
            "docker.io",
            "library/alpine",
            "default",
            "default registry",
        ),
        (
            json!({"image": "ghcr.io/open/app"}),
            "ghcr.io",
            "open/app",
            "prefix",
            "begins with",
        ),
        (
            json!({"image": "index.docker.io/a/b"}),
            "docker.io",
            "a/b",
            "prefix",
            "begins with",
        ),
        (
            json!({"image": "team/app:1"}),
            "hosted",
            "team/app",
            "owns",
            "`owns`",
        ),
        (
            json!({"image": "registry.test/some/app"}),
            "hosted",
            "some/app",
            "host",
            "registry.test",
        ),
        (
            json!({"image": "some/app", "host": "registry.test:443"}),
            "hosted",
            "some/app",
            "host",
            "registry.test:443",
        ),
        (
            json!({"image": format!("{own}/ghcr.io/open/app")}),
            "ghcr.io",
            "open/app",
            "prefix",
            "begins with",
        ),
        (
            json!({"image": "alpine", "ns": "docker.io"}),
            "docker.io",
            "library/alpine",
            "ns",
            "?ns=docker.io",
        ),
        (
            json!({"image": "ghcr.io/open/app", "listener": gateway.url(1)}),
            "ghcr.io",
            "open/app",
            "listener",
            "localhost:0",
        ),
    ] {
        let told = explain(&gateway, &question);
        assert_parts(
            &told,
            &[
                ("/route/registry", registry.into()),
                ("/route/repository", repository.into()),
                ("/route/by", by.into()),
            ],
        );
        assert_says(&told, "/route/because", words);
    }
    // A name that nothing claims, and a registry that is not configured, are explained too.
    for (question, words) in [
        (
            json!({"image": "quay.io/a/b", "ns": "quay.io"}),
            "does not serve this namespace",
        ),
        (
            json!({"image": "a/b", "ns": "docker.io", "listener": gateway.url(1)}),
            "does not serve this namespace",
        ),
    ] {
        let told = explain(&gateway, &question);
        assert_parts(
            &told,
            &[
                ("/route", Value::Null),
                ("/access", Value::Null),
                ("/answer/status", 404.into()),
            ],
        );
        assert_says(&told, "/answer/because", words);
    }
    assert_eq!(origin.count("*", "*"), 0);
}

#[test]
fn access_is_explained_by_its_rule() {
    let folder = testkit::temp_dir();
    let (origin, gateway) = gateway(folder.path());
    let hosted = r#"{users: [alice], repositories: ["hosted/**"], actions: [pull, push]}"#;
    for (image, user, decision, status, rule, words) in [
        (
            "hosted/a",
            Some("alice"),
            "allowed",
            200,
            Some((hosted, 11)),
            "rule 1, in line 11, allows alice",
        ),
        (
            "hosted/a",
            Some("bob"),
            "denied",
            403,
            None,
            "no rule allows bob to pull hosted/a",
        ),
        ("hosted/a", None, "challenged", 401, None, "asked to log in"),
        (
            "hosted/a",
            Some("eve"),
            "challenged",
            401,
            None,
            "no user eve",
        ),
        (
            "alpine",
            Some("bob"),
            "allowed",
            200,
            None,
            "rule 2, in line 12",
        ),
        (
            "ghcr.io/open/a",
            None,
            "allowed",
            200,
            None,
            "rule 3, in line 13",
        ),
        (
            "ghcr.io/open/a",
            Some("bob"),
            "allowed",
            200,
            None,
            "rule 3, in line 13",
        ),
    ] {
        let told = explain(&gateway, &json!({"image": image, "as": user}));
        assert_parts(
            &told,
            &[
                ("/access/decision", decision.into()),
                ("/access/status", status.into()),
            ],
        );
        assert_says(&told, "/access/because", words);
        if let Some((rule, line)) = rule {
            assert_parts(
                &told,
                &[
                    ("/access/rule", rule.into()),
                    ("/access/rule_line", line.into()),
                ],
            );
        }
        assert_parts(&told, &[("/access/unknown_user/status", 401.into())]);
        // What the real answer is, to the same client.
        let login = user.map(|user| testkit::basic(user, "secret"));
        let headers: Vec<(&str, &str)> = login
            .iter()
            .map(|login| ("Authorization", login.as_str()))
            .collect();
        let path = format!("/v2/{image}/manifests/latest");
        let real = Raw::connect(gateway.url(0), None).exchange("GET", &path, &headers);
        let real = match real.status() {
            404 => 200,
            status => status,
        };
        assert_eq!(told["access"]["status"], real, "{image} {user:?}");
        if status != 200 {
            assert_parts(
                &told,
                &[("/tag", Value::Null), ("/upstream/requests", json!([]))],
            );
        }
    }
    // Anonymous clients are told as well, whoever asks.
    let told = explain(&gateway, &json!({"image": "alpine", "as": "bob"}));
    assert_parts(
        &told,
        &[
            ("/access/anonymous/status", 401.into()),
            ("/access/user", "bob".into()),
        ],
    );
    // On a listener that only reads, logins do not count.
    let told = explain(
        &gateway,
        &json!({"image": "ghcr.io/closed", "as": "alice", "listener": gateway.url(1)}),
    );
    assert_parts(
        &told,
        &[
            ("/access/decision", "denied".into()),
            ("/access/status", 403.into()),
            ("/access/user", Value::Null),
            ("/access/unknown_user", Value::Null),
        ],
    );
    assert_says(&told, "/access/because", "does not count");
    let before = origin.count("*", "*");
    explain(
        &gateway,
        &json!({"image": "hosted/a", "as": "bob", "ask": true}),
    );
    assert_eq!(
        origin.count("*", "*"),
        before,
        "nothing is asked for who may not"
    );
}

#[test]
fn client_is_told_by_its_headers_and_address() {
    let (_origin, _, gateway) = scene(1000, ANYWHERE);
    for (client, class) in [
        (Value::Null, "full"),
        ("docker".into(), "full"),
        ("docker-1.6".into(), "schema1"),
        ("docker-1.12".into(), "full"),
        ("crane".into(), "full"),
        ("curl/8.5".into(), "full"),
    ] {
        let told = explain(&gateway, &json!({"image": "app", "client": client}));
        assert_parts(
            &told,
            &[
                ("/client/api", "v2".into()),
                ("/client/accept_class", class.into()),
            ],
        );
        assert_says(&told, "/client/because", "no table of old clients");
    }
    // The only listeners are on loopback.
    let told = explain(&gateway, &json!({"image": "app", "from": "192.0.2.7"}));
    assert_parts(
        &told,
        &[
            ("/client/reachable", false.into()),
            ("/answer/status", 0.into()),
            ("/client/requests_in_flight", 0.into()),
        ],
    );
    assert_says(&told, "/answer/because", "192.0.2.7 cannot connect");
    let told = explain(&gateway, &json!({"image": "app", "from": "::1"}));
    assert_parts(
        &told,
        &[
            ("/client/reachable", true.into()),
            ("/client/address", "::1".into()),
        ],
    );
}

#[test]
fn questions_that_mean_nothing_are_refused() {
    let (origin, _, gateway) = scene(1000, ANYWHERE);
    for (question, words) in [
        (json!({}), "image"),
        (json!({"image": ""}), "no image"),
        (json!({"image": "App"}), "lower-case"),
        (json!({"image": "a//b"}), "lower-case"),
        (json!({"image": "app:sp ace"}), "tag"),
        (json!({"image": "ap p"}), "no image"),
        (json!({"image": "app%2e:1"}), "no image"),
        (json!({"image": "app@sha256:00"}), "digest"),
        (json!({"image": "a".repeat(600)}), "longer than"),
        (json!({"image": "app", "from": "10.0.0"}), "no IP address"),
        (json!({"image": "app", "client": "netscape"}), "no client"),
        (
            json!({"image": "app", "listener": ":1"}),
            "no listener has the address :1",
        ),
        (json!({"image": "app", "host": "a b"}), "no host"),
        (json!({"image": "app", "platform": "vax"}), "no platform"),
        (json!({"image": "app", "colour": 1}), "colour"),
    ] {
        let reply = ask_why(&gateway, &question);
        assert_eq!(reply.status(), 400, "{question}: {reply:?}");
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json")
        );
        let problem: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(problem["code"], "invalid-body");
        assert_says(&problem, "/detail", words);
    }
    assert_eq!(origin.count("*", "*"), 0);
}
