//! What requests and answers are counted as.

use std::time::Duration;

use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::Exchange;
use oci::cache_status::CacheStatus;
use telemetry::metrics::{self, Answer, Answered, Content, InFlight, Resource};

/// Counts a blob that was answered with.
pub fn blob(cache: CacheStatus) {
    metrics::answered(Content::Blob, answer(cache));
}

/// Counts a manifest that was answered with: as served content where it was a GET.
pub fn manifest(head: bool, cache: CacheStatus, age: Option<Duration>) {
    if !head {
        metrics::answered(Content::Manifest, answer(cache));
    }
    stale(cache, age);
}

/// Counts an answer that may be out of date, if it may: then it has an age.
pub fn stale(cache: CacheStatus, age: Option<Duration>) {
    if age.is_some() {
        metrics::stale(cache.detail.unwrap_or("other"));
    }
}

fn answer(cache: CacheStatus) -> Answer {
    Answer {
        hit: cache.is_from_store(),
        coalesced: cache.collapsed,
    }
}

/// A request whose head was read.
pub fn begun(request: &RequestHeader) -> InFlight {
    InFlight::new(resource(request.uri.path()))
}

/// Counts how a request ended.
pub fn ended(session: &Session, exchange: &Exchange) {
    let Some(in_flight) = &exchange.in_flight else {
        return;
    };
    let (request, response) = (session.req_header(), session.response_written());
    let answered = Answered {
        method: request.method.as_str(),
        status: response.map(|response| response.status.as_u16()),
        took: exchange.started.elapsed(),
        received: session.body_bytes_read(),
        sent: session.body_bytes_sent(),
    };
    let passed = response.and_then(|response| response.headers.get("cache-status"));
    let passed = passed.is_some_and(|status| status.as_bytes().ends_with(b"fwd=bypass"));
    let content = match (response.map(|response| response.status.as_u16()), passed) {
        (Some(200 | 206), false) => resource(request.uri.path()).content(),
        _ => None,
    };
    in_flight.ended(&answered, content);
}

/// What a path is about, by its last components; a repository may be called anything. What is not an
/// endpoint at all is none of them either, so that there are not more kinds than there are names for.
fn resource(path: &str) -> Resource {
    let mut segments = path.trim_start_matches('/').split('/');
    match segments.next() {
        Some("v2") => {}
        Some("v1" | "_ping") => return Resource::V1,
        Some("token") => return Resource::Token,
        _ => return Resource::Other,
    }
    let mut last = segments.rev().map(Some).chain([None; 3]);
    let last = [(); 3].map(|()| last.next().flatten());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_paths_are_about() {
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
