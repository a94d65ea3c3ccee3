//! `credentials` and `accounts` of a registry: the accounts of the gateway there.

use std::path::PathBuf;

use super::Secret;
use super::fault::{Report, shown};
use super::keys::{Keys, list, mapping, path, refuse_empty, text};
use super::reference::{Absent, Key, Kind};
use super::tree::{Node, Value};
use super::units::Parsed;

/// The keys of `registries[].credentials` and `registries[].accounts[]`.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "username",
        Kind::Scalar("text"),
        Absent::Nothing,
        "Needed with `password` or `password_file`.",
    ),
    Key::new(
        "password",
        Kind::Secret("text"),
        Absent::Nothing,
        "Never shown in messages or logs.",
    ),
    Key::new(
        "password_file",
        Kind::Scalar("path"),
        Absent::Nothing,
        "A file that holds the password.",
    ),
    Key::new(
        "helper",
        Kind::Scalar("`docker-credential-…`"),
        Absent::Nothing,
        "Bare name of a program that prints both; asked at most every 10 minutes.",
    ),
];

/// The account of the gateway at a registry.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// An account in the file.
    Password {
        /// Not empty.
        username: String,
        /// Not empty.
        password: Secret,
    },
    /// An account whose password is in another file.
    PasswordFile {
        /// Not empty.
        username: String,
        /// Read later.
        password_file: PathBuf,
    },
    /// A `docker-credential-…` program that supplies both.
    /// The program's bare name.
    Helper(String),
}

pub(super) fn credentials(node: &Node, report: &mut Report) -> Option<Credentials> {
    mapping(node, KEYS, report, |keys| {
        let username = keys.value("username", text);
        let password = keys.secret("password");
        let password_file = keys.value("password_file", path);
        let helper = keys.value("helper", helper_name);
        let is_set = |key: &&str| node.is_set(key);
        let sources: Vec<&str> = ["password", "password_file", "helper"]
            .into_iter()
            .filter(is_set)
            .collect();
        let problem = match (sources.as_slice(), is_set(&"username")) {
            ([], _) => "no password here; write password, password_file or helper",
            ([_, _, ..], _) => {
                "more than one password; keep one of password, password_file, helper"
            }
            (["helper"], true) => "helper tells the username too; remove username",
            (["helper"], false) | (_, true) => "",
            (_, false) => "username is missing here; write `username: me`",
        };
        if !problem.is_empty() && matches!(node.value, Value::Mapping(_) | Value::Absent) {
            keys.report.fault(node.at, problem);
        }
        let account = |username| match (password, password_file) {
            (Some(password), _) => Some(Credentials::Password { username, password }),
            (None, Some(password_file)) => Some(Credentials::PasswordFile {
                username,
                password_file,
            }),
            (None, None) => None,
        };
        helper
            .map(Credentials::Helper)
            .or_else(|| username.and_then(account))
    })
}

/// The most accounts of one registry: what one is refused is asked with each of the others.
pub(super) const MOST_ACCOUNTS: usize = 16;

/// `accounts`, of which no two are the same.
pub(super) fn account_list(keys: &mut Keys<'_, '_>, registry: &Node) -> Vec<Credentials> {
    let Some(node) = keys.node("accounts") else {
        return Vec::new();
    };
    let example = "[{username: me, password_file: p}]";
    refuse_empty(node, "accounts", example, keys.report);
    if registry.is_set("credentials") {
        let message = "accounts and credentials; keep one, and list every login in accounts";
        keys.report.fault(node.at, message);
    }
    if node.items().len() > MOST_ACCOUNTS {
        let message = format!("more than {MOST_ACCOUNTS} accounts; remove some");
        keys.report.fault(node.at, message);
    }
    let read = list(node, credentials, keys.report).unwrap_or_default();
    let mut earlier: Vec<(&str, usize)> = Vec::new();
    for (account, item) in read.iter().zip(node.items()) {
        let Some(name) = account.as_ref().map(Credentials::name) else {
            continue;
        };
        if let Some((_, line)) = earlier.iter().find(|(known, _)| *known == name) {
            let message = format!(
                "{} is an account in line {line} already; keep one",
                shown(name)
            );
            keys.report.fault(item.at, message);
        }
        earlier.push((name, item.at.line));
    }
    read.into_iter().flatten().collect()
}

/// The mappings of a registry's accounts in the file.
pub(super) fn account_nodes(registry: &Node) -> impl Iterator<Item = &Node> {
    let sole = registry.entry("credentials").map(|entry| &entry.node);
    sole.into_iter().chain(registry.near("accounts").items())
}

impl Credentials {
    /// The user name, or the helper that tells it.
    fn name(&self) -> &str {
        match self {
            Self::Password { username, .. } | Self::PasswordFile { username, .. } => username,
            Self::Helper(program) => program,
        }
    }
}

