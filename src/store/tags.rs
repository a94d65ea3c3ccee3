//! Tags as pointers: what a tag resolved to, and when the upstream last said so.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bucket::Bucket;
use super::files::Files;
use super::records::{Reach, Records, component};
use crate::spec::digest::Digest;
use crate::spec::manifest::AcceptClass;
use crate::spec::name::{Registry, Repository, Tag};

/// How many pointers are kept in memory.
const RECENT: u64 = 16_384;

/// Where a tag points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    pub digest: Digest,
    /// The media type of the manifest there.
    pub media_type: String,
    /// Its length in bytes, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// When the upstream last said so, in seconds since 1970.
    pub checked_at: u64,
}

/// All pointers of all repositories.
#[derive(Debug)]
pub struct Tags {
    pointers: Records<Pointer>,
}

impl Tags {
    pub(super) fn new(files: &Arc<Files>) -> Self {
        Self {
            pointers: Records::new(files, RECENT),
        }
    }

    /// Forgets what is in memory of the record at a path below `repositories`.
    pub(super) fn forget(&self, path: &str) {
        self.pointers.forget(path);
    }

    pub(super) fn share(&mut self, bucket: &Bucket) {
        self.pointers.share(bucket);
    }

    /// What another node learned of a tag, if when it did is `good`; it is kept here.
    pub async fn shared(
        &self,
        registry: &Registry,
        repository: &Repository,
        class: AcceptClass,
        tag: &Tag,
        good: impl Fn(u64) -> bool,
    ) -> Option<Arc<Pointer>> {
        let good = |pointer: &Pointer| good(pointer.checked_at);
        self.pointers
            .shared(path(registry, repository, class, tag), good)
            .await
    }

    /// # Errors
    /// When the disk cannot say; that is not the same as absent.
    pub async fn open(
        &self,
        registry: &Registry,
        repository: &Repository,
        class: AcceptClass,
        tag: &Tag,
    ) -> io::Result<Option<Arc<Pointer>>> {
        self.pointers
            .open(path(registry, repository, class, tag))
            .await
    }

    pub async fn point(
        &self,
        registry: &Registry,
        repository: &Repository,
        class: AcceptClass,
        tag: &Tag,
        pointer: Pointer,
        reach: Reach,
    ) -> Arc<Pointer> {
        self.pointers
            .keep_for(reach, path(registry, repository, class, tag), pointer)
            .await
    }

    /// The upstream no longer has the tag.
    pub async fn remove(
        &self,
        registry: &Registry,
        repository: &Repository,
        class: AcceptClass,
        tag: &Tag,
    ) {
        self.pointers
            .remove(path(registry, repository, class, tag))
            .await;
    }

    /// Removes every pointer of a repository at a manifest that it no longer has. Looks at all of its tags.
    pub async fn remove_all_of(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: Digest,
    ) {
        let folder = format!("{}/{repository}/_tags", component(registry.as_str()));
        self.pointers
            .remove_where(folder, move |pointer| pointer.digest == digest)
            .await;
    }
}

fn path(registry: &Registry, repository: &Repository, class: AcceptClass, tag: &Tag) -> String {
    format!(
        "{}/{repository}/_tags/{}/{tag}",
        component(registry.as_str()),
        class.as_str()
    )
}
