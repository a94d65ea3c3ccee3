//! Blobs: whether a repository has one, and its bytes, whole or a range.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use tokio::sync::mpsc;

use super::peer::PeerBody;
use super::{Upstream, UpstreamError, UpstreamRequest, UpstreamResponse};
use oci::digest::Digest;
use oci::headers::content_length;
use oci::name::Repository;
use oci::v2::{Endpoint, Resource};
use telemetry::metrics::{self, Content};

/// A blob's body, headers received.
#[derive(Debug)]
pub struct BlobBody {
    /// The length of the whole blob in bytes, where it was announced.
    pub total: Option<u64>,
    /// Where this body begins in the blob.
    pub offset: u64,
    /// The host that sends it and its `ETag`: a resumed download must have the same.
    pub version: Option<(String, String)>,
    bytes: BlobBytes,
}

#[derive(Debug)]
enum BlobBytes {
    Response(reqwest::Response),
    Peer(PeerBody),
    /// Produced by the gateway from another body.
    Generated(mpsc::Receiver<Result<Bytes, UpstreamError>>),
}

impl BlobBody {
    pub(super) const fn received(
        response: reqwest::Response,
        offset: u64,
        total: Option<u64>,
        version: Option<(String, String)>,
    ) -> Self {
        Self {
            total,
            offset,
            version,
            bytes: BlobBytes::Response(response),
        }
    }

    /// The same body as one of another gateway, whose last `tail` bytes arrive once they are verified.
    pub(super) fn of_peer(self, tail: u64) -> Self {
        let Self {
            total,
            offset,
            bytes,
            ..
        } = self;
        let tail_from = total.map(|total| total - tail.min(total));
        Self {
            total,
            offset,
            version: None,
            bytes: match bytes {
                BlobBytes::Response(response) => {
                    BlobBytes::Peer(PeerBody::new(response, offset, tail_from))
                }
                other => other,
            },
        }
    }

    /// A whole body of `total` bytes that the gateway produces from another one.
    pub const fn generated(
        total: u64,
        pieces: mpsc::Receiver<Result<Bytes, UpstreamError>>,
    ) -> Self {
        Self {
            total: Some(total),
            offset: 0,
            version: None,
            bytes: BlobBytes::Generated(pieces),
        }
    }

    /// The next bytes; `None` at the announced end.
    ///
    /// # Errors
    /// [`UpstreamError::Network`] or [`UpstreamError::Timeout`] for a body that is cut off or stalls, which is never an
    /// end; of a generated body the error of its source.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let response = match &mut self.bytes {
            BlobBytes::Response(response) => response,
            BlobBytes::Peer(peer) => return peer.next().await,
            BlobBytes::Generated(pieces) => return pieces.recv().await.transpose(),
        };
        let chunk = response.chunk().await?;
        metrics::pulled(Content::Blob, chunk.as_ref().map_or(0, Bytes::len));
        Ok(chunk)
    }
}

