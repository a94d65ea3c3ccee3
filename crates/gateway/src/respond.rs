//! Renders the mirror's answers and error responses of the v2 API as HTTP.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pingora_core::Result;

use super::cache_control::CacheControl;
use super::error_response::ErrorResponse;
use super::location::next_link;
use super::request_options::{BodySelection, RequestOptions, Unsatisfiable};
use super::response::{FieldValue, Response};
use super::session::Session;
use super::target::RequestTarget;
use super::{Failure, request_body, request_metrics, send};
use mirror::{BlobAnswer, BlobHead, ManifestAnswer, PageAnswer, Stale};
use oci::byteranges::PART_TYPE;
use oci::cache_status::CacheStatus;
use oci::digest::Digest;
use oci::error::{ErrorCode, body};

const API_VERSION: HeaderValue = HeaderValue::from_static("registry/2.0");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
const OCTETS: HeaderValue = HeaderValue::from_static(PART_TYPE);

impl BodySelection {
    /// The status and fields of the response, but for its length.
    fn response(
        &self,
        options: &RequestOptions,
        digest: Digest,
        cache: CacheStatus,
        cache_control: CacheControl,
    ) -> Result<Response> {
        let status = match self {
            Self::Whole { .. } => StatusCode::OK,
            Self::Part { .. } | Self::Parts(_) => StatusCode::PARTIAL_CONTENT,
        };
        let mut response = content(status, options, digest, cache, cache_control)?;
        response.append_header(header::ACCEPT_RANGES, BYTES)?;
        match self {
            Self::Parts(frame) => {
                response.append_header(header::CONTENT_TYPE, frame.content_type())?;
            }
            Self::Part { span, size } => {
                response.append_header(header::CONTENT_TYPE, OCTETS)?;
                response.append_header(header::CONTENT_RANGE, span.content_range(*size))?;
            }
            Self::Whole { .. } => {
                response.append_header(header::CONTENT_TYPE, OCTETS)?;
            }
        }
        Ok(response)
    }
}

/// Responds to a ping of `/v2/`.
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn ping(session: &mut Session, options: &RequestOptions) -> Result<()> {
    let mut response = response(StatusCode::OK, options, CacheStatus::own("ping"))?;
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    send::whole(session, response, Bytes::from_static(b"{}")).await
}

/// Responds with a manifest, with a 304 to a matching `If-None-Match` (RFC 9110 §13.1.2), or to HEAD with the fields
/// alone.
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn manifest(
    session: &mut Session,
    options: &RequestOptions,
    answer: ManifestAnswer,
    cache_control: CacheControl,
) -> Result<()> {
    let digest = answer.digest;
    if !options.head {
        request_metrics::manifest(answer.cache);
    }
    request_metrics::stale(answer.stale);
    if options.matches(&digest) {
        return not_modified(session, options, digest, answer.cache, cache_control).await;
    }
    let mut response = content(StatusCode::OK, options, digest, answer.cache, cache_control)?;
    response.append_header(header::CONTENT_TYPE, answer.media_type)?;
    warn_if_stale(&mut response, answer.stale)?;
    if let Some(warning) = &answer.warning {
        // Names, tags and digests have no quotes.
        response.append_header(header::WARNING, format!("299 - \"{warning}\""))?;
    }
    match answer.bytes {
        Some(bytes) => send::whole(session, response, bytes).await,
        None => send::head(session, response, Some(answer.size)).await,
    }
}

/// Responds to HEAD with the fields that a GET would have (RFC 9110 §9.3.2).
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn blob_head(
    session: &mut Session,
    options: &RequestOptions,
    digest: &Digest,
    answer: BlobHead,
    cache_control: CacheControl,
) -> Result<()> {
    let (digest, cache) = (*digest, answer.cache);
    if options.matches(&digest) {
        return not_modified(session, options, digest, cache, cache_control).await;
    }
    // A Range is defined for GET alone (RFC 9110 §14.2).
    let selection = BodySelection::Whole { size: answer.size };
    let mut response = selection.response(options, digest, cache, cache_control)?;
    request_metrics::stale(answer.stale);
    warn_if_stale(&mut response, answer.stale)?;
    send::head(session, response, selection.length()).await
}

/// Responds with a blob or the ranges of it that were asked for: 200, 206, 304 or 416 (RFC 9110 §14).
///
/// # Errors
/// [`Failure::Mirror`] if the body cannot be opened, before anything is sent; [`Failure::Connection`] if the client is
/// gone or the body broke off.
pub async fn blob(
    session: &mut Session,
    options: &RequestOptions,
    digest: &Digest,
    answer: BlobAnswer,
    cache_control: CacheControl,
) -> Result<(), Failure> {
    let (digest, cache) = (*digest, answer.cache);
    request_metrics::blob(cache);
    if options.matches(&digest) {
        return Ok(not_modified(session, options, digest, cache, cache_control).await?);
    }
    let answer = if send::needs_length(session) {
        Box::pin(answer.settled()).await
    } else {
        answer
    };
    let selection = match options.select(answer.size, &digest) {
        // Each part would take an upstream request of its own; a server may ignore a Range.
        Ok(BodySelection::Parts(_)) if !answer.is_seekable() => {
            BodySelection::Whole { size: answer.size }
        }
        Ok(selection) => selection,
        Err(refused) => return Ok(unsatisfiable(session, options, refused, cache).await?),
    };
    let response = selection.response(options, digest, cache, cache_control)?;
    let length = selection.length();
    match selection {
        BodySelection::Whole { .. } => {
            let reader = answer.open(None).await?;
            send::stream(session, response, length, reader).await?;
        }
        BodySelection::Part { span, .. } => {
            let reader = answer.open(Some(span)).await?;
            send::stream(session, response, length, reader).await?;
        }
        BodySelection::Parts(frame) => {
            let reader = answer.open(None).await?;
            Box::pin(send::parts(session, response, &frame, reader)).await?;
        }
    }
    Ok(())
}

