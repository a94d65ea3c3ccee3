//! What a cached read can come to instead of an answer.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::fallback::Preparation;
use super::fill::FillError;
use super::freshness::StaleReason;
use upstream::UpstreamError;

/// What a client is told to wait when there is no slot.
pub const BUSY_RETRY: Duration = Duration::from_secs(5);

/// What a client is told to wait when there is no room.
const NO_ROOM_RETRY: Duration = Duration::from_secs(30);

/// Why there is no answer. The client gets the message, the log gets the chain.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("the registry is not served here")]
    NotServed,
    #[error("the {} is unknown to the registry", kind.as_str())]
    Unknown {
        kind: ResourceKind,
        /// Whether the upstream said so a short while ago, rather than now.
        remembered: bool,
    },
    #[error("denied by the upstream registry: it refused the gateway's account")]
    Denied,
    /// 401 of a registry whose clients bring the login, to our account or token or to none.
    #[error("the upstream registry wants a login that the gateway does not have")]
    LoginRequired,
    /// The registry decides for each caller, and wants another login from this one: its challenges, as it
    /// wrote them.
    #[error("the registry wants a login for this")]
    Challenged(Vec<HeaderValue>),
    /// The registry decides for each caller, and this one may not.
    #[error("the registry does not allow this")]
    CallerDenied,
    /// Our account may read it, everybody may not.
    #[error("the repository is not public")]
    NotPublic,
    #[error("the upstream registry limits requests; try again later")]
    TooManyRequests { retry_after: Option<Duration> },
    #[error("too many downloads are under way; try again later")]
    Busy { retry_after: Duration },
    #[error("the store has no room for this; try again later")]
    NoRoom { retry_after: Duration },
    /// What only a fallback has is being prepared, which goes on.
    #[error("the image is being converted; try again later")]
    Preparing(Preparation),
    #[error("the request is longer than can be passed on")]
    TooLong,
    #[error("the upstream registry cannot be asked")]
    Unavailable(#[source] Arc<UpstreamError>),
    #[error("the upstream registry gave an answer that cannot be used")]
    Unusable(#[source] Arc<UpstreamError>),
    #[error("the upstream registry sent other bytes than it promised")]
    DigestMismatch(#[source] Arc<store::CommitError>),
    #[error("the store cannot be read")]
    Disk(#[source] Arc<std::io::Error>),
    #[error("the gateway failed")]
    Internal,
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    Blob,
    /// By its id.
    Image,
    Manifest,
    Repository,
    /// Who refers to a manifest, of a registry that does not know such a question.
    Referrers,
}

impl ResourceKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Image => "image",
            Self::Manifest => "manifest",
            Self::Repository => "repository",
            Self::Referrers => "referrers API",
        }
    }

    /// The 404 of the upstream's that is remembered.
    pub(super) const fn remembered_unknown(self) -> MirrorError {
        MirrorError::Unknown {
            kind: self,
            remembered: true,
        }
    }
}

impl MirrorError {
    /// Whether the upstream said that the repository does not have it, or that it is not for us.
    pub(super) fn revokes_link(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. }
                | Self::Denied
                | Self::LoginRequired
                | Self::NotPublic
                | Self::Challenged(_)
                | Self::CallerDenied
        )
    }

    /// Why something stale may be answered with instead: the upstream cannot answer. `None` when it did.
    pub const fn stale_reason(&self) -> Option<StaleReason> {
        match self {
            Self::Unavailable(_) => Some(StaleReason::Unavailable),
            Self::TooManyRequests { .. } => Some(StaleReason::Limited),
            _ => None,
        }
    }

    /// The upstream did not answer in the time that the client has.
    pub fn timed_out() -> Self {
        Self::Unavailable(Arc::new(UpstreamError::Timeout))
    }

    /// What cannot pass by uncached does not fit into the store.
    pub const fn no_room() -> Self {
        Self::NoRoom {
            retry_after: NO_ROOM_RETRY,
        }
    }

    /// Why a fill came to nothing, as it concerns the client.
    pub(super) fn from_fill(error: FillError) -> Self {
        match error {
            FillError::Upstream(error) => Self::from_upstream(error, ResourceKind::Blob),
            FillError::Commit(error) => Self::DigestMismatch(error),
            FillError::Busy => Self::Busy {
                retry_after: BUSY_RETRY,
            },
            FillError::NoRoom { .. } => Self::no_room(),
            FillError::Paused | FillError::Lost => Self::Internal,
        }
    }

    /// The upstream's refusal, as it concerns the client.
    pub fn from_upstream(error: Arc<UpstreamError>, kind: ResourceKind) -> Self {
        match error.root() {
            UpstreamError::NotFound => Self::Unknown {
                kind,
                remembered: false,
            },
            UpstreamError::NoReferrers => Self::Unknown {
                kind: ResourceKind::Referrers,
                remembered: false,
            },
            UpstreamError::Denied(_) => Self::Denied,
            UpstreamError::Challenged(challenges) => Self::Challenged(challenges.clone()),
            UpstreamError::CallerDenied => Self::CallerDenied,
            UpstreamError::TooManyRequests { retry_after } => Self::TooManyRequests {
                retry_after: *retry_after,
            },
            UpstreamError::Unsendable => Self::TooLong,
            UpstreamError::Status(status) if status.is_server_error() => Self::Unavailable(error),
            UpstreamError::Timeout
            | UpstreamError::Network(_)
            | UpstreamError::Cut
            | UpstreamError::Resting => Self::Unavailable(error),
            UpstreamError::Status(_)
            | UpstreamError::TooLarge { .. }
            | UpstreamError::Protocol(_)
            | UpstreamError::Helper(_)
            | UpstreamError::Token(_) => Self::Unusable(error),
        }
    }
}
