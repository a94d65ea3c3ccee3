//! Manifests by tag: a tag is a pointer at a manifest, fresh for a while.
//!
//! A stale tag costs one HEAD. The upstream is sent a GET by tag only where a HEAD does not tell enough, or where the
//! manifest exists under its tag alone, because upstreams count GETs. The fewer of these are left, the longer tags are fresh.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::error::ResourceKind;
use super::freshness::{
    CheckedAnswer, Freshness, KnownAnswer, Stale, fresh_for, revalidate, stale_age,
};
use super::gate::Cleared;
use super::manifest::{ManifestAnswer, ReadMethod, negative_key};
use super::origin::OriginView;
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use oci::cache_status::CacheStatus;
use oci::digest::Digest;
use oci::manifest::{AcceptClass, default_image, is_index, is_signed_schema1};
use oci::name::{Reference, Tag};
use store::{ManifestKey, Pointer, TagKey, warn_degraded};

/// A request for the manifest that a tag points at.
#[derive(Clone, Copy)]
pub(super) struct TagRequest<'a> {
    pub origin: &'a OriginView,
    pub permit: &'a Permit,
    pub tag: &'a Tag,
    pub class: AcceptClass,
    pub method: ReadMethod,
}

/// A tag's pointer, and how it was resolved.
#[derive(Clone, Debug)]
pub(super) struct ResolvedTag {
    pub pointer: Arc<Pointer>,
    /// The bytes, if the tag had to be fetched to learn its digest.
    pub bytes: Option<Bytes>,
    pub from_peer: bool,
}

impl ResolvedTag {
    /// A pointer from the cache.
    fn cached(pointer: Arc<Pointer>) -> Self {
        Self {
            pointer,
            bytes: None,
            from_peer: false,
        }
    }
}

/// A tag's target, before the gate has seen it.
#[derive(Debug)]
pub(super) struct TagTarget {
    digest: Digest,
    media_type: String,
    /// In bytes, if known.
    size: Option<u64>,
    /// The bytes, if the tag had to be fetched to learn its digest.
    bytes: Option<Bytes>,
    cache: CacheStatus,
    stale: Option<Stale>,
    /// The target on record before it was resolved.
    served_before: Option<Digest>,
}

impl TagTarget {
    /// Of a manifest that a caller's own request by tag fetched.
    pub fn fetched(answer: ManifestAnswer) -> Self {
        Self {
            digest: answer.digest,
            media_type: answer.media_type,
            size: Some(answer.size),
            bytes: answer.bytes,
            cache: answer.cache,
            stale: answer.stale,
            served_before: None,
        }
    }

    /// Of a caller's own HEAD by tag.
    pub fn resolved(digest: Digest, media_type: String, size: u64, cache: CacheStatus) -> Self {
        Self {
            digest,
            media_type,
            size: Some(size),
            bytes: None,
            cache,
            stale: None,
            served_before: None,
        }
    }

    fn checked(checked: CheckedAnswer<ResolvedTag>, served_before: Option<Digest>) -> Self {
        let (cache, stale) = (checked.cache_status(), checked.freshness.stale());
        let ResolvedTag { pointer, bytes, .. } = checked.answer;
        Self {
            digest: pointer.digest,
            media_type: pointer.media_type.clone(),
            size: pointer.size,
            bytes,
            cache,
            stale,
            served_before,
        }
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn cache(&self) -> CacheStatus {
        self.cache
    }

    pub fn stale(&self) -> Option<Stale> {
        self.stale
    }

    /// The target on record before it was resolved.
    pub fn served_before(&self) -> Option<Digest> {
        self.served_before
    }
}

impl Mirror {
    pub(super) async fn manifest_by_tag(
        &self,
        request: TagRequest<'_>,
    ) -> Result<ManifestAnswer, MirrorError> {
        let class = request.class.request_class();
        let answer = self.read_tag(TagRequest { class, ..request }).await?;
        if request.class == AcceptClass::NoList && is_index(&answer.media_type) {
            return self.default_image_of(request, answer).await;
        }
        Ok(answer)
    }

    /// The manifest or index that a tag points at.
    async fn read_tag(&self, request: TagRequest<'_>) -> Result<ManifestAnswer, MirrorError> {
        let origin = request.origin;
        if origin.gate().is_some()
            && let Some(pinned) = Box::pin(self.pinned_manifest(request)).await?
        {
            return Ok(pinned);
        }
        if let Some(caller_key) = origin.caller_key() {
            return Box::pin(self.manifest_for_caller(caller_key, request)).await;
        }
        let (target, is_hit) = self.resolve_tag(request).await?;
        match self.read_gated(request, target).await {
            // The tag is fresh and its manifest is gone: it may have moved since.
            Err(MirrorError::Unknown { .. }) if is_hit => {}
            answer => return answer,
        }
        let state = &self.state;
        let key = TagKey::new(request.permit.name(), request.class, request.tag);
        let known = state.known_pointer(&key).await;
        let served_before = known.as_ref().map(|known| known.digest);
        let checked = Box::pin(
            state
                .clone()
                .revalidate_tag(origin, request.permit, key, known),
        );
        let target = TagTarget::checked(checked.await?, served_before);
        Box::pin(self.read_gated(request, target)).await
    }

