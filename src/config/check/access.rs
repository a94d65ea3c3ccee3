//! Warnings about access that nobody has, or that others can listen to.

use super::super::admin::is_loopback;
use super::super::fault::Report;
use super::super::origin::Scheme;
use super::super::tree::Node;
use super::super::{Config, Listen, ListenAddress, Registry, Tls, Visibility};
use ::access::{Action, CertificateUser, Rule, Scheme as AuthScheme, Users};

/// Reports registries that nobody can use, and logins that cross a network unencrypted or that anonymous pulls do not survive.
pub(super) fn check(config: &Config, tree: &Node, report: &mut Report) {
    for (index, registry) in config.registries.iter().enumerate() {
        let node = tree.near("registries").item(index);
        match &config.access {
            None => without_access(registry, node, report),
            Some(access) => {
                let pulls = |rule: &Rule| permits_pulls(rule, registry, config);
                let is_ruled = registry.visibility != Visibility::Caller;
                if is_ruled && !registry.name.is_empty() && !access.rules.iter().any(pulls) {
                    let name = &registry.name;
                    let message = format!("no rule lets anybody pull from {name}");
                    let write =
                        format!("add one with repositories: [\"{name}/**\"] and actions: [pull]");
                    let has_list = tree.entry("registries").is_some();
                    let node = if has_list { node } else { tree.near("access") };
                    report.warn(node.at, format!("{message}; {write}"));
                }
            }
        }
    }
    let Some(access) = &config.access else {
        return;
    };
    if access.htpasswd.is_some() {
        for (index, listener) in config.listen.iter().enumerate() {
            if takes_plain_passwords(listener) {
                let node = tree.near("listen").item(index);
                let message = "passwords cross the network unencrypted here; write tls: auto, or read_only: true for \
                               anonymous pulls alone";
                report.warn(node.near("tls").at, message);
            }
        }
    }
    let anonymous = |rule: &Rule| {
        rule.users.contains(&Users::Anonymous) && rule.actions.contains(&Action::Pull)
    };
    if access.scheme == AuthScheme::Basic && access.rules.iter().any(anonymous) {
        let message = "with basic Docker, containerd and Podman pull nothing without a login, whatever rules for anonymous \
                       allow; write bearer";
        report.warn(tree.near("access").near("scheme").at, message);
    }
}

/// Reports a registry that nobody can use without `access`.
fn without_access(registry: &Registry, node: &Node, report: &mut Report) {
    if registry.push {
        let message = "without access nobody can push to it; add access with rules, or remove push";
        report.warn(node.near("push").at, message);
    }
    if !registry.accounts.is_empty() && registry.visibility == Visibility::Rules {
        let key = if node.is_set("accounts") {
            "accounts"
        } else {
            "credentials"
        };
        let message = format!(
            "without access nobody can pull with the {key}; add access with rules, or write visibility: public for what \
             the registry serves anonymously"
        );
        report.warn(node.near(key).at, message);
    }
}

/// Whether a rule lets some caller pull some repository of the registry.
fn permits_pulls(rule: &Rule, registry: &Registry, config: &Config) -> bool {
    let is_here = |pattern: &str| {
        let first = pattern.split_once('/').map_or(pattern, |(first, _)| first);
        first == "**" || (first == registry.name && pattern != first)
    };
    rule.actions.contains(&Action::Pull)
        && rule.users.iter().any(|users| has_users(config, users))
        && rule
            .repositories
            .iter()
            .any(|pattern| is_here(pattern.as_str()))
}

/// Whether any client may be one of these users.
pub(super) fn has_users(config: &Config, users: &Users) -> bool {
    let access = config.access.as_ref();
    let has_accounts = access.is_some_and(|access| access.htpasswd.is_some());
    let mut listeners = config.listen.iter();
    let has_certificates =
        listeners.any(|listener| !listener.read_only && listener.tls.client_ca().is_some());
    match users {
        Users::Anonymous => true,
        Users::LoggedIn => has_accounts || has_certificates,
        Users::Named(name) if CertificateUser::of_name(name).is_some() => has_certificates,
        Users::Named(_) => has_accounts,
    }
}

