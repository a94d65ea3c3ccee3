//! Manifests: immutable by digest. A GET goes out only when the bytes are not here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::error::Asked;
use super::freshness::{Freshness, freshness, unix};
use super::{Mirror, MirrorError, Origin, Shared};
use crate::access::Permit;
use crate::metrics;
use crate::spec::cache_status::{CacheStatus, Forward};
use crate::spec::digest::Digest;
use crate::spec::manifest::{AcceptClass, facts};
use crate::spec::name::{Reference, Registry, Repository};
use crate::spec::schema1;
use crate::spec::v2::Resource;
use crate::store::{CommitError, ManifestLink, Mismatch, Reach, trouble};
use crate::upstream::{Manifest, UpstreamError};

/// How long a client waits for a manifest that is not here.
pub(super) const UNCACHED_DEADLINE: Duration = Duration::from_millis(9500);

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

/// What fetching a manifest by digest came to.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
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
        let shared = &self.shared;
        let (registry, repository) = (permit.registry(), permit.repository());
        let link = shared
            .store
            .links
            .manifest(registry, repository, digest)
            .await
            .unwrap_or_else(|error| {
                trouble("a link cannot be read", &error);
                None
            });
        let missing = missing_key(
            registry,
            repository,
            &Reference::Digest(*digest),
            AcceptClass::Full,
        );
        let link = match link {
            None if !shared.missing.knows(&missing) => {
                shared.shared_manifest(origin, permit, digest).await
            }
            link => link,
        };
        if let Some(link) = &link {
            let mut bytes = None;
            if with_bytes {
                bytes = shared.local(&link.stored(digest)).await;
                if bytes.is_none() {
                    bytes = shared.remade(origin, digest).await;
                }
            }
            if bytes.is_some() || !with_bytes {
                if freshness(link.checked_at, origin.link_ttl, SystemTime::now())
                    == Freshness::Stale
                {
                    self.recheck_manifest(origin, permit, digest);
                }
                return Ok(answer(digest, link, bytes, CacheStatus::HIT));
            }
        }
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
        let fetch = shared.fetching.join((key.clone(), origin.who), start);
        let (fetched, collapsed) = tokio::time::timeout(UNCACHED_DEADLINE, fetch)
            .await
            .map_err(|_| MirrorError::late())?;
        let fetched = match fetched.unwrap_or(Err(MirrorError::Lost)) {
            Err(error @ MirrorError::Unknown { .. }) => {
                let converted = shared.relink_manifest_of_v1(origin, repository, digest);
                let link = converted.await.ok_or(error)?;
                let bytes = shared.remade(origin, digest).await;
                Fetched { link, bytes }
            }
            fetched => fetched?,
        };
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
        let (permit, digest) = (permit.clone(), *digest);
        let who = origin.who;
        let key = (
            permit.registry().clone(),
            permit.repository().clone(),
            digest,
            false,
        );
        let asked = origin.clone();
        tokio::spawn(async move {
            let known = shared.shared_manifest(&origin, &permit, &digest).await;
            if known.is_some() {
                return;
            }
            let start = || shared.clone().claim_manifest(origin, key.clone());
            if let (Some(Err(error)), _) = shared.fetching.join((key.clone(), who), start).await
                && error.ends_a_claim()
                && shared
                    .relink_manifest_of_v1(&asked, &key.1, &key.2)
                    .await
                    .is_none()
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
    /// Bytes that are here, from memory or disk, or else those in the bucket. A disk that cannot say counts as
    /// absent: slower, not wrong.
    pub(super) async fn local(&self, digest: &Digest) -> Option<Bytes> {
        let here = self.small(digest).await.unwrap_or_else(|error| {
            trouble("a manifest cannot be read", &error);
            None
        });
        match here {
            Some(bytes) => Some(bytes),
            None => self.fetch_shared(digest).await,
        }
    }

    /// The link that another node made, while it is fresh.
    async fn shared_manifest(
        &self,
        origin: &Origin,
        permit: &Permit,
        digest: &Digest,
    ) -> Option<Arc<ManifestLink>> {
        let (registry, repository) = (permit.registry(), permit.repository());
        let good = origin.believes(origin.link_ttl);
        let links = &self.store.links;
        links
            .shared_manifest(registry, repository, digest, good)
            .await
    }

    /// Makes sure that a repository has a manifest: by a GET that brings the bytes, or by a HEAD.
    async fn claim_manifest(
        self: Arc<Self>,
        origin: Arc<Origin>,
        key: ManifestKey,
    ) -> Result<Fetched, MirrorError> {
        let (registry, repository, digest, fetch) = &key;
        let reference = Reference::Digest(*digest);
        if let Some(fetched) = self.came_meanwhile(&origin, &key).await {
            return Ok(fetched);
        }
        let asked_at = origin.writes();
        let refused = |error: UpstreamError| {
            if matches!(error, UpstreamError::NotFound) && origin.writes() == asked_at {
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
                            stored: None,
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

    /// What somebody else fetched between this one's look and its turn to ask.
    async fn came_meanwhile(&self, origin: &Origin, key: &ManifestKey) -> Option<Fetched> {
        let (registry, repository, digest, fetch) = key;
        let links = &self.store.links;
        let link = links.manifest(registry, repository, digest).await.ok()??;
        if freshness(link.checked_at, origin.link_ttl, SystemTime::now()) == Freshness::Stale {
            return None;
        }
        let bytes = if *fetch {
            Some(self.local(&link.stored(digest)).await?)
        } else {
            None
        };
        Some(Fetched { link, bytes })
    }

    /// Verifies a manifest, keeps its bytes and links it. A store that cannot keep it does not keep it
    /// from the client.
    pub(super) async fn keep(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        manifest: Manifest,
    ) -> Result<Fetched, MirrorError> {
        let Manifest { head, bytes } = manifest;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest && schema1::digest_of(digest.algorithm(), &bytes) != *digest {
            let mismatch = Mismatch {
                expected: *digest,
                actual,
            };
            let error = CommitError::Mismatch(Box::new(mismatch));
            metrics::lie(metrics::Liar::Upstream);
            return Err(MirrorError::Untrue(Arc::new(error)));
        }
        let (blobs, kept, wanted) = (self.store.blobs.clone(), bytes.clone(), actual);
        match tokio::task::spawn_blocking(move || blobs.keep(&wanted, &kept)).await {
            Ok(Err(error)) => trouble("a manifest cannot be kept", &error),
            Ok(Ok(())) => {
                if bytes.len() as u64 <= super::HOT_BODY {
                    self.hot.insert(actual, bytes.clone());
                }
                if let Some(bucket) = self.store.bucket() {
                    bucket.write_through(&self.store.blobs, &actual, None);
                }
            }
            Err(_) => {}
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
            stored: (actual != *digest).then_some(actual),
        };
        let link = self
            .store
            .links
            .link_manifest(registry, repository, digest, link, Reach::Shared)
            .await;
        Ok(Fetched {
            link,
            bytes: Some(bytes),
        })
    }

    /// Notes that the upstream confirmed a claim; what only the bytes told stays.
    pub(super) async fn relink(
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
        if let Some(known) = known {
            (link.subject, link.stored) = (known.subject, known.stored);
        }
        self.store
            .links
            .link_manifest(registry, repository, digest, link, Reach::Shared)
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

pub(super) fn missing_key(
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
