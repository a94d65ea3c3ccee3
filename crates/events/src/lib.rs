//! Events of the gateway, and where they are recorded: the audit log.
//!
//! Requests [`emit`](Events::emit) events into a bounded channel and never wait for them; one thread records them. An
//! event that finds the channel full is lost, and counted.

mod audit_log;
mod event;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

pub use event::{Event, EventAction, EventRequest, EventTarget, USER_AGENT};

use audit_log::AuditLog;
use telemetry::{LogThrottle, metrics};

/// How many events may wait to be recorded: a few megabytes.
const WAITING: usize = 4096;
/// How long the end of the process waits for them.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why events cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The audit log cannot be opened.
    #[error("cannot open the audit log {}: {source}", path.display())]
    AuditLog {
        /// Its file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot record events: {0}")]
    Thread(#[source] io::Error),
}

/// Records events. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Events {
    sender: SyncSender<Message>,
}

#[derive(Debug)]
enum Message {
    Event(Box<Event>),
    ReopenAuditLog,
    /// All earlier messages are done.
    Flush(oneshot::Sender<()>),
}

impl Events {
    /// Opens the audit log and starts the thread, which runs as long as a clone exists.
    ///
    /// # Errors
    /// [`OpenError`], with the cause.
    pub fn open(audit_log: PathBuf) -> Result<Self, OpenError> {
        let audit_log = AuditLog::open(&audit_log).map_err(|source| OpenError::AuditLog {
            path: audit_log,
            source,
        })?;
        let (sender, receiver) = sync_channel(WAITING);
        metrics::with_events();
        let thread = std::thread::Builder::new().name("events".to_owned());
        let started = thread.spawn(move || record(&receiver, audit_log));
        started.map_err(OpenError::Thread)?;
        Ok(Self { sender })
    }

    /// Records an event, later.
    pub fn emit(&self, event: Event) {
        static FULL: LogThrottle = LogThrottle::new();

        let sent = self.sender.try_send(Message::Event(Box::new(event)));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sent {
            metrics::event_lost();
            if FULL.now() {
                tracing::error!(
                    "an event is lost: the disk is too slow; logged at most once a minute"
                );
            }
        }
    }

    /// Opens the audit log's file anew, after it was renamed. Waits while events wait.
    pub async fn reopen_audit_log(&self) {
        let sender = self.sender.clone();
        let sent = tokio::task::spawn_blocking(move || sender.send(Message::ReopenAuditLog));
        // Without its thread the process is ending.
        let _ = sent.await;
    }

    /// Waits until all events are recorded, at most a few seconds.
    pub async fn flush(&self) {
        let sender = self.sender.clone();
        let (done, flushed) = oneshot::channel();
        let flushed = async {
            let sent = tokio::task::spawn_blocking(move || sender.send(Message::Flush(done)));
            let _ = sent.await;
            let _ = flushed.await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, flushed).await.is_err() {
            tracing::error!("events are lost: the disk does not respond");
        }
    }
}

/// Records events until the last sender is gone.
fn record(messages: &Receiver<Message>, mut audit_log: AuditLog) {
    static FAILED: LogThrottle = LogThrottle::new();

    for message in messages {
        match message {
            Message::Event(event) => {
                if let Err(error) = audit_log.write(&event) {
                    metrics::event_lost();
                    if FAILED.now() {
                        tracing::error!(%error, "cannot write to the audit log; logged at most once a minute");
                    }
                }
            }
            Message::ReopenAuditLog => match audit_log.reopen() {
                Ok(()) => tracing::info!("reopened the audit log"),
                Err(error) => {
                    tracing::error!(%error, "cannot reopen the audit log; the old file stays in use");
                }
            },
            // The caller may have given up.
            Message::Flush(done) => drop(done.send(())),
        }
    }
}