/// Responds with a page of tags or referrers; its `Link` to the next page leads to the gateway.
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn page(
    session: &mut Session,
    options: &RequestOptions,
    target: &RequestTarget,
    answer: PageAnswer,
    external: &str,
) -> Result<()> {
    let mut response = response(StatusCode::OK, options, answer.cache)?;
    request_metrics::stale(answer.stale);
    let media_type = answer
        .page()
        .media_type
        .as_deref()
        .unwrap_or("application/json");
    response.insert_header(header::CONTENT_TYPE, media_type)?;
    response.set_cache_control(CacheControl::Private)?;
    warn_if_stale(&mut response, answer.stale)?;
    if let Some(next) = &answer.page().next {
        response.insert_header(header::LINK, next_link(target, next, external))?;
    }
    if let Some(filters) = &answer.page().filters_applied {
        response.insert_header("OCI-Filters-Applied", filters.as_str())?;
    }
    send::whole(session, response, answer.page().bytes.clone()).await
}

/// Sends an error response before the body was read. A short body is read first, so that the connection can be reused.
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn refuse(
    session: &mut Session,
    options: &RequestOptions,
    refused: &ErrorResponse,
) -> Result<()> {
    request_body::read_short_body(session).await;
    error(session, options, refused).await?;
    request_body::drain(session).await;
    Ok(())
}

/// Sends an error response.
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn error(
    session: &mut Session,
    options: &RequestOptions,
    error: &ErrorResponse,
) -> Result<()> {
    let mut response = response(error.status, options, CacheStatus::own("refused"))?;
    if error.status == StatusCode::METHOD_NOT_ALLOWED {
        response.insert_header(header::ALLOW, "GET, HEAD")?;
    }
    if let Some(challenge) = &error.challenge {
        response.insert_header(header::WWW_AUTHENTICATE, challenge.as_str())?;
    }
    if let Some(wait) = error.retry_after {
        response.insert_header(header::RETRY_AFTER, wait.as_secs().max(1))?;
    }
    finish_error(session, response, error.code, &error.message).await
}

/// The head of a v2 response, with the fields that all of them have.
///
/// # Errors
/// A namespace that is no field value.
pub fn response(
    status: StatusCode,
    options: &RequestOptions,
    cache: CacheStatus,
) -> Result<Response> {
    let mut response = Response::new(status, cache)?;
    response.append_header("Docker-Distribution-Api-Version", API_VERSION)?;
    if let Some(namespace) = &options.namespace {
        response.append_header("OCI-Namespace", &**namespace)?;
    }
    Ok(response)
}

/// The head of a response with content that has a digest.
fn content(
    status: StatusCode,
    options: &RequestOptions,
    digest: Digest,
    cache: CacheStatus,
    cache_control: CacheControl,
) -> Result<Response> {
    let mut response = response(status, options, cache)?;
    response.append_header("Docker-Content-Digest", digest)?;
    response.append_header(header::ETAG, FieldValue::EntityTag(digest))?;
    response.append_header(header::CACHE_CONTROL, cache_control.header_value())?;
    Ok(response)
}

/// Adds `Warning` and `Age` to a stale answer (distribution-spec 1.1, "Warnings").
///
/// # Errors
/// Never: both are values of fields.
pub fn warn_if_stale(response: &mut Response, stale: Option<Stale>) -> Result<()> {
    if let Some(Stale { age, .. }) = stale {
        response.insert_header(
            header::WARNING,
            "299 - \"stale copy, upstream unavailable\"",
        )?;
        response.insert_header(header::AGE, age.as_secs())?;
    }
    Ok(())
}

async fn not_modified(
    session: &mut Session,
    options: &RequestOptions,
    digest: Digest,
    cache: CacheStatus,
    cache_control: CacheControl,
) -> Result<()> {
    let response = content(
        StatusCode::NOT_MODIFIED,
        options,
        digest,
        cache,
        cache_control,
    )?;
    session.write_head(response).await
}

async fn unsatisfiable(
    session: &mut Session,
    options: &RequestOptions,
    refused: Unsatisfiable,
    cache: CacheStatus,
) -> Result<()> {
    let Unsatisfiable { size } = refused;
    let mut response = response(StatusCode::RANGE_NOT_SATISFIABLE, options, cache)?;
    response.insert_header(header::CONTENT_RANGE, format!("bytes */{size}"))?;
    finish_error(
        session,
        response,
        ErrorCode::RangeInvalid,
        "the range is outside of the blob",
    )
    .await
}

/// Sends a response with the JSON of an error.
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn finish_error(
    session: &mut Session,
    response: Response,
    code: ErrorCode,
    message: &str,
) -> Result<()> {
    finish_body(session, response, body(code, message)).await
}

/// Sends a response with this JSON of an error.
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn finish_body(
    session: &mut Session,
    mut response: Response,
    json: String,
) -> Result<()> {
    response.set_json(CacheControl::NoStore)?;
    send::whole(session, response, json.into()).await
}
