//! What can go wrong with an upstream, each with a meaning of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// An upstream's refusal, or why it could not be asked. Sources are chained, not printed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("the upstream does not have it")]
    NotFound,
    /// A 404 to a question for referrers that does not say that the repository is unknown: registries without
    /// that API say so.
    #[error("the upstream has no referrers API")]
    NoReferrers,
    /// 401 after our own login, or 403.
    #[error("the upstream refused the gateway's account ({0})")]
    Denied(StatusCode),
    /// 401 to what a caller of ours showed: how it wants them to log in, line by line.
    #[error("the upstream wants another login")]
    Challenged(Vec<HeaderValue>),
    /// 403 to what a caller of ours showed.
    #[error("the upstream refused the caller")]
    CallerDenied,
    #[error("the upstream limits requests")]
    TooManyRequests { retry_after: Option<Duration> },
    #[error("the upstream answered {0}")]
    Status(StatusCode),
    #[error("the upstream did not answer in time")]
    Timeout,
    #[error("the upstream's body is longer than {limit} bytes")]
    TooLarge { limit: usize },
    /// It said neither how long its body was nor where it ended, and this is not all of it.
    #[error("the upstream's body was cut off")]
    Cut,
    #[error("the upstream broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the upstream failed a moment ago and is not asked again yet")]
    Resting,
    /// It did not even go out: its client wants too much.
    #[error("the question is longer than can be sent")]
    Unsendable,
    #[error("no token could be had")]
    Token(#[source] Arc<UpstreamError>),
    #[error("the credential helper failed: {0}")]
    Helper(&'static str),
    #[error("the upstream cannot be reached or dropped the connection")]
    Network(#[source] reqwest::Error),
}

impl UpstreamError {
    /// Whether the same question may have another answer in a moment.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => {
                status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::Timeout | Self::Network(_) | Self::Cut => true,
            _ => false,
        }
    }

    /// Whether the upstream could not answer, rather than that it answered no. Only then is something stale
    /// better than nothing.
    pub fn means_down(&self) -> bool {
        match self {
            Self::Token(error) => error.means_down(),
            Self::Resting => true,
            error => error.is_transient(),
        }
    }

    /// The error itself, or the one that kept us from getting a token.
    pub fn root(&self) -> &Self {
        match self {
            Self::Token(error) => error.root(),
            error => error,
        }
    }

    /// The error of a status that is no success.
    pub fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Denied(status),
            StatusCode::TOO_MANY_REQUESTS => {
                let value = headers
                    .get(header::RETRY_AFTER)
                    .and_then(|value| value.to_str().ok());
                let now = SystemTime::now();
                Self::TooManyRequests {
                    retry_after: value.and_then(|value| retry_after(value, now)),
                }
            }
            _ => Self::Status(status),
        }
    }

    /// [`UpstreamError::of`] where a caller of ours was the one who asked.
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
        // A presigned URL is a secret, so the URL is left out of what may be logged.
        if error.is_builder() {
            Self::Unsendable
        } else if error.is_timeout() && !error.is_connect() {
            Self::Timeout
        } else {
            Self::Network(error.without_url())
        }
    }
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds or a date, clamped to 1 s..1 h.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let wait = match value.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value.trim())
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(wait.clamp(Duration::from_secs(1), Duration::from_secs(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_clamped() {
        let now = httpdate::parse_http_date("Thu, 01 Jan 2026 00:00:00 GMT").expect("a date");
        for (value, seconds) in [
            ("5", Some(5)),
            ("0", Some(1)),
            ("86400", Some(3600)),
            ("Thu, 01 Jan 2026 00:00:30 GMT", Some(30)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", Some(1)),
            ("soon", None),
        ] {
            assert_eq!(
                retry_after(value, now),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
