//! Resolving a tag: the upstream's answer, or the fallback's, is stored as the tag's pointer.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::error::ResourceKind;
use super::freshness::unix_seconds;
use super::manifest::{FetchedManifest, negative_key};
use super::manifest_claim::confirmed_link;
use super::negative_cache::NegativeKey;
use super::origin::OriginView;
use super::tag::ResolvedTag;
use super::{MirrorError, MirrorState};
use access::Permit;
use oci::digest::{Algorithm, Digest};
use oci::name::Reference;
use oci::schema1;
use store::{ManifestKey, ManifestLink, Outcome, Pointer, Question, Reach, TagKey};
use upstream::{Manifest, ManifestHead, UpstreamError};

/// Identifies the requests that share one resolution.
pub(super) type TagRequestKey = (TagKey, u64, bool);

/// The question what a tag points at. Its answer is dropped if a write ends first.
#[derive(Clone, Debug)]
struct TagQuestion {
    pointer: Question<Pointer>,
    missing: runtime::generation::Question<NegativeKey>,
}

/// A tag that is being resolved. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Resolution {
    pub origin: OriginView,
    pub permit: Permit,
    pub key: TagKey,
    question: TagQuestion,
    /// What the tag is answered with while what it has moved to is not fetched; its manifest is stored.
    current: Option<Arc<Pointer>>,
}

impl Resolution {
    /// Identifies it; those with something to replace fail where others go on.
    pub fn key(&self) -> TagRequestKey {
        let generation = self.question.pointer.generation();
        (self.key.clone(), generation, self.current.is_some())
    }

    /// What the manifest `digest` would replace.
    pub fn replaced_by(&self, digest: &Digest) -> Option<&Pointer> {
        let current = self.current.as_deref();
        current.filter(|current| current.digest != *digest)
    }
}

impl MirrorState {
    /// Begins to ask what a tag points at.
    pub(super) fn begin_resolution(
        &self,
        origin: &OriginView,
        permit: &Permit,
        key: TagKey,
        current: Option<Arc<Pointer>>,
    ) -> Resolution {
        let missing = negative_key(&key.name, &Reference::Tag(key.tag.clone()), key.class);
        let question = TagQuestion {
            pointer: self.store.records.ask(&key),
            missing: self.missing.ask(missing),
        };
        Resolution {
            origin: origin.clone(),
            permit: permit.clone(),
            key,
            question,
            current,
        }
    }

    /// Resolves a tag by a peer's record, the upstream or the fallback, and stores the pointer.
    pub(super) async fn resolve(
        self: Arc<Self>,
        resolution: Resolution,
    ) -> Result<ResolvedTag, MirrorError> {
        if let Some(pointer) = self.peer_pointer(&resolution).await {
            return Ok(ResolvedTag {
                pointer,
                bytes: None,
                from_peer: true,
            });
        }
        let (origin, key) = (&resolution.origin, &resolution.key);
        let resolved = match self.head_tag(origin, key).await {
            Ok(Some(pointer)) => self.follow(&resolution, pointer).await,
            Ok(None) => self.follow_by_get(&resolution).await,
            Err(error) => return self.resolve_without_upstream(&resolution, error).await,
        };
        if let (Err(error), Some(current)) = (&resolved, &resolution.current)
            && let Some(reason) = error.stale_reason()
        {
            let tag = (key.clone(), current.digest);
            let now = Instant::now();
            self.deferred_moves
                .defer(tag, reason, origin.tag_ttl(), now);
        }
        resolved
    }

    /// A peer's newer pointer of a tag, while it is fresh, if what it has moved to is at hand.
    async fn peer_pointer(self: &Arc<Self>, resolution: &Resolution) -> Option<Arc<Pointer>> {
        let Resolution { origin, key, .. } = resolution;
        if origin.tag_ttl().is_zero() {
            return None;
        }
        let known_at = self.known_pointer(key).await.map(|known| known.checked_at);
        let accepts_peer_record = origin.accepts_peer_record(origin.tag_ttl_at(Instant::now()));
        let accepts = |pointer: &Pointer| {
            let at = pointer.checked_at;
            known_at.is_none_or(|known_at| at > known_at) && accepts_peer_record(at)
        };
        let records = &self.store.records;
        let pointer = records.find_shared(key, accepts).await?;
        if !self.is_available_by_digest(key, &pointer).await {
            return None;
        }
        self.fetch_moved(resolution, &pointer).await.ok()?;
        let question = &resolution.question.pointer;
        match records.answer(question, pointer, Reach::Local).await {
            Outcome::Current(pointer) => Some(pointer),
            // The tag was written meanwhile.
            Outcome::Outdated(_) => None,
        }
    }

