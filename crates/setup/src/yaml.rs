//! registries.yaml of K3s: mirrors before others, and the CA of the gateway.

use saphyr_parser::{Event, Parser, Span, StrInput};
use serde_json::{Value as Json, json};

use super::hunk::{Hunk, apply};
use super::merge::{MARKER, MergeError, expect_same, unsafe_form};

/// How deep lists and mappings may be nested.
const MAX_DEPTH: usize = 32;

/// What registries.yaml needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registries {
    /// The registries that are mirrored.
    pub names: Vec<String>,
    /// The mirror's URL.
    pub url: String,
    /// Its `host:port`.
    pub authority: String,
    /// The file of its CA.
    pub ca: Option<String>,
}

/// A value, and where it begins.
struct Node {
    /// In bytes.
    at: usize,
    value: Value,
}

enum Value {
    Scalar(String),
    List(Vec<Node>),
    /// Keys with the places where they begin.
    Mapping(Vec<(String, usize, Node)>),
}

impl Registries {
    /// The changes to registries.yaml.
    pub(crate) fn hunks(&self, text: &str) -> Result<Vec<Hunk>, MergeError> {
        let root = parse(text)?;
        let mut meant = root.as_ref().map_or_else(|| json!({}), Node::meaning);
        let section = |name| root.as_ref().and_then(|root| root.entry(name));
        let mut hunks = Vec::new();
        let mut at_end = self.mirrors(text, section("mirrors"), &mut meant, &mut hunks)?;
        if let Some(ca) = &self.ca {
            at_end += &self.config(text, ca, section("configs"), &mut meant, &mut hunks)?;
        }
        if !at_end.is_empty() {
            let is_ours = text.trim().is_empty();
            let marker = if is_ours { MARKER } else { "" };
            let is_open = !text.is_empty() && !text.ends_with('\n');
            let newline = if is_open { "\n" } else { "" };
            hunks.push(Hunk::insert(
                text.len(),
                format!("{newline}{marker}{at_end}"),
            ));
        }
        let found = parse(&apply(text, &hunks)).ok().flatten();
        let found = found.as_ref().map_or(Json::Null, Node::meaning);
        // Without an empty mapping that is nothing in YAML.
        if !(hunks.is_empty() && root.is_none()) {
            expect_same(&meant, &found)?;
        }
        Ok(hunks)
    }

    /// The changes of `mirrors`; returns the section if it belongs at the end.
    fn mirrors(
        &self,
        text: &str,
        section: Option<&Node>,
        meant: &mut Json,
        hunks: &mut Vec<Hunk>,
    ) -> Result<String, MergeError> {
        let place = Place::of(text, section)?;
        let mut missing = String::new();
        for registry in &self.names {
            let Some(existing) = section.and_then(|section| section.entry(registry)) else {
                let lines = ["endpoint:".to_owned(), format!("  - {}", quoted(&self.url))];
                missing += &place.child(registry, &lines);
                meant["mirrors"][registry] = json!({"endpoint": [self.url]});
                continue;
            };
            let endpoint = existing.entry("endpoint").ok_or_else(|| {
                let message = format!(
                    "mirrors has no endpoint for {registry}; add {} to it",
                    self.url
                );
                MergeError::Unsuitable(message)
            })?;
            if let Some(hunk) = first_item(text, endpoint, &self.url)? {
                hunks.push(hunk);
                if let Json::Array(items) = &mut meant["mirrors"][registry]["endpoint"] {
                    items.insert(0, self.url.as_str().into());
                }
            }
        }
        Ok(place.put("mirrors", missing, hunks))
    }

    /// The changes of `configs`; returns the section if it belongs at the end.
    fn config(
        &self,
        text: &str,
        ca: &str,
        section: Option<&Node>,
        meant: &mut Json,
        hunks: &mut Vec<Hunk>,
    ) -> Result<String, MergeError> {
        let authority = &self.authority;
        let config = json!({"tls": {"ca_file": ca}});
        match section.and_then(|section| section.entry(authority)) {
            Some(existing) if existing.meaning()["tls"]["ca_file"] == ca => Ok(String::new()),
            Some(_) => {
                let message = format!(
                    "configs has other values for {authority}; add tls.ca_file: {ca} to them"
                );
                Err(MergeError::Unsuitable(message))
            }
            None => {
                let place = Place::of(text, section)?;
                let lines = ["tls:".to_owned(), format!("  ca_file: {}", quoted(ca))];
                let missing = place.child(authority, &lines);
                meant["configs"][authority] = config;
                Ok(place.put("configs", missing, hunks))
            }
        }
    }
}