    /// A tag's target, before the gate has seen it.
    pub(super) async fn target_of(
        &self,
        request: TagRequest<'_>,
    ) -> Result<TagTarget, MirrorError> {
        match request.origin.caller_key() {
            Some(_) => Box::pin(self.target_for_caller(request)).await,
            None => self.resolve_tag(request).await.map(|(target, _)| target),
        }
    }

    /// The target of a tag, and whether the upstream was not asked for it.
    async fn resolve_tag(&self, request: TagRequest<'_>) -> Result<(TagTarget, bool), MirrorError> {
        let (origin, state) = (request.origin, &self.state);
        let key = TagKey::new(request.permit.name(), request.class, request.tag);
        let known = state.known_pointer(&key).await;
        let served_before = known.as_ref().map(|known| known.digest);
        let left = known
            .as_ref()
            .and_then(|known| fresh_for(known.checked_at, origin.tag_ttl(), SystemTime::now()));
        let checked = match (known, left) {
            (Some(pointer), Some(left)) if state.is_available_by_digest(&key, &pointer).await => {
                CheckedAnswer {
                    answer: ResolvedTag::cached(pointer),
                    freshness: Freshness::Fresh { left },
                    collapsed: false,
                }
            }
            (known, _) => Box::pin(self.resolve_or_prepare(request, &key, known)).await?,
        };
        // A peer's record is not the upstream's answer either.
        let is_hit = matches!(
            checked.freshness,
            Freshness::Fresh { .. } | Freshness::Stretched { .. } | Freshness::FromPeer
        );
        Ok((TagTarget::checked(checked, served_before), is_hit))
    }

    /// The manifest of a tag's target, if the gate of the registry lets it through.
    pub(super) async fn read_gated(
        &self,
        request: TagRequest<'_>,
        target: TagTarget,
    ) -> Result<ManifestAnswer, MirrorError> {
        let digest = target.digest;
        match Cleared::without_gate(request.origin, &digest) {
            Ok(cleared) => self.read_target(request, target, cleared).await,
            Err(gate) => Box::pin(self.gated_target(gate, request, target)).await,
        }
    }

    /// Revalidates a tag, unless few pulls are left; if the fallback must prepare its image, waits for that and resolves
    /// again, since the upstream takes precedence.
    async fn resolve_or_prepare(
        &self,
        request: TagRequest<'_>,
        key: &TagKey,
        known: Option<Arc<Pointer>>,
    ) -> Result<CheckedAnswer<ResolvedTag>, MirrorError> {
        let (state, origin) = (&self.state, request.origin);
        let began = Instant::now();
        if let Some(pointer) = &known
            && let Some(left) = state.stretched_for(origin, key, pointer, began).await
        {
            return Ok(CheckedAnswer {
                answer: ResolvedTag::cached(pointer.clone()),
                freshness: Freshness::Stretched { left },
                collapsed: false,
            });
        }
        let resolve = || {
            let (key, known) = (key.clone(), known.clone());
            state
                .clone()
                .revalidate_tag(origin, request.permit, key, known)
        };
        match resolve().await {
            Err(MirrorError::Preparing(preparation)) => {
                let fallback = state.fallback(origin).cloned();
                let fallback = fallback.ok_or(MirrorError::NotServed)?;
                let name = request.permit.name();
                fallback.prepare(name, &preparation, began).await?;
                resolve().await
            }
            resolved => resolved,
        }
    }

    /// The manifest of a tag's target, once the gate has cleared that.
    pub(super) async fn read_target(
        &self,
        request: TagRequest<'_>,
        target: TagTarget,
        cleared: Cleared<'_>,
    ) -> Result<ManifestAnswer, MirrorError> {
        let mut answer = ManifestAnswer {
            digest: target.digest,
            media_type: target.media_type,
            size: target.size.unwrap_or(0),
            bytes: target.bytes,
            cache: target.cache,
            stale: target.stale,
            warning: None,
        };
        if answer.bytes.is_none() && (request.method == ReadMethod::Get || target.size.is_none()) {
            let (origin, permit) = (request.origin, request.permit);
            let by_digest = self
                .manifest_by_digest(origin, permit, cleared, ReadMethod::Get)
                .await?;
            answer.size = by_digest.size;
            answer.bytes = by_digest.bytes;
            answer.cache = answer.cache.or(by_digest.cache);
        }
        Ok(answer)
    }

