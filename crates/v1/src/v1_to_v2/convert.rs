//! The conversion itself: each image of a chain is read once, and once for all that stand on it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::layer::{LayerError, examined};
use super::queries::wrong;
use super::{V1Repository, preparation};
use crate::Registries;
use crate::records::{
    ConvertedKind, ConvertedManifest, ConvertedRecords, ImageRecords, SourceImage,
};
use mirror::{MirrorError, unix_seconds};
use oci::digest::{Algorithm, Digest};
use oci::manifest::DOCKER_MANIFEST;
use oci::name::{Registry, Repository};
use oci::v1::ImageId;
use oci::v1_to_v2::{self, ChainEntry, ConvertedImage, ConvertedLayer};
use store::{BlobKey, BlobLink, CommitError, ManifestKey, ManifestLink, Reach, warn_degraded};
use upstream::UpstreamError;

/// How many images of one chain are read at once.
const AT_ONCE: usize = 3;

/// An image and what is known of it.
pub(super) type ChainLink = (ImageId, SourceImage);

impl Registries {
    /// Makes an image one of v2, unless that was done before.
    pub(super) async fn convert(
        self: Arc<Self>,
        side: V1Repository,
        top: ImageId,
    ) -> Result<ConvertedManifest, MirrorError> {
        let failed = &self.conversions.failed;
        let key = (side.registry.clone(), top.clone());
        if let Some(error) = failed.get(&key) {
            return Err(error);
        }
        let converted = self.clone().convert_now(&side, &top).await;
        match &converted {
            Ok(made) => tracing::info!(
                registry = %side.registry, repository = %side.repository, image = %top,
                digest = %made.manifest, "an image of v1 was converted"
            ),
            Err(error) => tracing::warn!(
                registry = %side.registry, repository = %side.repository, image = %top,
                error = telemetry::chain(error), "an image of v1 cannot be converted"
            ),
        }
        if let Err(error @ (MirrorError::Unusable(_) | MirrorError::DigestMismatch(_))) = &converted
        {
            failed.insert(key, error.clone());
        }
        converted
    }

    async fn convert_now(
        self: Arc<Self>,
        side: &V1Repository,
        top: &ImageId,
    ) -> Result<ConvertedManifest, MirrorError> {
        let mut chain = side.ancestry(&self, top).await?;
        chain.reverse();
        let parents = std::iter::once(None).chain(chain.iter().cloned().map(Some));
        let images: Vec<(ImageId, Option<ImageId>)> = chain.iter().cloned().zip(parents).collect();
        let reading = stream::iter(images).map(|(id, parent)| {
            let (shared, side) = (self.clone(), side.clone());
            async move {
                let image = shared.image(side, id.clone(), parent).await?;
                Ok::<ChainLink, MirrorError>((id, image))
            }
        });
        let known: Vec<ChainLink> = reading.buffered(AT_ONCE).try_collect().await?;
        let converted = converted(&known)?;
        self.keep_converted(&side.registry, &known, &converted)
            .await;
        let made = ConvertedManifest {
            manifest: converted.manifest_digest,
            size: converted.manifest.len() as u64,
        };
        let conversions = ConvertedRecords::of(&self.store);
        conversions.store_manifest(&side.registry, top, made).await;
        Ok(made)
    }

    /// An image, read from the registry where it was not before.
    async fn image(
        self: Arc<Self>,
        side: V1Repository,
        id: ImageId,
        parent: Option<ImageId>,
    ) -> Result<SourceImage, MirrorError> {
        let known = self.known_image(&side.registry, &id).await;
        if let Some(known) = known.filter(|known| known.parent == parent) {
            return Ok(known);
        }
        let key = (side.registry.clone(), id.clone());
        let shared = self.clone();
        let start = || shared.read_image(side, id, parent);
        let (read, _) = self.conversions.reading.join(key, start).await;
        read.unwrap_or(Err(MirrorError::Internal))
    }

    async fn read_image(
        self: Arc<Self>,
        side: V1Repository,
        id: ImageId,
        parent: Option<ImageId>,
    ) -> Result<SourceImage, MirrorError> {
        if let Some(known) = self.known_image(&side.registry, &id).await {
            return Ok(known);
        }
        let said = side.description(&self, &id).await?;
        // It is read again whenever a manifest is made of it, and must be right then.
        v1_to_v2::description(said.json.as_bytes(), &id, parent.as_ref())
            .map_err(|_| wrong("its description of an image is another's"))?;
        let layer = self.read_layer(&side, &id, said.size).await?;
        let image = SourceImage {
            parent,
            json: said.json,
            layer,
        };
        let conversions = ConvertedRecords::of(&self.store);
        conversions.store_image(&side.registry, &id, &image).await;
        Ok(image)
    }

    /// Fetches a layer of `expected` bytes, where that was said, and sees what it is.
    async fn read_layer(
        &self,
        side: &V1Repository,
        id: &ImageId,
        expected: Option<u64>,
    ) -> Result<ConvertedLayer, MirrorError> {
        let slot = self.conversions.slots.acquire().await;
        let _slot = slot.map_err(|_| MirrorError::Internal)?;
        let kept = side.layer(self, id).await?;
        if expected.is_some_and(|expected| expected != kept.size) {
            return Err(wrong("a layer is not as long as it said"));
        }
        let blobs = self.store.blobs.clone();
        let seed = format!("roadstead converted layer\0{}\0{id}", side.registry);
        let key = Digest::of(Algorithm::Sha256, seed.as_bytes());
        let examining = tokio::task::spawn_blocking(move || examined(&blobs, &key, kept));
        let examined = examining.await.map_err(|_| MirrorError::Internal)?;
        examined.map_err(unread)
    }

