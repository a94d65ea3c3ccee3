//! Sending one question: login, redirects, retries, deadlines.
//!
//! Redirects are followed here rather than by the client, because each hop needs a decision: the account
//! stays with the registry's own origin, https is not left, and no hop leads inside of the network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};

use super::UpstreamError;
use super::addresses::RedirectPolicy;
use super::auth::Auth;
use super::body_end::{BodyEnd, is_whole_json};
use super::limits::{Kind, Limits, Subject, Suspicion};
use super::probe::Probe;
use super::request::{AuthSource, ContentCoding, UpstreamRequest};
use super::response::{UpstreamResponse, WholeResponse, read_body};
use oci::error::{self, ErrorCode};
use telemetry::metrics;

const MAX_REDIRECTS: usize = 10;
/// How long the body of a short question may take, all attempts together.
const WHOLE_BODY: Duration = Duration::from_secs(60);
/// The longest error that is read, in bytes.
const MAX_ERROR: usize = 16 << 10;
/// How often a question is sent at most.
const ATTEMPTS: u32 = 3;
/// The longest wait before the second attempt; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// How one registry is reached.
#[derive(Debug)]
pub(super) struct Transport {
    pub origin: Url,
    pub redirects: RedirectPolicy,
    pub auth: Auth,
    pub limits: Arc<Limits>,
    pub probe: Probe,
    /// What is sent there is counted here.
    pub counted: metrics::Upstream,
    /// There is no such registry: it has nothing.
    pub absent: bool,
}