/// A bare name, so that neither a path nor a shell is involved.
fn helper_name(text: &str) -> Parsed<String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match text.strip_prefix("docker-credential-") {
        Some(rest) if !rest.is_empty() && rest.chars().all(is_plain) => Ok(text.to_owned()),
        _ => {
            Err("is not a helper; write the bare name of a docker-credential-… program".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn faults_of_accounts() {
        let many = |count: usize| {
            let accounts: Vec<String> = (0..count)
                .map(|number| format!("{{username: u{number}, password: x}}"))
                .collect();
            let accounts = accounts.join(", ");
            format!("registries: [{{name: a, accounts: [{accounts}], visibility: public}}]")
        };
        assert_faults(&[
            (
                "registries: [{name: a, accounts: []}]",
                &["1:34: accounts is empty; write `accounts: [{username: me, password_file: p}]`"],
            ),
            (
                "registries: [{name: a, accounts: {username: me, password: hunter2}}]",
                &[
                    "1:34: expected a list here, not a mapping; write [a, b] or lines that begin with -",
                ],
            ),
            (
                "registries: [{name: a, accounts: [me:hunter2]}]",
                &["1:35: expected keys and values here, not a single value; write `username: …`"],
            ),
            (
                "registries:\n- name: a\n  accounts:\n  - {username: me, password: hunter2}\n  - {username: me, password_file: p}\n  - {password: x}",
                &[
                    r#"5:5: "me" is an account in line 4 already; keep one"#,
                    "6:5: username is missing here; write `username: me`",
                ],
            ),
            (
                "registries: [{name: a, accounts: [{helper: docker-credential-x}, {helper: docker-credential-x}]}]",
                &[r#"1:66: "docker-credential-x" is an account in line 1 already; keep one"#],
            ),
            (
                "registries: [{name: a, credentials: {username: me, password: x}, accounts: [{username: other, password: y}]}]",
                &["1:76: accounts and credentials; keep one, and list every login in accounts"],
            ),
            (&many(16), &[]),
            (&many(17), &["1:34: more than 16 accounts; remove some"]),
        ]);
    }

    #[test]
    fn faults_of_credentials_tell_no_secret() {
        assert_faults(&[
            (
                "registries: [{name: a, credentials: {}}]",
                &["1:37: no password here; write password, password_file or helper"],
            ),
            (
                "registries: [{name: a, credentials: {username: me}}]",
                &["1:37: no password here; write password, password_file or helper"],
            ),
            (
                "registries: [{name: a, credentials: {password: hunter2}}]",
                &["1:37: username is missing here; write `username: me`"],
            ),
            (
                "registries: [{name: a, credentials: {username: me, password: hunter2, password_file: p}}]",
                &["1:37: more than one password; keep one of password, password_file, helper"],
            ),
            (
                "registries: [{name: a, credentials: {username: me, helper: docker-credential-h}}]",
                &["1:37: helper tells the username too; remove username"],
            ),
            (
                "registries: [{name: a, credentials: {username: me, password:hunter2}}]",
                &[
                    "1:37: no password here; write password, password_file or helper",
                    "1:52: no space after `password:`; write `password: ` and then the value",
                ],
            ),
            (
                "registries: [{name: a, credentials: {username: me, hunter2}}]",
                &[
                    "1:37: no password here; write password, password_file or helper",
                    "1:52: unknown key; write username, password, password_file or helper, then a colon, a space and a value",
                ],
            ),
            (
                r#"registries: [{name: a, credentials: "me:hunter2"}]"#,
                &["1:37: expected keys and values here, not a single value; write `username: …`"],
            ),
            (
                "registries: [{name: a, credentials: {username: me, password: [hunter2]}}]",
                &[
                    "1:62: expected a single value here, not a list; write one word, in quotes if need be",
                ],
            ),
            (
                r#"registries: [{name: a, credentials: {username: me, password: ""}}]"#,
                &["1:62: password is empty; write it, or leave password out"],
            ),
            (
                r#"registries: [{name: a, credentials: {username: me, password: "hunter2${NOPE}"}}]"#,
                &[
                    "1:62: the environment variable NOPE is not set; set it, or write ${NOPE:-default}",
                ],
            ),
            (
                r#"registries: [{name: a, credentials: {username: me, password: "hunter2${hunter2"}}]"#,
                &[
                    "1:62: a `${` without its `}`; write ${NAME} or ${NAME:-default}, and $${ for a literal ${",
                ],
            ),
            (
                r#"registries: [{name: a, credentials: {username: me, password: "${EMPTY}"}}]"#,
                &["1:37: no password here; write password, password_file or helper"],
            ),
            (
                "registries: [{name: a, credentials: {username: me, password: x, pasword: hunter2}}]",
                &[r#"1:65: unknown key "pasword"; did you mean "password"?"#],
            ),
        ]);
    }
}
