//! Answers of the v1 API: JSON errors with one text, and none of v2's headers.

use bytes::Bytes;
use http::{StatusCode, header};
use pingora_core::Result;

use super::super::error_response::ErrorResponse;
use super::super::response::Response;
use super::super::session::Session;
use super::super::{failure, send};
use mirror::{MirrorError, ResourceKind};
use oci::cache_status::CacheStatus;
use oci::v1::error_body;

/// `_ping`. `standalone` is whether clients are to send their password with every request; else they send
/// the token that they get for a repository.
pub async fn ping(session: &mut Session, head: bool, standalone: bool) -> Result<()> {
    let mut response = own(StatusCode::OK)?;
    let standalone = if standalone { "true" } else { "false" };
    response.insert_header("X-Docker-Registry-Standalone", standalone)?;
    send::whole(session, response, head, Bytes::from_static(b"{}")).await
}

/// A login that is good.
pub async fn welcome(session: &mut Session, head: bool) -> Result<()> {
    let response = own(StatusCode::OK)?;
    send::whole(session, response, head, Bytes::from_static(b"\"OK\"")).await
}

/// A refusal, with a challenge where a login could help.
pub async fn refusal(session: &mut Session, head: bool, refusal: &ErrorResponse) -> Result<()> {
    let mut response = own(refusal.status)?;
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        response.insert_header(header::ALLOW, "GET, HEAD, PUT, DELETE")?;
    }
    if let Some(challenge) = &refusal.challenge {
        response.insert_header(header::WWW_AUTHENTICATE, challenge.as_str())?;
    }
    if let Some(wait) = refusal.retry_after {
        response.insert_header(header::RETRY_AFTER, wait.as_secs().max(1))?;
    }
    send::whole(session, response, head, error_body(&refusal.message).into()).await
}

/// A request that came to nothing. The log gets the causes, the client the message.
pub async fn failure(session: &mut Session, head: bool, error: &MirrorError) -> Result<()> {
    let (status, code) = failure::status(error);
    if status.is_server_error() {
        tracing::warn!(error = telemetry::chain(error), "a v1 request failed");
    }
    let message = match error {
        // As the registry says it itself.
        MirrorError::Unknown {
            kind: ResourceKind::Image,
            ..
        } => "Image not found".to_owned(),
        error => error.to_string(),
    };
    let refused = ErrorResponse::with_status(status, code, message);
    refusal(session, head, &refused).await
}

/// Nothing of the layer: 416 without a body, by which old Docker knows that it has everything.
pub async fn nothing_left(session: &mut Session, size: u64, cache: CacheStatus) -> Result<()> {
    let mut response = Response::new(StatusCode::RANGE_NOT_SATISFIABLE, cache)?;
    response.insert_header(header::CONTENT_RANGE, format!("bytes */{size}"))?;
    send::whole(session, response, false, Bytes::new()).await
}

/// Our own answer, in JSON, that nobody keeps.
pub fn own(status: StatusCode) -> Result<Response> {
    let mut response = Response::new(status, CacheStatus::own("v1"))?;
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    Ok(response)
}
