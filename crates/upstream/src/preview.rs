//! Previews of requests: what would be sent, and whether a limit holds it back. Nothing is sent.

use std::time::Instant;

use http::Method;

use super::request::RequestKind;
use super::{Upstream, UpstreamError, UpstreamRequest};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Reference, Repository};
use oci::v2::{Endpoint, Query, Resource};

/// The registry whose rate limit is known: it counts GETs of manifests.
const HUB: &str = "docker.io";

/// A read of a repository, as the functions of [`Upstream`] send it.
#[derive(Clone, Copy, Debug)]
pub enum Read<'a> {
    /// [`Upstream::manifest_head`]
    ManifestHead(&'a Reference, AcceptClass),
    /// [`Upstream::manifest`]
    Manifest(&'a Reference, AcceptClass),
    /// [`Upstream::blob_head`]
    BlobHead(&'a Digest),
    /// [`Upstream::blob`], from the first byte.
    Blob(&'a Digest),
    /// [`Upstream::page`] of the tags.
    Tags(&'a Query),
    /// [`Upstream::ask_as_anybody`]
    Anonymous(&'a Resource),
}

/// A request that would be sent.
#[derive(Debug)]
pub struct Preview {
    /// HEAD or GET.
    pub method: Method,
    /// Where to: redirects lead on from there.
    pub url: String,
    /// Whether the registry counts it against its limit of pulls.
    pub is_counted: bool,
    /// Why it would not be sent now.
    pub held_back: Option<UpstreamError>,
}

impl Upstream {
    /// The first request of a read at `now`.
    pub fn preview(&self, repository: &Repository, read: Read<'_>, now: Instant) -> Preview {
        let manifest =
            |method, reference, class| self.manifest_request(method, repository, reference, class);
        let request = match read {
            Read::ManifestHead(reference, class) => manifest(Method::HEAD, reference, class),
            Read::Manifest(reference, class) => manifest(Method::GET, reference, class),
            Read::BlobHead(digest) => self.blob_head_request(repository, digest),
            Read::Blob(digest) => self.blob_request(repository, digest, None),
            Read::Tags(query) => {
                let endpoint = Endpoint {
                    repository: repository.clone(),
                    resource: Resource::Tags,
                };
                self.page_request(&endpoint, query)
            }
            Read::Anonymous(resource) => self.anonymous_request(repository, resource),
        };
        self.preview_request(&request, now)
    }

    /// A request at `now`.
    pub fn preview_request(&self, request: &UpstreamRequest, now: Instant) -> Preview {
        let transport = &self.transport;
        let keys = transport.keys(request);
        let sender = transport
            .accounts
            .sender(&request.auth, request.kind, &[], now);
        let admitted = sender.and_then(|_| transport.limits.circuit.admit(&keys, now));
        let is_hub = || transport.counted.registry() == HUB;
        let has_limit = || transport.accounts.states_a_limit(now);
        Preview {
            method: request.method.clone(),
            url: format!("{}{}", self.origin(), request.path),
            is_counted: request.kind == RequestKind::ManifestGet && (is_hub() || has_limit()),
            held_back: match admitted {
                _ if transport.absent => Some(UpstreamError::NotFound),
                admitted => admitted.err(),
            },
        }
    }
}
