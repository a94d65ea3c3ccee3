//! What was changed, and what it was before.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::hunk::{Hunk, revert};
use super::merge::MARKER;

/// The version of the form of a record.
pub(crate) const VERSION: u32 = 1;

/// What a set-up changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// That of this form: 1.
    pub(crate) version: u32,
    pub(crate) client: Client,
    /// The URL of the gateway.
    pub(crate) gateway: String,
    pub(crate) files: Vec<Entry>,
}

/// A file that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// As the client names it.
    pub path: PathBuf,
    /// `None`: there was no file.
    pub before: Option<String>,
    pub after: String,
    pub hunks: Vec<Hunk>,
    /// Whether all of it is ours, so that changes by others are not kept.
    pub own: bool,
    /// The folders that were made for it, the outermost first.
    pub made: Vec<PathBuf>,
}

/// What a file was before, as far as it can be told from what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// This text, or no file.
    Text(Option<String>),
    /// It was changed since, so that what was ours cannot be told from the rest.
    Unknown,
}

impl Entry {
    /// What the file was before, with what was changed since by others.
    pub fn restored(&self, now: Option<&str>) -> Restored {
        match now {
            _ if now == self.before.as_deref() => Restored::Text(self.before.clone()),
            // Others removed it.
            None => Restored::Text(None),
            Some(text) if text == self.after || self.own && text.starts_with(MARKER) => {
                Restored::Text(self.before.clone())
            }
            Some(text) => match revert(text, &self.hunks) {
                Some(text) if self.before.is_none() && text.trim().is_empty() => {
                    Restored::Text(None)
                }
                Some(text) => Restored::Text(Some(text)),
                None => Restored::Unknown,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_changed_stays() {
        let entry = |before: Option<&str>, own| Entry {
            path: "/a".into(),
            before: before.map(str::to_owned),
            after: format!("{MARKER}ours\n{}", before.unwrap_or_default()),
            hunks: vec![Hunk::insert(0, format!("{MARKER}ours\n"))],
            own,
            made: Vec::new(),
        };
        let (merged, made, own) = (
            entry(Some("x\n"), false),
            entry(None, false),
            entry(None, true),
        );
        let text = |text: &str| Restored::Text(Some(text.to_owned()));
        let edited = format!("{MARKER}ours\nedited\n");
        for (entry, now, expected) in [
            (&merged, Some(&*merged.after), text("x\n")),
            (&merged, Some("x\n"), text("x\n")),
            (&merged, None, Restored::Text(None)),
            (&merged, Some(&*edited), text("edited\n")),
            (&merged, Some("edited\n"), Restored::Unknown),
            (&made, Some(&*made.after), Restored::Text(None)),
            (&made, None, Restored::Text(None)),
            (&made, Some(&*edited), text("edited\n")),
            (&own, Some(&*edited), Restored::Text(None)),
            (&own, Some("edited\n"), Restored::Unknown),
        ] {
            assert_eq!(entry.restored(now), expected, "{now:?}");
        }
    }
}