impl Transport {
    /// Asks until there is an answer, an answer that is final, or no time.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn send(
        &self,
        client: &reqwest::Client,
        ask: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        if self.absent {
            return Err(UpstreamError::NotFound);
        }
        let about = self.about(ask);
        let began = Instant::now();
        let deadline = tokio::time::Instant::from_std(began) + ask.timeout;
        self.probe.admit(client, ask.kind, &about).await?;
        let mut attempt = 0;
        let outcome = loop {
            attempt += 1;
            let timed = tokio::time::timeout_at(deadline, self.attempt(client, ask));
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
            Err(error) if error.means_down() => self.failed(client, error, about, began),
            // One caller's limit is not another's.
            Err(UpstreamError::TooManyRequests { retry_after })
                if !matches!(ask.auth, AuthSource::Caller(_)) =>
            {
                self.limits.limited(*retry_after, Instant::now());
            }
            _ => self.limits.answered(&about),
        }
        outcome
    }

    /// Notes that a question failed, and what that says of the host.
    fn failed(
        &self,
        client: &reqwest::Client,
        error: &UpstreamError,
        [question, token]: [Subject; 2],
        began: Instant,
    ) {
        let now = Instant::now();
        let subject = match error {
            UpstreamError::Token(_) => token,
            _ => question,
        };
        let suspicion = self.limits.failed(subject, began, now);
        self.blame(client, error, suspicion);
    }

    fn blame(&self, client: &reqwest::Client, error: &UpstreamError, suspicion: Suspicion) {
        match (error, suspicion) {
            (_, Suspicion::None) => {}
            // Had it been heard meanwhile, it would be another host: one that it sent us to.
            (UpstreamError::Network(error), Suspicion::Away) if error.is_connect() => {
                self.limits.away(Instant::now());
            }
            (_, Suspicion::Away) => self.probe.look_into(client),
        }
    }

    /// Notes what became of a request that passed through. It is not sent again, and rests nothing but a host
    /// that is away.
    pub fn passed(
        &self,
        client: &reqwest::Client,
        outcome: &Result<Response, UpstreamError>,
        began: Instant,
    ) {
        let now = Instant::now();
        match outcome {
            Ok(response) if !response.status().is_server_error() => self.limits.heard(now),
            Err(error) if error.means_down() => {
                self.blame(client, error, self.limits.suspicion(began, now));
            }
            _ => {}
        }
    }

    /// What a question is about: itself, and what its token is for.
    fn about(&self, ask: &UpstreamRequest) -> [Subject; 2] {
        let login = match &ask.auth {
            AuthSource::Gateway => (0, None),
            AuthSource::Anonymous => (1, None),
            AuthSource::Caller(login) => (2, login.as_ref()),
            AuthSource::Preemptive(login) => (3, login.as_ref()),
        };
        let mut headers: Vec<_> = ask.headers.iter().collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        let headers: Vec<_> = headers
            .into_iter()
            .map(|(name, value)| (name, value.as_bytes()))
            .collect();
        let login = (login.0, login.1.map(HeaderValue::as_bytes));
        [
            self.limits
                .subject((&ask.method, &ask.path, headers, login)),
            self.limits.subject((&ask.scope, login)),
        ]
    }

    /// Asks for a body of at most `limit` bytes, with the headers it came with. One that is dropped under way
    /// is asked for again; so is one that ended with its connection and is no whole JSON.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn whole(
        &self,
        client: &reqwest::Client,
        ask: &UpstreamRequest,
        limit: usize,
    ) -> Result<WholeResponse, UpstreamError> {
        let deadline = tokio::time::Instant::now() + WHOLE_BODY;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let response = self.send(client, ask).await?.response;
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
                // A stall took its time already.
                Err(UpstreamError::Network(_) | UpstreamError::Cut) if attempt < ATTEMPTS => {
                    tokio::time::sleep(jittered(FIRST_WAIT * 2_u32.pow(attempt - 1))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks once, following redirects. A redirect's target that refuses us is asked for anew at the
    /// registry, once: what it signed may have expired.
    async fn attempt(
        &self,
        client: &reqwest::Client,
        ask: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let answered = self.follow(client, ask).await?;
        let status = answered.response.status();
        let elsewhere = !self.is_own(answered.response.url());
        let expired = matches!(status.as_u16(), 400 | 401 | 403 | 410);
        let answered = if elsewhere && expired {
            self.follow(client, ask).await?
        } else {
            answered
        };
        let (status, headers) = (answered.response.status(), answered.response.headers());
        if let Some(remaining) = self.limits.read(headers, self.origin.as_str()) {
            self.counted.remaining(remaining);
        }
        if status == StatusCode::NOT_FOUND && ask.kind == Kind::Referrers {
            return Err(no_referrers(answered.response).await);
        }
        if !status.is_success() {
            return Err(match (&ask.auth, self.is_own(answered.response.url())) {
                (AuthSource::Caller(_), true) => UpstreamError::of_caller(status, headers),
                _ => UpstreamError::of(status, headers),
            });
        }
        let coding = headers.get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
            && ask.content_coding == ContentCoding::Refuse
        {
            return Err(UpstreamError::Protocol(
                "a content coding that was not asked for",
            ));
        }
        Ok(answered)
    }

    async fn follow(
        &self,
        client: &reqwest::Client,
        ask: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let mut url = self
            .origin
            .join(&ask.path)
            .map_err(|_| UpstreamError::Unsendable)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = match self.hop(client, ask, &url).await {
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

    /// One request to one URL, twice if it asks for a login that we can give.
    async fn hop(
        &self,
        client: &reqwest::Client,
        ask: &UpstreamRequest,
        url: &Url,
    ) -> Result<Response, UpstreamError> {
        let scope = Some(ask.scope.as_str());
        let own = self.is_own(url);
        let anonymous = matches!(ask.auth, AuthSource::Anonymous);
        let sent = match &ask.auth {
            _ if !own => None,
            AuthSource::Caller(authorization) | AuthSource::Preemptive(authorization) => {
                authorization.clone()
            }
            AuthSource::Gateway | AuthSource::Anonymous => {
                self.auth.authorization(scope, anonymous).await?
            }
        };
        let response = self.request(client, ask, url, sent.as_ref()).await?;
        let theirs = own && matches!(ask.auth, AuthSource::Caller(_) | AuthSource::Preemptive(_));
        if response.status() != StatusCode::UNAUTHORIZED || theirs {
            return Ok(response);
        }
        let headers = response.headers();
        let answer = if own {
            self.auth
                .answer(headers, scope, sent.as_ref(), anonymous)
                .await?
        } else {
            self.auth.answer_elsewhere(headers, url).await?
        };
        match answer {
            Some(answer) => self.request(client, ask, url, Some(&answer)).await,
            None => Ok(response),
        }
    }

    async fn request(
        &self,
        client: &reqwest::Client,
        ask: &UpstreamRequest,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, UpstreamError> {
        let response = request(client, ask, url, authorization).await;
        let status = response.as_ref().ok().map(Response::status);
        if status.is_some_and(|status| !status.is_server_error()) && self.is_own(url) {
            self.limits.heard(Instant::now());
        }
        let code = status.map(|status| status.as_u16());
        self.counted.request(kind(&ask.method, &ask.path), code);
        response
    }

    /// Whether a URL is of the registry's own origin: scheme, host and port.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.origin.origin()
    }
}

/// The meaning of a 404 to a question for referrers: the repository is unknown only if it says so.
async fn no_referrers(response: Response) -> UpstreamError {
    let body = read_body(response, MAX_ERROR).await.unwrap_or_default();
    if error::names(&body, ErrorCode::NameUnknown) {
        UpstreamError::NotFound
    } else {
        UpstreamError::NoReferrers
    }
}

/// What a request is counted as. Registries count manifest GETs, and nothing else.
fn kind(method: &Method, path: &str) -> &'static str {
    match (path.rsplit('/').nth(1), method) {
        (Some("manifests"), &Method::HEAD) => "manifest_head",
        (Some("manifests"), _) => "manifest",
        (Some("blobs"), &Method::HEAD) => "blob_head",
        (Some("blobs"), _) => "blob",
        (Some("tags" | "referrers"), _) => "list",
        _ => "other",
    }
}

async fn request(
    client: &reqwest::Client,
    ask: &UpstreamRequest,
    url: &Url,
    authorization: Option<&HeaderValue>,
) -> Result<Response, UpstreamError> {
    let mut request = client
        .request(ask.method.clone(), url.clone())
        .headers(ask.headers.clone());
    if let Some(authorization) = authorization {
        request = request.header(header::AUTHORIZATION, authorization.clone());
    }
    Ok(request.send().await?)
}

/// How often a question is sent if it fails like this. Where nobody listens, the client hears of it within
/// 10 s.
fn attempts_after(error: &UpstreamError) -> u32 {
    match error {
        UpstreamError::Network(error) if error.is_connect() => 2,
        error if error.is_transient() => ATTEMPTS,
        _ => 1,
    }
}

/// Where a redirect leads; `None` when the response is none.
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

/// Between half of a wait and the whole of it, so that many do not come back at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
