//! Parses YAML into a tree in which every key and value has its position, with `${VAR}` expanded.
//!
//! One pass over the parser's events. Features that a configuration does not need are refused with a
//! message (aliases, anchors, merge keys, tags, second documents, repeated keys), so that the tree is
//! never larger than the file.

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::fault::{Position, Report};
use super::tree::{Entry, Node, Text, Value};
use super::variables::{Env, expand};

/// The largest file that is read, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
pub(super) const TOO_LARGE: &str = "larger than 1MiB; write less, or name the right file";
/// How deep lists and mappings may be nested.
const MAX_DEPTH: usize = 32;
/// The limit for values in a file: the cross-checks are quadratic in it.
const MAX_NODES: usize = 20_000;

/// Parses a file. A syntax error ends parsing with one fault and an empty tree.
pub(super) fn tree(text: &str, env: Env<'_>, report: &mut Report) -> Node {
    let walked = acceptable(text).and_then(|()| {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut walk = Walk {
            parser: Parser::new_from_str(text),
            env,
            report,
            nodes: 0,
        };
        walk.document()
    });
    walked.unwrap_or_else(|Stop { at, message }| {
        report.fault(at, message);
        Node {
            at: Position::START,
            value: Value::Absent,
        }
    })
}

/// The fault that ended parsing.
struct Stop {
    at: Position,
    message: String,
}

fn stop<T>(at: Position, message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop {
        at,
        message: message.into(),
    })
}

/// Refuses control characters that the parser would take for the end of the file, and files that are too large.
fn acceptable(text: &str) -> Result<(), Stop> {
    if text.len() > MAX_BYTES {
        return stop(Position::START, TOO_LARGE);
    }
    for (line, content) in text.split('\n').enumerate() {
        let control = |c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\u{85}');
        if let Some(column) = content.chars().position(control) {
            let at = Position {
                line: line + 1,
                column: column + 1,
            };
            return stop(
                at,
                "a control character; remove it, or write it as an escape in double quotes",
            );
        }
    }
    Ok(())
}

struct Walk<'w> {
    parser: Parser<'w, StrInput<'w>>,
    env: Env<'w>,
    report: &'w mut Report,
    nodes: usize,
}

impl<'w> Walk<'w> {
    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = Node {
            at: Position::START,
            value: Value::Absent,
        };
        let mut documents = 0;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(root),
                (Event::DocumentStart(_), at) => {
                    documents += 1;
                    if documents > 1 {
                        return stop(at, "a second document; keep one and remove this `---`");
                    }
                    let (event, at) = self.next()?;
                    root = self.node(event, at, 1)?;
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'w>, Position), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, Span { start, .. }))) => Ok((event, position(start))),
            // The parser's messages quote nothing of the file, so no secret either.
            Some(Err(error)) => stop(
                position(*error.marker()),
                format!(
                    "not YAML: {}; mind the indentation, and put values with signs in quotes",
                    error.info()
                ),
            ),
            None => Ok((Event::StreamEnd, Position::START)),
        }
    }

    fn node(&mut self, event: Event<'w>, at: Position, depth: usize) -> Result<Node, Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return stop(at, format!("more than {MAX_NODES} values; write fewer"));
        }
        if depth > MAX_DEPTH {
            return stop(
                at,
                format!("nested more than {MAX_DEPTH} deep; write it flatter"),
            );
        }
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_properties(at, anchor, tag.is_some());
                self.scalar(&text, style, at)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_properties(at, anchor, tag.is_some());
                Value::List(self.list(depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_properties(at, anchor, tag.is_some());
                Value::Mapping(self.mapping(depth)?)
            }
            Event::Alias(_) => {
                self.report
                    .fault(at, "aliases are not supported; write the value out");
                Value::Broken
            }
            _ => Value::Absent,
        };
        Ok(Node { at, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines = std::collections::HashMap::new();
        loop {
            let (event, key_at) = self.next()?;
            let key = match event {
                Event::MappingEnd | Event::StreamEnd => return Ok(entries),
                Event::Scalar(key, _, anchor, tag) => {
                    self.refuse_properties(key_at, anchor, tag.is_some());
                    Some(key.into_owned())
                }
                compound => {
                    self.node(compound, key_at, depth + 1)?;
                    self.report.fault(key_at, "a key must be a single word");
                    None
                }
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1)?;
            let Some(key) = key else { continue };
            if key == "<<" {
                self.report.fault(
                    key_at,
                    "merge keys are not supported; write the keys out here",
                );
            } else if let Some(line) = lines.insert(key.clone(), key_at.line) {
                let message = format!("this key stands in line {line} already; keep one of them");
                self.report.fault(key_at, message);
            } else {
                entries.push(Entry { key, key_at, node });
            }
        }
    }

    fn scalar(&mut self, written: &str, style: ScalarStyle, at: Position) -> Value {
        if style == ScalarStyle::Plain && matches!(written, "" | "~" | "null" | "Null" | "NULL") {
            return Value::Absent;
        }
        match expand(written, self.env) {
            Ok(text) if text.is_empty() && !written.is_empty() => Value::Absent,
            Ok(text) => Value::Text(Text {
                text,
                written: written.to_owned(),
            }),
            Err(messages) => {
                for message in messages {
                    self.report.fault(at, message);
                }
                Value::Broken
            }
        }
    }

    fn refuse_properties(&mut self, at: Position, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.report
                .fault(at, "anchors are not supported; remove the `&` and its name");
        }
        if tag {
            self.report
                .fault(at, "tags are not supported; remove the `!` and its name");
        }
    }
}

