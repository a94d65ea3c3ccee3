//! Blobs: from the store, or from a fill if they are not stored.

use std::sync::Arc;
use std::time::SystemTime;

use super::contents::StoredBlob;
use super::error::ResourceKind;
use super::fill::{FillError, Follower, Phase, Progress, SourceClaim};
use super::freshness::{
    Freshness, KnownAnswer, Stale, WaitLimits, is_fresh, revalidate, stale_age, unix_seconds,
};
use super::origin::{HeadPolicy, OriginView};
use super::pass_through::PassThroughBody;
use super::reader::Reader;
use super::source::{FillKey, FillSource};
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Registry, Repository};
use oci::range::Span;
use oci::v2::Resource;
use store::{BlobKey, BlobLink, Question, Reach, warn_degraded};
use upstream::UpstreamError;

/// Identifies a blob of a repository.
pub(super) type ClaimKey = (Registry, Repository, Digest);
/// The length in bytes that the upstream confirmed a claim with, if it named one.
pub(super) type Claimed = Result<Option<u64>, MirrorError>;

/// The answer to a HEAD of a blob.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    /// In bytes, where known.
    pub size: Option<u64>,
    pub cache: CacheStatus,
    /// Present if the upstream could not revalidate the answer.
    pub stale: Option<Stale>,
}

/// The question whether a repository has a blob. Its answer is dropped if a write ends first.
#[derive(Debug)]
pub(super) struct BlobClaim {
    link: Question<BlobLink>,
    missing: runtime::generation::Question<super::negative_cache::NegativeKey>,
}

/// The answer to a GET of a blob.
#[derive(Debug)]
pub struct BlobAnswer {
    /// In bytes; unknown while the upstream sends the blob without a length.
    pub size: Option<u64>,
    pub cache: CacheStatus,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Stored(StoredBlob),
    Fill(Follower, FillSource),
    /// The store has no room.
    PassThrough(FillSource, FillKey),
}

/// Where a blob's bytes are.
pub(super) enum BlobLocation {
    Store,
    /// They are being fetched by this fill.
    Fill(Follower),
    /// They cannot be stored.
    PassThrough,
}

impl BlobAnswer {
    /// An answer with stored content.
    pub fn stored(blob: StoredBlob, cache: CacheStatus) -> Self {
        Self {
            size: Some(blob.size()),
            cache,
            content: Content::Stored(blob),
        }
    }

    pub(super) fn location(self) -> BlobLocation {
        match self.content {
            Content::Stored(_) => BlobLocation::Store,
            Content::Fill(follower, _) => BlobLocation::Fill(follower),
            Content::PassThrough(..) => BlobLocation::PassThrough,
        }
    }

    /// Whether one reader can read several parts ([`Reader::seek`]). Without room in the store, each part would
    /// need a request of its own.
    pub const fn is_seekable(&self) -> bool {
        match self.content {
            Content::Stored(_) | Content::Fill(..) => true,
            Content::PassThrough(..) => false,
        }
    }

    /// Waits until the length is known, for a client that needs it to delimit the body.
    pub async fn settled(mut self) -> Self {
        let Content::Fill(follower, _) = &mut self.content else {
            return self;
        };
        let over = |progress: &Progress| {
            !matches!(progress.phase, Phase::Waiting | Phase::Streaming { .. })
        };
        if self.size.is_none()
            && let Ok(progress) = follower.progress.wait_for(over).await
            && matches!(progress.phase, Phase::Done { .. })
        {
            self.size = Some(progress.written);
        }
        self
    }

    /// Opens the body, whole or in part. A part needs a known size.
    ///
    /// # Errors
    /// The upstream's refusal of a pass-through, or why it could not be asked.
    pub async fn open(self, span: Option<Span>) -> Result<Reader, MirrorError> {
        let whole = Span {
            first: 0,
            end: self.size.unwrap_or(0),
        };
        let part = span.unwrap_or(whole);
        let end = span.map(|span| span.end).or(self.size);
        Ok(match self.content {
            Content::Stored(StoredBlob::Memory(bytes)) => Reader::memory(bytes, part),
            Content::Stored(StoredBlob::File(blob)) => Reader::blob(blob, part),
            Content::Fill(follower, source) => {
                Reader::fill(follower, source, self.size, part.first, end)
            }
            Content::PassThrough(source, key) => {
                // Only a body that is read from its first to its last byte can be verified.
                let verify = end == self.size;
                let (offset, stop) = if verify { (0, None) } else { (part.first, end) };
                let body = source.body(&key, offset, stop, self.size).await;
                let body = body.map_err(|error| {
                    MirrorError::from_upstream(Arc::new(error), ResourceKind::Blob)
                })?;
                let check = verify.then(|| source.check(&key));
                Reader::pass_through(
                    PassThroughBody::new(body, key, part.first, check, self.size),
                    part.first,
                    end,
                )
            }
        })
    }
}

