//! Images that only the v1 side of a registry has, for clients of v2: each is converted once, and its manifest
//! and configuration are the same on every machine.
//!
//! The v2 side is asked first, and what it has wins. What it says 404 to is asked of the v1 side, with our own
//! login there; the client's right was to the repository that is read in either case. A conversion belongs to
//! nobody: it goes on when its clients have left, and what it read of an image counts for every other that
//! stands on it. Layers are read as those of clients of v1 are, and kept for them as well; those that are evicted
//! come again by fills like any blob. Everything else is made anew from what is known of them.

mod convert;
mod gzip;
mod layer;
mod queries;
mod repack;
mod search;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::layer_source::LayerSource;
use super::registry::V1Origin;
use super::{Registries, layer as v1_layer};
use crate::records::{
    ConvertedKind, ConvertedManifest, ConvertedRecords, ImageRecords, SourceImage,
};
use mirror::{
    Fallback, FallbackBlob, ForeignSource, MirrorError, Preparation, RequestBudget, Target,
    unix_seconds,
};
use oci::digest::Digest;
use oci::manifest::DOCKER_MANIFEST;
use oci::name::{Registry, Repository, Tag};
use oci::v1::{ImageId, plain};
use runtime::single_flight::SingleFlight;
use store::{BlobKey, BlobLink, ManifestKey, ManifestLink, Pointer, Reach, warn_degraded};

use repack::RepackedLayer;

/// How long a client waits for a conversion, from its request on: it hears of it within 25 s.
const WAIT: Duration = Duration::from_secs(23);
/// How many layers are read at once, whoever waits for them.
const SLOTS: usize = 6;
/// How many layers that were evicted are packed anew at once.
const PACKED: usize = 16;
/// How long an image that cannot be converted is not tried again, and how many of them are remembered.
const FAILED_FOR: Duration = Duration::from_secs(10);
const FAILED: u64 = 10_000;

type ImageKey = (Registry, ImageId);

/// The conversions under way.
#[derive(Debug)]
pub(super) struct Conversions {
    converting: SingleFlight<ImageKey, Result<ConvertedManifest, MirrorError>>,
    reading: SingleFlight<ImageKey, Result<SourceImage, MirrorError>>,
    slots: Semaphore,
    packing: Arc<Semaphore>,
    failed: moka::sync::Cache<ImageKey, MirrorError>,
    listed: search::Names,
}

impl Conversions {
    pub fn new() -> Self {
        Self {
            converting: SingleFlight::default(),
            reading: SingleFlight::default(),
            slots: Semaphore::new(SLOTS),
            packing: Arc::new(Semaphore::new(PACKED)),
            failed: moka::sync::Cache::builder()
                .max_capacity(FAILED)
                .time_to_live(FAILED_FOR)
                .build(),
            listed: search::names(),
        }
    }

    /// Forgets what failed, and what a registry listed: it is asked again.
    pub fn forget(&self, registry: &Registry) {
        self.failed.invalidate_all();
        self.listed.invalidate(registry);
    }
}

/// A repository on the v1 side.
#[derive(Clone, Debug)]
struct V1Repository {
    registry: Registry,
    repository: Repository,
    v1: Arc<V1Origin>,
}

/// What the conversion of an image is called.
fn preparation(top: &ImageId) -> Preparation {
    Preparation(top.to_string())
}

impl Registries {
    /// The v1 side of a registry whose images are served to clients of v2.
    fn bridged_origin(&self, registry: &Registry) -> Option<&Arc<V1Origin>> {
        self.origins.get(registry).filter(|v1| v1.bridge)
    }

    /// Where a repository is on the v1 side; `None` where its images are not served from there. There
    /// `library/x` is `x`, another name to which another right leads.
    fn side(&self, registry: &Registry, repository: &Repository) -> Option<V1Repository> {
        let v1 = self.bridged_origin(registry)?;
        (plain(repository.as_str()) == repository.as_str()).then(|| V1Repository {
            registry: registry.clone(),
            repository: repository.clone(),
            v1: v1.clone(),
        })
    }

