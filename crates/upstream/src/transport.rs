//! Sends one request: retries, deadlines, and what its outcome implies about the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use reqwest::{Response, Url};

use super::UpstreamError;
use super::addresses::RedirectPolicy;
use super::auth::Auth;
use super::body_end::{BodyEnd, is_whole_json};
use super::circuit::{FailureKey, HostHealth};
use super::limits::Limits;
use super::probe::Probe;
use super::request::{AuthSource, UpstreamRequest};
use super::response::{UpstreamResponse, WholeResponse, read_body};
use telemetry::alerts::{self, AlertKind};
use telemetry::metrics;

/// The limit on reading the body of a short response, all attempts together.
const WHOLE_BODY_TIMEOUT: Duration = Duration::from_secs(60);
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
        if let (Err(error), AuthSource::Gateway) = (&outcome, &request.auth)
            && self.auth.refuses_account(error)
        {
            alerts::raise(
                AlertKind::AccountRefused,
                self.counted.registry(),
                "the registry refuses the gateway's account",
            );
        }
        outcome
    }

    /// Sends a request that is optional: once, and without a consequence for other requests.
    ///
    /// # Errors
    /// A refusal or failure of the upstream.
    pub async fn send_once(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let keys = self.keys(request);
        self.probe.admit(client, request.kind, &keys).await?;
        let timed = tokio::time::timeout(request.timeout, self.attempt(client, request));
        timed.await.unwrap_or(Err(UpstreamError::Timeout))
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
    pub(super) fn keys(&self, request: &UpstreamRequest) -> [FailureKey; 2] {
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

/// A random wait between half of `wait` and all of it, so that retries are spread.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
