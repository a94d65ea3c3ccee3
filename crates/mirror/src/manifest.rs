//! Manifests: immutable by digest. A GET goes out only when the bytes are not here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::error::ResourceKind;
use super::freshness::{Stale, is_fresh, stale_age, unix_seconds};
use super::{HeadPolicy, Mirror, MirrorError, MirrorState, Origin};
use access::Permit;
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::manifest::{AcceptClass, MAX_MANIFEST, facts};
use oci::name::{Reference, Registry, Repository};
use oci::schema1;
use oci::v2::Resource;
use store::{CommitError, ManifestLink, Mismatch, Question, Reach, warn_degraded};
use telemetry::metrics;
use upstream::{Manifest, UpstreamError};

/// How long a client waits for a manifest that is not here.
pub const UNCACHED_DEADLINE: Duration = Duration::from_millis(9500);

/// A manifest of a repository, with or without its bytes.
pub(super) type ManifestKey = (Registry, Repository, Digest, bool);

/// What to answer a manifest request with.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    pub digest: Digest,
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    /// Present if it was asked for.
    pub bytes: Option<Bytes>,
    pub cache: CacheStatus,
    /// Where the upstream could not be asked whether it is still right.
    pub stale: Option<Stale>,
}

/// What fetching a manifest by digest came to.
#[derive(Clone, Debug)]
pub(super) struct FetchedManifest {
    pub link: Arc<ManifestLink>,
    pub bytes: Option<Bytes>,
}

impl Mirror {
    /// The manifest that `reference` names, with its bytes if `with_bytes`.
    ///
    /// # Errors
    /// What the upstream said, where it had to be asked.
    pub async fn manifest(
        &self,
        permit: &Permit,
        reference: &Reference,
        class: AcceptClass,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let origin = self
            .admit(permit, &Resource::Manifest(reference.clone()))
            .await?;
        match reference {
            Reference::Digest(digest) => {
                self.manifest_by_digest(&origin, permit, digest, with_bytes)
                    .await
            }
            Reference::Tag(tag) => {
                self.manifest_by_tag(&origin, permit, tag, class, with_bytes)
                    .await
            }
        }
    }

    pub(super) async fn manifest_by_digest(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        digest: &Digest,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let state = &self.state;
        let (registry, repository) = (permit.registry(), permit.repository());
        let link = state
            .store
            .records
            .open(&store::ManifestKey::new(registry, repository, digest))
            .await
            .unwrap_or_else(|error| {
                warn_degraded("a link cannot be read", &error);
                None
            });
        let missing = missing_key(
            registry,
            repository,
            &Reference::Digest(*digest),
            AcceptClass::Full,
        );
        let link = match link {
            None if state.missing.contains(&missing) => {
                return Err(ResourceKind::Manifest.remembered_unknown());
            }
            None => state.peer_manifest_link(origin, permit, digest).await,
            link => link,
        };
        let mut known = None;
        if let Some(link) = &link {
            let mut bytes = None;
            if with_bytes {
                bytes = state.local_bytes(&link.stored(digest)).await;
                if bytes.is_none() {
                    bytes = state.fallback_manifest_bytes(origin, digest).await;
                }
            }
            let is_here =
                bytes.is_some() || (!with_bytes && state.has_bytes(origin, digest, link).await);
            if is_here && (with_bytes || origin.heads == HeadPolicy::Cached) {
                if !is_fresh(link.checked_at, origin.link_ttl, SystemTime::now()) {
                    self.recheck_manifest(origin, permit, digest);
                }
                return Ok(manifest_answer(digest, link, bytes, CacheStatus::HIT));
            }
            // A HEAD by its tag would ask as seldom.
            let confirmed = is_fresh(link.checked_at, origin.tag_ttl, SystemTime::now());
            if !with_bytes && origin.heads == HeadPolicy::Cached && confirmed {
                return Ok(manifest_answer(digest, link, None, CacheStatus::HIT));
            }
            known = Some(link).filter(|_| is_here);
        }
        // Bytes that came through another repository only lack this one's claim: a HEAD, which is free. Bytes that
        // come for this one are stored before their link is.
        let is_local = with_bytes
            && link.is_none()
            && state.has_manifest_bytes(digest).await
            && !state.is_fetching(origin, permit, digest);
        let known_at = link.as_ref().map(|link| link.checked_at);
        let claim = |fetch| self.claimed(origin, permit, digest, fetch, known_at);
        let claimed = claim(with_bytes && !is_local);
        let (mut fetched, mut collapsed) = match (claimed.await, known) {
            (Ok(claimed), _) => claimed,
            (Err(error), Some(link)) => {
                let age = stale_age(link.checked_at, origin.max_stale, SystemTime::now());
                let (Some(reason), Some(age)) = (error.stale_reason(), age) else {
                    return Err(error);
                };
                let stale = Stale { age, reason };
                return Ok(ManifestAnswer {
                    stale: Some(stale),
                    ..manifest_answer(digest, link, None, stale.cache_status())
                });
            }
            (Err(error), None) => return Err(error),
        };
        if is_local && fetched.bytes.is_none() {
            fetched.bytes = state.local_bytes(&fetched.link.stored(digest)).await;
        }
        if with_bytes && fetched.bytes.is_none() {
            // It was evicted meanwhile.
            (fetched, collapsed) = claim(true).await?;
        }
        let cache = CacheStatus::forward(Forward::UriMiss)
            .stored()
            .collapsed(collapsed);
        Ok(manifest_answer(digest, &fetched.link, fetched.bytes, cache))
    }