    /// Where a tag that the v2 side does not have points on the v1 side; `None` where that does not have it
    /// either.
    ///
    /// # Errors
    /// [`MirrorError::Preparing`] where its image was not converted yet, and why it could not be asked.
    async fn tag_of_v1(
        &self,
        registry: &Registry,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Option<Pointer>, MirrorError> {
        let Some(side) = self.side(registry, repository) else {
            return Ok(None);
        };
        let Some(top) = side.tag(self, tag).await? else {
            return Ok(None);
        };
        let made = ConvertedRecords::of(&self.store).made(registry, &top).await;
        let made = made.map_err(|error| MirrorError::Disk(Arc::new(error)))?;
        let Some(made) = made else {
            return Err(MirrorError::Preparing(preparation(&top)));
        };
        let records = &self.store.records;
        let linked = records
            .open(&ManifestKey::new(registry, repository, &made.manifest))
            .await;
        if !linked.is_ok_and(|link| link.is_some()) {
            self.link_converted(registry, repository, &top).await?;
        }
        Ok(Some(Pointer {
            digest: made.manifest,
            media_type: DOCKER_MANIFEST.to_owned(),
            size: Some(made.size),
            checked_at: unix_seconds(SystemTime::now()),
        }))
    }

    /// Has an image converted, and waits for it until 23 s after `began`.
    ///
    /// # Errors
    /// [`MirrorError::Preparing`] while it goes on, and why it cannot be converted.
    async fn converted_in_time(
        self: &Arc<Self>,
        registry: &Registry,
        repository: &Repository,
        named: &Preparation,
        began: Instant,
    ) -> Result<(), MirrorError> {
        let side = self.side(registry, repository);
        let side = side.ok_or(MirrorError::NotServed)?;
        let top: ImageId = named.0.parse().map_err(|_| MirrorError::Internal)?;
        let start = || self.clone().convert(side, top.clone());
        let key = (registry.clone(), top.clone());
        let converting = self.conversions.converting.join(key, start);
        let left = WAIT.saturating_sub(began.elapsed());
        match tokio::time::timeout(left, converting).await {
            Ok((converted, _)) => converted.unwrap_or(Err(MirrorError::Internal)).map(drop),
            Err(_) => Err(MirrorError::Preparing(named.clone())),
        }
    }

    /// The manifest or configuration of a converted image, made anew.
    async fn rebuild(&self, registry: &Registry, digest: &Digest) -> Option<Bytes> {
        let (kind, images) = self.origin_of(registry, digest).await?;
        for top in images {
            let Some(chain) = self.chain(registry, &top).await else {
                continue;
            };
            let converted = convert::converted(&chain).ok()?;
            let (made, bytes) = match kind {
                ConvertedKind::Manifest => (converted.manifest_digest, converted.manifest),
                ConvertedKind::Config => (converted.config_digest, converted.config),
                ConvertedKind::Layer => return None,
            };
            if made == *digest {
                let bytes = Bytes::from(bytes);
                self.contents.store_small(made, bytes.clone()).await;
                return Some(bytes);
            }
        }
        None
    }

    /// Where the bytes of a converted image's blob are to be had that are not here; `None` where it is none of
    /// the repository's.
    async fn of_v1(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<FallbackBlob> {
        let (side, id, kind) = self.claim_of_v1(registry, repository, digest).await?;
        match kind {
            ConvertedKind::Manifest => None,
            ConvertedKind::Config => self
                .rebuild(registry, digest)
                .await
                .map(FallbackBlob::Rebuilt),
            ConvertedKind::Layer => {
                let source = self.layer_of_v1(side, id, *digest).await?;
                Some(FallbackBlob::Source(source))
            }
        }
    }

    /// Where to get a layer again, which must come out as it was.
    async fn layer_of_v1(
        &self,
        side: V1Repository,
        id: ImageId,
        digest: Digest,
    ) -> Option<Arc<dyn ForeignSource>> {
        let known = self.known_image(&side.registry, &id).await?;
        let kept = self.body_pointer(&side.v1, &v1_layer::endpoint(&id)).await;
        let layer = Arc::new(LayerSource {
            origin: side.v1,
            store: self.store.clone(),
            repository: Some(side.repository),
            id,
            json: known.json.into(),
            size: kept.as_ref().map(|kept| kept.size),
            checksums: Vec::new(),
            digest: kept.map(|kept| kept.digest),
        });
        // Without a word of what it was, its first bytes tell.
        Some(if layer.digest == Some(digest) {
            layer
        } else {
            Arc::new(RepackedLayer {
                layer,
                digest,
                size: known.layer.size,
                slots: self.conversions.packing.clone(),
            })
        })
    }

    /// Links a blob that the v2 side does not have, or not any more, where it is of a converted image of the
    /// repository; whether it is.
    async fn relink_blob_of_v1(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<u64> {
        let claim = self.claim_of_v1(registry, repository, digest).await;
        let (side, id, kind) = claim.filter(|(.., kind)| *kind != ConvertedKind::Manifest)?;
        let question = self
            .store
            .records
            .ask(&BlobKey::new(&side.registry, repository, digest));
        if matches!(side.has(self, &id).await, Ok(false)) {
            return None;
        }
        let length = match kind {
            ConvertedKind::Layer => {
                let known = ConvertedRecords::of(&self.store)
                    .image(&side.registry, &id)
                    .await;
                let known = known.ok().flatten();
                known.map(|image| image.layer.size)
            }
            ConvertedKind::Config | ConvertedKind::Manifest => {
                let bytes = self.rebuild(registry, digest).await;
                bytes.map(|bytes| bytes.len() as u64)
            }
        };
        let link = BlobLink {
            checked_at: unix_seconds(SystemTime::now()),
            size: length,
        };
        let records = &self.store.records;
        records.answer(&question, link, Reach::Here).await;
        length
    }

    /// Links a manifest that the v1 side has, as `relink_blob_of_v1` does for a blob; its link.
    async fn relink_manifest_of_v1(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<Arc<ManifestLink>> {
        let (side, id, kind) = self.claim_of_v1(registry, repository, digest).await?;
        let records = &self.store.records;
        let question = records.ask(&ManifestKey::new(&side.registry, repository, digest));
        if kind != ConvertedKind::Manifest || matches!(side.has(self, &id).await, Ok(false)) {
            return None;
        }
        let made = ConvertedRecords::of(&self.store)
            .made(&side.registry, &id)
            .await;
        let link = ManifestLink {
            media_type: DOCKER_MANIFEST.to_owned(),
            size: made.ok()??.size,
            checked_at: unix_seconds(SystemTime::now()),
            subject: None,
            stored: None,
        };
        let link = records.answer(&question, link, Reach::Here).await;
        Some(link.into_record())
    }

    /// What a digest of a converted image is, and an image of the repository that it is of.
    async fn claim_of_v1(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<(V1Repository, ImageId, ConvertedKind)> {
        let side = self.side(registry, repository)?;
        let (kind, images) = self.origin_of(registry, digest).await?;
        for id in images.iter().cloned() {
            let known = ImageRecords::of(&self.store);
            match known.is_linked(registry, repository, &id).await {
                Ok(true) => return Some((side, id, kind)),
                Ok(false) => {}
                Err(error) => warn_degraded("the images of a repository cannot be read", &error),
            }
        }
        let records = &self.store.records;
        let linked = if kind == ConvertedKind::Manifest {
            let link = records
                .open(&ManifestKey::new(registry, repository, digest))
                .await;
            link.is_ok_and(|link| link.is_some())
        } else {
            let link = records
                .open(&BlobKey::new(registry, repository, digest))
                .await;
            link.is_ok_and(|link| link.is_some())
        };
        let id = images.into_iter().next().filter(|_| linked)?;
        Some((side, id, kind))
    }

    async fn origin_of(
        &self,
        registry: &Registry,
        digest: &Digest,
    ) -> Option<(ConvertedKind, Vec<ImageId>)> {
        self.bridged_origin(registry)?;
        let conversions = ConvertedRecords::of(&self.store);
        let made_of = conversions.origin_of(registry, digest).await;
        let made_of = made_of.unwrap_or_else(|error| {
            warn_degraded("a conversion cannot be read", &error);
            None
        })?;
        Some((made_of.kind, made_of.images().collect()))
    }
}

impl Fallback for Registries {
    fn tag<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<Option<Pointer>, MirrorError>> {
        Box::pin(self.tag_of_v1(registry, repository, tag))
    }

    fn prepare<'a>(
        self: Arc<Self>,
        registry: &'a Registry,
        repository: &'a Repository,
        preparation: &'a Preparation,
        began: Instant,
    ) -> BoxFuture<'a, Result<(), MirrorError>> {
        Box::pin(async move {
            self.converted_in_time(registry, repository, preparation, began)
                .await
        })
    }

    fn manifest<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<Arc<ManifestLink>>> {
        Box::pin(self.relink_manifest_of_v1(registry, repository, digest))
    }

    fn blob<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<u64>> {
        Box::pin(self.relink_blob_of_v1(registry, repository, digest))
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
        registry: &'a Registry,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Option<FallbackBlob>> {
        Box::pin(self.of_v1(registry, repository, digest))
    }

    fn tags<'a>(
        &'a self,
        registry: &'a Registry,
        repository: &'a Repository,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<String>>, MirrorError>> {
        Box::pin(async move {
            let Some(side) = self.side(registry, repository) else {
                return Ok(None);
            };
            let tags = side.tags(self).await?;
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

    fn invalidate(&self, target: &Target) {
        for (registry, v1) in &self.origins {
            let concerned = match target {
                Target::Registry(own) | Target::Repository(own, _) => own == registry,
                Target::Tag(..) | Target::Content(..) | Target::Everywhere(_) => false,
            };
            if concerned {
                // Whose token an image was read with: that is found out again.
                v1.listed_in.invalidate_all();
                v1.hinted_in.invalidate_all();
                self.conversions.forget(registry);
            }
        }
    }
}
