//! Whether an anonymous client may read a resource. A success alone proves little: proxies in front of a registry answer
//! with pages of their own, such as a login page, so the response must show the resource.

use std::collections::HashMap;

use http::{HeaderMap, Method, StatusCode, header};
use serde::de::IgnoredAny;

use super::request::{AuthSource, RequestKind};
use super::{MAX_PAGE, Upstream, UpstreamError, UpstreamRequest, WholeResponse};
use oci::digest::Digest;
use oci::manifest::{
    AcceptClass, DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, OCI_INDEX,
    OCI_MANIFEST,
};
use oci::name::{Reference, Repository};
use oci::v2::{Endpoint, Resource};

const MANIFESTS: [&str; 6] = [
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_INDEX,
    OCI_MANIFEST,
];
/// Media types that servers use for unknown content.
const BYTES: [&str; 7] = [
    "application/octet-stream",
    "binary/octet-stream",
    "application/gzip",
    "application/x-gzip",
    "application/x-tar",
    "application/zstd",
    "application/zip",
];

impl Upstream {
    /// Requests something of a repository without the account: whether it is public.
    ///
    /// # Errors
    /// [`UpstreamError::Denied`] where the registry refuses, or answers with something else than the resource; any other
    /// refusal or failure of the upstream.
    pub async fn ask_as_anybody(
        &self,
        repository: &Repository,
        resource: &Resource,
    ) -> Result<(), UpstreamError> {
        let mut request = self.anonymous_request(repository, resource);
        if request.method == Method::GET {
            let WholeResponse { bytes, .. } = self.fetch_whole(&request, MAX_PAGE).await?;
            return proven(is_list(resource, &bytes));
        }
        let response = match self.short(request.clone()).await {
            // Some registries have no HEAD.
            Err(UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED)) => {
                request.method = Method::GET;
                if let Resource::Manifest(_) = resource {
                    request.kind = RequestKind::ManifestGet;
                }
                self.short(request).await?
            }
            response => response?,
        };
        proven(shows(resource, response.headers()))
    }

    pub(super) fn anonymous_request(
        &self,
        repository: &Repository,
        resource: &Resource,
    ) -> UpstreamRequest {
        let method = match resource {
            Resource::Manifest(_) | Resource::Blob(_) => Method::HEAD,
            // Not every registry has HEAD for lists.
            _ => Method::GET,
        };
        let endpoint = Endpoint {
            repository: repository.clone(),
            resource: resource.clone(),
        };
        let accept = AcceptClass::Full.upstream_accept();
        let request = self
            .pull(method, endpoint.path(), repository)
            .header(header::ACCEPT, accept);
        UpstreamRequest {
            auth: AuthSource::Anonymous,
            ..request
        }
    }
}

/// A success without the resource is a refusal: most likely a page that asks for a login.
fn proven(shown: bool) -> Result<(), UpstreamError> {
    shown
        .then_some(())
        .ok_or(UpstreamError::Denied(StatusCode::UNAUTHORIZED))
}

/// Whether a body is the list of tags or referrers that was asked for.
#[allow(
    clippy::zero_sized_map_values,
    reason = "the keys of an object cannot be read as a set"
)]
fn is_list(resource: &Resource, body: &[u8]) -> bool {
    let key = match resource {
        Resource::Tags => "tags",
        Resource::Referrers(_) => "manifests",
        _ => return false,
    };
    let members = serde_json::from_slice::<HashMap<String, IgnoredAny>>(body);
    members.is_ok_and(|members| members.contains_key(key))
}

/// Whether the headers of a success show the resource: by its digest, or by a media type that nothing else has.
fn shows(resource: &Resource, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let told = text("docker-content-digest");
    let told = told.and_then(|digest| digest.trim().parse::<Digest>().ok());
    let kind = text(header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let is_one_of = |kinds: &[&str]| kinds.contains(&kind.as_str());
    match resource {
        Resource::Blob(digest) => match told {
            Some(told) => told == *digest,
            None => is_one_of(&BYTES) || kind.starts_with("application/vnd."),
        },
        Resource::Manifest(Reference::Digest(digest)) if told.is_some() => told == Some(*digest),
        Resource::Manifest(_) => told.is_some() || is_one_of(&MANIFESTS),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_a_resource() {
        const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        const OTHER: &str =
            "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
        let digest: Digest = D.parse().expect("a digest");
        let blob = Resource::Blob(digest);
        let by_digest = Resource::Manifest(Reference::Digest(digest));
        let by_tag = Resource::Manifest("latest".parse().expect("a tag"));
        let html = "text/html; charset=utf-8";
        for (resource, kind, told, expected) in [
            (&blob, "application/octet-stream", "", true),
            (&blob, "Application/Octet-Stream", "", true),
            (
                &blob,
                "application/vnd.oci.image.layer.v1.tar+gzip",
                "",
                true,
            ),
            (&blob, "", D, true),
            (&blob, html, D, true),
            (&blob, html, OTHER, false),
            (&blob, "application/octet-stream", OTHER, false),
            (&blob, html, "", false),
            (&blob, "application/json", "", false),
            (&blob, "", "", false),
            (&by_digest, OCI_MANIFEST, "", true),
            (&by_digest, "application/json", D, true),
            (&by_digest, OCI_MANIFEST, OTHER, false),
            (&by_digest, html, "", false),
            (
                &by_tag,
                "application/vnd.oci.image.index.v1+json; a=b",
                "",
                true,
            ),
            (&by_tag, "application/json", OTHER, true),
            (&by_tag, "application/json", "", false),
            (&by_tag, html, "", false),
            (&by_tag, html, "no digest", false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("content-type", kind), ("docker-content-digest", told)] {
                if !value.is_empty() {
                    headers.insert(name, value.parse().expect("a value"));
                }
            }
            assert_eq!(
                shows(resource, &headers),
                expected,
                "{resource:?} {kind} {told}"
            );
        }
    }

    #[test]
    fn what_is_a_list() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let referrers = Resource::Referrers(digest.parse().expect("a digest"));
        for (resource, body, expected) in [
            (&Resource::Tags, r#"{"name":"a","tags":["b"]}"#, true),
            (&Resource::Tags, r#"{"name":"a","tags":null}"#, true),
            (&Resource::Tags, r#"{"manifests":[]}"#, false),
            (&Resource::Tags, r#"{"login":"/login"}"#, false),
            (&Resource::Tags, r#"["tags"]"#, false),
            (&Resource::Tags, "<html>tags</html>", false),
            (&Resource::Tags, "", false),
            (&referrers, r#"{"schemaVersion":2,"manifests":[]}"#, true),
            (&referrers, r#"{"tags":[]}"#, false),
        ] {
            assert_eq!(is_list(resource, body.as_bytes()), expected, "{body}");
        }
    }
}
