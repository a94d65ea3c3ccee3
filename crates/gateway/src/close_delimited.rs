//! Answers of a registry that are delimited by the close of their connection (RFC 9112 §6.3): a truncated one looks
//! whole, so that those that can be verified are relayed, and the others refused.

#[cfg(feature = "v1")]
use http::header;
use http::{Method, StatusCode};

use oci::digest::Digest;
use oci::name::Reference;
use oci::v2::Resource;
use upstream::{Passed, UpstreamError, is_whole_json};

/// The message if the answer cannot be verified.
pub const UNPROVEN: &str =
    "the registry's answer has neither a length nor a digest that tells whether it is whole";
/// The message if the verification fails.
pub const TRUNCATED: &str = "the registry's answer was cut off";
/// The limit of a JSON body, in bytes.
const MAX_JSON: usize = 8 << 20;

/// How a body is checked to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletenessCheck {
    /// By its digest.
    Digest(Digest),
    /// By parsing it: JSON delimits itself.
    Json,
    /// Not at all, since the status is what counts: a body that is not whole JSON is dropped.
    Status,
}

/// The check for an answer of the v2 API; `None` if there is none.
pub fn of_v2(method: &Method, resource: &Resource, passed: &Passed) -> Option<CompletenessCheck> {
    if *method != Method::GET || !passed.status.is_success() {
        return Some(CompletenessCheck::Status);
    }
    let named = match resource {
        Resource::Blob(digest) | Resource::Manifest(Reference::Digest(digest)) => Some(*digest),
        Resource::Manifest(Reference::Tag(_)) => {
            let named = passed.headers.get("docker-content-digest");
            named.and_then(|digest| digest.to_str().ok()?.trim().parse().ok())
        }
        // Lists, and the status of an upload.
        _ => return Some(CompletenessCheck::Json),
    };
    // The digest of a whole verifies no part.
    let whole = passed.status == StatusCode::OK;
    named.filter(|_| whole).map(CompletenessCheck::Digest)
}

/// The check for an answer of the v1 API, whose layers have no digest; `None` if there is none.
#[cfg(feature = "v1")]
pub fn of_v1(method: &Method, passed: &Passed) -> Option<CompletenessCheck> {
    if *method != Method::GET || !passed.status.is_success() {
        return Some(CompletenessCheck::Status);
    }
    let kind = passed.headers.get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    is_json.then_some(CompletenessCheck::Json)
}

/// Reads a body of at most 8 MiB that is whole JSON; `None` for others.
pub async fn json(mut passed: Passed) -> Option<bytes::Bytes> {
    let bytes = whole(&mut passed, MAX_JSON).await.ok()??;
    is_whole_json(&bytes).then_some(bytes)
}

/// Reads a body of at most `limit` bytes; `None` for a longer one.
///
/// # Errors
/// [`UpstreamError`]: the body is incomplete.
pub async fn whole(
    passed: &mut Passed,
    limit: usize,
) -> Result<Option<bytes::Bytes>, UpstreamError> {
    let mut bytes = bytes::BytesMut::new();
    while let Some(chunk) = passed.next().await? {
        if bytes.len() + chunk.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.freeze()))
}
