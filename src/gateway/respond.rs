//! Answers: what the mirror gave, as HTTP.

use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::Failure;
use super::route::{Refusal, Target};
use crate::mirror::{Asked, BlobAnswer, BlobHead, ManifestAnswer, MirrorError, PageAnswer, Reader};
use crate::spec::cache_status::{CacheStatus, Forward};
use crate::spec::digest::Digest;
use crate::spec::error::{ErrorCode, body};
use crate::spec::range::{self, Selection};
use crate::spec::v2::{Endpoint, Query};

/// What of a request shapes its answer.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// HEAD: everything but the body.
    pub head: bool,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub if_none_match: Option<String>,
    /// `ns`, to be echoed as `OCI-Namespace`.
    pub namespace: Option<String>,
}

impl Wanted {
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
            .is_some_and(|header| range::if_none_match(header, tag))
    }

    /// The part that is wanted of `size` bytes; a Range whose If-Range does not match is ignored.
    fn select(&self, size: u64, tag: &str) -> Selection {
        let applies = self
            .if_range
            .as_deref()
            .is_none_or(|header| range::if_range(header, tag));
        let spec = self
            .range
            .as_deref()
            .filter(|_| applies)
            .and_then(range::parse);
        range::select(spec, size)
    }
}

/// How long answers may be kept between us and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shareable {
    /// By digest, of a public registry that anybody may read here.
    Forever,
    Private,
}

impl Shareable {
    const fn cache_control(self) -> &'static str {
        match self {
            Self::Forever => "public, max-age=31536000, immutable",
            Self::Private => "private",
        }
    }
}

/// `/v2/`
pub async fn ping(session: &mut Session, wanted: &Wanted) -> Result<()> {
    let mut response = response(StatusCode::OK, wanted, CacheStatus::own("ping"))?;
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    whole(session, response, wanted, Bytes::from_static(b"{}")).await
}

pub async fn manifest(
    session: &mut Session,
    wanted: &Wanted,
    answer: ManifestAnswer,
    shareable: Shareable,
) -> Result<()> {
    let tag = answer.digest.to_string();
    if wanted.matches(&tag) {
        return not_modified(session, wanted, &tag, answer.cache, shareable).await;
    }
    let mut response = content(StatusCode::OK, wanted, &tag, answer.cache, shareable)?;
    response.insert_header(header::CONTENT_TYPE, answer.media_type)?;
    warn_of_age(&mut response, answer.stale)?;
    match answer.bytes {
        Some(bytes) => whole(session, response, wanted, bytes).await,
        None => head(session, response, Some(answer.size)).await,
    }
}

pub async fn blob_head(
    session: &mut Session,
    wanted: &Wanted,
    digest: &Digest,
    answer: BlobHead,
    shareable: Shareable,
) -> Result<()> {
    let tag = digest.to_string();
    if wanted.matches(&tag) {
        return not_modified(session, wanted, &tag, answer.cache, shareable).await;
    }
    let mut response = content(StatusCode::OK, wanted, &tag, answer.cache, shareable)?;
    response.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
    response.insert_header(header::ACCEPT_RANGES, "bytes")?;
    head(session, response, answer.size).await
}

pub async fn blob(
    session: &mut Session,
    wanted: &Wanted,
    digest: &Digest,
    answer: BlobAnswer,
    shareable: Shareable,
) -> Result<(), Failure> {
    let tag = digest.to_string();
    if wanted.matches(&tag) {
        return Ok(not_modified(session, wanted, &tag, answer.cache, shareable).await?);
    }
    let (size, cache) = (answer.size, answer.cache);
    let selection = size.map_or(Selection::Whole, |size| wanted.select(size, &tag));
    let (status, span) = match selection {
        Selection::Whole => (StatusCode::OK, None),
        Selection::Part(span) => (StatusCode::PARTIAL_CONTENT, Some(span)),
        Selection::Unsatisfiable => {
            return Ok(unsatisfiable(session, wanted, size.unwrap_or(0), cache).await?);
        }
    };
    let mut response = content(status, wanted, &tag, cache, shareable)?;
    response.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
    response.insert_header(header::ACCEPT_RANGES, "bytes")?;
    if let (Some(span), Some(size)) = (span, size) {
        response.insert_header(header::CONTENT_RANGE, span.content_range(size))?;
    }
    let reader = answer.open(span).await?;
    Ok(stream(
        session,
        response,
        span.map_or(size, |span| Some(span.len())),
        reader,
    )
    .await?)
}

