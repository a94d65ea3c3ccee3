//! Floor 1, network: asks one registry, and says exactly what it answered.
//!
//! The gateway's own headers and credentials go out, never a client's. A status keeps its meaning: what
//! is missing, refused, limited or broken are different errors.

mod account;
mod addresses;
mod auth;
mod body_end;
mod catalogue;
mod clients;
mod error;
mod evidence;
mod limits;
mod lists;
mod pass;
mod probe;
mod transport;
mod v1;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Url;
use tokio::sync::mpsc;

pub use account::{Account, Credentials};
pub use body_end::{BodyEnd, is_whole_json};
pub use catalogue::CataloguePage;
pub use error::UpstreamError;
pub use lists::Page;
pub use pass::{Body, BrokenOff, Feed, Passed, Passing};

use account::Login;
use addresses::RedirectPolicy;
use auth::Auth;
use clients::Clients;
use limits::{Kind, Limits};
use oci::digest::{Algorithm, Digest};
use oci::manifest::{AcceptClass, MAX_MANIFEST, is_signed_schema1};
use oci::name::{Reference, Repository};
use oci::schema1;
use oci::v2::{Endpoint, Resource};
use probe::Probe;
use telemetry::metrics::{self, Content};
use transport::{Answered, Ask, AuthSource, Transport, Whole};

/// How long a short question may take, all attempts together: a client without a cached answer hears of it
/// within 10 s.
const QUESTION: Duration = Duration::from_secs(8);
/// How long a blob's headers may take.
const BODY_HEADERS: Duration = Duration::from_secs(20);
/// Where a registry is that is not there.
const NOWHERE: &str = "http://nowhere.invalid";
/// The longest page of tags or referrers, in bytes.
const MAX_PAGE: usize = 8 << 20;

/// One registry to ask.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configured name.
    pub registry: String,
    /// Scheme and authority without a slash at the end: `https://registry-1.docker.io`.
    pub origin: String,
    pub account: Option<Account>,
    /// A PEM file of CAs, added to the system's roots. Read again when it changes.
    pub ca: Option<PathBuf>,
    /// Hosts of token realms that are trusted beside the registry's own registrable domain.
    pub auth_hosts: Vec<String>,
    /// How long a connection that nobody uses is kept; `None`: the client's own time.
    pub idle: Option<Duration>,
}

/// Why a registry's client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("registry {registry}: {origin} is not a URL")]
    Origin { registry: String, origin: String },
    #[error("registry {registry}: cannot read {}: {source}", path.display())]
    Ca {
        registry: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("registry {registry}: {} holds no CA's certificate in PEM form: {reason}", path.display())]
    NoCertificate {
        registry: String,
        path: PathBuf,
        reason: String,
    },
    #[error("registry {registry}: its TLS cannot be set up")]
    Tls {
        registry: String,
        #[source]
        source: UpstreamError,
    },
}

/// A client of one registry.
#[derive(Debug)]
pub struct Upstream {
    transport: Arc<Transport>,
    clients: Clients,
    auth: AuthSource,
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

/// A blob's body, headers received.
#[derive(Debug)]
pub struct BlobBody {
    /// The length of the whole blob in bytes, where it was announced.
    pub total: Option<u64>,
    /// Where this body begins in the blob.
    pub offset: u64,
    /// The host that sends it and its `ETag`: a later part must be of the same.
    pub version: Option<(String, String)>,
    sent: Sent,
}

#[derive(Debug)]
enum Sent {
    Response(reqwest::Response),
    /// Made here, of what an upstream sends.
    Made(mpsc::Receiver<Result<Bytes, UpstreamError>>),
}

impl BlobBody {
    /// A whole body of `total` bytes that is made of another one.
    pub const fn made(total: u64, pieces: mpsc::Receiver<Result<Bytes, UpstreamError>>) -> Self {
        Self {
            total: Some(total),
            offset: 0,
            version: None,
            sent: Sent::Made(pieces),
        }
    }

    /// The next bytes; `None` at the announced end.
    ///
    /// # Errors
    /// A body that is cut off or stalls is an error, never an end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let response = match &mut self.sent {
            Sent::Response(response) => response,
            Sent::Made(pieces) => return pieces.recv().await.transpose(),
        };
        let chunk = response.chunk().await?;
        metrics::pulled(Content::Blob, chunk.as_ref().map_or(0, Bytes::len));
        Ok(chunk)
    }
}

