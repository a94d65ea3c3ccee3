//! Manifest claims: asking the upstream whether a repository has a manifest, storing its bytes and linking it.

use std::sync::Arc;
use std::time::SystemTime;

use super::caller::CallerKey;
use super::error::ResourceKind;
use super::freshness::{is_fresh, unix_seconds};
use super::manifest::{FetchedManifest, ReadMethod, UNCACHED_DEADLINE, negative_key};
use super::origin::OriginView;
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use oci::digest::Digest;
use oci::manifest::{AcceptClass, facts};
use oci::name::Reference;
use oci::schema1;
use store::{CommitError, ManifestKey, ManifestLink, Mismatch, Question, Reach, warn_degraded};
use telemetry::metrics;
use upstream::{Manifest, UpstreamError};

/// A manifest of a repository, and how the upstream is asked for it.
type ClaimedManifest = (ManifestKey, ReadMethod);
/// Identifies the requests that share one claim.
pub(super) type ManifestRequestKey = (ClaimedManifest, Option<CallerKey>, u64);

/// The question whether a repository has a manifest. Its answer is dropped if a write ends first.
pub(super) struct ManifestClaim {
    link: Question<ManifestLink>,
    missing: runtime::generation::Question<super::negative_cache::NegativeKey>,
}

impl Mirror {
    /// Makes sure that a repository has a manifest; also says whether the request was collapsed into another one. A
    /// link is no answer if it was checked at `known_at` or before.
    pub(super) async fn claim_manifest(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
        method: ReadMethod,
        known_at: Option<u64>,
    ) -> (Result<FetchedManifest, MirrorError>, bool) {
        let state = &self.state;
        let key = (ManifestKey::new(permit.name(), digest), method);
        let claim = state.ask_manifest(&key.0);
        let request_key = (key.clone(), origin.caller_key(), claim.link.generation());
        let start = || {
            let (state, origin) = (state.clone(), origin.clone());
            async move { state.run_claim(&origin, &key, &claim, known_at).await }
        };
        let fetching = state.manifest_requests.join(request_key, start);
        let Ok((fetched, collapsed)) = tokio::time::timeout(UNCACHED_DEADLINE, fetching).await
        else {
            return (Err(MirrorError::timed_out()), false);
        };
        let mut fetched = fetched.unwrap_or(Err(MirrorError::Internal));
        if let Err(MirrorError::Unknown { .. }) = &fetched
            && let Some(fallback) = state.fallback(origin)
            && let Some(link) = fallback.manifest(permit.name(), digest).await
        {
            let bytes = state.fallback_manifest_bytes(origin, digest).await;
            fetched = Ok(FetchedManifest { link, bytes });
        }
        (fetched, collapsed)
    }
}

