//! Manifests: immutable by digest, and through tags that point at digests.
//!
//! A tag past its life costs one HEAD. A GET goes out only by digest and only when the bytes are not
//! here, because GETs are what upstreams count.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::error::Asked;
use super::freshness::{Freshness, freshness, stale_age, unix};
use super::{Mirror, MirrorError, Origin, Shared};
use crate::access::Permit;
use crate::spec::cache_status::{CacheStatus, Forward};
use crate::spec::digest::{Algorithm, Digest};
use crate::spec::manifest::{AcceptClass, facts};
use crate::spec::name::{Reference, Registry, Repository, Tag};
use crate::spec::v2::Resource;
use crate::store::{CommitError, ManifestLink, Mismatch, Pointer};
use crate::upstream::{Manifest, UpstreamError};

/// How long a client waits for a manifest that is not here.
const UNCACHED_DEADLINE: Duration = Duration::from_millis(9500);

/// A tag of a repository, as one class of clients sees it.
pub(super) type TagKey = (Registry, Repository, AcceptClass, Tag);
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
    /// How old it is, where the upstream could not be asked whether it is still right.
    pub stale: Option<Duration>,
}

/// What resolving a tag came to.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pointer: Arc<Pointer>,
    /// The bytes, where the tag had to be fetched to learn its digest.
    bytes: Option<Bytes>,
}

/// What fetching a manifest by digest came to.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    link: Arc<ManifestLink>,
    bytes: Option<Bytes>,
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
        match reference {
            Reference::Digest(digest) => self.manifest_by_digest(permit, digest, with_bytes).await,
            Reference::Tag(tag) => self.manifest_by_tag(permit, tag, class, with_bytes).await,
        }
    }

    async fn manifest_by_tag(
        &self,
        permit: &Permit,
        tag: &Tag,
        class: AcceptClass,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let (origin, shared) = (self.origin(permit)?, &self.shared);
        let key = (
            permit.registry().clone(),
            permit.repository().clone(),
            class,
            tag.clone(),
        );
        let known = shared.known_pointer(&key).await;
        let fresh = known
            .as_ref()
            .map(|known| freshness(known.checked_at, origin.tag_ttl, SystemTime::now()));
        let (resolved, cache, age) = match (known, fresh) {
            (Some(pointer), Some(Freshness::Fresh { left })) => {
                let resolved = Resolved {
                    pointer,
                    bytes: None,
                };
                (resolved, CacheStatus::HIT.ttl(left.as_secs()), None)
            }
            (known, _) => shared.clone().revalidate(origin, key, known).await?,
        };
        let Resolved { pointer, bytes } = resolved;
        let mut answer = ManifestAnswer {
            digest: pointer.digest,
            media_type: pointer.media_type.clone(),
            size: pointer.size.unwrap_or(0),
            bytes,
            cache,
            stale: age,
        };
        if answer.bytes.is_none() && (with_bytes || pointer.size.is_none()) {
            let by_digest = self
                .manifest_by_digest(permit, &pointer.digest, true)
                .await?;
            answer.size = by_digest.size;
            answer.bytes = by_digest.bytes;
            if answer.cache.hit && !by_digest.cache.hit {
                answer.cache = by_digest.cache;
            }
        }
        Ok(answer)
    }

    async fn manifest_by_digest(
        &self,
        permit: &Permit,
        digest: &Digest,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let (origin, shared) = (self.origin(permit)?, &self.shared);
        let (registry, repository) = (permit.registry(), permit.repository());
        let link = shared.store.links.manifest(registry, repository, digest).await.unwrap_or_else(|error| {
            tracing::warn!(%registry, %repository, %digest, %error, "a link cannot be read; the upstream is asked");
            None
        });
        if let Some(link) = &link {
            let bytes = if with_bytes {
                shared.local(digest).await
            } else {
                None
            };
            if bytes.is_some() || !with_bytes {
                if freshness(link.checked_at, origin.link_ttl, SystemTime::now())
                    == Freshness::Stale
                {
                    self.recheck_manifest(&origin, permit, digest);
                }
                return Ok(answer(digest, link, bytes, CacheStatus::HIT));
            }
        }
        let missing = missing_key(
            registry,
            repository,
            &Reference::Digest(*digest),
            AcceptClass::Full,
        );
        if link.is_none() && shared.missing.knows(&missing) {
            return Err(Asked::Manifest.still_unknown());
        }
        // Bytes that came through another repository only lack this one's claim: a HEAD, which is free.
        let local = if with_bytes && link.is_none() {
            shared.local(digest).await
        } else {
            None
        };
        let fetch = with_bytes && local.is_none();
        let key = (registry.clone(), repository.clone(), *digest, fetch);
        let start = || shared.clone().claim_manifest(origin.clone(), key.clone());
        let fetch = shared.fetching.join(key.clone(), start);
        let late = |_| MirrorError::Unavailable(Arc::new(UpstreamError::Timeout));
        let (fetched, collapsed) = tokio::time::timeout(UNCACHED_DEADLINE, fetch)
            .await
            .map_err(late)?;
        let fetched = fetched.unwrap_or(Err(MirrorError::Lost))?;
        let cache = CacheStatus::forward(Forward::UriMiss)
            .stored()
            .collapsed(collapsed);
        Ok(answer(
            digest,
            &fetched.link,
            fetched.bytes.or(local),
            cache,
        ))
    }

    /// Asks behind an answer whether the repository still has a manifest.
    fn recheck_manifest(&self, origin: &Arc<Origin>, permit: &Permit, digest: &Digest) {
        let (shared, origin) = (self.shared.clone(), origin.clone());
        let key = (
            permit.registry().clone(),
            permit.repository().clone(),
            *digest,
            false,
        );
        tokio::spawn(async move {
            let start = || shared.clone().claim_manifest(origin, key.clone());
            if let (Some(Err(error)), _) = shared.fetching.join(key.clone(), start).await
                && error.ends_a_claim()
            {
                shared
                    .store
                    .links
                    .unlink_manifest(&key.0, &key.1, &key.2)
                    .await;
            }
        });
    }
}

