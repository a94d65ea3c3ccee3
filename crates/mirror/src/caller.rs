//! Registries that decide for each caller: each is asked with the caller's own `Authorization`, and cached content is
//! served only to callers that it admitted a short while ago.
//!
//! A digest is served after a HEAD with that very `Authorization` gave 2xx: for this digest, or within five
//! minutes for anything of the same repository where the digest is linked. Tags and lists are revalidated every
//! time, and 404s are not remembered. Of a login only an HMAC is retained, under a key that ends with the process.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderValue, StatusCode};
use sha2::Sha256;

use super::error::ResourceKind;
use super::freshness::unix_seconds;
use super::manifest::{ManifestAnswer, UNCACHED_DEADLINE};
use super::manifest_claim::confirmed_link;
use super::origin::OriginView;
use super::tag::{TagRequest, TagTarget};
use super::{Mirror, MirrorError, MirrorState};
use access::{ForwardedAuthorization, Permit};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::{Algorithm, Digest};
use oci::manifest::{AcceptClass, is_signed_schema1};
use oci::name::{Reference, Registry, RepositoryName};
use oci::schema1;
use oci::v2::Resource;
use store::{BlobKey, BlobLink, ManifestKey, Reach};
use upstream::{Upstream, UpstreamError};

/// How long an admission to a repository counts.
const ADMITTED_TTL: Duration = Duration::from_secs(300);
/// How many admissions are remembered.
const MAX_ADMITTED: u64 = 65_536;

/// Identifies a caller within this process: an HMAC of the `Authorization`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CallerKey([u8; 32]);

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The repositories that callers were admitted to. Clones share them.
#[derive(Clone)]
pub(super) struct AdmittedCallers {
    key: Hmac<Sha256>,
    admitted: moka::sync::Cache<(CallerKey, RepositoryName), ()>,
}

impl fmt::Debug for AdmittedCallers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdmittedCallers")
    }
}

impl AdmittedCallers {
    pub fn new() -> Self {
        let mut key = [0; 32];
        // Without randomness a caller could guess another one's key.
        getrandom::fill(&mut key).expect("the system has random numbers");
        // Any length is a key.
        let key = Hmac::new_from_slice(&key).expect("a key");
        let admitted = moka::sync::Cache::builder()
            .max_capacity(MAX_ADMITTED)
            .time_to_live(ADMITTED_TTL)
            .build();
        Self { key, admitted }
    }

    /// Records what an answer to a caller's login says: an admitted caller may read the repository's cached content.
    fn record<T>(&self, key: (CallerKey, RepositoryName), answer: &Result<T, MirrorError>) {
        match answer {
            Ok(_) => self.admitted.insert(key, ()),
            Err(error) if error.revokes_link() => self.admitted.invalidate(&key),
            Err(_) => {}
        }
    }

    /// Whether a caller was admitted to a repository a short while ago.
    pub fn admits(&self, caller: CallerKey, name: &RepositoryName) -> bool {
        self.admitted.contains_key(&(caller, name.clone()))
    }

    pub fn caller_key(&self, forwarded: &ForwardedAuthorization) -> CallerKey {
        let mut mac = self.key.clone();
        match forwarded.value().map(HeaderValue::as_bytes) {
            // An empty value differs from none.
            Some(value) => {
                mac.update(b"\x01");
                mac.update(value);
            }
            None => mac.update(b"\x00"),
        }
        CallerKey(mac.finalize().into_bytes().into())
    }
}

impl Mirror {
    /// Asks for `/v2/` of a registry that decides for each caller.
    ///
    /// # Errors
    /// The registry's refusal, or why it could not be asked.
    pub async fn ping(
        &self,
        registry: &Registry,
        forwarded: &ForwardedAuthorization,
    ) -> Result<(), MirrorError> {
        let origin = self.origin_for(registry, Some(forwarded))?;
        let pinged = async { origin.upstream()?.ping().await };
        pinged
            .await
            .map_err(|error| MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository))
    }

    /// Makes sure that the registry lets this caller read `resource`. Tags and lists are revalidated anyway.
    pub(super) async fn admit_caller(
        &self,
        origin: &OriginView,
        caller_key: CallerKey,
        permit: &Permit,
        resource: &Resource,
    ) -> Result<(), MirrorError> {
        let state = &self.state;
        let records = &state.store.records;
        let is_linked = match resource {
            Resource::Blob(digest) => {
                let link = records.open(&BlobKey::new(permit.name(), digest)).await;
                link.is_ok_and(|link| link.is_some())
            }
            Resource::Manifest(Reference::Digest(digest)) => {
                let link = records.open(&ManifestKey::new(permit.name(), digest)).await;
                link.is_ok_and(|link| link.is_some())
            }
            _ => return Ok(()),
        };
        let key = (caller_key, permit.name().clone());
        if is_linked && state.callers.admitted.contains_key(&key) {
            return Ok(());
        }
        let answer = match resource {
            Resource::Blob(digest) => state.head_blob(origin, permit, digest).await,
            Resource::Manifest(reference) => state.head_manifest(origin, permit, reference).await,
            _ => Ok(()),
        };
        state.callers.record(key, &answer);
        answer
    }

    /// The manifest that a tag points at, asked with the caller's login: the answer admits them to the repository, unless
    /// the gate denies it.
    pub(super) async fn manifest_for_caller(
        &self,
        caller_key: CallerKey,
        request: TagRequest<'_>,
    ) -> Result<ManifestAnswer, MirrorError> {
        let answer = async {
            let target = self.target_for_caller(request).await?;
            self.read_gated(request, target).await
        };
        let answer = tokio::time::timeout(UNCACHED_DEADLINE, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(MirrorError::timed_out()));
        let permit = request.permit;
        let key = (caller_key, permit.name().clone());
        self.state.callers.record(key, &answer);
        answer
    }

    /// Asks with a HEAD where the tag points; registries that do not name the digest are sent a GET by tag.
    pub(super) async fn target_for_caller(
        &self,
        request: TagRequest<'_>,
    ) -> Result<TagTarget, MirrorError> {
        let TagRequest {
            origin,
            permit,
            tag,
            class,
            ..
        } = request;
        let repository = permit.repository();
        let (state, records) = (&self.state, &self.state.store.records);
        let reference = Reference::Tag(tag.clone());
        let upstream = origin.upstream().map_err(refused_manifest)?;
        let cache = CacheStatus::forward(Forward::Stale)
            .detail("revalidated")
            .from_store();
        // The pointer is not stored; the question only tells whether the tag was written meanwhile.
        let question = records.ask(&store::TagKey::new(permit.name(), class, tag));
        match upstream.manifest_head(repository, &reference, class).await {
            Ok(head) => {
                // A manifest that the upstream generates for schema 1 clients exists under its tag alone.
                let by_tag = |media_type: &String| is_signed_schema1(media_type);
                if let (Some(digest), Some(size)) = (head.digest, head.size)
                    && let Some(media_type) = head.media_type.filter(|kind| !by_tag(kind))
                {
                    let key = ManifestKey::new(permit.name(), &digest);
                    let link = records.ask(&key);
                    if question.is_current() {
                        let confirmed = confirmed_link(media_type.clone(), size);
                        state.confirm_link(&link, &key, confirmed).await;
                    }
                    return Ok(TagTarget::resolved(digest, media_type, size, cache));
                }
            }
            // Some registries do not support HEAD.
            Err(UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED)) => {}
            Err(error) => return Err(refused_manifest(error)),
        }
        let fetched = self
            .state
            .fetch_for_caller(upstream, permit, &reference, class);
        fetched.await.map(TagTarget::fetched)
    }
}

