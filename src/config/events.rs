//! `audit`: where events are recorded.

use std::path::PathBuf;

use super::fault::Report;
use super::keys::{mapping, path};
use super::reference::{Absent, Key, Kind};
use super::tree::Node;

/// The keys of `audit`.
pub(super) const AUDIT: &[Key] = &[Key::new(
    "path",
    Kind::Scalar("path"),
    Absent::Required,
    "The file: JSON lines, mode 0600. Opened anew after a SIGHUP, so that it can be renamed.",
)];

/// The audit log.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Its file.
    pub path: PathBuf,
}

pub(super) fn audit(node: &Node, report: &mut Report) -> Audit {
    mapping(node, AUDIT, report, |keys| Audit {
        path: keys
            .required("path", "var/audit.log", path)
            .unwrap_or_default(),
    })
}
