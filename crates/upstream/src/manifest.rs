//! Manifests: what a reference resolves to, and the bytes.

use bytes::Bytes;
use http::{HeaderMap, Method, header};

use super::request::RequestKind;
use super::{BodyEnd, Upstream, UpstreamError, UpstreamRequest, WholeResponse};
use oci::digest::{Algorithm, Digest};
use oci::headers::content_length;
use oci::manifest::{AcceptClass, MAX_MANIFEST, is_signed_schema1};
use oci::name::{Reference, Repository};
use oci::schema1;
use oci::v2::{Endpoint, Resource};
use telemetry::metrics::{self, Content};

/// The headers of a manifest.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// `Docker-Content-Digest`; absent where the registry sends none.
    pub digest: Option<Digest>,
    /// `Content-Type`, verbatim.
    pub media_type: Option<String>,
    /// In bytes.
    pub size: Option<u64>,
}

/// A manifest as it was received.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The headers; the digest also where a second request has proved it.
    pub head: ManifestHead,
    /// The body, verbatim.
    pub bytes: Bytes,
}

impl Upstream {
    /// Resolves a reference by a HEAD, without the bytes.
    ///
    /// # Errors
    /// [`UpstreamError::NotFound`] for a manifest that the upstream does not have; any other refusal or failure of it.
    pub async fn manifest_head(
        &self,
        repository: &Repository,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<ManifestHead, UpstreamError> {
        let request = self.manifest_request(Method::HEAD, repository, reference, class);
        let response = self.short(request).await?;
        Ok(manifest_head(response.headers()))
    }

    /// Fetches a manifest of at most 4 MiB. One without a digest header whose body only the end of the connection
    /// ends is fetched again by the digest of its bytes: had they been cut off, the upstream would not have it.
    ///
    /// # Errors
    /// [`UpstreamError::Cut`] for a manifest that was cut off; any other refusal or failure of the upstream.
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<Manifest, UpstreamError> {
        let (mut manifest, end) = self.manifest_once(repository, reference, class).await?;
        let Manifest { head, bytes } = &manifest;
        // A signed manifest is complete only with its signatures; some registries have it by tag alone.
        let signed = head.media_type.as_deref().is_some_and(is_signed_schema1);
        let named = head.digest.is_some() || matches!(reference, Reference::Digest(_));
        if named || signed || end == BodyEnd::Announced {
            return Ok(manifest);
        }
        let digest = schema1::digest_of(Algorithm::Sha256, bytes);
        let by_digest = Reference::Digest(digest);
        let again = self.manifest_once(repository, &by_digest, class).await;
        match again {
            Ok((again, _)) if again.bytes == manifest.bytes => {
                manifest.head.digest = Some(digest);
                Ok(manifest)
            }
            Ok(_) | Err(UpstreamError::NotFound) => Err(UpstreamError::Cut),
            Err(error) => Err(error),
        }
    }

    async fn manifest_once(
        &self,
        repository: &Repository,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<(Manifest, BodyEnd), UpstreamError> {
        let request = self.manifest_request(Method::GET, repository, reference, class);
        let WholeResponse {
            headers,
            bytes,
            end,
        } = self.fetch_whole(&request, MAX_MANIFEST).await?;
        let head = manifest_head(&headers);
        metrics::pulled(Content::Manifest, bytes.len());
        Ok((Manifest { head, bytes }, end))
    }

    pub(super) fn manifest_request(
        &self,
        method: Method,
        repository: &Repository,
        reference: &Reference,
        class: AcceptClass,
    ) -> UpstreamRequest {
        let path = manifest_path(repository, reference);
        let kind = match method {
            Method::GET => RequestKind::ManifestGet,
            _ => RequestKind::Other,
        };
        let request = self
            .pull(method, path, repository)
            .header(header::ACCEPT, class.upstream_accept());
        UpstreamRequest { kind, ..request }
    }
}

fn manifest_path(repository: &Repository, reference: &Reference) -> String {
    let resource = Resource::Manifest(reference.clone());
    Endpoint {
        repository: repository.clone(),
        resource,
    }
    .path()
}

fn manifest_head(headers: &HeaderMap) -> ManifestHead {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    ManifestHead {
        digest: text("docker-content-digest").and_then(|digest| digest.trim().parse().ok()),
        media_type: text("content-type").map(str::to_owned),
        size: content_length(headers),
    }
}
