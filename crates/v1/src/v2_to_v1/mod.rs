//! Images of the v2 API for v1 clients, derived from ordinary v2 reads, whose rights, fills, freshness and
//! links apply.
//!
//! A tag costs one HEAD, because its id is derived from the digest that it points at; manifest and
//! configuration are read when the image is requested. The manifest of an id is recorded, so that an id is
//! valid after a restart, and only in its [scope](IdScope): the repository that it was issued for, or an open
//! registry.

mod archive;
mod hidden;
mod issued_ids;
mod layer;
mod tags;
mod unpack;

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

use super::V1;
use crate::records::{V1ImageRecord, V1ImageRecords};
use access::Permit;
use mirror::{MirrorError, ReadMethod, Requester, ResourceKind};
use oci::digest::Digest;
use oci::manifest::{AcceptClass, is_index};
use oci::name::{NameScope, Reference, Registry, RepositoryName};
use oci::v1::ImageId;
use oci::v2_to_v1::{self, ChainImage, ClientPlatform, ImageManifest, V2ToV1Error};
use store::CommitError;

pub use layer::{LayerPreparations, V1ImageLayer};
pub(super) use tags::first_page;

/// How many tags are resolved, or ids issued, at once.
const TAGS_AT_ONCE: usize = 32;
/// The longest configuration, in bytes.
const MAX_CONFIG: u64 = 8 << 20;
/// How many manifests are read to find an image in an index, and how deep.
const MAX_MANIFESTS: usize = 8;
const MAX_DEPTH: usize = 3;

