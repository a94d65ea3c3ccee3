//! `access`: accounts and rules.

use std::path::PathBuf;

use super::Secret;
use super::fault::Report;
use super::keys::{Keys, list, mapping, path, refuse_empty, value};
use super::reference::{Absent, Key, Kind};
use super::tree::Node;
use super::units::Parsed;
use ::access::Action;
use ::access::{CertificateUser, Rule, Scheme as AuthScheme, Users};
use oci::glob::Pattern;

/// The shortest token key, in characters.
const SHORTEST_KEY: usize = 32;

/// The keys of `access`.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "htpasswd",
        Kind::Scalar("path"),
        Absent::Means("no users; rules are for `anonymous`"),
        "The users: bcrypt (`$2a$`, `$2b$`, `$2y$`), `$apr1$`, `{SHA}`. A change takes effect within a second; a broken file keeps the old one in use. `roadstead passwd FILE USER` writes it.",
    ),
    Key::new(
        "realm",
        Kind::Scalar("printable ASCII"),
        Absent::Is("Roadstead"),
        "The gateway's name in login prompts.",
    ),
    Key::new(
        "scheme",
        Kind::Choice(&["bearer", "basic"]),
        Absent::Is("bearer"),
        "The challenge to v2 clients: Bearer, with tokens from `/token`, or Basic. Both are accepted.",
    ),
    Key::new(
        "token_key",
        Kind::Secret("text of 32 characters or more"),
        Absent::Means("made in `keys`"),
        "Signs tokens. Several gateways that share it accept each other's.",
    ),
    Key::new(
        "rules",
        Kind::Items(RULE),
        Absent::Means("nothing is allowed"),
        "A request is allowed if any rule allows it.",
    ),
];

/// The keys of a rule.
pub(super) const RULE: &[Key] = &[
    Key::new(
        "users",
        Kind::List("user"),
        Absent::Required,
        "Names from the htpasswd file, `cert:NAME` (the common name of a client certificate), `\"*\"` (every logged-in user) or `anonymous` (all clients).",
    ),
    Key::new(
        "repositories",
        Kind::List("pattern"),
        Absent::Required,
        "Patterns that begin with the registry's name: `docker.io/library/*`, `hosted/**`. `*` is anything within one component, `**` any number of components.",
    ),
    Key::new(
        "actions",
        Kind::List("action"),
        Absent::Required,
        "`pull`, `push`, `delete`.",
    ),
];

/// Accounts and rules.
#[derive(Debug, Clone)]
pub struct Access {
    /// The users and their password hashes; `None`: there are no accounts, and rules are for
    /// `anonymous`.
    pub htpasswd: Option<PathBuf>,
    /// The realm of challenges.
    pub realm: String,
    /// The scheme of challenges to v2 clients; both schemes are accepted.
    pub scheme: AuthScheme,
    /// Shared by several gateways; `None`: created in [`super::Config::keys`].
    pub token_key: Option<Secret>,
    /// Grants; an action is allowed if any rule allows it.
    pub rules: Vec<Rule>,
    /// The line of each rule.
    pub rule_lines: Vec<usize>,
}

pub(super) fn access(node: &Node, report: &mut Report) -> Access {
    mapping(node, KEYS, report, |keys| Access {
        htpasswd: keys.value("htpasswd", path),
        realm: keys
            .value("realm", realm)
            .unwrap_or_else(|| "Roadstead".to_owned()),
        scheme: keys.value("scheme", scheme).unwrap_or(AuthScheme::Bearer),
        token_key: token_key(node, keys),
        rules: keys.list("rules", rule).unwrap_or_default(),
        rule_lines: node
            .near("rules")
            .items()
            .iter()
            .map(|rule| rule.at.line)
            .collect(),
    })
}

/// Anyone with a token can try keys against it, so a key that could be guessed is refused.
fn token_key(node: &Node, keys: &mut Keys<'_, '_>) -> Option<Secret> {
    let key = keys.secret("token_key")?;
    if key.expose().len() < SHORTEST_KEY {
        let write = "write what `openssl rand -hex 32` says";
        let message = format!("token_key has under {SHORTEST_KEY} characters; {write}");
        keys.report.fault(node.near("token_key").at, message);
    }
    Some(key)
}

