//! Errors and warnings of a file, with their positions and the wording of messages.

use std::fmt;
use std::path::Path;

/// A position in the file. Both count from 1; columns count characters, not bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One error of the file, or a warning in [`super::Config::warnings`].
///
/// Displays as `file:line:column: message`; the message says what to write instead and never
/// contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The name of the file as given to [`super::load`].
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The error and its remedy: one line, no full stop.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
        } = self;
        write!(f, "{file}:{line}:{column}: {message}")
    }
}

/// All errors of a file, in the order of the file; never empty.
///
/// Displays as one line for each fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines())]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults in the order of the file; at least one.
    #[cfg(test)]
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }

    fn lines(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(Fault::to_string).collect();
        lines.join("\n")
    }
}

/// Collects the errors and warnings of a file, so that one run reports all of them.
#[derive(Debug)]
pub(super) struct Report {
    file: String,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Report {
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Reports an error.
    pub fn fault(&mut self, at: Position, message: impl Into<String>) {
        let fault = self.place(at, message);
        self.faults.push(fault);
    }

    /// Reports a warning.
    pub fn warn(&mut self, at: Position, message: impl Into<String>) {
        let warning = self.place(at, message);
        self.warnings.push(warning);
    }

    /// Reports an error in a line of another file that the configuration names.
    pub fn fault_in(&mut self, file: &Path, line: usize, message: impl Into<String>) {
        let at = Position { line, column: 1 };
        let mut fault = self.place(at, message);
        fault.file = file.display().to_string();
        self.faults.push(fault);
    }

    /// Whether there is no error so far.
    #[cfg(test)]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// The warnings if there is no error, else all errors; both in the order of the file.
    pub fn verdict(mut self) -> Result<Vec<Fault>, Faults> {
        for found in [&mut self.faults, &mut self.warnings] {
            // Stable, so that faults at one position stay in the order in which they were found.
            found.sort_by_key(|fault| (fault.file != self.file, fault.line, fault.column));
        }
        if self.faults.is_empty() {
            Ok(self.warnings)
        } else {
            Err(Faults(self.faults))
        }
    }

    fn place(&self, at: Position, message: impl Into<String>) -> Fault {
        Fault {
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            message: message.into(),
        }
    }
}

/// A single fault, for errors before there is text to parse.
pub(super) fn sole(file: &str, at: Position, message: impl Into<String>) -> Faults {
    let report = Report::new(file);
    Faults(vec![report.place(at, message)])
}

/// The number of characters of a value that a message shows.
const SHOWN: usize = 60;

/// A value or key for a message: quoted, escaped, shortened, and without the parts of a URL that are often secret:
/// the user before an `@` and the query after a `?`.
///
/// Values are shown as they are written in the file, so that a `${VAR}` stays unexpanded.
pub(super) fn shown(written: &str) -> String {
    let (user, host) = match written.rsplit_once('@') {
        Some((_, host)) => ("…@", host),
        None => ("", written),
    };
    let (host, query) = match host.split_once('?') {
        Some((host, _)) => (host, "?…"),
        None => (host, ""),
    };
    let retained: String = host.chars().take(SHOWN).collect();
    let cut = if retained.len() < host.len() {
        "…"
    } else {
        ""
    };
    format!("{:?}", format!("{user}{retained}{cut}{query}"))
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn either(choices: &[&str]) -> String {
    match choices {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The known word closest to `typed`, if one is close enough.
pub(super) fn nearest<'w>(typed: &str, known: &[&'w str]) -> Option<&'w str> {
    let typed = typed.to_lowercase();
    known
        .iter()
        .map(|word| (edits(&typed, word), *word))
        .filter(|(distance, word)| *distance <= (word.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// The number of letters to insert, remove, replace or swap with their neighbour to turn one word into
/// the other (optimal string alignment).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // Rows of the usual table: the distances from a prefix of `from` to every prefix of `to`.
    let mut two_back: Vec<usize> = Vec::new();
    let mut back: Vec<usize> = (0..=to.len()).collect();
    let mut previous = None;
    for (i, letter) in from.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, &other) in to.iter().enumerate() {
            let replaced = back[j] + usize::from(letter != other);
            let mut best = replaced.min(back[j + 1] + 1).min(row[j] + 1);
            if j > 0 && previous == Some(other) && letter == to[j - 1] {
                best = best.min(two_back[j - 1] + 1);
            }
            row.push(best);
        }
        previous = Some(letter);
        two_back = std::mem::replace(&mut back, row);
    }
    back[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_letters() {
        for (from, to, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("tag_tll", "tag_ttl", 1),
            ("kyes", "keys", 1),
            ("listne", "listen", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(from, to), expected, "{from} -> {to}");
        }
    }

    #[test]
    fn nearest_suggests_only_what_may_be_meant() {
        let known = ["tag_ttl", "missing_ttl", "link_ttl", "path"];
        for (typed, expected) in [
            ("tag_tll", Some("tag_ttl")),
            ("tag-ttl", Some("tag_ttl")),
            ("TAG_TTL", Some("tag_ttl")),
            ("pth", Some("path")),
            ("mising_ttl", Some("missing_ttl")),
            ("ttl", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, &known), expected, "{typed}");
        }
    }

    #[test]
    fn shown_hides_users_queries_and_length() {
        for (written, expected) in [
            ("10x", r#""10x""#),
            ("a\nb", r#""a\nb""#),
            ("https://me:pw@host/", r#""…@host/""#),
            ("https://host/?token=x", r#""https://host/?…""#),
        ] {
            assert_eq!(shown(written), expected);
        }
        assert_eq!(shown(&"x".repeat(61)).chars().count(), 63);
    }
}
