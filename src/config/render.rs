//! The configuration in force as YAML: every key with its value or its default, secrets masked. Pure.

use std::fmt::Write as _;

use super::reference::{Absent, Key, Kind};
use super::tree::{Entry, Node, Text, Value};

/// What stands for a secret.
const MASK: &str = "\"********\"";

/// Every key with its value in the file or its default; a default in words is a comment.
pub(super) fn render(tree: &Node, keys: &[Key]) -> String {
    let mut text = String::new();
    section(&mut text, keys, Some(tree), "");
    text
}

/// The keys of a section, one a line; `node` is the section in the file.
fn section(text: &mut String, keys: &[Key], node: Option<&Node>, indent: &str) {
    for key in keys {
        match node.and_then(|node| node.entry(key.name)) {
            Some(entry) => written(text, key, &entry.node, indent),
            None => absent(text, key, indent),
        }
    }
}

/// A key that the file has.
fn written(text: &mut String, key: &Key, node: &Node, indent: &str) {
    let name = key.name;
    let below = format!("{indent}  ");
    match (&node.value, &key.kind) {
        (Value::Text(_), Kind::Secret(_)) => line(text, indent, &format!("{name}: {MASK}")),
        (Value::Text(value), _) => line(text, indent, &format!("{name}: {}", scalar(value))),
        (Value::List(items), Kind::Items(keys)) => {
            line(text, indent, &format!("{name}:"));
            for node in items {
                item(text, keys, node, &below);
            }
        }
        (Value::List(items), _) => {
            let items = items.iter().map(|item| match &item.value {
                Value::Text(value) => scalar(value),
                _ => "null".to_owned(),
            });
            let items: Vec<String> = items.collect();
            line(text, indent, &format!("{name}: [{}]", items.join(", ")));
        }
        (Value::Mapping(entries), Kind::Map(..)) => {
            line(text, indent, &format!("{name}:"));
            for Entry { key, node, .. } in entries {
                if let Value::Text(value) = &node.value {
                    line(text, &below, &format!("{}: {}", plain(key), scalar(value)));
                }
            }
        }
        (Value::Mapping(_), kind) => {
            line(text, indent, &format!("{name}:"));
            section(text, kind.keys(), Some(node), &below);
        }
        (Value::Absent | Value::Broken, _) => absent(text, key, indent),
    }
}

/// An item of a list of mappings; one word stands for the first key.
fn item(text: &mut String, keys: &[Key], node: &Node, indent: &str) {
    let mut item = String::new();
    let below = format!("{indent}  ");
    match &node.value {
        Value::Text(value) => {
            line(
                &mut item,
                &below,
                &format!("{}: {}", keys[0].name, scalar(value)),
            );
            section(&mut item, &keys[1..], None, &below);
        }
        _ => section(&mut item, keys, Some(node), &below),
    }
    // The list's dash takes the place of the first line's indentation.
    let _ = write!(text, "{indent}- {}", item.trim_start());
}

/// A key that the file does not have.
fn absent(text: &mut String, key: &Key, indent: &str) {
    let name = key.name;
    match (&key.absent, &key.kind) {
        (Absent::Is(value), _) => {
            let value = plain(value);
            line(text, indent, &format!("{name}: {value}  # default"));
        }
        (_, Kind::Section(keys)) => {
            line(text, indent, &format!("{name}:"));
            section(text, keys, None, &format!("{indent}  "));
        }
        (Absent::Means(words), _) => {
            line(text, indent, &format!("# {name}: default: {words}"));
        }
        (Absent::Nothing | Absent::Required, _) => {
            line(text, indent, &format!("# {name}: not set"));
        }
    }
}

fn line(text: &mut String, indent: &str, line: &str) {
    let _ = writeln!(text, "{indent}{line}");
}

/// A scalar, in quotes unless it is a plain word.
fn scalar(value: &Text) -> String {
    plain(&value.text)
}

/// As [`scalar`].
fn plain(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./%-".contains(c);
    if !text.is_empty() && !text.starts_with(['-', '%']) && text.chars().all(is_plain) {
        return text.to_owned();
    }
    // A string of JSON is one of YAML.
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    const FILE: &str = r#"
listen:
- {address: ":443", public_url: "https://registry.example"}
store: {max_size: "${SIZE}", unused_ttl: off}
registries:
- docker.io
- {name: ghcr.io, credentials: {username: jürgen, password: "open: sesame"}, owns: ["team/**"], gate: {pins: {"team/a:b": "sha256:0000000000000000000000000000000000000000000000000000000000000000"}}}
access:
  token_key: "0123456789012345678901234567890123456789"
  rules: [{users: [anonymous], repositories: ["**"], actions: [pull]}]
"#;

    fn rendered(file: &str) -> String {
        let env = |name: &str| (name == "SIZE").then(|| "7GiB".to_owned());
        parse(file, "f", &env).expect("a configuration").rendered
    }

    #[test]
    fn every_key_is_there_and_secrets_are_masked() {
        let text = rendered(FILE);
        for line in [
            "keys: var/keys  # default",
            "  - address: \":443\"",
            "    tls: auto  # default",
            "    public_url: \"https://registry.example\"",
            "  max_size: 7GiB",
            "  unused_ttl: off",
            "  tag_ttl: 10m  # default",
            "  - name: docker.io",
            "    # visibility: default: `rules` with credentials, accounts or `push`, else `public`",
            "      username: \"jürgen\"",
            "      password: \"********\"",
            "      # helper: not set",
            "    owns: [\"team/**\"]",
            "      mode: enforce  # default",
            "        \"team/a:b\": \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"",
            "  token_key: \"********\"",
            "      actions: [pull]",
            "  fills: 64  # default",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
        assert!(
            !text.contains("sesame") && !text.contains("0123456789"),
            "{text}"
        );
    }

    /// What is printed is a configuration itself, apart from what is masked.
    #[test]
    fn the_rendering_is_a_configuration() {
        for file in ["", "registries: [docker.io]\n", FILE] {
            let text = rendered(file).replace("\"********\"", &format!("{:?}", "x".repeat(40)));
            let again =
                parse(&text, "f", &|_| None).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
            let defaults = |text: &str| text.replace("  # default", "");
            let text = text.replace(&"x".repeat(40), "********");
            assert_eq!(defaults(&again.rendered), defaults(&text));
        }
    }
}
