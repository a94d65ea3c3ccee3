//! Forwards requests for layers and parts of them.
//!
//! Old Docker resumes a download with `Range: bytes=<have>-<size>`, whose end is one too far, and knows by a 416
//! without a body that it is complete. docker-registry then announces a byte more than it sends, writes
//! `Content-Range` without its unit, and answers a single byte with 416. So the gateway selects ranges itself, and
//! requests only those that docker-registry answers correctly.

use http::{HeaderMap, Method, StatusCode, header};

use super::super::error_response::ErrorResponse;
use super::super::request_options::RequestOptions;
use super::super::session::Session;
use super::super::{Failure, Gateway, send};
use super::layer_range::{self, LayerPart};
use super::respond;
use super::route::ImageRequest;
use ::v1::{Claim, V1Pass};
use oci::cache_status::{CacheStatus, Forward};
use oci::headers::content_length;
use oci::range::Span;
use upstream::Passed;

impl Gateway {
    /// Forwards GET or HEAD of a layer.
    pub(super) async fn v1_layer(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        claim: Claim<'_>,
        mut headers: HeaderMap,
    ) -> Result<(), Failure> {
        let v1 = &self.state.v1;
        let request = session.req_header();
        let options = RequestOptions::of(&request.method, &request.headers);
        if options.head {
            let passed = v1.v1_layer_head(claim, &image.id, &headers).await?;
            return self.v1_whole_layer(session, image, claim, passed).await;
        }
        let part = match layer_range::ranges(&options) {
            None => None,
            Some(ranges) => {
                let size = v1.v1_layer_size(claim, &image.id, &headers).await?;
                match layer_range::select(Some(&ranges), size) {
                    Ok(part) => part,
                    Err(range) => {
                        let cache = CacheStatus::forward(Forward::Bypass);
                        return Ok(respond::unsatisfiable(session, range, cache).await?);
                    }
                }
            }
        };
        let upstream = part.map_or(UpstreamRange::Whole, upstream_range);
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
            Some(part) if passed.status.is_success() => {
                self.v1_part(session, image, claim, passed, part, upstream)
                    .await
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
    ) -> Result<(), Failure> {
        let mut response = self.v1_response(session, claim.registry(), image.action, &passed)?;
        if passed.status == StatusCode::OK {
            response.insert_header(header::ACCEPT_RANGES, "bytes")?;
        }
        self.v1_relay(session, response, passed).await
    }

    /// Relays a part, cut from what the registry sent: from the whole if it knows no ranges.
    async fn v1_part(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        claim: Claim<'_>,
        passed: Passed,
        part: LayerPart,
        upstream: UpstreamRange,
    ) -> Result<(), Failure> {
        let LayerPart { span, size } = part;
        let length = content_length(&passed.headers);
        let is = |expected: u64| length.is_none_or(|length| length == expected);
        let skip = match (passed.status, upstream) {
            (StatusCode::PARTIAL_CONTENT, UpstreamRange::Part(upstream)) if is(upstream.len()) => {
                span.first - upstream.first
            }
            (StatusCode::OK, _) if is(size) => span.first,
            _ => {
                return Err(ErrorResponse::bad_gateway(
                    "the registry sent another range than requested",
                )
                .into());
            }
        };
        let mut response = self.v1_response(session, claim.registry(), image.action, &passed)?;
        response.set_status(StatusCode::PARTIAL_CONTENT);
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
        response.insert_header(header::CONTENT_RANGE, span.content_range(size))?;
        Ok(send::relay_part(session, response, skip, span.len(), passed).await?)
    }
}

/// The range requested from the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamRange {
    Whole,
    Part(Span),
}

/// The range to request for a part: two bytes instead of one, if the layer has two.
const fn upstream_range(part: LayerPart) -> UpstreamRange {
    let LayerPart { span, size } = part;
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
    fn a_single_byte_is_requested_with_its_neighbour() {
        let part = |first, end| UpstreamRange::Part(Span { first, end });
        for (first, end, size, expected) in [
            (0, 10, 10, part(0, 10)),
            (3, 5, 10, part(3, 5)),
            (9, 10, 10, part(8, 10)),
            (0, 1, 10, part(0, 2)),
            (0, 1, 1, UpstreamRange::Whole),
        ] {
            assert_eq!(
                upstream_range(LayerPart {
                    span: Span { first, end },
                    size
                }),
                expected,
                "{first}-{end}/{size}"
            );
        }
    }
}
