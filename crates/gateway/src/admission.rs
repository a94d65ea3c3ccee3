//! Limits the requests in flight, per client and in total.
//!
//! A request counts until its work ends. HTTP/2 stops counting a stream that its client resets, so without these
//! limits one connection could pile up work.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::error_response::ErrorResponse;
use oci::error::ErrorCode;
use runtime::rate::{Rate, Rates};
use runtime::share::{Kind, Share, Shares};
use runtime::slots::{Slot, Slots};
use telemetry::LogThrottle;

/// The limit of concurrent streams on one HTTP/2 connection.
pub(super) const MAX_STREAMS: usize = 100;
/// The `Retry-After` of a refused request.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The limits of requests in flight.
#[derive(Debug)]
pub struct Admission {
    shares: Arc<Shares>,
    rates: Arc<Rates>,
    all: Arc<Slots>,
}

/// The slot of one request in flight, released when dropped.
#[derive(Debug)]
pub(super) struct RequestSlot {
    _share: Share,
    _slot: Slot,
}

impl Admission {
    /// Admits as many requests as connections, a limit that only HTTP/2 can reach, but at least the streams of one
    /// HTTP/2 connection.
    pub fn new(shares: Arc<Shares>, rate: Option<Rate>, connections: usize) -> Self {
        Self {
            shares,
            rates: Arc::new(Rates::new(rate)),
            all: Slots::new(most(connections)),
        }
    }

    /// The same with another rate of each client, who begin anew if it differs.
    #[must_use]
    pub fn with_rate(&self, rate: Option<Rate>) -> Self {
        let rates = if self.rates.limit() == rate {
            self.rates.clone()
        } else {
            Arc::new(Rates::new(rate))
        };
        Self {
            shares: self.shares.clone(),
            rates,
            all: self.all.clone(),
        }
    }

    /// Applies another `limits.connections`.
    pub fn set_connections(&self, connections: usize) {
        self.all.set_limit(most(connections));
    }

    /// The requests that a client has in flight, and the most that it may; `None` for one that is not limited.
    pub(super) fn share_of(&self, client: Option<IpAddr>) -> Option<(usize, Option<usize>)> {
        self.shares.taken(Kind::Request, client)
    }

    /// Admits a request of `client`, which is `None` on a Unix socket.
    ///
    /// # Errors
    /// 429 at a limit of the client, 503 at the limit of the gateway.
    pub(super) fn request(
        &self,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Result<RequestSlot, ErrorResponse> {
        static CLIENT_FULL: LogThrottle = LogThrottle::new();
        static FULL: LogThrottle = LogThrottle::new();

        self.rates
            .count(client, now)
            .map_err(|wait| too_fast(client, wait))?;
        let Ok(share) = self.shares.take(Kind::Request, client) else {
            if let (true, Some(client)) = (CLIENT_FULL.now(), client) {
                tracing::warn!(
                    %client,
                    "refused a request: this client has limits.per_client.requests in flight; \
                     logged at most once a minute"
                );
            }
            return Err(full(
                StatusCode::TOO_MANY_REQUESTS,
                ErrorCode::TooManyRequests,
                "too many requests in flight from your address",
            ));
        };
        let Some(slot) = self.all.take() else {
            if FULL.now() {
                tracing::warn!(
                    "refused a request: as many are in flight as limits.connections allows; \
                     logged at most once a minute"
                );
            }
            return Err(full(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unavailable,
                "the gateway has too many requests in flight",
            ));
        };
        Ok(RequestSlot {
            _share: share,
            _slot: slot,
        })
    }
}

/// The response to a client that sends more requests than its rate allows.
fn too_fast(client: Option<IpAddr>, wait: Duration) -> ErrorResponse {
    static TOO_FAST: LogThrottle = LogThrottle::new();

    if let (true, Some(client)) = (TOO_FAST.now(), client) {
        tracing::warn!(
            %client,
            "refused a request: this client sends more than limits.per_client.rate allows; \
             logged at most once a minute"
        );
    }
    let message = "too many requests from your address";
    // Rounded up: a client that retries too early would be refused again.
    let seconds = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    ErrorResponse::too_many_requests(message, seconds)
}

/// The most requests in flight.
fn most(connections: usize) -> usize {
    connections.max(MAX_STREAMS)
}

fn full(status: StatusCode, code: ErrorCode, message: &'static str) -> ErrorResponse {
    ErrorResponse {
        retry_after: Some(RETRY_AFTER),
        ..ErrorResponse::with_status(status, code, message)
    }
}
