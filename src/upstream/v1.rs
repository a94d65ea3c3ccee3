//! Requests of the v1 API: they pass through, redirects and statuses included.
//!
//! A v1 registry is told the account, where there is one, or the token that its index gave; it has no
//! challenge to learn from. Its servers close idle connections after two seconds, so that a request may meet
//! one that is just being closed: what changes nothing is sent again, once.

use std::time::Instant;

use http::{HeaderValue, Method, StatusCode, header};

use super::limits::Kind;
use super::pass::answered;
use super::{Passed, Passing, Upstream, UpstreamError};

impl Upstream {
    /// Passes a request on. `token` is what goes as `Authorization` instead of the account.
    ///
    /// # Errors
    /// Why it could not be asked; [`UpstreamError::Denied`] where it refuses the account or the token.
    pub async fn pass_v1(
        &self,
        passing: Passing,
        token: Option<HeaderValue>,
    ) -> Result<Passed, UpstreamError> {
        let transport = &self.transport;
        transport.limits.admit(Kind::Other, Instant::now())?;
        let url = transport
            .origin
            .join(&passing.target)
            .map_err(|_| UpstreamError::Protocol("the path makes no URL"))?;
        let authorization = match token {
            Some(token) => Some(token),
            None => transport.auth.account().await?,
        };
        let request = || {
            let request = self
                .clients
                .passing()
                .request(passing.method.clone(), url.clone())
                .headers(passing.headers.clone());
            match &authorization {
                Some(value) => request.header(header::AUTHORIZATION, value.clone()),
                None => request,
            }
        };
        let repeatable = matches!(passing.method, Method::GET | Method::HEAD);
        let response = match passing.body {
            // Whoever feeds the body bounds the time.
            Some(body) => {
                let request = request().body(reqwest::Body::wrap(body));
                request.send().await.map_err(UpstreamError::from)
            }
            None => match answered(request()).await {
                Err(UpstreamError::Network(error)) if repeatable && !error.is_connect() => {
                    answered(request()).await
                }
                first => first,
            },
        };
        let now = Instant::now();
        match &response {
            Err(error) if error.means_down() => transport.limits.failed(now),
            _ => transport.limits.answered(),
        }
        let response = response?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(UpstreamError::Denied(StatusCode::UNAUTHORIZED));
        }
        Ok(Passed::from(response))
    }
}
