//! Cross-checks of access rules with the registries that they name.

use super::super::fault::{Report, either, nearest, shown};
use super::super::host::{HUB, canonical};
use super::super::tree::Node;
use super::super::{Config, Registry, Visibility};
use super::access::has_users;
use super::is_short;
use ::access::Action;
use ::access::{CertificateUser, Rule, Users};

/// Patterns of rules that begin with no registry, or never match.
pub(super) fn check(config: &Config, nodes: &Node, report: &mut Report) {
    let rules = config.access.iter().flat_map(|access| &access.rules);
    for (index, rule) in rules.enumerate() {
        let exists = |users: &Users| has_users(config, users);
        if !rule.users.is_empty() && !rule.users.iter().any(exists) {
            let is_certificate = |users: &Users| matches!(users, Users::Named(name) if CertificateUser::of_name(name).is_some());
            let message = if rule.users.iter().any(is_certificate) {
                "never matches: no listener has a client_ca; add listen[].tls.client_ca, or remove it"
            } else {
                "never matches: without htpasswd there are no accounts; write anonymous, or add access.htpasswd"
            };
            report.warn(nodes.item(index).near("users").at, message);
        }
        let node = nodes.item(index).near("repositories");
        for (item, pattern) in rule.repositories.iter().enumerate() {
            rule_pattern(pattern.as_str(), config, node.item(item), report);
        }
        rule_actions(rule, config, nodes.item(index).near("actions"), report);
    }
}

/// Pushes and deletions in a rule whose registries accept none.
fn rule_actions(rule: &Rule, config: &Config, node: &Node, report: &mut Report) {
    let begins = rule.repositories.iter().map(|pattern| {
        let text = pattern.as_str();
        text.split_once('/').map_or(text, |(first, _)| first)
    });
    let begins: Vec<&str> = begins.collect();
    let meant = |registry: &&Registry| begins.contains(&"**") || begins.contains(&&*registry.name);
    let mut meant = config.registries.iter().filter(meant).peekable();
    // Patterns without a registry are reported already.
    if meant.peek().is_none() || meant.any(|registry| registry.push) {
        return;
    }
    for (item, action) in rule.actions.iter().enumerate() {
        let word = match action {
            Action::Pull => continue,
            Action::Push => "push",
            Action::Delete => "delete",
        };
        let why = "no registry accepts pushes; set push: true on one";
        let message = format!("{word} never matches: {why}, or remove {word}");
        report.warn(node.item(item).at, message);
    }
}

fn rule_pattern(text: &str, config: &Config, node: &Node, report: &mut Report) {
    let (first, rest) = text.split_once('/').unwrap_or((text, ""));
    if text.is_empty() || first == "**" {
        return;
    }
    let pattern = shown(text);
    if let Some(hub) = canonical(first) {
        let message = format!("{pattern} begins with another name of {hub}; write {hub}/{rest}");
        return report.fault(node.at, message);
    }
    if first.contains('*') {
        let message = format!("{pattern} does not begin with a registry");
        return report.fault(node.at, format!("{message}; write its name or ** first"));
    }
    let known: Vec<&str> = config.registries.iter().map(|r| r.name.as_str()).collect();
    let Some(registry) = config.registries.iter().find(|r| r.name == first) else {
        let write = match nearest(first, &known) {
            Some(meant) => format!("did you mean {meant}/{rest}?"),
            None => format!("begin it with ** or {}", either(&known)),
        };
        let message = format!("{pattern} never matches: no registry is called {first}; {write}");
        return report.warn(node.at, message);
    };
    let problem = if registry.visibility == Visibility::Caller {
        "rules do not apply to a registry of visibility caller; remove it".to_owned()
    } else if rest.is_empty() {
        format!("it names no repository; write {first}/**")
    } else if first == HUB && is_short(rest) {
        format!("write {first}/library/{rest}")
    } else {
        return;
    };
    report.warn(node.at, format!("{pattern} never matches: {problem}"));
}