impl Shared {
    /// Bytes that are here, from memory or disk. A disk that cannot say counts as absent: slower, not
    /// wrong.
    async fn local(&self, digest: &Digest) -> Option<Bytes> {
        self.small(digest).await.unwrap_or_else(|error| {
            tracing::warn!(%digest, %error, "a manifest cannot be read; the upstream is asked");
            None
        })
    }

    /// Where a tag pointed when it was last asked for. A disk that cannot say counts as never.
    async fn known_pointer(&self, key: &TagKey) -> Option<Arc<Pointer>> {
        let (registry, repository, class, tag) = key;
        let opened = self
            .store
            .tags
            .open(registry, repository, *class, tag)
            .await;
        opened.unwrap_or_else(|error| {
            tracing::warn!(%registry, %repository, %tag, %error, "a tag cannot be read; the upstream is asked");
            None
        })
    }

    /// Asks where a tag points now. Where the upstream cannot answer, or not soon enough, what was `known`
    /// is the answer, with its age; the question goes on behind it.
    async fn revalidate(
        self: Arc<Self>,
        origin: Arc<Origin>,
        key: TagKey,
        known: Option<Arc<Pointer>>,
    ) -> Result<(Resolved, CacheStatus, Option<Duration>), MirrorError> {
        let missing = missing_key(&key.0, &key.1, &Reference::Tag(key.3.clone()), key.2);
        if self.missing.knows(&missing) {
            return Err(Asked::Manifest.still_unknown());
        }
        let age =
            |known: &Pointer| stale_age(known.checked_at, origin.max_stale, SystemTime::now());
        let stale = known
            .as_ref()
            .and_then(|known| Some((known.clone(), age(known)?)));
        let start = || self.clone().resolve(origin.clone(), key.clone());
        let asked = self.resolving.join(key.clone(), start);
        let answer = |(pointer, age), reason| {
            let cache = CacheStatus::forward(Forward::Stale).detail(reason);
            Ok((
                Resolved {
                    pointer,
                    bytes: None,
                },
                cache,
                Some(age),
            ))
        };
        let within = if stale.is_some() {
            origin.patience
        } else {
            UNCACHED_DEADLINE
        };
        let (resolved, collapsed) = match (tokio::time::timeout(within, asked).await, stale) {
            (Ok((Some(Err(error)), _)), Some(stale)) if error.excuses_stale().is_some() => {
                return answer(stale, error.excuses_stale().unwrap_or("unavailable"));
            }
            (Err(_), Some(stale)) => return answer(stale, "slow"),
            (Err(_), None) => {
                return Err(MirrorError::Unavailable(Arc::new(UpstreamError::Timeout)));
            }
            (Ok((resolved, collapsed)), _) => {
                (resolved.unwrap_or(Err(MirrorError::Lost))?, collapsed)
            }
        };
        let cache = match known {
            Some(known) if known.digest == resolved.pointer.digest => {
                CacheStatus::forward(Forward::Stale).detail("revalidated")
            }
            Some(_) => CacheStatus::forward(Forward::Stale)
                .stored()
                .detail("moved"),
            None => CacheStatus::forward(Forward::UriMiss).stored(),
        };
        Ok((resolved, cache.collapsed(collapsed), None))
    }

