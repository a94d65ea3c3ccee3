//! Floor 1, network: asks one registry, and says exactly what it answered.
//!
//! The gateway's own headers and credentials go out, never a client's. A status keeps its meaning: what
//! is missing, refused, limited or broken are different errors.

mod error;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

pub use error::UpstreamError;

use crate::spec::digest::Digest;
use crate::spec::manifest::{AcceptClass, MAX_MANIFEST};
use crate::spec::name::{Reference, Repository};
use crate::spec::v2::{Endpoint, Query, Resource};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From asking to the response's headers, redirects included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two reads of a body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 10;
/// The longest page of tags or referrers, in bytes.
const MAX_PAGE: usize = 8 << 20;

/// A user name and password for HTTP Basic.
#[derive(Clone)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, [redacted])", self.username)
    }
}

/// One registry to ask.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Scheme and authority without a slash at the end: `https://registry-1.docker.io`.
    pub origin: String,
    pub credentials: Option<Credentials>,
}

/// A client of one registry.
#[derive(Debug)]
pub struct Upstream {
    origin: String,
    /// For short questions, on the serving runtime.
    questions: reqwest::Client,
    /// For bodies that are filled, on the fills' runtime: their connections live there.
    bodies: reqwest::Client,
    authorization: Option<HeaderValue>,
    /// Whether the registry has asked for Basic.
    wants_basic: AtomicBool,
}

/// What an upstream says of a manifest without sending it.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    pub digest: Option<Digest>,
    pub media_type: Option<String>,
    /// In bytes.
    pub size: Option<u64>,
}

/// A manifest as it was received.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub head: ManifestHead,
    pub bytes: Bytes,
}

/// A page of tags or referrers.
#[derive(Clone, Debug)]
pub struct Page {
    pub bytes: Bytes,
    pub media_type: Option<String>,
    /// The `Link` header, as received.
    pub link: Option<String>,
    /// `OCI-Filters-Applied`
    pub filters_applied: Option<String>,
}

/// A blob's body, headers received.
#[derive(Debug)]
pub struct BlobBody {
    /// The length of the whole blob in bytes, where it was announced.
    pub total: Option<u64>,
    /// Where this body begins in the blob.
    pub offset: u64,
    response: reqwest::Response,
}

impl BlobBody {
    /// The next bytes; `None` at the announced end.
    ///
    /// # Errors
    /// A body that is cut off or stalls is an error, never an end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        self.response.chunk().await.map_err(UpstreamError::from)
    }
}

impl Upstream {
    /// # Errors
    /// When the TLS set-up fails: the system has no trusted roots.
    pub fn new(settings: Settings) -> Result<Self, UpstreamError> {
        let authorization = settings.credentials.map(|credentials| basic(&credentials));
        Ok(Self {
            questions: client()?,
            bodies: client()?,
            origin: settings.origin,
            authorization,
            wants_basic: AtomicBool::new(false),
        })
    }

    /// Scheme and authority, for the log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Asks what a reference resolves to, without the bytes.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn manifest_head(
        &self,
        repository: &Repository,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<ManifestHead, UpstreamError> {
        let path = manifest_path(repository, reference);
        let ask = self
            .ask(&self.questions, Method::HEAD, &path)
            .accept(class.upstream_accept());
        let response = self.send(ask).await?;
        Ok(manifest_head(response.headers()))
    }

