//! The errors of the admin API.

use std::borrow::Cow;

use http::{HeaderValue, Response, StatusCode, header};

use super::report::ErrorBody;
use super::{Body, json};

/// A request that is refused, or that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminError {
    pub status: StatusCode,
    message: Cow<'static, str>,
    /// The value of `Allow`.
    allow: Option<&'static str>,
}

impl AdminError {
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            allow: None,
        }
    }

    /// 405, with the methods that are allowed.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        }
    }

    pub fn response(self) -> Response<Body> {
        let error = self.message.into_owned();
        let mut response = json(self.status, &ErrorBody { error });
        if let Some(allow) = self.allow {
            let allow = HeaderValue::from_static(allow);
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}
