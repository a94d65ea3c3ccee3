//! npm's and Python's `docker-registry-client` against the gateway, over TLS: in front of docker-registry 0.9.1, or of
//! the scripted registry if there is no Python 2.7.

use serde_json::{Value, json};

use crate::v1::{Daemon, OLD, PUSHER, READER, RULES, WRONG, accounts};
use testkit::gateway::Gateway;
use testkit::gzip;
use testkit::http::{at_once, get};
use testkit::image::random;
use testkit::real::{OldRegistry, V1Client, V1Found, V1Session, found};

type Account = Option<(&'static str, &'static str)>;

/// A registry with the same image in three repositories, and a gateway in front of it.
struct Scene {
    registry: OldRegistry,
    gateway: Gateway,
    /// Of `team/app`, from root to top.
    ids: Vec<String>,
    layers: [Vec<u8>; 2],
}

impl Scene {
    fn start(access: bool) -> Self {
        let registry = OldRegistry::start();
        let url = registry.url();
        let before = |push: bool, access: &str| {
            // npm's client speaks plain HTTP to 127.0.0.1.
            format!(
                "listen: [{{address: \"127.0.0.2:0\"}}, {{address: \"127.0.0.1:0\", tls: off}}]
registries: [{{name: hosted, v1: \"{url}\", push: {push}}}]
{access}"
            )
        };
        let rules = format!("access:\n  htpasswd: {}\n{RULES}", accounts().display());
        let mut gateway = Gateway::start(&before(true, &rules));
        let layers = [gzip(&random(31, 150_000)), gzip(&random(32, 900))];
        let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        let push = |name: &str| {
            let ids = Daemon::new(OLD[4], &gateway, PUSHER).push(name, "1", &parts);
            ids.unwrap_or_else(|told| panic!("{name}: {told:?}"))
        };
        push("open/app");
        push("secret/app");
        let ids = push("team/app");
        if !access {
            gateway.restart_with(&before(false, ""));
        }
        Self {
            registry,
            gateway,
            ids,
            layers,
        }
    }

    fn run(&self, client: V1Client, repository: &str, account: Account) -> Option<V1Found> {
        found(client.run(V1Session {
            url: self.gateway.url(0),
            ca: &self.gateway.ca_path(),
            repository,
            tag: "1",
            account,
            add: (account == PUSHER).then_some("added"),
        }))
    }

    /// A part of an image as the registry itself serves it.
    fn held(&self, part: &str, id: &str) -> Vec<u8> {
        let reply = get(
            &self.registry.url(),
            None,
            &format!("/v1/images/{id}/{part}"),
        );
        assert_eq!(reply.status(), 200, "{part} {id}");
        reply.body
    }

    /// A whole pull returned exactly the registry's content.
    #[track_caller]
    fn check(&self, found: &V1Found) {
        let report = &found.said;
        let ids: Vec<&str> = report["ancestry"]
            .as_array()
            .unwrap_or_else(|| panic!("no ancestry: {report}"))
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(report["id"], ids[0]);
        assert_eq!(ids.len(), 2, "{report}");
        for (id, layer) in ids.iter().rev().zip(&self.layers) {
            let held: Value = serde_json::from_slice(&self.held("json", id)).expect("JSON");
            assert_eq!(report["json"][id], held);
            let bytes = found.layer(id).expect("a layer");
            assert!(
                bytes == self.held("layer", id),
                "{id}: {} bytes",
                bytes.len()
            );
            assert!(bytes == *layer, "{id}");
        }
        assert_eq!(report.get("refused"), None, "{report}");
    }
}

/// A search's names, sorted.
fn names(report: &Value) -> Vec<&str> {
    let results = report["search"]["results"].as_array().expect("results");
    let mut names: Vec<&str> = results
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn npm_client_pulls_within_its_rights() {
    let scene = Scene::start(true);
    let cases: [(&str, Account, Option<Value>, &[&str]); 7] = [
        ("open/app", None, None, &["open/app"]),
        ("team/app", READER, None, &["open/app", "team/app"]),
        ("open/app", READER, None, &["open/app", "team/app"]),
        (
            "secret/app",
            PUSHER,
            None,
            &["open/app", "secret/app", "team/app"],
        ),
        // unknown, without rights, and with a wrong password
        (
            "team/app",
            None,
            Some(json!(["listRepoImgs", 401])),
            &["open/app"],
        ),
        (
            "secret/app",
            READER,
            Some(json!(["listRepoImgs", 403])),
            &["open/app", "team/app"],
        ),
        (
            "team/app",
            WRONG,
            Some(json!(["login", "Wrong login/password, please try again"])),
            &[],
        ),
    ];
    for (repository, account, refused, listed) in cases {
        let Some(found) = scene.run(V1Client::Npm, repository, account) else {
            return;
        };
        let report = &found.said;
        let at = format!("{repository} {account:?}: {report}");
        if let Some(refused) = &refused {
            assert_eq!(&report["refused"], refused, "{at}");
            assert_eq!(report.get("images"), None, "{at}");
        } else {
            scene.check(&found);
            assert_eq!(report["tags"], json!({"1": report["id"]}), "{at}");
            let images = report["images"].as_array().expect("images");
            assert!(
                images.iter().any(|image| image["id"] == report["id"]),
                "{at}"
            );
        }
        if account != WRONG {
            assert_eq!(names(report), listed, "{at}");
            let login = account.map(|_| json!("Login Succeeded"));
            assert_eq!(report.get("login"), login.as_ref(), "{at}");
        }
    }
}

/// The client does not support tokens, so with `access` it gets no images; requests that name a repository work.
#[test]
fn python_client_tags_and_searches_with_its_login() {
    let scene = Scene::start(true);
    for (repository, account, refused, listed) in [
        (
            "open/app",
            None,
            json!(["ancestry", 401]),
            json!(["open/app"]),
        ),
        (
            "team/app",
            READER,
            json!(["ancestry", 401]),
            json!(["open/app", "team/app"]),
        ),
        (
            "team/app",
            PUSHER,
            json!(["ancestry", 401]),
            json!(["open/app", "secret/app", "team/app"]),
        ),
        ("team/app", None, json!(["tags", 401]), json!(["open/app"])),
        (
            "secret/app",
            READER,
            json!(["tags", 403]),
            json!(["open/app", "team/app"]),
        ),
    ] {
        let Some(found) = scene.run(V1Client::Python, repository, account) else {
            return;
        };
        let report = &found.said;
        let at = format!("{repository} {account:?}: {report}");
        assert_eq!(report["refused"], refused, "{at}");
        assert_eq!(report["repositories"], listed, "{at}");
        if refused == json!(["ancestry", 401]) {
            assert_eq!(report["tags"], json!(["1"]), "{at}");
            assert_eq!(report["id"].as_str().map(str::len), Some(64), "{at}");
        }
        if account == PUSHER {
            assert_eq!(report["id"], **scene.ids.last().expect("an id"), "{at}");
            assert_eq!(
                (&report["tagged"], &report["untagged"]),
                (&json!(true), &json!(true)),
                "{at}"
            );
            assert_eq!(report["with it"], json!(["1", "added"]), "{at}");
        }
    }
}

#[test]
fn both_clients_pull_anonymously() {
    let scene = Scene::start(false);
    // The second time some layers exist already.
    for _ in 0..2 {
        let sessions = at_once(2, |number| {
            let client = [V1Client::Npm, V1Client::Python][number];
            scene.run(client, "team/app", None)
        });
        for found in sessions.iter().flatten() {
            scene.check(found);
        }
    }
}