    /// Makes sure that a repository has a manifest, by a GET if `fetch`; says whether somebody else had asked. What is
    /// known is no answer: `known_at` is when it was confirmed.
    async fn claimed(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        digest: &Digest,
        fetch: bool,
        known_at: Option<u64>,
    ) -> Result<(FetchedManifest, bool), MirrorError> {
        let (state, repository) = (&self.state, permit.repository());
        let key = (
            permit.registry().clone(),
            repository.clone(),
            *digest,
            fetch,
        );
        let claim = state.ask_manifest(&key);
        let asked = (key.clone(), origin.caller_key, claim.link.generation());
        let start = || {
            let (state, origin) = (state.clone(), origin.clone());
            state.claim_manifest(origin, key, claim, known_at)
        };
        let fetching = state.manifest_requests.join(asked, start);
        let (fetched, collapsed) = tokio::time::timeout(UNCACHED_DEADLINE, fetching)
            .await
            .map_err(|_| MirrorError::timed_out())?;
        let fetched = match fetched.unwrap_or(Err(MirrorError::Internal)) {
            Err(error @ MirrorError::Unknown { .. }) => {
                let Some(fallback) = state.fallback(origin) else {
                    return Err(error);
                };
                let link = fallback.manifest(&origin.registry, repository, digest);
                let link = link.await.ok_or(error)?;
                let bytes = state.fallback_manifest_bytes(origin, digest).await;
                FetchedManifest { link, bytes }
            }
            fetched => fetched?,
        };
        Ok((fetched, collapsed))
    }

    /// Asks behind an answer whether the repository still has a manifest.
    fn recheck_manifest(&self, origin: &Arc<Origin>, permit: &Permit, digest: &Digest) {
        let (mirror, origin) = (self.clone(), origin.clone());
        let (permit, digest) = (permit.clone(), *digest);
        tokio::spawn(async move {
            let state = &mirror.state;
            let known = state.peer_manifest_link(&origin, &permit, &digest).await;
            if known.is_some() {
                return;
            }
            let (registry, repository) = (permit.registry(), permit.repository());
            let records = &state.store.records;
            let question = records.ask(&store::ManifestKey::new(registry, repository, &digest));
            let claimed = mirror.claimed(&origin, &permit, &digest, false, None);
            if let Err(error) = claimed.await
                && error.revokes_link()
            {
                records.answer_absent(&question).await;
            }
        });
    }
}

/// A question whether a repository has a manifest: what was known is changed by its answer, unless somebody wrote
/// meanwhile.
pub(super) struct ManifestClaim {
    link: Question<ManifestLink>,
    missing: runtime::generation::Question<super::negative_cache::NegativeKey>,
}

impl MirrorState {
    /// Bytes that are here, from memory or disk, or else those in the bucket. A disk that cannot say counts as
    /// absent: slower, not wrong.
    pub(super) async fn local_bytes(&self, digest: &Digest) -> Option<Bytes> {
        let here = self.contents.load_small(digest, MAX_MANIFEST as u64).await;
        let here = here.unwrap_or_else(|error| {
            warn_degraded("a manifest cannot be read", &error);
            None
        });
        match here {
            Some(bytes) => Some(bytes),
            None => self.fetch_from_bucket(digest).await,
        }
    }

