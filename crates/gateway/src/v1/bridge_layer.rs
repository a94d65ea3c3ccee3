//! Layers of v2 images for v1 clients.
//!
//! Old daemons close a connection that is idle for a minute. Most layers are ready at once; while one is being
//! scanned, its response begins with empty gzip members, which every reader skips, and continues with the layer. Such a
//! response has no length and no ranges; the next one has.

use std::time::Duration;

use bytes::Bytes;
use http::header;

use super::super::cache_control::CacheControl;
use super::super::request_options::RequestOptions;
use super::super::session::Session;
use super::super::{Failure, Gateway, request_metrics, send};
use super::{layer_range, respond};
use ::v1::{BridgeError, IdScope, V1Image, V1ImageLayer};
use access::Permit;
use mirror::MirrorError;
use oci::cache_status::CacheStatus;
use oci::v2_to_v1::EMPTY_LAYER;

/// How long a response waits for a layer before it begins without a length.
const LAYER_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of fillers while a layer is not ready.
const FILLER_INTERVAL: Duration = Duration::from_secs(15);
/// An empty gzip member (RFC 1952).
const FILLER: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 0, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

impl Gateway {
    /// Responds with a layer of a v2 image.
    pub(super) async fn v1_bridged_layer(
        &self,
        session: &mut Session,
        permit: &Permit,
        scope: IdScope,
        image: &V1Image,
    ) -> Result<(), Failure> {
        let request = session.req_header();
        let options = RequestOptions::of(&request.method, &request.headers);
        let cache_control = match scope {
            IdScope::Registry => CacheControl::PublicImmutable,
            IdScope::Repository => CacheControl::PrivateNoStore,
        };
        let mut layer = Box::pin(self.state.v1.bridged_layer(permit, image));
        match tokio::time::timeout(LAYER_TIMEOUT, &mut layer).await {
            Ok(layer) => send_layer(session, &options, cache_control, layer?).await,
            Err(_) if options.head => {
                let response = layer_range::response(None, UNREADY, cache_control)?;
                Ok(send::head(session, response, None).await?)
            }
            // The layer has no length yet, of which to select a part.
            Err(_) if options.range.is_some() => Err(MirrorError::timed_out().into()),
            Err(_) => {
                let response = layer_range::response(None, UNREADY, cache_control)?;
                let body = async {
                    let V1ImageLayer::Blob(answer) = layer.await? else {
                        return Err(MirrorError::Internal.into());
                    };
                    Ok::<_, BridgeError>(answer.open(None).await?)
                };
                let filler = Bytes::from_static(FILLER);
                Ok(Box::pin(send::filled(
                    session,
                    response,
                    filler,
                    FILLER_INTERVAL,
                    body,
                ))
                .await?)
            }
        }
    }
}

/// The cache status of a layer that is not ready.
const UNREADY: CacheStatus = CacheStatus::own("preparing");

/// Sends a layer that is ready, or a part of it.
async fn send_layer(
    session: &mut Session,
    options: &RequestOptions,
    cache_control: CacheControl,
    layer: V1ImageLayer,
) -> Result<(), Failure> {
    let size = layer.size();
    let cache = match &layer {
        V1ImageLayer::Empty => CacheStatus::own("v1"),
        V1ImageLayer::Blob(answer) => answer.cache,
    };
    request_metrics::blob(cache);
    let ranges = layer_range::ranges(options);
    let part = match layer_range::select(ranges.as_deref(), size) {
        Ok(part) => part,
        Err(range) => return Ok(respond::unsatisfiable(session, range, cache).await?),
    };
    let mut response = layer_range::response(part, cache, cache_control)?;
    if size.is_some() {
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
    }
    if options.head {
        return Ok(send::head(session, response, size).await?);
    }
    let span = part.map(|part| part.span);
    match layer {
        V1ImageLayer::Empty => {
            let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
            let whole = Bytes::from_static(EMPTY_LAYER);
            let bytes = span.map_or(whole.clone(), |span| {
                whole.slice(at(span.first)..at(span.end))
            });
            Ok(send::whole(session, response, bytes).await?)
        }
        V1ImageLayer::Blob(answer) => {
            let length = span.map(|span| span.len()).or(size);
            let reader = answer.open(span).await?;
            Ok(send::stream(session, response, length, reader).await?)
        }
    }
}
