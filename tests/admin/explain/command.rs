//! `roadstead explain`, for people.

use super::*;

#[test]
fn command_explains_for_people() {
    let folder = testkit::temp_dir();
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 100_000)]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", default: true}}]\n\
         access:\n  htpasswd: {}\n  rules:\n  - {{users: [anonymous], repositories: [\"docker.io/library/*\"], actions: [pull]}}\n{SOCKET}",
        origin.url(),
        accounts(folder.path()).display()
    ));
    pull(&gateway, &image);
    metrics_after(&gateway, "blob", 2);
    let told = command(
        &gateway,
        &[
            "explain",
            "app",
            "--from",
            "127.0.0.1",
            "--client",
            "skopeo",
        ],
    );
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let told = text(&told.stdout);
    for line in [
        "answer     200, hit; ttl=",
        "registry   docker.io/library/app",
        "request    GET /v2/app/manifests/latest at 127.0.0.1:",
        "client     v2, accept class full",
        "skopeo/",
        "access     allowed: anonymous",
        "rule 1, in line 5, allows anonymous to pull it",
        "           {users: [anonymous], repositories: [\"docker.io/library/*\"], actions: [pull]}",
        "an unknown user: challenged (401)",
        &format!("tag        fresh {}", image.digest),
        &format!("layer {} 97.7 KiB stored", image.layer(0).0),
        "upstream   0 requests",
        "cost       0 pulls, 0 B",
        "nothing was asked upstream",
    ] {
        assert!(told.contains(line), "{line:?} in\n{told}");
    }
    let cold = text(
        &command(
            &gateway,
            &["explain", "library/other:2", "--as", "alice", "--ask"],
        )
        .stdout,
    );
    for line in [
        "access     allowed: alice",
        "asked      not-found after ",
        "answer     404, fwd=uri-miss; detail=unknown",
        "HEAD http://127.0.0.1:",
    ] {
        assert!(cold.contains(line), "{line:?} in\n{cold}");
    }
    let json = command(&gateway, &["explain", "app", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_parts(
        &json,
        &[
            ("/answer/status", 200.into()),
            ("/route/by", "default".into()),
        ],
    );
}

/// The errors of the command, with their exit codes.
#[test]
fn command_reports_what_it_cannot_explain() {
    let (_origin, _, mut gateway) = scene(1000, SOCKET);
    for (arguments, code, words) in [
        (&["explain", "App"][..], 1, "lower-case"),
        (&["explain", "app@sha256:0"], 1, "digest"),
        (
            &["explain", "app", "--client", "netscape"],
            1,
            "is no client",
        ),
        (
            &["explain", "app", "--listener", ":9"],
            1,
            "no listener has the address :9",
        ),
        (
            &["explain", "app", "--from", "here"],
            2,
            "invalid IP address",
        ),
        (&["explain", "app", "--platform", "vax"], 2, "no platform"),
        (&["explain"], 2, "<IMAGE>"),
    ] {
        let told = command(&gateway, arguments);
        assert_eq!(told.status.code(), Some(code), "{told:?}");
        let said = text(&told.stderr);
        assert!(said.contains(words), "{words:?} in {said}");
    }
    gateway.terminate();
    let told = command(&gateway, &["explain", "app"]);
    assert_eq!(told.status.code(), Some(69), "{told:?}");
    assert!(
        text(&told.stderr).contains("is the gateway running?"),
        "{told:?}"
    );
}
