//! The errors of an upstream, each with a meaning of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// An upstream's refusal, or a failure to get a response. Sources are chained, not printed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// 404.
    #[error("the upstream does not have it")]
    NotFound,
    /// A 404 to a request for referrers whose body does not say that the repository is unknown: the response of registries
    /// without that API.
    #[error("the upstream has no referrers API")]
    NoReferrers,
    /// 401 after the gateway's login, or 403.
    #[error("the upstream refused the gateway's account ({0})")]
    Denied(StatusCode),
    /// 401 to a client's forwarded login, with the values of `WWW-Authenticate`.
    #[error("the upstream asks the client for another login")]
    Challenged(Vec<HeaderValue>),
    /// 403 to a client's forwarded login.
    #[error("the upstream refused the client")]
    CallerDenied,
    /// 429.
    #[error("the upstream limits requests")]
    TooManyRequests {
        /// The wait that `Retry-After` asks for (RFC 9110 §10.2.3), if it does.
        retry_after: Option<Duration>,
    },
    /// Another status that is no answer to the request, 5xx included.
    #[error("the upstream answered {0}")]
    Status(StatusCode),
    /// No response head, or no next piece of the body, within the request's limit.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The body is longer than the request allows.
    #[error("the upstream's body is longer than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body had neither a length nor an end of its own, and is incomplete.
    #[error("the upstream's body was cut off")]
    Cut,
    /// The response contradicts the specification: an invalid header, digest, range or JSON.
    #[error("the upstream broke the protocol: {0}")]
    Protocol(&'static str),
    /// The circuit breaker is open after failures; no request was sent.
    #[error("the upstream failed a moment ago and is not asked again yet")]
    CircuitOpen,
    /// The request was never sent: the client asked for too long a URL or header.
    #[error("the request is longer than can be sent")]
    Unsendable,
    /// The token endpoint refused, failed, or sent no token.
    #[error("the token endpoint issued no token")]
    Token(#[source] Arc<UpstreamError>),
    /// The program `docker-credential-…` failed; its output is not shown, since it may be secret.
    #[error("the credential helper failed: {0}")]
    Helper(&'static str),
    /// DNS, TCP, TLS or HTTP failed, before the response or within it.
    #[error("the upstream cannot be reached or dropped the connection")]
    Network(#[source] reqwest::Error),
}

impl UpstreamError {
    /// Whether the same request may succeed in a moment.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => {
                status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::Timeout | Self::Network(_) | Self::Cut => true,
            _ => false,
        }
    }

    /// Whether the upstream could not answer, rather than refused. Only then may a stale response be served.
    pub fn means_down(&self) -> bool {
        match self {
            Self::Token(error) => error.means_down(),
            Self::CircuitOpen => true,
            error => error.is_transient(),
        }
    }

    /// The error itself, or the token endpoint's.
    pub fn root(&self) -> &Self {
        match self {
            Self::Token(error) => error.root(),
            error => error,
        }
    }

    /// The error of an unsuccessful status.
    pub fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Denied(status),
            StatusCode::TOO_MANY_REQUESTS => Self::TooManyRequests {
                retry_after: retry_after(headers, SystemTime::now()),
            },
            _ => Self::Status(status),
        }
    }

    /// [`UpstreamError::of`] for a client's forwarded login.
    pub(super) fn of_caller(status: StatusCode, headers: &HeaderMap) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => {
                let challenges = headers.get_all(header::WWW_AUTHENTICATE).iter();
                Self::Challenged(challenges.cloned().collect())
            }
            StatusCode::FORBIDDEN => Self::CallerDenied,
            _ => Self::of(status, headers),
        }
    }
}

impl From<reqwest::Error> for UpstreamError {
    fn from(error: reqwest::Error) -> Self {
        // A presigned URL is a secret, so no URL may reach the log.
        if error.is_builder() {
            Self::Unsendable
        } else if error.is_timeout() && !error.is_connect() {
            Self::Timeout
        } else {
            Self::Network(error.without_url())
        }
    }
}

/// The pause that `Retry-After` asks for, clamped to 1 s..1 h.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let wait = oci::retry_after::of(headers, now)?;
    Some(wait.clamp(Duration::from_secs(1), Duration::from_secs(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_clamped() {
        for (value, seconds) in [
            ("5", Some(5)),
            ("0", Some(1)),
            ("86400", Some(3600)),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().expect("a value"));
            let wait = retry_after(&headers, SystemTime::now());
            assert_eq!(wait, seconds.map(Duration::from_secs), "{value}");
        }
    }
}