impl Mirror {
    /// A blob with its bytes: as they arrive, if they are not stored yet.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    pub async fn blob(&self, permit: &Permit, digest: &Digest) -> Result<BlobAnswer, MirrorError> {
        let origin = self.admit(permit, &Resource::Blob(*digest)).await?;
        let state = &self.state;
        let link = state.blob_link(permit, digest).await;
        if link.is_none() && state.missing.contains(&negative_key(permit, digest)) {
            return Err(ResourceKind::Blob.remembered_unknown());
        }
        let link = match link {
            Some(link) => Some(link),
            None => state.peer_blob_link(&origin, permit, digest).await,
        };
        if let Some(blob) = state
            .contents
            .open(digest, link.as_ref().and_then(|link| link.size))
            .await
        {
            let cache = if let Some(link) = &link {
                if !is_fresh(link.checked_at, origin.link_ttl(), SystemTime::now()) {
                    self.recheck_blob(&origin, permit, digest);
                }
                CacheStatus::HIT
            } else {
                // The bytes were fetched through another repository; this one's claim costs a HEAD.
                let (_, collapsed) = self.claim_blob(&origin, permit, digest).await?;
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
        self.fill_blob(&origin, permit, digest, claim).await
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
        let link = match self.state.blob_link(permit, digest).await {
            None if self.state.missing.contains(&negative_key(permit, digest)) => {
                return Err(ResourceKind::Blob.remembered_unknown());
            }
            None => self.state.peer_blob_link(&origin, permit, digest).await,
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

    /// Asks the upstream or the fallback whether the repository has the blob, and links it if so; returns its length,
    /// and whether the request was collapsed into another one.
    pub(super) async fn claim_blob(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> Result<(Option<u64>, bool), MirrorError> {
        let key = (
            permit.registry().clone(),
            permit.repository().clone(),
            *digest,
        );
        let claim = self.state.ask_blob(permit, digest);
        let generation = claim.link.generation();
        let start = || {
            let (state, origin) = (self.state.clone(), origin.clone());
            let (repository, digest) = (permit.repository().clone(), *digest);
            async move {
                let asked = async { origin.upstream()?.blob_head(&repository, &digest).await };
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
                        let size = fallback.blob(origin.registry(), &repository, &digest);
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
    fn recheck_blob(&self, origin: &OriginView, permit: &Permit, digest: &Digest) {
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
    async fn blob_link(&self, permit: &Permit, digest: &Digest) -> Option<Arc<BlobLink>> {
        let (registry, repository) = (permit.registry(), permit.repository());
        self.store
            .records
            .open(&BlobKey::new(registry, repository, digest))
            .await
            .unwrap_or_else(|error| {
                warn_degraded("a link cannot be read", &error);
                None
            })
    }

    /// A peer's link of a blob, while it is fresh.
    async fn peer_blob_link(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> Option<Arc<BlobLink>> {
        let (registry, repository) = (permit.registry(), permit.repository());
        let accepts_peer_record = origin.accepts_peer_record(origin.link_ttl());
        let key = BlobKey::new(registry, repository, digest);
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
        let repository = permit.repository();
        let supplied = self.fallback_blob(origin, repository, digest).await;
        link.size.filter(|_| supplied.is_some())
    }

    /// Begins to ask whether a repository has a blob.
    pub(super) fn ask_blob(&self, permit: &Permit, digest: &Digest) -> BlobClaim {
        let (registry, repository) = (permit.registry(), permit.repository());
        BlobClaim {
            link: self
                .store
                .records
                .ask(&BlobKey::new(registry, repository, digest)),
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

pub(super) fn negative_key(permit: &Permit, digest: &Digest) -> super::negative_cache::NegativeKey {
    (
        permit.registry().clone(),
        permit.repository().clone(),
        Resource::Blob(*digest),
        AcceptClass::Full,
    )
}