    /// Whether the bytes of a linked manifest are here, or are made here.
    async fn has_bytes(&self, origin: &Origin, digest: &Digest, link: &ManifestLink) -> bool {
        let here = self.contents.open(&link.stored(digest), None).await;
        here.is_some() || self.fallback_manifest_bytes(origin, digest).await.is_some()
    }

    /// Whether bytes that may be a manifest are here, or in the bucket. None are read.
    async fn has_manifest_bytes(&self, digest: &Digest) -> bool {
        let most = MAX_MANIFEST as u64;
        match self.contents.open(digest, None).await {
            Some(blob) => blob.size() <= most,
            None => match self.store.bucket() {
                Some(bucket) => bucket
                    .open(digest)
                    .await
                    .is_some_and(|object| object.size <= most),
                None => false,
            },
        }
    }

    /// Whether a GET of a repository's manifest is under way for the same caller.
    fn is_fetching(&self, origin: &Origin, permit: &Permit, digest: &Digest) -> bool {
        let (registry, repository) = (permit.registry().clone(), permit.repository().clone());
        let key = (registry, repository, *digest, true);
        let generation = self.ask_manifest(&key).link.generation();
        self.manifest_requests
            .is_running(&(key, origin.caller_key, generation))
    }

    /// Begins to ask whether a repository has a manifest.
    fn ask_manifest(&self, (registry, repository, digest, _): &ManifestKey) -> ManifestClaim {
        let reference = Reference::Digest(*digest);
        let missing = missing_key(registry, repository, &reference, AcceptClass::Full);
        ManifestClaim {
            link: self
                .store
                .records
                .ask(&store::ManifestKey::new(registry, repository, digest)),
            missing: self.missing.ask(missing),
        }
    }

    /// The link that another node made, while it is fresh.
    async fn peer_manifest_link(
        &self,
        origin: &Origin,
        permit: &Permit,
        digest: &Digest,
    ) -> Option<Arc<ManifestLink>> {
        let (registry, repository) = (permit.registry(), permit.repository());
        let accepts_peer_record = origin.accepts_peer_record(origin.link_ttl);
        let key = store::ManifestKey::new(registry, repository, digest);
        let accepts = |link: &ManifestLink| accepts_peer_record(link.checked_at);
        self.store.records.open_shared(&key, accepts).await
    }

    /// Makes sure that a repository has a manifest: by a GET that brings the bytes, or by a HEAD.
    async fn claim_manifest(
        self: Arc<Self>,
        origin: Arc<Origin>,
        key: ManifestKey,
        claim: ManifestClaim,
        known_at: Option<u64>,
    ) -> Result<FetchedManifest, MirrorError> {
        let (_, repository, digest, fetch) = &key;
        let reference = Reference::Digest(*digest);
        if let Some(fetched) = self.fetched_meanwhile(&origin, &key, known_at).await {
            return Ok(fetched);
        }
        let upstream = match origin.v2() {
            Ok(upstream) => upstream,
            Err(error) => return Err(self.manifest_error(&origin, &claim, error).await),
        };
        if !fetch {
            let asked = upstream.manifest_head(repository, &reference, AcceptClass::Full);
            match asked.await {
                Ok(head) => {
                    if let (Some(media_type), Some(size)) = (head.media_type, head.size) {
                        let checked_at = unix_seconds(SystemTime::now());
                        let link = ManifestLink {
                            media_type,
                            size,
                            checked_at,
                            subject: None,
                            stored: None,
                        };
                        let link = self.confirm_link(&claim.link, &key.0, repository, digest, link);
                        let link = link.await;
                        return Ok(FetchedManifest { link, bytes: None });
                    }
                }
                Err(UpstreamError::Status(http::StatusCode::METHOD_NOT_ALLOWED)) => {}
                Err(error) => return Err(self.manifest_error(&origin, &claim, error).await),
            }
        }
        let asked = upstream.manifest(repository, &reference, AcceptClass::Full);
        match asked.await {
            Ok(manifest) => self.store_manifest(&claim.link, digest, manifest).await,
            Err(error) => Err(self.manifest_error(&origin, &claim, error).await),
        }
    }

    /// What a refusal means for the client; what the upstream does not have is remembered.
    async fn manifest_error(
        &self,
        origin: &Origin,
        claim: &ManifestClaim,
        error: UpstreamError,
    ) -> MirrorError {
        if matches!(error, UpstreamError::NotFound) {
            self.missing.remember(&claim.missing, origin.missing_ttl);
            self.store.records.answer_absent(&claim.link).await;
        }
        MirrorError::from_upstream(Arc::new(error), ResourceKind::Manifest)
    }

