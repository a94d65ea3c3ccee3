//! Cross-checks between keys. A fault has the position of the later key.

mod access;
mod change;
mod files;
mod rules;

pub(super) use change::check as change;
pub(super) use files::check as files;

use std::collections::HashMap;

use super::fault::{Position, Report, either, nearest, shown};
use super::host::{HUB, canonical, registry_name};
use super::tree::Node;
use super::{Config, ListenAddress, Origin, Registry, Visibility, admin, gate};
use oci::glob::Pattern;
use oci::network::Network;

/// Reports all contradictions in `config`; `tree` has the positions.
pub(super) fn config(config: &Config, tree: &Node, report: &mut Report) {
    addresses(config, tree, report);
    listeners(config, tree, report);
    admin::check(&config.admin, tree.near("admin"), report);
    let nodes = tree.near("registries");
    names(&config.registries, nodes, report);
    ownership(&config.registries, nodes, report);
    for (index, registry) in config.registries.iter().enumerate() {
        let node = nodes.item(index);
        one_registry(registry, node, report);
        gate::check(registry, node, report);
        if config.access.is_none() && registry.v1.is_some() && registry.v1_index.is_some() {
            let message = "without access requests for images name no repository, so the registry is not sent \
                           the index's tokens; add access with rules, unless the registry wants none";
            report.warn(node.near("v1_index").at, message);
        }
    }
    access::check(config, tree, report);
    rules::check(config, tree.near("access").near("rules"), report);
}

/// The addresses of all listeners, with their positions and keys, in the order of the file.
fn places<'a>(config: &'a Config, tree: &Node) -> Vec<(Position, &'static str, &'a ListenAddress)> {
    let listeners = config.listen.iter().enumerate().map(|(index, listener)| {
        let node = tree.near("listen").item(index).near("address");
        (node.at, "listen", &listener.address)
    });
    let admin = [
        ("address", "admin.address", &config.admin.address),
        ("metrics", "admin.metrics", &config.admin.metrics),
    ];
    let admin = admin.into_iter().filter_map(|(key, path, address)| {
        Some((tree.near("admin").near(key).at, path, address.as_ref()?))
    });
    let mut places: Vec<_> = listeners.chain(admin).collect();
    places.sort_by_key(|(at, ..)| *at);
    places
}

/// Listeners on the same address.
fn addresses(config: &Config, tree: &Node, report: &mut Report) {
    let places = places(config, tree);
    for (index, (at, _, address)) in places.iter().enumerate() {
        for (_, path, earlier) in &places[..index] {
            if address.collides(earlier) {
                let message = format!("{address} is taken by {path} ({earlier})");
                report.fault(*at, format!("{message}; write another address"));
            }
        }
    }
}

/// Listeners of unknown registries, and permissions of what is no socket file.
fn listeners(config: &Config, tree: &Node, report: &mut Report) {
    let names = config.registries.iter().map(|r| r.name.as_str());
    let known: Vec<&str> = names.filter(|name| registry_name(name).is_ok()).collect();
    for (index, listener) in config.listen.iter().enumerate() {
        let node = tree.near("listen").item(index);
        for key in ["mode", "group"] {
            let address = &listener.address;
            if node.is_set(key) && matches!(address, ListenAddress::Tcp { .. }) {
                let message =
                    format!("{key} is for socket files, and {address} is none; remove {key}");
                report.fault(node.near(key).at, message);
            }
        }
        if listener.proxy_protocol.is_some() && !node.is_set("trusted_proxies") {
            let message = "without trusted_proxies any client could choose its address; write \
                           trusted_proxies: [10.0.0.7]";
            report.fault(node.near("proxy_protocol").at, message.to_owned());
        }
        if listener.trusted_proxies.iter().any(Network::is_everything) {
            let message = "every client is a trusted proxy here, and may choose its address; write the addresses of your \
                           proxies";
            report.warn(node.near("trusted_proxies").at, message);
        }
        let Some(name) = listener.registry.as_deref() else {
            continue;
        };
        // Without any valid name there are only the faults of the names.
        if known.is_empty() || known.contains(&name) {
            continue;
        }
        let node = node.near("registry");
        let write = match (canonical(name), nearest(name, &known)) {
            (Some(hub), _) => format!("write {hub}"),
            (None, Some(meant)) => format!("did you mean \"{meant}\"?"),
            (None, None) => format!("write {}", either(&known)),
        };
        report.fault(
            node.at,
            format!("no registry is called {}; {write}", shown(name)),
        );
    }
}

