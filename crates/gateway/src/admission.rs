//! How many requests are worked on at once: by one client, and in all.
//!
//! A request counts until its work ends. A stream of HTTP/2 that its client resets no longer counts there, so
//! that without this a connection could pile up work.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error_response::ErrorResponse;
use oci::error::ErrorCode;
use runtime::share::{Kind, Share, Shares};
use telemetry::LogThrottle;

/// How many streams one HTTP/2 connection may have at once.
pub(super) const STREAMS: usize = 100;
/// What a client is told to wait.
const AGAIN: Duration = Duration::from_secs(1);

/// Room for requests.
#[derive(Debug)]
pub struct Admission {
    shares: Arc<Shares>,
    all: Arc<Semaphore>,
}

/// The room of one request, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    _share: Share,
    _place: OwnedSemaphorePermit,
}

impl Admission {
    /// As many requests as connections, which only HTTP/2 could have more of; at least what one connection of
    /// HTTP/2 may have.
    pub fn new(shares: Arc<Shares>, connections: usize) -> Self {
        Self {
            shares,
            all: Arc::new(Semaphore::new(connections.max(STREAMS))),
        }
    }

    /// Room for a request of this client; `None` for a Unix socket.
    pub(super) fn request(&self, client: Option<IpAddr>) -> Result<Admitted, ErrorResponse> {
        static CLIENT_FULL: LogThrottle = LogThrottle::new();
        static FULL: LogThrottle = LogThrottle::new();

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
                "too many requests at once from your address",
            ));
        };
        let Ok(place) = self.all.clone().try_acquire_owned() else {
            if FULL.now() {
                tracing::warn!(
                    "refused a request: as many are in flight as limits.connections allows; \
                     logged at most once a minute"
                );
            }
            return Err(full(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unavailable,
                "the gateway has too many requests at once",
            ));
        };
        Ok(Admitted {
            _share: share,
            _place: place,
        })
    }
}

fn full(status: StatusCode, code: ErrorCode, message: &'static str) -> ErrorResponse {
    ErrorResponse {
        retry_after: Some(AGAIN),
        ..ErrorResponse::with_status(status, code, message)
    }
}
