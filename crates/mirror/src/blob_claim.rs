//! Claims of blobs: asks the upstream whether a repository has one, and links it if so.

use std::sync::Arc;
use std::time::SystemTime;

use super::freshness::unix_seconds;
use super::negative_cache::NegativeKey;
use super::origin::OriginView;
use super::progress::FillError;
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::v2::Resource;
use runtime::generation;
use store::{BlobKey, BlobLink, Question, Reach};
use upstream::UpstreamError;

/// The length in bytes that the upstream confirmed a claim with, if it named one.
pub(super) type Claimed = Result<Option<u64>, MirrorError>;

/// The question whether a repository has a blob. Its answer is dropped if a write ends first.
#[derive(Debug)]
pub(super) struct BlobClaim {
    link: Question<BlobLink>,
    missing: generation::Question<NegativeKey>,
}

impl Mirror {
    /// Asks the upstream or the fallback whether the repository has the blob, and links it if so; returns its length,
    /// and whether the request was collapsed into another one.
    pub(super) async fn claim_blob(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> Result<(Option<u64>, bool), MirrorError> {
        let key = BlobKey::new(permit.name(), digest);
        let claim = self.state.ask_blob(permit, digest);
        let generation = claim.link.generation();
        let start = || {
            let (state, origin) = (self.state.clone(), origin.clone());
            let (name, digest) = (permit.name().clone(), *digest);
            async move {
                let asked = async {
                    let upstream = origin.upstream()?;
                    upstream.blob_head(&name.repository, &digest).await
                };
                let error = match asked.await {
                    Ok(size) => {
                        let checked_at = unix_seconds(SystemTime::now());
                        let link = BlobLink { checked_at, size };
                        let records = &state.store.records;
                        records.answer(&claim.link, link, Reach::Shared).await;
                        return Ok(size);
                    }
                    Err(error) => error,
                };
                if matches!(error, UpstreamError::NotFound) {
                    let fallback = state.fallback(&origin).cloned();
                    if let Some(fallback) = fallback {
                        let size = fallback.blob(&name, &digest);
                        if let Some(size) = size.await {
                            return Ok(Some(size));
                        }
                    }
                }
                let error = FillError::Upstream(Arc::new(error));
                Err(state.blob_error(&origin, &claim, error).await)
            }
        };
        let claiming = &self.state.blob_requests;
        let (claim, collapsed) = claiming
            .join((key, origin.caller_key(), generation), start)
            .await;
        let size = claim.unwrap_or(Err(MirrorError::Internal))?;
        Ok((size, collapsed))
    }

    /// Revalidates a blob's link behind an answer.
    pub(super) fn recheck_blob(&self, origin: &OriginView, permit: &Permit, digest: &Digest) {
        let (mirror, origin, permit, digest) =
            (self.clone(), origin.clone(), permit.clone(), *digest);
        tokio::spawn(async move {
            let state = &mirror.state;
            if state
                .peer_blob_link(&origin, &permit, &digest)
                .await
                .is_some()
            {
                return;
            }
            let claim = state.ask_blob(&permit, &digest);
            if let Err(error) = mirror.claim_blob(&origin, &permit, &digest).await
                && error.revokes_link()
            {
                state.store.records.answer_absent(&claim.link).await;
            }
        });
    }
}

impl MirrorState {
    /// Begins to ask whether a repository has a blob.
    pub(super) fn ask_blob(&self, permit: &Permit, digest: &Digest) -> BlobClaim {
        BlobClaim {
            link: self.store.records.ask(&BlobKey::new(permit.name(), digest)),
            missing: self.missing.ask(negative_key(permit, digest)),
        }
    }

    /// Maps a source's failure to the client's error, and remembers a 404.
    pub(super) async fn blob_error(
        &self,
        origin: &OriginView,
        claim: &BlobClaim,
        error: FillError,
    ) -> MirrorError {
        let error = MirrorError::from_fill(error);
        if matches!(error, MirrorError::Unknown { .. }) {
            self.missing.remember(&claim.missing, origin.missing_ttl());
            self.store.records.answer_absent(&claim.link).await;
        }
        error
    }
}

pub(super) fn negative_key(permit: &Permit, digest: &Digest) -> NegativeKey {
    (
        permit.name().clone(),
        Resource::Blob(*digest),
        AcceptClass::Full,
    )
}
