//! The process that hands over: what it asks the one that takes over, and is told by it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::handover::{ToPredecessor, ToSuccessor, receive, send};
use events::HandedNotification;
use mirror::{FillNews, SuccessorQuery};
use oci::digest::Digest;
use runtime::message_socket::MessageSocket;

/// How many sources of a fill are told: a message has an end.
const FOLLOWED_SOURCES: usize = 16;

/// Carries questions to the process that has taken over, and its answers back.
pub struct Relay {
    socket: Arc<MessageSocket>,
    following: HashMap<Digest, mpsc::Sender<FillNews>>,
    noticing: HashMap<u64, oneshot::Sender<()>>,
    noticed: u64,
    /// Told whether it serves.
    ready: Option<oneshot::Sender<Result<(), String>>>,
}

impl Relay {
    /// `ready` is told whether the process at the other end of `socket` serves, and dropped if it ends before it says so.
    pub fn new(socket: Arc<MessageSocket>, ready: oneshot::Sender<Result<(), String>>) -> Self {
        Self {
            socket,
            following: HashMap::new(),
            noticing: HashMap::new(),
            noticed: 0,
            ready: Some(ready),
        }
    }

    /// Ends with the other process.
    pub async fn run(
        mut self,
        mut queries: mpsc::Receiver<SuccessorQuery>,
        mut notifications: mpsc::Receiver<HandedNotification>,
    ) {
        let socket = self.socket.clone();
        loop {
            let message = tokio::select! {
                answer = receive(&socket) => match answer {
                    Ok(Some((answer, _))) => {
                        self.take(answer);
                        continue;
                    }
                    // Those who wait find out by their channels.
                    Ok(None) | Err(_) => return,
                },
                Some(query) = queries.recv() => self.ask(query),
                Some(notification) = notifications.recv() => ToSuccessor::Notification {
                    queue: notification.queue,
                    body: String::from_utf8_lossy(&notification.body).into_owned(),
                },
            };
            if let Err(error) = send(&socket, &message, None).await {
                tracing::warn!(%error, "cannot tell the new process something");
            }
        }
    }

    /// The message of a question, whose answer is waited for.
    fn ask(&mut self, query: SuccessorQuery) -> ToSuccessor {
        match query {
            SuccessorQuery::Follow {
                digest,
                sources,
                news,
            } => {
                self.following.insert(digest, news);
                let sources = sources.into_iter();
                let sources =
                    sources.map(|name| (name.registry.to_string(), name.repository.to_string()));
                ToSuccessor::Follow {
                    digest,
                    sources: sources.take(FOLLOWED_SOURCES).collect(),
                }
            }
            SuccessorQuery::Changed { name, done } => {
                self.noticed += 1;
                self.noticing.insert(self.noticed, done);
                ToSuccessor::Changed {
                    number: self.noticed,
                    registry: name.registry.to_string(),
                    repository: name.repository.to_string(),
                }
            }
        }
    }

    fn take(&mut self, answer: ToPredecessor) {
        match answer {
            ToPredecessor::Prepared | ToPredecessor::Other => {}
            ToPredecessor::Ready => self.tell(Ok(())),
            ToPredecessor::Failed { reason } => self.tell(Err(reason)),
            ToPredecessor::Streaming {
                digest,
                written,
                total,
                generation,
            } => {
                let news = FillNews::Progress {
                    written,
                    total,
                    generation,
                };
                if let Some(following) = self.following.get(&digest) {
                    // The next ones tell more.
                    let _ = following.try_send(news);
                }
            }
            ToPredecessor::Stored { digest } => self.end(&digest, FillNews::Stored),
            ToPredecessor::Unknown { digest } => self.end(&digest, FillNews::Unknown),
            ToPredecessor::Noticed { number } => {
                if let Some(done) = self.noticing.remove(&number) {
                    let _ = done.send(());
                }
            }
        }
    }

    fn tell(&mut self, outcome: Result<(), String>) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(outcome);
        }
    }

    /// Tells the last news of a fill.
    fn end(&mut self, digest: &Digest, news: FillNews) {
        if let Some(following) = self.following.remove(digest) {
            tokio::spawn(async move {
                let _ = following.send(news).await;
            });
        }
    }
}
