//! The client of the other gateways of a bucket: reads a blob from the one that fetches it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use reqwest::{Certificate, Client, Url};
use tokio::sync::watch;

use super::blob::{BlobBody, BlobRange, blob_body};
use super::clients::{current, user_agent};
use super::{SetUpError, UpstreamError, UpstreamResponse};
use telemetry::metrics;

/// The client's name in errors.
const NAME: &str = "store.bucket.advertise";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a gateway may send nothing, headers or bytes, before it counts as lost.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for the tail, which it sends once it has received all and verified it.
const TAIL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of other gateways. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct PeerClient(watch::Receiver<Client>);

/// A request for a blob, from byte `offset` on.
#[derive(Clone, Debug)]
pub struct PeerRequest<'a> {
    /// Scheme, host and port of the gateway.
    pub origin: &'a str,
    /// The path of the blob there.
    pub path: &'a str,
    /// From this byte, up to that one (excluded) or to the end; `None`: all.
    pub range: Option<BlobRange>,
    /// The value of `Authorization`.
    pub authorization: &'a str,
    /// How many of the last bytes are sent only once they are verified.
    pub tail: u64,
}

impl PeerRequest<'_> {
    /// The value of `Range` for a part of a blob.
    pub fn range_header((offset, end): BlobRange) -> String {
        let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
        format!("bytes={offset}-{last}")
    }
}

/// A blob that another gateway sends.
#[derive(Debug)]
pub(super) struct PeerBody {
    response: reqwest::Response,
    /// The offset of the next byte.
    at: u64,
    /// Where the tail begins; unknown while the length is.
    tail_from: Option<u64>,
}

impl PeerBody {
    pub fn new(response: reqwest::Response, at: u64, tail_from: Option<u64>) -> Self {
        Self {
            response,
            at,
            tail_from,
        }
    }

    /// The next bytes; `None` at the announced end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let in_tail = self.tail_from.is_none_or(|tail_from| self.at >= tail_from);
        let limit = if in_tail {
            TAIL_TIMEOUT
        } else {
            SILENCE_TIMEOUT
        };
        let chunk = tokio::time::timeout(limit, self.response.chunk()).await;
        let chunk = chunk.map_err(|_| UpstreamError::Timeout)??;
        let length = chunk.as_ref().map_or(0, Bytes::len);
        self.at += length as u64;
        metrics::peer_received(length);
        Ok(chunk)
    }
}

impl PeerClient {
    /// Builds the client. `ca` is a PEM file of CAs, trusted in addition to the system's roots, and reloaded when it
    /// changes.
    ///
    /// # Errors
    /// [`SetUpError`], for an unusable `ca` or unusable TLS.
    ///
    /// # Panics
    /// With a `ca`, outside of a Tokio runtime.
    pub fn open(ca: Option<PathBuf>) -> Result<Self, SetUpError> {
        let build = |extra: &[Certificate]| {
            client(extra).map_err(|source| SetUpError::Tls {
                client: NAME.to_owned(),
                source: source.into(),
            })
        };
        Ok(Self(current(NAME, ca, build)?))
    }

    /// Begins to read a blob. [`BlobBody::offset`] is 0 where the gateway does not know its length yet.
    ///
    /// # Errors
    /// [`UpstreamError::NotFound`] if it does not fetch that blob, whatever it answers; [`UpstreamError::Timeout`] or
    /// [`UpstreamError::Network`] if it cannot be asked; [`UpstreamError::Protocol`] for another range.
    pub async fn fetch(&self, request: &PeerRequest<'_>) -> Result<BlobBody, UpstreamError> {
        let url = blob_url(request)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let client = self.0.borrow().clone();
        let mut sent = client
            .get(url)
            .header(header::AUTHORIZATION, request.authorization)
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(range) = request.range {
            sent = sent.header(header::RANGE, PeerRequest::range_header(range));
        }
        let response = tokio::time::timeout(SILENCE_TIMEOUT, sent.send()).await;
        let response = response.map_err(|_| UpstreamError::Timeout)??;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
            _ => return Err(UpstreamError::NotFound),
        }
        let response = UpstreamResponse { response, host };
        Ok(blob_body(response, request.range)?.of_peer(request.tail))
    }
}

/// The URL of a request. The origin comes from a lease, so it is checked: it has neither a login nor a path.
fn blob_url(request: &PeerRequest<'_>) -> Result<Url, UpstreamError> {
    const UNUSABLE: UpstreamError = UpstreamError::Protocol("the URL in the lease is none");

    let mut url = Url::parse(request.origin).map_err(|_| UNUSABLE)?;
    let is_origin = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_origin {
        return Err(UNUSABLE);
    }
    url.set_path(request.path);
    Ok(url)
}

/// A client that follows no redirects, and uses no proxy: those are for the way to the registries.
fn client(extra: &[Certificate]) -> reqwest::Result<Client> {
    let builder = || {
        Client::builder()
            .user_agent(user_agent())
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // A connection for each blob: a slow one holds up no other.
            .http1_only()
            .tcp_nodelay(true)
    };
    let client = builder().tls_certs_merge(extra.to_vec()).build();
    // As for registries: a machine without trusted roots still reaches those of `ca`.
    client.or_else(|_| builder().tls_certs_only(extra.to_vec()).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_leases_are_origins() {
        for (origin, expected) in [
            (
                "https://node-1.lan:5000",
                Some("https://node-1.lan:5000/_peer/x"),
            ),
            ("http://[::1]:5000", Some("http://[::1]:5000/_peer/x")),
            ("https://me:pw@node", None),
            ("https://node/path", None),
            ("https://node?query", None),
            ("https://node#fragment", None),
            ("file:///etc/passwd", None),
            ("node:5000", None),
            ("", None),
        ] {
            let request = PeerRequest {
                origin,
                path: "/_peer/x",
                range: None,
                authorization: "",
                tail: 0,
            };
            let url = blob_url(&request).ok().map(|url| url.to_string());
            assert_eq!(url.as_deref(), expected, "{origin}");
        }
    }

    #[test]
    fn ranges_of_parts() {
        assert_eq!(PeerRequest::range_header((5, None)), "bytes=5-");
        assert_eq!(PeerRequest::range_header((5, Some(8))), "bytes=5-7");
    }
}
