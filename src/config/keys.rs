//! Reads one mapping of the file: every key is read once, and keys that were never read are
//! unknown.

use std::path::PathBuf;

use super::Secret;
use super::fault::{Report, either, nearest, shown};
use super::reference::Key;
use super::tree::{Node, Value};
use super::units::Parsed;

/// The keys of one mapping, while they are being read.
pub(super) struct Keys<'t, 'r> {
    node: &'t Node,
    known: &'static [Key],
    asked: Vec<&'static str>,
    pub report: &'r mut Report,
}

/// Reads a mapping of `known` keys. Anything else is a fault and is read as an empty mapping, so that the
/// cross-checks still see its defaults.
pub(super) fn mapping<'t, T>(
    node: &'t Node,
    known: &'static [Key],
    report: &mut Report,
    read: impl FnOnce(&mut Keys<'t, '_>) -> T,
) -> T {
    let mut keys = Keys {
        node,
        known,
        asked: Vec::new(),
        report,
    };
    let result = read(&mut keys);
    keys.refuse_others();
    debug_assert!(keys.is_complete(), "{:?} of {:?}", keys.asked, keys.known);
    result
}

impl<'t> Keys<'t, '_> {
    /// The value of a key, of any kind.
    pub fn node(&mut self, key: &'static str) -> Option<&'t Node> {
        self.asked.push(key);
        self.node.entry(key).map(|entry| &entry.node)
    }

    /// A section in which every key has a default, so that it may be absent.
    pub fn section<T>(&mut self, key: &'static str, read: fn(&Node, &mut Report) -> T) -> T {
        let absent = Node {
            at: self.node.at,
            value: Value::Absent,
        };
        read(self.node(key).unwrap_or(&absent), self.report)
    }

    /// A section that may be absent or `off`.
    pub fn section_or_off<T>(
        &mut self,
        key: &'static str,
        read: fn(&Node, &mut Report) -> T,
    ) -> Option<T> {
        let node = self.node(key).filter(|node| !node.is_off())?;
        Some(read(node, self.report))
    }

    /// A single value; `None` if it is absent or refused.
    pub fn value<T>(&mut self, key: &'static str, parse: fn(&str) -> Parsed<T>) -> Option<T> {
        let node = self.node(key)?;
        value(node, parse, self.report)
    }

    /// A single value; `None` if it is `off`.
    pub fn value_or_off<T>(
        &mut self,
        key: &'static str,
        parse: fn(&str) -> Parsed<T>,
        unless_set: Option<T>,
    ) -> Option<T> {
        let Some(node) = self.node(key) else {
            return unless_set;
        };
        if node.is_off() {
            return None;
        }
        let or_off = |message| format!("{message}, or off");
        value_with(node, |text| parse(text).map_err(or_off), self.report).or(unless_set)
    }

    /// A required single value; `example` is suggested in the message.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        let node = self.required_node(key, example)?;
        value(node, parse, self.report)
    }

    /// A required value of any kind.
    pub fn required_node(&mut self, key: &'static str, example: &str) -> Option<&'t Node> {
        let node = self.node(key);
        // A value that is no mapping is reported already.
        let mapping = matches!(self.node.value, Value::Mapping(_) | Value::Absent);
        if node.is_none() && mapping {
            let message = format!("{key} is missing here; write `{key}: {example}`");
            self.report.fault(self.node.at, message);
        }
        node
    }

    /// A value that messages never contain.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let node = self.node(key)?;
        match &node.value {
            Value::Text(text) if text.text.is_empty() => {
                let message = format!("{key} is empty; write it, or leave {key} out");
                self.report.fault(node.at, message);
                None
            }
            Value::Text(text) => Some(Secret(text.text.clone())),
            _ => {
                refuse_kind(node, self.report);
                None
            }
        }
    }

    /// A list; `None` if it is absent or no list. It is as long as in the file, so that the items keep
    /// their indices: `item` returns a default for an item that it refuses.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        item: impl FnMut(&'t Node, &mut Report) -> T,
    ) -> Option<Vec<T>> {
        let node = self.node(key)?;
        list(node, item, self.report)
    }

    /// A list of single values; as long as in the file, with defaults for refused ones.
    pub fn values<T: Default>(
        &mut self,
        key: &'static str,
        parse: fn(&str) -> Parsed<T>,
    ) -> Vec<T> {
        self.list(key, |node, report| {
            value(node, parse, report).unwrap_or_default()
        })
        .unwrap_or_default()
    }

    /// A list of at least one single value.
    pub fn some_values<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: fn(&str) -> Parsed<T>,
    ) -> Vec<T> {
        let Some(node) = self.required_node(key, example) else {
            return Vec::new();
        };
        let items = list(node, |item, report| value(item, parse, report), self.report);
        refuse_empty(node, key, example, self.report);
        items.into_iter().flatten().flatten().collect()
    }

    /// Whether exactly the keys of the table were read.
    fn is_complete(&self) -> bool {
        self.known.iter().all(|key| self.asked.contains(&key.name))
            && self
                .asked
                .iter()
                .all(|asked| self.known.iter().any(|key| key.name == *asked))
    }

    /// After every key was read: reports unknown keys, or that this is no mapping.
    fn refuse_others(&mut self) {
        let known: Vec<&str> = self.known.iter().map(|key| key.name).collect();
        let entries = match &self.node.value {
            Value::Mapping(entries) => entries,
            Value::Absent | Value::Broken => return,
            Value::Text(_) | Value::List(_) => {
                let message = format!("expected keys and values here, not {}", self.node.kind());
                let first = known.first().unwrap_or(&"key");
                let message = format!("{message}; write `{first}: …`");
                return self.report.fault(self.node.at, message);
            }
        };
        for entry in entries {
            let key = entry.key.as_str();
            if known.contains(&key) {
                continue;
            }
            let choice = either(&known);
            let valueless = matches!(entry.node.value, Value::Absent);
            // Text without a colon and a space after it may be a password without its key.
            let message = match (key.split_once(':'), nearest(key, &known)) {
                (Some((key, _)), _) if known.contains(&key) => {
                    format!("no space after `{key}:`; write `{key}: ` and then the value")
                }
                (None, Some(meant)) if !valueless => {
                    format!("unknown key {}; did you mean \"{meant}\"?", shown(key))
                }
                (None, None) if !valueless => format!("unknown key {}; write {choice}", shown(key)),
                _ => format!("unknown key; write {choice}, then a colon, a space and a value"),
            };
            self.report.fault(entry.key_at, message);
        }
    }
}

