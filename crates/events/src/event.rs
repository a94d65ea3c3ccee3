//! An event: an action or attempt, and the request that made it.

use std::time::SystemTime;

use http::{HeaderMap, header};

use oci::digest::Digest;
use oci::name::{Repository, RepositoryName, Tag};

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it happened.
    pub time: SystemTime,
    /// What happened.
    pub action: EventAction,
    /// The request that it came by.
    pub request: EventRequest,
    /// The repository that it is about; `None` for logins.
    pub target: Option<EventTarget>,
    /// What the fields do not say, in words.
    pub detail: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventAction {
    /// A password was right.
    Login,
    /// A password was wrong, or was not verified after too many that were.
    LoginFailed,
    /// A request was denied with a 403.
    Denied,
    /// A manifest or a blob was sent to a client.
    Pull,
    /// A registry accepted a manifest, a blob or, by the v1 API, a tag.
    Push,
    /// A registry mounted a blob from another repository.
    Mount,
    /// A registry deleted a manifest, a blob or a tag.
    Delete,
    /// An operator removed content from the cache.
    Purge,
    /// An operator pinned an image.
    Pin,
    /// An operator unpinned an image.
    Unpin,
    /// An operator had the configuration reloaded.
    Reload,
    /// An operator had a new process take over.
    Upgrade,
}

impl EventAction {
    /// Whether the audit log has it.
    pub fn is_audited(self) -> bool {
        self != Self::Pull
    }

    /// Whether anybody can cause any number of them.
    pub fn is_unbounded(self) -> bool {
        matches!(self, Self::Pull | Self::LoginFailed | Self::Denied)
    }

    /// Its name in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::LoginFailed => "login_failed",
            Self::Denied => "denied",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Mount => "mount",
            Self::Delete => "delete",
            Self::Purge => "purge",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Reload => "reload",
            Self::Upgrade => "upgrade",
        }
    }
}

/// The request of an event.
#[derive(Clone, Debug, Default)]
pub struct EventRequest {
    /// Its `X-Request-Id`.
    pub id: Option<String>,
    /// The address of the client, with the port where it is known; `None` for a Unix socket.
    pub address: Option<String>,
    /// The authority that it was sent to.
    pub host: Option<String>,
    /// The user; of a failed login, the one that was claimed. `None`: anonymous.
    pub user: Option<String>,
    /// See [`user_agent`].
    pub user_agent: Option<String>,
    /// Its method.
    pub method: String,
}

/// The longest `User-Agent` of an event, in characters.
const MAX_USER_AGENT: usize = 256;
/// The longest user of an event, in characters.
const MAX_USER: usize = 128;

/// The `User-Agent` of a request, cut to 256 characters.
pub fn user_agent(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(header::USER_AGENT)?;
    let agent = String::from_utf8_lossy(agent.as_bytes());
    Some(agent.chars().take(MAX_USER_AGENT).collect())
}

/// A user as claimed, cut to 128 characters.
pub fn claimed_user(user: &str) -> String {
    user.chars().take(MAX_USER).collect()
}

/// The repository of an event, and the content of it.
#[derive(Clone, Debug)]
pub struct EventTarget {
    /// The repository.
    pub name: RepositoryName,
    /// The tag by which a manifest is named.
    pub tag: Option<Tag>,
    /// The content.
    pub digest: Option<Digest>,
    /// The type of the content.
    pub media_type: Option<String>,
    /// The size of the content, in bytes.
    pub size: Option<u64>,
    /// The source of a mount, in the same registry.
    pub from: Option<Repository>,
    /// The URL of the content at the gateway.
    pub url: Option<String>,
}

impl EventTarget {
    /// A repository, without content.
    pub fn of(name: RepositoryName) -> Self {
        Self {
            name,
            tag: None,
            digest: None,
            media_type: None,
            size: None,
            from: None,
            url: None,
        }
    }
}
