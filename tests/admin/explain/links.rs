//! The question about a request of the log, or about a denial, that `/api/v1/explain` answers.

use testkit::{basic, eventually};

use super::*;

/// The question that comes with a line of the log, or with a denial, is about the same pull.
#[test]
fn requests_lead_to_their_explanation() {
    let dir = testkit::temp_dir();
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", visibility: public, default: true}}]\n\
         access: {{htpasswd: {}, rules: [{{users: [anonymous, alice], repositories: [\"**\"], actions: [pull]}}]}}\n\
         listen: [{{address: \"127.0.0.1:0\", tls: off}}]\n{ANYWHERE}",
        origin.url(),
        accounts(dir.path()).display(),
    ));
    let login = basic("alice", "secret");
    let headers = [("Authorization", &*login)];
    let status = |path: &str| {
        let mut raw = Raw::connect(gateway.url(0), None);
        raw.exchange("GET", path, &headers).status()
    };
    let by_digest = format!("/v2/library/app/manifests/{}", image.digest);
    for path in [
        &*by_digest,
        &image.layer_path(0),
        "/v2/library/app/tags/list",
    ] {
        assert_eq!(status(path), 200, "{path}");
    }
    assert_eq!(get(gateway.url(0), None, &image.tag_path()).status(), 200);
    // A line is written when its response has ended.
    let line = |method: &str, path: &str| {
        eventually(&format!("the line of {method} {path}"), || {
            let lines = read(&gateway, "/api/v1/requests?q=library/app");
            let mut lines = lines["items"].as_array().expect("items").iter();
            let found = lines.find(|line| line["method"] == method && line["path"] == path);
            found.cloned()
        })
    };
    let image_by_digest = format!("docker.io/library/app@{}", image.digest);
    for (path, question) in [
        (
            image.tag_path(),
            json!({"image": "docker.io/library/app:latest", "from": "127.0.0.1", "ask": false}),
        ),
        (
            by_digest,
            json!({"image": image_by_digest, "as": "alice", "from": "127.0.0.1", "ask": false}),
        ),
    ] {
        let line = line("GET", &path);
        assert_eq!(line["explain"], question);
        let told = explain(&gateway, &question);
        assert_eq!(told["answer"]["status"], line["status"], "{told:#}");
    }
    for path in [&*image.layer_path(0), "/v2/library/app/tags/list"] {
        assert_eq!(line("GET", path)["explain"], Value::Null, "{path}");
    }
    let pushed = "/v2/library/app/manifests/new";
    let denied = Raw::connect(gateway.url(0), None).exchange(
        "PUT",
        pushed,
        &[("Authorization", &login), ("Content-Length", "2")],
    );
    assert!(denied.status() >= 400, "{denied:?}");
    assert_eq!(line("PUT", pushed)["explain"], Value::Null);
}

/// A denial leads to the rule, or to its absence.
#[test]
fn denials_lead_to_their_explanation() {
    let dir = testkit::temp_dir();
    let origin = Origin::start();
    origin.push_image("team/app", "1", &[random(1, 100)]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", default: true}}]\n\
         access: {{htpasswd: {}, rules: [{{users: [bob], repositories: [\"docker.io/team/**\"], actions: [pull]}}]}}\n\
         listen: [{{address: \"127.0.0.1:0\", tls: off}}]\n{ANYWHERE}",
        origin.url(),
        accounts(dir.path()).display(),
    ));
    let login = basic("alice", "secret");
    let denied = Raw::connect(gateway.url(0), None).exchange(
        "GET",
        "/v2/team/app/manifests/1",
        &[("Authorization", &login)],
    );
    assert_eq!(denied.status(), 403, "{denied:?}");
    let line = eventually("the denial", || {
        let errors = read(&gateway, "/api/v1/errors?kind=denial");
        errors["items"].get(0).cloned()
    });
    let question =
        json!({"image": "docker.io/team/app:1", "as": "alice", "from": "127.0.0.1", "ask": false});
    assert_eq!(line["explain"], question, "{line}");
    let told = explain(&gateway, &line["explain"]);
    assert_eq!(told["access"]["decision"], "denied", "{told:#}");
    assert_eq!(told["answer"]["status"], 403);
}
