//! What a purge is of.

use oci::digest::Digest;
use oci::name::{Registry, Repository, Tag};

/// What is to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Registry(Registry),
    Repository(Registry, Repository),
    Tag(Registry, Repository, Tag),
    /// What a repository has under a digest.
    Content(Registry, Repository, Digest),
    /// A digest, wherever it is.
    Everywhere(Digest),
}

impl Target {
    /// Whether content of this repository may be removed.
    pub fn concerns(&self, registry: &Registry, repository: &Repository) -> bool {
        match self {
            Self::Registry(own) => own == registry,
            Self::Repository(own, name) | Self::Tag(own, name, _) | Self::Content(own, name, _) => {
                own == registry && name == repository
            }
            Self::Everywhere(_) => true,
        }
    }
}
