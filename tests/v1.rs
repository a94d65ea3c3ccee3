//! The v1 API: old Docker, request by request, against a scripted registry with the faults of the real one; rights by
//! token; images that belong to one repository only.

mod broken_registries;
mod clients;
pub mod daemon;
mod mirror;
mod mirror_accounts;
mod mirror_fills;
mod mirror_real;
mod mirror_tags;
mod real;
mod recorded;
mod requests;
mod rights;
pub mod versions;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::v1::V1Registry;

use daemon::Daemon;
use versions::{BY_TAG, FALLS_BACK, MODERN, OLD};

/// `reader` and `pusher`, both with the password `password`.
pub const ACCOUNTS: &str =
    "reader:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\npusher:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";
pub const READER: Option<(&str, &str)> = Some(("reader", "password"));
pub const PUSHER: Option<(&str, &str)> = Some(("pusher", "password"));
const WRONG: Option<(&str, &str)> = Some(("reader", "wrong"));

/// A gateway in front of a v1 registry and an unreachable v2 one. `open/**` is public, `team/**` is the reader's; the
/// pusher may do everything.
pub fn gateway(registry: &V1Registry) -> Gateway {
    gateway_with(registry, "")
}

pub fn gateway_with(registry: &V1Registry, more: &str) -> Gateway {
    gateway_before(&registry.url(), more)
}

/// [`gateway_with`] in front of the v1 registry at this URL.
pub fn gateway_before(v1: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "registries:
- {{name: hosted, v1: \"{v1}\", v2: \"http://127.0.0.1:1\", push: true, bridge: false{more}}}
access:
  htpasswd: {}
{RULES}",
        accounts().display()
    ))
}

/// The rules of [`gateway`].
pub const RULES: &str = r#"  rules:
  - {users: [anonymous], repositories: ["hosted/open/**", "hosted/open"], actions: [pull]}
  - {users: [reader], repositories: ["hosted/team/**", "hosted/app"], actions: [pull]}
  - {users: [pusher], repositories: ["hosted/**"], actions: [pull, push, delete]}
"#;

/// The file of [`ACCOUNTS`].
pub fn accounts() -> &'static Path {
    static WRITTEN: OnceLock<PathBuf> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("v1-htpasswd");
        std::fs::write(&path, ACCOUNTS).expect("writable");
        path
    })
}

/// The rights of each account, as each version reports them.
#[test]
fn pulls_of_every_version_and_principal() {
    let registry = V1Registry::start();
    let layers = [random(1, 70_000), random(2, 3_000)];
    let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    for name in ["open/app", "team/app", "library/app", "secret/app"] {
        registry.push_image(name, "latest", &parts);
    }
    let whole = [layers[1].clone(), layers[0].clone()];
    for version in OLD.into_iter().chain([FALLS_BACK]).chain(BY_TAG) {
        // Each has a gateway that has seen no wrong passwords yet.
        let gateway = gateway(&registry);
        let all = [
            (None, "open/app", None),
            (READER, "open/app", None),
            (PUSHER, "open/app", None),
            // A wrong password is refused, though none was needed.
            (WRONG, "open/app", Some(("images", 401))),
            (None, "team/app", Some(("images", 401))),
            (READER, "team/app", None),
            (PUSHER, "team/app", None),
            (WRONG, "team/app", Some(("images", 401))),
            // one component: `library/` in some requests, not in others
            (READER, "app", None),
            (None, "app", Some(("images", 401))),
            (READER, "secret/app", Some(("images", 403))),
            (PUSHER, "secret/app", None),
            (PUSHER, "secret/absent", Some(("images", 404))),
            (READER, "secret/absent", Some(("images", 403))),
        ];
        daemon::pulls(version, &gateway, "latest", &whole, &all);
    }
}

