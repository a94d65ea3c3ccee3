//! Layers of the v1 API, stored as blobs: by the same fills, under the computed sha256, with a pointer from the
//! image to the digest.

use std::sync::Arc;

use super::layer_source::{LayerSource, checksums};
use super::{Registries, V1, body_fetch};
use super::{claim::Claim, origin::V1Origin};
use mirror::{BUSY_RETRY, BlobAnswer, FillError, MirrorError, Requester, ResourceKind, StoredBlob};
use oci::cache_status::CacheStatus;
use oci::digest::Digest;
use oci::name::Repository;
use oci::v1::{Endpoint, ImageId, Part};

/// How often the fill of a layer is started that had to give way to other fills.
const ATTEMPTS: u32 = 5;

impl V1 {
    /// A layer from the store, or else as it arrives from the upstream.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] if the claim does not cover the image, and the upstream's error.
    pub async fn v1_layer(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
        requester: Requester<'_>,
    ) -> Result<BlobAnswer, MirrorError> {
        let origin = self.origin(claim.registry())?;
        let repository = self.check_claim(&origin, claim, id).await?;
        if let Some(retained) = self.registries.open_layer(&origin, id).await {
            return Ok(BlobAnswer::stored(retained.blob, CacheStatus::HIT));
        }
        let source = self.registries.layer_source(&origin, repository, id);
        let source = source.await?;
        let key = LayerSource::key(&origin.registry, id);
        let filled = self.registries.contents.fill(key, source, requester);
        filled.await.map_err(refused)
    }

    /// Fetches an image's layer into the store; returns its digest and its length in bytes.
    ///
    /// # Errors
    /// As [`V1::v1_layer`]; [`MirrorError::NoRoom`] if it does not fit into the store.
    pub async fn v1_stored_layer(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<(Digest, u64), MirrorError> {
        let origin = self.origin(claim.registry())?;
        let repository = self.check_claim(&origin, claim, id).await?;
        let retained = self.registries.fetch_layer(&origin, repository, id).await?;
        Ok((retained.digest, retained.size))
    }

    /// The length of a layer in bytes, if its pointer is stored.
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

/// A stored layer.
#[derive(Debug)]
pub(super) struct StoredLayer {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub blob: StoredBlob,
}

impl Registries {
    /// Fetches a layer into the store, unless it is there.
    ///
    /// # Errors
    /// The upstream's error; [`MirrorError::NoRoom`] if it does not fit into the store.
    pub(super) async fn fetch_layer(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        id: &ImageId,
    ) -> Result<StoredLayer, MirrorError> {
        let mut source = None;
        for _ in 0..ATTEMPTS {
            if let Some(retained) = self.open_layer(origin, id).await {
                return Ok(retained);
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
        // Each time it was evicted as soon as it was stored.
        Err(MirrorError::no_room())
    }

    /// Opens a stored layer.
    async fn open_layer(&self, origin: &V1Origin, id: &ImageId) -> Option<StoredLayer> {
        let known = self.body_pointer(origin, &endpoint(id)).await?;
        let blob = self.contents.open(&known.digest, Some(known.size)).await?;
        Some(StoredLayer {
            digest: known.digest,
            size: known.size,
            blob,
        })
    }

    /// The source of a layer. Its checksums come with the image's JSON.
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

/// Maps the error of a fill.
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
