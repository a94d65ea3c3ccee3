//! `visibility: caller`: the registry decides for each caller, and the cache gives no caller what the registry would
//! not.

mod authorization;
mod fills;

use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, at_once};
use testkit::image::random;
use testkit::origin::{Auth, Fault, Image, Origin, Recorded};

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
