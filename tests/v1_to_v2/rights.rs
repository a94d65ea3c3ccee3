//! The rights to the repository that is read apply; pushes of v2 clients never reach the v1 side.

use crate::v1_to_v2::{DOCKER_MANIFEST, blobs, push};
use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::image::random;
use testkit::origin::Origin;
use testkit::v1::{Script, V1Registry};
use testkit::{basic, sha256, temp_dir};

/// `reader` and `pusher`, both with the password `password`.
const ACCOUNTS: &str =
    "reader:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\npusher:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";

struct Guarded {
    v1: V1Registry,
    v2: Origin,
    gateway: Gateway,
    _users: tempfile::TempDir,
}

impl Guarded {
    fn new(script: Script, keys: &str) -> Self {
        let (v1, v2) = (V1Registry::with(script), Origin::start());
        let users = temp_dir();
        let htpasswd = users.path().join("users");
        std::fs::write(&htpasswd, ACCOUNTS).expect("writable");
        let gateway = Gateway::start(&format!(
            "registries:
- {{name: hosted, v1: \"{}\", v2: \"{}\", push: true{keys}}}
access:
  htpasswd: {}
  scheme: basic
  rules:
  - {{users: [anonymous], repositories: [\"hosted/open/**\"], actions: [pull]}}
  - {{users: [reader], repositories: [\"hosted/team/**\", \"hosted/library/**\"], actions: [pull]}}
  - {{users: [pusher], repositories: [\"hosted/**\"], actions: [pull, push, delete]}}
",
            v1.url(),
            v2.url(),
            htpasswd.display()
        ));
        Self {
            v1,
            v2,
            gateway,
            _users: users,
        }
    }

    fn ask(&self, who: Option<&str>, method: &str, path: &str, body: Option<&[u8]>) -> Reply {
        let login = who.map(|user| basic(user, "password"));
        let length = body.map(|body| body.len().to_string());
        let mut headers = vec![("Accept", DOCKER_MANIFEST)];
        headers.extend(login.as_deref().map(|login| ("Authorization", login)));
        if let Some(length) = &length {
            headers.extend([
                ("Content-Length", &**length),
                ("Content-Type", DOCKER_MANIFEST),
            ]);
        }
        let mut raw = Raw::connect(self.gateway.url(1), None);
        raw.request(method, path, &headers);
        if let Some(body) = body {
            raw.send(body);
        }
        raw.reply(method)
    }
}

#[test]
fn rights_are_those_of_the_requested_repository() {
    let scene = Guarded::new(Script::default(), "");
    for name in ["open/app", "team/app", "secret/app", "library/app"] {
        push(&scene.v1, name, "1", 1);
    }
    let manifest = |name: &str| format!("/v2/{name}/manifests/1");
    for (who, name, status) in [
        (None, "team/app", 401),
        (None, "secret/app", 401),
        (Some("reader"), "secret/app", 403),
        (Some("reader"), "app", 403),
    ] {
        let reply = scene.ask(who, "GET", &manifest(name), None);
        assert_eq!(reply.status(), status, "{who:?} {name}");
    }
    // On the v1 side `library/app` is `app`, to which the reader has no right.
    let reply = scene.ask(Some("reader"), "GET", &manifest("library/app"), None);
    assert_eq!(reply.status(), 404, "{reply:?}");
    assert_eq!(
        scene.v1.requests().len(),
        0,
        "it was refused before anything was asked"
    );
    for (who, name) in [
        (None, "open/app"),
        (Some("reader"), "team/app"),
        (Some("pusher"), "secret/app"),
        (Some("pusher"), "app"),
    ] {
        let reply = scene.ask(who, "GET", &manifest(name), None);
        assert_eq!(reply.status(), 200, "{who:?} {name}");
    }
    // The layers of one repository are not served for another, though they are stored.
    push(&scene.v1, "secret/own", "1", 7);
    let secret = scene.ask(Some("pusher"), "GET", &manifest("secret/own"), None);
    let (layers, config) = blobs(&secret);
    for digest in layers.iter().chain([&config]) {
        for (name, status) in [("secret/own", 200), ("team/app", 404), ("open/app", 404)] {
            let path = format!("/v2/{name}/blobs/{digest}");
            assert_eq!(
                scene.ask(Some("pusher"), "GET", &path, None).status(),
                status,
                "{path}"
            );
        }
    }
    let path = format!("/v2/team/app/manifests/{}", sha256(&secret.body));
    assert_eq!(scene.ask(Some("reader"), "GET", &path, None).status(), 404);
    // No client's login reaches either side.
    for seen in scene.v1.requests() {
        assert_eq!(seen.header("authorization"), None, "{}", seen.line);
    }
}

/// With an index, requests to the v1 side carry the gateway's token for the repository.
#[test]
fn v1_requests_use_the_index_token() {
    let token = "signature=OURS,repository=\"team/app\",access=read";
    let index = V1Registry::with(Script {
        index: Some(token.to_owned()),
        ..Script::default()
    });
    push(&index, "team/app", "1", 1);
    let script = Script {
        tokens: Some(token.to_owned()),
        ..Script::default()
    };
    let scene = Guarded::new(script, &format!(", v1_index: \"{}\"", index.url()));
    push(&scene.v1, "team/app", "1", 1);
    let reply = scene.ask(Some("reader"), "GET", "/v2/team/app/manifests/1", None);
    assert_eq!(reply.status(), 200, "{reply:?}");
    assert_eq!(scene.v1.count("GET", "/layer"), 3);
    assert_eq!(index.count("GET", "/images"), 1, "one token for all of it");
}

/// A v2 client pushes and deletes on the v2 side; an old one on v1 (`tests/v1.rs`).
#[test]
fn pushes_go_to_v2_only() {
    let scene = Guarded::new(Script::default(), "");
    push(&scene.v1, "team/app", "1", 1);
    let pusher = Some("pusher");
    let converted = scene.ask(pusher, "GET", "/v2/team/app/manifests/1", None);
    assert_eq!(converted.status(), 200);
    scene.v1.clear_requests();
    scene.v2.clear_requests();
    let image = scene.v2.push_image("team/theirs", "1", &[random(1, 100)]);
    let begun = scene.ask(pusher, "POST", "/v2/team/app/blobs/uploads/", Some(b""));
    assert_eq!(
        scene.v2.count("POST", "/v2/team/app/blobs/uploads/"),
        1,
        "{begun:?}"
    );
    let put = scene.ask(
        pusher,
        "PUT",
        "/v2/team/app/manifests/2",
        Some(&image.manifest),
    );
    assert_eq!(
        scene.v2.count("PUT", "/v2/team/app/manifests/2"),
        1,
        "{put:?}"
    );
    let path = format!("/v2/team/app/manifests/{}", sha256(&converted.body));
    let deleted = scene.ask(pusher, "DELETE", &path, None);
    assert_eq!(scene.v2.count("DELETE", &path), 1, "{deleted:?}");
    assert_eq!(scene.v1.requests().len(), 0, "nothing of it reached v1");
    let refused = scene.ask(
        Some("reader"),
        "POST",
        "/v2/team/app/blobs/uploads/",
        Some(b""),
    );
    assert_eq!(refused.status(), 403);
}
