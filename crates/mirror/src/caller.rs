//! Registries that decide for each caller: asked with the caller's own `Authorization`, and served from the
//! store only to who was let in by them a short while ago.
//!
//! A digest is served after a HEAD with that very `Authorization` gave 2xx: for this digest, or within five
//! minutes for anything of the same repository where the digest is linked. Tags and lists are asked for
//! every time, and what is not there is not remembered. Nothing of a login is kept but its HMAC, under a key
//! that ends with the process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderValue, StatusCode};
use sha2::Sha256;

use super::error::ResourceKind;
use super::freshness::unix_seconds;
use super::manifest::{ManifestAnswer, UNCACHED_DEADLINE};
use super::{Mirror, MirrorError, MirrorState, Origin, Visibility};
use access::{ForwardedAuthorization, Permit};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::{Algorithm, Digest};
use oci::manifest::{AcceptClass, is_signed_schema1};
use oci::name::{Reference, Registry, Repository, Tag};
use oci::schema1;
use oci::v2::Resource;
use store::{BlobKey, BlobLink, ManifestKey, ManifestLink, Question, Reach};
use upstream::UpstreamError;

/// How long a caller who was let into a repository need not be asked about again.
const ADMITTED_TTL: Duration = Duration::from_secs(300);
/// How many of them are remembered.
const MAX_ADMITTED: u64 = 65_536;

/// Who asks, as far as this process can tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CallerKey([u8; 32]);

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Who was let into what.
pub(super) struct AdmittedCallers {
    key: Hmac<Sha256>,
    admitted: moka::sync::Cache<(CallerKey, Registry, Repository), ()>,
}

impl fmt::Debug for AdmittedCallers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdmittedCallers")
    }
}

impl AdmittedCallers {
    pub fn new() -> Self {
        let mut key = [0; 32];
        // Without it nobody's memory is safe from another's guess.
        getrandom::fill(&mut key).expect("the system has random numbers");
        // Any length is a key.
        let key = Hmac::new_from_slice(&key).expect("a key");
        let admitted = moka::sync::Cache::builder()
            .max_capacity(MAX_ADMITTED)
            .time_to_live(ADMITTED_TTL)
            .build();
        Self { key, admitted }
    }

    /// What an answer to a caller's own login says of a repository: who was let in may have what is here.
    fn record<T>(&self, key: (CallerKey, Registry, Repository), answer: &Result<T, MirrorError>) {
        match answer {
            Ok(_) => self.admitted.insert(key, ()),
            Err(error) if error.revokes_link() => self.admitted.invalidate(&key),
            Err(_) => {}
        }
    }

    fn caller_key(&self, forwarded: &ForwardedAuthorization) -> CallerKey {
        let mut mac = self.key.clone();
        match forwarded.value().map(HeaderValue::as_bytes) {
            // An empty value is not the same as none.
            Some(value) => {
                mac.update(b"\x01");
                mac.update(value);
            }
            None => mac.update(b"\x00"),
        }
        CallerKey(mac.finalize().into_bytes().into())
    }
}

impl Origin {
    /// This registry as one caller sees it: every question goes out with what they showed, and nothing is
    /// believed for longer than the answer.
    fn seen_by(&self, forwarded: &ForwardedAuthorization, caller_key: CallerKey) -> Self {
        let upstream = self.upstream.as_ref();
        Self {
            registry: self.registry.clone(),
            upstream: upstream.map(|upstream| upstream.for_caller(forwarded.value().cloned())),
            tag_ttl: Duration::ZERO,
            missing_ttl: Duration::ZERO,
            link_ttl: self.link_ttl,
            max_stale: Some(Duration::ZERO),
            stale_after: self.stale_after,
            heads: self.heads,
            visibility: Visibility::Caller,
            caller_key: Some(caller_key),
            written_at: AtomicU64::new(0),
        }
    }
}

impl Mirror {
    /// A registry as the bearer of a permit may ask it.
    pub(super) fn origin_for(
        &self,
        registry: &Registry,
        forwarded: Option<&ForwardedAuthorization>,
    ) -> Result<Arc<Origin>, MirrorError> {
        let MirrorState {
            origins, callers, ..
        } = &*self.state;
        let origin = origins.get(registry).ok_or(MirrorError::NotServed)?;
        match forwarded {
            None if !origin.is_per_caller() => Ok(origin.clone()),
            Some(forwarded) if origin.is_per_caller() => Ok(Arc::new(
                origin.seen_by(forwarded, callers.caller_key(forwarded)),
            )),
            _ => Err(MirrorError::NotServed),
        }
    }

