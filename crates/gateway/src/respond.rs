//! Answers: what the mirror gave, as HTTP.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use pingora_core::Result;

use super::Failure;
use super::error_response::ErrorResponse;
use super::location::next_link;
use super::request_metrics;
use super::response::Response;
use super::session::Session;
use super::target::RequestTarget;
use super::{request_body, send};
use mirror::{BlobAnswer, BlobHead, ManifestAnswer, PageAnswer, Stale};
use oci::byteranges::{Byteranges, PART_TYPE};
use oci::cache_status::CacheStatus;
use oci::conditional;
use oci::digest::Digest;
use oci::error::{ErrorCode, body};
use oci::range::{self, Selection, Span};

/// What of a request shapes its answer.
#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// HEAD: everything but the body.
    pub head: bool,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub if_none_match: Option<String>,
    /// `ns`, to be echoed as `OCI-Namespace`.
    pub namespace: Option<String>,
}

impl RequestOptions {
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        // Lines of one field are one list (RFC 9110 §5.3). What is not text matches nothing, but a
        // condition that was stated must not count as none.
        let text = |name| {
            let lines = headers.get_all(name).iter();
            let lines: Vec<_> = lines.map(|line| line.to_str().unwrap_or("")).collect();
            (!lines.is_empty()).then(|| lines.join(", "))
        };
        Self {
            head: method == Method::HEAD,
            range: text(header::RANGE),
            if_range: text(header::IF_RANGE),
            if_none_match: text(header::IF_NONE_MATCH),
            namespace: None,
        }
    }

    fn matches(&self, tag: &str) -> bool {
        self.if_none_match
            .as_deref()
            .is_some_and(|header| conditional::if_none_match(header, tag))
    }

    /// What to send of a blob of `size` bytes; of one of unknown size only the whole. A Range whose
    /// If-Range does not match is ignored.
    fn shape(
        &self,
        size: Option<u64>,
        tag: &str,
    ) -> std::result::Result<BodySelection, Unsatisfiable> {
        let Some(size) = size else {
            return Ok(BodySelection::Whole { size });
        };
        let applies = self
            .if_range
            .as_deref()
            .is_none_or(|header| conditional::if_range(header, tag));
        let ranges = self
            .range
            .as_deref()
            .filter(|_| applies)
            .and_then(range::parse);
        match range::select(ranges.as_deref(), size) {
            Selection::Whole => Ok(BodySelection::Whole { size: Some(size) }),
            Selection::Part(span) => Ok(BodySelection::Part { span, size }),
            Selection::Parts(spans) => {
                let frame = Byteranges::new(fastrand::u128(..), spans, size);
                Ok(BodySelection::Parts(frame))
            }
            Selection::Unsatisfiable => Err(Unsatisfiable { size }),
        }
    }
}

/// What of a blob is sent. Sizes are the whole blob's, in bytes.
enum BodySelection {
    Whole { size: Option<u64> },
    Part { span: Span, size: u64 },
    Parts(Byteranges),
}

/// A Range that no byte answers to.
struct Unsatisfiable {
    size: u64,
}

impl BodySelection {
    /// `Content-Length`, where it is known.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Whole { size } => *size,
            Self::Part { span, .. } => Some(span.len()),
            Self::Parts(frame) => Some(frame.length()),
        }
    }

    /// The headers that go with it, but for the length.
    fn response(
        &self,
        options: &RequestOptions,
        tag: &str,
        cache: CacheStatus,
        cache_control: CacheControl,
    ) -> Result<Response> {
        let status = match self {
            Self::Whole { .. } => StatusCode::OK,
            Self::Part { .. } | Self::Parts(_) => StatusCode::PARTIAL_CONTENT,
        };
        let mut response = content(status, options, tag, cache, cache_control)?;
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
        match self {
            Self::Parts(frame) => {
                response.insert_header(header::CONTENT_TYPE, frame.content_type())?;
            }
            Self::Part { span, size } => {
                response.insert_header(header::CONTENT_TYPE, PART_TYPE)?;
                response.insert_header(header::CONTENT_RANGE, span.content_range(*size))?;
            }
            Self::Whole { .. } => {
                response.insert_header(header::CONTENT_TYPE, PART_TYPE)?;
            }
        }
        Ok(response)
    }
}

/// How long answers may be kept between us and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheControl {
    /// By digest, of a public registry that anybody may read here.
    PublicImmutable,
    Private,
}

impl CacheControl {
    const fn cache_control(self) -> &'static str {
        match self {
            Self::PublicImmutable => "public, max-age=31536000, immutable",
            Self::Private => "private",
        }
    }
}

/// `/v2/`
pub async fn ping(session: &mut Session, options: &RequestOptions) -> Result<()> {
    let mut response = response(StatusCode::OK, options, CacheStatus::own("ping"))?;
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    send::whole(session, response, options.head, Bytes::from_static(b"{}")).await
}

pub async fn manifest(
    session: &mut Session,
    options: &RequestOptions,
    answer: ManifestAnswer,
    cache_control: CacheControl,
) -> Result<()> {
    let tag = answer.digest.to_string();
    request_metrics::manifest(options.head, answer.cache, answer.stale);
    if options.matches(&tag) {
        return not_modified(session, options, &tag, answer.cache, cache_control).await;
    }
    let mut response = content(StatusCode::OK, options, &tag, answer.cache, cache_control)?;
    response.insert_header(header::CONTENT_TYPE, answer.media_type)?;
    warn_of_age(&mut response, answer.stale)?;
    match answer.bytes {
        Some(bytes) => send::whole(session, response, options.head, bytes).await,
        None => send::head(session, response, Some(answer.size)).await,
    }
}

