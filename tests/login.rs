//! Logins at upstreams: the Bearer flow, Basic, accounts from files and helpers, and the destinations of secrets.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use testkit::gateway::Gateway;
use testkit::http::{Raw, get};
use testkit::image::random;
use testkit::origin::{Auth, Bearer, Fault, Image, Latch, Origin};

const RULES: &str =
    "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n";

fn scene() -> (Origin, Image) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 200_000)]);
    (origin, image)
}

fn with_account(origin: &Origin, account: &str) -> String {
    format!(
        "registries: [{{name: docker.io, v2: \"{}\", credentials: {account}}}]\n{RULES}",
        origin.url()
    )
}

/// Pulls an image whole: tag, manifest, layer.
#[track_caller]
fn pull(gateway: &Gateway, image: &Image) {
    assert!(get(gateway.url(1), None, &image.tag_path()).body == image.manifest);
    assert!(get(gateway.url(1), None, &image.layer_path(0)).body == image.layer(0).1);
}

#[test]
fn anonymous_tokens_are_fetched_once() {
    let (origin, image) = scene();
    origin.require(Auth::bearer());
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {tag_ttl: 0s}\n");
    pull(&gateway, &image);
    pull(&gateway, &image);
    let tokens = origin.requests_for("GET", "/token");
    assert_eq!(tokens.len(), 1, "one scope, one token");
    assert!(
        tokens[0]
            .query
            .contains("scope=repository%3Alibrary%2Fapp%3Apull"),
        "{}",
        tokens[0].query
    );
    assert_eq!(tokens[0].header("authorization"), None);
    // One 401 named the token endpoint; no request was refused after that.
    let refused = origin
        .requests()
        .iter()
        .filter(|request| request.status == 401)
        .count();
    assert_eq!(refused, 1);
    // Another repository has another scope, whose token is fetched without a 401.
    let other = origin.push_image("library/other", "latest", &[random(2, 10)]);
    pull(&gateway, &other);
    assert_eq!(origin.count("GET", "/token"), 2);
    assert_eq!(
        origin
            .requests()
            .iter()
            .filter(|request| request.status == 401)
            .count(),
        1
    );
}

#[test]
fn concurrent_requests_share_one_token() {
    let (origin, image) = scene();
    origin.require(Auth::bearer());
    let latch = Latch::new();
    origin.fault(Fault::Hold(latch.clone()).on("*", "/token"));
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let paths = [
        image.tag_path(),
        image.digest_path(),
        image.layer_path(0),
        image.blob_path(0),
    ];
    let mut clients: Vec<Raw> = (0..16)
        .map(|_| Raw::connect(gateway.url(1), None))
        .collect();
    for (i, raw) in clients.iter_mut().enumerate() {
        raw.request("GET", &paths[i % 4], &[]);
    }
    latch.wait_reached(1);
    latch.release();
    for raw in &mut clients {
        assert_eq!(raw.reply("GET").status(), 200);
    }
    assert_eq!(origin.count("GET", "/token"), 1);
}

#[test]
fn revoked_token_is_replaced_once() {
    let (origin, image) = scene();
    origin.require(Auth::bearer());
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {tag_ttl: 0s}\n");
    pull(&gateway, &image);
    origin.revoke_tokens();
    pull(&gateway, &image);
    assert_eq!(origin.count("GET", "/token"), 2);
}

#[test]
fn repeated_401_ends_in_denied() {
    for grants_nothing in [false, true] {
        let (origin, image) = scene();
        let bearer = if grants_nothing {
            Bearer {
                grants: false,
                ..Bearer::default()
            }
        } else {
            Bearer {
                accepts: false,
                ..Bearer::default()
            }
        };
        origin.require(Auth::Bearer(bearer));
        let gateway = Gateway::mirror("docker.io", &origin.url(), "");
        let denied = get(gateway.url(1), None, &image.tag_path());
        assert_eq!(
            (denied.status(), denied.error_code().as_deref()),
            (403, Some("DENIED"))
        );
        assert!(denied.text().contains("account"));
        assert!(
            origin.count("HEAD", "*") <= 3,
            "{}",
            origin.count("HEAD", "*")
        );
        assert!(origin.count("GET", "/token") <= 2);
    }
}

#[test]
fn account_is_sent_to_the_registrys_realm() {
    let (origin, image) = scene();
    let account = Some(("me".to_owned(), "s3cret-word".to_owned()));
    origin.require(Auth::Bearer(Bearer {
        account: account.clone(),
        ..Bearer::default()
    }));
    let gateway = Gateway::start(&with_account(
        &origin,
        "{username: me, password: s3cret-word}",
    ));
    pull(&gateway, &image);
    let token = &origin.requests_for("GET", "/token")[0];
    assert_eq!(
        token.header("authorization"),
        Some(&*testkit::basic("me", "s3cret-word"))
    );
    for request in origin.requests_for("*", "/v2/*") {
        let sent = request.header("authorization").unwrap_or_default();
        assert!(
            !sent.starts_with("Basic"),
            "the password went to the registry instead of its realm"
        );
    }
    let wrong = Gateway::start(&with_account(
        &origin,
        "{username: me, password: wrong-word}",
    ));
    assert_eq!(get(wrong.url(1), None, &image.tag_path()).status(), 403);
    for log in [gateway.log(), wrong.log()] {
        assert!(
            !log.contains("s3cret-word") && !log.contains("wrong-word") && !log.contains("Basic")
        );
    }
}

