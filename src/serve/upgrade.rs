//! Upgrades: this process starts the program anew, hands everything over to it and ends its own requests.
//!
//! Until the new process accepts connections, any failure leaves this one as it was.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::handover::{TAKES_OVER, ToPredecessor, ToSuccessor, receive, send};
use super::listeners::AdminPlace;
use super::relay::Relay;
use super::running::Running;
use gateway::ListenerPhase;
use mirror::Successor;
use runtime::listen::FileOwner;
use runtime::message_socket::MessageSocket;

/// How long the new process may take to prepare everything but the store, and then to open it.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long downloads may take to leave their partials.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a process that says why it fails may take to end, and how often is looked whether it has.
const ENDING_TIMEOUT: Duration = Duration::from_secs(5);
const ENDING_INTERVAL: Duration = Duration::from_millis(20);
/// How many questions about fills, and how many notifications, may wait.
const WAITING_QUERIES: usize = 256;
const WAITING_NOTIFICATIONS: usize = 4096;

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
    /// A signal to stop has come.
    #[error("the gateway is ending")]
    Ending,
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
        match timeout(PREPARE_TIMEOUT, self.prepared()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(self.failure(reason).await),
            Err(_) => Err(UpgradeError::Late),
        }
    }

    /// Waits until it has prepared all but the store; else why it has not, if it says so.
    async fn prepared(&self) -> Result<(), Option<String>> {
        loop {
            match receive(&self.socket).await {
                Ok(Some((ToPredecessor::Prepared, _))) => return Ok(()),
                Ok(Some((ToPredecessor::Failed { reason }, _))) => return Err(Some(reason)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Err(None),
            }
        }
    }

    async fn say(
        &mut self,
        message: &ToSuccessor,
        socket: Option<&OwnedFd>,
    ) -> Result<(), UpgradeError> {
        let sent = send(&self.socket, message, socket.map(OwnedFd::as_fd)).await;
        if sent.is_ok() {
            return Ok(());
        }
        // It has ended, and may have said why.
        let said = timeout(ENDING_TIMEOUT, self.prepared()).await;
        let reason = said.ok().and_then(Result::err).flatten();
        Err(self.failure(reason).await)
    }

    /// Why the process failed: what it said, or how it ended. It has ended when this returns: what it had of the store is free.
    async fn failure(&mut self, reason: Option<String>) -> UpgradeError {
        let deadline = Instant::now() + ENDING_TIMEOUT;
        let ended = loop {
            let Some(child) = &mut self.child else {
                return UpgradeError::Late;
            };
            // One that says why it ends may log that too. Any other has closed its end of the socket, or talks nonsense.
            if reason.is_none() || Instant::now() >= deadline {
                let _ = child.kill();
                break child.wait();
            }
            match child.try_wait() {
                Ok(None) => tokio::time::sleep(ENDING_INTERVAL).await,
                Ok(Some(status)) => break Ok(status),
                Err(error) => break Err(error),
            }
        };
        self.child = None;
        match (reason, ended) {
            (Some(reason), _) => UpgradeError::Refused(reason),
            (None, ended) => ended.map_or_else(Into::into, UpgradeError::Ended),
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
    /// Starts the program anew and hands over to it, unless `end` comes first. Returns its process id once it accepts
    /// connections; this process is to drain then.
    ///
    /// # Errors
    /// [`UpgradeError`]; this process goes on as before.
    pub async fn upgrade(&mut self, end: impl Future<Output = ()>) -> Result<u32, UpgradeError> {
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
        let mut end = pin!(end);
        tokio::select! {
            prepared = new.prepare(self) => prepared?,
            () = &mut end => return Err(UpgradeError::Ending),
        }
        let handed_over = tokio::select! {
            biased;
            handed_over = self.hand_over(&mut new) => handed_over,
            () = &mut end => Err(UpgradeError::Ending),
        };
        match handed_over {
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
        let relay = Relay::new(new.socket.clone(), ready);
        // It ends with the other process.
        tokio::spawn(relay.run(queries, notifications));
        match timeout(READY_TIMEOUT, is_ready).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(reason))) => Err(new.failure(Some(reason)).await),
            Ok(Err(_)) => Err(new.failure(None).await),
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
