//! Layers, and parts of them.
//!
//! Old Docker goes on with a broken download by `Range: bytes=<have>-<size>`, an end that is one too far, and
//! knows by a 416 without a body that it has everything. docker-registry announces a byte more than it sends
//! then, writes `Content-Range` without its unit, and says 416 to a single byte; so ranges are decided here, and
//! it is asked for what it gives rightly.

use http::{HeaderMap, Method, StatusCode, header};

use super::super::error_response::ErrorResponse;
use super::super::respond::RequestOptions;
use super::super::session::Session;
use super::super::{Gateway, send};
use super::route::ImageRequest;
use super::{Failed, respond};
use ::v1::{Claim, V1Pass};
use mirror::Passed;
use oci::cache_status::{CacheStatus, Forward};
use oci::headers::content_length;
use oci::range::{self, Selection, Span};

impl Gateway {
    /// Passes on GET or HEAD of a layer.
    pub(super) async fn v1_layer(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        claim: Claim<'_>,
        mut headers: HeaderMap,
    ) -> Result<(), Failed> {
        let v1 = &self.state.v1;
        let request = session.req_header();
        let options = RequestOptions::of(&request.method, &request.headers);
        if options.head {
            let passed = v1.v1_layer_head(claim, &image.id, &headers).await?;
            return self.v1_whole_layer(session, image, claim, passed).await;
        }
        // Layers have no validator here, so that a condition never holds.
        let ranges = options
            .range
            .as_deref()
            .filter(|_| options.if_range.is_none());
        let part = match ranges.and_then(range::parse) {
            None => None,
            Some(ranges) => {
                let size = v1.v1_layer_size(claim, &image.id, &headers).await?;
                match size.map(|size| (size, range::select(Some(&ranges), size))) {
                    Some((size, Selection::Unsatisfiable)) => {
                        let cache = CacheStatus::forward(Forward::Bypass);
                        return Ok(respond::nothing_left(session, size, cache).await?);
                    }
                    Some((size, Selection::Part(span))) => Some((span, size)),
                    // Several parts are no part of this API, and of an unknown length there is only the whole.
                    Some((_, Selection::Whole | Selection::Parts(_))) | None => None,
                }
            }
        };
        let upstream = part.map_or(UpstreamRange::Whole, |(span, size)| {
            upstream_range(span, size)
        });
        if let UpstreamRange::Part(upstream) = upstream {
            let range = format!("bytes={}-{}", upstream.first, upstream.end - 1);
            let range = range
                .parse()
                .map_err(|_| ErrorResponse::bad_gateway("the range is too long"))?;
            headers.insert(header::RANGE, range);
        }
        let pass = V1Pass {
            method: Method::GET,
            headers,
            body: None,
        };
        let passed = v1.v1_image(claim, &image.id, image.part, pass).await?;
        match part {
            Some((span, size)) if passed.status.is_success() => {
                let part = LayerPart {
                    upstream,
                    span,
                    size,
                };
                self.v1_part(session, image, claim, passed, part).await
            }
            _ => self.v1_whole_layer(session, image, claim, passed).await,
        }
    }

    async fn v1_whole_layer(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        claim: Claim<'_>,
        passed: Passed,
    ) -> Result<(), Failed> {
        let mut response = self.v1_response(session, claim.registry(), image.action, &passed)?;
        if passed.status == StatusCode::OK {
            response.insert_header(header::ACCEPT_RANGES, "bytes")?;
        }
        self.v1_relay(session, response, passed).await
    }

    /// A part: as the registry gave it, or cut from the whole where it knows no ranges.
    async fn v1_part(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        claim: Claim<'_>,
        passed: Passed,
        part: LayerPart,
    ) -> Result<(), Failed> {
        let LayerPart {
            upstream,
            span,
            size,
        } = part;
        let length = content_length(&passed.headers);
        let is = |expected: u64| length.is_none_or(|length| length == expected);
        let skip = match (passed.status, upstream) {
            (StatusCode::PARTIAL_CONTENT, UpstreamRange::Part(upstream)) if is(upstream.len()) => {
                span.first - upstream.first
            }
            (StatusCode::OK, _) if is(size) => span.first,
            _ => {
                return Err(ErrorResponse::bad_gateway(
                    "the registry sent another part than was asked for",
                )
                .into());
            }
        };
        let mut response = self.v1_response(session, claim.registry(), image.action, &passed)?;
        response.set_status(StatusCode::PARTIAL_CONTENT)?;
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
        response.insert_header(header::CONTENT_RANGE, span.content_range(size))?;
        Ok(send::relay_part(session, response, skip, span.len(), passed).await?)
    }
}

/// What a registry is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamRange {
    Whole,
    Part(Span),
}

/// What is cut from what it was asked for.
#[derive(Clone, Copy)]
struct LayerPart {
    upstream: UpstreamRange,
    span: Span,
    /// Of the whole layer, in bytes.
    size: u64,
}

/// What to ask for so that a part is in it: two bytes where one is wanted, where there are two.
const fn upstream_range(span: Span, size: u64) -> UpstreamRange {
    let Span { first, end } = span;
    match (span.len(), first) {
        (1, 0) if size == 1 => UpstreamRange::Whole,
        (1, 0) => UpstreamRange::Part(Span { first, end: 2 }),
        (1, _) => UpstreamRange::Part(Span {
            first: first - 1,
            end,
        }),
        _ => UpstreamRange::Part(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_is_asked_for_with_its_neighbour() {
        let part = |first, end| UpstreamRange::Part(Span { first, end });
        for (first, end, size, expected) in [
            (0, 10, 10, part(0, 10)),
            (3, 5, 10, part(3, 5)),
            (9, 10, 10, part(8, 10)),
            (0, 1, 10, part(0, 2)),
            (0, 1, 1, UpstreamRange::Whole),
        ] {
            assert_eq!(
                upstream_range(Span { first, end }, size),
                expected,
                "{first}-{end}/{size}"
            );
        }
    }
}
