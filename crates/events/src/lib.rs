//! Events of the gateway, and where they are recorded: the audit log and webhooks.
//!
//! Requests [`emit`](Events::emit) events into a bounded channel and never wait for them; one thread writes each to the
//! audit log and to the queues of the webhooks that want it. An event that finds the channel full is lost, and counted.
//! Each webhook has a task that sends its queue in order.

mod audit_log;
mod endpoint;
mod event;
mod fields;
mod notification;
mod queue;
mod recorder;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oci::digest::{Algorithm, Digest};
use reqwest::{Client, Url};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::{oneshot, watch};

pub use endpoint::SigningKey;
pub use event::{Event, EventAction, EventRequest, EventTarget, claimed_user, user_agent};
pub use notification::{Filter, NotificationAction};

use audit_log::AuditLog;
use endpoint::Endpoint;
use queue::Queue;
use recorder::{AuditLogChange, Destinations, Message, Recorder, Subscription};
use telemetry::alerts::Alert;
use telemetry::{LogThrottle, metrics};

/// How many events may wait to be recorded: a few megabytes.
const CHANNEL_CAPACITY: usize = 4096;
/// How many of these places are left free by events that anybody can cause ([`EventAction::is_unbounded`]).
const RESERVED: usize = CHANNEL_CAPACITY / 2;
/// How long the end of the process waits for them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// A notification for a webhook whose queue another process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedNotification {
    /// The name of its queue.
    pub queue: String,
    /// As it is sent.
    pub body: Vec<u8>,
}

/// Where events are recorded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file of the audit log; `None`: there is none.
    pub audit_log: Option<PathBuf>,
    /// The webhooks, each with a URL of its own.
    pub webhooks: Vec<WebhookSettings>,
    /// The folder of their queues.
    pub queues: PathBuf,
}

impl Settings {
    /// Whether no events are recorded.
    pub fn is_empty(&self) -> bool {
        self.audit_log.is_none() && self.webhooks.is_empty()
    }
}

