//! Sends one request: retries, deadlines, and what its outcome implies about the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use reqwest::{Response, Url};

use super::UpstreamError;
use super::accounts::{Accounts, Sender, asks_the_next, weightier};
use super::addresses::RedirectPolicy;
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
    pub accounts: Accounts,
    pub limits: Arc<Limits>,
    pub probe: Probe,
    /// Counts the requests that are sent.
    pub counted: metrics::Upstream,
    /// Whether the registry does not exist: every request is a 404.
    pub absent: bool,
}

impl Transport {
    /// Sends a request until it succeeds, fails for good, or times out. What one account is refused is asked with the next.
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
        let deadline = tokio::time::Instant::now() + request.timeout;
        let (mut asked, mut refusal) = (Vec::new(), None);
        loop {
            let now = Instant::now();
            let sender = self
                .accounts
                .sender(&request.auth, request.kind, &asked, now)?;
            let Some(sender) = sender else {
                return Err(refusal.unwrap_or(UpstreamError::NotFound));
            };
            self.probe.admit(client, &keys).await?;
            let outcome = self.repeat(client, request, sender, deadline).await;
            self.note_outcome(client, request, sender, &outcome, keys, now);
            match outcome {
                Err(error) if asks_the_next(&error) => {
                    let error = with_cool_down(error, sender);
                    refusal = Some(weightier(refusal, error));
                    asked.push(sender.index);
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends a request with one account, again after a transient failure.
    async fn repeat(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
        sender: Sender<'_>,
        deadline: tokio::time::Instant,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let timed = tokio::time::timeout_at(deadline, self.attempt(client, request, sender));
            let Ok(outcome) = timed.await else {
                return Err(UpstreamError::Timeout);
            };
            match outcome {
                Err(error) if attempt < attempts_after(&error) => {
                    let wait = jittered(FIRST_WAIT * 2_u32.pow(attempt - 1));
                    if tokio::time::timeout_at(deadline, tokio::time::sleep(wait))
                        .await
                        .is_err()
                    {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Notes what the outcome of a request that was first sent at `began` implies about the host and the account.
    fn note_outcome(
        &self,
        client: &reqwest::Client,
        request: &UpstreamRequest,
        sender: Sender<'_>,
        outcome: &Result<UpstreamResponse, UpstreamError>,
        keys: [FailureKey; 2],
        began: Instant,
    ) {
        match (outcome, sender.rate_limit) {
            (Err(error), _) if error.means_down() => self.failed(client, error, keys, began),
            (Err(UpstreamError::TooManyRequests { retry_after }), Some(rate_limit)) => {
                let now = Instant::now();
                let wait = rate_limit.rate_limited(*retry_after, now);
                tracing::warn!(
                    registry = self.counted.registry(),
                    account = sender.counted_as.as_str(),
                    seconds = wait.as_secs(),
                    "the upstream limits requests; manifest GETs are held back"
                );
                self.alert_if_low(now);
            }
            _ => self.limits.circuit.request_succeeded(&keys),
        }
        if let (Err(error), AuthSource::Gateway) = (outcome, &request.auth)
            && sender.account.auth.refuses_account(error)
        {
            sender.account.refused(Instant::now());
            let registry = self.counted.registry();
            let subject = if self.accounts.all().len() == 1 {
                registry.to_owned()
            } else {
                format!("{registry} ({})", sender.account.name.as_str())
            };
            let message = "the registry refuses the gateway's account";
            alerts::raise(AlertKind::AccountRefused, subject, message);
        }
    }

    /// Raises an alert while only the reserve is left of the pulls, all accounts together.
    pub fn alert_if_low(&self, now: Instant) {
        let Some(pulls) = self.accounts.pulls(now) else {
            return;
        };
        if pulls.allow_replacing() {
            return;
        }
        let (left, limit) = (pulls.remaining, pulls.limit);
        alerts::raise(
            AlertKind::BudgetLow,
            self.counted.registry(),
            format!("{left} of {limit} pulls are left; they are reserved for what is not cached"),
        );
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
        let sender = self
            .accounts
            .sender(&request.auth, request.kind, &[], Instant::now())?;
        let sender = sender.ok_or(UpstreamError::NotFound)?;
        self.probe.admit(client, &keys).await?;
        let attempt = self.attempt(client, request, sender);
        let timed = tokio::time::timeout(request.timeout, attempt);
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

/// The error with the cool-down that follows it, if the registry named none.
fn with_cool_down(error: UpstreamError, sender: Sender<'_>) -> UpstreamError {
    match (error, sender.rate_limit) {
        (UpstreamError::TooManyRequests { retry_after: None }, Some(rate_limit)) => {
            UpstreamError::TooManyRequests {
                retry_after: rate_limit.limited_for(Instant::now()),
            }
        }
        (error, _) => error,
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
