//! Layers that were made up for clients of v1.
//!
//! Old daemons give a connection up on which nothing moves for a minute. Most layers are ready at once; while
//! one has to be looked through, its answer begins with empty members of gzip, which every reader passes over,
//! and goes on with the layer. Such an answer has no length and no ranges; the next one has.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};

use super::super::respond::RequestOptions;
use super::super::response::Response;
use super::super::session::Session;
use super::super::{Gateway, request_metrics, send};
use super::{Failed, respond};
use ::v1::{BridgeError, IdScope, V1Image, V1ImageLayer};
use access::Permit;
use mirror::MirrorError;
use oci::cache_status::CacheStatus;
use oci::range::{self, Selection, Span};
use oci::v2_to_v1::EMPTY_LAYER;

/// How long a layer waits to be answered with its length.
const LAYER_PATIENCE: Duration = Duration::from_secs(10);
/// How often something is sent while a layer is not ready.
const FILLER_EVERY: Duration = Duration::from_secs(15);
/// A member of gzip with nothing in it (RFC 1952).
const FILLER: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 0, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

impl Gateway {
    /// Answers for the layer of an image that was made up.
    pub(super) async fn v1_made_layer(
        &self,
        session: &mut Session,
        permit: &Permit,
        scope: IdScope,
        made: &V1Image,
    ) -> Result<(), Failed> {
        let request = session.req_header();
        let options = RequestOptions::of(&request.method, &request.headers);
        let mut layer = Box::pin(self.state.v1.bridged_layer(permit, made));
        match tokio::time::timeout(LAYER_PATIENCE, &mut layer).await {
            Ok(layer) => made_layer(session, &options, scope, layer?).await,
            Err(_) if options.head => {
                let response = layer_response(StatusCode::OK, UNREADY, scope)?;
                Ok(send::head(session, response, None).await?)
            }
            // A part of what has no length yet.
            Err(_) if options.range.is_some() => Err(MirrorError::timed_out().into()),
            Err(_) => {
                let response = layer_response(StatusCode::OK, UNREADY, scope)?;
                let body = async {
                    let V1ImageLayer::Blob(answer) = layer.await? else {
                        return Err(MirrorError::Internal.into());
                    };
                    Ok::<_, BridgeError>(answer.open(None).await?)
                };
                let filler = Bytes::from_static(FILLER);
                Ok(Box::pin(send::filled(session, response, filler, FILLER_EVERY, body)).await?)
            }
        }
    }
}

/// How a layer is called of which nothing is known yet.
const UNREADY: CacheStatus = CacheStatus::own("preparing");

/// Sends a layer that is ready, or a part of it.
async fn made_layer(
    session: &mut Session,
    options: &RequestOptions,
    scope: IdScope,
    layer: V1ImageLayer,
) -> Result<(), Failed> {
    let size = layer.size();
    let cache = match &layer {
        V1ImageLayer::Empty => CacheStatus::own("v1"),
        V1ImageLayer::Blob(answer) => answer.cache,
    };
    request_metrics::blob(cache);
    // Layers have no validator here, so that a condition never holds; several parts are no part of this API.
    let ranges = options
        .range
        .as_deref()
        .filter(|_| options.if_range.is_none() && !options.head);
    let selected = size.map(|size| {
        (
            size,
            range::select(ranges.and_then(range::parse).as_deref(), size),
        )
    });
    let part: Option<(Span, u64)> = match selected {
        Some((size, Selection::Unsatisfiable)) => {
            return Ok(respond::nothing_left(session, size, cache).await?);
        }
        Some((size, Selection::Part(span))) => Some((span, size)),
        Some((_, Selection::Whole | Selection::Parts(_))) | None => None,
    };
    let status = if part.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let mut response = layer_response(status, cache, scope)?;
    if size.is_some() {
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
    }
    if let Some((span, size)) = part {
        response.insert_header(header::CONTENT_RANGE, span.content_range(size))?;
    }
    if options.head {
        return Ok(send::head(session, response, size).await?);
    }
    let span = part.map(|(span, _)| span);
    match layer {
        V1ImageLayer::Empty => {
            let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
            let whole = Bytes::from_static(EMPTY_LAYER);
            let bytes = span.map_or(whole.clone(), |span| {
                whole.slice(at(span.first)..at(span.end))
            });
            Ok(send::whole(session, response, false, bytes).await?)
        }
        V1ImageLayer::Blob(answer) => {
            let length = span.map(|span| span.len()).or(size);
            let reader = answer.open(span).await?;
            Ok(send::stream(session, response, length, reader).await?)
        }
    }
}

fn layer_response(
    status: StatusCode,
    cache: CacheStatus,
    scope: IdScope,
) -> pingora_core::Result<Response> {
    let mut response = Response::new(status, cache)?;
    response.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
    let keeping = match scope {
        IdScope::Registry => "public, max-age=31536000, immutable",
        IdScope::Repository => "private, no-store",
    };
    response.insert_header(header::CACHE_CONTROL, keeping)?;
    Ok(response)
}
