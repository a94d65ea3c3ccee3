//! Answers of a registry that only the end of their connection ends: one that was cut off looks whole. What can be
//! verified is passed on, and what cannot is refused.

#[cfg(feature = "v1")]
use http::header;
use http::{Method, StatusCode};

use mirror::{Passed, PassedError, is_whole_json};
use oci::digest::Digest;
use oci::name::Reference;
use oci::v2::Resource;

/// What is said where there is no proof.
pub const UNPROVEN: &str =
    "the registry's answer has neither a length nor a digest that tells whether it is whole";
/// What is said where the proof fails.
pub const CUT: &str = "the registry's answer was cut off";
/// The most that is held in memory, in bytes.
const MOST: usize = 8 << 20;

/// What tells whether a body is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletenessCheck {
    /// Its digest.
    Digest(Digest),
    /// JSON ends itself.
    Json,
    /// The status says what matters: a body that is not whole JSON is left out.
    Status,
}

/// The proof for an answer to a request of the v2 API; `None` where nobody could tell.
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
        // Lists, and how far an upload is.
        _ => return Some(CompletenessCheck::Json),
    };
    // The digest is the whole's, and no part's.
    let whole = passed.status == StatusCode::OK;
    named.filter(|_| whole).map(CompletenessCheck::Digest)
}

/// The proof for an answer to a request of the v1 API. A layer names no digest.
#[cfg(feature = "v1")]
pub fn of_v1(method: &Method, passed: &Passed) -> Option<CompletenessCheck> {
    if *method != Method::GET || !passed.status.is_success() {
        return Some(CompletenessCheck::Status);
    }
    let kind = passed.headers.get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    is_json.then_some(CompletenessCheck::Json)
}

/// Reads a body of at most 8 MiB that is whole JSON; `None` for any other.
pub async fn json(mut passed: Passed) -> Option<bytes::Bytes> {
    let bytes = whole(&mut passed, MOST).await.ok()??;
    is_whole_json(&bytes).then_some(bytes)
}

/// Reads a body of at most `most` bytes; `None` for a longer one.
///
/// # Errors
/// When it is broken off.
pub async fn whole(passed: &mut Passed, most: usize) -> Result<Option<bytes::Bytes>, PassedError> {
    let mut bytes = bytes::BytesMut::new();
    while let Some(piece) = passed.next().await? {
        if bytes.len() + piece.len() > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes.freeze()))
}
