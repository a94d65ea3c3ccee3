//! `visibility: caller`: the registry decides for each caller, and the cache gives no caller what the registry would
//! not.

use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, at_once};
use testkit::image::random;
use testkit::origin::{Auth, CHALLENGE, Fault, Image, Latch, Origin, Recorded};
use testkit::{basic, until};

/// Ann and Cleo may read `team/app`; Bob may read `team/other`.
const ANN: &str = "Bearer ann-s3cret";
const BOB: &str = "Bearer bob-s3cret";
const CLEO: &str = "Basic Y2xlbzpzM2NyZXQ=";
const HOST: &str = "theirs.example";

struct Scene {
    origin: Origin,
    app: Image,
    other: Image,
    gateway: Gateway,
}

fn holders() -> Auth {
    Auth::Holders(vec![
        (ANN, vec!["team/app"]),
        (BOB, vec!["team/other"]),
        (CLEO, vec!["team/app", "team/other"]),
    ])
}

fn yaml(origin: &Origin, more: &str) -> String {
    format!(
        "registries:\n\
         - {{name: theirs, v2: \"{}\", hosts: [{HOST}], visibility: caller{more}}}\n\
         listen: [{{address: \"127.0.0.1:0\"}}, {{address: \"127.0.0.1:0\", tls: off}}, \
                  {{address: \"127.0.0.1:0\", tls: off, read_only: true}}]\n",
        origin.url()
    )
}

fn scene(size: usize) -> Scene {
    let origin = Origin::start();
    let app = origin.push_image("team/app", "latest", &[random(1, size)]);
    let other = origin.push_image("team/other", "latest", &[random(2, 1000)]);
    origin.require(holders());
    let gateway = Gateway::start(&yaml(&origin, ""));
    Scene {
        origin,
        app,
        other,
        gateway,
    }
}

impl Scene {
    fn ask(&self, method: &str, path: &str, login: Option<&str>) -> Reply {
        ask(&self.gateway, 1, HOST, method, path, login)
    }

    #[track_caller]
    fn pull(&self, login: &str) {
        let app = &self.app;
        assert!(self.ask("GET", &app.tag_path(), Some(login)).body == app.manifest);
        assert!(self.ask("GET", &app.digest_path(), Some(login)).body == app.manifest);
        for blob in 0..2 {
            let reply = self.ask("GET", &app.blob_path(blob), Some(login));
            assert!(reply.body == app.blobs[blob].1, "{reply:?}");
        }
    }

    /// All paths of the private image.
    fn paths(&self) -> Vec<String> {
        let app = &self.app;
        let tags = "/v2/team/app/tags/list".to_owned();
        vec![
            app.tag_path(),
            app.digest_path(),
            app.blob_path(0),
            app.layer_path(0),
            app.referrers_path(),
            tags,
        ]
    }
}

fn ask(
    gateway: &Gateway,
    listener: usize,
    host: &str,
    method: &str,
    path: &str,
    login: Option<&str>,
) -> Reply {
    let mut headers = vec![("Host", host)];
    headers.extend(login.map(|login| ("Authorization", login)));
    Raw::connect(gateway.url(listener), None).exchange(method, path, &headers)
}

fn by<'a>(requests: &'a [Recorded], login: &str) -> Vec<&'a Recorded> {
    let mut requests: Vec<_> = requests.iter().collect();
    requests.retain(|request| request.header("authorization") == Some(login));
    requests
}

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
fn visibility_caller_hides_cached_digests() {
    let scene = scene(300_000);
    scene.pull(ANN);
    let cold = |login| {
        // Content that does not exist anywhere.
        let nothing = scene.app.tag_path().replace("team/app", "team/none");
        scene.ask("GET", &nothing, login)
    };
    let (bob, anonymous) = (cold(Some(BOB)), cold(None));
    assert_eq!((bob.status(), anonymous.status()), (404, 401));
    // Bob has access to his own repository, and requests the blobs under its name as well.
    assert_eq!(
        scene
            .ask("GET", &scene.other.tag_path(), Some(BOB))
            .status(),
        200
    );
    let mut paths = scene.paths();
    let elsewhere: Vec<_> = paths[1..4]
        .iter()
        .map(|path| path.replace("team/app", "team/other"))
        .collect();
    paths.extend(elsewhere);
    for path in &paths {
        for method in ["GET", "HEAD"] {
            scene.origin.clear_requests();
            let reply = scene.ask(method, path, Some(BOB));
            assert_eq!(reply.status(), 404, "{method} {path}");
            assert_eq!(reply.header("docker-content-digest"), None);
            assert_eq!(reply.header("etag"), None);
            // The registry answered Bob.
            let requests = scene.origin.requests();
            assert!(!by(&requests, BOB).is_empty(), "{method} {path}");
            assert_eq!(by(&requests, BOB).len(), requests.len());
            let reply = scene.ask(method, path, None);
            assert_eq!(reply.status(), 401, "{method} {path}");
        }
    }
    let text = scene.ask("GET", &scene.app.tag_path(), Some(BOB)).text();
    assert_eq!(text, bob.text(), "as if it were nowhere");
    // Ann still has access, and is served from the cache.
    scene.origin.clear_requests();
    scene.pull(ANN);
    assert_eq!(scene.origin.count("GET", "*"), 0);
    assert_eq!(scene.origin.count("HEAD", "*"), 1, "of the tag");
}

