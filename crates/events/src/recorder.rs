//! Writes each event to the audit log and to the queues of the webhooks that want it, on a thread that may block.

use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;

use super::HandedNotification;
use super::audit_log::AuditLog;
use super::event::Event;
use super::notification::{self, Filter, NotificationAction, Source};
use super::queue::{Queue, Queued};
use oci::name::RepositoryName;
use telemetry::LogThrottle;
use telemetry::alerts::Alert;
use telemetry::metrics;

/// What the recorder is asked to do, in order.
#[derive(Debug)]
pub enum Message {
    Event(Box<Event>),
    Alert(Box<Alert>),
    ReopenAuditLog,
    /// Where events are recorded from here on.
    Reconfigure(Box<Destinations>),
    /// Another process has the queues from here on.
    HandOver(Sender<HandedNotification>),
    /// Queues a notification of another process.
    TakeOver(Box<HandedNotification>),
    /// All earlier messages are done.
    Flush(oneshot::Sender<()>),
}

/// A webhook's queue, and what it gets.
#[derive(Debug)]
pub struct Subscription {
    pub filter: Filter,
    /// The name of the queue.
    pub name: String,
    pub queue: Arc<Queue>,
}

/// Where events are recorded.
#[derive(Debug)]
pub struct Destinations {
    pub audit_log: AuditLogChange,
    pub subscriptions: Vec<Subscription>,
}

/// What becomes of the audit log.
#[derive(Debug)]
pub enum AuditLogChange {
    /// The file stays open.
    Unchanged,
    /// This one takes its place; `None`: there is none any more.
    Replaced(Option<AuditLog>),
}

/// Records messages.
#[derive(Debug)]
pub struct Recorder {
    audit_log: Option<AuditLog>,
    subscriptions: Vec<Subscription>,
    /// The process that has the queues, if this one does not.
    successor: Option<Sender<HandedNotification>>,
    source: Source,
}

impl Recorder {
    /// It records nothing until it is told where.
    pub fn new() -> Self {
        Self {
            audit_log: None,
            subscriptions: Vec::new(),
            successor: None,
            source: Source {
                host: telemetry::host_name(),
                instance: fastrand::u128(..),
            },
        }
    }

    /// Records messages until the last sender is gone.
    ///
    /// # Panics
    /// Within a Tokio runtime.
    pub fn run(mut self, mut messages: Receiver<Message>) {
        while let Some(message) = messages.blocking_recv() {
            match message {
                Message::Event(event) => self.record(&event),
                Message::Alert(alert) => {
                    self.queue(NotificationAction::Alert, None, |id, source| {
                        notification::of_alert(&alert, id, source)
                    });
                }
                Message::ReopenAuditLog => self.reopen_audit_log(),
                Message::Reconfigure(destinations) => {
                    if let AuditLogChange::Replaced(audit_log) = destinations.audit_log {
                        self.audit_log = audit_log;
                    }
                    self.subscriptions = destinations.subscriptions;
                    self.successor = None;
                }
                Message::HandOver(successor) => self.successor = Some(successor),
                Message::TakeOver(notification) => {
                    let HandedNotification { queue, body } = *notification;
                    let mut webhooks = self.subscriptions.iter();
                    if let Some(webhook) = webhooks.find(|webhook| webhook.name == queue) {
                        self.push(webhook, &body);
                    }
                }
                // The caller may have given up.
                Message::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn record(&mut self, event: &Event) {
        if event.action.is_audited() {
            self.audit(event);
        }
        if let Some(action) = NotificationAction::of(event.action) {
            let name = event.target.as_ref().map(|target| &target.name);
            self.queue(action, name, |id, source| {
                notification::of_event(event, action, id, source)
            });
        }
    }

    fn audit(&mut self, event: &Event) {
        static FAILED: LogThrottle = LogThrottle::new();

        let Some(audit_log) = &mut self.audit_log else {
            return;
        };
        if let Err(error) = audit_log.write(event) {
            metrics::event_lost();
            if FAILED.now() {
                tracing::error!(%error, "cannot write to the audit log; logged at most once a minute");
            }
        }
    }

    /// Queues a notification for each webhook that wants it.
    fn queue(
        &self,
        action: NotificationAction,
        name: Option<&RepositoryName>,
        body: impl FnOnce(u128, &Source) -> Vec<u8>,
    ) {
        let wants = |webhook: &&Subscription| webhook.filter.includes(action, name);
        let mut webhooks = self.subscriptions.iter().filter(wants).peekable();
        if webhooks.peek().is_none() {
            return;
        }
        let body = body(fastrand::u128(..), &self.source);
        for webhook in webhooks {
            self.push(webhook, &body);
        }
    }

    /// Queues a notification for a webhook, or sends it to the process that has its queue.
    fn push(&self, webhook: &Subscription, body: &[u8]) {
        let is_queued = match &self.successor {
            Some(successor) => {
                let (queue, body) = (webhook.name.clone(), body.to_vec());
                successor
                    .try_send(HandedNotification { queue, body })
                    .is_ok()
            }
            None => webhook.queue.push(body) != Queued::Dropped,
        };
        if !is_queued {
            webhook.queue.counted.dropped();
        }
    }

    fn reopen_audit_log(&mut self) {
        let Some(audit_log) = &mut self.audit_log else {
            return;
        };
        match audit_log.reopen() {
            Ok(()) => tracing::info!("reopened the audit log"),
            Err(error) => {
                tracing::error!(%error, "cannot reopen the audit log; the old file stays in use");
            }
        }
    }
}