#[test]
fn pushes_of_every_version_and_principal() {
    let registry = V1Registry::start();
    let gateway = gateway(&registry);
    for (number, version) in OLD.into_iter().enumerate() {
        let layers = [
            random(number as u64 + 10, 100_000),
            random(number as u64 + 20, 500),
        ];
        let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        for (who, expected) in [
            (None, ("begin", 401)),
            (READER, ("begin", 403)),
            (WRONG, ("begin", 401)),
        ] {
            registry.clear_requests();
            let pushed = Daemon::new(version, &gateway, who).push("team/new", "1", &parts);
            assert_eq!(pushed, Err(expected), "{} {who:?}", version.agent);
            assert_eq!(
                registry.requests().len(),
                0,
                "it was refused before anything was asked"
            );
        }
        for name in [format!("team/new-{number}"), format!("short-{number}")] {
            let mut daemon = Daemon::new(version, &gateway, PUSHER);
            let ids = daemon.push(&name, "1", &parts).expect("pushed");
            for (id, layer) in ids.iter().zip(&layers) {
                assert!(registry.layer(id).as_ref() == Some(layer), "{name} {id}");
            }
            let there = if name.contains('/') {
                name.clone()
            } else {
                format!("library/{name}")
            };
            assert_eq!(registry.tag(&there, "1").as_ref(), ids.last());
            // again: all layers exist already
            assert_eq!(daemon.push(&name, "2", &parts).as_ref(), Ok(&ids));
            let pulled = Daemon::new(version, &gateway, PUSHER).pull(&name, "2");
            assert!(
                pulled == Ok(vec![layers[1].clone(), layers[0].clone()]),
                "{name}"
            );
        }
    }
}

#[test]
fn logins_of_every_version_and_principal() {
    let registry = V1Registry::start();
    for version in OLD.into_iter().chain([FALLS_BACK, MODERN]) {
        let gateway = gateway(&registry);
        for (who, expected) in [
            (READER, Ok(())),
            (PUSHER, Ok(())),
            (WRONG, Err(("login", 401))),
            (Some(("nobody", "password")), Err(("login", 401))),
            (None, Err(("login", 401))),
        ] {
            let told = Daemon::new(version, &gateway, who).login();
            assert_eq!(told, expected, "{} {who:?}", version.agent);
        }
    }
    assert_eq!(registry.requests().len(), 0, "logins are ours");
}

#[test]
fn search_shows_pullable_names_only() {
    let registry = V1Registry::start();
    for name in ["open/app", "team/app", "secret/app", "library/app"] {
        registry.push_image(name, "1", &[b"layer"]);
    }
    let gateway = gateway(&registry);
    for version in OLD.into_iter().chain([FALLS_BACK, MODERN]) {
        let search = |who| {
            Daemon::new(version, &gateway, who)
                .search("app")
                .expect("found")
        };
        assert_eq!(search(None), ["open/app"]);
        assert_eq!(search(READER), ["library/app", "open/app", "team/app"]);
        assert_eq!(search(PUSHER).len(), 4);
    }
    let asked = registry.requests();
    assert!(
        asked
            .iter()
            .all(|asked| asked.line.starts_with("GET /v1/search?q=app "))
    );
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

/// Without `access` there are no tokens: the ping reports a standalone registry, and images need no token.
#[test]
fn without_access_pulls_are_public_and_pushes_denied() {
    let registry = V1Registry::start();
    let layer = random(3, 5000);
    registry.push_image("library/app", "latest", &[&layer]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v1: \"{}\"}}]",
        registry.url()
    ));
    for version in OLD {
        for who in [None, READER] {
            let pulled = Daemon::new(version, &gateway, who).pull("app", "latest");
            assert!(
                pulled == Ok(vec![layer.clone()]),
                "{} {:?}",
                version.agent,
                pulled.err()
            );
            let pushed = Daemon::new(version, &gateway, who).push("app", "1", &[&layer]);
            assert_eq!(pushed, Err(("begin", 405)));
        }
    }
}

/// Rules without accounts: tokens are anonymous, and still name their repository.
#[test]
fn rules_without_accounts_apply_to_anonymous() {
    let registry = V1Registry::start();
    let layer = random(4, 5000);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v1: \"{}\", push: true}}]
access: {{rules: [{{users: [anonymous], repositories: [\"hosted/open/**\"], actions: [pull, push]}}]}}",
        registry.url()
    ));
    for version in OLD {
        for who in [None, READER] {
            let mut daemon = Daemon::new(version, &gateway, who);
            daemon.push("open/app", "1", &[&layer]).expect("pushed");
            assert!(daemon.pull("open/app", "1") == Ok(vec![layer.clone()]));
            assert_eq!(daemon.pull("secret/app", "1"), Err(("images", 403)));
        }
    }
}
