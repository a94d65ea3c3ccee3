//! Images that only the v1 side of a registry has, for v2 clients: each is converted once, and its manifest and
//! configuration are the same on every machine.
//!
//! The v2 side is asked first and takes precedence. After its 404 the v1 side is asked with our own login; the
//! client's permit covers the repository in either case. A conversion belongs to no request: it continues when its
//! clients disconnect, and an image that it reads is read for all descendants. Layers are fetched and stored as for
//! v1 clients; evicted ones are refilled like any blob. Everything else is rebuilt from records.

mod content;
mod convert;
mod gzip;
mod layer;
mod queries;
mod repack;
mod search;

pub(super) use convert::converted;
pub(super) use layer::{WholeLayerError, check_whole};

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::Registries;
use super::origin::V1Origin;
use crate::records::{ConvertedManifest, ConvertedRecords, SourceImage};
use mirror::{
    Fallback, FallbackBlob, MirrorError, PlannedRequest, Preparation, RequestBudget, unix_seconds,
};
use oci::digest::Digest;
use oci::manifest::DOCKER_MANIFEST;
use oci::name::{Registry, Repository, RepositoryName, Tag};
use oci::v1::{ImageId, plain};
use runtime::single_flight::SingleFlight;
use store::{ManifestKey, ManifestLink, Pointer, PurgeTarget};

/// How long a client waits for a conversion, from the start of its request: it is answered within 25 s.
const CONVERT_TIMEOUT: Duration = Duration::from_secs(23);
/// How many layers are read at once, over all conversions.
const MAX_READS: usize = 6;
/// How many evicted layers are recompressed at once.
const MAX_REPACKS: usize = 16;
/// How long a failed conversion is not retried.
const FAILURE_TTL: Duration = Duration::from_secs(10);
/// How many failed conversions are remembered.
const MAX_FAILURES: u64 = 10_000;

type ImageKey = (Registry, ImageId);

/// The conversions in progress, and what limits them.
#[derive(Debug)]
pub(super) struct Conversions {
    converting: SingleFlight<ImageKey, Result<ConvertedManifest, MirrorError>>,
    reading: SingleFlight<ImageKey, Result<SourceImage, MirrorError>>,
    read_slots: Semaphore,
    repack_slots: Arc<Semaphore>,
    failed: moka::sync::Cache<ImageKey, MirrorError>,
    search_results: search::SearchCache,
}

impl Conversions {
    pub fn new() -> Self {
        Self {
            converting: SingleFlight::default(),
            reading: SingleFlight::default(),
            read_slots: Semaphore::new(MAX_READS),
            repack_slots: Arc::new(Semaphore::new(MAX_REPACKS)),
            failed: moka::sync::Cache::builder()
                .max_capacity(MAX_FAILURES)
                .time_to_live(FAILURE_TTL)
                .build(),
            search_results: search::search_cache(),
        }
    }

    /// Forgets failed conversions, and a registry's search results.
    pub fn forget(&self, registry: &Registry) {
        self.failed.invalidate_all();
        self.search_results.invalidate(registry);
    }
}

/// A repository on the v1 side.
#[derive(Clone, Debug)]
pub(super) struct V1Repository {
    pub name: RepositoryName,
    pub origin: Arc<V1Origin>,
}

/// The name of an image's conversion.
fn preparation(top: &ImageId) -> Preparation {
    Preparation(top.to_string())
}

impl Registries {
    /// The v1 side of a registry whose images are served to v2 clients.
    fn bridged_origin(&self, registry: &Registry) -> Option<&Arc<V1Origin>> {
        self.origins.get(registry).filter(|origin| origin.bridge)
    }

    /// A repository on the v1 side; `None` if its images are not served from there. In the v1 API `library/x`
    /// is `x`, another name that needs another permit.
    pub(super) fn v1_repository_of(&self, name: &RepositoryName) -> Option<V1Repository> {
        let origin = self.bridged_origin(&name.registry)?;
        let repository = name.repository.as_str();
        (plain(repository) == repository).then(|| V1Repository {
            name: name.clone(),
            origin: origin.clone(),
        })
    }

