//! Tags: pointers at manifests, trusted for a while.
//!
//! A tag past its life costs one HEAD. A GET by tag goes out only where a HEAD cannot tell, or where the
//! manifest exists under its tag alone, because GETs are what upstreams count.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::error::ResourceKind;
use super::freshness::{
    CheckedAnswer, Freshness, KnownAnswer, fresh_for, revalidate, stale_age, unix_seconds,
};
use super::manifest::{FetchedManifest, ManifestAnswer, missing_key};
use super::negative_cache;
use super::{Mirror, MirrorError, MirrorState, Origin};
use access::Permit;
use oci::digest::{Algorithm, Digest};
use oci::manifest::{AcceptClass, default_image, is_index, is_signed_schema1};
use oci::name::{Reference, Registry, Repository, Tag};
use oci::schema1;
use store::{ManifestKey, ManifestLink, Pointer, Question, Reach, warn_degraded};
use upstream::{Manifest, ManifestHead, UpstreamError};

/// A tag of a repository, as one class of clients sees it.
pub(super) type TagKey = (Registry, Repository, AcceptClass, Tag);

/// What resolving a tag came to.
#[derive(Clone, Debug)]
pub(super) struct ResolvedTag {
    pointer: Arc<Pointer>,
    /// The bytes, where the tag had to be fetched to learn its digest.
    bytes: Option<Bytes>,
    /// Another node had asked.
    from_peer: bool,
}

/// A question what a tag points at: what was known is changed by its answer, unless somebody wrote meanwhile.
pub(super) struct TagQuestion {
    pointer: Question<Pointer>,
    missing: runtime::generation::Question<negative_cache::NegativeKey>,
}

impl ResolvedTag {
    /// What was known already.
    fn known(pointer: Arc<Pointer>) -> Self {
        Self {
            pointer,
            bytes: None,
            from_peer: false,
        }
    }
}

impl Mirror {
    pub(super) async fn manifest_by_tag(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        tag: &Tag,
        class: AcceptClass,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let answer = self
            .read_tag(origin, permit, tag, class.asked_as(), with_bytes)
            .await?;
        if class == AcceptClass::NoList && is_index(&answer.media_type) {
            return self
                .default_image_of(origin, permit, answer, with_bytes)
                .await;
        }
        Ok(answer)
    }

    /// What a tag points at.
    async fn read_tag(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        tag: &Tag,
        class: AcceptClass,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        if origin.caller_key.is_some() {
            return self
                .manifest_for_caller(origin, permit, tag, class, with_bytes)
                .await;
        }
        let state = &self.state;
        let (registry, repository) = (permit.registry().clone(), permit.repository().clone());
        let key = (registry, repository, class, tag.clone());
        let known = state.known_pointer(&key).await;
        let left = known
            .as_ref()
            .and_then(|known| fresh_for(known.checked_at, origin.tag_ttl, SystemTime::now()));
        let checked = match (known, left) {
            (Some(pointer), Some(left)) if state.is_available_by_digest(&key, &pointer).await => {
                CheckedAnswer {
                    answer: ResolvedTag::known(pointer),
                    freshness: Freshness::Fresh { left },
                    collapsed: false,
                }
            }
            (known, _) => {
                let began = Instant::now();
                let ask = || {
                    state
                        .clone()
                        .revalidate_tag(origin.clone(), key.clone(), known.clone())
                };
                match ask().await {
                    Err(MirrorError::Preparing(named)) => {
                        let fallback = state.fallback(origin).cloned();
                        let fallback = fallback.ok_or(MirrorError::NotServed)?;
                        let repository = permit.repository();
                        fallback
                            .prepare(&origin.registry, repository, &named, began)
                            .await?;
                        // Anew, since the v2 side wins.
                        ask().await?
                    }
                    asked => asked?,
                }
            }
        };
        // What another node learned was no answer of the upstream's either.
        let is_hit = matches!(
            checked.freshness,
            Freshness::Fresh { .. } | Freshness::FromPeer
        );
        let found = self.read_resolved(origin, permit, checked, with_bytes);
        match found.await {
            // The tag is fresh and its manifest is gone: it may have moved since.
            Err(MirrorError::Unknown { .. }) if is_hit => {}
            found => return found,
        }
        let known = state.known_pointer(&key).await;
        let asked = state.clone().revalidate_tag(origin.clone(), key, known);
        self.read_resolved(origin, permit, asked.await?, with_bytes)
            .await
    }

