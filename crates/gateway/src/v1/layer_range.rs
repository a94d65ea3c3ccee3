//! Ranges of v1 layers, and the heads of responses with them.
//!
//! Layers have no validator, so that a condition never holds, and the API has no responses of several parts.

use http::{StatusCode, header};
use pingora_core::Result;

use super::super::cache_control::CacheControl;
use super::super::request_options::{RequestOptions, Unsatisfiable};
use super::super::response::Response;
use oci::cache_status::CacheStatus;
use oci::range::{self, RangeSpec, Selection, Span};

/// The part of a layer to send.
#[derive(Clone, Copy, Debug)]
pub struct LayerPart {
    pub span: Span,
    /// Of the whole layer, in bytes.
    pub size: u64,
}

/// The ranges that a GET of a layer asks for, if any.
pub fn ranges(options: &RequestOptions) -> Option<Vec<RangeSpec>> {
    let applies = options.if_range.is_none() && !options.head;
    options
        .range
        .as_deref()
        .filter(|_| applies)
        .and_then(range::parse)
}

/// The part of a layer that `ranges` select; `None` for the whole, as for several parts or a layer of unknown size.
///
/// # Errors
/// [`Unsatisfiable`]: they select no byte.
pub fn select(
    ranges: Option<&[RangeSpec]>,
    size: Option<u64>,
) -> std::result::Result<Option<LayerPart>, Unsatisfiable> {
    let (Some(ranges), Some(size)) = (ranges, size) else {
        return Ok(None);
    };
    match range::select(Some(ranges), size) {
        Selection::Unsatisfiable => Err(Unsatisfiable { size }),
        Selection::Part(span) => Ok(Some(LayerPart { span, size })),
        Selection::Whole | Selection::Parts(_) => Ok(None),
    }
}

/// The head of a response with a layer or a part of it.
pub fn response(
    part: Option<LayerPart>,
    cache: CacheStatus,
    cache_control: CacheControl,
) -> Result<Response> {
    let status = match part {
        Some(_) => StatusCode::PARTIAL_CONTENT,
        None => StatusCode::OK,
    };
    let mut response = Response::new(status, cache)?;
    response.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
    response.set_cache_control(cache_control)?;
    if let Some(LayerPart { span, size }) = part {
        response.insert_header(header::CONTENT_RANGE, span.content_range(size))?;
    }
    Ok(response)
}
