//! Why a request is not served, as its sender is told. Pure.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use super::resolver::ResolveError;
use oci::error::ErrorCode;
use oci::query::QueryError;

/// The refusal of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub message: Cow<'static, str>,
    /// The `WWW-Authenticate` that says how to get further.
    pub challenge: Option<String>,
    pub retry_after: Option<Duration>,
}

impl ErrorResponse {
    /// A refusal with the status that its code has.
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

    /// 405, or what else is no way to ask.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Unsupported, message)
    }

    /// 502: the registry gave an answer that cannot be passed on.
    pub fn bad_gateway(message: &'static str) -> Self {
        Self::with_status(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
    }

    /// 429: too many failed logins.
    pub fn too_many_failures(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
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
