//! What a cached read can come to instead of an answer.

use std::sync::Arc;
use std::time::Duration;

use crate::upstream::UpstreamError;

/// Why there is no answer. The client gets the message, the log gets the chain.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("the registry is not served here")]
    NameUnknown,
    #[error("the blob is unknown to the registry")]
    BlobUnknown,
    #[error("the manifest is unknown to the registry")]
    ManifestUnknown,
    #[error("the repository is unknown to the registry")]
    RepositoryUnknown,
    #[error("the upstream registry refused the gateway's account")]
    Denied,
    #[error("the upstream registry limits requests; try again later")]
    TooManyRequests { retry_after: Option<Duration> },
    #[error("too many downloads are under way; try again later")]
    Busy { retry_after: Duration },
    #[error("the upstream registry cannot be asked")]
    Unavailable(#[source] Arc<UpstreamError>),
    #[error("the upstream registry gave an answer that cannot be used")]
    Unusable(#[source] Arc<UpstreamError>),
    #[error("the upstream registry sent other bytes than it promised")]
    Untrue(#[source] Arc<crate::store::CommitError>),
    #[error("the store cannot be read")]
    Disk(#[source] Arc<std::io::Error>),
}

/// What a 404 was about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Blob,
    Manifest,
    Repository,
}

impl MirrorError {
    /// Whether the upstream said that the repository does not have it, or that it is not for us.
    pub(super) fn ends_a_claim(&self) -> bool {
        matches!(
            self,
            Self::BlobUnknown | Self::ManifestUnknown | Self::RepositoryUnknown | Self::Denied
        )
    }

    /// The upstream's refusal, as it concerns the client.
    pub(super) fn of(error: Arc<UpstreamError>, asked: Asked) -> Self {
        match &*error {
            UpstreamError::NotFound => match asked {
                Asked::Blob => Self::BlobUnknown,
                Asked::Manifest => Self::ManifestUnknown,
                Asked::Repository => Self::RepositoryUnknown,
            },
            UpstreamError::Denied(_) => Self::Denied,
            UpstreamError::TooManyRequests { retry_after } => Self::TooManyRequests {
                retry_after: *retry_after,
            },
            UpstreamError::Status(status) if status.is_server_error() => Self::Unavailable(error),
            UpstreamError::Timeout | UpstreamError::Network(_) => Self::Unavailable(error),
            UpstreamError::Status(_)
            | UpstreamError::TooLarge { .. }
            | UpstreamError::Protocol(_) => Self::Unusable(error),
        }
    }
}
