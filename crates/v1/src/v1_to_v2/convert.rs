//! The conversion of an image: each image of its chain is read once, for all of its descendants.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::layer::{LayerError, examine};
use super::queries::protocol_error;
use super::{V1Repository, preparation};
use crate::Registries;
use crate::records::{
    ConvertedKind, ConvertedManifest, ConvertedRecords, ImageRecords, SourceImage,
};
use mirror::{MirrorError, unix_seconds};
use oci::digest::{Algorithm, Digest};
use oci::manifest::DOCKER_MANIFEST;
use oci::name::{Registry, RepositoryName};
use oci::v1::ImageId;
use oci::v1_to_v2::{self, ChainEntry, ConvertedImage, ConvertedLayer};
use store::{BlobKey, BlobLink, CommitError, ManifestKey, ManifestLink, Reach, warn_degraded};
use upstream::UpstreamError;

/// How many images of one chain are read at once.
const MAX_CHAIN_READS: usize = 3;

/// An image of a chain.
pub(crate) type ChainLink = (ImageId, SourceImage);

impl Registries {
    /// Converts an image, unless that failed a moment ago.
    pub(crate) async fn convert(
        self: Arc<Self>,
        source: V1Repository,
        top: ImageId,
    ) -> Result<ConvertedManifest, MirrorError> {
        let failed = &self.conversions.failed;
        let key = (source.name.registry.clone(), top.clone());
        if let Some(error) = failed.get(&key) {
            return Err(error);
        }
        let converted = self.clone().convert_now(&source, &top).await;
        match &converted {
            Ok(manifest) => tracing::info!(
                registry = %source.name.registry, repository = %source.name.repository, image = %top,
                digest = %manifest.manifest, "an image of v1 was converted"
            ),
            Err(error) => tracing::warn!(
                registry = %source.name.registry, repository = %source.name.repository, image = %top,
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
        source: &V1Repository,
        top: &ImageId,
    ) -> Result<ConvertedManifest, MirrorError> {
        let mut chain = source.ancestry(&self, top).await?;
        chain.reverse();
        let parents = std::iter::once(None).chain(chain.iter().cloned().map(Some));
        let images: Vec<(ImageId, Option<ImageId>)> = chain.iter().cloned().zip(parents).collect();
        let reading = stream::iter(images).map(|(id, parent)| {
            let (shared, source) = (self.clone(), source.clone());
            async move {
                let image = shared.image(source, id.clone(), parent).await?;
                Ok::<ChainLink, MirrorError>((id, image))
            }
        });
        let known: Vec<ChainLink> = reading.buffered(MAX_CHAIN_READS).try_collect().await?;
        let converted = converted(&known)?;
        self.store_converted(&source.name.registry, &known, &converted)
            .await;
        let manifest = ConvertedManifest {
            manifest: converted.manifest_digest,
            size: converted.manifest.len() as u64,
        };
        let conversions = ConvertedRecords::of(&self.store);
        conversions
            .store_manifest(&source.name.registry, top, manifest)
            .await;
        Ok(manifest)
    }

    /// An image from its record, or else read from the registry.
    async fn image(
        self: Arc<Self>,
        source: V1Repository,
        id: ImageId,
        parent: Option<ImageId>,
    ) -> Result<SourceImage, MirrorError> {
        let known = self.known_image(&source.name.registry, &id).await;
        if let Some(known) = known.filter(|known| known.parent == parent) {
            return Ok(known);
        }
        let key = (source.name.registry.clone(), id.clone());
        let shared = self.clone();
        let start = || shared.read_image(source, id, parent);
        let (read, _) = self.conversions.reading.join(key, start).await;
        read.unwrap_or(Err(MirrorError::Internal))
    }

    async fn read_image(
        self: Arc<Self>,
        source: V1Repository,
        id: ImageId,
        parent: Option<ImageId>,
    ) -> Result<SourceImage, MirrorError> {
        if let Some(known) = self.known_image(&source.name.registry, &id).await {
            return Ok(known);
        }
        let description = source.description(&self, &id).await?;
        // Every rebuild of a manifest parses it again, so it must be valid.
        v1_to_v2::description(description.json.as_bytes(), &id, parent.as_ref())
            .map_err(|_| protocol_error("its image JSON describes another image"))?;
        let layer = self.read_layer(&source, &id, description.size).await?;
        let image = SourceImage {
            parent,
            json: description.json,
            layer,
        };
        let conversions = ConvertedRecords::of(&self.store);
        conversions
            .store_image(&source.name.registry, &id, &image)
            .await;
        Ok(image)
    }

    /// Fetches a layer, which has `expected` bytes if that is known, and examines it.
    async fn read_layer(
        &self,
        source: &V1Repository,
        id: &ImageId,
        expected: Option<u64>,
    ) -> Result<ConvertedLayer, MirrorError> {
        let slot = self.conversions.read_slots.acquire().await;
        let _slot = slot.map_err(|_| MirrorError::Internal)?;
        let stored = source.layer(self, id).await?;
        if expected.is_some_and(|expected| expected != stored.size) {
            return Err(protocol_error(
                "a layer does not have the length that its image announces",
            ));
        }
        let blobs = self.store.blobs.clone();
        let seed = format!("roadstead converted layer\0{}\0{id}", source.name.registry);
        let key = Digest::of(Algorithm::Sha256, seed.as_bytes());
        let examining = tokio::task::spawn_blocking(move || examine(&blobs, &key, stored));
        let examined = examining.await.map_err(|_| MirrorError::Internal)?;
        examined.map_err(mirror_error)
    }

    /// The record of an image. A disk error counts as absent.
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

    /// An image and its ancestors, root first; `None` if one has no record.
    pub(crate) async fn chain(&self, registry: &Registry, top: &ImageId) -> Option<Vec<ChainLink>> {
        let mut seen = HashSet::new();
        let mut links = Vec::new();
        let mut next = Some(top.clone());
        while let Some(id) = next {
            // A cycle: it has no root.
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

    /// Stores a converted image, and which images its digests come from.
    async fn store_converted(
        &self,
        registry: &Registry,
        chain: &[ChainLink],
        converted: &ConvertedImage,
    ) {
        let Some((top, _)) = chain.last() else { return };
        let conversions = ConvertedRecords::of(&self.store);
        let layers = chain.iter().filter(|(_, image)| !image.layer.is_empty);
        let digests = layers.map(|(id, image)| (image.layer.digest, ConvertedKind::Layer, id));
        let digests = digests.chain([
            (converted.config_digest, ConvertedKind::Config, top),
            (converted.manifest_digest, ConvertedKind::Manifest, top),
        ]);
        for (digest, kind, id) in digests {
            let added = conversions.add_origin(registry, &digest, kind, id).await;
            added.unwrap_or_else(|error| {
                warn_degraded("a converted image cannot be recorded", &error);
            });
        }
        self.contents
            .store_small(converted.config_digest, converted.config.clone().into())
            .await;
        self.contents
            .store_small(converted.manifest_digest, converted.manifest.clone().into())
            .await;
    }

    /// Links everything of a converted image to a repository.
    pub(crate) async fn link_converted(
        &self,
        name: &RepositoryName,
        top: &ImageId,
    ) -> Result<(), MirrorError> {
        let Some(chain) = self.chain(&name.registry, top).await else {
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
            let question = records.ask(&BlobKey::new(name, &digest));
            records.answer(&question, blob(size), Reach::Local).await;
        }
        let config = blob(converted.config.len() as u64);
        let question = records.ask(&BlobKey::new(name, &converted.config_digest));
        records.answer(&question, config, Reach::Local).await;
        let manifest = ManifestLink {
            media_type: DOCKER_MANIFEST.to_owned(),
            size: converted.manifest.len() as u64,
            checked_at,
            subject: None,
            stored: None,
        };
        // Last, so that everything it names is linked before it.
        let question = records.ask(&ManifestKey::new(name, &converted.manifest_digest));
        records.answer(&question, manifest, Reach::Local).await;
        let ids: Vec<ImageId> = chain.into_iter().map(|(id, _)| id).collect();
        let images = ImageRecords::of(&self.store);
        let linked = images.link(name, &ids).await;
        linked.map_err(|error| MirrorError::Disk(Arc::new(error)))
    }
}

/// Converts a chain of recorded images.
pub(crate) fn converted(chain: &[ChainLink]) -> Result<ConvertedImage, MirrorError> {
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

/// Maps the error of a layer that cannot be converted.
fn mirror_error(error: LayerError) -> MirrorError {
    let protocol_error = |what| MirrorError::Unusable(Arc::new(UpstreamError::Protocol(what)));
    match error {
        LayerError::Commit(CommitError::Full(_)) => MirrorError::no_room(),
        LayerError::Commit(error) => MirrorError::Disk(Arc::new(std::io::Error::other(error))),
        LayerError::Corrupt => protocol_error("a layer cannot be decompressed"),
        LayerError::Format => {
            protocol_error("a layer is compressed in a format that v2 clients do not read")
        }
        LayerError::TooLong => protocol_error("a layer decompresses to more than 256 GiB"),
        LayerError::Read(error) => MirrorError::Disk(Arc::new(error)),
    }
}
