//! `/api/v1/events`: live data as server-sent events.
//!
//! Each subscriber has one task, which looks for news four times a second and writes one event at a time: a subscriber
//! that does not read holds one event, and gets a newer state later.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Response};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::error::{Problem, ProblemCode};
use super::query::Parameters;
use super::recent::{FailureLine, Newest, RequestFilter, RequestLine, failure_line};
use super::registries::FillItem;
use super::response::{EVENT_STREAM, streamed};
use super::{Admin, Body};

/// The most subscribers at once.
pub(super) const MAX_SUBSCRIBERS: usize = 16;
/// When a client that was refused may ask again, in seconds.
const RETRY: u64 = 10;
/// The interval between two looks for news, and those between states.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const FILLS_EVERY: Duration = Duration::from_millis(500);
const OVERVIEW_EVERY: Duration = Duration::from_secs(2);
/// The silence after which a comment is sent.
const SILENCE: Duration = Duration::from_secs(15);
/// The most lines of one event, and the most fills.
const MAX_LINES: usize = 100;
const MAX_FILLS: usize = 100;

/// The places of the subscribers.
#[derive(Debug)]
pub(super) struct Subscribers(Arc<Semaphore>);

impl Default for Subscribers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_SUBSCRIBERS)))
    }
}

impl Subscribers {
    /// How many are connected.
    pub fn connected(&self) -> usize {
        MAX_SUBSCRIBERS - self.0.available_permits()
    }

    /// # Errors
    /// 503 when all places are taken.
    fn join(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let full = || {
            format!(
                "{MAX_SUBSCRIBERS} live dashboards are connected; poll /api/v1/overview instead"
            )
        };
        let place = self.0.clone().try_acquire_owned();
        place.map_err(|_| Problem::new(ProblemCode::TooManyListeners, full()).retry_after(RETRY))
    }
}

/// What a subscriber wants.
#[derive(Clone, Debug)]
struct Selection {
    topics: Topics,
    filter: RequestFilter,
    /// The number of the last line that it has.
    after: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of topics, each in it or not"
)]
struct Topics {
    overview: bool,
    fills: bool,
    requests: bool,
    errors: bool,
}

impl Topics {
    /// # Errors
    /// 400 for an unknown topic.
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut topics = Self::default();
        for topic in text.split(',') {
            match topic {
                "overview" => topics.overview = true,
                "fills" => topics.fills = true,
                "requests" => topics.requests = true,
                "errors" => topics.errors = true,
                _ => {
                    let detail = "topics: write overview, fills, requests or errors";
                    return Err(Problem::new(ProblemCode::InvalidParameter, detail));
                }
            }
        }
        Ok(topics)
    }
}

/// The data of an event `fills`.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct FillSnapshot {
    items: Vec<FillItem>,
    total: u64,
}

/// The data of an event `requests`.
#[derive(Debug, Serialize)]
struct RequestBatch {
    /// Oldest first.
    items: Vec<RequestLine>,
    skipped: u64,
}

impl Admin {
    /// Streams events until the client disconnects, the gateway drains, or another configuration is in force: clients then
    /// connect again.
    ///
    /// # Errors
    /// 400 for an unknown topic, 503 when too many are connected.
    pub(super) fn listen(
        self: Arc<Self>,
        parameters: &Parameters,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Problem> {
        let last_id = headers.get("last-event-id");
        let last_id = last_id.and_then(|id| id.to_str().ok()?.parse().ok());
        let selection = Selection {
            topics: Topics::parse(parameters.text("topics").unwrap_or("overview,fills"))?,
            filter: RequestFilter::of(parameters)?,
            after: last_id,
        };
        let place = self.events.join()?;
        let (events, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut subscriber = Subscriber::new(self, selection, events);
            // An error means that the client has disconnected.
            let _ = subscriber.run().await;
            drop(place);
        });
        Ok(streamed(EVENT_STREAM, receiver))
    }
}

/// The task of one subscriber.
struct Subscriber {
    admin: Arc<Admin>,
    selection: Selection,
    events: mpsc::Sender<Bytes>,
    sent_at: Instant,
    overview_at: Option<Instant>,
    fills_at: Option<Instant>,
    fills: Option<FillSnapshot>,
    /// The number of the last line of the access log that was looked at.
    after: u64,
    /// How often each failure had been counted, and the counter of their changes.
    failures: HashSet<(u64, u64)>,
    failure_changes: u64,
}

/// The client has disconnected.
struct Disconnected;

