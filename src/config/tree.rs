//! A file as a tree whose every key and value knows its place.

use super::fault::Position;

/// A value and the place of its first character.
#[derive(Debug)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

/// What stands in that place.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~`, `null`, or variables that expand to nothing: as if the key were not there.
    Absent,
    /// A fault is noted already; whoever reads this stays silent.
    Broken,
    Text(Text),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A scalar of any style.
#[derive(Debug)]
pub(super) struct Text {
    /// With variables expanded.
    pub text: String,
    /// As in the file, for messages.
    pub written: String,
}

/// A key of a mapping with its value; keys are unique.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Position,
    pub node: Node,
}

impl Node {
    /// The entry of a mapping, unless its value is absent.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        let Value::Mapping(entries) = &self.value else {
            return None;
        };
        entries
            .iter()
            .find(|entry| entry.key == key && !matches!(entry.node.value, Value::Absent))
    }

    /// Whether `key` has a value other than `off`.
    pub fn is_set(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|entry| !entry.node.is_off())
    }

    /// The value under `key`, or else the nearest thing that is in the file: this node.
    pub fn near(&self, key: &str) -> &Self {
        self.entry(key).map_or(self, |entry| &entry.node)
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The item at `index`, or else this node.
    pub fn item(&self, index: usize) -> &Self {
        self.items().get(index).unwrap_or(self)
    }

    /// A scalar's text with variables expanded.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(&text.text),
            _ => None,
        }
    }

    /// Whether the value is `off`, which `false` means too.
    pub fn is_off(&self) -> bool {
        matches!(self.text(), Some("off" | "false"))
    }

    /// What kind of value this is, as messages call it.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Absent | Value::Broken => "nothing",
            Value::Text(_) => "a single value",
            Value::List(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}
