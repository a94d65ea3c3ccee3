//! Takes over from a process that hands over to this one.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::ServeError;
use super::handover::{TAKES_OVER, ToPredecessor, ToSuccessor, receive, send};
use events::{Events, HandedNotification};
use mirror::Mirror;
use oci::name::{Registry, RepositoryName};
use runtime::listen::{Address, Bound, FileOwner};
use runtime::message_socket::MessageSocket;
use runtime::passed::{PassedError, PassedSockets};
use store::Predecessor;

/// How many pieces of news of one fill may wait.
const NEWS: usize = 4;

/// The process that hands over to this one.
pub struct Takeover {
    socket: Arc<MessageSocket>,
    sockets: Vec<PassedSocket>,
    /// Those that the service manager passed to the first process, with their names.
    passed: Vec<(String, OwnedFd)>,
    process: u32,
}

/// A listening socket that was passed.
struct PassedSocket {
    key: String,
    address: String,
    leaves_file: bool,
    socket: OwnedFd,
}

impl PassedSocket {
    /// The listener, whose socket file stays if this process does not get ready.
    fn open(self, scheme: &str) -> io::Result<Bound> {
        let bound = Bound::passed(self.socket, scheme)?;
        if !self.leaves_file {
            bound.set_file_owner(FileOwner::Predecessor);
        }
        Ok(bound)
    }
}

impl Takeover {
    /// The process that started this one for an upgrade, if one did, and its listening sockets.
    ///
    /// # Errors
    /// When that process is gone.
    pub async fn of_environment() -> Result<Option<Self>, ServeError> {
        if !is_takeover() {
            return Ok(None);
        }
        let socket = match MessageSocket::inherited(io::stdin().as_fd()) {
            // The variable was left over.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            socket => Arc::new(socket?),
        };
        let (mut sockets, mut passed) = (Vec::new(), Vec::new());
        loop {
            let (message, descriptor) = receive(&socket).await?.ok_or_else(gone)?;
            match (message, descriptor) {
                (
                    ToSuccessor::Socket {
                        key,
                        address,
                        leaves_file,
                    },
                    Some(socket),
                ) => sockets.push(PassedSocket {
                    key,
                    address,
                    leaves_file,
                    socket,
                }),
                (ToSuccessor::Passed { name }, Some(socket)) => passed.push((name, socket)),
                (ToSuccessor::AllSockets { process }, _) => {
                    return Ok(Some(Self {
                        socket,
                        sockets,
                        passed,
                        process,
                    }));
                }
                _ => {}
            }
        }
    }

    /// The sockets that the service manager passed to the process before this one.
    ///
    /// # Errors
    /// When one cannot be listened on.
    pub fn passed(&mut self) -> Result<PassedSockets, PassedError> {
        PassedSockets::of(std::mem::take(&mut self.passed))
    }

    /// The socket that was open at an address of `key`, whose URL has this scheme.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn socket(
        &mut self,
        key: &str,
        address: &Address,
        scheme: &str,
    ) -> io::Result<Option<Bound>> {
        let address = address.to_string();
        let is_it = |passed: &PassedSocket| passed.key == key && passed.address == address;
        let Some(found) = self.sockets.iter().position(is_it) else {
            return Ok(None);
        };
        let passed = self.sockets.swap_remove(found);
        passed.open(scheme).map(Some)
    }

    /// Says that all is prepared, and waits for the store.
    ///
    /// # Errors
    /// When the other process is gone.
    pub async fn store(&mut self) -> Result<Predecessor, ServeError> {
        send(&self.socket, &ToPredecessor::Prepared, None).await?;
        loop {
            let (message, descriptor) = receive(&self.socket).await?.ok_or_else(gone)?;
            if let (ToSuccessor::Store, Some(lock)) = (message, descriptor) {
                return Ok(Predecessor {
                    lock: lock.into(),
                    process: self.process,
                });
            }
        }
    }

    /// Says that this process accepts connections, and answers what the other asks. The task ends with the other process.
    pub fn ready(mut self, mirror: Mirror, events: Option<Events>) -> JoinHandle<()> {
        // What the configuration no longer has is closed; a socket file of it is removed.
        for passed in self.sockets.drain(..) {
            tracing::info!(address = passed.address, "removed a listener");
            let removed = passed.open("");
            removed.inspect(Bound::inherit_file).ok();
        }
        tokio::spawn(async move {
            let said = send(&self.socket, &ToPredecessor::Ready, None).await;
            if said.is_ok() {
                self.answer(&mirror, events.as_ref()).await;
            }
        })
    }

    /// Says why this process ends.
    pub async fn failed(&self, error: &ServeError) {
        let reason = telemetry::chain(error);
        // The other process may be gone.
        let _ = send(&self.socket, &ToPredecessor::Failed { reason }, None).await;
    }

    async fn answer(&self, mirror: &Mirror, events: Option<&Events>) {
        while let Ok(Some((message, _))) = receive(&self.socket).await {
            match message {
                ToSuccessor::Follow { digest, sources } => {
                    let sources: Vec<_> = sources.iter().filter_map(repository).collect();
                    let (news, mut received) = mpsc::channel(NEWS);
                    let (mirror, socket) = (mirror.clone(), self.socket.clone());
                    tokio::spawn(async move { mirror.tell_fill(digest, &sources, news).await });
                    tokio::spawn(async move {
                        while let Some(news) = received.recv().await {
                            let message = ToPredecessor::news(digest, news);
                            if send(&socket, &message, None).await.is_err() {
                                return;
                            }
                        }
                    });
                }
                ToSuccessor::Changed {
                    number,
                    registry,
                    repository,
                } => {
                    if let Some(name) = self::repository(&(registry, repository)) {
                        mirror.reread(&name);
                    }
                    let (socket, noticed) =
                        (self.socket.clone(), ToPredecessor::Noticed { number });
                    tokio::spawn(async move { send(&socket, &noticed, None).await });
                }
                ToSuccessor::Notification { queue, body } => {
                    if let Some(events) = events {
                        let body = body.into_bytes();
                        events.take_over(HandedNotification { queue, body });
                    }
                }
                ToSuccessor::Socket { .. }
                | ToSuccessor::Passed { .. }
                | ToSuccessor::AllSockets { .. }
                | ToSuccessor::Store
                | ToSuccessor::Other => {}
            }
        }
    }
}

/// Tells the process that started this one for an upgrade, if one did, why this one ends before it serves.
pub fn report_failure(reason: &str) {
    if !is_takeover() {
        return;
    }
    let reason = reason.to_owned();
    let message = serde_json::to_vec(&ToPredecessor::Failed { reason });
    let socket = io::stdin().as_fd().try_clone_to_owned();
    if let (Ok(message), Ok(socket)) = (message, socket) {
        let _ = std::os::unix::net::UnixDatagram::from(socket).send(&message);
    }
}

/// A repository by the names of its registry and its own.
fn repository((registry, repository): &(String, String)) -> Option<RepositoryName> {
    let repository = repository.parse().ok()?;
    Some(RepositoryName::new(&Registry::new(registry), &repository))
}

fn is_takeover() -> bool {
    std::env::var_os(TAKES_OVER).is_some()
}

fn gone() -> io::Error {
    io::Error::other("the process that hands over is gone")
}
