//! The target of a purge.

use oci::digest::Digest;
use oci::name::{Registry, RepositoryName, Tag};

/// The content to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeTarget {
    /// Everything of a registry.
    Registry(Registry),
    /// Everything of a repository.
    Repository(RepositoryName),
    /// A tag, and the manifests and blobs that only it reaches.
    Tag(RepositoryName, Tag),
    /// The content of a repository with a digest.
    Content(RepositoryName, Digest),
    /// A digest, in all repositories.
    Everywhere(Digest),
}

impl PurgeTarget {
    /// Whether content of this repository may be removed.
    pub fn concerns(&self, name: &RepositoryName) -> bool {
        match self {
            Self::Registry(registry) => *registry == name.registry,
            Self::Repository(own) | Self::Tag(own, _) | Self::Content(own, _) => own == name,
            Self::Everywhere(_) => true,
        }
    }
}
