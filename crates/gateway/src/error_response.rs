//! Error responses: status, code, message and challenge. Pure.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use super::resolver::ResolveError;
use oci::error::ErrorCode;
use oci::query::QueryError;

/// An error response; the v2 and v1 APIs render it differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub message: Cow<'static, str>,
    /// `WWW-Authenticate`.
    pub challenge: Option<String>,
    pub retry_after: Option<Duration>,
}

impl ErrorResponse {
    /// An error with the status of its code.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::with_status(code.status(), code, message)
    }

    pub fn with_status(
        status: StatusCode,
        code: ErrorCode,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            challenge: None,
            retry_after: None,
        }
    }

    /// 401, with a challenge.
    pub fn unauthorized(message: &'static str, challenge: String) -> Self {
        Self {
            challenge: Some(challenge),
            ..Self::new(ErrorCode::Unauthorized, message)
        }
    }

    /// 405: a method or operation that is not supported.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Unsupported, message)
    }

    /// 502: the registry's answer cannot be relayed.
    pub fn bad_gateway(message: &'static str) -> Self {
        Self::with_status(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
    }

    /// 429, with `Retry-After`.
    pub fn too_many_requests(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(ErrorCode::TooManyRequests, message)
        }
    }
}

impl From<ResolveError> for ErrorResponse {
    fn from(error: ResolveError) -> Self {
        let code = match error {
            ResolveError::UnknownNamespace
            | ResolveError::OwnHostOnly
            | ResolveError::Unclaimed => ErrorCode::NameUnknown,
            ResolveError::TooLong | ResolveError::Name(_) => ErrorCode::NameInvalid,
        };
        Self::new(code, error.to_string())
    }
}

impl From<QueryError> for ErrorResponse {
    fn from(error: QueryError) -> Self {
        Self::new(ErrorCode::NameInvalid, error.to_string())
    }
}