pub async fn page(
    session: &mut Session,
    wanted: &Wanted,
    target: &Target,
    answer: PageAnswer,
) -> Result<()> {
    let mut response = response(StatusCode::OK, wanted, answer.cache)?;
    let media_type = answer
        .page()
        .media_type
        .as_deref()
        .unwrap_or("application/json");
    response.insert_header(header::CONTENT_TYPE, media_type)?;
    response.insert_header(header::CACHE_CONTROL, Shareable::Private.cache_control())?;
    warn_of_age(&mut response, answer.stale)?;
    if let Some(link) = answer
        .page()
        .link
        .as_deref()
        .and_then(|link| next_page(link, target))
    {
        response.insert_header(header::LINK, link)?;
    }
    if let Some(filters) = &answer.page().filters_applied {
        response.insert_header("OCI-Filters-Applied", filters.as_str())?;
    }
    whole(session, response, wanted, answer.page().bytes.clone()).await
}

/// The upstream's `Link` to the next page, as the client has to ask here: the path it asked, with the
/// query that the upstream wants.
pub fn next_page(link: &str, target: &Target) -> Option<String> {
    let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !parameters.replace([' ', '"'], "").contains("rel=next") {
        return None;
    }
    let mut query = Query::parse(url.split_once('?')?.1).ok()?.without("ns");
    if let Some(namespace) = &target.namespace {
        query = query.with("ns", namespace);
    }
    let canonical = target.endpoint.repository.as_str();
    let path = Endpoint::path(&target.endpoint).replacen(canonical, &target.typed, 1);
    Some(format!("<{path}{}>; rel=\"next\"", query.render()))
}

/// A request that was not routed or not allowed.
pub async fn refusal(session: &mut Session, wanted: &Wanted, refusal: &Refusal) -> Result<()> {
    let mut response = response(refusal.status, wanted, CacheStatus::own("refused"))?;
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        response.insert_header(header::ALLOW, "GET, HEAD")?;
    }
    error(session, response, wanted, refusal.code, &refusal.message).await
}

/// A read that came to nothing. The log gets the causes, the client the message.
pub async fn failure(session: &mut Session, wanted: &Wanted, failure: &MirrorError) -> Result<()> {
    let (status, code) = status(failure);
    if status.is_server_error() {
        tracing::warn!(error = crate::telemetry::chain(failure), "a read failed");
    }
    let mut response = response(status, wanted, fate(failure))?;
    let retry_after = match failure {
        MirrorError::TooManyRequests { retry_after } => *retry_after,
        MirrorError::Busy { retry_after } => Some(*retry_after),
        MirrorError::Unavailable(_) => Some(Duration::from_secs(1)),
        _ => None,
    };
    if let Some(wait) = retry_after {
        response.insert_header(header::RETRY_AFTER, wait.as_secs().max(1))?;
    }
    error(session, response, wanted, code, &failure.to_string()).await
}

/// The one table from what went wrong to what is said.
const fn status(error: &MirrorError) -> (StatusCode, ErrorCode) {
    match error {
        MirrorError::NotServed => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        MirrorError::Unknown { asked, .. } => match asked {
            Asked::Blob => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            Asked::Manifest => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
            Asked::Repository => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        },
        MirrorError::Denied | MirrorError::NotPublic => (StatusCode::FORBIDDEN, ErrorCode::Denied),
        MirrorError::TooManyRequests { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests)
        }
        MirrorError::Busy { .. } | MirrorError::Unavailable(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable)
        }
        MirrorError::Unusable(_) | MirrorError::Untrue(_) => {
            (StatusCode::BAD_GATEWAY, ErrorCode::Unknown)
        }
        MirrorError::Disk(_) | MirrorError::Lost => {
            (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown)
        }
    }
}