impl Upstream {
    /// Reads the CA file, and again when it changes.
    ///
    /// # Errors
    /// When it cannot be read, or the URL or the TLS set-up is not usable.
    ///
    /// # Panics
    /// With a CA file, outside of a runtime.
    pub fn new(settings: Settings) -> Result<Self, SetUpError> {
        Self::with_base(settings, "/v2/")
    }

    /// A registry of the v1 API, or its index.
    ///
    /// # Errors
    /// As [`Upstream::new`].
    pub fn of_v1(settings: Settings) -> Result<Self, SetUpError> {
        Self::with_base(settings, "/v1/_ping")
    }

    /// `base` is what says whether the host is there.
    fn with_base(settings: Settings, base: &str) -> Result<Self, SetUpError> {
        let Settings {
            registry,
            origin,
            account,
            ca,
            auth_hosts,
            idle,
        } = settings;
        let url = Url::parse(&origin).ok().filter(Url::has_host);
        let Some(url) = url else {
            return Err(SetUpError::Origin { registry, origin });
        };
        let redirects = RedirectPolicy::new(url.host_str().unwrap_or_default());
        let clients = Clients::open(&registry, &redirects, ca, idle)?;
        let login = account.map(|account| Login::new(account, &registry));
        let auth = Auth::new(
            url.clone(),
            redirects.clone(),
            auth_hosts,
            login,
            clients.clone(),
        );
        let limits = Arc::new(Limits::default());
        let transport = Transport {
            probe: Probe::new(&url, base, &limits),
            origin: url,
            redirects,
            auth,
            limits,
            counted: metrics::Upstream::of(&registry),
            absent: false,
        };
        Ok(Self {
            transport: Arc::new(transport),
            clients,
            auth: AuthSource::Gateway,
        })
    }

    /// The v2 side of a registry that has none: it is never asked, and has nothing.
    ///
    /// # Errors
    /// When the TLS set-up is not usable.
    pub fn absent(registry: &str) -> Result<Self, SetUpError> {
        let mut upstream = Self::new(Settings {
            registry: registry.to_owned(),
            origin: NOWHERE.to_owned(),
            account: None,
            ca: None,
            auth_hosts: Vec::new(),
            idle: None,
        })?;
        if let Some(transport) = Arc::get_mut(&mut upstream.transport) {
            transport.absent = true;
        }
        Ok(upstream)
    }

    /// Whether there is such a registry.
    pub fn is_absent(&self) -> bool {
        self.transport.absent
    }

    /// The same registry, asked with what a caller of ours showed instead of the account.
    #[must_use]
    pub fn for_caller(&self, authorization: Option<HeaderValue>) -> Self {
        Self {
            transport: self.transport.clone(),
            clients: self.clients.clone(),
            auth: AuthSource::Caller(authorization),
        }
    }

    /// Scheme and authority, for the log.
    pub fn origin(&self) -> &str {
        self.transport.origin.as_str().trim_end_matches('/')
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
            .ask(Method::HEAD, path, repository)
            .header(header::ACCEPT, class.upstream_accept());
        let response = self.question(ask).await?;
        Ok(manifest_head(response.headers()))
    }

    /// Fetches a manifest of at most 4 MiB. One that names no digest and that only its connection ends is asked for
    /// again by the digest that its bytes have: were they cut off, the upstream knows none such.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked; [`UpstreamError::Cut`] for one that was cut off.
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<Manifest, UpstreamError> {
        let (mut manifest, end) = self.manifest_once(repository, reference, class).await?;
        let Manifest { head, bytes } = &manifest;
        // What was signed ends itself; some upstreams know it by its tag alone.
        let signed = head.media_type.as_deref().is_some_and(is_signed_schema1);
        let named = head.digest.is_some() || matches!(reference, Reference::Digest(_));
        if named || signed || end == BodyEnd::Announced {
            return Ok(manifest);
        }
        let digest = schema1::digest_of(Algorithm::Sha256, bytes);
        let again = Reference::Digest(digest);
        let again = self.manifest_once(repository, &again, class).await;
        match again {
            Ok((again, _)) if again.bytes == manifest.bytes => {
                manifest.head.digest = Some(digest);
                Ok(manifest)
            }
            Ok(_) | Err(UpstreamError::NotFound) => Err(UpstreamError::Cut),
            Err(error) => Err(error),
        }
    }

