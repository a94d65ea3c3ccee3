//! The target of a purge.

use oci::digest::Digest;
use oci::name::{Registry, Repository, Tag};

/// The content to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeTarget {
    Registry(Registry),
    Repository(Registry, Repository),
    Tag(Registry, Repository, Tag),
    /// The content of a repository with a digest.
    Content(Registry, Repository, Digest),
    /// A digest, in all repositories.
    Everywhere(Digest),
}

impl PurgeTarget {
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