    /// The linux/amd64 image of a list or index, for a client that can read neither; the list itself if it has none.
    async fn default_image_of(
        &self,
        request: TagRequest<'_>,
        index: ManifestAnswer,
    ) -> Result<ManifestAnswer, MirrorError> {
        let (origin, permit) = (request.origin, request.permit);
        let bytes = if let Some(bytes) = &index.bytes {
            Some(bytes.clone())
        } else {
            let cleared = Cleared::answered(&index);
            let whole = self.manifest_by_digest(origin, permit, cleared, ReadMethod::Get);
            whole.await?.bytes
        };
        let Some(image) = bytes.and_then(|bytes| default_image(&bytes)) else {
            return Ok(index);
        };
        let cleared = self.clear_manifest(origin, permit, &image).await?;
        let mut answer = self
            .manifest_by_digest(origin, permit, cleared, request.method)
            .await?;
        answer.cache = index.cache.or(answer.cache);
        (answer.stale, answer.warning) = (index.stale, index.warning);
        Ok(answer)
    }
}

impl MirrorState {
    /// A tag's pointer on disk. An unreadable disk counts as a miss.
    pub(super) async fn known_pointer(&self, key: &TagKey) -> Option<Arc<Pointer>> {
        let opened = self.store.records.open(key).await;
        opened.unwrap_or_else(|error| {
            warn_degraded("a tag cannot be read", &error);
            None
        })
    }

    /// How long a stored tag stays fresh for lack of pulls.
    async fn stretched_for(
        &self,
        origin: &OriginView,
        key: &TagKey,
        pointer: &Pointer,
        now: Instant,
    ) -> Option<Duration> {
        let ttl = origin.tag_ttl_at(now);
        let left = fresh_for(pointer.checked_at, ttl, SystemTime::now())?;
        let stored = self.is_manifest_stored(&key.name, &pointer.digest).await;
        stored.then_some(left)
    }

    /// Asks where a tag points now. If the upstream is unavailable or slow, or may not be asked for what the tag has moved
    /// to, the `known` pointer is the answer, with its age, and the request continues behind it.
    async fn revalidate_tag(
        self: Arc<Self>,
        origin: &OriginView,
        permit: &Permit,
        key: TagKey,
        known: Option<Arc<Pointer>>,
    ) -> Result<CheckedAnswer<ResolvedTag>, MirrorError> {
        let missing = negative_key(&key.name, &Reference::Tag(key.tag.clone()), key.class);
        if self.missing.contains(&missing) {
            return Err(ResourceKind::Manifest.remembered_unknown());
        }
        let usable = known.clone().and_then(|pointer| {
            let age = stale_age(pointer.checked_at, origin.max_stale(), SystemTime::now())?;
            let answer = ResolvedTag::cached(pointer);
            Some(KnownAnswer { answer, age })
        });
        let mut current = None;
        if let Some(KnownAnswer { answer, age }) = &usable
            && self
                .is_manifest_stored(&key.name, &answer.pointer.digest)
                .await
        {
            let moved = (key.clone(), answer.pointer.digest);
            if let Some(reason) = self.deferred_moves.reason(&moved, Instant::now()) {
                return Ok(CheckedAnswer {
                    answer: answer.clone(),
                    freshness: Freshness::Stale(Stale { age: *age, reason }),
                    collapsed: false,
                });
            }
            current = Some(answer.pointer.clone());
        }
        let resolution = self.begin_resolution(origin, permit, key, current);
        let start = || self.clone().resolve(resolution.clone());
        let ask = async {
            let (resolved, collapsed) = self.tag_requests.join(resolution.key(), start).await;
            (resolved.unwrap_or(Err(MirrorError::Internal)), collapsed)
        };
        let compare = |resolved: &ResolvedTag| match known {
            _ if resolved.from_peer => Freshness::FromPeer,
            Some(known) if known.digest == resolved.pointer.digest => Freshness::Revalidated,
            Some(_) => Freshness::Moved,
            None => Freshness::Fetched,
        };
        revalidate(usable, origin.wait_limits(), ask, compare).await
    }

    /// Whether a pointer's manifest can be read by its digest. One that the upstream generates for schema 1 clients
    /// exists there by tag only, so it has to be stored.
    pub(super) async fn is_available_by_digest(&self, key: &TagKey, pointer: &Pointer) -> bool {
        if !is_signed_schema1(&pointer.media_type) {
            return true;
        }
        let manifest = ManifestKey::new(&key.name, &pointer.digest);
        let link = self.store.records.open(&manifest).await;
        match link {
            Ok(Some(link)) => self
                .local_bytes(&link.stored(&pointer.digest))
                .await
                .is_some(),
            _ => false,
        }
    }
}