fn position(marker: saphyr_parser::Marker) -> Position {
    Position {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::assert_faults;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".to_owned()),
            "TRICK" => Some("a: b, ${HOST}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn positions_are_exact() {
        let text = "# über\nstore:\n  päth: 'x'   # c\n  b: [1, {c: \"${HOST}\"}]\n";
        let mut report = Report::new("f");
        let root = tree(text, &env, &mut report);
        let at = |node: &Node| (node.at.line, node.at.column);
        let store = root.near("store");
        assert_eq!(at(&root), (2, 1));
        assert_eq!(at(store), (3, 3));
        assert_eq!(at(store.near("päth")), (3, 9));
        let c = store.entry("b").unwrap().node.item(1).entry("c").unwrap();
        assert_eq!((c.key_at.line, c.key_at.column), (4, 11));
        assert_eq!(at(&c.node), (4, 14));
        assert_eq!(c.node.text(), Some("example.com"));
        assert_eq!(at(store.near("nothing")), (3, 3));
    }

    #[test]
    fn nothing_is_absent() {
        for text in [
            "",
            "# only\n# comments",
            "---\n",
            "~",
            "\u{feff}",
            "${UNSET:-}",
        ] {
            let mut report = Report::new("f");
            let root = tree(text, &env, &mut report);
            assert!(matches!(root.value, Value::Absent), "{text:?}: {root:?}");
        }
    }

    #[test]
    fn what_is_not_understood() {
        assert_faults(&[
            (
                "store:\n  path: a\n  path: b",
                &["3:3: this key stands in line 2 already; keep one of them"],
            ),
            (
                "log: &a {format: text}",
                &["1:6: anchors are not supported; remove the `&` and its name"],
            ),
            (
                "keys: &a x\nstore: {path: *a}",
                &[
                    "1:7: anchors are not supported; remove the `&` and its name",
                    "2:15: aliases are not supported; write the value out",
                ],
            ),
            (
                "keys: *a",
                &[
                    "1:7: not YAML: while parsing node, found unknown anchor; mind the indentation, and put values with signs in quotes",
                ],
            ),
            (
                "log: {<<: {format: text}}",
                &["1:7: merge keys are not supported; write the keys out here"],
            ),
            (
                "keys: !!str x",
                &["1:7: tags are not supported; remove the `!` and its name"],
            ),
            (
                "keys: a\n---\nkeys: b",
                &["2:1: a second document; keep one and remove this `---`"],
            ),
            (
                "keys: [a",
                &[
                    "2:1: not YAML: while parsing a flow sequence, expected ',' or ']'; mind the indentation, and put values with signs in quotes",
                ],
            ),
            (
                "store:\n\tpath: x",
                &[
                    "2:2: not YAML: tabs disallowed within this context (block indentation); mind the indentation, and put values with signs in quotes",
                ],
            ),
            (
                "a: b: c",
                &[
                    "1:5: not YAML: mapping values are not allowed in this context; mind the indentation, and put values with signs in quotes",
                ],
            ),
            (
                "keys: @x",
                &[
                    "1:7: not YAML: unexpected character: `@'; mind the indentation, and put values with signs in quotes",
                ],
            ),
            ("? [a, b]\n: c", &["1:3: a key must be a single word"]),
            ("{? {a: b} : c}", &["1:4: a key must be a single word"]),
            (
                r#"keys: "${HOME DIR}""#,
                &[
                    "1:7: not a variable; write ${NAME} or ${NAME:-default}, and $${ for a literal ${",
                ],
            ),
            (
                "keys: a${NOPE}b${NOR}",
                &[
                    "1:7: the environment variable NOPE is not set; set it, or write ${NOPE:-default}",
                    "1:7: the environment variable NOR is not set; set it, or write ${NOR:-default}",
                ],
            ),
        ]);
    }
}
