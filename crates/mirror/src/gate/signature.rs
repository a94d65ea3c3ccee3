//! Finding and verifying the signatures of a manifest: those at cosign's tag, and those among its referrers.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::super::Mirror;
use super::super::error::MirrorError;
use super::super::manifest::ReadMethod;
use super::super::origin::OriginView;
use super::super::tag::TagRequest;
use super::Cleared;
use super::check::GateCheck;
use ::gate::{Fingerprint, is_signature_of};
use access::Permit;
use oci::cosign::{ARTIFACT_TYPE, MAX_PAYLOAD, signature_tag, signatures};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::v2::{Query, Resource};

/// The most signature manifests of one digest that are read.
const MAX_REFERRERS: usize = 16;

/// A list of referrers.
#[derive(Deserialize)]
struct Referrers {
    manifests: Vec<Referrer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    digest: String,
    artifact_type: Option<String>,
}

impl Mirror {
    /// Whether a manifest is served only once a signature of it is verified, and none has been yet.
    pub(in super::super) async fn lacks_signature(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
    ) -> bool {
        let Some(gate) = origin
            .enforced_gate()
            .filter(|gate| !gate.keys().is_empty())
        else {
            return false;
        };
        let check = self.gate_check(gate, origin, permit);
        let facts = check.records().manifest(digest).await;
        gate.lacks_signature(check.name(), digest, &facts)
    }

    /// Looks for the signature of a manifest, so that it is at hand when the gate asks for it.
    ///
    /// # Errors
    /// Why the registry could not be asked.
    pub(in super::super) fn find_signature<'a>(
        &'a self,
        origin: &'a OriginView,
        permit: &'a Permit,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), MirrorError>> {
        Box::pin(async move {
            match origin.gate() {
                Some(gate) => {
                    let check = self.gate_check(gate, origin, permit);
                    check.signer(digest).await.map(drop)
                }
                None => Ok(()),
            }
        })
    }
}

impl GateCheck<'_> {
    /// The key that signed a manifest; `None`: none of them.
    ///
    /// # Errors
    /// Why the registry could not be asked. What is not known to be signed is not served.
    pub async fn signer(&self, digest: &Digest) -> Result<Option<Fingerprint>, MirrorError> {
        let by_tag = self.signer_by_tag(digest).await;
        if let Ok(Some(key)) = by_tag {
            return Ok(Some(key));
        }
        match self.signer_by_referrers(digest).await {
            Ok(None) => by_tag,
            found => found,
        }
    }

    /// By the manifest that cosign's tag leads to.
    async fn signer_by_tag(&self, digest: &Digest) -> Result<Option<Fingerprint>, MirrorError> {
        let Some(tag) = signature_tag(digest) else {
            return Ok(None);
        };
        let request = TagRequest {
            origin: self.origin,
            permit: self.permit,
            tag: &tag,
            class: AcceptClass::Full,
            method: ReadMethod::Get,
        };
        let found = async {
            let target = Box::pin(self.mirror.target_of(request)).await?;
            let digest = target.digest();
            let answer = self
                .mirror
                .read_target(request, target, Cleared::of(&digest));
            Box::pin(answer).await
        };
        let Some(answer) = unless_unknown(found.await)? else {
            return Ok(None);
        };
        self.verify(digest, answer.bytes).await
    }

    /// By the signature manifests that name the digest as their subject.
    async fn signer_by_referrers(
        &self,
        digest: &Digest,
    ) -> Result<Option<Fingerprint>, MirrorError> {
        let query = Query::default().with("artifactType", ARTIFACT_TYPE);
        let resource = Resource::Referrers(*digest);
        let page = self
            .mirror
            .read_page(self.origin, self.permit, &resource, &query);
        let Some(page) = unless_unknown(Box::pin(page).await)? else {
            return Ok(None);
        };
        let Ok(list) = serde_json::from_slice::<Referrers>(&page.page().bytes) else {
            return Ok(None);
        };
        let of_type =
            |referrer: &Referrer| referrer.artifact_type.as_deref() == Some(ARTIFACT_TYPE);
        let found = list.manifests.iter().filter(|referrer| of_type(referrer));
        for referrer in found.take(MAX_REFERRERS) {
            let Ok(signature) = referrer.digest.parse::<Digest>() else {
                continue;
            };
            let (cleared, method) = (Cleared::of(&signature), ReadMethod::Get);
            let answer = self
                .mirror
                .manifest_by_digest(self.origin, self.permit, cleared, method);
            if let Some(answer) = unless_unknown(Box::pin(answer).await)?
                && let Some(key) = self.verify(digest, answer.bytes).await?
            {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The key that signed a digest by one of the signatures of a manifest.
    async fn verify(
        &self,
        digest: &Digest,
        manifest: Option<Bytes>,
    ) -> Result<Option<Fingerprint>, MirrorError> {
        for layer in signatures(&manifest.unwrap_or_default()) {
            let payload = self.small_blob(&layer.payload, MAX_PAYLOAD).await;
            let Some(payload) = unless_unknown(payload)?.flatten() else {
                continue;
            };
            let key = is_signature_of(digest, &payload, &layer, self.gate.keys());
            if key.is_some() {
                return Ok(key);
            }
        }
        Ok(None)
    }
}

/// `None` for what the registry does not have.
fn unless_unknown<T>(found: Result<T, MirrorError>) -> Result<Option<T>, MirrorError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(MirrorError::Unknown { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