/// Answers with the headers that a GET would have (RFC 9110 §9.3.2), those of its Range included.
pub async fn blob_head(
    session: &mut Session,
    options: &RequestOptions,
    digest: &Digest,
    answer: BlobHead,
    cache_control: CacheControl,
) -> Result<()> {
    let (tag, cache) = (digest.to_string(), answer.cache);
    if options.matches(&tag) {
        return not_modified(session, options, &tag, cache, cache_control).await;
    }
    // A Range is defined for GET alone (RFC 9110 §14.2).
    let shape = BodySelection::Whole { size: answer.size };
    let mut response = shape.response(options, &tag, cache, cache_control)?;
    request_metrics::stale(answer.stale);
    warn_of_age(&mut response, answer.stale)?;
    send::head(session, response, shape.length()).await
}

pub async fn blob(
    session: &mut Session,
    options: &RequestOptions,
    digest: &Digest,
    answer: BlobAnswer,
    cache_control: CacheControl,
) -> Result<(), Failure> {
    let (tag, cache) = (digest.to_string(), answer.cache);
    request_metrics::blob(cache);
    if options.matches(&tag) {
        return Ok(not_modified(session, options, &tag, cache, cache_control).await?);
    }
    let answer = if send::needs_length(session) {
        answer.settled().await
    } else {
        answer
    };
    let shape = match options.shape(answer.size, &tag) {
        // Every part would be a request of its own upstream; a server may ignore a Range.
        Ok(BodySelection::Parts(_)) if !answer.is_seekable() => {
            BodySelection::Whole { size: answer.size }
        }
        Ok(shape) => shape,
        Err(refused) => return Ok(unsatisfiable(session, options, refused, cache).await?),
    };
    let response = shape.response(options, &tag, cache, cache_control)?;
    let length = shape.length();
    match shape {
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
            send::parts(session, response, &frame, reader).await?;
        }
    }
    Ok(())
}

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
    response.insert_header(header::CACHE_CONTROL, CacheControl::Private.cache_control())?;
    warn_of_age(&mut response, answer.stale)?;
    if let Some(next) = &answer.page().next {
        response.insert_header(header::LINK, next_link(target, next, external))?;
    }
    if let Some(filters) = &answer.page().filters_applied {
        response.insert_header("OCI-Filters-Applied", filters.as_str())?;
    }
    send::whole(session, response, options.head, answer.page().bytes.clone()).await
}

/// Refuses a request before its body was wanted. A short one is read first, so that the connection can go on.
pub async fn refuse(
    session: &mut Session,
    options: &RequestOptions,
    refused: &ErrorResponse,
) -> Result<()> {
    request_body::read_short_body(session).await;
    refusal(session, options, refused).await?;
    request_body::drain(session).await;
    Ok(())
}

/// Answers with a refusal.
pub async fn refusal(
    session: &mut Session,
    options: &RequestOptions,
    refusal: &ErrorResponse,
) -> Result<()> {
    let mut response = response(refusal.status, options, CacheStatus::own("refused"))?;
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        response.insert_header(header::ALLOW, "GET, HEAD")?;
    }
    if let Some(challenge) = &refusal.challenge {
        response.insert_header(header::WWW_AUTHENTICATE, challenge.as_str())?;
    }
    if let Some(wait) = refusal.retry_after {
        response.insert_header(header::RETRY_AFTER, wait.as_secs().max(1))?;
    }
    error(session, response, options, refusal.code, &refusal.message).await
}

/// A response with what every answer carries.
pub fn response(
    status: StatusCode,
    options: &RequestOptions,
    cache: CacheStatus,
) -> Result<Response> {
    let mut response = Response::new(status, cache)?;
    response.insert_header("Docker-Distribution-Api-Version", "registry/2.0")?;
    if let Some(namespace) = &options.namespace {
        response.insert_header("OCI-Namespace", namespace.as_str())?;
    }
    Ok(response)
}

/// A response about content that has a digest.
fn content(
    status: StatusCode,
    options: &RequestOptions,
    tag: &str,
    cache: CacheStatus,
    cache_control: CacheControl,
) -> Result<Response> {
    let mut response = response(status, options, cache)?;
    response.insert_header("Docker-Content-Digest", tag)?;
    response.insert_header(header::ETAG, format!("\"{tag}\""))?;
    response.insert_header(header::CACHE_CONTROL, cache_control.cache_control())?;
    Ok(response)
}

/// Says that an answer may be out of date, and how old it is (distribution-spec 1.1, "Warnings").
pub fn warn_of_age(response: &mut Response, stale: Option<Stale>) -> Result<()> {
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
    tag: &str,
    cache: CacheStatus,
    cache_control: CacheControl,
) -> Result<()> {
    let response = content(StatusCode::NOT_MODIFIED, options, tag, cache, cache_control)?;
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
    error(
        session,
        response,
        options,
        ErrorCode::RangeInvalid,
        "the range is outside of the blob",
    )
    .await
}

/// Finishes a response with an error's JSON.
pub async fn error(
    session: &mut Session,
    mut response: Response,
    options: &RequestOptions,
    code: ErrorCode,
    message: &str,
) -> Result<()> {
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    send::whole(session, response, options.head, body(code, message).into()).await
}