/// How the cache came to have no answer.
const fn fate(failure: &MirrorError) -> CacheStatus {
    let asked = CacheStatus::forward(Forward::UriMiss);
    match failure {
        MirrorError::NotServed => CacheStatus::own("refused"),
        MirrorError::Unknown {
            remembered: true, ..
        } => CacheStatus::HIT.detail("negative"),
        MirrorError::Unknown { .. } => asked.detail("unknown"),
        MirrorError::Denied | MirrorError::NotPublic => asked.detail("denied"),
        MirrorError::TooManyRequests { .. } => asked.detail("limited"),
        MirrorError::Busy { .. } => CacheStatus::own("busy"),
        MirrorError::Unavailable(_) => asked.detail("unavailable"),
        MirrorError::Unusable(_) | MirrorError::Untrue(_) => asked.detail("unusable"),
        MirrorError::Disk(_) | MirrorError::Lost => CacheStatus::own("failed"),
    }
}

/// A response with what every answer carries.
pub fn response(status: StatusCode, wanted: &Wanted, cache: CacheStatus) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build(status, Some(14))?;
    response.insert_header("Docker-Distribution-Api-Version", "registry/2.0")?;
    response.insert_header("Cache-Status", cache.to_string())?;
    if let Some(namespace) = &wanted.namespace {
        response.insert_header("OCI-Namespace", namespace.as_str())?;
    }
    Ok(response)
}

/// A response about content that has a digest.
fn content(
    status: StatusCode,
    wanted: &Wanted,
    tag: &str,
    cache: CacheStatus,
    shareable: Shareable,
) -> Result<ResponseHeader> {
    let mut response = response(status, wanted, cache)?;
    response.insert_header("Docker-Content-Digest", tag)?;
    response.insert_header(header::ETAG, format!("\"{tag}\""))?;
    response.insert_header(header::CACHE_CONTROL, shareable.cache_control())?;
    Ok(response)
}