    /// Asks the upstream what a tag points at, and keeps the answer.
    async fn resolve(
        self: Arc<Self>,
        origin: Arc<Origin>,
        key: TagKey,
    ) -> Result<Resolved, MirrorError> {
        let (registry, repository, class, tag) = &key;
        let reference = Reference::Tag(tag.clone());
        let head = match origin
            .upstream
            .manifest_head(repository, &reference, *class)
            .await
        {
            Ok(head) => Some(head),
            // Some registries know no HEAD here.
            Err(UpstreamError::Status(http::StatusCode::METHOD_NOT_ALLOWED)) => None,
            Err(error) => return Err(self.tag_refused(&origin, &key, error).await),
        };
        let checked_at = unix(SystemTime::now());
        let (pointer, bytes) = match head {
            Some(crate::upstream::ManifestHead {
                digest: Some(digest),
                media_type: Some(media_type),
                size,
            }) => {
                if let Some(size) = size {
                    let link = ManifestLink {
                        media_type: media_type.clone(),
                        size,
                        checked_at,
                        subject: None,
                    };
                    self.relink(registry, repository, &digest, link).await;
                }
                let pointer = Pointer {
                    digest,
                    media_type,
                    size,
                    checked_at,
                };
                (pointer, None)
            }
            // A HEAD without the digest or the type: only the bytes can tell.
            _ => match origin
                .upstream
                .manifest(repository, &reference, *class)
                .await
            {
                Ok(manifest) => {
                    let digest = manifest
                        .head
                        .digest
                        .unwrap_or_else(|| Digest::of(Algorithm::Sha256, &manifest.bytes));
                    let Fetched { link, bytes } =
                        self.keep(registry, repository, &digest, manifest).await?;
                    let media_type = link.media_type.clone();
                    let pointer = Pointer {
                        digest,
                        media_type,
                        size: Some(link.size),
                        checked_at,
                    };
                    (pointer, bytes)
                }
                Err(error) => return Err(self.tag_refused(&origin, &key, error).await),
            },
        };
        let tags = &self.store.tags;
        let pointer = tags.point(registry, repository, *class, tag, pointer).await;
        Ok(Resolved { pointer, bytes })
    }

    /// A tag that could not be resolved: what is gone is forgotten and remembered as missing.
    async fn tag_refused(
        &self,
        origin: &Origin,
        key: &TagKey,
        error: UpstreamError,
    ) -> MirrorError {
        let (registry, repository, class, tag) = key;
        if matches!(error, UpstreamError::NotFound) {
            self.store
                .tags
                .remove(registry, repository, *class, tag)
                .await;
            let missing = missing_key(registry, repository, &Reference::Tag(tag.clone()), *class);
            self.missing.remember(missing, origin.missing_ttl);
        }
        MirrorError::of(Arc::new(error), Asked::Manifest)
    }