    /// The manifest that a tag was resolved to.
    async fn read_resolved(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        checked: CheckedAnswer<ResolvedTag>,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let (cache, stale) = (checked.cache_status(), checked.freshness.stale());
        let ResolvedTag { pointer, bytes, .. } = checked.answer;
        let mut answer = ManifestAnswer {
            digest: pointer.digest,
            media_type: pointer.media_type.clone(),
            size: pointer.size.unwrap_or(0),
            bytes,
            cache,
            stale,
        };
        if answer.bytes.is_none() && (with_bytes || pointer.size.is_none()) {
            let by_digest = self
                .manifest_by_digest(origin, permit, &pointer.digest, true)
                .await?;
            answer.size = by_digest.size;
            answer.bytes = by_digest.bytes;
            answer.cache = answer.cache.or(by_digest.cache);
        }
        Ok(answer)
    }

    /// The image of a list or index for a client that can read neither; where it has none for
    /// linux/amd64, itself.
    async fn default_image_of(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        index: ManifestAnswer,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let bytes = if let Some(bytes) = &index.bytes {
            Some(bytes.clone())
        } else {
            let whole = self.manifest_by_digest(origin, permit, &index.digest, true);
            whole.await?.bytes
        };
        let Some(image) = bytes.and_then(|bytes| default_image(&bytes)) else {
            return Ok(index);
        };
        let mut answer = self
            .manifest_by_digest(origin, permit, &image, with_bytes)
            .await?;
        answer.cache = index.cache.or(answer.cache);
        answer.stale = index.stale;
        Ok(answer)
    }
}

impl MirrorState {
    /// Where a tag pointed when it was last asked for. A disk that cannot say counts as never.
    async fn known_pointer(&self, key: &TagKey) -> Option<Arc<Pointer>> {
        let (registry, repository, class, tag) = key;
        let opened = self
            .store
            .records
            .open(&store::TagKey::new(registry, repository, *class, tag))
            .await;
        opened.unwrap_or_else(|error| {
            warn_degraded("a tag cannot be read", &error);
            None
        })
    }

    /// Asks where a tag points now. Where the upstream cannot answer, or not soon enough, what was `known`
    /// is the answer, with its age; the question goes on behind it.
    async fn revalidate_tag(
        self: Arc<Self>,
        origin: Arc<Origin>,
        key: TagKey,
        known: Option<Arc<Pointer>>,
    ) -> Result<CheckedAnswer<ResolvedTag>, MirrorError> {
        let missing = missing_key(&key.0, &key.1, &Reference::Tag(key.3.clone()), key.2);
        if self.missing.contains(&missing) {
            return Err(ResourceKind::Manifest.remembered_unknown());
        }
        let age =
            |known: &Pointer| stale_age(known.checked_at, origin.max_stale, SystemTime::now());
        let usable = known.clone().and_then(|pointer| {
            let age = age(&pointer)?;
            let answer = ResolvedTag::known(pointer);
            Some(KnownAnswer { answer, age })
        });
        let question = self.ask_tag(&key);
        let asked = (key.clone(), question.pointer.generation());
        let start = || self.clone().resolve(origin.clone(), key.clone(), question);
        let ask = async {
            let (resolved, collapsed) = self.tag_requests.join(asked, start).await;
            (resolved.unwrap_or(Err(MirrorError::Internal)), collapsed)
        };
        let compare = |resolved: &ResolvedTag| match known {
            _ if resolved.from_peer => Freshness::FromPeer,
            Some(known) if known.digest == resolved.pointer.digest => Freshness::Revalidated,
            Some(_) => Freshness::Moved,
            None => Freshness::Fetched,
        };
        revalidate(usable, origin.wait(), ask, compare).await
    }

