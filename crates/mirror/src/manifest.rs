//! Manifests by digest, which are immutable. The upstream is sent a GET only for bytes that are not stored.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::error::ResourceKind;
use super::freshness::{
    CheckedAnswer, Freshness, KnownAnswer, Stale, WaitLimits, is_fresh, revalidate, stale_age,
};
use super::gate::Cleared;
use super::origin::{HeadPolicy, OriginView};
use super::tag::TagRequest;
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use oci::cache_status::CacheStatus;
use oci::digest::Digest;
use oci::manifest::{AcceptClass, MAX_MANIFEST};
use oci::name::{Reference, RepositoryName};
use oci::v2::Resource;
use store::{ManifestKey, ManifestLink, warn_degraded};

/// How long a client waits for a manifest that is not stored.
pub const UNCACHED_DEADLINE: Duration = Duration::from_millis(9500);

/// How a manifest is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadMethod {
    /// With its bytes.
    Get,
    /// Without its bytes.
    Head,
}

/// The answer to a manifest request.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    /// The digest of its bytes, or of the payload of a signed schema 1 manifest.
    pub digest: Digest,
    /// As the upstream sent it in `Content-Type`.
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    /// Present after a GET.
    pub bytes: Option<Bytes>,
    /// How the cache handled the request (RFC 9211).
    pub cache: CacheStatus,
    /// Present if the upstream could not revalidate the answer.
    pub stale: Option<Stale>,
    /// Why it is not the tag's target, for the client.
    pub warning: Option<Arc<str>>,
}

/// A manifest's link, and its bytes if they were fetched with it.
#[derive(Clone, Debug)]
pub(super) struct FetchedManifest {
    pub link: Arc<ManifestLink>,
    pub bytes: Option<Bytes>,
}

impl Mirror {
    /// The manifest that `reference` names.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    pub async fn manifest(
        &self,
        permit: &Permit,
        reference: &Reference,
        class: AcceptClass,
        method: ReadMethod,
    ) -> Result<ManifestAnswer, MirrorError> {
        let origin = self
            .admit(permit, &Resource::Manifest(reference.clone()))
            .await?;
        match reference {
            Reference::Digest(digest) => {
                let cleared = self.clear_manifest(&origin, permit, digest).await?;
                let read = self.manifest_by_digest(&origin, permit, cleared, method);
                let mut answer = read.await?;
                answer.cache = cleared.cache_status(answer.cache);
                Ok(answer)
            }
            Reference::Tag(tag) => {
                let request = TagRequest {
                    origin: &origin,
                    permit,
                    tag,
                    class,
                    method,
                };
                self.manifest_by_tag(request).await
            }
        }
    }

    /// The manifest of a digest.
    pub(super) async fn manifest_by_digest(
        &self,
        origin: &OriginView,
        permit: &Permit,
        cleared: Cleared<'_>,
        method: ReadMethod,
    ) -> Result<ManifestAnswer, MirrorError> {
        let digest = cleared.digest();
        let link = self.state.manifest_link(origin, permit, digest).await?;
        let known = match &link {
            Some(link) => match self
                .answer_from_store(origin, permit, digest, link, method)
                .await
            {
                StoredAnswer::Hit(answer) => return Ok(answer),
                StoredAnswer::Known(known) => known,
            },
            None => None,
        };
        Box::pin(self.claimed_manifest(origin, permit, digest, method, link, known)).await
    }

    /// A manifest that is not stored, or whose answer must be revalidated.
    async fn claimed_manifest(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
        method: ReadMethod,
        link: Option<Arc<ManifestLink>>,
        known: Option<KnownAnswer<FetchedManifest>>,
    ) -> Result<ManifestAnswer, MirrorError> {
        // Bytes that came through another repository only lack this one's claim: a HEAD, which is free. Bytes that
        // are being fetched for this one are stored before their link is.
        let claim_only = method == ReadMethod::Get
            && link.is_none()
            && self.state.has_manifest_bytes(digest).await
            && !self.state.is_fetching(origin, permit, digest);
        let claim_method = if claim_only { ReadMethod::Head } else { method };
        let known_at = link.as_ref().map(|link| link.checked_at);
        // The claim has a deadline of its own.
        let claim = |method| {
            let ask = self.claim_manifest(origin, permit, digest, method, known_at);
            revalidate(known.clone(), WaitLimits::UNLIMITED, ask, |_| {
                Freshness::Fetched
            })
        };
        let mut checked = claim(claim_method).await?;
        if claim_only && checked.answer.bytes.is_none() {
            checked.answer.bytes = self
                .state
                .local_bytes(&checked.answer.link.stored(digest))
                .await;
        }
        if method == ReadMethod::Get && checked.answer.bytes.is_none() {
            // It was evicted meanwhile.
            checked = claim(ReadMethod::Get).await?;
        }
        let (cache, stale) = (checked.cache_status(), checked.freshness.stale());
        let CheckedAnswer { answer, .. } = checked;
        Ok(ManifestAnswer {
            stale,
            ..manifest_answer(digest, &answer.link, answer.bytes, cache)
        })
    }

    /// The answer to a request for a linked manifest, as far as the store can give it.
    async fn answer_from_store(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
        link: &Arc<ManifestLink>,
        method: ReadMethod,
    ) -> StoredAnswer {
        let stored = self.state.stored_manifest(origin, digest, link, method);
        match stored.await {
            StoredManifest::Present(bytes)
                if method == ReadMethod::Get || origin.heads() == HeadPolicy::Cached =>
            {
                if !is_fresh(link.checked_at, origin.link_ttl(), SystemTime::now()) {
                    self.recheck_manifest(origin, permit, digest);
                }
                StoredAnswer::Hit(manifest_answer(digest, link, bytes, CacheStatus::HIT))
            }
            // A HEAD by its tag would ask as seldom.
            _ if method == ReadMethod::Head
                && origin.heads() == HeadPolicy::Cached
                && is_fresh(link.checked_at, origin.tag_ttl(), SystemTime::now()) =>
            {
                StoredAnswer::Hit(manifest_answer(digest, link, None, CacheStatus::HIT))
            }
            StoredManifest::Present(_) => {
                let age = stale_age(link.checked_at, origin.max_stale(), SystemTime::now());
                let (link, bytes) = (link.clone(), None);
                let answer = FetchedManifest { link, bytes };
                StoredAnswer::Known(age.map(|age| KnownAnswer { answer, age }))
            }
            StoredManifest::Absent => StoredAnswer::Known(None),
        }
    }

    /// Revalidates a manifest's link behind an answer.
    fn recheck_manifest(&self, origin: &OriginView, permit: &Permit, digest: &Digest) {
        let (mirror, origin) = (self.clone(), origin.clone());
        let (permit, digest) = (permit.clone(), *digest);
        tokio::spawn(async move {
            let state = &mirror.state;
            let known = state.peer_manifest_link(&origin, &permit, &digest).await;
            if known.is_some() {
                return;
            }
            let records = &state.store.records;
            let question = records.ask(&ManifestKey::new(permit.name(), &digest));
            let method = ReadMethod::Head;
            let claimed = mirror.claim_manifest(&origin, &permit, &digest, method, None);
            if let (Err(error), _) = claimed.await
                && error.revokes_link()
            {
                records.answer_absent(&question).await;
            }
        });
    }
}

