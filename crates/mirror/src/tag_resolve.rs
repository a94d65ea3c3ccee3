//! Resolving a tag: the upstream's answer, or the fallback's, is stored as the tag's pointer.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::ResourceKind;
use super::freshness::unix_seconds;
use super::manifest::{FetchedManifest, negative_key};
use super::manifest_claim::confirmed_link;
use super::negative_cache::NegativeKey;
use super::origin::OriginView;
use super::tag::ResolvedTag;
use super::{MirrorError, MirrorState};
use oci::digest::{Algorithm, Digest};
use oci::name::Reference;
use oci::schema1;
use store::{ManifestKey, ManifestLink, Pointer, Question, Reach, TagKey};
use upstream::{Manifest, ManifestHead, UpstreamError};

/// The question what a tag points at. Its answer is dropped if a write ends first.
pub(super) struct TagQuestion {
    pointer: Question<Pointer>,
    missing: runtime::generation::Question<NegativeKey>,
}

impl TagQuestion {
    /// The generation of the pointer that it was asked in.
    pub fn generation(&self) -> u64 {
        self.pointer.generation()
    }
}

impl MirrorState {
    /// Begins to ask what a tag points at.
    pub(super) fn ask_tag(&self, key: &TagKey) -> TagQuestion {
        let missing = negative_key(&key.name, &Reference::Tag(key.tag.clone()), key.class);
        TagQuestion {
            pointer: self.store.records.ask(key),
            missing: self.missing.ask(missing),
        }
    }

    /// Resolves a tag by a peer's record, the upstream or the fallback, and stores the pointer.
    pub(super) async fn resolve(
        self: Arc<Self>,
        origin: OriginView,
        key: TagKey,
        question: TagQuestion,
    ) -> Result<ResolvedTag, MirrorError> {
        if let Some(pointer) = self.peer_pointer(&origin, &key).await {
            return Ok(ResolvedTag {
                pointer,
                bytes: None,
                from_peer: true,
            });
        }
        match self.head_tag(&origin, &key, &question).await {
            Ok(Some(resolved)) => return Ok(resolved),
            Ok(None) => {}
            Err(error) => {
                return self
                    .resolve_without_upstream(&origin, &key, &question, error)
                    .await;
            }
        }
        let asked_at = unix_seconds(SystemTime::now());
        match fetch_tag(&origin, &key).await {
            Ok(manifest) => {
                self.store_fetched_tag(&key, &question, manifest, asked_at)
                    .await
            }
            Err(error) => {
                self.resolve_without_upstream(&origin, &key, &question, error)
                    .await
            }
        }
    }

    /// A peer's newer pointer of a tag, while it is fresh.
    async fn peer_pointer(&self, origin: &OriginView, key: &TagKey) -> Option<Arc<Pointer>> {
        if origin.tag_ttl().is_zero() {
            return None;
        }
        let known_at = self.known_pointer(key).await.map(|known| known.checked_at);
        let accepts_peer_record = origin.accepts_peer_record(origin.tag_ttl());
        let accepts = |pointer: &Pointer| {
            let at = pointer.checked_at;
            known_at.is_none_or(|known_at| at > known_at) && accepts_peer_record(at)
        };
        let pointer = self.store.records.open_shared(key, accepts).await?;
        let is_available = self.is_available_by_digest(key, &pointer).await;
        is_available.then_some(pointer)
    }

    /// Resolves a tag by a HEAD. `None` if that does not name the digest or the type, or if only the tag leads to the
    /// manifest.
    async fn head_tag(
        &self,
        origin: &OriginView,
        key: &TagKey,
        question: &TagQuestion,
    ) -> Result<Option<ResolvedTag>, UpstreamError> {
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
        if !self.is_available_by_digest(key, &pointer).await {
            return Ok(None);
        }
        if let Some(size) = pointer.size
            && let Some(link_question) = self.ask_link(key, question, &pointer.digest)
        {
            let manifest = ManifestKey::new(&key.name, &pointer.digest);
            let link = confirmed_link(pointer.media_type.clone(), size);
            self.confirm_link(&link_question, &manifest, link).await;
        }
        let records = &self.store.records;
        let pointer = records.answer(&question.pointer, pointer, Reach::Shared);
        Ok(Some(ResolvedTag {
            pointer: pointer.await.into_record(),
            bytes: None,
            from_peer: false,
        }))
    }

    /// Stores a manifest that was fetched by its tag, and the tag's pointer.
    async fn store_fetched_tag(
        &self,
        key: &TagKey,
        question: &TagQuestion,
        manifest: Manifest,
        checked_at: u64,
    ) -> Result<ResolvedTag, MirrorError> {
        let digest = manifest.head.digest;
        let digest =
            digest.unwrap_or_else(|| schema1::digest_of(Algorithm::Sha256, &manifest.bytes));
        let link_question = self.ask_link(key, question, &digest);
        let FetchedManifest { link, bytes } = if let Some(question) = link_question {
            self.store_manifest(&question, &digest, manifest).await?
        } else {
            let bytes = Some(manifest.bytes.clone());
            let link = self.store_manifest_bytes(&digest, manifest).await?;
            let link = Arc::new(link);
            FetchedManifest { link, bytes }
        };
        let pointer = Pointer {
            digest,
            media_type: link.media_type.clone(),
            size: Some(link.size),
            checked_at,
        };
        let records = &self.store.records;
        let pointer = records.answer(&question.pointer, pointer, Reach::Shared);
        Ok(ResolvedTag {
            pointer: pointer.await.into_record(),
            bytes,
            from_peer: false,
        })
    }

    /// Begins to ask for the link of a manifest that a tag points at; `None` if the tag was written meanwhile. A
    /// deletion of a manifest ends the generation of its tags first, then that of its link.
    fn ask_link(
        &self,
        key: &TagKey,
        question: &TagQuestion,
        digest: &Digest,
    ) -> Option<Question<ManifestLink>> {
        let link = ManifestKey::new(&key.name, digest);
        let link = self.store.records.ask(&link);
        question.pointer.is_current().then_some(link)
    }

    /// Resolves a tag after the upstream's `error`: by the fallback, if the upstream does not have it.
    async fn resolve_without_upstream(
        &self,
        origin: &OriginView,
        key: &TagKey,
        question: &TagQuestion,
        error: UpstreamError,
    ) -> Result<ResolvedTag, MirrorError> {
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