    /// Asks by a HEAD where a tag points. `None` if that does not name the digest or the type, or if only the tag leads to
    /// the manifest.
    async fn head_tag(
        &self,
        origin: &OriginView,
        key: &TagKey,
    ) -> Result<Option<Pointer>, UpstreamError> {
        let (repository, class) = (&key.name.repository, key.class);
        let reference = Reference::Tag(key.tag.clone());
        let upstream = origin.upstream()?;
        let head = match upstream.manifest_head(repository, &reference, class).await {
            Ok(head) => head,
            // Some registries do not support HEAD.
            Err(UpstreamError::Status(http::StatusCode::METHOD_NOT_ALLOWED)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(pointer) = pointer_from_head(head) else {
            return Ok(None);
        };
        let is_available = self.is_available_by_digest(key, &pointer).await;
        Ok(is_available.then_some(pointer))
    }

    /// Stores the pointer that a HEAD named, once what it has moved to is fetched.
    async fn follow(
        self: &Arc<Self>,
        resolution: &Resolution,
        pointer: Pointer,
    ) -> Result<ResolvedTag, MirrorError> {
        if let Some(size) = pointer.size
            && let Some(link_question) = self.ask_link(resolution, &pointer.digest)
        {
            let manifest = ManifestKey::new(&resolution.key.name, &pointer.digest);
            let link = confirmed_link(pointer.media_type.clone(), size);
            self.confirm_link(&link_question, &manifest, link).await;
        }
        self.fetch_moved(resolution, &pointer).await?;
        let records = &self.store.records;
        let pointer = records.answer(&resolution.question.pointer, pointer, Reach::Shared);
        Ok(ResolvedTag {
            pointer: pointer.await.into_record(),
            bytes: None,
            from_peer: false,
        })
    }

    /// Fetches a manifest by its tag, where a HEAD does not tell enough, and stores it.
    async fn follow_by_get(
        self: &Arc<Self>,
        resolution: &Resolution,
    ) -> Result<ResolvedTag, MirrorError> {
        let (origin, key) = (&resolution.origin, &resolution.key);
        if resolution.current.is_some() && !origin.allows_replacing(Instant::now()) {
            return Err(MirrorError::Reserved);
        }
        let asked_at = unix_seconds(SystemTime::now());
        match fetch_tag(origin, key).await {
            Ok(manifest) => self.store_fetched_tag(resolution, manifest, asked_at).await,
            Err(error) => self.resolve_without_upstream(resolution, error).await,
        }
    }

    /// Stores a manifest that was fetched by its tag, and the tag's pointer.
    async fn store_fetched_tag(
        self: &Arc<Self>,
        resolution: &Resolution,
        manifest: Manifest,
        checked_at: u64,
    ) -> Result<ResolvedTag, MirrorError> {
        let digest = manifest.head.digest;
        let digest =
            digest.unwrap_or_else(|| schema1::digest_of(Algorithm::Sha256, &manifest.bytes));
        let link_question = self.ask_link(resolution, &digest);
        let FetchedManifest { link, bytes } = if let Some(question) = link_question {
            self.store_manifest(&question, &digest, manifest).await?
        } else {
            let bytes = Some(manifest.bytes.clone());
            let link = self.store_manifest_bytes(&digest, manifest).await?;
            let link = Arc::new(link);
            FetchedManifest { link, bytes }
        };
        if let (Some(current), Some(bytes)) = (resolution.replaced_by(&digest), &bytes) {
            self.fetch_parts(resolution, current, &digest, bytes)
                .await?;
        }
        let pointer = Pointer {
            digest,
            media_type: link.media_type.clone(),
            size: Some(link.size),
            checked_at,
        };
        let records = &self.store.records;
        let pointer = records.answer(&resolution.question.pointer, pointer, Reach::Shared);
        Ok(ResolvedTag {
            pointer: pointer.await.into_record(),
            bytes,
            from_peer: false,
        })
    }

    /// Begins to ask for the link of a manifest that a tag points at; `None` if the tag was written meanwhile. A
    /// deletion of a manifest ends the generation of its tags first, then that of its link.
    fn ask_link(&self, resolution: &Resolution, digest: &Digest) -> Option<Question<ManifestLink>> {
        let link = ManifestKey::new(&resolution.key.name, digest);
        let link = self.store.records.ask(&link);
        resolution.question.pointer.is_current().then_some(link)
    }

    /// Resolves a tag after the upstream's `error`: by the fallback, if the upstream does not have it.
    async fn resolve_without_upstream(
        &self,
        resolution: &Resolution,
        error: UpstreamError,
    ) -> Result<ResolvedTag, MirrorError> {
        let Resolution {
            origin,
            key,
            question,
            ..
        } = resolution;
        let records = &self.store.records;
        if matches!(error, UpstreamError::NotFound) {
            if let Some(pointer) = self.fallback_tag(origin, key).await? {
                // Peers prepare it themselves: their upstream does not have the bytes.
                let pointer = records.answer(&question.pointer, pointer, Reach::Local);
                return Ok(ResolvedTag {
                    pointer: pointer.await.into_record(),
                    bytes: None,
                    from_peer: false,
                });
            }
            records.answer_absent(&question.pointer).await;
            let missing_ttl = origin.missing_ttl();
            self.missing.remember(&question.missing, missing_ttl);
        }
        let error = MirrorError::from_upstream(Arc::new(error), ResourceKind::Manifest);
        Err(error)
    }
}

async fn fetch_tag(origin: &OriginView, key: &TagKey) -> Result<Manifest, UpstreamError> {
    let reference = Reference::Tag(key.tag.clone());
    let upstream = origin.upstream()?;
    let repository = &key.name.repository;
    upstream.manifest(repository, &reference, key.class).await
}

/// The pointer that a HEAD names, if it names the digest and the type.
fn pointer_from_head(head: ManifestHead) -> Option<Pointer> {
    Some(Pointer {
        digest: head.digest?,
        media_type: head.media_type?,
        size: head.size,
        checked_at: unix_seconds(SystemTime::now()),
    })
}