impl MirrorState {
    /// Fetches a manifest by tag with the caller's login, and stores it under its digest.
    async fn fetch_for_caller(
        &self,
        upstream: &Upstream,
        permit: &Permit,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<ManifestAnswer, MirrorError> {
        let manifest = upstream.manifest(permit.repository(), reference, class);
        let manifest = manifest.await.map_err(refused_manifest)?;
        let digest = manifest.head.digest;
        let digest =
            digest.unwrap_or_else(|| schema1::digest_of(Algorithm::Sha256, &manifest.bytes));
        let link = ManifestKey::new(permit.name(), &digest);
        let link = self.store.records.ask(&link);
        let stored = self.store_manifest(&link, &digest, manifest).await?;
        Ok(ManifestAnswer {
            digest,
            media_type: stored.link.media_type.clone(),
            size: stored.link.size,
            bytes: stored.bytes,
            cache: CacheStatus::forward(Forward::UriMiss).stored(),
            stale: None,
            warning: None,
        })
    }

    async fn head_blob(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> Result<(), MirrorError> {
        let (records, repository) = (&self.store.records, permit.repository());
        let question = records.ask(&BlobKey::new(permit.name(), digest));
        let size = async { origin.upstream()?.blob_head(repository, digest).await };
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
        origin: &OriginView,
        permit: &Permit,
        reference: &Reference,
    ) -> Result<(), MirrorError> {
        let upstream = origin.upstream().map_err(refused_manifest)?;
        let repository = permit.repository();
        let class = AcceptClass::Full;
        let records = &self.store.records;
        let key = match reference {
            Reference::Digest(digest) => Some(ManifestKey::new(permit.name(), digest)),
            Reference::Tag(_) => None,
        };
        let question = key.as_ref().map(|key| records.ask(key));
        let head = match upstream.manifest_head(repository, reference, class).await {
            // Some registries do not support HEAD.
            Err(UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED)) => {
                let whole = upstream.manifest(repository, reference, class).await;
                whole.map(|manifest| manifest.head)
            }
            head => head,
        };
        let head = head.map_err(refused_manifest)?;
        if let (Some(key), Some(question)) = (key, question)
            && let (Some(kind), Some(size)) = (head.media_type, head.size)
        {
            let link = confirmed_link(kind, size);
            self.confirm_link(&question, &key, link).await;
        }
        Ok(())
    }
}

fn refused_manifest(error: UpstreamError) -> MirrorError {
    MirrorError::from_upstream(Arc::new(error), ResourceKind::Manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_distinguished_by_their_authorization() {
        let callers = AdmittedCallers::new();
        let forwarded = |values: &[&'static str]| {
            let values: Vec<_> = values
                .iter()
                .map(|it| HeaderValue::from_static(it))
                .collect();
            ForwardedAuthorization::new(&values)
        };
        let authorizations = [
            ForwardedAuthorization::NOTHING,
            forwarded(&[""]),
            forwarded(&["Bearer a"]),
            forwarded(&["Bearer b"]),
            forwarded(&["bearer a"]),
        ];
        for (one, first) in authorizations.iter().enumerate() {
            for (other, second) in authorizations.iter().enumerate() {
                let same = callers.caller_key(first) == callers.caller_key(second);
                assert_eq!(same, one == other, "{one} {other}");
            }
        }
        let other_process = AdmittedCallers::new();
        assert!(
            callers.caller_key(&authorizations[2]) != other_process.caller_key(&authorizations[2])
        );
    }
}
