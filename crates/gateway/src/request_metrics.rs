//! Counts requests and responses.

use std::time::Duration;

use pingora_http::RequestHeader;

use super::context::RequestContext;
use super::session::Session;
use gate::{Denial, Mode};
use mirror::Stale;
use oci::cache_status::{CacheOutcome, CacheStatus, Forward};
use telemetry::metrics::{self, Answer, Answered, Content, InFlight, Resource};

/// Counts a response with a blob.
pub fn blob(cache: CacheStatus) {
    metrics::answered(Content::Blob, answer(cache));
}

/// Counts a response with a manifest.
pub fn manifest(cache: CacheStatus) {
    metrics::answered(Content::Manifest, answer(cache));
}

/// Counts a response if it is stale.
pub fn stale(stale: Option<Stale>) {
    if let Some(stale) = stale {
        metrics::stale(stale.reason.as_str());
    }
}

/// Counts a response that denies a request by the gate of its registry.
pub fn gate_denied(denial: &Denial) {
    let (registry, rule) = (denial.name.registry.as_str(), denial.rule.as_str());
    metrics::gate_denied(registry, rule, Mode::Enforce.as_str());
}

fn answer(cache: CacheStatus) -> Answer {
    Answer {
        hit: cache.outcome() == CacheOutcome::Hit,
        coalesced: cache.is_collapsed(),
    }
}

/// Counts a request whose head was read as in flight.
pub fn start(request: &RequestHeader) -> InFlight {
    InFlight::new(resource(request.uri.path()))
}

/// Counts the end of a request that took so long.
pub fn finish(session: &Session, context: &RequestContext, took: Duration) {
    let (request, sent) = (session.req_header(), session.sent_head());
    let status = sent.map(|sent| sent.status.as_u16());
    let counted = Answered {
        method: request.method.as_str(),
        status,
        took,
        received: session.bytes_received(),
        sent: session.bytes_sent(),
    };
    let bypassed = sent.is_some_and(|sent| sent.cache.forwarded() == Some(Forward::Bypass));
    let kind = match (status, bypassed) {
        (Some(200 | 206), false) => context.in_flight.resource().content(),
        _ => None,
    };
    context.in_flight.ended(&counted, kind);
}

/// The resource of a path, by its last components, since a repository may have any name. All paths outside the API
/// are `Other`, which bounds the values of the label.
fn resource(path: &str) -> Resource {
    let path = path.trim_start_matches('/');
    let first = path.find('/').map_or(path, |end| &path[..end]);
    let mut rest = match first {
        "v2" => path.get(first.len() + 1..),
        "v1" | "_ping" => return Resource::V1,
        "token" => return Resource::Token,
        _ => return Resource::Other,
    };
    let last = [(); 3].map(|()| take_last(&mut rest));
    match last {
        [None | Some(""), None, _] => Resource::Base,
        [Some("_catalog"), None, _] => Resource::Catalog,
        [Some("list"), Some("tags"), Some(_)] => Resource::Tags,
        [Some("" | "uploads"), Some("blobs" | "uploads"), Some(_)] => Resource::BlobUpload,
        [Some(_), Some("uploads"), Some("blobs")] => Resource::BlobUploadChunk,
        [Some(_), Some("manifests"), Some(_)] => Resource::Manifest,
        [Some(_), Some("blobs"), Some(_)] => Resource::Blob,
        [Some(_), Some("referrers"), Some(_)] => Resource::Referrers,
        _ => Resource::Other,
    }
}

/// Takes the last segment of what is left of a path.
fn take_last<'a>(rest: &mut Option<&'a str>) -> Option<&'a str> {
    let path = (*rest)?;
    let slash = memchr::memrchr(b'/', path.as_bytes());
    *rest = slash.map(|slash| &path[..slash]);
    Some(slash.map_or(path, |slash| &path[slash + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_of_paths() {
        for (path, expected) in [
            ("/v2/", Resource::Base),
            ("/v2", Resource::Base),
            ("/v2/_catalog", Resource::Catalog),
            ("/v2/a/b/manifests/latest", Resource::Manifest),
            ("/v2/a/blobs/sha256:00", Resource::Blob),
            ("/v2/a/blobs/uploads/", Resource::BlobUpload),
            ("/v2/a/blobs/uploads", Resource::BlobUpload),
            ("/v2/a/blobs/uploads/0-1", Resource::BlobUploadChunk),
            ("/v2/a/tags/list", Resource::Tags),
            ("/v2/a/referrers/sha256:00", Resource::Referrers),
            ("/v2/blobs/manifests/tags/list", Resource::Tags),
            ("/v2/manifests/x", Resource::Other),
            ("/v1/_ping", Resource::V1),
            ("/_ping", Resource::V1),
            ("/token", Resource::Token),
            ("/", Resource::Other),
            ("/v2/a", Resource::Other),
            ("/v20/a/manifests/x", Resource::Other),
        ] {
            assert_eq!(resource(path), expected, "{path}");
        }
    }
}
