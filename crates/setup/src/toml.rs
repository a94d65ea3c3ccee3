//! TOML: where tables and values are in a text, and buildkitd.toml.

use std::ops::Range;

use serde_json::{Map, Value as Json};
use toml_edit::{Document, Item, TableLike, Value};

use super::hunk::{Hunk, apply};
use super::merge::{MergeError, expect_same};

/// Parses a text.
///
/// # Errors
/// [`MergeError::Unparsable`]
pub(crate) fn parse(text: &str) -> Result<Document<&str>, MergeError> {
    Document::parse(text).map_err(|error| {
        let lines: Vec<&str> = error.message().lines().collect();
        let line = error.span().map_or(0, |span| line_of(text, span.start));
        MergeError::Unparsable(format!("line {line}: {}", lines.join(" ")))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.get(..at)
        .map_or(0, |before| before.matches('\n').count() + 1)
}

/// The item at a path of keys.
pub(crate) fn item<'t>(document: &'t Document<&str>, path: &[&str]) -> Option<&'t Item> {
    path.iter().try_fold(document.as_item(), |item, key| {
        item.as_table_like()?.get(key)
    })
}

/// The array at a path, and where its first item belongs.
pub(crate) fn array<'t>(
    document: &'t Document<&str>,
    path: &[&str],
) -> Option<(Vec<&'t str>, usize)> {
    let value = item(document, path)?.as_value()?;
    let items = value.as_array()?.iter().filter_map(Value::as_str).collect();
    Some((items, value.span()?.start + 1))
}

/// The whole document as JSON.
pub(crate) fn meaning(document: &Document<&str>) -> Json {
    table(document.as_table())
}

fn table(entries: &dyn TableLike) -> Json {
    let entries = entries.iter();
    Json::Object(
        entries
            .map(|(key, item)| (key.to_owned(), of_item(item)))
            .collect(),
    )
}

fn of_item(item: &Item) -> Json {
    match item {
        Item::None => Json::Null,
        Item::Value(value) => of_value(value),
        Item::Table(entries) => table(entries),
        Item::ArrayOfTables(tables) => tables.iter().map(|entries| table(entries)).collect(),
    }
}

fn of_value(value: &Value) -> Json {
    match value {
        Value::String(text) => text.value().as_str().into(),
        Value::Integer(number) => (*number.value()).into(),
        // Only compared.
        Value::Float(number) => format!("float {}", number.value()).into(),
        Value::Boolean(truth) => (*truth.value()).into(),
        Value::Datetime(time) => format!("time {}", time.value()).into(),
        Value::Array(items) => items.iter().map(of_value).collect(),
        Value::InlineTable(entries) => table(entries),
    }
}

/// Puts a value at a path; tables that are missing are made.
pub(crate) fn put(meaning: &mut Json, path: &[&str], value: Json) {
    let Json::Object(entries) = meaning else {
        return;
    };
    match path {
        [] => {}
        [key] => {
            entries.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let below = entries.entry(*key).or_insert_with(|| Map::new().into());
            put(below, rest, value);
        }
    }
}

/// Fails unless the changed text means what it should.
pub(crate) fn check(text: &str, hunks: &[Hunk], meant: &Json) -> Result<(), MergeError> {
    let changed = apply(text, hunks);
    match parse(&changed) {
        Ok(changed) => expect_same(meant, &meaning(&changed)),
        Err(_) => expect_same(meant, &Json::Null),
    }
}

/// The line with the header of a table, with its end.
pub(crate) fn header(text: &str, path: &[&str]) -> Option<Range<usize>> {
    let mut end = 0;
    text.split_inclusive('\n').find_map(|line| {
        let start = end;
        end += line.len();
        let is_header = line.trim_start().starts_with('[');
        (is_header && header_path(line).is_some_and(|found| found == path)).then_some(start..end)
    })
}

/// The path of a header's line.
fn header_path(line: &str) -> Option<Vec<String>> {
    let document = Document::parse(line).ok()?;
    let mut path = Vec::new();
    let mut item = document.as_item();
    while let Some((key, below)) = item.as_table()?.iter().next() {
        path.push(key.to_owned());
        item = below;
    }
    Some(path)
}

/// The first line with any header; the end where there is none.
pub(crate) fn first_header(text: &str) -> usize {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with('[') {
            return end;
        }
        end += line.len();
    }
    end
}

/// A line below a table's header.
pub(crate) fn line_below(text: &str, header: &Range<usize>, line: &str) -> Hunk {
    let written = &text[header.clone()];
    let indent = &written[..written.len() - written.trim_start().len()];
    let line = format!("{indent}  {line}");
    let line = if written.ends_with('\n') {
        format!("{line}\n")
    } else {
        format!("\n{line}")
    };
    Hunk::insert(header.end, line)
}

