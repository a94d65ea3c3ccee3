//! `events` and `audit`: where events are recorded.

use std::path::PathBuf;

use reqwest::Url;

use super::Secret;
use super::fault::Report;
use super::keys::{Keys, mapping, path, value};
use super::reference::{Absent, Key, Kind};
use super::tree::Node;
use super::units::Parsed;
use ::events::NotificationAction;
use oci::glob::Pattern;

/// The keys of a webhook.
pub(super) const WEBHOOK: &[Key] = &[
    Key::new(
        "url",
        Kind::Secret("http or https URL"),
        Absent::Required,
        "Where each event is posted to. No log shows more of it than its host.",
    ),
    Key::new(
        "secret",
        Kind::Secret("text"),
        Absent::Means("events are not signed"),
        "The key of `X-Hub-Signature-256: sha256=<hex>`, the HMAC-SHA256 of the body.",
    ),
    Key::new(
        "actions",
        Kind::List("action of an event"),
        Absent::Means("all but `pull`"),
        "`pull`, `push`, `mount`, `delete`, `alert`.",
    ),
    Key::new(
        "repositories",
        Kind::List("pattern"),
        Absent::Means("all"),
        "Patterns as in `access.rules`: they begin with the registry's name. Alerts are sent whatever they say.",
    ),
];

/// The keys of `audit`.
pub(super) const AUDIT: &[Key] = &[Key::new(
    "path",
    Kind::Scalar("path"),
    Absent::Required,
    "The file: JSON lines, mode 0600. Reopened on SIGHUP, for log rotation.",
)];

/// A webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where events are posted to; its path may be a secret. `None` where it was refused.
    pub url: Option<Secret>,
    /// Signs them.
    pub secret: Option<Secret>,
    /// Those that it gets.
    pub actions: Vec<NotificationAction>,
    /// Limits events to these repositories; `None`: all.
    pub repositories: Option<Vec<Pattern>>,
}

/// The audit log.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Its file.
    pub path: PathBuf,
}

pub(super) fn webhooks(keys: &mut Keys<'_, '_>) -> Vec<Webhook> {
    let mut urls = Vec::new();
    let webhooks = keys.list("events", |node, report| {
        let webhook = webhook(node, report);
        if let Some(url) = webhook.url.as_ref().map(Secret::expose) {
            if urls.iter().any(|known| known == url) {
                let message =
                    "this url is listed twice; write its actions and repositories in one entry";
                report.fault(node.near("url").at, message.to_owned());
            }
            urls.push(url.to_owned());
        }
        webhook
    });
    webhooks.unwrap_or_default()
}

fn webhook(node: &Node, report: &mut Report) -> Webhook {
    mapping(node, WEBHOOK, report, |keys| Webhook {
        url: url(node, keys),
        secret: keys.secret("secret"),
        actions: actions(keys),
        repositories: keys.list("repositories", |node, report| {
            value(node, Pattern::parse, report).unwrap_or_default()
        }),
    })
}

/// The URL, which messages do not show.
fn url(node: &Node, keys: &mut Keys<'_, '_>) -> Option<Secret> {
    keys.required_node("url", "https://hooks.example.com/registry")?;
    let url = keys.secret("url")?;
    let valid = |url: Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    if Url::parse(url.expose()).is_ok_and(valid) {
        return Some(url);
    }
    let message = "url is not a URL; write https://host/path";
    keys.report.fault(node.near("url").at, message.to_owned());
    None
}

fn actions(keys: &mut Keys<'_, '_>) -> Vec<NotificationAction> {
    let actions = keys.list("actions", |node, report| value(node, action, report));
    actions.map_or_else(
        || {
            let all = NotificationAction::ALL.into_iter();
            all.filter(|action| *action != NotificationAction::Pull)
                .collect()
        },
        |actions| actions.into_iter().flatten().collect(),
    )
}

fn action(text: &str) -> Parsed<NotificationAction> {
    let mut all = NotificationAction::ALL.into_iter();
    all.find(|action| action.as_str() == text)
        .ok_or_else(|| "is no action; write pull, push, mount, delete or alert".to_owned())
}

pub(super) fn audit(node: &Node, report: &mut Report) -> Audit {
    mapping(node, AUDIT, report, |keys| Audit {
        path: keys
            .required("path", "var/audit.log", path)
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn faults_of_webhooks() {
        assert_faults(&[
            (
                "events: [{secret: a}]",
                &["1:10: url is missing here; write `url: https://hooks.example.com/registry`"],
            ),
            (
                "events: [{url: \"ftp://h/token-1\"}]",
                &["1:16: url is not a URL; write https://host/path"],
            ),
            (
                "events: [{url: \"http://h/a\"}, {url: \"http://h/a\"}]",
                &[
                    "1:37: this url is listed twice; write its actions and repositories in one entry",
                ],
            ),
            (
                "events: [{url: \"http://h\", actions: [login]}]",
                &[r#"1:38: "login" is no action; write pull, push, mount, delete or alert"#],
            ),
            (
                "audit: {}",
                &["1:8: path is missing here; write `path: var/audit.log`"],
            ),
        ]);
    }
}
