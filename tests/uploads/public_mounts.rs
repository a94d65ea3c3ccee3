//! Mounts in a registry with `visibility: public`, where the gateway's account may read more.

use crate::uploads::{USERS, send};
use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::origin::{Auth, Bearer, Fault, Origin};

/// The gateway's account may read both repositories, the public only `team/open`.
fn scene() -> (Origin, Gateway, tempfile::TempDir) {
    let origin = Origin::start();
    origin.require(Auth::Bearer(Bearer {
        account: Some(("me".into(), "s3cret".into())),
        public: vec!["team/open", "mine/a"],
        ..Bearer::default()
    }));
    let users = tempfile::tempdir().expect("a folder");
    let path = users.path().join("users");
    std::fs::write(&path, USERS).expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, visibility: public, \
         credentials: {{username: me, password: s3cret}}}}]\n\
         access:\n  htpasswd: {}\n  rules:\n  \
         - {{users: [pusher], repositories: [\"hosted/**\"], actions: [pull, push]}}\n",
        origin.url(),
        path.display()
    ));
    (origin, gateway, users)
}

/// The rules alone are not enough: only public content is mounted with the account.
#[test]
fn anonymous_mounts_use_public_sources_only() {
    let (origin, gateway, _users) = scene();
    let open = origin.push_blob("team/open", random(1, 1000));
    let closed = origin.push_blob("team/closed", random(2, 1000));
    let location = ("Location", "/v2/mine/a/blobs/uploads/u");
    origin.fault(Fault::status_with(202, location.0, location.1).on("POST", "/v2/mine/a/*"));
    let ask = |method, path: &str| send(gateway.url(1), Some("pusher"), method, path, &[], b"");
    let mount = |query: &str| {
        let path = format!("/v2/mine/a/blobs/uploads/?{query}");
        let begun = ask("POST", &path);
        assert_eq!(begun.status(), 202, "{begun:?}");
        let sent = origin.requests_for("POST", "/v2/mine/a/*");
        sent.last().expect("a request").query.clone()
    };
    let from_open = format!("mount={}&from=team%2Fopen", open.replace(':', "%3A"));
    assert_eq!(mount(&format!("mount={open}&from=team/open")), from_open);
    // Only the account may read it: the registry gets no mount.
    assert_eq!(mount(&format!("mount={closed}&from=team/closed")), "");
    let asked = origin.requests_for("*", "/v2/team/closed/*");
    assert!(!asked.is_empty(), "the registry was asked as by anybody");
    assert!(asked.iter().all(|it| it.status == 401), "{asked:?}");

    // The cache has links to both: one by a pull, the other by a push.
    let path = format!("/v2/team/open/blobs/{open}");
    assert_eq!(ask("GET", &path).status(), 200);
    origin.fault(
        Fault::Status(
            201,
            vec![("Docker-Content-Digest".to_owned(), closed.clone())],
        )
        .on("PUT", "/v2/team/closed/*"),
    );
    let upload = format!("/v2/team/closed/blobs/uploads/u?digest={closed}");
    assert_eq!(ask("PUT", &upload).status(), 201);
    assert_eq!(mount(&format!("mount={open}")), from_open);
    assert_eq!(mount(&format!("mount={closed}")), "");
    // It was refused for not being public, not for its name.
    origin.change_bearer(|bearer| bearer.public.push("team/closed"));
    let from_closed = format!("mount={}&from=team%2Fclosed", closed.replace(':', "%3A"));
    assert_eq!(mount(&format!("mount={closed}")), from_closed);
    assert_eq!(
        mount(&format!("mount={closed}&from=team/closed")),
        from_closed
    );
}
