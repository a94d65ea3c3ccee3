//! The client of a v1 registry or of its index.
//!
//! A v1 server sends no challenge: it gets the account, where there is one, or the token that its index issued. It closes
//! idle connections after two seconds, so that a request may meet one that is just being closed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use oci::headers::content_length;
use oci::range::Span;
use upstream::{
    BODY_HEADERS_TIMEOUT, BlobBody, Body, BodyEnd, OnClosedConnection, Passed, Passing, Preview,
    SHORT_TIMEOUT, SetUpError, Settings, Upstream, UpstreamError, WholeResponse,
};

/// A path that every v1 server answers.
const PING: &str = "/v1/_ping";

/// One v1 server.
#[derive(Debug)]
pub(super) struct V1Upstream(Upstream);

/// What a request carries beside its target.
#[derive(Debug)]
pub struct V1Pass {
    /// The client's.
    pub method: Method,
    /// Those of the client's that the API needs.
    pub headers: HeaderMap,
    /// Streamed as it arrives; `None`: the request has none.
    pub body: Option<Body>,
}

impl V1Upstream {
    /// # Errors
    /// As [`Upstream::new`].
    pub fn new(settings: Settings) -> Result<Self, SetUpError> {
        Upstream::with_probe(settings, PING).map(Self)
    }

    /// Scheme and authority, for the log.
    pub fn origin(&self) -> &str {
        self.0.origin()
    }

    /// A GET of a path at `now`, which is not sent.
    pub fn preview(&self, path: &str, now: Instant) -> Preview {
        let request = self.0.request(Method::GET, path.to_owned(), String::new());
        self.0.preview_request(&request, now)
    }

    /// Passes a request through, redirects and statuses included. `token` replaces the account.
    ///
    /// # Errors
    /// [`UpstreamError::Denied`] where the account or the token is refused; otherwise why there is no response.
    pub async fn pass(
        &self,
        target: String,
        pass: V1Pass,
        token: Option<HeaderValue>,
    ) -> Result<Passed, UpstreamError> {
        let upstream = self.authorized(token).await?;
        let passing = Passing {
            read_timeout: read_timeout(&target),
            on_closed_connection: OnClosedConnection::ResendReads,
            method: pass.method,
            target,
            headers: pass.headers,
            scope: String::new(),
            body: pass.body,
        };
        upstream.pass(passing).await
    }

    /// Fetches a short body of at most `limit` bytes, with its headers.
    ///
    /// # Errors
    /// A refusal or failure of the server; [`UpstreamError::TooLarge`] for a longer body.
    pub async fn whole(
        &self,
        path: String,
        token: Option<HeaderValue>,
        limit: usize,
    ) -> Result<(HeaderMap, Bytes), UpstreamError> {
        let upstream = self.authorized(token).await?;
        // An index issues a token only on request.
        let wants_token = header::HeaderName::from_static("x-docker-token");
        let request = upstream
            .request(Method::GET, path, String::new())
            .header(wants_token, "true");
        let WholeResponse { headers, bytes, .. } = upstream.fetch_whole(&request, limit).await?;
        Ok((headers, bytes))
    }

    /// Begins to fetch a layer, whole or a part. A registry without usable ranges is asked for everything:
    /// [`BlobBody::offset`] is 0 then. `size` is the length in bytes that the registry gave before.
    ///
    /// # Errors
    /// A refusal or failure of the server; [`UpstreamError::Protocol`] for a body whose end cannot be recognised.
    pub async fn layer(
        &self,
        path: &str,
        token: Option<HeaderValue>,
        part: Option<Span>,
        size: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        let mut part = part.map(with_neighbour);
        loop {
            let upstream = self.authorized(token.clone()).await?;
            // One server labels every layer gzip, whatever it is.
            let mut request = upstream
                .request(Method::GET, path.to_owned(), String::new())
                .large_body()
                .ignore_content_coding();
            if let Some(Span { first, end }) = part {
                request = request.header(header::RANGE, &format!("bytes={first}-{}", end - 1));
            }
            let response = match upstream.fetch_body(&request).await {
                Err(UpstreamError::Status(StatusCode::RANGE_NOT_SATISFIABLE)) if part.is_some() => {
                    part = None;
                    continue;
                }
                response => response?,
            };
            let length = content_length(response.headers());
            let (offset, total) = match (response.status(), part) {
                (StatusCode::PARTIAL_CONTENT, Some(span)) => {
                    let range = response.headers().get(header::CONTENT_RANGE);
                    let total = range.and_then(|range| part_of(range.to_str().ok()?, span));
                    if total.is_none() || length.is_some_and(|length| length != span.len()) {
                        part = None;
                        continue;
                    }
                    (span.first, total)
                }
                (StatusCode::PARTIAL_CONTENT, None) => {
                    return Err(UpstreamError::Protocol(
                        "a 206 to a request without a range",
                    ));
                }
                _ => (0, length.or(size)),
            };
            if total.is_none() && response.end() == BodyEnd::Connection {
                return Err(UpstreamError::Protocol("a layer without length or end"));
            }
            return Ok(response.into_blob(offset, total));
        }
    }

    /// The client with a token, or else with the account.
    async fn authorized(&self, token: Option<HeaderValue>) -> Result<Upstream, UpstreamError> {
        let authorization = match token {
            Some(token) => Some(token),
            None => self.0.account_authorization().await?,
        };
        Ok(self.0.with_authorization(authorization))
    }
}

/// How long a server may take to answer a read: lists, tags and searches are short.
fn read_timeout(target: &str) -> Duration {
    if target.ends_with("/layer") {
        BODY_HEADERS_TIMEOUT
    } else {
        SHORT_TIMEOUT
    }
}

/// A range of one byte, widened to two: docker-registry takes a single byte for no range.
const fn with_neighbour(span: Span) -> Span {
    let Span { first, end } = span;
    match (span.len(), first) {
        (1, 1..) => Span {
            first: first - 1,
            end,
        },
        _ => span,
    }
}

/// The total of a `Content-Range` that is the range asked for. docker-registry omits the unit.
fn part_of(value: &str, asked: Span) -> Option<u64> {
    let value = value.strip_prefix("bytes ").unwrap_or(value);
    let (span, total) = value.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (total, last): (u64, u64) = (total.parse().ok()?, last.parse().ok()?);
    let right = first.parse() == Ok(asked.first) && last.checked_add(1) == Some(asked.end);
    (right && asked.end <= total).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_asked_for() {
        let asked = Span { first: 5, end: 10 };
        for (value, total) in [
            ("bytes 5-9/20", Some(20)),
            ("5-9/20", Some(20)),
            ("5-9/10", Some(10)),
            ("5-9/9", None),
            ("5-10/20", None),
            ("4-9/20", None),
            ("5-9/*", None),
            ("items 5-9/20", None),
            ("", None),
        ] {
            assert_eq!(part_of(value, asked), total, "{value}");
        }
    }

    #[test]
    fn a_single_byte_is_asked_for_with_its_neighbour() {
        for (first, end, expected) in [(0, 1, (0, 1)), (5, 6, (4, 6)), (5, 7, (5, 7))] {
            let Span { first, end } = with_neighbour(Span { first, end });
            assert_eq!((first, end), expected);
        }
    }
}
