//! A registry's response to a request of the gateway's own.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};

use super::blob::BlobBody;
use super::{BodyEnd, UpstreamError};

/// A successful response, its body to follow.
#[derive(Debug)]
pub struct UpstreamResponse {
    pub(super) response: reqwest::Response,
    /// The host that answered, after all redirects.
    pub(super) host: String,
}

/// A short response, read to its end.
#[derive(Debug)]
pub struct WholeResponse {
    /// As the server sent them.
    pub headers: HeaderMap,
    /// The whole body, at most as long as the request allows.
    pub bytes: Bytes,
    /// How the end of the body was recognised.
    pub end: BodyEnd,
}

impl UpstreamResponse {
    /// The status, after all redirects.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The headers, as the server sent them.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// What ends the body.
    pub fn end(&self) -> BodyEnd {
        BodyEnd::of(&self.response)
    }

    /// The body as that of a blob of `total` bytes, from byte `offset` on.
    pub fn into_blob(self, offset: u64, total: Option<u64>) -> BlobBody {
        let etag = self.headers().get(header::ETAG);
        let etag = etag.and_then(|value| value.to_str().ok().map(str::to_owned));
        let version = etag.map(|etag| (self.host, etag));
        BlobBody::received(self.response, offset, total, version)
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read_body(
    mut response: reqwest::Response,
    limit: usize,
) -> Result<Bytes, UpstreamError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > limit {
            return Err(UpstreamError::TooLarge { limit });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}
