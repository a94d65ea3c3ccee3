//! What a registry has beside its v2 side.
//!
//! A [`Fallback`] is asked where the v2 side said 404, and only then; content that it gave out is had from it again
//! where it was evicted. Lists are of both: a name that only the fallback has is part of the registry. Registries
//! that decide for each caller, or of which only what is public is served, have none.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::catalogue::RequestBudget;
use super::origin::{OriginView, Visibility};
use super::source::ForeignSource;
use super::tag::TagKey;
use super::{MirrorError, MirrorState, Target};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Registry, Repository, Tag};
use store::{ManifestLink, Pointer};

/// What only a fallback has is being prepared under this name, which goes on without who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preparation(pub String);

/// Where the bytes of a fallback's blob are to be had that are not stored.
#[derive(Debug)]
pub enum FallbackBlob {
    /// Here: they were made anew, and are stored.
    Rebuilt(Bytes),
    Source(Arc<dyn ForeignSource>),
}

/// What registries have beside their v2 sides.
pub trait Fallback: fmt::Debug + Send + Sync {
    /// Where a tag points that the v2 side does not have; `None` where the fallback does not have it either. The
    /// manifest and its blobs are linked to the repository.
    ///
    /// # Errors
    /// [`MirrorError::Preparing`] where it is still to be prepared, and why it could not be asked.
    fn tag<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<Option<Pointer>, MirrorError>>;

    /// Prepares what [`Fallback::tag`] named, and waits for it, but not for too long after `began`.
    ///
    /// # Errors
    /// [`MirrorError::Preparing`] while it goes on, and why it cannot be prepared.
    fn prepare<'a>(
        self: Arc<Self>,
        registry: &'a Registry,
        repository: &'a Repository,
        preparation: &'a Preparation,
        began: Instant,
    ) -> BoxFuture<'a, Result<(), MirrorError>>;

    /// Links a manifest that the v2 side does not have, or not any more, where it is one that the fallback gave the
    /// repository and still has.
    fn manifest<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<Arc<ManifestLink>>>;

    /// The same of a blob; its length in bytes.
    fn blob<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<u64>>;

    /// The bytes of a manifest that the fallback gave out, made anew.
    fn manifest_bytes<'a>(
        &'a self,
        registry: &'a Registry,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<Bytes>>;

    /// Where the bytes of a blob are to be had that the fallback gave the repository; `None` for all others.
    fn blob_bytes<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<FallbackBlob>>;

    /// The tags of a repository; `None` where there is none.
    ///
    /// # Errors
    /// Why it could not be asked.
    fn tags<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<String>>, MirrorError>>;

    /// The names of a registry; `None` where it cannot list them. A question costs one of the budget.
    ///
    /// # Errors
    /// Why it could not be asked.
    fn names<'a>(
        &'a self,
        registry: &'a Registry,
        budget: &'a mut RequestBudget,
    ) -> BoxFuture<'a, Result<Option<Arc<BTreeSet<Repository>>>, MirrorError>>;

    /// Forgets what is in memory of what a purge removed.
    fn invalidate(&self, target: &Target);
}

impl MirrorState {
    /// The fallback of a registry, where it has one.
    pub(super) fn fallback(&self, origin: &OriginView) -> Option<&Arc<dyn Fallback>> {
        let fallback = self.fallback.as_ref();
        fallback.filter(|_| origin.visibility() == Visibility::Account)
    }

    /// Where a tag points that the v2 side said 404 to.
    pub(super) async fn fallback_tag(
        &self,
        origin: &OriginView,
        key: &TagKey,
    ) -> Result<Option<Pointer>, MirrorError> {
        let (registry, repository, class, tag) = key;
        // What it has is of the second schema.
        match self.fallback(origin) {
            Some(fallback) if *class != AcceptClass::Schema1 => {
                fallback.tag(registry, repository, tag).await
            }
            _ => Ok(None),
        }
    }

    /// The bytes of a linked manifest that are not stored, where they can be made here.
    pub(super) async fn fallback_manifest_bytes(
        &self,
        origin: &OriginView,
        digest: &Digest,
    ) -> Option<Bytes> {
        let fallback = self.fallback(origin)?;
        fallback.manifest_bytes(origin.registry(), digest).await
    }

    /// Where the bytes of a blob that is not stored are to be had beside the v2 side.
    pub(super) async fn fallback_blob(
        &self,
        origin: &OriginView,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<FallbackBlob> {
        let fallback = self.fallback(origin)?;
        let (registry, fallback) = (origin.registry(), fallback.clone());
        fallback.blob_bytes(registry, repository, digest).await
    }
}
