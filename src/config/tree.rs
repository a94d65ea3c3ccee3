//! A file as a tree in which every key and value has its position.

use super::fault::Position;

/// A value and the position of its first character.
#[derive(Debug)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

/// The value of a node.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~`, `null`, or variables that expand to nothing: as if the key were absent.
    Absent,
    /// A fault is reported already; readers report no other.
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
    /// No value.
    pub const ABSENT: Self = Self {
        at: Position::START,
        value: Value::Absent,
    };

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

    /// The value under `key`, or else the closest position in the file: this node.
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

    /// Whether the value is `off` or `false`.
    pub fn is_off(&self) -> bool {
        matches!(self.text(), Some("off" | "false"))
    }

    /// The kind of this value, in the words of messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Absent | Value::Broken => "nothing",
            Value::Text(_) => "a single value",
            Value::List(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}
