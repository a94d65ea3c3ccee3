//! Header fields that both sides of the gateway read.

use http::{HeaderMap, header};

/// The `Content-Length` in bytes; `None` if absent or invalid.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
