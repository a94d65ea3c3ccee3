//! Changes of a text that leave the rest of it as it is.

use serde::{Deserialize, Serialize};

/// A replacement of a part of a text. Mostly the old part is empty: an insertion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunk {
    /// Where the old part begins, in bytes.
    pub at: usize,
    /// The old part.
    pub old: String,
    /// What stands in its place.
    pub new: String,
}

impl Hunk {
    /// An insertion.
    pub fn insert(at: usize, new: impl Into<String>) -> Self {
        Self {
            at,
            old: String::new(),
            new: new.into(),
        }
    }
}

/// The text with all changes. Places are those before any of them; of two at one place the first comes first.
pub fn apply(text: &str, hunks: &[Hunk]) -> String {
    let mut hunks: Vec<&Hunk> = hunks.iter().collect();
    hunks.sort_by_key(|hunk| hunk.at);
    let (mut changed, mut at) = (String::with_capacity(text.len()), 0);
    for hunk in hunks {
        changed.push_str(text.get(at..hunk.at).unwrap_or_default());
        changed.push_str(&hunk.new);
        at = hunk.at + hunk.old.len();
    }
    changed.push_str(text.get(at..).unwrap_or_default());
    changed
}

/// Takes the changes back from a text that was edited since; `None` if one of them is not there exactly once.
pub fn revert(text: &str, hunks: &[Hunk]) -> Option<String> {
    let mut reverted = text.to_owned();
    for hunk in hunks {
        let mut found = reverted.match_indices(&hunk.new);
        let (at, _) = found.next()?;
        if hunk.new.is_empty() || found.next().is_some() {
            return None;
        }
        reverted.replace_range(at..at + hunk.new.len(), &hunk.old);
    }
    Some(reverted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied_and_taken_back() {
        let replace = Hunk {
            at: 6,
            old: "\"\"".to_owned(),
            new: "\"x\"".to_owned(),
        };
        let hunks = [
            Hunk::insert(0, "first\n"),
            replace,
            Hunk::insert(8, " # end"),
        ];
        let changed = apply("key = \"\"\n", &hunks);
        assert_eq!(changed, "first\nkey = \"x\" # end\n");
        assert_eq!(revert(&changed, &hunks).as_deref(), Some("key = \"\"\n"));
        let edited = changed.replace("key", "other\nkey");
        assert_eq!(
            revert(&edited, &hunks).as_deref(),
            Some("other\nkey = \"\"\n")
        );
        for edited in ["key = \"x\"\n", "first\nfirst\nkey = \"x\" # end\n", ""] {
            assert_eq!(revert(edited, &hunks), None, "{edited}");
        }
    }
}
