//! The dry run of reads by digest: manifests and blobs.

use std::time::Duration;

use super::{DryManifest, DryRun, RequestReason};
use crate::blob_claim::negative_key as negative_blob;
use crate::error::ResourceKind;
use crate::freshness::{Freshness, is_fresh, stale_age, unix_seconds};
use crate::gate::Via;
use crate::manifest::negative_key;
use crate::source::{BlobSource, FillKey, FillSource};
use crate::{MirrorError, MirrorState};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::manifest::{AcceptClass, MAX_MANIFEST};
use oci::name::Reference;
use oci::v2::Resource;
use store::{BlobKey, ManifestKey};
use upstream::Read;

impl DryRun {
    /// A manifest by its digest.
    ///
    /// # Errors
    /// The error of such a read.
    pub fn manifest(&mut self, digest: &Digest) -> Result<DryManifest, MirrorError> {
        self.admit(&Resource::Manifest(Reference::Digest(*digest)))?;
        let gated = self.judge_manifest(digest, Via::default())?;
        let mut manifest = self.linked_manifest(digest)?;
        manifest.cache = gated.read.unwrap_or(manifest.cache);
        manifest.gate = gated.outcome;
        Ok(manifest)
    }

    /// A manifest by its digest, for a caller that is admitted; as `Mirror::manifest_by_digest`.
    pub(super) fn linked_manifest(&mut self, digest: &Digest) -> Result<DryManifest, MirrorError> {
        let reference = Reference::Digest(*digest);
        let link = self.inspect(&ManifestKey::new(self.name(), digest));
        let link = link.map(|link| link.value);
        let was_linked = self.linked.contains(digest);
        let is_linked = link.is_some() || was_linked;
        let missing = negative_key(self.name(), &reference, AcceptClass::Full);
        if !is_linked && self.state.missing.contains(&missing) {
            return Err(ResourceKind::Manifest.remembered_unknown());
        }
        let stored = link.as_ref().map_or(*digest, |link| link.stored(digest));
        let bytes = self.state.inspect_manifest_bytes(&stored);
        let size = link.as_ref().map(|link| link.size);
        let answer = |bytes, cache| DryManifest {
            digest: Some(*digest),
            media_type: link.as_ref().map(|link| link.media_type.clone()),
            bytes,
            cache,
            stale: None,
            gate: None,
        };
        if self.fetched.contains(digest) {
            return Ok(answer(bytes, CacheStatus::HIT));
        }
        let fetched = Freshness::Fetched.cache_status(false);
        if bytes.is_some() && is_linked {
            let confirmed = was_linked.then(|| unix_seconds(self.now));
            let checked_at = confirmed.or(link.as_ref().map(|link| link.checked_at));
            if let Some(age) = checked_at.and_then(|at| self.link_age(at)) {
                // A failure of it costs this client nothing.
                let read = Read::ManifestHead(&reference, AcceptClass::Full);
                let _ = self.send(read, RequestReason::LinkStale(age), None);
            }
            return Ok(answer(bytes, CacheStatus::HIT));
        }
        if is_linked && self.plan_fallback(digest)? {
            return Ok(answer(None, CacheStatus::HIT));
        }
        if bytes.is_some() {
            let read = Read::ManifestHead(&reference, AcceptClass::Full);
            self.send(read, RequestReason::NotLinked, None)?;
        } else {
            let read = Read::Manifest(&reference, AcceptClass::Full);
            self.send(read, RequestReason::NotStored, size)?;
        }
        if let Some(head) = self.said_of(&reference, AcceptClass::Full) {
            head?;
        }
        Ok(answer(bytes, fetched))
    }

    /// A blob of `size` bytes, if a manifest names its size.
    ///
    /// # Errors
    /// The error of such a read.
    pub fn blob(&mut self, digest: &Digest, size: Option<u64>) -> Result<CacheStatus, MirrorError> {
        self.admit(&Resource::Blob(*digest))?;
        self.judge_blob(digest)?;
        self.linked_blob(digest, size)
    }

    /// A blob that the gate has cleared; as `Mirror::cleared_blob`.
    pub(super) fn linked_blob(
        &mut self,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<CacheStatus, MirrorError> {
        if self.fetched.contains(digest) {
            return Ok(CacheStatus::HIT);
        }
        let link = self.inspect(&BlobKey::new(self.name(), digest));
        let link = link.map(|link| link.value);
        let missing = negative_blob(&self.permit, digest);
        if link.is_none() && self.state.missing.contains(&missing) {
            return Err(ResourceKind::Blob.remembered_unknown());
        }
        let expected = link.as_ref().and_then(|link| link.size);
        let miss = CacheStatus::forward(Forward::UriMiss);
        if self.state.contents.inspect(digest, expected).is_some() {
            let Some(link) = link else {
                self.send(Read::BlobHead(digest), RequestReason::NotLinked, None)?;
                return Ok(miss.detail("claimed").from_store());
            };
            if let Some(age) = self.link_age(link.checked_at) {
                let reason = RequestReason::LinkStale(age);
                let _ = self.send(Read::BlobHead(digest), reason, None);
            }
            return Ok(CacheStatus::HIT);
        }
        if self.plan_fallback(digest)? {
            return Ok(miss.stored());
        }
        let source = FillSource::Blob(BlobSource {
            origin: self.origin.clone(),
            name: self.name().clone(),
        });
        let fills = &self.state.contents.fills;
        if let Some(is_same) = fills.asks(&FillKey::Digest(*digest), &source) {
            // Only the right to a fill of other repositories is asked for.
            if link.is_none() && !is_same {
                self.send(Read::BlobHead(digest), RequestReason::NotLinked, None)?;
            }
            return Ok(miss.collapsed(true).stored());
        }
        let reason = if self.state.store.blobs.has_partial(digest) {
            RequestReason::Resumed
        } else {
            RequestReason::NotStored
        };
        self.send(Read::Blob(digest), reason, size.or(expected))?;
        Ok(miss.stored())
    }

    /// Plans what the fallback would ask for content that it supplies; false if it does not.
    fn plan_fallback(&mut self, digest: &Digest) -> Result<bool, MirrorError> {
        let fallback = self.state.fallback(&self.origin).cloned();
        let planned = fallback.and_then(|fallback| fallback.plan_content(self.name(), digest));
        let Some(planned) = planned else {
            return Ok(false);
        };
        self.requests.extend(planned?);
        Ok(true)
    }

    /// The age of a link that is revalidated behind the answer.
    fn link_age(&self, checked_at: u64) -> Option<Duration> {
        let is_stale = !is_fresh(checked_at, self.origin.link_ttl(), self.now);
        is_stale.then(|| stale_age(checked_at, None, self.now).unwrap_or_default())
    }

    /// The bytes of a manifest, if they are stored.
    pub(super) fn stored_manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        let link = self.inspect(&ManifestKey::new(self.name(), digest));
        let stored = link.map_or(*digest, |link| link.value.stored(digest));
        self.state.inspect_manifest_bytes(&stored)
    }
}

impl MirrorState {
    /// The bytes of stored content, unless it is too long for a manifest. Blocks on the disk.
    pub(crate) fn inspect_manifest_bytes(&self, stored: &Digest) -> Option<Vec<u8>> {
        let size = self.contents.inspect(stored, None)?;
        if size > MAX_MANIFEST as u64 {
            return None;
        }
        self.contents.inspect_small(stored)
    }
}