/// Blocks at the end of a text, with an empty line before each.
pub(crate) fn append(text: &str, blocks: &[String]) -> Hunk {
    let mut new = String::new();
    if !text.is_empty() && !text.ends_with('\n') {
        new.push('\n');
    }
    for block in blocks {
        if !(text.is_empty() && new.is_empty()) {
            new.push('\n');
        }
        new.push_str(block);
    }
    Hunk::insert(text.len(), new)
}

/// A basic string of TOML.
pub(crate) fn quoted(text: &str) -> String {
    // JSON's escapes are some of TOML's.
    Json::from(text).to_string()
}

/// What buildkitd.toml needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildKit {
    /// The registries that are mirrored.
    pub registries: Vec<String>,
    /// The mirror's `host:port`.
    pub authority: String,
    /// Whether the mirror speaks TLS.
    pub https: bool,
    /// The file of its CA.
    pub ca: Option<String>,
}

impl BuildKit {
    /// The changes to buildkitd.toml.
    pub(crate) fn hunks(&self, text: &str) -> Result<Vec<Hunk>, MergeError> {
        let document = parse(text)?;
        let mut meant = meaning(&document);
        let (mut hunks, mut blocks) = (Vec::new(), Vec::new());
        let mut list = |registry: &str, key: &str, value: &str| {
            let path = ["registry", registry, key];
            let mut items = vec![value.to_owned()];
            match array(&document, &path) {
                Some((found, _)) if found.contains(&value) => return,
                Some((found, at)) => {
                    let comma = if found.is_empty() { "" } else { ", " };
                    hunks.push(Hunk::insert(at, format!("{}{comma}", quoted(value))));
                    items.extend(found.into_iter().map(str::to_owned));
                }
                None => {
                    let line = format!("{key} = [{}]", quoted(value));
                    match header(text, &path[..2]) {
                        Some(header) => hunks.push(line_below(text, &header, &line)),
                        None => blocks.push(block(registry, &line)),
                    }
                }
            }
            put(&mut meant, &path, items.into());
        };
        for registry in &self.registries {
            list(registry, "mirrors", &self.authority);
        }
        if let Some(ca) = &self.ca {
            list(&self.authority, "ca", ca);
        }
        let path = ["registry", &self.authority, "http"];
        if !self.https && item(&document, &path).is_none() {
            let line = "http = true";
            match header(text, &path[..2]) {
                Some(header) => hunks.push(line_below(text, &header, line)),
                None => blocks.push(block(&self.authority, line)),
            }
            put(&mut meant, &path, true.into());
        }
        if !blocks.is_empty() {
            hunks.push(append(text, &blocks));
        }
        check(text, &hunks, &meant)?;
        Ok(hunks)
    }
}

fn block(registry: &str, line: &str) -> String {
    format!("[registry.{}]\n  {line}\n", quoted(registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(text: &str) -> Result<String, String> {
        let settings = BuildKit {
            registries: vec!["docker.io".to_owned()],
            authority: "gw.lan:5000".to_owned(),
            https: true,
            ca: Some("/ca.pem".to_owned()),
        };
        let hunks = settings.hunks(text);
        hunks
            .map(|hunks| apply(text, &hunks))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn mirrors_and_the_ca_are_added() {
        const HUB: &str = "[registry.\"docker.io\"]\n  mirrors = [\"gw.lan:5000\"]\n";
        const CA: &str = "[registry.\"gw.lan:5000\"]\n  ca = [\"/ca.pem\"]\n";
        for (before, after) in [
            ("", format!("{HUB}\n{CA}")),
            (
                "# ours\ndebug = true",
                format!("# ours\ndebug = true\n\n{HUB}\n{CA}"),
            ),
            (
                "[registry.\"docker.io\"] # Hub\n  mirrors = [ \"other\" ] # old\n[worker.oci]\n",
                format!(
                    "[registry.\"docker.io\"] # Hub\n  mirrors = [\"gw.lan:5000\",  \"other\" ] # old\n[worker.oci]\n\n{CA}"
                ),
            ),
            (
                "[registry]\n  [registry.'docker.io']\n    http = false\n",
                format!(
                    "[registry]\n  [registry.'docker.io']\n    mirrors = [\"gw.lan:5000\"]\n    http = false\n\n{CA}"
                ),
            ),
        ] {
            assert_eq!(merged(before).as_deref(), Ok(&*after), "{before}");
            assert_eq!(merged(&after).as_deref(), Ok(&*after), "twice");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for (text, words) in [
            ("debug = ", "cannot be parsed, so it stays as it is: line 1"),
            ("registry = 5\n", "its form is not one"),
            (
                "registry = {\"docker.io\" = {http = true}}\n",
                "its form is not one",
            ),
            (
                "[registry.\"docker.io\"]\nmirrors = \"a\"\n",
                "its form is not one",
            ),
        ] {
            let error = merged(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
