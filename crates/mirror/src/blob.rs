//! Blobs: from the store, or from a fill if they are not stored.

use std::sync::Arc;
use std::time::SystemTime;

use super::blob_answer::BlobAnswer;
use super::blob_claim::negative_key;
use super::error::ResourceKind;
use super::fill::SourceClaim;
use super::freshness::{
    Freshness, KnownAnswer, Stale, WaitLimits, is_fresh, revalidate, stale_age,
};
use super::gate::Cleared;
use super::origin::{HeadPolicy, OriginView};
use super::waiting::Requester;
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::v2::Resource;
use store::{BlobKey, BlobLink, warn_degraded};

/// The answer to a HEAD of a blob.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    /// In bytes, where known.
    pub size: Option<u64>,
    /// How the cache handled the request (RFC 9211).
    pub cache: CacheStatus,
    /// Present if the upstream could not revalidate the answer.
    pub stale: Option<Stale>,
}

impl Mirror {
    /// A blob with its bytes: as they arrive, if they are not stored yet.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    pub async fn blob(
        &self,
        permit: &Permit,
        digest: &Digest,
        requester: Requester<'_>,
    ) -> Result<BlobAnswer, MirrorError> {
        let origin = self.admit(permit, &Resource::Blob(*digest)).await?;
        let cleared = self.clear_blob(&origin, permit, digest).await?;
        self.cleared_blob(&origin, permit, cleared, requester).await
    }

    /// [`Mirror::blob`], once the gate has cleared it.
    pub(super) async fn cleared_blob(
        &self,
        origin: &OriginView,
        permit: &Permit,
        cleared: Cleared<'_>,
        requester: Requester<'_>,
    ) -> Result<BlobAnswer, MirrorError> {
        let (state, digest) = (&self.state, cleared.digest());
        let link = state.blob_link(permit, digest).await;
        if link.is_none() && state.missing.contains(&negative_key(permit, digest)) {
            return Err(ResourceKind::Blob.remembered_unknown());
        }
        let link = match link {
            Some(link) => Some(link),
            None => Box::pin(state.peer_blob_link(origin, permit, digest)).await,
        };
        if let Some(blob) = state
            .contents
            .open(digest, link.as_ref().and_then(|link| link.size))
            .await
        {
            // A fill that ended since the first look recorded its link before it committed the bytes.
            let link = match link {
                None => state.blob_link(permit, digest).await,
                link => link,
            };
            let cache = if let Some(link) = &link {
                if !is_fresh(link.checked_at, origin.link_ttl(), SystemTime::now()) {
                    self.recheck_blob(origin, permit, digest);
                }
                CacheStatus::HIT
            } else {
                // The bytes were fetched through another repository; this one's claim costs a HEAD.
                let (_, collapsed) = Box::pin(self.claim_blob(origin, permit, digest)).await?;
                CacheStatus::forward(Forward::UriMiss)
                    .collapsed(collapsed)
                    .detail("claimed")
                    .from_store()
            };
            return Ok(BlobAnswer::stored(blob, cache));
        }
        let claim = match link {
            Some(_) => SourceClaim::Proven,
            None => SourceClaim::Unproven,
        };
        Box::pin(self.fill_blob(origin, permit, digest, claim, requester)).await
    }

    /// A blob without its bytes: a HEAD never downloads.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    pub async fn blob_head(
        &self,
        permit: &Permit,
        digest: &Digest,
    ) -> Result<BlobHead, MirrorError> {
        let origin = self.admit(permit, &Resource::Blob(*digest)).await?;
        let digest = self.clear_blob(&origin, permit, digest).await?.digest();
        let link = match self.state.blob_link(permit, digest).await {
            None if self.state.missing.contains(&negative_key(permit, digest)) => {
                return Err(ResourceKind::Blob.remembered_unknown());
            }
            None => Box::pin(self.state.peer_blob_link(&origin, permit, digest)).await,
            link => link,
        };
        let local_size = match &link {
            Some(link) => self.state.local_length(&origin, permit, digest, link).await,
            None => None,
        };
        if let (Some(link), Some(size), HeadPolicy::Cached) = (&link, local_size, origin.heads()) {
            if !is_fresh(link.checked_at, origin.link_ttl(), SystemTime::now()) {
                self.recheck_blob(&origin, permit, digest);
            }
            return Ok(BlobHead {
                size: Some(size),
                cache: CacheStatus::HIT,
                stale: None,
            });
        }
        let known = link.as_ref().zip(local_size).and_then(|(link, size)| {
            let age = stale_age(link.checked_at, origin.max_stale(), SystemTime::now())?;
            let answer = Some(size);
            Some(KnownAnswer { answer, age })
        });
        let ask = async {
            match self.claim_blob(&origin, permit, digest).await {
                Ok((size, collapsed)) => (Ok(size.or(local_size)), collapsed),
                Err(error) => (Err(error), false),
            }
        };
        let checked = revalidate(known, WaitLimits::UNLIMITED, ask, |_| Freshness::Fetched).await?;
        let stale = checked.freshness.stale();
        let claimed = CacheStatus::forward(Forward::UriMiss).collapsed(checked.collapsed);
        Ok(BlobHead {
            size: checked.answer,
            cache: stale.map_or(claimed, Stale::cache_status),
            stale,
        })
    }
}

impl MirrorState {
    async fn blob_link(&self, permit: &Permit, digest: &Digest) -> Option<Arc<BlobLink>> {
        self.store
            .records
            .open(&BlobKey::new(permit.name(), digest))
            .await
            .unwrap_or_else(|error| {
                warn_degraded("a link cannot be read", &error);
                None
            })
    }

    /// A peer's link of a blob, while it is fresh.
    pub(super) async fn peer_blob_link(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> Option<Arc<BlobLink>> {
        let accepts_peer_record = origin.accepts_peer_record(origin.link_ttl());
        let key = BlobKey::new(permit.name(), digest);
        let accepts = |link: &BlobLink| accepts_peer_record(link.checked_at);
        self.store.records.open_shared(&key, accepts).await
    }

    /// The length of a linked blob that is stored, or that the fallback supplies.
    async fn local_length(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
        link: &BlobLink,
    ) -> Option<u64> {
        if let Some(blob) = self.contents.open(digest, link.size).await {
            return Some(blob.size());
        }
        let supplied = self.fallback_blob(origin, permit.name(), digest).await;
        link.size.filter(|_| supplied.is_some())
    }
}
