//! Manifests, configurations and layers of converted images, by digest: whose they are, and how evicted ones come back.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::repack::RepackedLayer;
use super::{V1Repository, convert};
use crate::layer_source::LayerSource;
use crate::records::{ConvertedKind, ConvertedRecords, ImageRecords};
use crate::{Registries, layer as v1_layer};
use mirror::{FallbackBlob, ForeignSource, unix_seconds};
use oci::digest::Digest;
use oci::manifest::DOCKER_MANIFEST;
use oci::name::{Registry, RepositoryName};
use oci::v1::ImageId;
use store::{BlobKey, BlobLink, ManifestKey, ManifestLink, Reach, warn_degraded};

impl Registries {
    /// Rebuilds the manifest or configuration of a converted image, and stores it.
    pub(super) async fn rebuild(&self, registry: &Registry, digest: &Digest) -> Option<Bytes> {
        let (kind, images) = self.origin_of(registry, digest).await?;
        for top in images {
            let Some(chain) = self.chain(registry, &top).await else {
                continue;
            };
            let converted = convert::converted(&chain).ok()?;
            let (rebuilt, bytes) = match kind {
                ConvertedKind::Manifest => (converted.manifest_digest, converted.manifest),
                ConvertedKind::Config => (converted.config_digest, converted.config),
                ConvertedKind::Layer => return None,
            };
            if rebuilt == *digest {
                let bytes = Bytes::from(bytes);
                self.contents.store_small(rebuilt, bytes.clone()).await;
                return Some(bytes);
            }
        }
        None
    }

    /// The source of an evicted blob of a converted image; `None` if it does not belong to the repository.
    pub(crate) async fn blob_of_v1(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<FallbackBlob> {
        let (source, id, kind) = self.claim_of_v1(name, digest).await?;
        match kind {
            ConvertedKind::Manifest => None,
            ConvertedKind::Config => self
                .rebuild(&name.registry, digest)
                .await
                .map(FallbackBlob::Rebuilt),
            ConvertedKind::Layer => {
                let layer = self.layer_of_v1(source, id, *digest).await?;
                Some(FallbackBlob::Source(layer))
            }
        }
    }

    /// The source of an evicted layer, which must yield the same bytes again.
    async fn layer_of_v1(
        &self,
        source: V1Repository,
        id: ImageId,
        digest: Digest,
    ) -> Option<Arc<dyn ForeignSource>> {
        let known = self.known_image(&source.name.registry, &id).await?;
        let pointer = self
            .body_pointer(&source.origin, &v1_layer::endpoint(&id))
            .await;
        let layer = Arc::new(LayerSource {
            origin: source.origin,
            store: self.store.clone(),
            repository: Some(source.name.repository),
            id,
            json: known.json.into(),
            size: pointer.as_ref().map(|pointer| pointer.size),
            checksums: Vec::new(),
            digest: pointer.map(|pointer| pointer.digest),
        });
        // Without a record of the original, its first bytes tell how it is compressed.
        Some(if layer.digest == Some(digest) {
            layer
        } else {
            Arc::new(RepackedLayer {
                layer,
                digest,
                size: known.layer.size,
                slots: self.conversions.repack_slots.clone(),
            })
        })
    }

    /// Links a blob that the v2 side does not have, or no longer has, if it belongs to a converted image of the
    /// repository; returns its length in bytes.
    pub(super) async fn relink_blob_of_v1(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<u64> {
        let claim = self.claim_of_v1(name, digest).await;
        let (source, id, kind) = claim.filter(|(.., kind)| *kind != ConvertedKind::Manifest)?;
        let question = self.store.records.ask(&BlobKey::new(name, digest));
        if matches!(source.has_image(self, &id).await, Ok(false)) {
            return None;
        }
        let length = match kind {
            ConvertedKind::Layer => {
                let known = ConvertedRecords::of(&self.store)
                    .image(&name.registry, &id)
                    .await;
                let known = known.ok().flatten();
                known.map(|image| image.layer.size)
            }
            ConvertedKind::Config | ConvertedKind::Manifest => {
                let bytes = self.rebuild(&name.registry, digest).await;
                bytes.map(|bytes| bytes.len() as u64)
            }
        };
        let link = BlobLink {
            checked_at: unix_seconds(SystemTime::now()),
            size: length,
        };
        let records = &self.store.records;
        records.answer(&question, link, Reach::Local).await;
        length
    }

    /// Links a manifest as `relink_blob_of_v1` links a blob; returns its link.
    pub(super) async fn relink_manifest_of_v1(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<Arc<ManifestLink>> {
        let (source, id, kind) = self.claim_of_v1(name, digest).await?;
        let records = &self.store.records;
        let question = records.ask(&ManifestKey::new(name, digest));
        if kind != ConvertedKind::Manifest || matches!(source.has_image(self, &id).await, Ok(false))
        {
            return None;
        }
        let manifest = ConvertedRecords::of(&self.store)
            .manifest(&name.registry, &id)
            .await;
        let link = ManifestLink {
            media_type: DOCKER_MANIFEST.to_owned(),
            size: manifest.ok()??.size,
            checked_at: unix_seconds(SystemTime::now()),
            subject: None,
            stored: None,
        };
        let link = records.answer(&question, link, Reach::Local).await;
        Some(link.into_record())
    }

    /// The kind of a converted digest, and an image of the repository that it comes from.
    async fn claim_of_v1(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<(V1Repository, ImageId, ConvertedKind)> {
        let source = self.v1_repository_of(name)?;
        let (kind, images) = self.origin_of(&name.registry, digest).await?;
        for id in images.iter().cloned() {
            let known = ImageRecords::of(&self.store);
            match known.is_linked(name, &id).await {
                Ok(true) => return Some((source, id, kind)),
                Ok(false) => {}
                Err(error) => warn_degraded("the images of a repository cannot be read", &error),
            }
        }
        let records = &self.store.records;
        let linked = if kind == ConvertedKind::Manifest {
            let link = records.open(&ManifestKey::new(name, digest)).await;
            link.is_ok_and(|link| link.is_some())
        } else {
            let link = records.open(&BlobKey::new(name, digest)).await;
            link.is_ok_and(|link| link.is_some())
        };
        let id = images.into_iter().next().filter(|_| linked)?;
        Some((source, id, kind))
    }

    /// The kind of a converted digest, and all images that it comes from.
    async fn origin_of(
        &self,
        registry: &Registry,
        digest: &Digest,
    ) -> Option<(ConvertedKind, Vec<ImageId>)> {
        self.bridged_origin(registry)?;
        let conversions = ConvertedRecords::of(&self.store);
        let origin = conversions.origin_of(registry, digest).await;
        let origin = origin.unwrap_or_else(|error| {
            warn_degraded("a converted image cannot be read", &error);
            None
        })?;
        Some((origin.kind, origin.images().collect()))
    }
}
