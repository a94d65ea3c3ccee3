//! Upgrades: this process starts the program anew, hands everything over to it and ends its own requests.
//!
//! Until the new process accepts connections, any failure leaves this one as it was.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::handover::{TAKES_OVER, ToPredecessor, ToSuccessor, receive, send};
use super::listeners::AdminPlace;
use super::running::Running;
use events::HandedNotification;
use gateway::ListenerPhase;
use mirror::{FillNews, Successor, SuccessorQuery};
use oci::digest::Digest;
use runtime::listen::FileOwner;
use runtime::message_socket::MessageSocket;

/// How long the new process may take to prepare everything but the store, and then to open it.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long downloads may take to leave their partials.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(20);
/// How many questions about fills, and how many notifications, may wait.
const WAITING_QUERIES: usize = 256;
const WAITING_NOTIFICATIONS: usize = 4096;
/// How many sources of a fill are told: a message has an end.
const FOLLOWED_SOURCES: usize = 16;

/// Why this process goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The end of process 1 would be the end of its container.
    #[error(
        "the gateway is process 1 of its container, which ends with it: start a container of the new image instead"
    )]
    FirstProcess,
    /// systemd would kill the new process once this one ends.
    #[error(
        "the service manager takes no notice of a new process: write Type=notify and NotifyAccess=main in the unit, and restart it"
    )]
    Unnoticed,
    /// The program cannot be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// As this process was started.
        program: OsString,
        /// The system's error.
        source: io::Error,
    },
    /// The new process says why it cannot serve.
    #[error("the new process cannot take over: {0}")]
    Refused(String),
    /// The new process has ended.
    #[error("the new process ended before it was ready ({0}); its log says why")]
    Ended(ExitStatus),
    /// The new process does not say that it is ready.
    #[error("the new process was not ready in time; its log may say why")]
    Late,
    /// This process failed.
    #[error("cannot hand over: {0}")]
    System(#[from] io::Error),
}

/// A process that was started, and is killed unless it takes over.
struct NewProcess {
    child: Option<Child>,
    socket: Arc<MessageSocket>,
}

impl NewProcess {
    /// Starts the program as this process was started, from the same path, which an upgrade has replaced.
    fn start() -> Result<Self, UpgradeError> {
        let mut arguments = std::env::args_os();
        let program = arguments.next().unwrap_or_else(|| "roadstead".into());
        let (socket, other) = MessageSocket::pair()?;
        let started = Self::spawn(&program, arguments, other);
        let child = started.map_err(|source| UpgradeError::Start { program, source })?;
        Ok(Self {
            child: Some(child),
            socket: Arc::new(socket),
        })
    }

    fn spawn(
        program: &OsStr,
        arguments: impl Iterator<Item = OsString>,
        stdin: OwnedFd,
    ) -> io::Result<Child> {
        let mut command = Command::new(program);
        command.args(arguments).env(TAKES_OVER, "1");
        command.stdin(Stdio::from(stdin)).spawn()
    }

    fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Sends the listening sockets, and waits until all but the store is prepared.
    async fn prepare(&mut self, running: &Running) -> Result<(), UpgradeError> {
        for listener in &running.listeners {
            let message = ToSuccessor::Socket {
                key: "listen".to_owned(),
                address: listener.address.to_string(),
                leaves_file: listener.file_owner() == FileOwner::Other,
            };
            let socket = listener.socket()?;
            self.say(&message, Some(&socket)).await?;
        }
        for listener in &running.admin_listeners {
            let message = ToSuccessor::Socket {
                key: listener.place.key(),
                address: listener.place.address.to_string(),
                leaves_file: listener.file_owner() == FileOwner::Other,
            };
            let socket = listener.socket()?;
            self.say(&message, Some(&socket)).await?;
        }
        for (name, socket) in running.passed.duplicates()? {
            self.say(&ToSuccessor::Passed { name }, Some(&socket))
                .await?;
        }
        let process = std::process::id();
        self.say(&ToSuccessor::AllSockets { process }, None).await?;
        let prepared = async {
            loop {
                match receive(&self.socket).await {
                    Ok(Some((ToPredecessor::Prepared, _))) => return Ok(()),
                    Ok(Some((ToPredecessor::Failed { reason }, _))) => return Err(Some(reason)),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Err(None),
                }
            }
        };
        match timeout(PREPARE_TIMEOUT, prepared).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(self.failure(reason)),
            Err(_) => Err(UpgradeError::Late),
        }
    }

    async fn say(
        &mut self,
        message: &ToSuccessor,
        socket: Option<&OwnedFd>,
    ) -> Result<(), UpgradeError> {
        let sent = send(&self.socket, message, socket.map(OwnedFd::as_fd)).await;
        sent.map_err(|_| self.failure(None))
    }

    /// Why the process failed: what it said, or how it ended.
    fn failure(&mut self, reason: Option<String>) -> UpgradeError {
        match (reason, self.child.take()) {
            (Some(reason), _) => UpgradeError::Refused(reason),
            (None, None) => UpgradeError::Late,
            (None, Some(mut child)) => {
                // It has closed its end of the socket. Whatever it does now, it does not take over.
                let _ = child.kill();
                child.wait().map_or_else(Into::into, UpgradeError::Ended)
            }
        }
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    /// Starts the program anew and hands over to it. Returns its process id once it accepts connections; this process is to
    /// drain then.
    ///
    /// # Errors
    /// [`UpgradeError`]; this process goes on as before.
    pub async fn upgrade(&mut self) -> Result<u32, UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::FirstProcess);
        }
        let started_by_systemd = std::env::var("SYSTEMD_EXEC_PID").ok();
        let is_told = std::env::var_os("NOTIFY_SOCKET").is_some();
        if !is_told && is_main_process(started_by_systemd.as_deref(), std::process::id()) {
            return Err(UpgradeError::Unnoticed);
        }
        let mut new = NewProcess::start()?;
        tracing::info!(process = new.id(), "started a new process for an upgrade");
        new.prepare(self).await?;
        match self.hand_over(&mut new).await {
            Ok(()) => {
                let id = new.id();
                // It lives on when this process ends.
                drop(new.child.take());
                self.leave_listeners().await;
                tracing::info!(
                    process = id,
                    "the new process serves; this one ends its requests"
                );
                Ok(id)
            }
            Err(error) => {
                drop(new);
                self.take_back().await;
                Err(error)
            }
        }
    }

    /// Leaves the store and the queues of events to a process, and waits until it serves.
    async fn hand_over(&mut self, new: &mut NewProcess) -> Result<(), UpgradeError> {
        for listener in &self.listeners {
            listener.set_phase(ListenerPhase::Paused);
        }
        let (notify, notifications) = mpsc::channel(WAITING_NOTIFICATIONS);
        if let Some(recording) = &mut self.recording {
            recording.hand_over(notify).await;
        }
        self.stop_keepers();
        let admin = self.admin.borrow().clone();
        let _ = tokio::task::spawn_blocking(move || admin.write_history()).await;
        let (ask, queries) = mpsc::channel(WAITING_QUERIES);
        let handing = self.state.mirror.hand_over(Successor::new(ask));
        let lock = timeout(HAND_OVER_TIMEOUT, handing).await;
        let late = |_| io::Error::other("the disk does not respond");
        let lock = lock.map_err(late)??;
        new.say(&ToSuccessor::Store, Some(&lock)).await?;
        let (ready, is_ready) = oneshot::channel();
        let relay = Relay {
            socket: new.socket.clone(),
            following: HashMap::new(),
            noticing: HashMap::new(),
            noticed: 0,
            ready: Some(ready),
        };
        // It ends with the other process.
        tokio::spawn(relay.run(queries, notifications));
        match timeout(READY_TIMEOUT, is_ready).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(reason))) => Err(new.failure(Some(reason))),
            Ok(Err(_)) => Err(new.failure(None)),
            Err(_) => Err(UpgradeError::Late),
        }
    }

    /// Leaves the sockets to the process that has taken over.
    async fn leave_listeners(&mut self) {
        for listener in &self.listeners {
            listener.set_phase(ListenerPhase::HandedOver);
        }
        self.draining.send_replace(true);
        self.certificates.leave();
        for listener in std::mem::take(&mut self.admin_listeners) {
            self.admin_connections.push(listener.hand_over().await);
        }
        self.is_handed_over = true;
    }

    /// Goes on after a process has failed to take over.
    async fn take_back(&mut self) {
        self.state.mirror.take_back().await;
        if let Some(recording) = &mut self.recording {
            match recording.prepare(self.config.events_settings()) {
                Ok(prepared) => recording.apply(prepared),
                Err(error) => {
                    let error = telemetry::chain(&error);
                    tracing::error!(error, "webhooks are not served until the next reload");
                }
            }
        }
        self.start_keepers();
        for listener in &self.listeners {
            listener.set_phase(ListenerPhase::Open);
        }
    }
}

/// Carries questions to the process that has taken over, and its answers back.
struct Relay {
    socket: Arc<MessageSocket>,
    following: HashMap<Digest, mpsc::Sender<FillNews>>,
    noticing: HashMap<u64, oneshot::Sender<()>>,
    noticed: u64,
    /// Told whether it serves.
    ready: Option<oneshot::Sender<Result<(), String>>>,
}

impl Relay {
    async fn run(
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

impl AdminPlace {
    /// Names it among the sockets that are handed over.
    pub fn key(&self) -> String {
        format!("{} {:?}", self.scope.key(), self.kind)
    }
}

/// Whether systemd started the process itself, whose id it says (`systemd.exec(5)`), rather than one above it.
fn is_main_process(started_by_systemd: Option<&str>, id: u32) -> bool {
    started_by_systemd.is_some_and(|started| started.parse() == Ok(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_processes_of_systemd_are_known() {
        for (started, expected) in [
            (Some("7"), true),
            (Some("8"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(is_main_process(started, 7), expected, "{started:?}");
        }
    }
}