fn realm(text: &str) -> Parsed<String> {
    // It is sent as a quoted string in a header.
    if text.is_empty()
        || text.contains(['"', '\\'])
        || !text.chars().all(|c| matches!(c, ' '..='~'))
    {
        return Err("is not a realm; write printable ASCII without quotes".to_owned());
    }
    Ok(text.to_owned())
}

fn scheme(text: &str) -> Parsed<AuthScheme> {
    match text {
        "bearer" => Ok(AuthScheme::Bearer),
        "basic" => Ok(AuthScheme::Basic),
        _ => Err("is not a scheme; write bearer or basic".to_owned()),
    }
}

fn rule(node: &Node, report: &mut Report) -> Rule {
    mapping(node, RULE, report, |keys| Rule {
        users: keys.some_values("users", r#"["*"]"#, users),
        repositories: keys
            .required_node("repositories", r#"["**"]"#)
            .and_then(|patterns| {
                refuse_empty(patterns, "repositories", r#"["**"]"#, keys.report);
                let pattern = |item, report: &mut Report| {
                    value(item, Pattern::parse, report).unwrap_or_default()
                };
                list(patterns, pattern, keys.report)
            })
            .unwrap_or_default(),
        actions: keys.some_values("actions", "[pull]", action),
    })
}

fn users(text: &str) -> Parsed<Users> {
    match text {
        "anonymous" => Ok(Users::Anonymous),
        "*" => Ok(Users::LoggedIn),
        name if CertificateUser::of_name(name).is_some() => Ok(Users::Named(name.to_owned())),
        // As in htpasswd, where a colon ends the name.
        name if name.is_empty() || name.contains([':', '*']) => Err(
            r#"is not a user; write a name of the htpasswd file, cert:NAME, "*" or anonymous"#
                .to_owned(),
        ),
        name => Ok(Users::Named(name.to_owned())),
    }
}

fn action(text: &str) -> Parsed<Action> {
    match text {
        "pull" => Ok(Action::Pull),
        "push" => Ok(Action::Push),
        "delete" => Ok(Action::Delete),
        _ => Err("is not an action; write pull, push or delete".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn faults_of_access() {
        assert_faults(&[
            (
                r#"access: {htpasswd: h, scheme: digest, realm: 'a"b', rules: {}}"#,
                &[
                    r#"1:31: "digest" is not a scheme; write bearer or basic"#,
                    r#"1:46: "a\"b" is not a realm; write printable ASCII without quotes"#,
                    "1:60: expected a list here, not a mapping; write [a, b] or lines that begin with -",
                ],
            ),
            (
                "access: {htpasswd: h, rules: [{users: [], repositories: [], actions: []}]}",
                &[
                    r#"1:39: users is empty; write `users: ["*"]`"#,
                    r#"1:57: repositories is empty; write `repositories: ["**"]`"#,
                    "1:70: actions is empty; write `actions: [pull]`",
                ],
            ),
            (
                r#"access: {htpasswd: h, rules: [{users: ["a:b"], actions: [pul]}]}"#,
                &[
                    r#"1:31: repositories is missing here; write `repositories: ["**"]`"#,
                    r#"1:40: "a:b" is not a user; write a name of the htpasswd file, cert:NAME, "*" or anonymous"#,
                    r#"1:58: "pul" is not an action; write pull, push or delete"#,
                ],
            ),
            (
                r#"access: {htpasswd: h, rules: [{users: anonymous, repositories: ["**"], actions: [pull]}]}"#,
                &[
                    "1:39: expected a list here, not a single value; write [a, b] or lines that begin with -",
                ],
            ),
            (
                "access: {htpasswd: h, token_key: {hunter2: x}}",
                &[
                    "1:34: expected a single value here, not a mapping; write one word, in quotes if need be",
                ],
            ),
            (
                "access: {htpasswd: h, token_key: hunter2}",
                &[
                    "1:34: token_key has under 32 characters; write what `openssl rand -hex 32` says",
                ],
            ),
            (
                "access: {htpasswd: h, token_key: hunter2hunter2hunter2hunter2hun}",
                &[
                    "1:34: token_key has under 32 characters; write what `openssl rand -hex 32` says",
                ],
            ),
            (
                "access: {htpasswd: h, token_key: hunter2hunter2hunter2hunter2hunt, rules: [{users: ['*'], repositories: ['**'], actions: [pull]}]}",
                &[],
            ),
            (
                "access: on",
                &["1:9: expected keys and values here, not a single value; write `htpasswd: …`"],
            ),
        ]);
    }
}