/// Names, hosts and the default, which at most one registry may have.
fn names(registries: &[Registry], nodes: &Node, report: &mut Report) {
    let mut names = HashMap::new();
    let mut hosts = HashMap::new();
    let mut default = None;
    for (index, registry) in registries.iter().enumerate() {
        let node = nodes.item(index);
        let name = node.near("name");
        // Absent names are empty.
        if !registry.name.is_empty()
            && let Some(line) = names.insert(&registry.name, name.at.line)
        {
            let shown = shown(&registry.name);
            let message = format!("{shown} is a registry in line {line} already; keep one");
            report.fault(name.at, message);
        }
        for (index, host) in registry.hosts.iter().enumerate() {
            let at = node.near("hosts").item(index).at;
            if host.is_empty() {
                continue;
            }
            if let Some(line) = hosts.insert(host, at.line) {
                let message = format!("{} chooses a registry in line {line} already", shown(host));
                report.fault(at, format!("{message}; keep one"));
            }
        }
        if registry.default
            && let Some(line) = default.replace(node.near("default").at.line)
        {
            let message = format!("the default is in line {line} already; keep one of them");
            report.fault(node.near("default").at, message);
        }
    }
}

/// Patterns of `owns` that overlap between registries.
fn ownership(registries: &[Registry], nodes: &Node, report: &mut Report) {
    let mut earlier: Vec<(usize, &Pattern, usize)> = Vec::new();
    for (index, registry) in registries.iter().enumerate() {
        let node = nodes.item(index).near("owns");
        for (item, pattern) in registry.owns.iter().enumerate() {
            let at = node.item(item).at;
            let text = pattern.as_str();
            if text.is_empty() {
                continue;
            }
            let taken = earlier
                .iter()
                .find(|(other, taken, _)| *other != index && taken.overlaps(pattern));
            if let Some((_, taken, line)) = taken {
                let message = format!(
                    "{} overlaps {} of line {line}",
                    shown(text),
                    shown(taken.as_str())
                );
                report.fault(
                    at,
                    format!("{message}; a name has one owner, narrow one of them"),
                );
            }
            if registry.name == HUB && is_short(text) {
                let message = format!("{} never matches; write library/{text}", shown(text));
                report.warn(at, message);
            }
            earlier.push((index, pattern, at.line));
        }
    }
}

/// Whether only names of one component match. docker.io has none of them: they are `library/x`.
fn is_short(pattern: &str) -> bool {
    pattern != "**" && !pattern.contains('/')
}