impl Subscriber {
    fn new(admin: Arc<Admin>, selection: Selection, events: mpsc::Sender<Bytes>) -> Self {
        let failures = admin.history.failures();
        // The numbers of an earlier process mean nothing here.
        let last = admin.history.requests.last();
        let selection = Selection {
            after: selection.after.filter(|after| *after <= last),
            ..selection
        };
        Self {
            failures: failures.iter().map(|one| (one.id, one.count)).collect(),
            failure_changes: admin.history.failure_changes(),
            after: selection.after.unwrap_or(0),
            admin,
            selection,
            events,
            sent_at: Instant::now(),
            overview_at: None,
            fills_at: None,
            fills: None,
        }
    }

    async fn run(&mut self) -> Result<(), Disconnected> {
        self.send(Bytes::from_static(b"retry: 5000\n\n")).await?;
        let mut is_first = true;
        while !self.admin.ends_streams() {
            let topics = self.selection.topics;
            if topics.overview && is_due(self.overview_at, OVERVIEW_EVERY) {
                self.overview_at = Some(Instant::now());
                if let Ok(overview) = self.admin.overview().await {
                    self.send(event("overview", None, &overview)).await?;
                }
            }
            if topics.fills && is_due(self.fills_at, FILLS_EVERY) {
                self.send_fills().await?;
            }
            if topics.requests {
                self.send_requests(is_first).await?;
            }
            if topics.errors {
                self.send_errors().await?;
            }
            if self.sent_at.elapsed() >= SILENCE {
                self.send(Bytes::from_static(b":\n\n")).await?;
            }
            is_first = false;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.events.closed() => return Err(Disconnected),
            }
        }
        Ok(())
    }

    /// Sends all fills, if anything changed.
    async fn send_fills(&mut self) -> Result<(), Disconnected> {
        self.fills_at = Some(Instant::now());
        let mut items = self.admin.all_fills();
        let total = items.len() as u64;
        items.truncate(MAX_FILLS);
        let snapshot = FillSnapshot { items, total };
        if self.fills.as_ref() == Some(&snapshot) {
            return Ok(());
        }
        let bytes = event("fills", None, &snapshot);
        self.fills = Some(snapshot);
        self.send(bytes).await
    }

    /// Sends the lines since the last one; at first the latest.
    async fn send_requests(&mut self, is_first: bool) -> Result<(), Disconnected> {
        let filter = &self.selection.filter;
        let newest = self.admin.requests_since(self.after, filter, MAX_LINES);
        let Newest {
            items,
            skipped,
            last,
        } = newest;
        self.after = last;
        if items.is_empty() && skipped == 0 && !is_first {
            return Ok(());
        }
        // What came before the first event was not left out.
        let begins = is_first && self.selection.after.is_none();
        let skipped = if begins { 0 } else { skipped };
        let batch = RequestBatch { items, skipped };
        self.send(event("requests", Some(last), &batch)).await
    }

    /// Sends the failures that are new, or were repeated.
    async fn send_errors(&mut self) -> Result<(), Disconnected> {
        let changes = self.admin.history.failure_changes();
        if changes == self.failure_changes {
            return Ok(());
        }
        self.failure_changes = changes;
        let failures = self.admin.history.failures();
        let known = std::mem::take(&mut self.failures);
        self.failures = failures.iter().map(|one| (one.id, one.count)).collect();
        for failure in &failures {
            if !known.contains(&(failure.id, failure.count)) {
                let line: FailureLine = failure_line(failure);
                self.send(event("errors", None, &line)).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Disconnected> {
        let sent = self.events.send(bytes).await;
        self.sent_at = Instant::now();
        sent.map_err(|_| Disconnected)
    }
}

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= every)
}

/// An event in the format of server-sent events. JSON has no line breaks.
fn event(name: &str, id: Option<u64>, data: &impl Serialize) -> Bytes {
    let json = serde_json::to_string(data).unwrap_or_default();
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    format!("{id}event: {name}\ndata: {json}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_events() {
        let both = Topics {
            overview: true,
            fills: true,
            ..Topics::default()
        };
        assert_eq!(Topics::parse("overview,fills").ok(), Some(both));
        assert!(Topics::parse("overview,secrets").is_err());
        assert!(Topics::parse("").is_err());
        let bytes = event("requests", Some(7), &["a\nb"]);
        assert_eq!(&bytes[..], b"id: 7\nevent: requests\ndata: [\"a\\nb\"]\n\n");
    }

    #[test]
    fn subscribers_are_bounded() {
        let subscribers = Subscribers::default();
        let places: Vec<_> = (0..MAX_SUBSCRIBERS).map(|_| subscribers.join()).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(subscribers.connected(), MAX_SUBSCRIBERS);
        let refused = subscribers.join().expect_err("no place");
        assert_eq!(refused.code, ProblemCode::TooManyListeners);
        drop(places);
        assert_eq!(subscribers.connected(), 0);
    }
}
