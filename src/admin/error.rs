//! Refusals and failures of the admin listeners, as problem details (RFC 9457).

use std::borrow::Cow;

use http::{HeaderValue, Response, StatusCode, header};

use super::report::ProblemBody;
use super::{Body, json};

/// The kind of a problem, which programs decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemCode {
    InvalidParameter,
    InvalidBody,
    LoginRequired,
    CrossSiteRequest,
    OtherMachine,
    NotFound,
    MethodNotAllowed,
    VerifyRunning,
    BodyTooLarge,
    UnsupportedMediaType,
    WrongHost,
    TooManyRequests,
    InternalError,
    InvalidConfiguration,
    NotUpgraded,
    Unavailable,
    StoreFailed,
    StoreScanning,
    TooManyListeners,
}

impl ProblemCode {
    /// The member `code`, and the title.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::InvalidParameter => ("invalid-parameter", "Invalid parameter"),
            Self::InvalidBody => ("invalid-body", "Invalid body"),
            Self::LoginRequired => ("login-required", "Login required"),
            Self::CrossSiteRequest => ("cross-site-request", "Cross-site request"),
            Self::OtherMachine => ("other-machine", "Request from another machine"),
            Self::NotFound => ("not-found", "Not found"),
            Self::MethodNotAllowed => ("method-not-allowed", "Method not allowed"),
            Self::VerifyRunning => ("verify-running", "Verification in progress"),
            Self::BodyTooLarge => ("body-too-large", "Body too large"),
            Self::UnsupportedMediaType => ("unsupported-media-type", "Unsupported media type"),
            Self::WrongHost => ("wrong-host", "Wrong host"),
            Self::TooManyRequests => ("too-many-requests", "Too many requests"),
            Self::InternalError => ("internal-error", "Internal error"),
            Self::InvalidConfiguration => ("invalid-configuration", "Invalid configuration"),
            Self::NotUpgraded => ("not-upgraded", "Not upgraded"),
            Self::Unavailable => ("unavailable", "Unavailable"),
            Self::StoreFailed => ("store-failed", "The store failed"),
            Self::StoreScanning => ("store-scanning", "The store is being read"),
            Self::TooManyListeners => ("too-many-listeners", "Too many live dashboards"),
        }
    }

    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidParameter | Self::InvalidBody => StatusCode::BAD_REQUEST,
            Self::LoginRequired => StatusCode::UNAUTHORIZED,
            Self::CrossSiteRequest | Self::OtherMachine => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::VerifyRunning | Self::NotUpgraded => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::WrongHost => StatusCode::MISDIRECTED_REQUEST,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::InvalidConfiguration => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable
            | Self::StoreFailed
            | Self::StoreScanning
            | Self::TooManyListeners => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A request that is refused, or that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: ProblemCode,
    /// What failed, why, and what to do.
    detail: Cow<'static, str>,
    /// The value of `Allow`.
    allow: Option<String>,
    /// The value of `WWW-Authenticate`.
    challenge: Option<String>,
    /// The value of `Retry-After`, in seconds.
    retry_after: Option<u64>,
}

impl Problem {
    pub fn new(code: ProblemCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            allow: None,
            challenge: None,
            retry_after: None,
        }
    }

    /// 405, with the methods that are allowed.
    pub fn method_not_allowed(allow: String) -> Self {
        let detail = format!("use {allow}");
        Self {
            allow: Some(allow),
            ..Self::new(ProblemCode::MethodNotAllowed, detail)
        }
    }

    /// 401, with the challenge.
    pub fn login_required(detail: &'static str, challenge: String) -> Self {
        Self {
            challenge: Some(challenge),
            ..Self::new(ProblemCode::LoginRequired, detail)
        }
    }

    /// The same with `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    pub fn response(self) -> Response<Body> {
        let (code, title) = self.code.names();
        let status = self.code.status();
        let body = ProblemBody {
            kind: "about:blank".to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail.into_owned(),
            code: code.to_owned(),
        };
        let mut response = json(status, &body);
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(allow) = self.allow.and_then(|allow| allow.try_into().ok()) {
            headers.insert(header::ALLOW, allow);
        }
        if let Some(challenge) = self.challenge.and_then(|text| text.try_into().ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