/// A single value; faults from `parse` are prefixed with the value.
pub(super) fn value<T>(
    node: &Node,
    parse: fn(&str) -> Parsed<T>,
    report: &mut Report,
) -> Option<T> {
    value_with(node, parse, report)
}

fn value_with<T>(node: &Node, parse: impl Fn(&str) -> Parsed<T>, report: &mut Report) -> Option<T> {
    let Value::Text(text) = &node.value else {
        refuse_kind(node, report);
        return None;
    };
    parse(&text.text)
        .map_err(|message| report.fault(node.at, format!("{} {message}", shown(&text.written))))
        .ok()
}

/// A list; anything else is a fault.
pub(super) fn list<'t, T>(
    node: &'t Node,
    mut item: impl FnMut(&'t Node, &mut Report) -> T,
    report: &mut Report,
) -> Option<Vec<T>> {
    match &node.value {
        Value::List(items) => Some(items.iter().map(|node| item(node, report)).collect()),
        Value::Broken => None,
        _ => {
            let message = format!("expected a list here, not {}", node.kind());
            report.fault(
                node.at,
                format!("{message}; write [a, b] or lines that begin with -"),
            );
            None
        }
    }
}

/// Reports a list without items where at least one is required.
pub(super) fn refuse_empty(node: &Node, key: &str, example: &str, report: &mut Report) {
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        let message = format!("{key} is empty; write `{key}: {example}`");
        report.fault(node.at, message);
    }
}

pub(super) fn refuse_kind(node: &Node, report: &mut Report) {
    if !matches!(node.value, Value::Broken) {
        let message = format!("expected a single value here, not {}", node.kind());
        report.fault(
            node.at,
            format!("{message}; write one word, in quotes if need be"),
        );
    }
}

/// Any non-empty text.
pub(super) fn text(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err("is empty; write a value, or leave the key out".to_owned());
    }
    Ok(text.to_owned())
}

/// The path of a file or folder; a relative path is resolved against the working directory.
pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() {
        return Err("is empty; write a path, or leave the key out".to_owned());
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn what_is_no_key_or_of_another_kind() {
        assert_faults(&[
            (
                "store: {tag_tll: 10m}",
                &[r#"1:9: unknown key "tag_tll"; did you mean "tag_ttl"?"#],
            ),
            (
                "colour: red",
                &[
                    r#"1:1: unknown key "colour"; write keys, listen, admin, store, registries, access, routing, limits, log, events or audit"#,
                ],
            ),
            (
                "kyes: 1\nlsten: []\nStore: {}",
                &[
                    r#"1:1: unknown key "kyes"; did you mean "keys"?"#,
                    r#"2:1: unknown key "lsten"; did you mean "listen"?"#,
                    r#"3:1: unknown key "Store"; did you mean "store"?"#,
                ],
            ),
            (
                "listen",
                &["1:1: expected keys and values here, not a single value; write `keys: …`"],
            ),
            (
                "- docker.io",
                &["1:1: expected keys and values here, not a list; write `keys: …`"],
            ),
            (
                "limits: {fills 3, drain:5s, x:y}",
                &[
                    "1:10: unknown key; write header_bytes, header_timeout, idle_timeout, connections, per_client, fills or drain, then a colon, a space and a value",
                    "1:19: no space after `drain:`; write `drain: ` and then the value",
                    "1:29: unknown key; write header_bytes, header_timeout, idle_timeout, connections, per_client, fills or drain, then a colon, a space and a value",
                ],
            ),
            (
                r#"listen: ":443""#,
                &[
                    "1:9: expected a list here, not a single value; write [a, b] or lines that begin with -",
                ],
            ),
            (
                r#"listen: [":443"]"#,
                &["1:10: expected keys and values here, not a single value; write `address: …`"],
            ),
            (
                "keys: [a]",
                &[
                    "1:7: expected a single value here, not a list; write one word, in quotes if need be",
                ],
            ),
            (
                "keys: {a: b}",
                &[
                    "1:7: expected a single value here, not a mapping; write one word, in quotes if need be",
                ],
            ),
            (
                r#"store: {path: ""}"#,
                &[r#"1:15: "" is empty; write a path, or leave the key out"#],
            ),
            (
                "keys:\nstore: off\nlog: {format: }",
                &["2:8: expected keys and values here, not a single value; write `path: …`"],
            ),
            (
                "store: {path: a, max_size: 1x, tag_ttl: 2x, oops: 3x}\nlimits: {fills: 4x}",
                &[
                    r#"1:28: "1x" is not a size; write a whole number and B, KiB, MiB, GiB or TiB"#,
                    r#"1:41: "2x" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m"#,
                    r#"1:45: unknown key "oops"; write path, max_size, min_free, unused_ttl, tag_ttl, missing_ttl, link_ttl, max_stale, scrub_every or bucket"#,
                    r#"2:17: "4x" is not a count; write a whole number from 1 to 4294967295"#,
                ],
            ),
        ]);
    }
}
