//! Checks the accounts of `access.htpasswd` and `admin.htpasswd`, and the rules that name them.

use std::path::Path;

use super::fault::{Report, nearest, shown};
use super::tree::Node;
use super::{Config, ReadAccounts};
use ::access::{AccountsError, Htpasswd, Users};

/// Reports every malformed line of the files, and users of rules that are not in theirs.
pub(super) fn check(config: &Config, tree: &Node, read: ReadAccounts<'_>, report: &mut Report) {
    if let Some(path) = &config.admin.htpasswd {
        let _ = accounts(path, tree.near("admin"), read, report);
    }
    let Some(access) = &config.access else {
        return;
    };
    let Some(path) = &access.htpasswd else {
        return;
    };
    let node = tree.near("access");
    let Some(accounts) = accounts(path, node, read, report) else {
        return;
    };
    let names: Vec<&str> = accounts.names().collect();
    for (index, rule) in access.rules.iter().enumerate() {
        let users = node.near("rules").item(index).near("users");
        for (item, user) in rule.users.iter().enumerate() {
            let Users::Named(name) = user else { continue };
            if accounts.account(name).is_some() {
                continue;
            }
            let path = path.display();
            let write = match nearest(name, &names) {
                Some(meant) => format!("did you mean {}?", shown(meant)),
                None => format!("`roadstead passwd {path} {name}` adds it"),
            };
            let name = shown(name);
            let message = format!("{name} never matches: {path} has no such user; {write}");
            report.warn(users.item(item).at, message);
        }
    }
}

/// The accounts of the file that `section` names. A file that cannot be read is only a warning: the configuration may be
/// checked on another machine.
fn accounts(
    path: &Path,
    section: &Node,
    read: ReadAccounts<'_>,
    report: &mut Report,
) -> Option<Htpasswd> {
    match read(path) {
        Ok(accounts) => return Some(accounts),
        Err(error @ AccountsError::Read { .. }) => {
            let message = telemetry::chain(&error);
            report.warn(section.near("htpasswd").at, message);
        }
        Err(AccountsError::Lines { path, reason }) => {
            for fault in reason.as_slice() {
                report.fault_in(&path, fault.line, fault.reason.to_string());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::no_env;
    use super::super::{check as cross, read as typed, yaml};
    use super::*;

    const RULES: &str = "access:
  htpasswd: conf/users
  rules:
    - {users: [alice, bob, '*', anonymous], repositories: ['**'], actions: [pull]}
    - {users: [alcie], repositories: ['**'], actions: [pull]}
";

    fn faults(bytes: Option<&[u8]>) -> Vec<String> {
        let read = |path: &Path| match bytes {
            Some(bytes) => Htpasswd::parse(bytes).map_err(|reason| AccountsError::Lines {
                path: path.to_owned(),
                reason,
            }),
            None => Err(AccountsError::Read {
                path: path.to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            }),
        };
        let mut report = Report::new("f");
        let tree = yaml::tree(RULES, &no_env, &mut report);
        let config = typed(&tree, &mut report);
        cross::config(&config, &tree, &mut report);
        check(&config, &tree, &read, &mut report);
        let (found, word) = match report.verdict() {
            Ok(warnings) => (warnings, "warning: "),
            Err(faults) => (faults.as_slice().to_vec(), ""),
        };
        let shown = found.iter().map(|fault| format!("{word}{fault}"));
        shown.collect()
    }

    /// `load` reads the file; faults of the configuration itself come first.
    #[test]
    fn load_reads_the_accounts() {
        let dir = tempfile::tempdir().expect("a folder");
        let (yaml, users) = (dir.path().join("f.yaml"), dir.path().join("users"));
        let text = format!("access: {{htpasswd: {}}}\ncolour: blue\n", users.display());
        std::fs::write(&yaml, text).expect("writable");
        std::fs::write(&users, "# ours\nalice\n").expect("writable");
        let faults = super::super::load(Some(&yaml), super::super::NamedFiles::Checked)
            .expect_err("two files with faults");
        let last = faults.as_slice().last().expect("one").to_string();
        let users = users.display();
        assert_eq!(
            last,
            format!("{users}:2:1: it has no colon; write name:hash, or remove it")
        );
        assert!(faults.to_string().contains("f.yaml:2:1: unknown key"));
    }

    #[test]
    fn users_and_lines() {
        let sha = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
        let (both, one) = (format!("alice:{sha}\nbob:{sha}\n"), format!("zoe:{sha}\n"));
        assert_eq!(
            faults(Some(both.as_bytes())),
            [
                r#"warning: f:5:16: "alcie" never matches: conf/users has no such user; did you mean "alice"?"#
            ]
        );
        assert_eq!(
            faults(Some(one.as_bytes())),
            [
                r#"warning: f:4:16: "alice" never matches: conf/users has no such user; `roadstead passwd conf/users alice` adds it"#,
                r#"warning: f:4:23: "bob" never matches: conf/users has no such user; `roadstead passwd conf/users bob` adds it"#,
                r#"warning: f:5:16: "alcie" never matches: conf/users has no such user; `roadstead passwd conf/users alcie` adds it"#,
            ]
        );
        assert_eq!(
            faults(None),
            [
                "warning: f:2:13: conf/users cannot be read; `roadstead passwd` makes it: entity not found"
            ]
        );
        assert_eq!(
            faults(Some(b"# ours\nalice\nbob:$6$x$y\n")),
            [
                "conf/users:2:1: it has no colon; write name:hash, or remove it",
                "conf/users:3:1: bob's hash is SHA-512 crypt, which is not supported; write it anew with `roadstead passwd`",
            ]
        );
    }
}
