//! The fallback: a second source of a registry's content.
//!
//! A [`Fallback`] is asked only where the upstream answered 404; content that it supplied is fetched from it again after
//! eviction. Lists are merged from both: a name that only the fallback has is part of the registry. Registries
//! that decide for each caller, or of which only public content is served, have none.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::catalogue::RequestBudget;
use super::dry_run::PlannedRequest;
use super::origin::{ContentScope, OriginView};
use super::source::ForeignSource;
use super::{MirrorError, MirrorState};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Registry, Repository, RepositoryName, Tag};
use store::{ManifestLink, Pointer, PurgeTarget, TagKey};

/// The name of a preparation in progress; it continues without the client that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preparation(pub String);

/// Where the bytes of a fallback's blob come from that is not stored.
#[derive(Debug)]
pub enum FallbackBlob {
    /// They were rebuilt, and are stored.
    Rebuilt(Bytes),
    /// They are fetched from here, like a blob of a registry.
    Source(Arc<dyn ForeignSource>),
}

/// A second source of the registries' content.
pub trait Fallback: fmt::Debug + Send + Sync {
    /// Resolves a tag that the upstream does not have; `None` if the fallback does not have it either. The
    /// manifest and its blobs are linked to the repository.
    ///
    /// # Errors
    /// [`MirrorError::Preparing`] if the image must be prepared first; otherwise why the fallback is unavailable.
    fn tag<'a>(
        &'a self,
        name: &'a RepositoryName,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<Option<Pointer>, MirrorError>>;

    /// Prepares an image that [`Fallback::tag`] named, and waits for it until a deadline counted from `began`.
    ///
    /// # Errors
    /// [`MirrorError::Preparing`] while it continues; otherwise why the image cannot be prepared.
    fn prepare<'a>(
        self: Arc<Self>,
        name: &'a RepositoryName,
        preparation: &'a Preparation,
        began: Instant,
    ) -> BoxFuture<'a, Result<(), MirrorError>>;

    /// Links a manifest that the upstream does not have, or no longer, if the fallback supplied it to the repository
    /// and still has it.
    fn manifest<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<Arc<ManifestLink>>>;

    /// The same for a blob; returns its length in bytes.
    fn blob<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<u64>>;

    /// Rebuilds the bytes of a manifest that the fallback supplied.
    fn manifest_bytes<'a>(
        &'a self,
        registry: &'a Registry,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<Bytes>>;

    /// The bytes of a blob that the fallback supplied to the repository, or their source; `None` for other blobs.
    fn blob_bytes<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<FallbackBlob>>;

    /// The tags of a repository; `None` if the fallback does not have the repository.
    ///
    /// # Errors
    /// Why the fallback is unavailable.
    fn tags<'a>(
        &'a self,
        name: &'a RepositoryName,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<String>>, MirrorError>>;

    /// The repository names of a registry; `None` if it cannot list them. Each request is taken from the budget.
    ///
    /// # Errors
    /// Why the fallback is unavailable.
    fn names<'a>(
        &'a self,
        registry: &'a Registry,
        budget: &'a mut RequestBudget,
    ) -> BoxFuture<'a, Result<Option<Arc<BTreeSet<Repository>>>, MirrorError>>;

    /// The request that [`Fallback::tag`] would send, or why it would not; `None` if the fallback does not serve the
    /// repository.
    fn plan_tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Option<Result<PlannedRequest, MirrorError>>;

    /// The requests that [`Fallback::manifest_bytes`] or [`Fallback::blob_bytes`] would send, or why they would not;
    /// `None` for content that the fallback does not supply. Blocks on the disk.
    fn plan_content(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<Result<Vec<PlannedRequest>, MirrorError>>;

    /// Drops from memory what a purge removed.
    fn invalidate(&self, target: &PurgeTarget);
}

impl MirrorState {
    /// The fallback of a registry, if it has one.
    pub(super) fn fallback(&self, origin: &OriginView) -> Option<&Arc<dyn Fallback>> {
        let fallback = self.fallback.as_ref();
        fallback.filter(|_| origin.content_scope() == ContentScope::Account)
    }

    /// Resolves a tag by the fallback, after the upstream's 404.
    pub(super) async fn fallback_tag(
        &self,
        origin: &OriginView,
        key: &TagKey,
    ) -> Result<Option<Pointer>, MirrorError> {
        // Its manifests are schema 2.
        match self.fallback(origin) {
            Some(fallback) if key.class != AcceptClass::Schema1 => {
                fallback.tag(&key.name, &key.tag).await
            }
            _ => Ok(None),
        }
    }

    /// The bytes of a linked manifest that is not stored, if the fallback can rebuild them.
    pub(super) async fn fallback_manifest_bytes(
        &self,
        origin: &OriginView,
        digest: &Digest,
    ) -> Option<Bytes> {
        let fallback = self.fallback(origin)?;
        fallback.manifest_bytes(origin.registry(), digest).await
    }

    /// The fallback's bytes or source of a blob that is not stored.
    pub(super) async fn fallback_blob(
        &self,
        origin: &OriginView,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<FallbackBlob> {
        let fallback = self.fallback(origin)?.clone();
        fallback.blob_bytes(name, digest).await
    }
}