/// What the store says to a request for a linked manifest.
enum StoredAnswer {
    /// The answer, without asking the upstream.
    Hit(ManifestAnswer),
    /// The upstream is asked first; this answer serves if it cannot be reached.
    Known(Option<KnownAnswer<FetchedManifest>>),
}

/// Whether the bytes of a linked manifest are stored, and the bytes if the request needs them.
enum StoredManifest {
    Present(Option<Bytes>),
    Absent,
}

impl MirrorState {
    /// A manifest's link, from disk or from a peer.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] if the upstream's 404 is remembered.
    async fn manifest_link(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> Result<Option<Arc<ManifestLink>>, MirrorError> {
        let records = &self.store.records;
        let key = ManifestKey::new(permit.name(), digest);
        let link = records.open(&key).await.unwrap_or_else(|error| {
            warn_degraded("a link cannot be read", &error);
            None
        });
        if link.is_some() {
            return Ok(link);
        }
        let reference = Reference::Digest(*digest);
        let missing = negative_key(permit.name(), &reference, AcceptClass::Full);
        if self.missing.contains(&missing) {
            return Err(ResourceKind::Manifest.remembered_unknown());
        }
        Ok(Box::pin(self.peer_manifest_link(origin, permit, digest)).await)
    }

    /// Looks for the bytes of a linked manifest, and reads them for a GET.
    async fn stored_manifest(
        &self,
        origin: &OriginView,
        digest: &Digest,
        link: &ManifestLink,
        method: ReadMethod,
    ) -> StoredManifest {
        let stored = link.stored(digest);
        let is_open =
            method == ReadMethod::Head && self.contents.open(&stored, None).await.is_some();
        if is_open {
            return StoredManifest::Present(None);
        }
        let mut bytes = None;
        if method == ReadMethod::Get {
            bytes = self.local_bytes(&stored).await;
        }
        if bytes.is_none() {
            bytes = Box::pin(self.fallback_manifest_bytes(origin, digest)).await;
        }
        match (bytes, method) {
            (Some(bytes), ReadMethod::Get) => StoredManifest::Present(Some(bytes)),
            (Some(_), ReadMethod::Head) => StoredManifest::Present(None),
            (None, _) => StoredManifest::Absent,
        }
    }

    /// A manifest's bytes from memory, disk or the bucket. An unreadable disk counts as a miss: slower, not wrong.
    pub(super) async fn local_bytes(&self, digest: &Digest) -> Option<Bytes> {
        let loaded = self.contents.load_small(digest, MAX_MANIFEST as u64).await;
        let loaded = loaded.unwrap_or_else(|error| {
            warn_degraded("a manifest cannot be read", &error);
            None
        });
        match loaded {
            Some(bytes) => Some(bytes),
            None => Box::pin(self.fetch_from_bucket(digest)).await,
        }
    }

    /// Whether the store or the bucket has bytes that may be a manifest. Reads none.
    pub(super) async fn has_manifest_bytes(&self, digest: &Digest) -> bool {
        let max = MAX_MANIFEST as u64;
        match self.contents.open(digest, None).await {
            Some(blob) => blob.size() <= max,
            None => match self.store.bucket() {
                Some(bucket) => bucket
                    .open(digest)
                    .await
                    .is_some_and(|object| object.size <= max),
                None => false,
            },
        }
    }

    /// A peer's link of a manifest, while it is fresh.
    async fn peer_manifest_link(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> Option<Arc<ManifestLink>> {
        let accepts_peer_record = origin.accepts_peer_record(origin.link_ttl());
        let key = ManifestKey::new(permit.name(), digest);
        let accepts = |link: &ManifestLink| accepts_peer_record(link.checked_at);
        self.store.records.open_shared(&key, accepts).await
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
        warning: None,
    }
}

pub(super) fn negative_key(
    name: &RepositoryName,
    reference: &Reference,
    class: AcceptClass,
) -> super::negative_cache::NegativeKey {
    (name.clone(), Resource::Manifest(reference.clone()), class)
}
