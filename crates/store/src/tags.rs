//! Tags as pointers: what a tag resolved to, and when the upstream last said so.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bucket::Bucket;
use super::files::Files;
use super::record::{Question, Reach, Record};
use super::records::{Records, component};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Registry, Repository, Tag};

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

impl Record for Pointer {
    fn checked_at(&self) -> Option<u64> {
        Some(self.checked_at)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let checked_at = self.checked_at;
        *self
            == Self {
                checked_at,
                ..other.clone()
            }
    }
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

    /// Begins a question about where a tag points.
    pub fn ask(
        &self,
        registry: &Registry,
        repository: &Repository,
        class: AcceptClass,
        tag: &Tag,
    ) -> Question {
        self.pointers.ask(path(registry, repository, class, tag))
    }

    /// Where it points, as the upstream answered.
    pub async fn point(&self, question: &Question, pointer: Pointer, reach: Reach) -> Arc<Pointer> {
        let outcome = self.pointers.keep(question, pointer, reach).await;
        outcome.into_record()
    }

    /// Where it points since it was put through us, when `question` was asked.
    pub async fn written(&self, question: &Question, pointer: Pointer) {
        self.pointers.write(question, pointer).await;
    }

    /// The upstream answered that it does not have the tag.
    pub async fn gone(&self, question: &Question) {
        self.pointers.gone(question).await;
    }

    /// Forgets where a tag points: it was changed through us.
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

    /// Removes every pointer of a repository at a manifest that it no longer has, and has no answer kept that was
    /// asked for before. Looks at all of its tags.
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
