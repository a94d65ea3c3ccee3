//! Tests of every configuration file that we ship.

use std::path::Path;

use ::access::Action;
use regex::Regex;

use super::tests::{EVERYTHING, assert_bare, assert_defaults, tcp, typed};
use super::*;
use ::access::{Rule, Users};

/// What is shipped is what is checked.
fn shipped(name: &str) -> (String, Config) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conf")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let config = load(Some(&path), NamedFiles::Checked).unwrap_or_else(|faults| panic!("{faults}"));
    (text, config)
}

#[test]
fn the_documented_example_shows_the_defaults_and_passes() {
    let (text, config) = shipped("roadstead.yaml");
    assert_defaults(&config);

    // With its commented keys switched on (`#` without a space after it), it is the whole contract.
    let switched_on: Vec<String> = text
        .lines()
        .map(|line| match line.trim_start().strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with(' ') => line.replacen('#', "", 1),
            _ => line.to_owned(),
        })
        .collect();
    let all = typed(&switched_on.join("\n")).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(all.access.is_some() && all.store.bucket.is_some());
    let keys = |text: &str| {
        let words: std::collections::BTreeSet<String> =
            Regex::new(r"(?m)(?:^\s*#?-? *|[{,] ?)([a-z0-9_]+):")
                .unwrap()
                .captures_iter(text)
                .map(|found| found[1].to_owned())
                .collect();
        words
    };
    let missing: Vec<String> = keys(EVERYTHING).difference(&keys(&text)).cloned().collect();
    assert_eq!(
        missing,
        Vec::<String>::new(),
        "keys that the example does not show"
    );
}

#[test]
fn the_gateway_of_a_lan_passes() {
    let (_, config) = shipped("lan.yaml");
    assert_eq!(config.warnings, []);
    let names: Vec<&str> = config.registries.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io"]
    );
    assert_eq!(config.listen[0].address, tcp("", 443));
    assert!(config.listen[1].read_only);
}

/// One hostname in front of a v1 and a v2 registry, on a machine and in containers.
#[test]
fn the_front_of_two_registries_passes() {
    for (name, https, http, v2, v1) in [
        (
            "front.yaml",
            443,
            80,
            "http://127.0.0.1:6002",
            "http://127.0.0.1:6001",
        ),
        (
            "container.yaml",
            8443,
            8080,
            "http://v2:5000",
            "http://v1:5000",
        ),
    ] {
        let (_, config) = shipped(name);
        // The reader of the recipe creates the accounts.
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let accounts = |warnings: &String| warnings.contains("htpasswd cannot be read");
        assert!(warnings.iter().all(accounts), "{warnings:?}");

        // The classic arrangement: hosting over TLS, and a mirror in plain text by the same name.
        let [tls, plain] = config.listen.as_slice() else {
            panic!("two listeners");
        };
        assert_eq!((&tls.address, &tls.tls), (&tcp("", https), &Tls::AUTO));
        assert!(!tls.read_only && tls.registry.is_none());
        assert_eq!((&plain.address, &plain.tls), (&tcp("", http), &Tls::Off));
        assert!(plain.read_only);
        assert_eq!(plain.registry.as_deref(), Some("docker.io"));

        let [hosted, hub] = config.registries.as_slice() else {
            panic!("two registries");
        };
        assert_bare(hub, "docker.io", "https://registry-1.docker.io");
        assert_eq!(hosted.hosts, ["registry.example.com"]);
        assert_eq!(hosted.v2.as_ref().unwrap().to_string(), v2);
        assert!(hosted.push && hosted.default && !hub.push);

        // docker-deployer alone pushes and deletes; any client pulls.
        let access = config.access.as_ref().unwrap();
        let [deployer, anybody] = access.rules.as_slice() else {
            panic!("two rules");
        };
        assert_eq!(deployer.users, [Users::Named("docker-deployer".to_owned())]);
        assert_eq!(
            deployer.actions,
            [Action::Pull, Action::Push, Action::Delete]
        );
        assert_eq!(anybody.users, [Users::Anonymous]);
        assert_eq!(anybody.actions, [Action::Pull]);
        let patterns = |rule: &Rule| {
            rule.repositories
                .iter()
                .map(|it| it.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(patterns(deployer), ["hosted/**"]);
        assert_eq!(patterns(anybody), ["hosted/**", "docker.io/**"]);
        assert_eq!(hosted.v1.as_ref().unwrap().to_string(), v1);
    }
}