    /// Whether the manifest that a pointer names can be had by its digest: one that the upstream makes up
    /// for clients of the first schema can be had there by tag only, so it has to be here.
    async fn is_available_by_digest(&self, key: &TagKey, pointer: &Pointer) -> bool {
        if !is_signed_schema1(&pointer.media_type) {
            return true;
        }
        let (registry, repository, ..) = key;
        let records = &self.store.records;
        let link = records
            .open(&ManifestKey::new(registry, repository, &pointer.digest))
            .await;
        match link {
            Ok(Some(link)) => self
                .local_bytes(&link.stored(&pointer.digest))
                .await
                .is_some(),
            _ => false,
        }
    }

    /// What another node learned of a tag after we did, while it is fresh.
    async fn peer_pointer(&self, origin: &Origin, key: &TagKey) -> Option<Arc<Pointer>> {
        let (registry, repository, class, tag) = key;
        if origin.tag_ttl.is_zero() {
            return None;
        }
        let known_at = self.known_pointer(key).await.map(|known| known.checked_at);
        let accepts_peer_record = origin.accepts_peer_record(origin.tag_ttl);
        let accepts_peer_record =
            |at: u64| known_at.is_none_or(|known_at| at > known_at) && accepts_peer_record(at);
        let record = store::TagKey::new(registry, repository, *class, tag);
        let accepts = |pointer: &Pointer| accepts_peer_record(pointer.checked_at);
        let pointer = self.store.records.open_shared(&record, accepts).await?;
        self.is_available_by_digest(key, &pointer)
            .await
            .then_some(pointer)
    }

    /// Asks the upstream what a tag points at, and keeps the answer.
    async fn resolve(
        self: Arc<Self>,
        origin: Arc<Origin>,
        key: TagKey,
        question: TagQuestion,
    ) -> Result<ResolvedTag, MirrorError> {
        let (_, repository, class, tag) = &key;
        if let Some(pointer) = self.peer_pointer(&origin, &key).await {
            return Ok(ResolvedTag {
                pointer,
                bytes: None,
                from_peer: true,
            });
        }
        let reference = Reference::Tag(tag.clone());
        let upstream = match origin.v2() {
            Ok(upstream) => upstream,
            Err(error) => {
                return self
                    .resolve_without_upstream(&origin, &key, &question, error)
                    .await;
            }
        };
        let head = match upstream.manifest_head(repository, &reference, *class).await {
            Ok(head) => Some(head),
            // Some registries know no HEAD here.
            Err(UpstreamError::Status(http::StatusCode::METHOD_NOT_ALLOWED)) => None,
            Err(error) => {
                return self
                    .resolve_without_upstream(&origin, &key, &question, error)
                    .await;
            }
        };
        let checked_at = unix_seconds(SystemTime::now());
        let pointer = head.and_then(|head| pointer_from_head(head, checked_at));
        let (pointer, bytes) = match pointer {
            Some(pointer) if self.is_available_by_digest(&key, &pointer).await => {
                if let Some(size) = pointer.size {
                    let link = ManifestLink {
                        media_type: pointer.media_type.clone(),
                        size,
                        checked_at,
                        subject: None,
                        stored: None,
                    };
                    self.confirm_manifest_of_tag(&key, &question, &pointer.digest, link)
                        .await;
                }
                (pointer, None)
            }
            // A HEAD without the digest or the type, or a manifest that only its tag leads to.
            _ => match upstream.manifest(repository, &reference, *class).await {
                Ok(manifest) => {
                    let named = manifest.head.digest;
                    let digest = named
                        .unwrap_or_else(|| schema1::digest_of(Algorithm::Sha256, &manifest.bytes));
                    let FetchedManifest { link, bytes } = self
                        .store_manifest_of_tag(&key, &question, &digest, manifest)
                        .await?;
                    let media_type = link.media_type.clone();
                    let pointer = Pointer {
                        digest,
                        media_type,
                        size: Some(link.size),
                        checked_at,
                    };
                    (pointer, bytes)
                }
                Err(error) => {
                    return self
                        .resolve_without_upstream(&origin, &key, &question, error)
                        .await;
                }
            },
        };
        let records = &self.store.records;
        let pointer = records
            .answer(&question.pointer, pointer, Reach::Shared)
            .await;
        Ok(ResolvedTag {
            pointer: pointer.into_record(),
            bytes,
            from_peer: false,
        })
    }

