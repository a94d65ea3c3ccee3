//! The tables of keys of every section. The parser takes its keys from them, and the reference in
//! docs/configuration.md is rendered from them.

use std::fmt::Write as _;

/// One key of a section.
#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub absent: Absent,
    /// The description, in Markdown.
    pub meaning: &'static str,
}

/// The form of a key's value.
#[derive(Debug)]
pub(super) enum Kind {
    /// A single value of this form.
    Scalar(&'static str),
    /// A single value of this form, which is never shown.
    Secret(&'static str),
    /// A list of values of this form.
    List(&'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One of these words, or a list of values of this form.
    ChoiceOrList(&'static [&'static str], &'static str),
    /// A section.
    Section(&'static [Key]),
    /// A section, or one of these words.
    ChoiceOrSection(&'static [&'static str], &'static [Key]),
    /// A list of mappings with these keys.
    Items(&'static [Key]),
    /// A mapping whose keys and values have these forms.
    Map(&'static str, &'static str),
}

/// The effect of an absent key.
#[derive(Debug)]
pub(super) enum Absent {
    /// The default value.
    Is(&'static str),
    /// A default in words.
    Means(&'static str),
    /// Nothing; the feature is not used.
    Nothing,
    /// The key is required.
    Required,
}

impl Key {
    pub const fn new(
        name: &'static str,
        kind: Kind,
        absent: Absent,
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            absent,
            meaning,
        }
    }
}

impl Kind {
    /// The keys below it.
    pub const fn keys(&self) -> &'static [Key] {
        match self {
            Self::Section(keys) | Self::ChoiceOrSection(_, keys) | Self::Items(keys) => keys,
            Self::Scalar(_)
            | Self::Secret(_)
            | Self::List(_)
            | Self::Choice(_)
            | Self::ChoiceOrList(..)
            | Self::Map(..) => &[],
        }
    }

    /// The separator between its own path and those of the keys below it.
    const fn below(&self) -> &'static str {
        match self {
            Self::Items(_) => "[].",
            _ => ".",
        }
    }

    fn described(&self) -> String {
        match self {
            Self::Scalar(form) | Self::Secret(form) => (*form).to_owned(),
            Self::List(form) => format!("list of {form}s"),
            Self::Choice(words) => or(words),
            Self::ChoiceOrList(words, form) => format!("{}, or a list of {form}s", or(words)),
            Self::Section(_) => "the keys below".to_owned(),
            Self::ChoiceOrSection(words, _) => format!("{}, or the keys below", or(words)),
            Self::Items(_) => "list of the keys below".to_owned(),
            Self::Map(key, value) => format!("mapping of {key} to {value}"),
        }
    }
}

impl Absent {
    fn described(&self) -> String {
        match self {
            Self::Is(value) => format!("`{value}`"),
            Self::Means(words) => (*words).to_owned(),
            Self::Nothing => String::new(),
            Self::Required => "required".to_owned(),
        }
    }
}

/// Every key in Markdown, a table for each section.
pub fn reference() -> String {
    let mut page = String::new();
    for key in super::KEYS {
        let (name, meaning) = (key.name, key.meaning);
        let _ = write!(page, "## `{name}`\n\n{meaning}\n\n");
        page.push_str("| Key | Value | Default | Meaning |\n|---|---|---|---|\n");
        let keys = key.kind.keys();
        if keys.is_empty() || !matches!(key.absent, Absent::Nothing) {
            row(&mut page, "", key);
        }
        let path = format!("{name}{}", key.kind.below());
        rows(&mut page, &path, keys);
        page.push('\n');
    }
    page
}

/// A row for each of the keys, and for those below them.
fn rows(page: &mut String, path: &str, keys: &[Key]) {
    for key in keys {
        row(page, path, key);
        let below = format!("{path}{}{}", key.name, key.kind.below());
        rows(page, &below, key.kind.keys());
    }
}

fn row(page: &mut String, path: &str, key: &Key) {
    let (value, absent) = (key.kind.described(), key.absent.described());
    let (name, meaning) = (key.name, key.meaning);
    let _ = writeln!(page, "| `{path}{name}` | {value} | {absent} | {meaning} |");
}

/// `a`, `b` or `c`
fn or(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
