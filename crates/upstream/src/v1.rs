//! Requests of the v1 API: they pass through, redirects and statuses included, or are questions of our own, of
//! which the answers are kept.
//!
//! A v1 registry is told the account, where there is one, or the token that its index gave; it has no
//! challenge to learn from. Its servers close idle connections after two seconds, so that a request may meet
//! one that is just being closed: what changes nothing is sent again, once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::limits::Kind;
use super::pass::{answer_timeout, answered};
use super::transport::{Answered, Ask, AuthSource, Whole};
use super::{
    BODY_HEADERS, BlobBody, BodyEnd, Passed, Passing, QUESTION, Sent, Upstream, UpstreamError,
    content_length,
};
use oci::range::Span;

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
        let client = self.clients.passing();
        let began = Instant::now();
        transport.probe.admit(&client, Kind::Other, &[]).await?;
        let url = transport
            .origin
            .join(&passing.target)
            .map_err(|_| UpstreamError::Unsendable)?;
        let within = answer_timeout(&passing.method, read_within(&passing.target));
        let authorization = match token {
            Some(token) => Some(token),
            None => transport.auth.account().await?,
        };
        let request = || {
            let request = client
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
            None => match answered(request(), within).await {
                Err(UpstreamError::Network(error)) if repeatable && !error.is_connect() => {
                    answered(request(), within).await
                }
                first => first,
            },
        };
        transport.passed(&client, &response, began);
        let response = response?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(UpstreamError::Denied(StatusCode::UNAUTHORIZED));
        }
        Ok(Passed::from(response))
    }
}

impl Upstream {
    /// Fetches something short of at most `limit` bytes, with the headers it came with.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn v1_whole(
        &self,
        path: String,
        token: Option<HeaderValue>,
        limit: usize,
    ) -> Result<(HeaderMap, Bytes), UpstreamError> {
        let mut ask = self.ask_v1(path, token).await?;
        // An index answers with a token to whom it is asked for.
        let wants = HeaderValue::from_static("true");
        ask.headers.insert("x-docker-token", wants);
        let Whole { headers, bytes, .. } = self.whole(ask, limit).await?;
        Ok((headers, bytes))
    }

    /// Begins to fetch a layer, whole or a part. A registry whose ranges are none that one can use is asked
    /// for everything: [`BlobBody::offset`] is 0 then. `size` is the length in bytes that it named before.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked; [`UpstreamError::Protocol`] for a body of which
    /// nobody could say whether it is whole.
    pub async fn v1_layer(
        &self,
        path: &str,
        token: Option<HeaderValue>,
        part: Option<Span>,
        size: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        let mut part = part.map(with_neighbour);
        loop {
            let mut ask = self.ask_v1(path.to_owned(), token.clone()).await?;
            ask.within = BODY_HEADERS;
            if let Some(Span { first, end }) = part {
                ask = ask.header(header::RANGE, &format!("bytes={first}-{}", end - 1));
            }
            let sent = self.transport.send(&self.clients.bodies(), &ask).await;
            let Answered { response, host } = match sent {
                Err(UpstreamError::Status(StatusCode::RANGE_NOT_SATISFIABLE)) if part.is_some() => {
                    part = None;
                    continue;
                }
                sent => sent?,
            };
            let headers = response.headers();
            let etag = headers
                .get(header::ETAG)
                .and_then(|etag| etag.to_str().ok());
            let version = etag.map(|etag| (host, etag.to_owned()));
            let length = content_length(headers);
            let (offset, total) = match (response.status(), part) {
                (StatusCode::PARTIAL_CONTENT, Some(span)) => {
                    let range = headers.get(header::CONTENT_RANGE);
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
            if total.is_none() && BodyEnd::of(&response) == BodyEnd::Connection {
                return Err(UpstreamError::Protocol("a layer without length or end"));
            }
            return Ok(BlobBody {
                total,
                offset,
                version,
                sent: Sent::Response(response),
            });
        }
    }

    async fn ask_v1(&self, path: String, token: Option<HeaderValue>) -> Result<Ask, UpstreamError> {
        let authorization = match token {
            Some(token) => Some(token),
            None => self.transport.auth.account().await?,
        };
        let mut ask = self.ask_for(Method::GET, path, String::new());
        ask.auth = AuthSource::V1(authorization);
        Ok(ask)
    }
}

/// How long a registry may take to answer a read: lists, tags and searches are short.
fn read_within(target: &str) -> Duration {
    if target.ends_with("/layer") {
        BODY_HEADERS
    } else {
        QUESTION
    }
}

/// Two bytes instead of one: to docker-registry a single byte is no range.
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

/// The total of a `Content-Range` that is what was asked for. docker-registry leaves its unit out.
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