/// A webhook.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Where events are posted to.
    pub url: Url,
    /// Signs them.
    pub key: Option<SigningKey>,
    /// Which it gets.
    pub filter: Filter,
}

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
    /// The queue of a webhook cannot be read or created.
    #[error("cannot open the queue of a webhook in {}: {source}", path.display())]
    Queue {
        /// Its folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS for webhooks")]
    Tls(#[source] reqwest::Error),
    /// The thread cannot be started.
    #[error("cannot record events: {0}")]
    Thread(#[source] io::Error),
}

/// Records events. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Events {
    sender: Sender<Message>,
    pulls: Arc<AtomicBool>,
}

/// The recording of events, whose destinations can change.
#[derive(Debug)]
pub struct Recording {
    events: Events,
    audit_log: Option<PathBuf>,
    webhooks: BTreeMap<PathBuf, Webhook>,
    client: Client,
}

/// Changed destinations, opened and not in use yet.
#[derive(Debug)]
pub struct Prepared {
    audit_log: Option<PathBuf>,
    destinations: Destinations,
    webhooks: BTreeMap<PathBuf, Webhook>,
    tasks: Vec<Endpoint>,
    keys: Vec<(watch::Sender<Option<SigningKey>>, Option<SigningKey>)>,
    pulls: bool,
}

/// A webhook in use, or about to be.
#[derive(Clone, Debug)]
struct Webhook {
    key: watch::Sender<Option<SigningKey>>,
    queue: Arc<Queue>,
    /// Its task ends with the last clone.
    _stop: watch::Sender<()>,
}

impl Recording {
    /// Opens the audit log and the queues, and starts the thread, which runs as long as events may come, and the tasks of the
    /// webhooks.
    ///
    /// # Errors
    /// [`OpenError`], with the cause.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        metrics::with_events();
        let client = endpoint::client().map_err(OpenError::Tls)?;
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let mut recording = Self {
            events: Events {
                sender,
                pulls: Arc::default(),
            },
            audit_log: None,
            webhooks: BTreeMap::new(),
            client,
        };
        let prepared = recording.prepare(settings)?;
        let thread = std::thread::Builder::new().name("events".to_owned());
        let started = thread.spawn(move || Recorder::new().run(receiver));
        started.map_err(OpenError::Thread)?;
        recording.apply(prepared);
        Ok(recording)
    }

    /// Where events are emitted.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Opens what other settings need. An audit log and queues that are open already stay open. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`], with the cause; nothing has changed then.
    pub fn prepare(&self, settings: Settings) -> Result<Prepared, OpenError> {
        let audit_log = match settings.audit_log.clone() {
            path if path == self.audit_log => AuditLogChange::Unchanged,
            None => AuditLogChange::Replaced(None),
            Some(path) => {
                let opened = AuditLog::open(&path);
                let opened = opened.map_err(|source| OpenError::AuditLog { path, source })?;
                AuditLogChange::Replaced(Some(opened))
            }
        };
        let mut prepared = Prepared {
            audit_log: settings.audit_log,
            destinations: Destinations {
                audit_log,
                subscriptions: Vec::new(),
            },
            webhooks: BTreeMap::new(),
            tasks: Vec::new(),
            keys: Vec::new(),
            pulls: false,
        };
        for webhook in settings.webhooks {
            // Queues are named after their URLs, which may be secret.
            let digest = Digest::of(Algorithm::Sha256, webhook.url.as_str().as_bytes());
            let path = settings.queues.join(&digest.hex()[..16]);
            self.prepare_webhook(webhook, path, &mut prepared)?;
        }
        warn_of_others(&settings.queues, &prepared.webhooks);
        Ok(prepared)
    }

    fn prepare_webhook(
        &self,
        webhook: WebhookSettings,
        path: PathBuf,
        prepared: &mut Prepared,
    ) -> Result<(), OpenError> {
        let WebhookSettings { url, key, filter } = webhook;
        prepared.pulls |= filter.actions.contains(&NotificationAction::Pull);
        let known = if let Some(known) = self.webhooks.get(&path) {
            prepared.keys.push((known.key.clone(), key));
            known.clone()
        } else {
            let (opened, endpoint) = open_webhook(url, key, self.client.clone(), &path)?;
            prepared.tasks.push(endpoint);
            opened
        };
        prepared.destinations.subscriptions.push(Subscription {
            filter,
            name: queue_name(&path),
            queue: known.queue.clone(),
        });
        prepared.webhooks.insert(path, known);
        Ok(())
    }

    /// Records events there from now on. The events that wait for a webhook which is no longer configured stay on disk.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn apply(&mut self, prepared: Prepared) {
        let Prepared {
            audit_log,
            destinations,
            webhooks,
            tasks,
            keys,
            pulls,
        } = prepared;
        self.audit_log = audit_log;
        self.events.pulls.store(pulls, Ordering::Relaxed);
        for (sender, key) in keys {
            sender.send_replace(key);
        }
        // Dropping the last sender of a webhook ends its task.
        self.webhooks = webhooks;
        for endpoint in tasks {
            tokio::spawn(endpoint.run());
        }
        let sender = self.events.sender.clone();
        let message = Message::Reconfigure(Box::new(destinations));
        match sender.try_send(message) {
            // It waits for its turn behind the events that wait for the disk.
            Err(TrySendError::Full(message)) => {
                tokio::spawn(async move {
                    let _ = sender.send(message).await;
                });
            }
            Ok(()) | Err(TrySendError::Closed(_)) => {}
        }
    }
}

impl Recording {
    /// Leaves the queues of the webhooks to another process, which opens them once this has returned. What they are to get
    /// from now on is sent to `successor`; the audit log is written on. [`Recording::prepare`] with the same settings, and
    /// [`Recording::apply`], take the queues back.
    pub async fn hand_over(&mut self, successor: Sender<HandedNotification>) {
        // Their tasks end. What is being sent may be sent again by the other process.
        self.webhooks.clear();
        let _ = self.events.sender.send(Message::HandOver(successor)).await;
        self.events.flush().await;
    }
}

impl Events {
    /// Queues a notification that the process before this one made.
    pub fn take_over(&self, notification: HandedNotification) {
        self.send(Message::TakeOver(Box::new(notification)), 0);
    }