impl Upstream {
    /// Asks whether a repository has a blob; its length in bytes where the registry says it.
    ///
    /// # Errors
    /// [`UpstreamError::NotFound`] where it has not; any other refusal or failure of the upstream.
    pub async fn blob_head(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        let head = self.blob_head_request(repository, digest);
        match self.short(head).await {
            Ok(response) => Ok(content_length(response.headers())),
            // Some registries have no HEAD. A range of one byte shows the same; a whole body does by its headers.
            Err(UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED)) => {
                let first = self
                    .pull(Method::GET, blob_path(repository, digest), repository)
                    .header(header::RANGE, "bytes=0-0");
                let response = self.short(first).await?;
                let total = response.headers().get(header::CONTENT_RANGE);
                match total.and_then(|value| content_range(value.to_str().ok()?, 0, Some(1))) {
                    Some(total) => Ok(Some(total)),
                    None if response.status() == StatusCode::PARTIAL_CONTENT => Ok(None),
                    None => Ok(content_length(response.headers())),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to fetch a blob, from byte `offset` up to `end` (excluded) or to its end. A registry without ranges
    /// sends the whole blob: [`BlobBody::offset`] is 0 then.
    ///
    /// # Errors
    /// A refusal or failure of the upstream; [`UpstreamError::Protocol`] where it sends another range than the one
    /// asked for.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        offset: u64,
        end: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        let ranged = offset > 0 || end.is_some();
        let request = self.blob_request(repository, digest, ranged.then_some((offset, end)));
        let response = self.fetch_body(&request).await?;
        blob_body(response, ranged.then_some((offset, end)))
    }

    /// Begins to fetch a part of a blob, as [`Upstream::blob`], on a further connection of a fill. It is asked for once, and
    /// a failure says nothing about the registry: its limit on connections concerns no other request.
    ///
    /// # Errors
    /// As [`Upstream::blob`].
    pub async fn blob_segment(
        &self,
        repository: &Repository,
        digest: &Digest,
        start: u64,
        end: u64,
    ) -> Result<BlobBody, UpstreamError> {
        let range = Some((start, Some(end)));
        let request = self.blob_request(repository, digest, range);
        let client = self.clients.segments();
        let response = self.transport.send_once(&client, &request).await?;
        blob_body(response, range)
    }

    pub(super) fn blob_head_request(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> UpstreamRequest {
        self.pull(Method::HEAD, blob_path(repository, digest), repository)
    }

    pub(super) fn blob_request(
        &self,
        repository: &Repository,
        digest: &Digest,
        range: Option<BlobRange>,
    ) -> UpstreamRequest {
        let path = blob_path(repository, digest);
        let request = self.pull(Method::GET, path, repository).large_body();
        let Some((offset, end)) = range else {
            return request;
        };
        let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
        request.header(header::RANGE, &format!("bytes={offset}-{last}"))
    }
}

/// From this byte, up to that one (excluded) or to the end.
pub type BlobRange = (u64, Option<u64>);

/// The body of a response to a request for a range, or for everything.
pub(super) fn blob_body(
    response: UpstreamResponse,
    range: Option<BlobRange>,
) -> Result<BlobBody, UpstreamError> {
    match (response.response.status(), range) {
        (StatusCode::PARTIAL_CONTENT, Some((offset, end))) => {
            let range = response.response.headers().get(header::CONTENT_RANGE);
            let total = range
                .and_then(|value| content_range(value.to_str().ok()?, offset, end))
                .ok_or(UpstreamError::Protocol(
                    "the Content-Range is not the range asked for",
                ))?;
            Ok(response.into_blob(offset, Some(total)))
        }
        (StatusCode::PARTIAL_CONTENT, None) => Err(UpstreamError::Protocol(
            "a 206 to a request without a range",
        )),
        // A registry without ranges sends everything, from the first byte.
        _ => {
            let total = content_length(response.response.headers());
            Ok(response.into_blob(0, total))
        }
    }
}

fn blob_path(repository: &Repository, digest: &Digest) -> String {
    Endpoint {
        repository: repository.clone(),
        resource: Resource::Blob(*digest),
    }
    .path()
}

/// The total of `bytes <offset>-<last>/<total>` where the range ends at `end`, or at the total; `None` for
/// any other range.
fn content_range(value: &str, offset: u64, end: Option<u64>) -> Option<u64> {
    let (span, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let total: u64 = total.parse().ok()?;
    let stop = last.parse::<u64>().ok()?.checked_add(1)?;
    (first.parse() == Ok(offset) && stop == end.unwrap_or(total) && stop <= total).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (value, end, total) in [
            ("bytes 5-9/10", None, Some(10)),
            ("bytes 5-9/10", Some(10), Some(10)),
            ("bytes 5-7/10", Some(8), Some(10)),
            ("bytes 5-8/10", None, None),
            ("bytes 4-9/10", None, None),
            ("bytes 5-9/*", None, None),
            ("bytes 5-10/10", Some(11), None),
            ("5-9/10", None, None),
            ("bytes */10", None, None),
        ] {
            assert_eq!(content_range(value, 5, end), total, "{value}");
        }
    }
}
