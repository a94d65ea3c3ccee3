//! Where an answer of the v1 API leads: layers may be kept somewhere else. Nobody's login goes along.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use reqwest::Url;

use super::pass::answered;
use super::{Passed, Upstream, UpstreamError};

const MAX_REDIRECTS: usize = 5;

impl Upstream {
    /// Follows what was answered to a GET of `target` until it leads nowhere else, `headers` going along.
    ///
    /// # Errors
    /// Why it could not be asked, and [`UpstreamError::Protocol`] for what must not be followed.
    pub async fn followed(
        &self,
        target: &str,
        headers: &HeaderMap,
        mut passed: Passed,
        within: Duration,
    ) -> Result<Passed, UpstreamError> {
        let home = &self.transport.home;
        let mut url = self
            .transport
            .origin
            .join(target)
            .map_err(|_| UpstreamError::Protocol("the path makes no URL"))?;
        for _ in 0..MAX_REDIRECTS {
            let Some(next) = location(&url, &passed)? else {
                return Ok(passed);
            };
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(UpstreamError::Protocol("a redirect from https to http"));
            }
            if !home.allows_host(next.host_str().unwrap_or_default()) {
                return Err(UpstreamError::Protocol(
                    "a redirect to an address inside of the network",
                ));
            }
            let client = self.clients.passing();
            let request = client.get(next.clone()).headers(headers.clone());
            let response = tokio::time::timeout(within, answered(request)).await;
            passed = Passed::from(response.map_err(|_| UpstreamError::Timeout)??);
            url = next;
        }
        Err(UpstreamError::Protocol("more than five redirects"))
    }
}

/// Where an answer leads; `None` when it does not.
fn location(url: &Url, passed: &Passed) -> Result<Option<Url>, UpstreamError> {
    if !matches!(
        passed.status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    ) {
        return Ok(None);
    }
    let location = passed.headers.get(header::LOCATION);
    let next = location.and_then(|location| url.join(location.to_str().ok()?).ok());
    let next = next.filter(|next| matches!(next.scheme(), "http" | "https") && next.has_host());
    next.map(Some).ok_or(UpstreamError::Protocol(
        "a redirect without a usable Location",
    ))
}
