//! Sends one request: login, redirects, retries, deadlines.
//!
//! Redirects are followed by this module, not by the HTTP client, because each hop needs a decision: the account goes to
//! the registry's own origin only, https never becomes http, and no hop leads into the private network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};

use super::UpstreamError;
use super::addresses::RedirectPolicy;
use super::auth::Auth;
use super::body_end::{BodyEnd, is_whole_json};
use super::circuit::{FailureKey, HostHealth};
use super::limits::{Limits, RequestKind};
use super::probe::Probe;
use super::request::{AuthSource, ContentCoding, UpstreamRequest};
use super::response::{UpstreamResponse, WholeResponse, read_body};
use oci::error::{self, ErrorCode};
use telemetry::metrics;

const MAX_REDIRECTS: usize = 10;
/// The limit on reading the body of a short response, all attempts together.
const WHOLE_BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest error body that is read, in bytes.
const MAX_ERROR: usize = 16 << 10;
/// How often a request is sent at most.
const ATTEMPTS: u32 = 3;
/// The longest wait before the second attempt; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The connection to one registry.
#[derive(Debug)]
pub(super) struct Transport {
    pub origin: Url,
    pub redirects: RedirectPolicy,
    pub auth: Auth,
    pub limits: Arc<Limits>,
    pub probe: Probe,
    /// Counts the requests that are sent.
    pub counted: metrics::Upstream,
    /// Whether the registry does not exist: every request is a 404.
    pub absent: bool,
}

impl Transport {
    /// Sends a request until it succeeds, fails for good, or times out.
    ///
    /// # Errors
    /// A refusal or failure of the upstream.
    pub async fn send(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        if self.absent {
            return Err(UpstreamError::NotFound);
        }
        let keys = self.keys(request);
        let began = Instant::now();
        let deadline = tokio::time::Instant::from_std(began) + request.timeout;
        self.probe.admit(client, request.kind, &keys).await?;
        let mut attempt = 0;
        let outcome = loop {
            attempt += 1;
            let timed = tokio::time::timeout_at(deadline, self.attempt(client, request));
            let Ok(outcome) = timed.await else {
                break Err(UpstreamError::Timeout);
            };
            match outcome {
                Err(error) if attempt < attempts_after(&error) => {
                    let wait = jittered(FIRST_WAIT * 2_u32.pow(attempt - 1));
                    if tokio::time::timeout_at(deadline, tokio::time::sleep(wait))
                        .await
                        .is_err()
                    {
                        break Err(error);
                    }
                }
                outcome => break outcome,
            }
        };
        match &outcome {
            Err(error) if error.means_down() => self.failed(client, error, keys, began),
            // A client's own rate limit says nothing about the gateway's.
            Err(UpstreamError::TooManyRequests { retry_after })
                if !matches!(request.auth, AuthSource::Caller(_)) =>
            {
                self.limits
                    .rate_limit
                    .rate_limited(*retry_after, Instant::now());
            }
            _ => self.limits.circuit.request_succeeded(&keys),
        }
        outcome
    }

    /// Records that a request failed, and what that implies about the host.
    fn failed(
        &self,
        client: &reqwest::Client,
        error: &UpstreamError,
        [request_key, token_key]: [FailureKey; 2],
        began: Instant,
    ) {
        let now = Instant::now();
        let subject = match error {
            UpstreamError::Token(_) => token_key,
            _ => request_key,
        };
        let health = self.limits.circuit.request_failed(subject, began, now);
        self.note_host_health(client, error, health);
    }

    fn note_host_health(
        &self,
        client: &reqwest::Client,
        error: &UpstreamError,
        health: HostHealth,
    ) {
        match (error, health) {
            (_, HostHealth::Settled) => {}
            // The refused host is this one: after a response of it, the failure would be that of a redirect's target.
            (UpstreamError::Network(error), HostHealth::MayBeDown) if error.is_connect() => {
                self.limits.circuit.host_is_down(Instant::now());
            }
            (_, HostHealth::MayBeDown) => self.probe.probe_in_background(client),
        }
    }

    /// Records the outcome of a request that passed through. Such a request is not repeated, so it opens the circuit of the
    /// host alone.
    pub fn passed(
        &self,
        client: &reqwest::Client,
        outcome: &Result<Response, UpstreamError>,
        began: Instant,
    ) {
        let now = Instant::now();
        match outcome {
            Ok(response) if !response.status().is_server_error() => {
                self.limits.circuit.host_responded(now);
            }
            Err(error) if error.means_down() => {
                self.note_host_health(client, error, self.limits.circuit.host_health(began, now));
            }
            _ => {}
        }
    }