    /// What somebody else fetched between this one's look and its turn to ask.
    async fn fetched_meanwhile(
        &self,
        origin: &Origin,
        key: &ManifestKey,
        known_at: Option<u64>,
    ) -> Option<FetchedManifest> {
        let (registry, repository, digest, fetch) = key;
        let records = &self.store.records;
        let link = records
            .open(&store::ManifestKey::new(registry, repository, digest))
            .await
            .ok()??;
        if !is_fresh(link.checked_at, origin.link_ttl, SystemTime::now()) {
            return None;
        }
        if !fetch && known_at.is_some_and(|known_at| link.checked_at <= known_at) {
            return None;
        }
        let bytes = if *fetch {
            Some(self.local_bytes(&link.stored(digest)).await?)
        } else {
            None
        };
        Some(FetchedManifest { link, bytes })
    }

    /// Verifies a manifest, keeps its bytes and links it, if the question still counts. A store that cannot keep it
    /// does not keep it from the client.
    pub(super) async fn store_manifest(
        &self,
        question: &Question<ManifestLink>,
        digest: &Digest,
        manifest: Manifest,
    ) -> Result<FetchedManifest, MirrorError> {
        let bytes = manifest.bytes.clone();
        let link = self.store_manifest_bytes(digest, manifest).await?;
        let records = &self.store.records;
        let link = records.answer(question, link, Reach::Shared).await;
        Ok(FetchedManifest {
            link: link.into_record(),
            bytes: Some(bytes),
        })
    }

    /// Verifies a manifest and keeps its bytes; what the link of who has it says.
    pub(super) async fn store_manifest_bytes(
        &self,
        digest: &Digest,
        manifest: Manifest,
    ) -> Result<ManifestLink, MirrorError> {
        let Manifest { head, bytes } = manifest;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest && schema1::digest_of(digest.algorithm(), &bytes) != *digest {
            let mismatch = Mismatch {
                expected: *digest,
                actual,
            };
            let error = CommitError::Mismatch(Box::new(mismatch));
            metrics::wrong_bytes(metrics::CorruptSource::Upstream);
            return Err(MirrorError::DigestMismatch(Arc::new(error)));
        }
        let (blobs, kept, wanted) = (self.store.blobs.clone(), bytes.clone(), actual);
        match tokio::task::spawn_blocking(move || blobs.keep(&wanted, &kept)).await {
            Ok(Err(error)) => warn_degraded("a manifest cannot be kept", &error),
            Ok(Ok(())) => {
                self.contents.cache_in_memory(actual, &bytes);
                if let Some(bucket) = self.store.bucket() {
                    bucket.write_through(&self.store.blobs, &actual, None);
                }
            }
            Err(_) => {}
        }
        let facts = facts(&bytes);
        Ok(ManifestLink {
            media_type: head
                .media_type
                .or(facts.media_type)
                .unwrap_or_else(|| "application/octet-stream".into()),
            size: bytes.len() as u64,
            checked_at: unix_seconds(SystemTime::now()),
            subject: facts.subject,
            stored: (actual != *digest).then_some(actual),
        })
    }

    /// Notes that the upstream confirmed a claim; what only the bytes told stays.
    pub(super) async fn confirm_link(
        &self,
        question: &Question<ManifestLink>,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        mut link: ManifestLink,
    ) -> Arc<ManifestLink> {
        let records = &self.store.records;
        let known = records
            .open(&store::ManifestKey::new(registry, repository, digest))
            .await;
        if let Some(known) = known.ok().flatten() {
            (link.subject, link.stored) = (known.subject, known.stored);
        }
        let link = records.answer(question, link, Reach::Shared).await;
        link.into_record()
    }
}

fn manifest_answer(
    digest: &Digest,
    link: &ManifestLink,
    bytes: Option<Bytes>,
    cache: CacheStatus,
) -> ManifestAnswer {
    let size = bytes.as_ref().map_or(link.size, |bytes| bytes.len() as u64);
    ManifestAnswer {
        digest: *digest,
        media_type: link.media_type.clone(),
        size,
        bytes,
        cache,
        stale: None,
    }
}

pub(super) fn missing_key(
    registry: &Registry,
    repository: &Repository,
    reference: &Reference,
    class: AcceptClass,
) -> super::negative_cache::NegativeKey {
    (
        registry.clone(),
        repository.clone(),
        Resource::Manifest(reference.clone()),
        class,
    )
}
