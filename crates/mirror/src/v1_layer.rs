//! Layers of the v1 API, kept like blobs: by the same fills, under the sha256 that was computed, with a pointer
//! from the image to it.

use std::sync::Arc;
use std::time::Duration;

use super::blob::{BlobAnswer, Content, opened};
use super::error::Asked;
use super::error::BUSY_RETRY;
use super::fill::{FillError, Follower, Joined, Phase};
use super::source::FillSource;
use super::v1::{Claim, V1Origin};
use super::v1_source::{Layer, checksums};
use super::{Mirror, MirrorError, Shared, v1_kept};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::name::Repository;
use oci::v1::{Endpoint, ImageId, Part};
use upstream::UpstreamError;

/// How often a layer that somebody needs whole is asked for when its fill gave way to others.
const ATTEMPTS: u32 = 5;
/// How long one may be without progress for that.
const PATIENCE: Duration = Duration::from_secs(120);

impl Mirror {
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
        let origin = self.v1_origin(claim.registry())?;
        let repository = self.v1_claimed(&origin, claim, id).await?;
        if let Some(KeptLayer { size, content, .. }) = self.shared.layer_here(&origin, id).await {
            return Ok(BlobAnswer {
                size: Some(size),
                cache: CacheStatus::HIT,
                content,
            });
        }
        let source = self.shared.layer_source(&origin, repository, id).await?;
        loop {
            let (mut follower, collapsed) = self.shared.layer_fill(&origin, id, &source);
            let cache = CacheStatus::forward(Forward::UriMiss).collapsed(collapsed);
            let (size, cache, content) = match opened(&mut follower, &source).await {
                Ok(size) => (size, cache.stored(), Content::Fill(follower, source)),
                // It gave its slot up before it saw us: it goes on for us.
                Err(FillError::Paused) => continue,
                Err(FillError::NoRoom { total }) => {
                    let content = Content::Elsewhere(source, Layer::key(&origin.registry, id));
                    (total, cache.detail("no-room"), content)
                }
                Err(error) => return Err(refused(error)),
            };
            return Ok(BlobAnswer {
                size,
                cache,
                content,
            });
        }
    }

    /// Makes sure that an image's layer is in the store; its digest and its length in bytes.
    ///
    /// # Errors
    /// As [`Mirror::v1_layer`]; [`MirrorError::NoRoom`] where it cannot be kept.
    pub async fn v1_layer_kept(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<(Digest, u64), MirrorError> {
        let origin = self.v1_origin(claim.registry())?;
        let repository = self.v1_claimed(&origin, claim, id).await?;
        let kept = self.shared.layer_kept(&origin, repository, id).await?;
        Ok((kept.digest, kept.size))
    }

    /// The length of a layer that is known here, in bytes.
    ///
    /// # Errors
    /// As [`Mirror::v1_layer`].
    pub async fn v1_known_size(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<Option<u64>, MirrorError> {
        let origin = self.v1_origin(claim.registry())?;
        self.v1_claimed(&origin, claim, id).await?;
        let known = self.shared.v1_pointer(&origin, &endpoint(id)).await;
        Ok(known.map(|known| known.size))
    }
}

/// A layer that is in the store.
#[derive(Debug)]
pub(super) struct KeptLayer {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub content: Content,
}

impl Shared {
    /// Fetches a layer, unless it is here.
    ///
    /// # Errors
    /// What the upstream said; [`MirrorError::NoRoom`] where it cannot be kept.
    pub(super) async fn layer_kept(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        id: &ImageId,
    ) -> Result<KeptLayer, MirrorError> {
        let mut source = None;
        for _ in 0..ATTEMPTS {
            if let Some(kept) = self.layer_here(origin, id).await {
                return Ok(kept);
            }
            let source = match &source {
                Some(source) => source,
                None => source.insert(self.layer_source(origin, repository.clone(), id).await?),
            };
            let (follower, _) = self.layer_fill(origin, id, source);
            match ended(follower).await {
                Ok(()) | Err(FillError::Paused) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        // It had to go as soon as it came.
        Err(MirrorError::no_room())
    }

    /// A layer that is here.
    async fn layer_here(&self, origin: &V1Origin, id: &ImageId) -> Option<KeptLayer> {
        let known = self.v1_pointer(origin, &endpoint(id)).await?;
        let content = self.open_blob(&known.digest, Some(known.size)).await?;
        Some(KeptLayer {
            digest: known.digest,
            size: known.size,
            content,
        })
    }

    /// Where to get a layer. What it is checked by comes with the image's description.
    async fn layer_source(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        id: &ImageId,
    ) -> Result<FillSource, MirrorError> {
        let json = self
            .v1_part(origin, repository.clone(), id, Part::Json)
            .await?;
        Ok(FillSource::Foreign(Arc::new(Layer {
            origin: origin.clone(),
            store: self.store.clone(),
            repository,
            id: id.clone(),
            checksums: json.checksum.as_deref().map(checksums).unwrap_or_default(),
            size: json.layer_size,
            json: json.bytes,
            digest: None,
        })))
    }

    /// The fill of a layer, and whether it was under way already.
    fn layer_fill(&self, origin: &V1Origin, id: &ImageId, source: &FillSource) -> (Follower, bool) {
        let (fills, key) = (&self.fills, Layer::key(&origin.registry, id));
        loop {
            // Whose images are was decided before.
            if let Joined::Fill {
                follower,
                collapsed,
            } = fills.join(key, source.clone(), true)
            {
                return (follower, collapsed);
            }
        }
    }
}

pub(super) fn endpoint(id: &ImageId) -> Endpoint {
    Endpoint::Image {
        id: id.clone(),
        part: Part::Layer,
    }
}

/// Waits until a fill is over.
async fn ended(follower: Follower) -> Result<(), FillError> {
    let mut progress = follower.progress;
    loop {
        match &progress.borrow_and_update().phase {
            Phase::Asking | Phase::Streaming { .. } => {}
            Phase::Done { .. } => return Ok(()),
            Phase::Failed(error) => return Err(error.clone()),
        }
        let changed = tokio::time::timeout(PATIENCE, progress.changed()).await;
        let late = || FillError::Upstream(Arc::new(UpstreamError::Timeout));
        changed.map_err(|_| late())?.map_err(|_| FillError::Lost)?;
    }
}

/// What a fill's end means for the client.
pub(super) fn refused(error: FillError) -> MirrorError {
    match error {
        FillError::Upstream(error) => v1_kept::of(error, Asked::Image),
        FillError::Commit(error) => MirrorError::Untrue(error),
        FillError::NoRoom { .. } => MirrorError::no_room(),
        FillError::Busy | FillError::Paused => MirrorError::Busy {
            retry_after: BUSY_RETRY,
        },
        FillError::Lost => MirrorError::Lost,
    }
}
