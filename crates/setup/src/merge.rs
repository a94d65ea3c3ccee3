//! How a file of a client gets what it needs.

use super::hunk::Hunk;
use super::{containerd, json, toml, yaml};

/// The first line of a file of ours. Undoing removes such a file.
pub(crate) const MARKER: &str =
    "# Written by `roadstead setup`, and removed by `roadstead setup … --undo`.\n";

/// The largest file that is changed, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// What a file needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// This text alone, below the marker.
    Own(String),
    /// daemon.json: this URL before the others in `registry-mirrors`.
    Mirror(String),
    /// hosts.toml: a host before the others.
    Hosts(containerd::Hosts),
    /// config.toml of containerd: `config_path`.
    ConfigPath(String),
    /// buildkitd.toml: mirrors of registries, and the CA of the mirror.
    BuildKit(toml::BuildKit),
    /// registries.yaml of K3s.
    K3s(yaml::Registries),
}

/// Why a file is not changed: the end of a sentence whose subject is the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// It cannot be parsed.
    #[error("cannot be parsed, so it stays as it is: {0}")]
    Unparsable(String),
    /// It says something else already, or in a form that is not changed here.
    #[error("stays as it is: {0}")]
    Unsuitable(String),
    /// It is larger than 1 MiB.
    #[error("is larger than 1 MiB, so it stays as it is")]
    Large,
}

impl Merge {
    /// The changes to a file; none if it has what it needs. An absent file is as an empty one.
    ///
    /// # Errors
    /// [`MergeError`] for a file that must stay as it is.
    pub fn hunks(&self, text: &str) -> Result<Vec<Hunk>, MergeError> {
        if text.len() > MAX_BYTES {
            return Err(MergeError::Large);
        }
        match self {
            Self::Own(own) => {
                let new = format!("{MARKER}{own}");
                let change = Hunk {
                    at: 0,
                    old: text.to_owned(),
                    new,
                };
                Ok(Vec::from_iter((change.new != text).then_some(change)))
            }
            Self::Mirror(url) => json::first_in_list(text, "registry-mirrors", url),
            Self::Hosts(hosts) => hosts.hunks(text),
            Self::ConfigPath(folder) => containerd::config_path(text, folder),
            Self::BuildKit(settings) => settings.hunks(text),
            Self::K3s(registries) => registries.hunks(text),
        }
    }
}

/// Fails unless a changed file means what it should: a form of it that this program does not expect.
pub(crate) fn expect_same<T: PartialEq>(meant: &T, found: &T) -> Result<(), MergeError> {
    if meant == found {
        Ok(())
    } else {
        Err(unsafe_form())
    }
}

/// The error for a file that may mean something else once it is changed.
pub(crate) fn unsafe_form() -> MergeError {
    let reason = "its form is not one that can be changed safely; change it by hand";
    MergeError::Unsuitable(reason.to_owned())
}