    /// `/v2/` of a registry that decides for each caller.
    ///
    /// # Errors
    /// What it said.
    pub async fn ping(
        &self,
        registry: &Registry,
        forwarded: &ForwardedAuthorization,
    ) -> Result<(), MirrorError> {
        let origin = self.origin_for(registry, Some(forwarded))?;
        let pinged = async { origin.v2()?.ping().await };
        pinged
            .await
            .map_err(|error| MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository))
    }

    /// Makes sure that the registry lets this caller have `resource`. Tags and lists are asked for anyway.
    pub(super) async fn admit_caller(
        &self,
        origin: &Origin,
        caller_key: CallerKey,
        permit: &Permit,
        resource: &Resource,
    ) -> Result<(), MirrorError> {
        let state = &self.state;
        let (registry, repository) = (permit.registry(), permit.repository());
        let records = &state.store.records;
        let linked = match resource {
            Resource::Blob(digest) => {
                let link = records
                    .open(&BlobKey::new(registry, repository, digest))
                    .await;
                link.is_ok_and(|link| link.is_some())
            }
            Resource::Manifest(Reference::Digest(digest)) => {
                let link = records
                    .open(&ManifestKey::new(registry, repository, digest))
                    .await;
                link.is_ok_and(|link| link.is_some())
            }
            _ => return Ok(()),
        };
        let key = (caller_key, registry.clone(), repository.clone());
        if linked && state.callers.admitted.contains_key(&key) {
            return Ok(());
        }
        let asked = match resource {
            Resource::Blob(digest) => state.head_blob(origin, permit, digest).await,
            Resource::Manifest(reference) => state.head_manifest(origin, permit, reference).await,
            _ => Ok(()),
        };
        state.callers.record(key, &asked);
        asked
    }

    /// What a tag points at, asked with the caller's login: the answer lets them into the repository.
    pub(super) async fn manifest_for_caller(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        tag: &Tag,
        class: AcceptClass,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let found = self.find_for_caller(origin, permit, tag, class, with_bytes);
        let found = tokio::time::timeout(UNCACHED_DEADLINE, found).await;
        let found = found.unwrap_or_else(|_| Err(MirrorError::timed_out()));
        if let Some(caller_key) = origin.caller_key {
            let (registry, repository) = (permit.registry().clone(), permit.repository().clone());
            let key = (caller_key, registry, repository);
            self.state.callers.record(key, &found);
        }
        found
    }

    async fn find_for_caller(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        tag: &Tag,
        class: AcceptClass,
        with_bytes: bool,
    ) -> Result<ManifestAnswer, MirrorError> {
        let (registry, repository) = (permit.registry(), permit.repository());
        let state = &self.state;
        let reference = Reference::Tag(tag.clone());
        let refused = |error: UpstreamError| {
            MirrorError::from_upstream(Arc::new(error), ResourceKind::Manifest)
        };
        let upstream = origin.v2().map_err(refused)?;
        let cache = CacheStatus::forward(Forward::Stale).detail("revalidated");
        // It is not kept, but ends when somebody writes.
        let asked = state
            .store
            .records
            .ask(&store::TagKey::new(registry, repository, class, tag));
        match upstream.manifest_head(repository, &reference, class).await {
            Ok(head) => {
                // What is made up for clients of the first schema can be had by its tag alone.
                let by_tag = |kind: &String| is_signed_schema1(kind);
                if let (Some(digest), Some(size)) = (head.digest, head.size)
                    && let Some(media_type) = head.media_type.filter(|kind| !by_tag(kind))
                {
                    let records = &state.store.records;
                    let link = records.ask(&ManifestKey::new(registry, repository, &digest));
                    if asked.is_current() {
                        state
                            .confirm_manifest(&link, permit, &digest, media_type, size)
                            .await;
                    }
                    let answer = self.manifest_by_digest(origin, permit, &digest, with_bytes);
                    let mut answer = answer.await?;
                    answer.cache = cache.or(answer.cache);
                    return Ok(answer);
                }
            }
            // Some registries know no HEAD here.
            Err(UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED)) => {}
            Err(error) => return Err(refused(error)),
        }
        let manifest = upstream.manifest(repository, &reference, class).await;
        let manifest = manifest.map_err(refused)?;
        let digest = manifest.head.digest;
        let digest =
            digest.unwrap_or_else(|| schema1::digest_of(Algorithm::Sha256, &manifest.bytes));
        let records = &state.store.records;
        let link = records.ask(&ManifestKey::new(registry, repository, &digest));
        let kept = state.store_manifest(&link, &digest, manifest).await?;
        Ok(ManifestAnswer {
            digest,
            media_type: kept.link.media_type.clone(),
            size: kept.link.size,
            bytes: kept.bytes,
            cache: CacheStatus::forward(Forward::UriMiss).stored(),
            stale: None,
        })
    }
}