/// Where new children of a section belong.
enum Place {
    /// A new section at the end of the file.
    End,
    /// Before the first child, which has this indentation.
    Before(usize, String),
}

impl Place {
    fn of(text: &str, section: Option<&Node>) -> Result<Self, MergeError> {
        let Some(section) = section else {
            return Ok(Self::End);
        };
        let first = match &section.value {
            Value::Mapping(children) => children.first().map(|(_, at, _)| *at),
            _ => None,
        };
        let at = first.ok_or_else(unsafe_form)?;
        let start = line_start(text, at);
        let indent = &text[start..at];
        if indent.is_empty() || !indent.bytes().all(|byte| byte == b' ') {
            return Err(unsafe_form());
        }
        Ok(Self::Before(start, indent.to_owned()))
    }

    /// A child in block style; its lines are indented further.
    fn child(&self, key: &str, lines: &[String]) -> String {
        let indent = match self {
            Self::End => "  ",
            Self::Before(_, indent) => indent,
        };
        let lines = lines.iter().map(|line| format!("{indent}  {line}\n"));
        format!("{indent}{}:\n{}", quoted(key), lines.collect::<String>())
    }

    /// Puts the children in their place; returns the section if that is at the end.
    fn put(&self, name: &str, children: String, hunks: &mut Vec<Hunk>) -> String {
        match self {
            _ if children.is_empty() => String::new(),
            Self::End => format!("{name}:\n{children}"),
            Self::Before(at, _) => {
                hunks.push(Hunk::insert(*at, children));
                String::new()
            }
        }
    }
}

/// The change by which a list has `item` first, unless it is in it.
fn first_item(text: &str, list: &Node, item: &str) -> Result<Option<Hunk>, MergeError> {
    let Value::List(items) = &list.value else {
        return Err(unsafe_form());
    };
    let is_item = |node: &Node| matches!(&node.value, Value::Scalar(text) if text == item);
    if items.iter().any(is_item) {
        return Ok(None);
    }
    let item = quoted(item);
    if text[list.at..].starts_with('[') {
        let comma = if items.is_empty() { "" } else { ", " };
        return Ok(Some(Hunk::insert(list.at + 1, format!("{item}{comma}"))));
    }
    let first = items.first().ok_or_else(unsafe_form)?;
    let start = line_start(text, first.at);
    let before = &text[start..first.at];
    if before.trim() != "-" {
        return Err(unsafe_form());
    }
    Ok(Some(Hunk::insert(start, format!("{before}{item}\n"))))
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |at| at + 1)
}

/// A double-quoted scalar.
fn quoted(text: &str) -> String {
    // A string of JSON is one of YAML.
    Json::from(text).to_string()
}

/// The mapping of a file; `None` if the file has nothing but comments.
fn parse(text: &str) -> Result<Option<Node>, MergeError> {
    // The parser takes a zero for the end of the file.
    if text.contains('\0') {
        return Err(unparsable("a control character"));
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        places: text.char_indices().map(|(at, _)| at).collect(),
        end: text.len(),
    };
    let mut root = None;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => break,
            (Event::DocumentStart(_), _) if root.is_some() => {
                return Err(unparsable("a second document"));
            }
            (Event::DocumentStart(_), _) => {
                let (event, at) = reader.next()?;
                root = Some(reader.node(event, at, 0)?);
            }
            _ => {}
        }
    }
    match root {
        None => Ok(None),
        Some(root) => match &root.value {
            Value::Mapping(_) => Ok(Some(root)),
            Value::Scalar(text) if text.is_empty() || text == "~" || text == "null" => Ok(None),
            _ => Err(unparsable("it is not a mapping")),
        },
    }
}

