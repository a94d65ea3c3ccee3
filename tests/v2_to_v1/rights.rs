//! The rights are those of v2, and a registry's own v1 side comes first.

use crate::v1::daemon::Daemon;
use crate::v1::versions::FALLS_BACK;
use crate::v2_to_v1::image::{GZIP, file, gzip, push, tar};
use crate::v2_to_v1::{BY_TAG, OLD, ask, json};
use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::origin::Origin;
use testkit::v1::V1Registry;

/// `reader`, `other` and `pusher`, all with the password `password`.
const ACCOUNTS: &str = "reader:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n\
                        other:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";
const READER: Option<(&str, &str)> = Some(("reader", "password"));
const OTHER: Option<(&str, &str)> = Some(("other", "password"));
const WRONG: Option<(&str, &str)> = Some(("reader", "wrong"));

fn gateway(keys: &str) -> Gateway {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("v2_to_v1-htpasswd");
    std::fs::write(&path, ACCOUNTS).expect("writable");
    Gateway::start(&format!(
        "registries:
- {{name: hosted, {keys}, default: true, bridge: true, visibility: rules}}
access:
  htpasswd: {}
  rules:
  - {{users: [anonymous], repositories: [\"hosted/open/**\"], actions: [pull]}}
  - {{users: [reader], repositories: [\"hosted/team/**\"], actions: [pull]}}
  - {{users: [other], repositories: [\"hosted/secret/**\"], actions: [pull]}}
",
        path.display()
    ))
}

#[test]
fn pulls_of_every_version_and_principal() {
    let origin = Origin::start();
    let layers = [
        gzip(&tar(&[file("base", 1)])),
        gzip(&tar(&[file("top", 2)])),
    ];
    let parts: Vec<_> = layers.iter().map(|layer| (GZIP, layer.clone())).collect();
    for name in ["open/app", "team/app", "secret/app"] {
        push(&origin, name, Some("1"), "amd64", &parts);
    }
    let whole = [layers[1].clone(), layers[0].clone()];
    for version in OLD.into_iter().chain([FALLS_BACK]).chain(BY_TAG) {
        let gateway = gateway(&format!("v2: \"{}\"", origin.url()));
        let all = [
            (None, "open/app", None),
            (READER, "open/app", None),
            (WRONG, "open/app", Some(("images", 401))),
            (None, "team/app", Some(("images", 401))),
            (READER, "team/app", None),
            (OTHER, "team/app", Some(("images", 403))),
            (READER, "secret/app", Some(("images", 403))),
            (OTHER, "secret/app", None),
            (OTHER, "secret/none", Some(("images", 404))),
            (READER, "secret/none", Some(("images", 403))),
        ];
        crate::v1::daemon::pulls(version, &gateway, "1", &whole, &all);
    }
}

/// An id is valid with the right to a repository that it was issued for, and with no other.
#[test]
fn ids_of_other_repositories_are_404() {
    let origin = Origin::start();
    let layer = |seed| (GZIP, gzip(&tar(&[file("top", seed)])));
    let base = layer(1);
    push(
        &origin,
        "team/app",
        Some("1"),
        "amd64",
        &[base.clone(), layer(2)],
    );
    push(&origin, "secret/app", Some("1"), "amd64", &[base, layer(3)]);
    let mut gateway = gateway(&format!("v2: \"{}\"", origin.url()));
    let of = |gateway: &Gateway, name: &str, who: (&str, &str)| {
        let basic = testkit::basic(who.0, who.1);
        let asked = [("X-Docker-Token", "true"), ("Authorization", &*basic)];
        let line = format!("GET /v1/repositories/{name}/images");
        let list = ask(gateway, &BY_TAG[0], &line, &asked);
        assert_eq!(list.status(), 200, "{list:?}");
        format!("Token {}", list.header("x-docker-token").expect("a token"))
    };
    let (reader, other) = (("reader", "password"), ("other", "password"));
    let tokens = [
        of(&gateway, "team/app", reader),
        of(&gateway, "secret/app", other),
    ];
    let get = |gateway: &Gateway, path: &str, token: &str| {
        ask(
            gateway,
            &OLD[4],
            &format!("GET /v1/{path}"),
            &[("Authorization", token)],
        )
    };
    let mut ids: Vec<Vec<String>> = Vec::new();
    for (name, token) in ["team/app", "secret/app"].iter().zip(&tokens) {
        let tags = json(&get(&gateway, &format!("repositories/{name}/tags"), token));
        let id = tags["1"].as_str().expect("an id");
        let ancestry = json(&get(&gateway, &format!("images/{id}/ancestry"), token));
        ids.push(serde_json::from_value(ancestry).expect("ids"));
    }
    assert_eq!(ids[0][1], ids[1][1], "the base is both's");
    for restarted in [false, true] {
        if restarted {
            gateway.restart();
        }
        for part in ["json", "ancestry", "layer"] {
            for (own, ids) in ids.iter().enumerate() {
                for (at, token) in tokens.iter().enumerate() {
                    for (place, id) in ids.iter().enumerate() {
                        let status = get(&gateway, &format!("images/{id}/{part}"), token).status();
                        let expected = if own == at || place == 1 { 200 } else { 404 };
                        assert_eq!(status, expected, "{part} {place} of {own} with {at}");
                    }
                }
                for other_token in ["", "Token signature=x,repository=\"team/app\",access=read"] {
                    let reply = get(&gateway, &format!("images/{}/{part}", ids[0]), other_token);
                    assert_eq!(reply.status(), 401, "{part}");
                }
            }
        }
    }
}

#[test]
fn v1_registry_precedes_the_bridge() {
    let (origin, registry) = (Origin::start(), V1Registry::start());
    let layer = gzip(&tar(&[file("modern", 1)]));
    for name in ["team/both", "team/modern"] {
        push(&origin, name, Some("1"), "amd64", &[(GZIP, layer.clone())]);
    }
    push(
        &origin,
        "team/both",
        Some("2"),
        "amd64",
        &[(GZIP, layer.clone())],
    );
    let old = random(1, 5000);
    registry.push_image("team/both", "1", &[&old]);
    registry.push_image("team/old", "1", &[&old]);
    let servers = format!("v1: \"{}\", v2: \"{}\"", registry.url(), origin.url());
    let bridged = gateway(&servers);
    for version in OLD.into_iter().chain([FALLS_BACK]).chain(BY_TAG) {
        let pull = |name, tag| Daemon::new(version, &bridged, READER).pull(name, tag);
        assert_eq!(
            pull("team/both", "1"),
            Ok(vec![old.clone()]),
            "{}",
            version.agent
        );
        assert_eq!(pull("team/old", "1"), Ok(vec![old.clone()]));
        assert_eq!(pull("team/modern", "1"), Ok(vec![layer.clone()]));
        // For a name that the v1 side has, all answers come from it.
        assert_eq!(pull("team/both", "2"), Err(("tag", 404)));
        assert_eq!(pull("team/none", "1"), Err(("images", 404)));
    }
    // The bridge is on by default if both are given, and can be switched off.
    let switched = |bridge: &str| {
        Gateway::start(&format!(
            "registries:\n- {{name: hosted, {servers}, default: true{bridge}}}\n"
        ))
    };
    let (default, off) = (switched(""), switched(", bridge: false"));
    let pull = |gateway, name| Daemon::new(OLD[2], gateway, None).pull(name, "1");
    assert_eq!(pull(&default, "team/modern"), Ok(vec![layer]));
    assert_eq!(pull(&off, "team/modern"), Err(("images", 404)));
    assert_eq!(pull(&off, "team/old"), Ok(vec![old]));
}