impl MirrorState {
    /// Whether a GET of a repository's manifest is in flight for the same caller.
    pub(super) fn is_fetching(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> bool {
        let key = ManifestKey::new(permit.name(), digest);
        let generation = self.ask_manifest(&key).link.generation();
        let key = (key, ReadMethod::Get);
        self.manifest_requests
            .is_running(&(key, origin.caller_key(), generation))
    }

    /// Begins to ask whether a repository has a manifest.
    fn ask_manifest(&self, key: &ManifestKey) -> ManifestClaim {
        let reference = Reference::Digest(key.digest);
        let missing = negative_key(&key.name, &reference, AcceptClass::Full);
        ManifestClaim {
            link: self.store.records.ask(key),
            missing: self.missing.ask(missing),
        }
    }

    /// Asks the upstream, by a GET that fetches the bytes or by a HEAD.
    async fn run_claim(
        &self,
        origin: &OriginView,
        key: &ClaimedManifest,
        claim: &ManifestClaim,
        known_at: Option<u64>,
    ) -> Result<FetchedManifest, MirrorError> {
        if let Some(fetched) = self.fetched_meanwhile(origin, key, known_at).await {
            return Ok(fetched);
        }
        let (manifest, method) = key;
        match head_or_get(origin, manifest, *method).await {
            Ok(ClaimAnswer::Confirmed(link)) => {
                let link = self.confirm_link(&claim.link, manifest, link);
                let (link, bytes) = (link.await, None);
                Ok(FetchedManifest { link, bytes })
            }
            Ok(ClaimAnswer::Fetched(fetched)) => {
                let digest = &manifest.digest;
                self.store_manifest(&claim.link, digest, fetched).await
            }
            Err(error) => Err(self.manifest_error(origin, claim, error).await),
        }
    }

    /// Maps the upstream's refusal to the client's error, and remembers a 404.
    async fn manifest_error(
        &self,
        origin: &OriginView,
        claim: &ManifestClaim,
        error: UpstreamError,
    ) -> MirrorError {
        if matches!(error, UpstreamError::NotFound) {
            self.missing.remember(&claim.missing, origin.missing_ttl());
            self.store.records.answer_absent(&claim.link).await;
        }
        MirrorError::from_upstream(Arc::new(error), ResourceKind::Manifest)
    }

    /// The manifest, if another request fetched it after this one looked and before this one asks.
    async fn fetched_meanwhile(
        &self,
        origin: &OriginView,
        (key, method): &ClaimedManifest,
        known_at: Option<u64>,
    ) -> Option<FetchedManifest> {
        let link = self.store.records.open(key).await.ok()??;
        if !is_fresh(link.checked_at, origin.link_ttl(), SystemTime::now()) {
            return None;
        }
        let bytes = match method {
            ReadMethod::Head if known_at.is_some_and(|known_at| link.checked_at <= known_at) => {
                return None;
            }
            ReadMethod::Head => None,
            ReadMethod::Get => Some(self.local_bytes(&link.stored(&key.digest)).await?),
        };
        Some(FetchedManifest { link, bytes })
    }

    /// Verifies a manifest, stores its bytes, and links it if the question is still current. A failed store does not
    /// withhold the manifest from the client.
    ///
    /// # Errors
    /// [`MirrorError::DigestMismatch`] if the bytes are not those of `digest`.
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

    /// Verifies a manifest and stores its bytes. Returns the link to record for repositories that have it.
    ///
    /// # Errors
    /// [`MirrorError::DigestMismatch`] if the bytes are not those of `digest`.
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
        let (blobs, body) = (self.store.blobs.clone(), bytes.clone());
        match tokio::task::spawn_blocking(move || blobs.put(&actual, &body)).await {
            Ok(Err(error)) => warn_degraded("a manifest cannot be stored", &error),
            Ok(Ok(())) => {
                self.contents.memory.insert(actual, &bytes);
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

    /// Records a link that the upstream confirmed without the bytes; facts that only the bytes tell are retained.
    pub(super) async fn confirm_link(
        &self,
        question: &Question<ManifestLink>,
        key: &ManifestKey,
        mut link: ManifestLink,
    ) -> Arc<ManifestLink> {
        let records = &self.store.records;
        let known = records.open(key).await;
        if let Some(known) = known.ok().flatten() {
            (link.subject, link.stored) = (known.subject, known.stored);
        }
        let link = records.answer(question, link, Reach::Shared).await;
        link.into_record()
    }
}

/// The upstream's positive answer to a claim.
enum ClaimAnswer {
    Confirmed(ManifestLink),
    Fetched(Manifest),
}

/// Asks the upstream by a HEAD, or by a GET where the HEAD does not tell enough.
async fn head_or_get(
    origin: &OriginView,
    key: &ManifestKey,
    method: ReadMethod,
) -> Result<ClaimAnswer, UpstreamError> {
    let (repository, class) = (&key.name.repository, AcceptClass::Full);
    let reference = Reference::Digest(key.digest);
    let upstream = origin.upstream()?;
    if method == ReadMethod::Head {
        match upstream.manifest_head(repository, &reference, class).await {
            Ok(head) => {
                if let (Some(media_type), Some(size)) = (head.media_type, head.size) {
                    return Ok(ClaimAnswer::Confirmed(confirmed_link(media_type, size)));
                }
            }
            // Some registries do not support HEAD.
            Err(UpstreamError::Status(http::StatusCode::METHOD_NOT_ALLOWED)) => {}
            Err(error) => return Err(error),
        }
    }
    let manifest = upstream.manifest(repository, &reference, class).await?;
    Ok(ClaimAnswer::Fetched(manifest))
}

/// The link of a manifest that a HEAD confirmed now.
pub(super) fn confirmed_link(media_type: String, size: u64) -> ManifestLink {
    ManifestLink {
        media_type,
        size,
        checked_at: unix_seconds(SystemTime::now()),
        subject: None,
        stored: None,
    }
}