fn unparsable(reason: impl Into<String>) -> MergeError {
    MergeError::Unparsable(reason.into())
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// Where each character is.
    places: Vec<usize>,
    end: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize), MergeError> {
        match self.parser.next_event() {
            Some(Ok((event, Span { start, .. }))) => {
                let at = self.places.get(start.index()).copied();
                Ok((event, at.unwrap_or(self.end)))
            }
            Some(Err(error)) => {
                let line = error.marker().line();
                Err(unparsable(format!("line {line}: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, self.end)),
        }
    }

    fn node(&mut self, event: Event<'t>, at: usize, depth: usize) -> Result<Node, MergeError> {
        if depth > MAX_DEPTH {
            return Err(unparsable("it is nested too deep"));
        }
        let value = match event {
            Event::Scalar(text, ..) => Value::Scalar(text.into_owned()),
            Event::SequenceStart(..) => Value::List(self.list(depth)?),
            Event::MappingStart(..) => Value::Mapping(self.mapping(depth)?),
            _ => return Err(unparsable("it has an alias; write the value itself")),
        };
        Ok(Node { at, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, MergeError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<(String, usize, Node)>, MergeError> {
        let mut entries: Vec<(String, usize, Node)> = Vec::new();
        loop {
            match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                (Event::Scalar(key, ..), key_at) => {
                    if entries.iter().any(|(known, ..)| *known == key) {
                        return Err(unparsable(format!("the key {key:?} is there twice")));
                    }
                    let (event, at) = self.next()?;
                    entries.push((key.into_owned(), key_at, self.node(event, at, depth + 1)?));
                }
                _ => return Err(unparsable("a key is no text")),
            }
        }
    }
}

impl Node {
    /// The value under a key.
    fn entry(&self, key: &str) -> Option<&Self> {
        let Value::Mapping(entries) = &self.value else {
            return None;
        };
        let entry = entries.iter().find(|(known, ..)| known == key);
        entry.map(|(_, _, node)| node)
    }

    /// All of it as JSON, scalars as they are written.
    fn meaning(&self) -> Json {
        match &self.value {
            Value::Scalar(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Self::meaning).collect(),
            Value::Mapping(entries) => {
                let entries = entries.iter();
                Json::Object(
                    entries
                        .map(|(key, _, node)| (key.clone(), node.meaning()))
                        .collect(),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(text: &str) -> Result<String, String> {
        let registries = Registries {
            names: vec!["docker.io".to_owned()],
            url: "https://gw.lan:5000".to_owned(),
            authority: "gw.lan:5000".to_owned(),
            ca: Some("/ca.pem".to_owned()),
        };
        let hunks = registries.hunks(text);
        hunks
            .map(|hunks| apply(text, &hunks))
            .map_err(|error| error.to_string())
    }

    const MIRROR: &str = "  \"docker.io\":\n    endpoint:\n      - \"https://gw.lan:5000\"\n";
    const CONFIG: &str = "  \"gw.lan:5000\":\n    tls:\n      ca_file: \"/ca.pem\"\n";

    #[test]
    fn mirrors_come_first_and_the_rest_stays() {
        let both = format!("mirrors:\n{MIRROR}configs:\n{CONFIG}");
        for (before, after) in [
            ("", format!("{MARKER}{both}")),
            ("# ours", format!("# ours\n{both}")),
            ("---\n", format!("---\n{both}")),
            (
                "mirrors:\n  ghcr.io: # é\n    endpoint: [a]\n# end",
                format!("mirrors:\n{MIRROR}  ghcr.io: # é\n    endpoint: [a]\n# end\nconfigs:\n{CONFIG}"),
            ),
            (
                "mirrors:\n    'docker.io':\n        endpoint:\n        - https://other # old\nconfigs:\n    other:\n        auth: {username: me}\n",
                "mirrors:\n    'docker.io':\n        endpoint:\n        - \"https://gw.lan:5000\"\n        - https://other # old\nconfigs:\n    \"gw.lan:5000\":\n      tls:\n        ca_file: \"/ca.pem\"\n    other:\n        auth: {username: me}\n".to_owned(),
            ),
            (
                "configs:\n  \"gw.lan:5000\": {tls: {ca_file: /ca.pem}}\nmirrors:\n  docker.io:\n    endpoint: [\"https://other\"]\n",
                "configs:\n  \"gw.lan:5000\": {tls: {ca_file: /ca.pem}}\nmirrors:\n  docker.io:\n    endpoint: [\"https://gw.lan:5000\", \"https://other\"]\n".to_owned(),
            ),
        ] {
            assert_eq!(merged(before).as_deref(), Ok(&*after), "{before}");
            assert_eq!(merged(&after).as_deref(), Ok(&*after), "twice");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for (text, words) in [
            ("mirrors: [", "cannot be parsed"),
            ("- a\n", "it is not a mapping"),
            ("a: 1\n---\nb: 1\n", "a second document"),
            ("a: &x 1\nb: *x\n", "it has an alias"),
            ("a: 1\na: 2\n", "there twice"),
            ("mirrors: {}\n", "its form is not one"),
            ("mirrors:\n", "its form is not one"),
            ("{mirrors: {a: {endpoint: [b]}}}\n", "its form is not one"),
            (
                "mirrors:\n  docker.io:\n    rewrite: {}\n",
                "mirrors has no endpoint for docker.io",
            ),
            (
                "configs:\n  \"gw.lan:5000\":\n    tls: {ca_file: /other}\n",
                "configs has other values for gw.lan:5000",
            ),
        ] {
            let error = merged(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