/// A registry with a realm on another host gets no password.
#[test]
fn account_is_never_sent_to_a_foreign_realm() {
    let (origin, image) = scene();
    let thief = Origin::start_on(std::net::Ipv4Addr::new(127, 0, 0, 9));
    let bearer = Bearer {
        realm: Some(format!("{}/token", thief.url())),
        ..Bearer::default()
    };
    thief.require(Auth::Bearer(bearer.clone()));
    origin.require(Auth::Bearer(bearer));
    let gateway = Gateway::start(&with_account(
        &origin,
        "{username: me, password: s3cret-word}",
    ));
    let reply = get(gateway.url(1), None, &image.tag_path());
    assert!(reply.status() >= 400, "plain http to another host");
    for request in thief.requests() {
        assert_eq!(request.header("authorization"), None);
        assert!(!request.query.contains("me"));
    }
}

#[test]
fn token_request_falls_back_to_post() {
    let (origin, image) = scene();
    let account = Some(("me".to_owned(), "pa ss&word=".to_owned()));
    let bearer = Bearer {
        account,
        methods: vec!["POST"],
        ..Bearer::default()
    };
    origin.require(Auth::Bearer(bearer));
    let gateway = Gateway::start(&with_account(
        &origin,
        "{username: me, password: 'pa ss&word='}",
    ));
    pull(&gateway, &image);
    assert_eq!(origin.count("POST", "/token"), 1);
}

/// A credential helper that records its input and counts its calls.
fn helper(folder: &Path, script: &str) -> String {
    let path = folder.join("docker-credential-test");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    format!(
        "{}:{}",
        folder.display(),
        std::env::var("PATH").unwrap_or_default()
    )
}

#[test]
fn credential_helper_supplies_the_account() {
    let (origin, image) = scene();
    origin.require(Auth::basic("robot", "s3cret-word"));
    let folder = testkit::temp_dir();
    let calls = folder.path().join("calls");
    let script = format!(
        "read server; echo \"$1 $server\" >> {}\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"robot\",\"Secret\":\"s3cret-word\"}}'",
        calls.display()
    );
    let path = helper(folder.path(), &script);
    let yaml = with_account(&origin, "{helper: docker-credential-test}");
    let gateway = Gateway::start_with(&yaml, &[("PATH", &path)]);
    pull(&gateway, &image);
    assert_eq!(
        std::fs::read_to_string(&calls).expect("it was called"),
        "get https://index.docker.io/v1/\n"
    );
    assert!(!gateway.log().contains("s3cret-word"));

    for script in [
        "echo credentials not found >&2; exit 1",
        "echo no json",
        "head -c 100000 /dev/zero",
        "exit 0",
    ] {
        let folder = testkit::temp_dir();
        let path = helper(folder.path(), script);
        let gateway = Gateway::start_with(&yaml, &[("PATH", &path)]);
        let reply = get(gateway.url(1), None, &image.tag_path());
        assert!((500..504).contains(&reply.status()), "{script}: {reply:?}");
        assert!(gateway.log().contains("credential helper"), "{script}");
    }
}

#[test]
fn password_file_is_read() {
    let (origin, image) = scene();
    origin.require(Auth::basic("me", "s3cret-word"));
    let folder = testkit::temp_dir();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret-word\n").expect("writable");
    let account = format!("{{username: me, password_file: {}}}", file.display());
    pull(&Gateway::start(&with_account(&origin, &account)), &image);
    let missing = Gateway::refused(&with_account(
        &origin,
        "{username: me, password_file: /nowhere}",
    ));
    assert_eq!(missing.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nowhere"));
}

#[test]
fn private_ca_is_trusted_for_its_registry_only() {
    let origin = Origin::start_tls();
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let yaml = |ca: &str| {
        format!(
            "registries: [{{name: docker.io, v2: \"{}\"{ca}}}]\n",
            origin.url()
        )
    };
    let trusting = Gateway::start(&yaml(&format!(", ca: {}", origin.ca_path().display())));
    pull(&trusting, &image);
    let wary = Gateway::start(&yaml(""));
    assert_eq!(get(wary.url(1), None, &image.tag_path()).status(), 503);
    let unusable = Gateway::refused(&yaml(", ca: /nowhere.pem"));
    assert_eq!(unusable.status.code(), Some(78));
}