    /// Begins to ask what a tag points at.
    fn ask_tag(&self, key: &TagKey) -> TagQuestion {
        let (registry, repository, class, tag) = key;
        let record = store::TagKey::new(registry, repository, *class, tag);
        let missing = missing_key(registry, repository, &Reference::Tag(tag.clone()), *class);
        TagQuestion {
            pointer: self.store.records.ask(&record),
            missing: self.missing.ask(missing),
        }
    }

    /// The link of a manifest that a tag was found to point at; `None` where that is no longer so. Who deletes a
    /// manifest ends the generation of the tags first, then that of the link.
    fn ask_link(
        &self,
        key: &TagKey,
        question: &TagQuestion,
        digest: &Digest,
    ) -> Option<Question<ManifestLink>> {
        let link = ManifestKey::new(&key.0, &key.1, digest);
        let link = self.store.records.ask(&link);
        question.pointer.is_current().then_some(link)
    }

    /// Notes that the upstream has a manifest that it says a tag points at.
    async fn confirm_manifest_of_tag(
        &self,
        key: &TagKey,
        question: &TagQuestion,
        digest: &Digest,
        link: ManifestLink,
    ) {
        if let Some(asked) = self.ask_link(key, question, digest) {
            self.confirm_link(&asked, &key.0, &key.1, digest, link)
                .await;
        }
    }

    /// Keeps a manifest that was fetched by its tag.
    async fn store_manifest_of_tag(
        &self,
        key: &TagKey,
        question: &TagQuestion,
        digest: &Digest,
        manifest: Manifest,
    ) -> Result<FetchedManifest, MirrorError> {
        if let Some(asked) = self.ask_link(key, question, digest) {
            return self.store_manifest(&asked, digest, manifest).await;
        }
        let bytes = Some(manifest.bytes.clone());
        let link = Arc::new(self.store_manifest_bytes(digest, manifest).await?);
        Ok(FetchedManifest { link, bytes })
    }

    /// A tag that the v2 side gave no answer to. One that it does not have may be the fallback's.
    async fn resolve_without_upstream(
        &self,
        origin: &Origin,
        key: &TagKey,
        question: &TagQuestion,
        error: UpstreamError,
    ) -> Result<ResolvedTag, MirrorError> {
        if matches!(error, UpstreamError::NotFound)
            && let Some(pointer) = self.fallback_tag(origin, key).await?
        {
            let records = &self.store.records;
            // Other nodes prepare it themselves: the bytes are not at their upstream.
            let pointer = records.answer(&question.pointer, pointer, Reach::Here);
            return Ok(ResolvedTag {
                pointer: pointer.await.into_record(),
                bytes: None,
                from_peer: false,
            });
        }
        Err(self.tag_error(origin, question, error).await)
    }

    /// A tag that could not be resolved: what is gone is forgotten and remembered as missing.
    async fn tag_error(
        &self,
        origin: &Origin,
        question: &TagQuestion,
        error: UpstreamError,
    ) -> MirrorError {
        if matches!(error, UpstreamError::NotFound) {
            self.store.records.answer_absent(&question.pointer).await;
            self.missing.remember(&question.missing, origin.missing_ttl);
        }
        MirrorError::from_upstream(Arc::new(error), ResourceKind::Manifest)
    }
}

/// What a HEAD tells of a tag, if it tells enough.
fn pointer_from_head(head: ManifestHead, checked_at: u64) -> Option<Pointer> {
    Some(Pointer {
        digest: head.digest?,
        media_type: head.media_type?,
        size: head.size,
        checked_at,
    })
}