    /// Whether any webhook wants pulls, which are too many to be emitted for none.
    pub fn wants_pulls(&self) -> bool {
        self.pulls.load(Ordering::Relaxed)
    }

    /// Records an event, later.
    pub fn emit(&self, event: Event) {
        let reserved = if event.action.is_unbounded() {
            RESERVED
        } else {
            0
        };
        self.send(Message::Event(Box::new(event)), reserved);
    }

    /// Records an alert, later.
    pub fn alert(&self, alert: Alert) {
        self.send(Message::Alert(Box::new(alert)), 0);
    }

    /// Reopens the audit log, for log rotation. Waits while the channel is full.
    pub async fn reopen_audit_log(&self) {
        // Without its thread the process is ending.
        let _ = self.sender.send(Message::ReopenAuditLog).await;
    }

    /// Waits until all events are recorded, at most a few seconds.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flushed = async {
            let _ = self.sender.send(Message::Flush(done)).await;
            let _ = flushed.await;
        };
        let in_time = tokio::time::timeout(FLUSH_TIMEOUT, flushed).await;
        if in_time.is_err() {
            tracing::error!("events are lost: the disk does not respond");
        }
    }

    /// Sends a message, unless that left fewer than `reserved` places.
    fn send(&self, message: Message, reserved: usize) {
        static LOST: LogThrottle = LogThrottle::new();

        let sent = if self.sender.capacity() <= reserved {
            Err(TrySendError::Full(message))
        } else {
            self.sender.try_send(message)
        };
        let cause = match sent {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "the disk is too slow",
            Err(TrySendError::Closed(_)) => "the thread that records events has ended",
        };
        metrics::event_lost();
        if LOST.now() {
            tracing::error!("an event is lost: {cause}; logged at most once a minute");
        }
    }
}

/// The name of a queue, by its folder.
fn queue_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Opens the queue of a webhook.
fn open_webhook(
    url: Url,
    key: Option<SigningKey>,
    client: Client,
    path: &Path,
) -> Result<(Webhook, Endpoint), OpenError> {
    let name = url.host_str().unwrap_or_default().to_owned();
    let queue = Queue::open(path, metrics::Webhook::of(&name));
    let queue = Arc::new(queue.map_err(|source| OpenError::Queue {
        path: path.to_owned(),
        source,
    })?);
    let (key, current_key) = watch::channel(key);
    let (stop, stopped) = watch::channel(());
    let endpoint = Endpoint {
        name,
        url,
        key: current_key,
        queue: queue.clone(),
        client,
        stopped,
    };
    let webhook = Webhook {
        key,
        queue,
        _stop: stop,
    };
    Ok((webhook, endpoint))
}

/// Logs that events wait for a webhook that is no longer configured. They stay, in case it returns.
fn warn_of_others(folder: &Path, queues: &BTreeMap<PathBuf, Webhook>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !queues.contains_key(&entry.path()) {
            let path = entry.path();
            let path = path.display();
            tracing::warn!(%path, "events of a webhook that is not configured any more; delete them if they are not needed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn floods_leave_room_for_other_events() {
        let (sender, mut receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let events = Events {
            sender,
            pulls: Arc::default(),
        };
        let emit = |action| {
            events.emit(Event {
                time: SystemTime::UNIX_EPOCH,
                action,
                request: EventRequest::default(),
                target: None,
                detail: None,
            });
        };
        let flood = [
            EventAction::Pull,
            EventAction::LoginFailed,
            EventAction::Denied,
        ];
        for _ in 0..CHANNEL_CAPACITY {
            flood.into_iter().for_each(emit);
        }
        let others = [EventAction::Push, EventAction::Delete, EventAction::Login];
        others.into_iter().for_each(emit);
        let mut waiting = Vec::new();
        while let Ok(Message::Event(event)) = receiver.try_recv() {
            waiting.push(event.action);
        }
        assert_eq!(waiting.len(), RESERVED + others.len());
        assert_eq!(waiting[RESERVED..], others);
    }
}
