//! The journal of an import: what was imported, what was there already, and what could not be imported and why.

use std::io;

use store::CommitError;

/// How much of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tags.
    pub tags: u64,
    /// Manifests and indexes, as links of repositories.
    pub manifests: u64,
    /// Images of the v1 API, with their layers.
    pub images: u64,
    /// Layers and configurations, as links of repositories.
    pub blobs: u64,
    /// The bytes of the content.
    pub bytes: u64,
    /// Those of them that share their space with the folder, as hard links.
    pub linked_bytes: u64,
}

/// What an import did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The links and images that were looked at.
    pub done: u64,
    /// Those in the folder.
    pub total: u64,
    /// The repositories that were looked at.
    pub repositories: u64,
    /// Imported now.
    pub imported: Tally,
    /// Known before.
    pub present: Tally,
    /// The findings of each kind.
    pub damaged: u64,
    /// See [`Finding::Skipped`].
    pub skipped: u64,
    /// See [`Finding::NotStored`].
    pub not_stored: u64,
}

/// Why something was not imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The folder does not have what it claims to have.
    Damaged,
    /// It is nothing that can be imported.
    Skipped,
    /// The store has no room for it, or the disk failed.
    NotStored,
}

impl Finding {
    /// As in the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Skipped => "skipped",
            Self::NotStored => "not stored",
        }
    }
}

/// A finding and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub finding: Finding,
    /// The reason.
    pub why: String,
}

impl Fault {
    /// Content that is not what the folder says.
    pub fn damaged(why: impl ToString) -> Self {
        Self::new(Finding::Damaged, why)
    }

    /// Something that cannot be imported.
    pub fn skipped(why: impl ToString) -> Self {
        Self::new(Finding::Skipped, why)
    }

    /// Something that the store did not take.
    pub fn not_stored(why: impl ToString) -> Self {
        Self::new(Finding::NotStored, why)
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors, as `map_err` gives them"
    )]
    fn new(finding: Finding, why: impl ToString) -> Self {
        let why = why.to_string();
        Self { finding, why }
    }

    /// A file of the folder that cannot be read.
    pub fn unreadable(error: &io::Error) -> Self {
        Self::damaged(match error.kind() {
            io::ErrorKind::NotFound => "it is not in the folder".to_owned(),
            _ => format!("it cannot be read: {error}"),
        })
    }
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Mismatch(mismatch) => {
                Self::damaged(format!("its bytes have the digest {}", mismatch.actual))
            }
            CommitError::Truncated { .. } | CommitError::Overlong { .. } => {
                Self::damaged("its length changed while it was read")
            }
            CommitError::Full(full) => Self::not_stored(format!(
                "the store has no room for {} bytes; raise store.max_size or free space",
                full.bytes
            )),
            CommitError::Io(error) => Self::not_stored(format!("it cannot be copied: {error}")),
        }
    }
}

/// What an import tells while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Line<'a> {
    /// Where it is.
    Progress(&'a Report),
    /// Something that it does not import.
    Fault {
        /// Where it was found, relative to the folder. It may have any characters.
        path: &'a str,
        /// What is wrong with it.
        fault: &'a Fault,
    },
}

/// Collects the report, and tells it while it grows. Findings are told, not collected: a folder may have any number.
pub struct Journal<'a> {
    /// What was done so far.
    pub report: Report,
    tell: &'a mut dyn FnMut(Line<'_>),
}

impl<'a> Journal<'a> {
    /// A journal that is told by `tell`.
    pub fn new(tell: &'a mut dyn FnMut(Line<'_>)) -> Self {
        let report = Report::default();
        Self { report, tell }
    }

    /// One more of the links and images is done.
    pub fn step(&mut self) {
        self.report.done += 1;
        (self.tell)(Line::Progress(&self.report));
    }

    /// Notes what was found at a path.
    pub fn fault(&mut self, path: &str, fault: &Fault) {
        let count = match fault.finding {
            Finding::Damaged => &mut self.report.damaged,
            Finding::Skipped => &mut self.report.skipped,
            Finding::NotStored => &mut self.report.not_stored,
        };
        *count += 1;
        (self.tell)(Line::Fault { path, fault });
    }

    /// The value, or notes why there is none.
    pub fn note<T>(&mut self, path: &str, outcome: Result<T, Fault>) -> Option<T> {
        outcome.inspect_err(|fault| self.fault(path, fault)).ok()
    }
}