    /// The failure keys of a request and of its token.
    fn keys(&self, request: &UpstreamRequest) -> [FailureKey; 2] {
        let login = match &request.auth {
            AuthSource::Gateway => (0, None),
            AuthSource::Anonymous => (1, None),
            AuthSource::Caller(login) => (2, login.as_ref()),
            AuthSource::Preemptive(login) => (3, login.as_ref()),
        };
        let mut headers: Vec<_> = request.headers.iter().collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        let headers: Vec<_> = headers
            .into_iter()
            .map(|(name, value)| (name, value.as_bytes()))
            .collect();
        let login = (login.0, login.1.map(HeaderValue::as_bytes));
        [
            self.limits
                .circuit
                .failure_key((&request.method, &request.path, headers, login)),
            self.limits.circuit.failure_key((&request.scope, login)),
        ]
    }

    /// Fetches a body of at most `limit` bytes, with its headers. A body that is cut off is fetched again; so is one that
    /// the end of the connection ends and that is no complete JSON.
    ///
    /// # Errors
    /// [`UpstreamError::Cut`] for a body that remains cut off, [`UpstreamError::TooLarge`] for a longer one; any other
    /// refusal or failure of the upstream.
    pub async fn whole(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
        limit: usize,
    ) -> Result<WholeResponse, UpstreamError> {
        let deadline = tokio::time::Instant::now() + WHOLE_BODY_TIMEOUT;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let response = self.send(client, request).await?.response;
            let headers = response.headers().clone();
            let end = BodyEnd::of(&response);
            let read = tokio::time::timeout_at(deadline, read_body(response, limit)).await;
            let read = match read.unwrap_or(Err(UpstreamError::Timeout)) {
                Ok(bytes) if end == BodyEnd::Connection && !is_whole_json(&bytes) => {
                    Err(UpstreamError::Cut)
                }
                read => read,
            };
            match read {
                Ok(bytes) => {
                    return Ok(WholeResponse {
                        headers,
                        bytes,
                        end,
                    });
                }
                // A stalled body has used up its time.
                Err(UpstreamError::Network(_) | UpstreamError::Cut) if attempt < ATTEMPTS => {
                    tokio::time::sleep(jittered(FIRST_WAIT * 2_u32.pow(attempt - 1))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request once, following redirects. After a refusal by a redirect's target the registry is asked for a new
    /// redirect, once: the signed URL may have expired.
    async fn attempt(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let response = self.follow(client, request).await?;
        let status = response.response.status();
        let redirected = !self.is_own(response.response.url());
        let expired = matches!(status.as_u16(), 400 | 401 | 403 | 410);
        let response = if redirected && expired {
            self.follow(client, request).await?
        } else {
            response
        };
        let (status, headers) = (response.response.status(), response.response.headers());
        if let Some(remaining) = self
            .limits
            .rate_limit
            .read_remaining_pulls(headers, self.origin.as_str())
        {
            self.counted.remaining(remaining);
        }
        if status == StatusCode::NOT_FOUND && request.kind == RequestKind::Referrers {
            return Err(no_referrers(response.response).await);
        }
        if !status.is_success() {
            return Err(
                match (&request.auth, self.is_own(response.response.url())) {
                    (AuthSource::Caller(_), true) => UpstreamError::of_caller(status, headers),
                    _ => UpstreamError::of(status, headers),
                },
            );
        }
        let coding = headers.get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
            && request.content_coding == ContentCoding::Refuse
        {
            return Err(UpstreamError::Protocol(
                "a content coding that was not asked for",
            ));
        }
        Ok(response)
    }

    async fn follow(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let mut url = self
            .origin
            .join(&request.path)
            .map_err(|_| UpstreamError::Unsendable)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = match self.hop(client, request, &url).await {
                Err(UpstreamError::Unsendable) if !self.is_own(&url) => {
                    return Err(UpstreamError::Protocol("a redirect to no usable URL"));
                }
                response => response?,
            };
            let Some(target) = redirect_target(&response, &url)? else {
                let host = url.host_str().unwrap_or_default().to_owned();
                return Ok(UpstreamResponse { response, host });
            };
            if url.scheme() == "https" && target.scheme() != "https" {
                return Err(UpstreamError::Protocol("a redirect from https to http"));
            }
            if !self
                .redirects
                .allows_host(target.host_str().unwrap_or_default())
            {
                return Err(UpstreamError::Protocol(
                    "a redirect to an address inside of the network",
                ));
            }
            url = target;
        }
        Err(UpstreamError::Protocol("more than ten redirects"))
    }

    /// Sends a request to one URL, and again to answer a challenge.
    async fn hop(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
        url: &Url,
    ) -> Result<Response, UpstreamError> {
        let scope = Some(request.scope.as_str());
        let own = self.is_own(url);
        let anonymous = matches!(request.auth, AuthSource::Anonymous);
        let sent = match &request.auth {
            _ if !own => None,
            AuthSource::Caller(authorization) | AuthSource::Preemptive(authorization) => {
                authorization.clone()
            }
            AuthSource::Gateway | AuthSource::Anonymous => {
                self.auth.authorization(scope, anonymous).await?
            }
        };
        let response = self.request(client, request, url, sent.as_ref()).await?;
        let no_answer = own
            && matches!(
                request.auth,
                AuthSource::Caller(_) | AuthSource::Preemptive(_)
            );
        if response.status() != StatusCode::UNAUTHORIZED || no_answer {
            return Ok(response);
        }
        let headers = response.headers();
        let answer = if own {
            self.auth
                .answer(headers, scope, sent.as_ref(), anonymous)
                .await?
        } else {
            self.auth.answer_redirect_target(headers, url).await?
        };
        match answer {
            Some(answer) => self.request(client, request, url, Some(&answer)).await,
            None => Ok(response),
        }
    }

    async fn request(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, UpstreamError> {
        let response = send_request(client, request, url, authorization).await;
        let status = response.as_ref().ok().map(Response::status);
        if status.is_some_and(|status| !status.is_server_error()) && self.is_own(url) {
            self.limits.circuit.host_responded(Instant::now());
        }
        let code = status.map(|status| status.as_u16());
        self.counted
            .request(metric_kind(&request.method, &request.path), code);
        response
    }

    /// Whether a URL has the registry's own origin: scheme, host and port.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.origin.origin()
    }
}

/// The error of a 404 to a request for referrers: the repository is unknown only if the body says so.
async fn no_referrers(response: Response) -> UpstreamError {
    let body = read_body(response, MAX_ERROR).await.unwrap_or_default();
    if error::names(&body, ErrorCode::NameUnknown) {
        UpstreamError::NotFound
    } else {
        UpstreamError::NoReferrers
    }
}

/// The label under which a request is counted. Registries limit manifest GETs only.
fn metric_kind(method: &Method, path: &str) -> &'static str {
    match (path.rsplit('/').nth(1), method) {
        (Some("manifests"), &Method::HEAD) => "manifest_head",
        (Some("manifests"), _) => "manifest",
        (Some("blobs"), &Method::HEAD) => "blob_head",
        (Some("blobs"), _) => "blob",
        (Some("tags" | "referrers"), _) => "list",
        _ => "other",
    }
}

async fn send_request(
    client: &reqwest::Client,
    request: &UpstreamRequest,
    url: &Url,
    authorization: Option<&HeaderValue>,
) -> Result<Response, UpstreamError> {
    let mut builder = client
        .request(request.method.clone(), url.clone())
        .headers(request.headers.clone());
    if let Some(authorization) = authorization {
        builder = builder.header(header::AUTHORIZATION, authorization.clone());
    }
    Ok(builder.send().await?)
}

/// How often a request is sent at most, given its error. Where the host refuses connections, the client gets an error within
/// 10 s.
fn attempts_after(error: &UpstreamError) -> u32 {
    match error {
        UpstreamError::Network(error) if error.is_connect() => 2,
        error if error.is_transient() => ATTEMPTS,
        _ => 1,
    }
}

/// The target of a redirect; `None` for any other response.
fn redirect_target(response: &Response, url: &Url) -> Result<Option<Url>, UpstreamError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| url.join(location).ok());
    let target =
        target.filter(|target| matches!(target.scheme(), "http" | "https") && target.has_host());
    target.map(Some).ok_or(UpstreamError::Protocol(
        "a redirect without a usable Location",
    ))
}

/// A random wait between half of `wait` and all of it, so that retries are spread.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