/// Why a v1 client gets no image. The client is sent these messages.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BridgeError {
    /// The v2 image cannot be read.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// It has no form that v1 clients can use.
    #[error(transparent)]
    Image(#[from] V2ToV1Error),
    /// A layer is no archive, or its compression is damaged.
    #[error("a layer of the image cannot be unpacked")]
    Archive(#[source] Arc<std::io::Error>),
    /// A layer that was made for v1 clients cannot be written.
    #[error("a layer of the image cannot be stored for v1 clients")]
    Store(#[source] Arc<CommitError>),
}

/// An image as a v1 client sees it, with its ancestors.
#[derive(Clone, Debug)]
pub struct V1Image {
    /// From the root to the top.
    links: Vec<ChainImage>,
    at: usize,
}

impl V1Image {
    fn link(&self) -> Option<&ChainImage> {
        self.links.get(self.at)
    }

    /// The image's JSON.
    pub fn json(&self) -> &str {
        self.link().map_or("", |link| &link.json)
    }

    /// The ids of the image and its ancestors, the root last.
    pub fn ancestry(&self) -> Vec<&str> {
        let ids = self.links.iter().take(self.at + 1).rev();
        ids.map(|link| link.id.as_str()).collect()
    }
}

/// Where the id of a bridged image is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdScope {
    /// In one repository.
    Repository,
    /// In the whole registry, which anonymous clients may read.
    Registry,
}

impl IdScope {
    /// The scope of a registry's ids: `is_open` where anonymous clients may read all of it.
    pub fn of(is_open: bool) -> Self {
        if is_open {
            Self::Registry
        } else {
            Self::Repository
        }
    }

    /// What the record of an id that was issued for a repository belongs to.
    fn of_record(self, name: &RepositoryName) -> NameScope {
        match self {
            Self::Repository => name.into(),
            Self::Registry => (&name.registry).into(),
        }
    }
}

impl V1 {
    /// Whether a registry's v2 images are served to v1 clients.
    pub fn bridges_v2(&self, registry: &Registry) -> bool {
        self.registries.bridged.contains(registry)
    }

    /// The record of an id that was issued for a repository, or for an open registry.
    ///
    /// # Errors
    /// [`MirrorError::Disk`] if the records cannot be read.
    pub async fn bridged_id(
        &self,
        scope: impl Into<NameScope>,
        id: &ImageId,
    ) -> Result<Option<Arc<V1ImageRecord>>, MirrorError> {
        let records = V1ImageRecords::of(self.store());
        let known = records.image(scope, id);
        known
            .await
            .map_err(|error| MirrorError::Disk(Arc::new(error)))
    }

    /// The image of an issued id.
    ///
    /// # Errors
    /// [`BridgeError`]: the upstream's error, or why v1 clients cannot use the image.
    pub async fn bridged_image(
        &self,
        permit: &Permit,
        id: &ImageId,
        known: &V1ImageRecord,
    ) -> Result<V1Image, BridgeError> {
        let platform = ClientPlatform {
            os: known.os.clone(),
            architecture: known.architecture.clone(),
        };
        let image = self.image_for(permit, known.manifest, &platform).await?;
        let config = self.config(permit, &image.config).await?;
        let links = v2_to_v1::chain(&known.manifest, &platform, &image, &config)?;
        let at = known.position.unwrap_or(links.len().saturating_sub(1));
        if links.get(at).is_none_or(|link| link.id != *id) {
            // Issued by another version of this program.
            return Err(MirrorError::Unknown {
                kind: ResourceKind::Image,
                remembered: false,
            }
            .into());
        }
        Ok(V1Image { links, at })
    }

    /// Issues the ids of an image's ancestors, so that they can be requested.
    pub async fn issue_ancestry(
        &self,
        permit: &Permit,
        scope: IdScope,
        known: &V1ImageRecord,
        image: &V1Image,
    ) {
        let platform = ClientPlatform {
            os: known.os.clone(),
            architecture: known.architecture.clone(),
        };
        let below = image.links.iter().enumerate().take(image.at);
        let noted: Vec<BoxFuture<'_, ()>> = below
            .map(|(at, link)| {
                let (manifest, platform) = (&known.manifest, &platform);
                let noted = self.issue_id(permit, scope, &link.id, manifest, platform, Some(at));
                Box::pin(noted) as BoxFuture<'_, ()>
            })
            .collect();
        let noted = futures_util::stream::iter(noted).buffer_unordered(TAGS_AT_ONCE);
        noted.collect::<Vec<()>>().await;
    }

    async fn issue_id(
        &self,
        permit: &Permit,
        scope: IdScope,
        id: &ImageId,
        manifest: &Digest,
        platform: &ClientPlatform,
        position: Option<usize>,
    ) {
        let image = V1ImageRecord {
            repository: permit.repository().to_string(),
            manifest: *manifest,
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            position,
        };
        let scope = scope.of_record(permit.name());
        let images = V1ImageRecords::of(self.store());
        images.store_image(scope, id, image).await;
    }

    /// Finds the image for a platform: the manifest itself, or one below an index.
    async fn image_for(
        &self,
        permit: &Permit,
        target: Digest,
        platform: &ClientPlatform,
    ) -> Result<ImageManifest, BridgeError> {
        let mut pending: Vec<(Digest, usize)> = vec![(target, 0)];
        let mut visited = 0;
        let mut last_error = None;
        while let Some((digest, depth)) = pending.pop() {
            visited += 1;
            if visited > MAX_MANIFESTS || depth > MAX_DEPTH {
                return Err(V2ToV1Error::Nesting.into());
            }
            let reference = Reference::Digest(digest);
            let manifest = self
                .mirror
                .manifest(permit, &reference, AcceptClass::Full, ReadMethod::Get)
                .await?;
            let bytes = manifest.bytes.ok_or(MirrorError::Internal)?;
            if !is_index(&manifest.media_type) {
                return Ok(ImageManifest::parse(&bytes)?);
            }
            match v2_to_v1::choose(&bytes, platform) {
                Ok(found) => {
                    // The best candidate is visited first; any nested index may hold the image.
                    let found = found.iter().rev();
                    pending.extend(found.map(|found| (found.digest, depth + 1)));
                }
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or(V2ToV1Error::Manifest).into())
    }

    async fn config(&self, permit: &Permit, digest: &Digest) -> Result<BytesMut, BridgeError> {
        let config = self.mirror.blob(permit, digest, Requester::Gateway).await?;
        let bytes = config.whole(MAX_CONFIG).await?;
        bytes.ok_or_else(|| V2ToV1Error::Config.into())
    }
}
