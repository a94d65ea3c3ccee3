//! What the process that hands over and the one that takes over say to each other, on a socket that the second has as its
//! standard input.
//!
//! The first sends its listening sockets; the second prepares everything but the store, and says so. Then the first stops
//! to accept connections, leaves its unfinished downloads and its queues of events, and sends the lock of the store. The
//! second opens the store, accepts connections, and says so. From then on the first ends its requests, and asks the second
//! how downloads go on that its clients wait for.
//!
//! The two may be of different versions: what one does not know it ignores.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use mirror::FillNews;
use oci::digest::Digest;
use runtime::message_socket::MessageSocket;

/// The environment variable of a process that takes over.
pub const TAKES_OVER: &str = "ROADSTEAD_TAKES_OVER";

/// From the process that hands over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum ToSuccessor {
    /// A listening socket, which comes with the message.
    Socket {
        /// The key of the configuration that it is for.
        key: String,
        /// Its address as configured.
        address: String,
        /// Whether its socket file is another's, such as the service manager's.
        #[serde(default)]
        leaves_file: bool,
    },
    /// A socket that the service manager has passed, which comes with the message: for listeners of later reloads.
    Passed { name: String },
    /// There are no more sockets.
    AllSockets {
        /// The process that hands over.
        process: u32,
    },
    /// The lock of the store, which comes with the message.
    Store,
    /// How does the fill of this blob go on?
    Follow {
        digest: Digest,
        /// Registry and repository of each source that may have it.
        sources: Vec<(String, String)>,
    },
    /// A repository was written to.
    Changed {
        number: u64,
        registry: String,
        repository: String,
    },
    /// A notification for a webhook.
    Notification { queue: String, body: String },
    /// Of a newer version.
    #[serde(other)]
    Other,
}

/// From the process that takes over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum ToPredecessor {
    /// Everything but the store is ready.
    Prepared,
    /// It accepts connections.
    Ready,
    /// It ends.
    Failed { reason: String },
    /// How a fill goes on.
    Streaming {
        digest: Digest,
        written: u64,
        total: Option<u64>,
        generation: u32,
    },
    /// The blob is stored.
    Stored { digest: Digest },
    /// There is no such fill.
    Unknown { digest: Digest },
    /// What is remembered of a repository will be read anew.
    Noticed { number: u64 },
    /// Of a newer version.
    #[serde(other)]
    Other,
}

impl ToPredecessor {
    /// The news of a fill.
    pub fn news(digest: Digest, news: FillNews) -> Self {
        match news {
            FillNews::Progress {
                written,
                total,
                generation,
            } => Self::Streaming {
                digest,
                written,
                total,
                generation,
            },
            FillNews::Stored => Self::Stored { digest },
            FillNews::Unknown => Self::Unknown { digest },
        }
    }
}

/// Sends a message.
///
/// # Errors
/// The other process is gone, or the message is too long.
pub async fn send(
    socket: &MessageSocket,
    message: &impl Serialize,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    socket.send(&serde_json::to_vec(message)?, descriptor).await
}

/// The next message, and what came with it; `None` once the other process is gone.
///
/// # Errors
/// The socket's, or what came is no message.
pub async fn receive<M: DeserializeOwned>(
    socket: &MessageSocket,
) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let Some(received) = socket.receive().await? else {
        return Ok(None);
    };
    let message = serde_json::from_slice(&received.bytes)?;
    Ok(Some((message, received.descriptor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_newer_versions_are_ignored() {
        let newer = r#"{"message":"from_the_future","number":7}"#;
        let message: ToSuccessor = serde_json::from_str(newer).expect("a message");
        assert!(matches!(message, ToSuccessor::Other));
        let message: ToPredecessor = serde_json::from_str(newer).expect("a message");
        assert!(matches!(message, ToPredecessor::Other));
        let more = r#"{"message":"all_sockets","process":5,"more":true}"#;
        let message: ToSuccessor = serde_json::from_str(more).expect("a message");
        assert!(matches!(message, ToSuccessor::AllSockets { process: 5 }));
    }
}