    async fn manifest_once(
        &self,
        repository: &Repository,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<(Manifest, BodyEnd), UpstreamError> {
        let path = manifest_path(repository, reference);
        let mut ask = self
            .ask(Method::GET, path, repository)
            .header(header::ACCEPT, class.upstream_accept());
        ask.kind = Kind::ManifestGet;
        let Whole {
            headers,
            bytes,
            end,
        } = self.whole(ask, MAX_MANIFEST).await?;
        let head = manifest_head(&headers);
        metrics::pulled(Content::Manifest, bytes.len());
        Ok((Manifest { head, bytes }, end))
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
        let path = blob_path(repository, digest);
        match self
            .question(self.ask(Method::HEAD, path.clone(), repository))
            .await
        {
            Ok(response) => Ok(content_length(response.headers())),
            // Some registries know no HEAD. One byte tells as much, and of a body that comes whole the headers.
            Err(UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED)) => {
                let first = self
                    .ask(Method::GET, path, repository)
                    .header(header::RANGE, "bytes=0-0");
                let response = self.question(first).await?;
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

    /// Begins to fetch a blob, from byte `offset` up to `end` (excluded) or to its end. An upstream without
    /// ranges sends everything: [`BlobBody::offset`] is 0 then.
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
        let mut ask = self.ask(Method::GET, blob_path(repository, digest), repository);
        ask.within = BODY_HEADERS;
        let ranged = offset > 0 || end.is_some();
        if ranged {
            let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
            ask = ask.header(header::RANGE, &format!("bytes={offset}-{last}"));
        }
        let Answered { response, host } = self.transport.send(&self.clients.bodies(), &ask).await?;
        let length = content_length(response.headers());
        let etag = response
            .headers()
            .get(header::ETAG)
            .and_then(|value| value.to_str().ok());
        let version = etag.map(|etag| (host, etag.to_owned()));
        if !ranged {
            if response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(UpstreamError::Protocol(
                    "a 206 to a request without a range",
                ));
            }
            return Ok(BlobBody {
                total: length,
                offset,
                version,
                sent: Sent::Response(response),
            });
        }
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // No ranges there: everything comes, from its first byte.
            return Ok(BlobBody {
                total: length,
                offset: 0,
                version,
                sent: Sent::Response(response),
            });
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
            version,
            sent: Sent::Response(response),
        })
    }

    /// Asks for something of a repository without the account: whether everybody may read it.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn ask_as_anybody(
        &self,
        repository: &Repository,
        resource: &Resource,
    ) -> Result<(), UpstreamError> {
        let method = match resource {
            Resource::Manifest(_) | Resource::Blob(_) => Method::HEAD,
            // Lists are not everywhere asked for by HEAD.
            _ => Method::GET,
        };
        let endpoint = Endpoint {
            repository: repository.clone(),
            resource: resource.clone(),
        };
        let accept = AcceptClass::Full.upstream_accept();
        let mut ask = self
            .ask(method, endpoint.path(), repository)
            .header(header::ACCEPT, accept);
        ask.auth = AuthSource::Anonymous;
        if ask.method == Method::GET {
            let Whole { bytes, .. } = self.whole(ask, MAX_PAGE).await?;
            return evidence::of_anybody(evidence::is_list(resource, &bytes));
        }
        let answered = match self.question(ask.clone()).await {
            // Some registries know no HEAD.
            Err(UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED)) => {
                ask.method = Method::GET;
                self.question(ask).await?
            }
            answered => answered?,
        };
        evidence::of_anybody(evidence::shows(resource, answered.headers()))
    }

    /// `/v2/`
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn ping(&self) -> Result<(), UpstreamError> {
        let ask = self.ask_for(Method::GET, "/v2/".to_owned(), String::new());
        self.question(ask).await.map(drop)
    }

    fn ask(&self, method: Method, path: String, repository: &Repository) -> Ask {
        self.ask_for(method, path, format!("repository:{repository}:pull"))
    }

    /// `scope` is what a token must allow.
    fn ask_for(&self, method: Method, path: String, scope: String) -> Ask {
        let ask = Ask {
            method,
            path,
            headers: HeaderMap::new(),
            scope,
            kind: Kind::Other,
            within: QUESTION,
            auth: self.auth.clone(),
        };
        ask.header(header::ACCEPT_ENCODING, "identity")
    }

    async fn whole(&self, ask: Ask, limit: usize) -> Result<Whole, UpstreamError> {
        self.transport
            .whole(&self.clients.questions(), &ask, limit)
            .await
    }

    async fn question(&self, ask: Ask) -> Result<reqwest::Response, UpstreamError> {
        let client = self.clients.questions();
        Ok(self.transport.send(&client, &ask).await?.response)
    }
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