    /// What is known of an image. A disk that cannot say costs a question.
    pub(super) async fn known_image(
        &self,
        registry: &Registry,
        id: &ImageId,
    ) -> Option<SourceImage> {
        let known = ConvertedRecords::of(&self.store).image(registry, id).await;
        known.unwrap_or_else(|error| {
            warn_degraded("a converted image cannot be read", &error);
            None
        })
    }

    /// An image and those that it is made on, root first, as far as they were read; `None` where one was not.
    pub(super) async fn chain(&self, registry: &Registry, top: &ImageId) -> Option<Vec<ChainLink>> {
        let mut seen = HashSet::new();
        let mut links = Vec::new();
        let mut next = Some(top.clone());
        while let Some(id) = next {
            // What stands on itself stands on nothing.
            if !seen.insert(id.clone()) {
                return None;
            }
            let image = self.known_image(registry, &id).await?;
            let parent = image.parent.clone();
            links.push((id, image));
            next = parent;
        }
        links.reverse();
        Some(links)
    }

    /// Keeps what an image became, and of what each digest is.
    async fn keep_converted(
        &self,
        registry: &Registry,
        chain: &[ChainLink],
        converted: &ConvertedImage,
    ) {
        let Some((top, _)) = chain.last() else { return };
        let conversions = ConvertedRecords::of(&self.store);
        let layers = chain.iter().filter(|(_, image)| !image.layer.is_empty);
        let made = layers.map(|(id, image)| (image.layer.digest, ConvertedKind::Layer, id));
        let made = made.chain([
            (converted.config_digest, ConvertedKind::Config, top),
            (converted.manifest_digest, ConvertedKind::Manifest, top),
        ]);
        for (digest, kind, id) in made {
            let kept = conversions.add_origin(registry, &digest, kind, id).await;
            kept.unwrap_or_else(|error| warn_degraded("a conversion cannot be noted", &error));
        }
        self.contents
            .store_small(converted.config_digest, converted.config.clone().into())
            .await;
        self.contents
            .store_small(converted.manifest_digest, converted.manifest.clone().into())
            .await;
    }

    /// Gives a repository everything of a converted image.
    pub(super) async fn link_converted(
        &self,
        registry: &Registry,
        repository: &Repository,
        top: &ImageId,
    ) -> Result<(), MirrorError> {
        let Some(chain) = self.chain(registry, top).await else {
            return Err(MirrorError::Preparing(preparation(top)));
        };
        let converted = converted(&chain)?;
        let records = &self.store.records;
        let checked_at = unix_seconds(SystemTime::now());
        let blob = |size| BlobLink {
            checked_at,
            size: Some(size),
        };
        for (_, image) in chain.iter().filter(|(_, image)| !image.layer.is_empty) {
            let ConvertedLayer { digest, size, .. } = image.layer;
            let question = records.ask(&BlobKey::new(registry, repository, &digest));
            records.answer(&question, blob(size), Reach::Here).await;
        }
        let config = blob(converted.config.len() as u64);
        let question = records.ask(&BlobKey::new(
            registry,
            repository,
            &converted.config_digest,
        ));
        records.answer(&question, config, Reach::Here).await;
        let manifest = ManifestLink {
            media_type: DOCKER_MANIFEST.to_owned(),
            size: converted.manifest.len() as u64,
            checked_at,
            subject: None,
            stored: None,
        };
        // Last: who finds it finds the others.
        let question = records.ask(&ManifestKey::new(
            registry,
            repository,
            &converted.manifest_digest,
        ));
        records.answer(&question, manifest, Reach::Here).await;
        let ids: Vec<ImageId> = chain.into_iter().map(|(id, _)| id).collect();
        let images = ImageRecords::of(&self.store);
        let linked = images.link(registry, repository, &ids).await;
        linked.map_err(|error| MirrorError::Disk(Arc::new(error)))
    }
}

/// What a chain becomes.
pub(super) fn converted(chain: &[ChainLink]) -> Result<ConvertedImage, MirrorError> {
    let mut descriptions = Vec::with_capacity(chain.len());
    for (id, image) in chain {
        let description = v1_to_v2::description(image.json.as_bytes(), id, image.parent.as_ref());
        descriptions.push(description.map_err(|_| MirrorError::Internal)?);
    }
    let images: Vec<ChainEntry<'_>> = descriptions
        .iter()
        .zip(chain)
        .map(|(description, (_, image))| ChainEntry {
            description,
            layer: image.layer,
        })
        .collect();
    Ok(v1_to_v2::convert(&images))
}

/// What it means that a layer is nothing for clients of v2.
fn unread(error: LayerError) -> MirrorError {
    let wrong = |what| MirrorError::Unusable(Arc::new(UpstreamError::Protocol(what)));
    match error {
        LayerError::Commit(CommitError::Full(_)) => MirrorError::no_room(),
        LayerError::Commit(error) => MirrorError::Disk(Arc::new(std::io::Error::other(error))),
        LayerError::Packing => wrong("a layer cannot be unpacked"),
        LayerError::Kind => wrong("a layer is packed by what clients do not read"),
        LayerError::TooLong => wrong("a layer unpacks to too much"),
        LayerError::Read(error) => MirrorError::Disk(Arc::new(error)),
    }
}
