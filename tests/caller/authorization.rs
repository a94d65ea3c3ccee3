//! Where a caller's `Authorization` is sent, and where it grants nothing.

use testkit::basic;
use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::origin::{Auth, CHALLENGE, Fault, Origin};

use super::{ANN, BOB, HOST, Scene, ask, holders, scene, yaml};

#[test]
fn visibility_caller_passes_ping_and_challenges_through() {
    let scene = scene(1000);
    let wrong = basic("ann", "wrong");
    for login in [None, Some("Bearer other"), Some(wrong.as_str())] {
        let app = scene.paths();
        for path in app
            .iter()
            .map(String::as_str)
            .chain(["/v2/", "/v2/_catalog"])
        {
            for method in ["GET", "HEAD"] {
                let reply = scene.ask(method, path, login);
                assert_eq!(reply.status(), 401, "{method} {path}");
                assert_eq!(reply.header("www-authenticate"), Some(CHALLENGE), "{path}");
                assert_eq!(
                    reply.header("docker-distribution-api-version"),
                    Some("registry/2.0")
                );
            }
        }
    }
    assert_eq!(scene.ask("GET", "/v2/", Some(ANN)).status(), 200);
    // Every request carried its caller's login, and none was made by the gateway for itself.
    let requests = scene.origin.requests();
    let shown = requests
        .iter()
        .map(|request| request.header("authorization"));
    for shown in shown {
        let known = [None, Some("Bearer other"), Some(&wrong), Some(ANN)];
        assert!(known.contains(&shown), "{shown:?}");
    }
}

#[test]
fn forwarded_authorization_is_never_stored_or_sent_elsewhere() {
    let scene = scene(300_000);
    let storage = Origin::start_on([127, 0, 0, 2].into());
    storage.push_blob("team/app", scene.app.layer(0).1.clone());
    let layer = scene.app.layer_path(0);
    let target = format!("{}{{path}}", storage.url());
    scene
        .origin
        .fault(Fault::Redirect(307, target).on("*", &layer));
    scene.pull(ANN);
    let elsewhere = storage.requests();
    assert!(!elsewhere.is_empty());
    for request in &elsewhere {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
    let mut files = vec![scene.gateway.dir().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a folder");
            files.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).expect("a file");
            for secret in [&b"ann-s3cret"[..], b"bob-s3cret", b"Y2xlbzpzM2NyZXQ="] {
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "{}", path.display());
            }
        }
    }
}

#[test]
fn delegated_registry_is_served_on_its_own_host_only() {
    let origin = Origin::start();
    let app = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    let open = Origin::start();
    open.push_image("team/open", "latest", &[random(2, 1000)]);
    origin.require(holders());
    let both = yaml(&origin, ", owns: [\"team/app\"]").replace(
        "listen:",
        &format!(
            "- {{name: open, v2: \"{}\", hosts: [open.example]}}\nlisten:",
            open.url()
        ),
    );
    let gateway = Gateway::start(&both);
    let get = |host: &str, path: &str| {
        let reply = ask(&gateway, 1, host, "GET", path, Some(ANN));
        (reply.status(), reply.error_code())
    };
    assert_eq!(get(HOST, &app.tag_path()).0, 200);
    assert_eq!(get("THEIRS.example:5000", &app.tag_path()).0, 200);
    assert_eq!(get(HOST, &format!("{}?ns=theirs", app.tag_path())).0, 200);
    origin.clear_requests();
    let unknown = (404, Some("NAME_UNKNOWN".to_owned()));
    let tag = app.tag_path();
    for path in [
        tag.clone(),
        tag.replace("team/", "theirs/team/"),
        format!("{tag}?ns=theirs"),
        "/v2/?ns=theirs".to_owned(),
        "/v2/_catalog?ns=theirs".to_owned(),
    ] {
        for host in ["gate.example", "open.example"] {
            let answer = get(host, &path);
            let other = host == "open.example" && !path.contains("ns=");
            assert!(
                answer == unknown || (other && answer.0 == 404),
                "{host} {path} {answer:?}"
            );
        }
    }
    // Its names are in no other list.
    let listed = ask(
        &gateway,
        1,
        "gate.example",
        "GET",
        "/v2/_catalog",
        Some(ANN),
    );
    assert_eq!(listed.text(), r#"{"repositories":["open/team/open"]}"#);
    assert_eq!(
        origin.count("*", "*"),
        0,
        "nothing shown elsewhere reached it"
    );
    // On its own host it serves its own list, requested with the caller's login.
    let listed = ask(&gateway, 1, HOST, "GET", "/v2/_catalog", Some(ANN));
    assert_eq!(listed.text(), r#"{"repositories":["team/app"]}"#);
    let requests = origin.requests_for("GET", "/v2/_catalog");
    assert_eq!(requests[0].header("authorization"), Some(ANN));
}

#[test]
fn read_only_listener_denies_delegated_registries_without_challenge() {
    let scene = scene(1000);
    scene.pull(ANN);
    let app = scene.paths();
    for path in app.iter().map(String::as_str).chain(["/v2/"]) {
        let reply = ask(&scene.gateway, 2, HOST, "GET", path, Some(ANN));
        assert_eq!(reply.status(), 403, "{path} {reply:?}");
        assert_eq!(reply.header("www-authenticate"), None);
    }
    // Content that the registry serves anonymously is served.
    scene.origin.require(Auth::None);
    let reply = ask(&scene.gateway, 2, HOST, "GET", &scene.app.tag_path(), None);
    assert_eq!(reply.status(), 200);
}

#[test]
fn local_accounts_grant_nothing_at_a_delegated_registry() {
    let scene = scene(1000);
    let users = testkit::temp_dir();
    let path = users.path().join("users");
    let line = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";
    std::fs::write(&path, line).expect("writable");
    let Scene {
        origin,
        app,
        mut gateway,
        ..
    } = scene;
    gateway.restart_with(&format!(
        "{}access:\n  htpasswd: {}\n  rules: [{{users: [\"*\"], repositories: [\"**\"], actions: [pull]}}]\n",
        yaml(&origin, ""),
        path.display()
    ));
    let reader = basic("reader", "s3cret");
    let get = |login| ask(&gateway, 1, HOST, "GET", &app.tag_path(), login);
    let reply = get(Some(&reader));
    assert_eq!(reply.status(), 401);
    assert_eq!(reply.header("www-authenticate"), Some(CHALLENGE));
    assert_eq!(get(Some(ANN)).status(), 200);
    // A wrong password for this registry is no failed login at the gateway.
    let wrong = basic("reader", "wrong");
    for _ in 0..20 {
        assert_eq!(get(Some(&wrong)).status(), 401);
    }
    // On other hosts the gateway challenges as usual.
    let ping = |login| ask(&gateway, 1, "gate.example", "GET", "/v2/", login).status();
    assert_eq!((ping(None), ping(Some(reader.as_str()))), (401, 200));
}

#[test]
fn authorization_is_forwarded_without_cache() {
    let scene = scene(1000);
    let Scene {
        origin,
        app,
        mut gateway,
        ..
    } = scene;
    gateway.restart_with(&yaml(&origin, ", cache: false"));
    let get = |login| ask(&gateway, 1, HOST, "GET", &app.tag_path(), login);
    assert_eq!(get(Some(ANN)).status(), 200);
    assert_eq!(get(Some(BOB)).status(), 404);
    let reply = get(None);
    assert_eq!(reply.status(), 401);
    assert_eq!(reply.header("www-authenticate"), Some(CHALLENGE));
}
