//! Requests that failed: the one table from the mirror's errors to statuses, codes and `Cache-Status`.

use std::time::Duration;

use http::{StatusCode, header};
use pingora_core::Result;

use super::request_options::RequestOptions;
use super::session::Session;
use super::target::RequestTarget;
use super::{Failure, Gateway, request_body, request_metrics, respond};
use mirror::{MirrorError, ResourceKind};
use oci::cache_status::{CacheStatus, Forward};
use oci::error::{ErrorCode, detailed_body};
use oci::v2::Resource;

/// `Retry-After` while an image is being converted.
const CONVERTING_RETRY: Duration = Duration::from_secs(5);

impl Failure {
    /// The status of its response; `None`: nothing can be sent.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Response(response) => Some(response.status),
            Self::Mirror(error) => Some(status(error).0),
            Self::Connection(_) => None,
        }
    }
}

impl Gateway {
    /// Sends the error response of a failure. A listener that only reads sends no challenges.
    ///
    /// # Errors
    /// The connection cannot be used any more.
    pub(super) async fn fail(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        failure: Failure,
    ) -> Result<()> {
        match failure {
            Failure::Response(refused) => respond::refuse(session, options, &refused).await,
            Failure::Mirror(error) => {
                let error = match error {
                    MirrorError::Challenged(_) if self.listener.read_only => {
                        MirrorError::CallerDenied
                    }
                    error => error,
                };
                mirror_error(session, options, &error).await?;
                request_body::drain(session).await;
                Ok(())
            }
            Failure::Connection(error) => Err(error),
        }
    }
}

/// Responds to a failed read. The causes go to the log, the message to the client.
async fn mirror_error(
    session: &mut Session,
    options: &RequestOptions,
    error: &MirrorError,
) -> Result<()> {
    let (status, code) = status(error);
    if status.is_server_error() {
        tracing::warn!(error = telemetry::chain(error), "a read failed");
    }
    let mut response = respond::response(status, options, cache_status(error))?;
    let retry_after = match error {
        MirrorError::TooManyRequests { retry_after } => *retry_after,
        MirrorError::Busy { retry_after } | MirrorError::NoRoom { retry_after } => {
            Some(*retry_after)
        }
        MirrorError::Preparing(_) => Some(CONVERTING_RETRY),
        MirrorError::Unavailable(_) => Some(Duration::from_secs(1)),
        _ => None,
    };
    if let Some(wait) = retry_after {
        response.insert_header(header::RETRY_AFTER, wait.as_secs().max(1))?;
    }
    if let MirrorError::Challenged(challenges) = error {
        for challenge in challenges {
            response.append_header(header::WWW_AUTHENTICATE, challenge.clone())?;
        }
    }
    if let MirrorError::Gate(denial) = error {
        request_metrics::gate_denied(denial);
        let body = detailed_body(code, &error.to_string(), &denial.detail());
        return respond::finish_body(session, response, body).await;
    }
    respond::finish_error(session, response, code, &error.to_string()).await
}

/// The status that a failed read is answered with.
pub const fn status_of(error: &MirrorError) -> StatusCode {
    let (status, _) = status(error);
    status
}

/// The one table from errors to statuses and codes.
pub const fn status(error: &MirrorError) -> (StatusCode, ErrorCode) {
    match error {
        MirrorError::NotServed => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        MirrorError::Unknown { kind, .. } => match kind {
            ResourceKind::Blob => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            ResourceKind::Manifest | ResourceKind::Image => {
                (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown)
            }
            ResourceKind::Repository => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            // After NAME_UNKNOWN clients would not look for the referrers tag.
            ResourceKind::Referrers => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
        },
        MirrorError::Challenged(_) | MirrorError::LoginRequired => {
            (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized)
        }
        MirrorError::Denied
        | MirrorError::NotPublic
        | MirrorError::CallerDenied
        | MirrorError::Gate(_) => (StatusCode::FORBIDDEN, ErrorCode::Denied),
        MirrorError::TooLong => (StatusCode::URI_TOO_LONG, ErrorCode::Unsupported),
        MirrorError::TooManyRequests { .. } | MirrorError::Reserved => {
            (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests)
        }
        MirrorError::Busy { .. }
        | MirrorError::NoRoom { .. }
        | MirrorError::Preparing(_)
        | MirrorError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
        MirrorError::Unusable(_) | MirrorError::DigestMismatch(_) => {
            (StatusCode::BAD_GATEWAY, ErrorCode::Unknown)
        }
        MirrorError::Disk(_) | MirrorError::Internal => {
            (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown)
        }
    }
}

/// The `Cache-Status` of a failed read.
pub const fn cache_status(error: &MirrorError) -> CacheStatus {
    let forwarded = CacheStatus::forward(Forward::UriMiss);
    match error {
        MirrorError::NotServed | MirrorError::TooLong => CacheStatus::own("refused"),
        MirrorError::Gate(_) => CacheStatus::own("gate"),
        MirrorError::Unknown {
            remembered: true, ..
        } => CacheStatus::HIT.detail("negative"),
        MirrorError::Unknown { .. } => forwarded.detail("unknown"),
        MirrorError::Challenged(_)
        | MirrorError::LoginRequired
        | MirrorError::Denied
        | MirrorError::NotPublic
        | MirrorError::CallerDenied => forwarded.detail("denied"),
        MirrorError::TooManyRequests { .. } => forwarded.detail("limited"),
        MirrorError::Reserved => forwarded.detail("reserved"),
        MirrorError::Busy { .. } => CacheStatus::own("busy"),
        MirrorError::NoRoom { .. } => CacheStatus::own("no-room"),
        MirrorError::Preparing(_) => forwarded.detail("converting"),
        MirrorError::Unavailable(_) => forwarded.detail("unavailable"),
        MirrorError::Unusable(_) | MirrorError::DigestMismatch(_) => forwarded.detail("unusable"),
        MirrorError::Disk(_) | MirrorError::Internal => CacheStatus::own("failed"),
    }
}

/// The code and the causes of a failure, for the history.
#[derive(Clone, Debug)]
pub struct FailureReason {
    /// The code in the error's body.
    pub code: ErrorCode,
    /// The error with its causes.
    pub reason: String,
    /// The tag or digest that was asked for.
    pub reference: Option<String>,
    /// The rule of the gate that denied it.
    pub gate_rule: Option<&'static str>,
    /// The user whose password was refused, as the client claims; at most 128 characters.
    pub refused_user: Option<String>,
}

impl FailureReason {
    /// The reason of a failure; `None` if the connection failed.
    pub fn of(
        failure: &Failure,
        target: Option<&RequestTarget>,
        refused_user: Option<&str>,
    ) -> Option<Box<Self>> {
        let (code, reason) = match failure {
            Failure::Response(response) => (response.code, response.message.to_string()),
            Failure::Mirror(error) => (status(error).1, telemetry::chain(error)),
            Failure::Connection(_) => return None,
        };
        let reference = target.and_then(|target| match &target.resource {
            Resource::Manifest(reference) => Some(reference.to_string()),
            Resource::Blob(digest) | Resource::Referrers(digest) => Some(digest.to_string()),
            Resource::Tags | Resource::Uploads | Resource::Upload(_) => None,
        });
        let gate_rule = match failure {
            Failure::Mirror(MirrorError::Gate(denial)) => Some(denial.rule.as_str()),
            _ => None,
        };
        Some(Box::new(Self {
            code,
            reason,
            reference,
            gate_rule,
            refused_user: refused_user.map(str::to_owned),
        }))
    }
}