/// Contradictions within one registry.
fn one_registry(registry: &Registry, node: &Node, report: &mut Report) {
    if registry.visibility == Visibility::Caller {
        let at = node.near("visibility").at;
        if node
            .entry("hosts")
            .is_none_or(|hosts| hosts.node.items().is_empty())
        {
            let write = "write hosts: [registry.example.com]";
            report.fault(at, format!("caller needs a host of its own; {write}"));
        }
        if registry.push {
            let write = "write visibility: rules, or remove push";
            report.fault(at, format!("caller cannot be pushed to; {write}"));
        }
        for key in ["credentials", "accounts"] {
            if node.is_set(key) && !registry.accounts.is_empty() {
                let message = format!("with caller the {key} are never used; remove them");
                report.warn(node.near(key).at, message);
            }
        }
    }
    // Unit tests read every key in every build.
    if cfg!(not(any(feature = "v1", test))) && node.is_set("v1") {
        let write = "remove v1, or build it with the feature v1";
        let message = format!("this program was built without v1; {write}");
        report.fault(node.near("v1").at, message);
    }
    if node.is_set("v1_index") && !node.is_set("v1") {
        let write = "write v1, or remove v1_index";
        report.fault(
            node.near("v1_index").at,
            format!("an index without v1; {write}"),
        );
    }
    // v1 reads use the same account as pushes, so public reads would use it too.
    let account = !registry.accounts.is_empty() && registry.v1.is_some() && registry.push;
    if account && registry.visibility == Visibility::Public {
        let write = "write visibility: rules";
        let message = format!("v1 with credentials and push cannot be public; {write}");
        report.fault(node.near("visibility").at, message);
    }
    let upstreams = [
        ("v2", &registry.v2),
        ("v1", &registry.v1),
        ("v1_index", &registry.v1_index),
    ];
    for (key, origin) in upstreams {
        if !registry.accounts.is_empty() && origin.as_ref().is_some_and(Origin::is_plain_remote) {
            let message = "the credentials cross the network unencrypted; write https://";
            report.warn(node.near(key).at, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn contradictions() {
        assert_faults(&[
            (
                r#"listen: [{address: ":1", registry: dokcer.io}]"#,
                &[r#"1:36: no registry is called "dokcer.io"; did you mean "docker.io"?"#],
            ),
            (
                r#"listen: [{address: ":1", registry: index.docker.io}]"#,
                &[r#"1:36: no registry is called "index.docker.io"; write docker.io"#],
            ),
            (
                "listen: [{address: \":1\", registry: other.example}]\nregistries: [a.example, b.example]",
                &[r#"1:36: no registry is called "other.example"; write a.example or b.example"#],
            ),
            (
                "listen: [{address: \":1\", registry: ghcr.io}]\nregistries: [ghcr.io/oops]",
                &[
                    r#"2:14: "ghcr.io/oops" is not a registry's name; write a host or a word, such as ghcr.io"#,
                ],
            ),
            (
                r#"listen: [{address: ":1"}, {address: "127.0.0.1:1"}]"#,
                &["1:37: 127.0.0.1:1 is taken by listen (:1); write another address"],
            ),
            (
                r#"listen: [{address: "127.0.0.1:5002"}]"#,
                &[
                    "1:20: 127.0.0.1:5002 is taken by admin.address (127.0.0.1:5002); write another address",
                ],
            ),
            (
                r#"admin: {address: "127.0.0.1:5001", metrics: "127.0.0.1:5001"}"#,
                &[
                    "1:18: 127.0.0.1:5001 is taken by listen (127.0.0.1:5001); write another address",
                    "1:45: 127.0.0.1:5001 is taken by listen (127.0.0.1:5001); write another address",
                    "1:45: 127.0.0.1:5001 is taken by admin.address (127.0.0.1:5001); write another address",
                ],
            ),
            (r#"listen: [{address: ":0"}, {address: ":0"}]"#, &[]),
            (
                r#"listen: [{address: "unix:a"}, {address: "unix:a"}]"#,
                &["1:41: unix:a is taken by listen (unix:a); write another address"],
            ),
            (
                "registries: [docker.io, Docker.io]",
                &[
                    r#"1:25: "Docker.io" is not lower case; write docker.io"#,
                    r#"1:25: "docker.io" is a registry in line 1 already; keep one"#,
                ],
            ),
            (
                "listen: [{address: ':1', registry: docker.io}]\nregistries: [Index.docker.io, docker.io]",
                &[
                    r#"2:14: "Index.docker.io" is another name of docker.io; write docker.io"#,
                    r#"2:31: "docker.io" is a registry in line 2 already; keep one"#,
                ],
            ),
            (
                "registries: [ghcr.io, {name: ghcr.io}]",
                &[r#"1:30: "ghcr.io" is a registry in line 1 already; keep one"#],
            ),
            (
                "registries:\n  - {name: a, hosts: [r.example.com]}\n  - {name: b, hosts: [x.example.com, R.example.com]}",
                &[r#"3:38: "r.example.com" chooses a registry in line 2 already; keep one"#],
            ),
            (
                "registries:\n  - {name: a, default: true}\n  - {name: b}\n  - {name: c, default: true}",
                &["4:24: the default is in line 2 already; keep one of them"],
            ),
            (
                "registries:\n  - {name: a, owns: [\"team/**\", \"x\", \"team/a\"]}\n  - {name: b, owns: [ok, \"*/app\"]}",
                &[
                    r#"3:26: "*/app" overlaps "team/**" of line 2; a name has one owner, narrow one of them"#,
                ],
            ),
            (
                r#"registries: [{name: docker.io, owns: [nginx, "library/x", "**"]}]"#,
                &[r#"warning: 1:39: "nginx" never matches; write library/nginx"#],
            ),
            (
                "registries: [{name: a, visibility: caller, push: true}]",
                &[
                    "1:36: caller needs a host of its own; write hosts: [registry.example.com]",
                    "1:36: caller cannot be pushed to; write visibility: rules, or remove push",
                ],
            ),
            (
                "registries: [{name: a, visibility: caller, hosts: [h]}]",
                &[],
            ),
            (
                "registries: [{name: a, visibility: caller, hosts: [h], credentials: {username: me, password: x}}]",
                &["warning: 1:69: with caller the credentials are never used; remove them"],
            ),
            (
                "registries: [{name: a, visibility: caller, hosts: [h], accounts: [{username: me, password: x}]}]",
                &["warning: 1:66: with caller the accounts are never used; remove them"],
            ),
            ("registries: [{name: a, bridge: true}]", &[]),
            (
                r#"registries: [{name: a, bridge: true, v1: "http://h"}]"#,
                &[],
            ),
            (
                r#"registries: [{name: a, v1: "http://h", push: true, visibility: public, credentials: {username: u, password: p}}]"#,
                &["1:64: v1 with credentials and push cannot be public; write visibility: rules"],
            ),
            (
                r#"registries: [{name: a, v1_index: "http://h"}]"#,
                &["1:34: an index without v1; write v1, or remove v1_index"],
            ),
            (
                r#"registries: [{name: a, v1: "http://h", v1_index: "http://i"}]"#,
                &[
                    "warning: 1:50: without access requests for images name no repository, so the registry is not sent the index's tokens; add access with rules, unless the registry wants none",
                ],
            ),
            (
                "access: {rules: [{users: [anonymous], repositories: ['a/**'], actions: [pull]}]}\nregistries: [{name: a, v1: 'http://h', v1_index: 'http://i'}]",
                &[],
            ),
            (
                r#"registries: [{name: a, v2: "http://h", credentials: {username: me, password: x}, visibility: public}]"#,
                &["warning: 1:28: the credentials cross the network unencrypted; write https://"],
            ),
            (
                r#"registries: [{name: a, v2: "http://h", accounts: [{username: me, password: x}], visibility: public}]"#,
                &["warning: 1:28: the credentials cross the network unencrypted; write https://"],
            ),
            (
                r#"registries: [{name: a, v2: "http://[::1]:5", credentials: {username: me, password: x}, visibility: public}]"#,
                &[],
            ),
            (
                r#"access: {htpasswd: h, rules: [{users: [a], repositories: ["index.docker.io/x/**", "gh*/**"], actions: [pull]}]}"#,
                &[
                    r#"1:59: "index.docker.io/x/**" begins with another name of docker.io; write docker.io/x/**"#,
                    r#"1:83: "gh*/**" does not begin with a registry; write its name or ** first"#,
                ],
            ),
            (
                r#"access: {htpasswd: h, rules: [{users: [a], repositories: ["team/**", "dokcer.io/x/y", "docker.io", "docker.io/nginx", "docker.io/*", "**/nginx"], actions: [pull]}]}"#,
                &[
                    r#"warning: 1:59: "team/**" never matches: no registry is called team; begin it with ** or docker.io"#,
                    r#"warning: 1:70: "dokcer.io/x/y" never matches: no registry is called dokcer.io; did you mean docker.io/x/y?"#,
                    r#"warning: 1:87: "docker.io" never matches: it names no repository; write docker.io/**"#,
                    r#"warning: 1:100: "docker.io/nginx" never matches: write docker.io/library/nginx"#,
                    r#"warning: 1:119: "docker.io/*" never matches: write docker.io/library/*"#,
                ],
            ),
            (
                "access: {rules: [{users: [a, '*'], repositories: ['**'], actions: [pull]}, {users: [anonymous], repositories: ['**'], actions: [pull]}]}",
                &[
                    "warning: 1:26: never matches: without htpasswd there are no accounts; write anonymous, or add access.htpasswd",
                ],
            ),
            (
                "registries: [docker.io, {name: a, push: true}]\naccess: {htpasswd: h, rules: [{users: [u], repositories: ['docker.io/**'], actions: [pull, push, delete]}, {users: [u], repositories: ['**'], actions: [push, pull]}, {users: [u], repositories: ['a/x', 'docker.io/**'], actions: [delete]}]}",
                &[
                    "warning: 2:92: push never matches: no registry accepts pushes; set push: true on one, or remove push",
                    "warning: 2:98: delete never matches: no registry accepts pushes; set push: true on one, or remove delete",
                ],
            ),
            (
                "registries: [{name: a, visibility: caller, hosts: [h]}]\naccess: {htpasswd: h, rules: [{users: [a], repositories: [\"a/**\"], actions: [pull]}]}",
                &[
                    r#"warning: 2:59: "a/**" never matches: rules do not apply to a registry of visibility caller; remove it"#,
                ],
            ),
        ]);
    }
}