    /// Makes sure that a repository has a manifest: by a GET that brings the bytes, or by a HEAD.
    async fn claim_manifest(
        self: Arc<Self>,
        origin: Arc<Origin>,
        key: ManifestKey,
    ) -> Result<Fetched, MirrorError> {
        let (registry, repository, digest, fetch) = &key;
        let reference = Reference::Digest(*digest);
        let refused = |error: UpstreamError| {
            if matches!(error, UpstreamError::NotFound) {
                let missing = missing_key(registry, repository, &reference, AcceptClass::Full);
                self.missing.remember(missing, origin.missing_ttl);
            }
            MirrorError::of(Arc::new(error), Asked::Manifest)
        };
        if !fetch {
            match origin
                .upstream
                .manifest_head(repository, &reference, AcceptClass::Full)
                .await
            {
                Ok(head) => {
                    if let (Some(media_type), Some(size)) = (head.media_type, head.size) {
                        let checked_at = unix(SystemTime::now());
                        let link = ManifestLink {
                            media_type,
                            size,
                            checked_at,
                            subject: None,
                        };
                        let link = self.relink(registry, repository, digest, link).await;
                        return Ok(Fetched { link, bytes: None });
                    }
                }
                Err(UpstreamError::Status(http::StatusCode::METHOD_NOT_ALLOWED)) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        let manifest = origin
            .upstream
            .manifest(repository, &reference, AcceptClass::Full)
            .await;
        self.keep(registry, repository, digest, manifest.map_err(refused)?)
            .await
    }

    /// Verifies a manifest, keeps its bytes and links it. A store that cannot keep it does not keep it
    /// from the client.
    async fn keep(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        manifest: Manifest,
    ) -> Result<Fetched, MirrorError> {
        let Manifest { head, bytes } = manifest;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            let mismatch = Mismatch {
                expected: *digest,
                actual,
            };
            let error = CommitError::Mismatch(Box::new(mismatch));
            return Err(MirrorError::Untrue(Arc::new(error)));
        }
        let (blobs, kept, wanted) = (self.store.blobs.clone(), bytes.clone(), *digest);
        match tokio::task::spawn_blocking(move || blobs.keep(&wanted, &kept)).await {
            Ok(Err(error)) => tracing::warn!(%digest, %error, "a manifest cannot be kept"),
            Ok(Ok(())) if bytes.len() as u64 <= super::HOT_BODY => {
                self.hot.insert(*digest, bytes.clone());
            }
            _ => {}
        }
        let facts = facts(&bytes);
        let link = ManifestLink {
            media_type: head
                .media_type
                .or(facts.media_type)
                .unwrap_or_else(|| "application/octet-stream".into()),
            size: bytes.len() as u64,
            checked_at: unix(SystemTime::now()),
            subject: facts.subject,
        };
        let link = self
            .store
            .links
            .link_manifest(registry, repository, digest, link)
            .await;
        Ok(Fetched {
            link,
            bytes: Some(bytes),
        })
    }

    /// Notes that the upstream confirmed a claim; what only the bytes told (the subject) stays.
    async fn relink(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        mut link: ManifestLink,
    ) -> Arc<ManifestLink> {
        let known = self
            .store
            .links
            .manifest(registry, repository, digest)
            .await
            .ok()
            .flatten();
        link.subject = known.and_then(|known| known.subject);
        self.store
            .links
            .link_manifest(registry, repository, digest, link)
            .await
    }
}

fn answer(
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

fn missing_key(
    registry: &Registry,
    repository: &Repository,
    reference: &Reference,
    class: AcceptClass,
) -> super::missing::MissingKey {
    (
        registry.clone(),
        repository.clone(),
        Resource::Manifest(reference.clone()),
        class,
    )
}
