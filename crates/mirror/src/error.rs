//! Why a read has no answer.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::fallback::Preparation;
use super::freshness::StaleReason;
use super::progress::FillError;
use ::gate::Denial;
use upstream::UpstreamError;

/// The `Retry-After` when no slot is free.
pub const BUSY_RETRY: Duration = Duration::from_secs(5);

/// The `Retry-After` when the store has no room.
const NO_ROOM_RETRY: Duration = Duration::from_secs(30);

/// Why a read has no answer. The client gets the message, the log gets the chain of sources.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    /// No such registry is configured, or it has no v2 side.
    #[error("the registry is not served here")]
    NotServed,
    /// 404: the registry, or the repository in it, does not have the content.
    #[error("the {} is unknown to the registry", kind.as_str())]
    Unknown {
        /// What was asked for, which decides the error code.
        kind: ResourceKind,
        /// Whether this is a remembered 404, rather than the upstream's answer now.
        remembered: bool,
    },
    /// 401 or 403 to the gateway's account.
    #[error("denied by the upstream registry: it refused the gateway's account")]
    Denied,
    /// A registry whose clients log in themselves answered 401 to the gateway's account or token, or to none.
    #[error("the upstream registry requires a login that the gateway does not have")]
    LoginRequired,
    /// The registry decides for each caller, and requires another login of this one: its challenges, verbatim.
    #[error("the registry requires a login for this")]
    Challenged(Vec<HeaderValue>),
    /// The registry decides for each caller, and denies this one.
    #[error("the registry does not allow this")]
    CallerDenied,
    /// The gate of the registry does not let it through.
    #[error("{0}")]
    Gate(Arc<Denial>),
    /// The gateway's account may read it, an anonymous client may not.
    #[error("the repository is not public")]
    NotPublic,
    /// 429, or a cool-down after one.
    #[error("the upstream registry limits requests; try again later")]
    TooManyRequests {
        /// The wait that the upstream asks for, if it names one.
        retry_after: Option<Duration>,
    },
    /// The few pulls that the upstream allows are reserved for what is not cached. A stale answer is served instead.
    #[error("the upstream registry allows few pulls more; try again later")]
    Reserved,
    /// No slot became free for the fill.
    #[error("too many downloads are under way; try again later")]
    Busy {
        /// When the client may try again.
        retry_after: Duration,
    },
    /// The store is full of content in use, and the content cannot pass through.
    #[error("the store has no room for this; try again later")]
    NoRoom {
        /// When the client may try again.
        retry_after: Duration,
    },
    /// An image that only the fallback has is being prepared, which continues.
    #[error("the image is being converted; try again later")]
    Preparing(Preparation),
    /// A URL or header of the client's would make a request that cannot be sent.
    #[error("the request is too long to be forwarded")]
    TooLong,
    /// No answer: the network, a timeout, a 5xx, or the circuit breaker. A stale answer may be served instead.
    #[error("the upstream registry is unavailable")]
    Unavailable(#[source] Arc<UpstreamError>),
    /// An answer that breaks the protocol, or no token to ask with. No stale answer is served instead.
    #[error("the upstream registry sent an unusable answer")]
    Unusable(#[source] Arc<UpstreamError>),
    /// The bytes have another digest or length than they should; they are discarded.
    #[error("the upstream registry sent bytes that do not match the digest")]
    DigestMismatch(#[source] Arc<store::CommitError>),
    /// The disk failed where only it has the answer.
    #[error("the store cannot be read")]
    Disk(#[source] Arc<std::io::Error>),
    /// A task of the gateway ended without a result.
    #[error("the gateway failed")]
    Internal,
}

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// A blob, by its digest.
    Blob,
    /// An image, by its id.
    Image,
    /// A manifest, by tag or digest.
    Manifest,
    /// A list of a repository, or the repository itself.
    Repository,
    /// The referrers of a manifest, of a registry that lacks the referrers API.
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

    /// The error for a remembered 404.
    pub(super) const fn remembered_unknown(self) -> MirrorError {
        MirrorError::Unknown {
            kind: self,
            remembered: true,
        }
    }
}

impl MirrorError {
    /// Whether the upstream said that the repository does not have the content, or denied it: links to it end.
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

    /// Why a stale answer may be served instead: the upstream is unavailable. `None` if it did answer.
    pub const fn stale_reason(&self) -> Option<StaleReason> {
        match self {
            Self::Unavailable(_) => Some(StaleReason::Unavailable),
            Self::TooManyRequests { .. } => Some(StaleReason::Limited),
            Self::Reserved => Some(StaleReason::Reserved),
            _ => None,
        }
    }

    /// The upstream did not answer before the client's deadline.
    pub fn timed_out() -> Self {
        Self::Unavailable(Arc::new(UpstreamError::Timeout))
    }

    /// The store has no room for content that cannot pass through uncached.
    pub const fn no_room() -> Self {
        Self::NoRoom {
            retry_after: NO_ROOM_RETRY,
        }
    }

    /// Maps a fill's failure to the client's error.
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

    /// Maps the upstream's refusal to the client's error.
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
            | UpstreamError::CircuitOpen => Self::Unavailable(error),
            UpstreamError::Status(_)
            | UpstreamError::TooLarge { .. }
            | UpstreamError::Protocol(_)
            | UpstreamError::Helper(_)
            | UpstreamError::Token(_) => Self::Unusable(error),
        }
    }
}