#[test]
fn authorised_callers_share_cached_bytes() {
    let scene = scene(300_000);
    scene.pull(ANN);
    scene.origin.clear_requests();
    // The layer first, before anything is known about Cleo.
    let layer = scene.app.layer_path(0);
    let reply = scene.ask("GET", &layer, Some(CLEO));
    assert!(reply.body == scene.app.layer(0).1);
    let requests = scene.origin.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].method.as_str(), requests[0].status),
        ("HEAD", 200)
    );
    assert_eq!(by(&requests, CLEO).len(), 1);
    // For a while that holds for everything linked in the repository.
    scene.ask("GET", &scene.app.digest_path(), Some(CLEO));
    scene.ask("HEAD", &scene.app.blob_path(0), Some(CLEO));
    assert_eq!(scene.origin.requests().len(), 1);
    // It does not survive the process, while the bytes do.
    let mut scene = scene;
    scene.gateway.restart();
    scene.origin.clear_requests();
    let reply = scene.ask("GET", &layer, Some(CLEO));
    assert!(reply.body == scene.app.layer(0).1);
    assert_eq!(scene.origin.count("HEAD", &layer), 1);
    assert_eq!(scene.origin.count("GET", "*"), 0);
}

#[test]
fn denied_caller_is_checked_again() {
    let scene = scene(1000);
    scene.pull(ANN);
    scene
        .origin
        .require(Auth::Holders(vec![(CLEO, vec!["team/app"])]));
    assert_eq!(
        scene.ask("GET", &scene.app.tag_path(), Some(ANN)).status(),
        401
    );
    // A denial for one path holds for all.
    for path in scene.paths() {
        assert_eq!(scene.ask("GET", &path, Some(ANN)).status(), 401, "{path}");
    }
    scene.pull(CLEO);
}

#[test]
fn tags_lists_and_404s_are_not_cached_across_callers() {
    let scene = scene(1000);
    let missing = scene.app.manifest_path("next");
    for _ in 0..2 {
        assert_eq!(scene.ask("GET", &missing, Some(ANN)).status(), 404);
    }
    assert_eq!(scene.origin.count("HEAD", &missing), 2);
    scene.origin.tag("team/app", "next", &scene.app.digest);
    assert_eq!(scene.ask("GET", &missing, Some(ANN)).status(), 200);
    let list = "/v2/team/app/tags/list";
    for n in 1..3 {
        let reply = scene.ask("GET", list, Some(ANN));
        assert!(reply.text().contains("next"));
        assert_eq!(reply.header("cache-control"), Some("private"));
        assert_eq!(scene.origin.count("GET", list), n);
    }
    // While the registry cannot be reached, there is no stale answer.
    scene.origin.fault(Fault::status(503));
    assert_eq!(scene.ask("GET", &missing, Some(ANN)).status(), 503);
    assert_eq!(scene.ask("GET", list, Some(ANN)).status(), 503);
}

#[test]
fn authorised_callers_share_a_fill_and_others_get_no_bytes() {
    let scene = scene(2 << 20);
    let layer = scene.app.layer_path(0);
    let latch = Latch::new();
    scene
        .origin
        .fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", &layer));
    let replies = std::thread::scope(|scope| {
        let ask = |login| {
            let (scene, layer) = (&scene, &layer);
            scope.spawn(move || scene.ask("GET", layer, Some(login)))
        };
        let ann = ask(ANN);
        scene.origin.wait_for("GET", &layer, 1);
        // Bob gets the registry's answer at once, as before.
        assert_eq!(scene.ask("GET", &layer, Some(BOB)).status(), 404);
        assert_eq!(scene.ask("HEAD", &layer, Some(BOB)).status(), 404);
        let stolen = layer.replace("team/app", "team/other");
        assert_eq!(scene.ask("GET", &stolen, Some(BOB)).status(), 404);
        assert_eq!(scene.ask("GET", &layer, None).status(), 401);
        let cleo = ask(CLEO);
        until("Cleo was let in", || {
            let heads = scene.origin.requests_for("HEAD", &layer);
            by(&heads, CLEO).iter().any(|head| head.status == 200)
        });
        latch.release();
        [ann.join().expect("Ann"), cleo.join().expect("Cleo")]
    });
    for reply in replies {
        assert!(reply.body == scene.app.layer(0).1, "{reply:?}");
    }
    let gets = scene.origin.requests_for("GET", &layer);
    assert_eq!(gets.len(), 1, "{gets:?}");
    assert_eq!(gets[0].header("authorization"), Some(ANN));
}

