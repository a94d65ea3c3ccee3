//! Whatever the files of a client have: what is written means what was there and what is needed, twice is as once, and undoing
//! restores every byte.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn gateway(https: bool) -> Gateway {
    let url = if https {
        "https://gw.lan:5000"
    } else {
        "http://gw.lan:5000"
    };
    let mut gateway = Gateway::parse(url).expect("a URL");
    gateway.ca = https.then(|| "-----BEGIN CERTIFICATE-----\n".to_owned());
    gateway.registries = vec!["docker.io".to_owned(), "ghcr.io".to_owned()];
    gateway
}

/// Keys that matter, and others.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("registry-mirrors".to_owned()),
        Just("mirrors".to_owned()),
        Just("configs".to_owned()),
        Just("docker.io".to_owned()),
        Just("gw.lan:5000".to_owned()),
        Just("endpoint".to_owned()),
        Just("registry".to_owned()),
        "[a-z]{1,3}",
        "\\PC{0,4}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(Value::from("https://gw.lan:5000")),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec((key(), value()), 0..4).prop_map(|entries| entries.into_iter().collect())
}

/// A document of TOML, as a person writes it.
fn toml_text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("# a comment"),
        Just(""),
        Just("version = 2"),
        Just("version = 3"),
        Just("debug = true"),
        Just("[registry.\"docker.io\"]"),
        Just("[registry.'gw.lan:5000'] # ours"),
        Just("[plugins.\"io.containerd.grpc.v1.cri\".registry]"),
        Just("[[registry]]"),
        Just("[host.\"https://other\"]"),
        Just("mirrors = [ \"a\" ]"),
        Just("mirrors = [\n  \"a\",\n  # [host]\n]"),
        Just("  http = true"),
        Just("config_path = \"\""),
        Just("text = '''\n[registry.\"docker.io\"]\n'''"),
        Just("server = \"https://other\""),
        Just("\u{e9} = "),
    ];
    prop::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))
}

/// Writes a file, sets the client up twice and undoes it.
fn round(client: Client, path: &str, before: Option<&str>, https: bool) -> Option<String> {
    let root = tempfile::tempdir().expect("a folder");
    fs::create_dir(root.path().join("etc")).expect("made");
    let files = Files::below(root.path());
    let place = files.place(Path::new(path));
    if let Some(before) = before {
        fs::create_dir_all(place.parent().expect("a folder")).expect("made");
        fs::write(&place, before).expect("written");
    }
    let gateway = gateway(https);
    let now = || files.read(Path::new(path)).expect("readable");
    let Ok(plan) = files.plan(client, &gateway) else {
        assert_eq!(now().as_deref(), before);
        return None;
    };
    files.write(&plan).expect("written");
    let after = now();
    let again = files.plan(client, &gateway).expect("as before");
    assert!(!again.changes.iter().any(Change::is_needed), "{again:?}");
    assert_eq!(
        files.write(&again).expect("nothing"),
        Vec::<std::path::PathBuf>::new()
    );
    let undone = files.undo(client).expect("undone").expect("a record");
    assert_eq!(undone.left, Vec::<std::path::PathBuf>::new());
    assert_eq!(now().as_deref(), before);
    if before.is_none() {
        let left = fs::read_dir(root.path().join("etc")).expect("a folder");
        assert_eq!(left.count(), 0);
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn daemon_json_means_what_it_should(before in object(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&before) } else { serde_json::to_string(&before) };
        let after = round(Client::Docker, "/etc/docker/daemon.json", Some(&text.expect("JSON")), true);
        let mut expected = before;
        let list = expected.entry("registry-mirrors").or_insert_with(|| json!([]));
        let url = json!("https://gw.lan:5000");
        let Value::Array(items) = list else {
            prop_assert_eq!(after, None);
            return Ok(());
        };
        if !items.contains(&url) {
            items.insert(0, url);
        }
        let after: Value = serde_json::from_str(&after.expect("merged")).expect("JSON");
        prop_assert_eq!(after, Value::Object(expected));
    }

    #[test]
    fn registries_yaml_means_what_it_should(before in object(), flow: bool) {
        let text = if flow { serde_json::to_string(&before).expect("JSON") } else { serde_yaml::to_string(&before).expect("YAML") };
        // Only what both parsers read alike.
        prop_assume!(serde_yaml::from_str::<Value>(&text).is_ok_and(|read| read == Value::Object(before.clone())));
        if let Some(after) = round(Client::K3s, "/etc/rancher/k3s/registries.yaml", Some(&text), true) {
            let after: Value = serde_yaml::from_str(&after).expect("YAML");
            for registry in ["docker.io", "ghcr.io"] {
                let endpoints = after["mirrors"][registry]["endpoint"].as_array().expect("a list");
                prop_assert!(endpoints.contains(&json!("https://gw.lan:5000")));
            }
            for (key, value) in before {
                if !["mirrors", "configs"].contains(&key.as_str()) {
                    prop_assert_eq!(&after[&key], &value);
                }
            }
        }
    }

    #[test]
    fn toml_is_restored(text in toml_text(), https: bool) {
        for (client, path) in [
            (Client::BuildKit, "/etc/buildkit/buildkitd.toml"),
            (Client::Containerd, "/etc/containerd/config.toml"),
            (Client::Containerd, "/etc/containerd/certs.d/ghcr.io/hosts.toml"),
            (Client::Podman, "/etc/containers/registries.conf.d/other.conf"),
        ] {
            round(client, path, Some(&text), https);
        }
    }

    #[test]
    fn any_text_is_merged_or_refused(text in "\\PC{0,80}|[\\[\\]{}\":,\n a-]{0,60}") {
        for (client, path) in [
            (Client::Docker, "/etc/docker/daemon.json"),
            (Client::K3s, "/etc/rancher/k3s/registries.yaml"),
            (Client::BuildKit, "/etc/buildkit/buildkitd.toml"),
        ] {
            round(client, path, Some(&text), true);
        }
    }
}

#[test]
fn nothing_remains_where_nothing_was() {
    for client in Client::ALL {
        for https in [true, false] {
            round(client, "/etc/none", None, https);
        }
    }
}