/// Whether clients on other machines send passwords to a listener in plain text.
fn takes_plain_passwords(listener: &Listen) -> bool {
    let is_remote = match &listener.address {
        ListenAddress::Tcp { host, .. } => !is_loopback(host.as_deref()),
        ListenAddress::Unix(_) => false,
    };
    // Then a proxy in front has TLS.
    let is_proxied = listener
        .public_url
        .as_ref()
        .is_some_and(|url| url.scheme == Scheme::Https);
    listener.tls == Tls::Off && !listener.read_only && is_remote && !is_proxied
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{assert_faults, typed};

    const RULE: &str = "{users: [anonymous], repositories: ['**'], actions: [pull]}";

    #[test]
    fn registries_that_nobody_can_use() {
        const PULL: &str = "no rule lets anybody pull from docker.io; add one with repositories: [\"docker.io/**\"] and actions: [pull]";
        const PUSH: &str =
            "without access nobody can push to it; add access with rules, or remove push";
        const ACCOUNT: &str = "without access nobody can pull with the credentials; add access with rules, or write \
                               visibility: public for what the registry serves anonymously";
        let warning = |at: &str, message: &str| format!("warning: {at}: {message}");
        let account = "credentials: {username: u, password: p}";
        let accounts = "accounts: [{username: u, password: p}]";
        for (yaml, expected) in [
            ("registries: [{name: a, push: true}]".to_owned(), vec![warning("1:30", PUSH)]),
            (
                format!("registries: [{{name: a, {account}}}]"),
                vec![warning("1:37", ACCOUNT)],
            ),
            (
                format!("registries: [{{name: a, {accounts}}}]"),
                vec![warning("1:34", &ACCOUNT.replace("credentials", "accounts"))],
            ),
            (format!("registries: [{{name: a, visibility: public, {account}}}]"), vec![]),
            (format!("registries: [{{name: a, visibility: public, {accounts}}}]"), vec![]),
            (
                format!("registries: [{{name: a, push: true, {account}}}]"),
                vec![warning("1:30", PUSH), warning("1:49", ACCOUNT)],
            ),
            (
                "registries: [docker.io]\naccess: {}".to_owned(),
                vec![warning("1:14", PULL)],
            ),
            (format!("access: {{rules: [{RULE}]}}"), vec![]),
            (
                "registries: [docker.io, a.example]\naccess: {rules: [{users: [anonymous], repositories: ['a.example/**'], actions: [pull]}]}".to_owned(),
                vec![warning("1:14", PULL)],
            ),
            (
                "registries: [{name: docker.io, push: true}]\naccess: {htpasswd: h, rules: [{users: [u], repositories: ['**'], actions: [push]}]}".to_owned(),
                vec![warning("1:14", PULL)],
            ),
            (
                "registries: [{name: a, visibility: caller, hosts: [h]}]\naccess: {}".to_owned(),
                vec![],
            ),
        ] {
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            assert_faults(&[(&yaml, &expected)]);
        }
    }

    #[test]
    fn users_of_client_certificates() {
        const NONE: &str = "no listener has a client_ca";
        let yaml = |listener: &str, users: &str| {
            format!(
                "listen: [{{address: \":1\"{listener}}}]\naccess: {{rules: [{{users: [{users}], repositories: ['**'], actions: [pull]}}]}}"
            )
        };
        let with = ", tls: {client_ca: c}";
        for (listener, users, warned) in [
            (with, "'cert:runner 7'", None),
            (with, "'*'", None),
            ("", "'cert:runner'", Some(NONE)),
            (
                ", tls: {client_ca: c}, read_only: true",
                "'cert:runner'",
                Some(NONE),
            ),
            (
                with,
                "runner",
                Some("without htpasswd there are no accounts"),
            ),
            ("", "'*'", Some("without htpasswd there are no accounts")),
        ] {
            let config = typed(&yaml(listener, users)).expect("good");
            let mut warnings = config.warnings.iter().map(ToString::to_string);
            let found = warnings.find(|it| it.contains("never matches"));
            let as_expected = match (&found, warned) {
                (Some(found), Some(warned)) => found.contains(warned),
                (found, warned) => found.is_none() && warned.is_none(),
            };
            assert!(as_expected, "{listener} {users}: {found:?}");
        }
    }

    #[test]
    fn passwords_in_plain_text() {
        const PLAIN: &str = "passwords cross the network unencrypted here; write tls: auto, or read_only: true for \
                             anonymous pulls alone";
        let yaml = |listener: &str, htpasswd: &str| {
            format!("listen: [{{{listener}}}]\naccess: {{{htpasswd}rules: [{RULE}]}}")
        };
        let warned = format!("warning: 1:36: {PLAIN}");
        for address in [":5000", "10.0.0.1:5000", "gateway.lan:5000", "0.0.0.0:5000"] {
            let yaml = yaml(&format!("address: {address:?}, tls: off"), "htpasswd: h, ");
            let column = 29 + address.len();
            let warned = warned.replace("1:36", &format!("1:{column}"));
            assert_faults(&[(&yaml, &[&*warned])]);
        }
        for (listener, htpasswd) in [
            (r#"address: ":5000", tls: off"#, ""),
            (r#"address: ":5000""#, "htpasswd: h, "),
            (
                r#"address: ":5000", tls: off, read_only: true"#,
                "htpasswd: h, ",
            ),
            (r#"address: "127.0.0.1:5000", tls: off"#, "htpasswd: h, "),
            (r#"address: "[::1]:5000", tls: off"#, "htpasswd: h, "),
            (r#"address: "unix:a", tls: off"#, "htpasswd: h, "),
            (
                r#"address: ":5000", tls: off, public_url: "https://r.example""#,
                "htpasswd: h, ",
            ),
        ] {
            assert_faults(&[(&yaml(listener, htpasswd), &[])]);
        }
    }

    #[test]
    fn anonymous_pulls_with_basic() {
        const BASIC: &str = "warning: 1:18: with basic Docker, containerd and Podman pull nothing without a login, \
                             whatever rules for anonymous allow; write bearer";
        let yaml = |users: &str| {
            format!(
                "access: {{scheme: basic, htpasswd: h, rules: [{{users: [{users}], repositories: ['**'], actions: [pull]}}]}}"
            )
        };
        assert_faults(&[(&yaml("anonymous"), &[BASIC]), (&yaml("alice"), &[])]);
        let bearer = yaml("anonymous").replace("basic", "bearer");
        assert_faults(&[(&bearer, &[])]);
    }
}
