//! Answers to requests that the mirror could not serve: the one table from its errors to statuses, codes and
//! `Cache-Status`.

use std::time::Duration;

use http::{StatusCode, header};
use pingora_core::Result;

use super::respond::{self, RequestOptions};
use super::session::Session;
use mirror::{MirrorError, ResourceKind};
use oci::cache_status::{CacheStatus, Forward};
use oci::error::ErrorCode;

/// What a client is told to wait for an image that is being converted.
const CONVERTING_RETRY: Duration = Duration::from_secs(5);

/// A read that came to nothing. The log gets the causes, the client the message.
pub async fn respond(
    session: &mut Session,
    options: &RequestOptions,
    failure: &MirrorError,
) -> Result<()> {
    let (status, code) = status(failure);
    if status.is_server_error() {
        tracing::warn!(error = telemetry::chain(failure), "a read failed");
    }
    let mut response = respond::response(status, options, fate(failure))?;
    let retry_after = match failure {
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
    if let MirrorError::Challenged(challenges) = failure {
        for challenge in challenges {
            response.append_header(header::WWW_AUTHENTICATE, challenge.clone())?;
        }
    }
    respond::error(session, response, options, code, &failure.to_string()).await
}

/// The one table from what went wrong to what is said.
pub const fn status(error: &MirrorError) -> (StatusCode, ErrorCode) {
    match error {
        MirrorError::NotServed => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        MirrorError::Unknown { kind, .. } => match kind {
            ResourceKind::Blob => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            ResourceKind::Manifest | ResourceKind::Image => {
                (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown)
            }
            ResourceKind::Repository => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            // Not NAME_UNKNOWN, after which clients do not look for the referrers tag.
            ResourceKind::Referrers => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
        },
        MirrorError::Challenged(_) | MirrorError::LoginRequired => {
            (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized)
        }
        MirrorError::Denied | MirrorError::NotPublic | MirrorError::CallerDenied => {
            (StatusCode::FORBIDDEN, ErrorCode::Denied)
        }
        MirrorError::TooLong => (StatusCode::URI_TOO_LONG, ErrorCode::Unsupported),
        MirrorError::TooManyRequests { .. } => {
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

/// How the cache came to have no answer.
const fn fate(failure: &MirrorError) -> CacheStatus {
    let asked = CacheStatus::forward(Forward::UriMiss);
    match failure {
        MirrorError::NotServed | MirrorError::TooLong => CacheStatus::own("refused"),
        MirrorError::Unknown {
            remembered: true, ..
        } => CacheStatus::HIT.detail("negative"),
        MirrorError::Unknown { .. } => asked.detail("unknown"),
        MirrorError::Challenged(_)
        | MirrorError::LoginRequired
        | MirrorError::Denied
        | MirrorError::NotPublic
        | MirrorError::CallerDenied => asked.detail("denied"),
        MirrorError::TooManyRequests { .. } => asked.detail("limited"),
        MirrorError::Busy { .. } => CacheStatus::own("busy"),
        MirrorError::NoRoom { .. } => CacheStatus::own("no-room"),
        MirrorError::Preparing(_) => asked.detail("converting"),
        MirrorError::Unavailable(_) => asked.detail("unavailable"),
        MirrorError::Unusable(_) | MirrorError::DigestMismatch(_) => asked.detail("unusable"),
        MirrorError::Disk(_) | MirrorError::Internal => CacheStatus::own("failed"),
    }
}
