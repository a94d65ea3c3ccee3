//! Responses of the v1 API: errors as JSON with one text, without the header fields of v2.

use bytes::Bytes;
use http::{StatusCode, header};
use pingora_core::Result;

use super::super::cache_control::CacheControl;
use super::super::error_response::ErrorResponse;
use super::super::request_options::Unsatisfiable;
use super::super::response::Response;
use super::super::session::Session;
use super::super::{failure, request_metrics, send};
use mirror::{MirrorError, ResourceKind};
use oci::cache_status::CacheStatus;
use oci::v1::error_body;

/// Whether clients log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientLogins {
    None,
    Accepted,
}

/// Responds to `_ping`. To a standalone registry clients send their password with every request, to others the token
/// that they got for a repository.
pub async fn ping(session: &mut Session, logins: ClientLogins) -> Result<()> {
    let mut response = gateway_response(StatusCode::OK)?;
    let standalone = match logins {
        ClientLogins::None => "true",
        ClientLogins::Accepted => "false",
    };
    response.insert_header("X-Docker-Registry-Standalone", standalone)?;
    send::whole(session, response, Bytes::from_static(b"{}")).await
}

/// Responds to a successful login.
pub async fn logged_in(session: &mut Session) -> Result<()> {
    let response = gateway_response(StatusCode::OK)?;
    send::whole(session, response, Bytes::from_static(b"\"OK\"")).await
}

/// Sends an error response, with its challenge.
pub async fn error(session: &mut Session, error: &ErrorResponse) -> Result<()> {
    let mut response = gateway_response(error.status)?;
    if error.status == StatusCode::METHOD_NOT_ALLOWED {
        response.insert_header(header::ALLOW, "GET, HEAD, PUT, DELETE")?;
    }
    if let Some(challenge) = &error.challenge {
        response.insert_header(header::WWW_AUTHENTICATE, challenge.as_str())?;
    }
    if let Some(wait) = error.retry_after {
        response.insert_header(header::RETRY_AFTER, wait.as_secs().max(1))?;
    }
    send::whole(session, response, error_body(&error.message).into()).await
}

/// Responds to a failed request. The causes go to the log, the message to the client.
pub async fn mirror_error(session: &mut Session, error: &MirrorError) -> Result<()> {
    let (status, code) = failure::status(error);
    if status.is_server_error() {
        tracing::warn!(error = telemetry::chain(error), "a v1 request failed");
    }
    let message = match error {
        // In the words of docker-registry.
        MirrorError::Unknown {
            kind: ResourceKind::Image,
            ..
        } => "Image not found".to_owned(),
        error => error.to_string(),
    };
    if let MirrorError::Gate(denial) = error {
        request_metrics::gate_denied(denial);
    }
    let refused = ErrorResponse::with_status(status, code, message);
    self::error(session, &refused).await
}

/// Sends a 416 without a body, by which old Docker knows that its download is complete.
pub async fn unsatisfiable(
    session: &mut Session,
    range: Unsatisfiable,
    cache: CacheStatus,
) -> Result<()> {
    let Unsatisfiable { size } = range;
    let mut response = Response::new(StatusCode::RANGE_NOT_SATISFIABLE, cache)?;
    response.insert_header(header::CONTENT_RANGE, format!("bytes */{size}"))?;
    send::whole(session, response, Bytes::new()).await
}

/// The head of a response by the gateway itself, in JSON, which is not stored.
pub fn gateway_response(status: StatusCode) -> Result<Response> {
    let mut response = Response::new(status, CacheStatus::own("v1"))?;
    response.set_json(CacheControl::NoStore)?;
    Ok(response)
}
