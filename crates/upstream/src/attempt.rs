//! Sends one request once: redirects, and answers to challenges.
//!
//! Redirects are followed by this module, not by the HTTP client, because each hop needs a decision: the account goes to
//! the registry's own origin only, https never becomes http, and no hop leads into the private network.

use std::time::Instant;

use http::{HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};

use super::UpstreamError;
use super::accounts::Sender;
use super::rate_limit::{RateLimit, Statement};
use super::request::{AuthSource, ContentCoding, Identity, RequestKind, UpstreamRequest};
use super::response::{UpstreamResponse, read_body};
use super::transport::Transport;
use oci::error::{self, ErrorCode};

const MAX_REDIRECTS: usize = 10;
/// The longest error body that is read, in bytes.
const MAX_ERROR: usize = 16 << 10;

impl Transport {
    /// Sends a request once, following redirects. After a refusal by a redirect's target the registry is asked for a new
    /// redirect, once: the signed URL may have expired.
    pub(super) async fn attempt(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
        sender: Sender<'_>,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let asked_at = Instant::now();
        let counts = request.kind == RequestKind::ManifestGet;
        let counted = sender.rate_limit.filter(|_| counts).map(RateLimit::count);
        let response = self.follow(client, request, sender).await?;
        let status = response.response.status();
        let redirected = !self.is_own(response.response.url());
        let expired = matches!(status.as_u16(), 400 | 401 | 403 | 410);
        let response = if redirected && expired {
            self.follow(client, request, sender).await?
        } else {
            response
        };
        let (status, headers) = (response.response.status(), response.response.headers());
        let is_own = self.is_own(response.response.url());
        // Another host's numbers are no pulls of this registry.
        let rate_limit = sender.rate_limit.filter(|_| is_own);
        let read = |limit: &RateLimit| limit.read(headers, asked_at, Instant::now());
        let statement = rate_limit.and_then(read);
        if let Some(counted) = counted {
            counted.end(statement.is_some());
        }
        if let Some(statement) = statement {
            self.note_statement(&statement, sender);
        }
        if status == StatusCode::NOT_FOUND && request.kind == RequestKind::Referrers {
            return Err(no_referrers(response.response).await);
        }
        if !status.is_success() {
            return Err(match (&request.auth, is_own) {
                (AuthSource::Caller(_), true) => UpstreamError::of_caller(status, headers),
                _ => UpstreamError::of(status, headers),
            });
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

    /// Logs the remaining pulls, and alerts operators if they are few.
    fn note_statement(&self, statement: &Statement, sender: Sender<'_>) {
        if statement.is_news {
            tracing::info!(
                registry = self.counted.registry(),
                account = sender.counted_as.as_str(),
                remaining = statement.remaining,
                limit = statement.limit,
                source = statement.source.as_deref().unwrap_or("-"),
                "pulls that the upstream still allows"
            );
        }
        self.alert_if_low(Instant::now());
    }

    async fn follow(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
        sender: Sender<'_>,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let mut url = self
            .origin
            .join(&request.path)
            .map_err(|_| UpstreamError::Unsendable)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = match self.hop(client, request, &url, sender).await {
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
                return Err(UpstreamError::Protocol("a redirect to a private address"));
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
        sender: Sender<'_>,
    ) -> Result<Response, UpstreamError> {
        let auth = &sender.account.auth;
        let scope = Some(request.scope.as_str());
        let own = self.is_own(url);
        let identity = match request.auth {
            AuthSource::Anonymous => Identity::Anonymous,
            _ => Identity::Account,
        };
        let sent = match &request.auth {
            _ if !own => None,
            AuthSource::Caller(authorization) | AuthSource::Preemptive(authorization) => {
                authorization.clone()
            }
            AuthSource::Gateway | AuthSource::Anonymous => {
                auth.authorization(scope, identity).await?
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
            auth.answer(headers, scope, sent.as_ref(), identity).await?
        } else {
            auth.answer_redirect_target(headers, url).await?
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
        let began = Instant::now();
        let response = send_request(client, request, url, authorization).await;
        let status = response.as_ref().ok().map(Response::status);
        self.observe(&response, began);
        if status.is_some_and(|status| !status.is_server_error()) && self.is_own(url) {
            self.limits.circuit.host_responded(Instant::now());
        }
        let code = status.map(|status| status.as_u16());
        self.counted
            .request(metric_kind(&request.method, &request.path), code);
        response
    }

    /// Notes how long the head of a response took, or why there is none.
    fn observe(&self, response: &Result<Response, UpstreamError>, began: Instant) {
        let observations = &self.limits.observations;
        match response {
            Ok(response) => {
                let (status, now) = (response.status(), Instant::now());
                observations.responded(now - began, now);
                if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                    observations.failed(format!("the upstream answered {status}"));
                }
            }
            Err(error) => observations.failed(telemetry::chain(error)),
        }
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
