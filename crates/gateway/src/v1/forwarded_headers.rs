//! The header fields of requests that are forwarded to a v1 registry.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::super::session::Session;

/// Request header fields that are forwarded: not Authorization, nor If-Modified-Since, which docker-registry answers
/// with 304 whether there is an image or not.
const FORWARDED_HEADERS: &[HeaderName] = &[header::ACCEPT, header::CONTENT_TYPE];
const CHECKSUMS: &[&str] = &["x-docker-checksum", "x-docker-checksum-payload"];

/// The header fields of a request to forward, without those that identify the client.
pub(super) fn upstream_headers(session: &Session) -> HeaderMap {
    let request = session.req_header();
    let mut headers = HeaderMap::new();
    for name in FORWARDED_HEADERS {
        for value in request.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    for name in CHECKSUMS {
        if let Some(value) = request.headers.get(*name) {
            headers.insert(*name, value.clone());
        }
    }
    let identity = HeaderValue::from_static("identity");
    headers.insert(header::ACCEPT_ENCODING, identity);
    headers
}
