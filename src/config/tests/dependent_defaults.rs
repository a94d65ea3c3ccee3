//! Defaults that depend on other keys.

use super::*;

#[test]
fn defaults_that_depend() {
    let registry = |text: &str| typed(text).unwrap().registries.remove(0);

    let with_credentials =
        registry("registries: [{name: a.example, credentials: {helper: docker-credential-x}}]");
    assert_eq!(with_credentials.visibility, Visibility::Rules);
    let helper = &with_credentials.accounts[..];
    assert!(matches!(helper, [Credentials::Helper(name)] if name == "docker-credential-x"));

    let accounts = "accounts: [{username: a, password: x}, {username: b, password_file: p}]";
    let with_accounts = registry(&format!("registries: [{{name: a.example, {accounts}}}]"));
    assert_eq!(with_accounts.visibility, Visibility::Rules);
    assert!(matches!(
        &with_accounts.accounts[..],
        [
            Credentials::Password { username: a, .. },
            Credentials::PasswordFile { username: b, .. }
        ] if a == "a" && b == "b"
    ));

    let without = registry("registries: [{name: a.example, credentials: off}]");
    assert_eq!(without.visibility, Visibility::Public);

    let inherits =
        registry("store: {tag_ttl: 1m, link_ttl: 1h, unused_ttl: off}\nregistries: [a.example]");
    assert_eq!((inherits.tag_ttl, inherits.link_ttl), (MINUTE, 60 * MINUTE));
    assert_eq!(inherits.unused_ttl, None);

    let overrides = registry(
        "store: {unused_ttl: off}\nregistries: [{name: a.example, tag_ttl: 2m, unused_ttl: 1d}]",
    );
    assert_eq!(overrides.tag_ttl, 2 * MINUTE);
    assert_eq!(overrides.unused_ttl, Some(DAY));

    let pushed = registry("registries: [{name: a.example, push: true, tag_ttl: 5m}]");
    assert_eq!(
        (pushed.tag_ttl, pushed.missing_ttl),
        (5 * MINUTE, Duration::ZERO)
    );
    assert_eq!(pushed.link_ttl, 10 * MINUTE);

    let old_only = registry("registries: [{name: a.example, v1: http://localhost}]");
    assert!(old_only.v2.is_none() && old_only.v1.is_some() && !old_only.bridge);

    let both = "registries: [{name: a.example, v1: http://localhost, v2: http://localhost}]";
    assert!(registry(both).bridge);

    let moved = registry("registries: [{name: docker.io, v2: http://127.0.0.1:5555}]");
    assert_eq!(moved.v2.unwrap().to_string(), "http://127.0.0.1:5555");
    let hub = registry("registries: [{name: docker.io}]");
    assert_eq!(hub.v2.unwrap().to_string(), "https://registry-1.docker.io");

    let no_default = registry("registries: [{name: a.example, default: false}]");
    assert!(!no_default.default);
    let two = typed("registries: [a.example, b.example]").unwrap();
    assert!(two.registries.iter().all(|registry| !registry.default));
}

#[test]
fn the_second_default_listener_is_docker_hubs() {
    let listeners = |text: &str| typed(text).unwrap().listen.len();
    assert_eq!(listeners("registries: [ghcr.io]"), 1);
    assert_eq!(listeners("registries: [ghcr.io, docker.io]"), 2);
    assert_eq!(
        listeners("registries: [ghcr.io]\nlisten: [{address: ':0'}, {address: ':0'}]"),
        2
    );
}

#[test]
fn docker_hub_has_aliases() {
    let all = [
        "docker.io",
        "index.docker.io",
        "registry-1.docker.io",
        "registry.hub.docker.com",
    ];
    assert_eq!(aliases("docker.io"), all);
    assert!(aliases("ghcr.io").is_empty());
}