#[test]
fn fill_continues_with_the_next_authorised_caller_only() {
    let scene = scene(2 << 20);
    let layer = scene.app.layer_path(0);
    let latch = Latch::new();
    let origin = &scene.origin;
    origin.fault(
        Fault::PauseAt(1 << 20, latch.clone())
            .on("GET", &layer)
            .times(1),
    );
    origin.fault(Fault::TruncateAt((1 << 20) + 1).on("GET", &layer).times(1));
    let (ann, body) = std::thread::scope(|scope| {
        let ann = scope.spawn(|| scene.ask("GET", &layer, Some(ANN)));
        origin.wait_for("GET", &layer, 1);
        let mut cleo = Raw::connect(scene.gateway.url(1), None);
        cleo.request("GET", &layer, &[("Host", HOST), ("Authorization", CLEO)]);
        // With her headers she follows the same download.
        let head = cleo.read_head().expect("Cleo's headers");
        assert_eq!((head.status, origin.count("GET", &layer)), (200, 1));
        origin.require(Auth::Holders(vec![(CLEO, vec!["team/app"])]));
        latch.release();
        let body = cleo.read_body("GET", &head).0;
        (ann.join().expect("Ann"), body)
    });
    // Ann had access when it began, and reads the same file.
    assert!(ann.body == body);
    assert!(body == scene.app.layer(0).1);
    let gets = origin.requests_for("GET", &layer);
    let shown: Vec<_> = gets.iter().map(|get| get.header("authorization")).collect();
    assert!(shown.contains(&Some(CLEO)), "{shown:?}");
    assert!(
        shown
            .iter()
            .all(|shown| [Some(ANN), Some(CLEO)].contains(shown)),
        "{shown:?}"
    );
}

#[test]
fn partial_is_resumed_by_an_authorised_caller() {
    let mut scene = scene(4 << 20);
    let layer = scene.app.layer_path(0);
    scene
        .origin
        .fault(Fault::StallAt(3 << 20).on("GET", &layer));
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.request("GET", &layer, &[("Host", HOST), ("Authorization", ANN)]);
    let digest = scene.app.layer(0).0.replacen(':', "-", 1);
    let partial = scene.gateway.store().join("partials").join(digest);
    until("3 MiB are here", || {
        std::fs::metadata(&partial).is_ok_and(|meta| meta.len() >= 3 << 20)
    });
    scene.gateway.kill();
    scene.origin.heal_all();
    scene.origin.clear_requests();
    scene.gateway.restart();
    assert_eq!(scene.ask("GET", &layer, Some(BOB)).status(), 404);
    assert_eq!(scene.origin.count("GET", "*"), 0, "no login is sent here");
    let reply = scene.ask("GET", &layer, Some(CLEO));
    assert!(reply.body == scene.app.layer(0).1, "{reply:?}");
    let gets = scene.origin.requests_for("GET", &layer);
    assert_eq!(gets.len(), 1);
    assert_eq!(gets[0].header("authorization"), Some(CLEO));
    assert_eq!(gets[0].header("range"), Some("bytes=3145728-"));
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
            let told = get(host, &path);
            let other = host == "open.example" && !path.contains("ns=");
            assert!(
                told == unknown || (other && told.0 == 404),
                "{host} {path} {told:?}"
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
    let asked = origin.requests_for("GET", "/v2/_catalog");
    assert_eq!(asked[0].header("authorization"), Some(ANN));
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
fn concurrent_callers_get_only_their_content() {
    let scene = scene(1 << 20);
    scene
        .origin
        .fault(Fault::Delay(Duration::from_millis(20)).on("*", "*"));
    let layer = scene.app.layer_path(0);
    let statuses = at_once(24, |number| {
        let (login, expected) = match number % 4 {
            0 => (Some(ANN), 200),
            1 => (Some(BOB), 404),
            2 => (Some(CLEO), 200),
            _ => (None, 401),
        };
        let path = match number % 3 {
            0 => scene.app.tag_path(),
            1 => scene.app.digest_path(),
            _ => layer.clone(),
        };
        let reply = scene.ask("GET", &path, login);
        (reply.status(), expected, path)
    });
    for (status, expected, path) in statuses {
        assert_eq!(status, expected, "{path}");
    }
    assert_eq!(scene.origin.count("GET", &layer), 1);
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
