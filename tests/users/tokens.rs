//! Challenges and tokens.

use serde_json::Value;

use testkit::basic;
use testkit::http::{Raw, Reply, Web, block_on};

use super::{outcome, scene};

#[test]
fn challenges_name_realm_and_scope() {
    let scene = scene("");
    let challenge = |reply: &Reply| {
        reply
            .header("www-authenticate")
            .expect("a challenge")
            .to_owned()
    };
    let realm = "Bearer realm=\"http://gate.example.com/token\",service=\"gate.example.com\"";
    for path in ["/v2/", "/v2"] {
        let ping = scene.ask("GET", path, None);
        assert_eq!((ping.status(), challenge(&ping)), (401, realm.to_owned()));
        assert_eq!(
            ping.head
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("docker-distribution-api-version"))
                .count(),
            1
        );
    }
    let pull = scene.ask("GET", &scene.team.tag_path(), None);
    assert_eq!(
        challenge(&pull),
        format!("{realm},scope=\"repository:team/app:pull\"")
    );
    let push = scene.ask("PUT", "/v2/hosted/team/app/manifests/x", None);
    assert_eq!(
        challenge(&push),
        format!("{realm},scope=\"repository:hosted/team/app:pull,push\"")
    );
    // A token for another scope.
    let (token, _) = scene.token("repository:other:pull", Some(&basic("reader", "s3cret")));
    let pull = scene.ask("GET", &scene.team.tag_path(), Some(&token));
    assert_eq!(pull.status(), 401);
    assert!(
        challenge(&pull).ends_with("error=\"insufficient_scope\""),
        "{}",
        challenge(&pull)
    );
    let forged = scene.ask("GET", &scene.team.tag_path(), Some("Bearer forged"));
    assert!(
        challenge(&forged).ends_with("error=\"invalid_token\""),
        "{}",
        challenge(&forged)
    );
    // The token endpoint's challenge is for a password.
    let token = scene.ask("GET", "/token", Some(&basic("reader", "wrong")));
    assert_eq!(
        (token.status(), challenge(&token)),
        (401, "Basic realm=\"Roadstead\"".to_owned())
    );
    // Any valid login is valid for the ping, including an anonymous token.
    let anonymous = scene.token("", None).0;
    for login in [
        basic("reader", "s3cret"),
        anonymous,
        scene.token("", Some(&basic("reader", "s3cret"))).0,
    ] {
        assert_eq!(scene.ask("GET", "/v2/", Some(&login)).status(), 200);
    }
}

#[test]
fn scheme_basic_changes_the_challenge_only() {
    let scene = scene("  scheme: basic\n  realm: Our place\n");
    for path in ["/v2/".to_owned(), scene.team.tag_path()] {
        let reply = scene.ask("GET", &path, None);
        assert_eq!(
            (reply.status(), reply.header("www-authenticate")),
            (401, Some("Basic realm=\"Our place\""))
        );
    }
    let (token, _) = scene.token("repository:team/app:pull", Some(&basic("reader", "s3cret")));
    for login in [token, basic("reader", "s3cret")] {
        assert_eq!(
            scene
                .ask("GET", &scene.team.tag_path(), Some(&login))
                .status(),
            200
        );
    }
}

#[test]
fn tokens_grant_allowed_scopes_by_get_and_post() {
    let scene = scene("");
    let pusher = basic("pusher", "s3cret");
    for (scope, login, granted) in [
        (
            "repository:team/app:pull,push",
            Some(&pusher),
            "repository:team/app:pull,push",
        ),
        (
            "repository:hosted/team/app:pull,push",
            Some(&pusher),
            "repository:hosted/team/app:pull,push",
        ),
        ("repository:team/app:pull,push", None, ""),
        (
            "repository:open/app:pull,push",
            None,
            "repository:open/app:pull",
        ),
        (
            "repository:team/app:pull&scope=repository:open/app:pull",
            None,
            "repository:open/app:pull",
        ),
        ("nonsense", Some(&pusher), ""),
    ] {
        assert_eq!(
            scene.token(scope, login.map(String::as_str)).1,
            granted,
            "{scope}"
        );
    }
    // containerd sends a form.
    let web = Web::h1(Some(&scene.gateway.ca_path()));
    let post = |form: &'static str| {
        let url = format!("{}/token", scene.gateway.url(0));
        let request = web.client().post(url).body(form);
        let request = request.header("Content-Type", "application/x-www-form-urlencoded");
        block_on(async {
            let reply = request.send().await.expect("an answer");
            let status = reply.status().as_u16();
            let body = reply.bytes().await.expect("a body");
            (
                status,
                serde_json::from_slice::<Value>(&body).expect("JSON"),
            )
        })
    };
    let (status, answer) = post(
        "grant_type=password&service=x&client_id=containerd-client&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&username=pusher&password=s3cret",
    );
    assert_eq!(
        (status, answer["scope"].as_str()),
        (200, Some("repository:team/app:pull,push"))
    );
    let token = format!(
        "Bearer {}",
        answer["access_token"].as_str().expect("a token")
    );
    assert_eq!(
        scene
            .ask("PUT", &scene.team.tag_path(), Some(&token))
            .status(),
        201
    );
    assert_eq!(
        post("grant_type=password&username=pusher&password=wrong").0,
        401
    );
    assert_eq!(post("grant_type=refresh_token&refresh_token=x").0, 400);
    // A token cannot be exchanged for another.
    assert_eq!(scene.ask("GET", "/token", Some(&token)).status(), 400);
}

/// The form of `POST /token` has the deadline of a request head.
#[test]
fn slow_token_form_times_out() {
    let scene = scene("limits: {header_timeout: 1s, idle_timeout: 60s}\n");
    for head in [
        "Content-Length: 60000\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut raw = Raw::connect(scene.gateway.url(1), None);
        raw.send(format!("POST /token HTTP/1.1\r\nHost: a\r\n{head}\r\n"));
        let since = std::time::Instant::now();
        while raw.is_silent(std::time::Duration::from_millis(50)) {
            assert!(since.elapsed().as_secs() < 20, "it may dribble for ever");
            let _ = raw.try_send(if head.starts_with('C') {
                "a"
            } else {
                "1\r\na\r\n"
            });
        }
        let reply = raw.reply("POST");
        assert_eq!(outcome(&reply), (408, Some("UNSUPPORTED".into())), "{head}");
    }
    let whole = "grant_type=password&username=reader&password=s3cret";
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.send(format!(
        "POST /token HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{whole}",
        whole.len()
    ));
    assert_eq!(raw.reply("POST").status(), 200);
}