/// Says that an answer may be out of date, and how old it is (distribution-spec 1.1, "Warnings").
fn warn_of_age(response: &mut ResponseHeader, stale: Option<Duration>) -> Result<()> {
    if let Some(age) = stale {
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
    wanted: &Wanted,
    tag: &str,
    cache: CacheStatus,
    shareable: Shareable,
) -> Result<()> {
    let response = content(StatusCode::NOT_MODIFIED, wanted, tag, cache, shareable)?;
    session
        .write_response_header(Box::new(response), true)
        .await
}

async fn unsatisfiable(
    session: &mut Session,
    wanted: &Wanted,
    size: u64,
    cache: CacheStatus,
) -> Result<()> {
    let mut response = response(StatusCode::RANGE_NOT_SATISFIABLE, wanted, cache)?;
    response.insert_header(header::CONTENT_RANGE, format!("bytes */{size}"))?;
    error(
        session,
        response,
        wanted,
        ErrorCode::RangeInvalid,
        "the range is outside of the blob",
    )
    .await
}

/// Finishes a response with an error's JSON.
async fn error(
    session: &mut Session,
    mut response: ResponseHeader,
    wanted: &Wanted,
    code: ErrorCode,
    message: &str,
) -> Result<()> {
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    whole(session, response, wanted, body(code, message).into()).await
}

/// Sends headers alone, as HEAD wants them.
async fn head(
    session: &mut Session,
    mut response: ResponseHeader,
    size: Option<u64>,
) -> Result<()> {
    if let Some(size) = size {
        response.insert_header(header::CONTENT_LENGTH, size)?;
    }
    session
        .write_response_header(Box::new(response), true)
        .await
}

/// Sends a body that is in memory.
async fn whole(
    session: &mut Session,
    mut response: ResponseHeader,
    wanted: &Wanted,
    bytes: Bytes,
) -> Result<()> {
    response.insert_header(header::CONTENT_LENGTH, bytes.len())?;
    let end = wanted.head || bytes.is_empty();
    session
        .write_response_header(Box::new(response), end)
        .await?;
    if end {
        Ok(())
    } else {
        session.write_response_body(Some(bytes), true).await
    }
}

/// Sends a body as it is read. An error leaves the body visibly incomplete: the caller must not end it.
async fn stream(
    session: &mut Session,
    mut response: ResponseHeader,
    length: Option<u64>,
    mut reader: Reader,
) -> Result<()> {
    match length {
        Some(length) => response.insert_header(header::CONTENT_LENGTH, length)?,
        None if session.is_http2() => {}
        None => response.insert_header(header::TRANSFER_ENCODING, "chunked")?,
    }
    session
        .write_response_header(Box::new(response), length == Some(0))
        .await?;
    if length == Some(0) {
        return Ok(());
    }
    loop {
        let next = {
            let mut next = pin!(reader.next());
            match futures_util::poll!(&mut next) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    flush(session).await?;
                    next.await
                }
            }
        };
        let piece = match next {
            Ok(piece) => piece,
            Err(error) => {
                tracing::warn!(
                    error = crate::telemetry::chain(&error),
                    "a body was broken off"
                );
                // What there was still reaches the client: it may resume from there.
                let _ = flush(session).await;
                return Error::e_explain(ErrorType::InternalError, "the body ended early");
            }
        };
        let Some(piece) = piece else { break };
        let waited = {
            let mut write = pin!(session.write_response_body(Some(piece.clone()), false));
            match futures_util::poll!(&mut write) {
                Poll::Ready(written) => {
                    written?;
                    Duration::ZERO
                }
                Poll::Pending => {
                    let since = Instant::now();
                    write.await?;
                    since.elapsed()
                }
            }
        };
        reader.written(piece, waited);
    }
    session.write_response_body(None, true).await
}

/// Sends what is buffered. HTTP/1 bodies of a known length are flushed only at their end, but a client
/// must not wait for what is here while we wait for more; HTTP/2 flushes by itself. pingora has no other
/// way: a failed task that follows an empty one writes nothing, flushes, and gives its error back.
async fn flush(session: &mut Session) -> Result<()> {
    if session.is_http2() {
        return Ok(());
    }
    let nothing = Error::new(ErrorType::Custom("nothing failed"));
    let tasks = vec![HttpTask::Body(None, false), HttpTask::Failed(nothing)];
    match session.downstream_session.response_duplex_vec(tasks).await {
        Err(error) if *error.etype() == ErrorType::Custom("nothing failed") => Ok(()),
        outcome => outcome.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::name::Registry;
    use crate::spec::v2::Resource;

    #[test]
    fn links_lead_back_here() {
        let target = |typed: &str, namespace: Option<&str>| Target {
            registry: Registry::new("ghcr.io"),
            endpoint: Endpoint {
                repository: "a/b".parse().expect("valid"),
                resource: Resource::Tags,
            },
            typed: typed.into(),
            query: Query::default(),
            namespace: namespace.map(str::to_owned),
        };
        for (link, typed, namespace, expected) in [
            (
                "</v2/a/b/tags/list?last=x&n=5>; rel=\"next\"",
                "ghcr.io/a/b",
                None,
                Some("</v2/ghcr.io/a/b/tags/list?last=x&n=5>; rel=\"next\""),
            ),
            (
                "<https://up.example/v2/a/b/tags/list?n=5&last=x%2By>; rel=next",
                "a/b",
                Some("ghcr.io"),
                Some("</v2/a/b/tags/list?n=5&last=x%2By&ns=ghcr.io>; rel=\"next\""),
            ),
            ("</v2/a/b/tags/list?n=5>; rel=\"prev\"", "a/b", None, None),
            ("garbage", "a/b", None, None),
        ] {
            assert_eq!(
                next_page(link, &target(typed, namespace)).as_deref(),
                expected,
                "{link}"
            );
        }
    }
}