    /// Resolves a tag on the v1 side; `None` if that does not have it.
    ///
    /// # Errors
    /// [`MirrorError::Preparing`] if its image is not converted yet, and why the upstream could not answer.
    async fn tag_of_v1(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Pointer>, MirrorError> {
        let Some(source) = self.v1_repository_of(name) else {
            return Ok(None);
        };
        let Some(top) = source.tag(self, tag).await? else {
            return Ok(None);
        };
        let converted = ConvertedRecords::of(&self.store)
            .manifest(&name.registry, &top)
            .await;
        let converted = converted.map_err(|error| MirrorError::Disk(Arc::new(error)))?;
        let Some(converted) = converted else {
            return Err(MirrorError::Preparing(preparation(&top)));
        };
        let records = &self.store.records;
        let linked = records
            .open(&ManifestKey::new(name, &converted.manifest))
            .await;
        if !linked.is_ok_and(|link| link.is_some()) {
            self.link_converted(name, &top).await?;
        }
        Ok(Some(Pointer {
            digest: converted.manifest,
            media_type: DOCKER_MANIFEST.to_owned(),
            size: Some(converted.size),
            checked_at: unix_seconds(SystemTime::now()),
        }))
    }

    /// Converts an image, and waits for the result until 23 s after `began`.
    ///
    /// # Errors
    /// [`MirrorError::Preparing`] while it continues, and why it cannot be converted.
    async fn converted_in_time(
        self: &Arc<Self>,
        name: &RepositoryName,
        preparation: &Preparation,
        began: Instant,
    ) -> Result<(), MirrorError> {
        let source = self.v1_repository_of(name);
        let source = source.ok_or(MirrorError::NotServed)?;
        let top: ImageId = preparation.0.parse().map_err(|_| MirrorError::Internal)?;
        let start = || self.clone().convert(source, top.clone());
        let key = (name.registry.clone(), top.clone());
        let converting = self.conversions.converting.join(key, start);
        let left = CONVERT_TIMEOUT.saturating_sub(began.elapsed());
        match tokio::time::timeout(left, converting).await {
            Ok((converted, _)) => converted.unwrap_or(Err(MirrorError::Internal)).map(drop),
            Err(_) => Err(MirrorError::Preparing(preparation.clone())),
        }
    }
}

impl Fallback for Registries {
    fn tag<'a>(
        &'a self,
        name: &'a RepositoryName,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<Option<Pointer>, MirrorError>> {
        Box::pin(self.tag_of_v1(name, tag))
    }

    fn prepare<'a>(
        self: Arc<Self>,
        name: &'a RepositoryName,
        preparation: &'a Preparation,
        began: Instant,
    ) -> BoxFuture<'a, Result<(), MirrorError>> {
        Box::pin(async move { self.converted_in_time(name, preparation, began).await })
    }

    fn manifest<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<Arc<ManifestLink>>> {
        Box::pin(self.relink_manifest_of_v1(name, digest))
    }

    fn blob<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<u64>> {
        Box::pin(self.relink_blob_of_v1(name, digest))
    }

    fn manifest_bytes<'a>(
        &'a self,
        registry: &'a Registry,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<Bytes>> {
        Box::pin(self.rebuild(registry, digest))
    }

    fn blob_bytes<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<FallbackBlob>> {
        Box::pin(self.blob_of_v1(name, digest))
    }

    fn tags<'a>(
        &'a self,
        name: &'a RepositoryName,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<String>>, MirrorError>> {
        Box::pin(async move {
            let Some(source) = self.v1_repository_of(name) else {
                return Ok(None);
            };
            let tags = source.tags(self).await?;
            Ok(tags.map(|tags| tags.into_iter().map(|(tag, _)| tag).collect()))
        })
    }

    fn names<'a>(
        &'a self,
        registry: &'a Registry,
        budget: &'a mut RequestBudget,
    ) -> BoxFuture<'a, Result<Option<Arc<BTreeSet<Repository>>>, MirrorError>> {
        Box::pin(self.names_of_v1(registry, budget))
    }

    fn plan_tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Option<Result<PlannedRequest, MirrorError>> {
        let source = self.v1_repository_of(name)?;
        Some(source.plan_tag(tag))
    }

    fn plan_content(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<Result<Vec<PlannedRequest>, MirrorError>> {
        self.plan_content_of_v1(name, digest)
    }

    fn invalidate(&self, target: &PurgeTarget) {
        for (registry, v1) in &self.origins {
            let is_target = match target {
                PurgeTarget::Registry(own) => own == registry,
                PurgeTarget::Repository(name) => name.registry == *registry,
                PurgeTarget::Tag(..) | PurgeTarget::Content(..) | PurgeTarget::Everywhere(_) => {
                    false
                }
            };
            if is_target {
                // Which repository's token reads an image is learnt again.
                v1.listed_in.invalidate_all();
                v1.hinted_in.invalidate_all();
                self.conversions.forget(registry);
            }
        }
    }
}