    /// Fetches a manifest of at most 4 MiB.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<Manifest, UpstreamError> {
        let path = manifest_path(repository, reference);
        let ask = self
            .ask(&self.questions, Method::GET, &path)
            .accept(class.upstream_accept());
        let response = self.send(ask).await?;
        let head = manifest_head(response.headers());
        Ok(Manifest {
            head,
            bytes: body(response, MAX_MANIFEST).await?,
        })
    }

    /// Asks whether a repository has a blob; its length in bytes where that is said.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn blob_head(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        let ask = self.ask(
            &self.questions,
            Method::HEAD,
            &blob_path(repository, digest),
        );
        let response = self.send(ask).await?;
        Ok(content_length(response.headers()))
    }

    /// Begins to fetch a blob, from byte `offset` up to `end` (excluded) or to its end.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked; [`UpstreamError::Protocol`] when it answers
    /// with other bytes than those asked for.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        offset: u64,
        end: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        let mut ask = self.ask(&self.bodies, Method::GET, &blob_path(repository, digest));
        let ranged = offset > 0 || end.is_some();
        if ranged {
            let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
            ask = ask.header(header::RANGE, &format!("bytes={offset}-{last}"));
        }
        let response = self.send(ask).await?;
        let length = content_length(response.headers());
        if !ranged {
            if response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(UpstreamError::Protocol(
                    "a 206 to a request without a range",
                ));
            }
            return Ok(BlobBody {
                total: length,
                offset,
                response,
            });
        }
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(UpstreamError::Protocol("ranges are not supported there"));
        }
        let total = response
            .headers()
            .get(header::CONTENT_RANGE)
            .and_then(|value| content_range(value.to_str().ok()?, offset, end))
            .ok_or(UpstreamError::Protocol(
                "the Content-Range is not the range asked for",
            ))?;
        Ok(BlobBody {
            total: Some(total),
            offset,
            response,
        })
    }

    /// Fetches a page of tags or referrers of at most 8 MiB.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn page(&self, endpoint: &Endpoint, query: &Query) -> Result<Page, UpstreamError> {
        let path = endpoint.path() + &query.render();
        let response = self
            .send(self.ask(&self.questions, Method::GET, &path))
            .await?;
        let text = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        Ok(Page {
            media_type: text("content-type"),
            link: text("link"),
            filters_applied: text("oci-filters-applied"),
            bytes: body(response, MAX_PAGE).await?,
        })
    }

    fn ask<'a>(&self, client: &'a reqwest::Client, method: Method, path: &str) -> Ask<'a> {
        let mut headers = HeaderMap::new();
        // What is stored is what has the digest, so no coding may come between.
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        Ask {
            client,
            method,
            url: format!("{}{path}", self.origin),
            headers,
        }
    }

    /// Sends, logging in when the registry asks for it, and sorts the answer.
    async fn send(&self, ask: Ask<'_>) -> Result<reqwest::Response, UpstreamError> {
        let known = self.wants_basic.load(Ordering::Relaxed);
        let mut response = ask
            .send(self.authorization.as_ref().filter(|_| known))
            .await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && !known
            && asks_for_basic(&response)
            && let Some(authorization) = &self.authorization
        {
            self.wants_basic.store(true, Ordering::Relaxed);
            response = ask.send(Some(authorization)).await?;
        }
        let status = response.status();
        if !status.is_success() {
            return Err(UpstreamError::of(status, response.headers()));
        }
        let coding = response.headers().get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(UpstreamError::Protocol(
                "the body came in a content coding that was not asked for",
            ));
        }
        Ok(response)
    }
}

/// One question, which may be sent twice.
struct Ask<'a> {
    client: &'a reqwest::Client,
    method: Method,
    url: String,
    headers: HeaderMap,
}

impl Ask<'_> {
    fn accept(self, types: &str) -> Self {
        self.header(header::ACCEPT, types)
    }

    fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    async fn send(
        &self,
        authorization: Option<&HeaderValue>,
    ) -> Result<reqwest::Response, UpstreamError> {
        let mut request = self
            .client
            .request(self.method.clone(), &self.url)
            .headers(self.headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        match tokio::time::timeout(HEADER_TIMEOUT, request.send()).await {
            Ok(response) => Ok(response?),
            Err(_) => Err(UpstreamError::Timeout),
        }
    }
}

fn client() -> Result<reqwest::Client, UpstreamError> {
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("roadstead/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(redirects())
            .referer(false)
            .http2_adaptive_window(true)
            .tcp_nodelay(true)
    };
    // A machine without trusted roots can still speak to plain-HTTP registries.
    builder()
        .build()
        .or_else(|_| builder().tls_certs_only([]).build())
        .map_err(UpstreamError::from)
}

/// Follows at most ten redirects, and never from https to http. Authorization does not cross hosts:
/// the client drops it.
fn redirects() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        let downgrade = attempt.url().scheme() != "https"
            && attempt
                .previous()
                .last()
                .is_some_and(|from| from.scheme() == "https");
        if downgrade {
            attempt.error("a redirect from https to http is not followed")
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("more than ten redirects")
        } else {
            attempt.follow()
        }
    })
}

fn manifest_path(repository: &Repository, reference: &Reference) -> String {
    let resource = Resource::Manifest(reference.clone());
    Endpoint {
        repository: repository.clone(),
        resource,
    }
    .path()
}

fn blob_path(repository: &Repository, digest: &Digest) -> String {
    Endpoint {
        repository: repository.clone(),
        resource: Resource::Blob(*digest),
    }
    .path()
}

fn manifest_head(headers: &HeaderMap) -> ManifestHead {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    ManifestHead {
        digest: text("docker-content-digest").and_then(|digest| digest.trim().parse().ok()),
        media_type: text("content-type").map(str::to_owned),
        size: content_length(headers),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
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

/// Reads a whole body of at most `limit` bytes.
async fn body(mut response: reqwest::Response, limit: usize) -> Result<Bytes, UpstreamError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > limit {
            return Err(UpstreamError::TooLarge { limit });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn asks_for_basic(response: &reqwest::Response) -> bool {
    response
        .headers()
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .any(|challenge| {
            challenge
                .as_bytes()
                .get(..5)
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
        })
}

fn basic(credentials: &Credentials) -> HeaderValue {
    use base64::Engine as _;

    let pair = format!("{}:{}", credentials.username, credentials.password);
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
        .unwrap_or_else(|_| HeaderValue::from_static("Basic Og=="));
    value.set_sensitive(true);
    value
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

    #[test]
    fn a_password_is_not_printed() {
        let credentials = Credentials {
            username: "me".into(),
            password: "secret".into(),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
        assert!(!format!("{:?}", basic(&credentials)).contains("Og"));
    }
}