impl MirrorState {
    async fn head_blob(
        &self,
        origin: &Origin,
        permit: &Permit,
        digest: &Digest,
    ) -> Result<(), MirrorError> {
        let (registry, repository) = (permit.registry(), permit.repository());
        let records = &self.store.records;
        let question = records.ask(&BlobKey::new(registry, repository, digest));
        let size = async { origin.v2()?.blob_head(repository, digest).await };
        let size = size
            .await
            .map_err(|error| MirrorError::from_upstream(Arc::new(error), ResourceKind::Blob))?;
        let checked_at = unix_seconds(SystemTime::now());
        let link = BlobLink { checked_at, size };
        records.answer(&question, link, Reach::Shared).await;
        Ok(())
    }

    async fn head_manifest(
        &self,
        origin: &Origin,
        permit: &Permit,
        reference: &Reference,
    ) -> Result<(), MirrorError> {
        let refused = |error| MirrorError::from_upstream(Arc::new(error), ResourceKind::Manifest);
        let (upstream, repository) = (origin.v2().map_err(refused)?, permit.repository());
        let class = AcceptClass::Full;
        let records = &self.store.records;
        let asked = match reference {
            Reference::Digest(digest) => {
                Some(records.ask(&ManifestKey::new(permit.registry(), repository, digest)))
            }
            Reference::Tag(_) => None,
        };
        let head = match upstream.manifest_head(repository, reference, class).await {
            // Some registries know no HEAD here.
            Err(UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED)) => {
                let whole = upstream.manifest(repository, reference, class).await;
                whole.map(|manifest| manifest.head)
            }
            head => head,
        };
        let head = head.map_err(refused)?;
        if let (Reference::Digest(digest), Some(asked)) = (reference, asked)
            && let (Some(kind), Some(size)) = (head.media_type, head.size)
        {
            self.confirm_manifest(&asked, permit, digest, kind, size)
                .await;
        }
        Ok(())
    }

    /// Notes that the registry has a manifest.
    async fn confirm_manifest(
        &self,
        question: &Question<ManifestLink>,
        permit: &Permit,
        digest: &Digest,
        media_type: String,
        size: u64,
    ) {
        let link = ManifestLink {
            media_type,
            size,
            checked_at: unix_seconds(SystemTime::now()),
            subject: None,
            stored: None,
        };
        let (registry, repository) = (permit.registry(), permit.repository());
        self.confirm_link(question, registry, repository, digest, link)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_apart_by_what_they_show() {
        let callers = AdmittedCallers::new();
        let forwarded = |values: &[&'static str]| {
            let values: Vec<_> = values
                .iter()
                .map(|it| HeaderValue::from_static(it))
                .collect();
            ForwardedAuthorization::new(&values)
        };
        let shown = [
            ForwardedAuthorization::NOTHING,
            forwarded(&[""]),
            forwarded(&["Bearer a"]),
            forwarded(&["Bearer b"]),
            forwarded(&["bearer a"]),
        ];
        for (one, first) in shown.iter().enumerate() {
            for (other, second) in shown.iter().enumerate() {
                let same = callers.caller_key(first) == callers.caller_key(second);
                assert_eq!(same, one == other, "{one} {other}");
            }
        }
        let elsewhere = AdmittedCallers::new();
        assert!(callers.caller_key(&shown[2]) != elsewhere.caller_key(&shown[2]));
    }
}
