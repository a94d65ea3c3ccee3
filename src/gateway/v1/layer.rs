//! Layers, and parts of them.
//!
//! Old Docker goes on with a broken download by `Range: bytes=<have>-<size>`, an end that is one too far, and
//! knows by a 416 without a body that it has everything. docker-registry announces a byte more than it sends
//! then, and writes `Content-Range` without its unit; so ranges are decided here, and what it is asked for is
//! exact.

use http::{HeaderMap, Method, StatusCode, header};
use pingora::proxy::Session;

use super::super::respond::Wanted;
use super::super::{Gateway, forward, send};
use super::route::Image;
use super::{Failed, respond, unusable};
use crate::mirror::{Claim, Passed, V1Pass};
use crate::spec::cache_status::{CacheStatus, Forward};
use crate::spec::range::{self, Selection, Span};

impl Gateway {
    /// Passes on GET or HEAD of a layer.
    pub(super) async fn v1_layer(
        &self,
        session: &mut Session,
        image: &Image,
        claim: Claim<'_>,
        mut headers: HeaderMap,
    ) -> Result<(), Failed> {
        let mirror = &self.house.mirror;
        let request = session.req_header();
        let wanted = Wanted::of(&request.method, &request.headers);
        if wanted.head {
            let passed = mirror.v1_layer_head(claim, &image.id, &headers).await?;
            return self.v1_whole_layer(session, image, claim, passed).await;
        }
        // Layers have no validator here, so that a condition never holds.
        let ranges = wanted
            .range
            .as_deref()
            .filter(|_| wanted.if_range.is_none());
        let part = match ranges.and_then(range::parse) {
            None => None,
            Some(ranges) => {
                let size = mirror.v1_layer_size(claim, &image.id, &headers).await?;
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
        if let Some((span, _)) = part {
            let range = format!("bytes={}-{}", span.first, span.end - 1);
            let range = range
                .parse()
                .map_err(|_| unusable("the range is too long"))?;
            headers.insert(header::RANGE, range);
        }
        let pass = V1Pass {
            method: Method::GET,
            headers,
            body: None,
        };
        let passed = mirror.v1_image(claim, &image.id, image.part, pass).await?;
        match part {
            Some((span, size)) if passed.status.is_success() => {
                self.v1_part(session, image, claim, passed, span, size)
                    .await
            }
            _ => self.v1_whole_layer(session, image, claim, passed).await,
        }
    }

    async fn v1_whole_layer(
        &self,
        session: &mut Session,
        image: &Image,
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
        image: &Image,
        claim: Claim<'_>,
        passed: Passed,
        span: Span,
        size: u64,
    ) -> Result<(), Failed> {
        let length = forward::content_length(&passed.headers);
        let skip = match passed.status {
            StatusCode::PARTIAL_CONTENT if length.is_none_or(|length| length == span.len()) => 0,
            StatusCode::OK if length.is_none_or(|length| length == size) => span.first,
            _ => return Err(unusable("the registry sent another part than was asked for").into()),
        };
        let mut response = self.v1_response(session, claim.registry(), image.action, &passed)?;
        response.set_status(StatusCode::PARTIAL_CONTENT)?;
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
        response.insert_header(header::CONTENT_RANGE, span.content_range(size))?;
        Ok(send::relay_part(session, response, skip, span.len(), passed).await?)
    }
}
