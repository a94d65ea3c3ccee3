//! Layers of the v1 API, kept like blobs: by the same fills, under the sha256 that was computed, with a pointer
//! from the image to it.

use std::sync::Arc;

use super::layer_source::{LayerSource, checksums};
use super::{Registries, V1, body_fetch};
use super::{claim::Claim, origin::V1Origin};
use mirror::{BUSY_RETRY, BlobAnswer, FillError, MirrorError, ResourceKind, StoredBlob};
use oci::cache_status::CacheStatus;
use oci::digest::Digest;
use oci::name::Repository;
use oci::v1::{Endpoint, ImageId, Part};

/// How often a layer that somebody needs whole is asked for when its fill gave way to others.
const ATTEMPTS: u32 = 5;

impl V1 {
    /// A layer with its bytes, as they arrive if they are not here yet.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] for images that are not the claim's, and what the upstream said, where it had
    /// to be asked.
    pub async fn v1_layer(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<BlobAnswer, MirrorError> {
        let origin = self.origin(claim.registry())?;
        let repository = self.check_claim(&origin, claim, id).await?;
        if let Some(kept) = self.registries.open_layer(&origin, id).await {
            return Ok(BlobAnswer::stored(kept.blob, CacheStatus::HIT));
        }
        let source = self.registries.layer_source(&origin, repository, id);
        let source = source.await?;
        let key = LayerSource::key(&origin.registry, id);
        let filled = self.registries.contents.fill(key, source);
        filled.await.map_err(refused)
    }

    /// Makes sure that an image's layer is in the store; its digest and its length in bytes.
    ///
    /// # Errors
    /// As [`V1::v1_layer`]; [`MirrorError::NoRoom`] where it cannot be kept.
    pub async fn v1_stored_layer(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<(Digest, u64), MirrorError> {
        let origin = self.origin(claim.registry())?;
        let repository = self.check_claim(&origin, claim, id).await?;
        let kept = self.registries.fetch_layer(&origin, repository, id).await?;
        Ok((kept.digest, kept.size))
    }

    /// The length of a layer that is known here, in bytes.
    ///
    /// # Errors
    /// As [`V1::v1_layer`].
    pub async fn v1_cached_layer_size(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<Option<u64>, MirrorError> {
        let origin = self.origin(claim.registry())?;
        self.check_claim(&origin, claim, id).await?;
        let known = self.registries.body_pointer(&origin, &endpoint(id)).await;
        Ok(known.map(|known| known.size))
    }
}

/// A layer that is in the store.
#[derive(Debug)]
pub(super) struct StoredLayer {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub blob: StoredBlob,
}

impl Registries {
    /// Fetches a layer, unless it is here.
    ///
    /// # Errors
    /// What the upstream said; [`MirrorError::NoRoom`] where it cannot be kept.
    pub(super) async fn fetch_layer(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        id: &ImageId,
    ) -> Result<StoredLayer, MirrorError> {
        let mut source = None;
        for _ in 0..ATTEMPTS {
            if let Some(kept) = self.open_layer(origin, id).await {
                return Ok(kept);
            }
            let source: &Arc<LayerSource> = match &source {
                Some(source) => source,
                None => source.insert(self.layer_source(origin, repository.clone(), id).await?),
            };
            let key = LayerSource::key(&origin.registry, id);
            match self.contents.fill_whole(key, source.clone()).await {
                Ok(()) | Err(FillError::Paused) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        // It had to go as soon as it came.
        Err(MirrorError::no_room())
    }

    /// A layer that is here.
    async fn open_layer(&self, origin: &V1Origin, id: &ImageId) -> Option<StoredLayer> {
        let known = self.body_pointer(origin, &endpoint(id)).await?;
        let blob = self.contents.open(&known.digest, Some(known.size)).await?;
        Some(StoredLayer {
            digest: known.digest,
            size: known.size,
            blob,
        })
    }

    /// Where to get a layer. What it is checked by comes with the image's description.
    async fn layer_source(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        id: &ImageId,
    ) -> Result<Arc<LayerSource>, MirrorError> {
        let json = self
            .image_part(origin, repository.clone(), id, Part::Json)
            .await?;
        Ok(Arc::new(LayerSource {
            origin: origin.clone(),
            store: self.store.clone(),
            repository,
            id: id.clone(),
            checksums: json.checksum.as_deref().map(checksums).unwrap_or_default(),
            size: json.layer_size,
            json: json.bytes,
            digest: None,
        }))
    }
}

pub(super) fn endpoint(id: &ImageId) -> Endpoint {
    Endpoint::Image {
        id: id.clone(),
        part: Part::Layer,
    }
}

/// What a fill's end means for the client.
pub(super) fn refused(error: FillError) -> MirrorError {
    match error {
        FillError::Upstream(error) => body_fetch::mirror_error(error, ResourceKind::Image),
        FillError::Commit(error) => MirrorError::DigestMismatch(error),
        FillError::NoRoom { .. } => MirrorError::no_room(),
        FillError::Busy | FillError::Paused => MirrorError::Busy {
            retry_after: BUSY_RETRY,
        },
        FillError::Lost => MirrorError::Internal,
    }
}
