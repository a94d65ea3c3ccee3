//! `/api/v1/events`: live data as server-sent events.
//!
//! Each listener has one task, which looks for news four times a second and writes one event at a time: a listener that
//! does not read holds one event, and gets a newer state later.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::error::{Problem, ProblemCode};
use super::query::Parameters;
use super::recent::{FailureLine, RequestFilter, RequestLine, failure_line};
use super::registries::Fill;
use super::{Admin, Body};

/// The most listeners at once.
pub(super) const LISTENERS: usize = 16;
/// When a client that was refused may ask again, in seconds.
const RETRY: u64 = 10;
/// The interval between two looks for news, and those between states.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const FILLS_EVERY: Duration = Duration::from_millis(500);
const OVERVIEW_EVERY: Duration = Duration::from_secs(2);
/// The silence after which a comment is sent.
const SILENCE: Duration = Duration::from_secs(15);
/// The most lines of one event, and the most fills.
const LINES: usize = 100;
const FILLS: usize = 100;

/// The places of the listeners.
#[derive(Debug)]
pub(super) struct Listeners(Arc<Semaphore>);

impl Default for Listeners {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LISTENERS)))
    }
}

impl Listeners {
    /// How many listen.
    pub fn connected(&self) -> usize {
        LISTENERS - self.0.available_permits()
    }

    /// # Errors
    /// 503 when all places are taken.
    fn join(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let full = || format!("{LISTENERS} listeners are connected; poll /api/v1/overview instead");
        let place = self.0.clone().try_acquire_owned();
        place.map_err(|_| Problem::new(ProblemCode::TooManyListeners, full()).retry_after(RETRY))
    }
}

/// What a listener wants.
#[derive(Clone, Debug)]
struct Subscription {
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
    items: Vec<Fill>,
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
    /// 400 for an unknown topic, 503 when too many listen.
    pub(super) fn listen(
        self: Arc<Self>,
        parameters: &Parameters,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Problem> {
        let last_id = headers.get("last-event-id");
        let last_id = last_id.and_then(|id| id.to_str().ok()?.parse().ok());
        let subscription = Subscription {
            topics: Topics::parse(parameters.text("topics").unwrap_or("overview,fills"))?,
            filter: RequestFilter::of(parameters)?,
            after: last_id,
        };
        let place = self.events.join()?;
        let (events, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut listener = Listener::new(self, subscription, events);
            // An error means that the client has disconnected.
            let _ = listener.run().await;
            drop(place);
        });
        Ok(stream(receiver))
    }
}

/// The task of one listener.
struct Listener {
    admin: Arc<Admin>,
    subscription: Subscription,
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

impl Listener {
    fn new(admin: Arc<Admin>, subscription: Subscription, events: mpsc::Sender<Bytes>) -> Self {
        let failures = admin.history.failures();
        // The numbers of an earlier process mean nothing here.
        let last = admin.history.requests.last();
        let subscription = Subscription {
            after: subscription.after.filter(|after| *after <= last),
            ..subscription
        };
        Self {
            failures: failures.iter().map(|one| (one.id, one.count)).collect(),
            failure_changes: admin.history.failure_changes(),
            after: subscription.after.unwrap_or(0),
            admin,
            subscription,
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
            let topics = self.subscription.topics;
            if topics.overview && is_due(self.overview_at, OVERVIEW_EVERY) {
                self.overview_at = Some(Instant::now());
                let overview = self.admin.overview().await;
                self.send(event("overview", None, &overview)).await?;
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
        items.truncate(FILLS);
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
        let filter = &self.subscription.filter;
        let (mut items, last) = self.admin.requests_since(self.after, filter);
        self.after = last;
        let skipped = items.len().saturating_sub(LINES);
        items.drain(..skipped);
        if items.is_empty() && !is_first {
            return Ok(());
        }
        // What came before the first event was not left out.
        let begins = is_first && self.subscription.after.is_none();
        let skipped = if begins { 0 } else { skipped as u64 };
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

fn stream(events: mpsc::Receiver<Bytes>) -> Response<Body> {
    let frames = futures_util::stream::unfold(events, |mut events| async {
        let event: Bytes = events.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(event)), events))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
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
    fn listeners_are_bounded() {
        let listeners = Listeners::default();
        let places: Vec<_> = (0..LISTENERS).map(|_| listeners.join()).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(listeners.connected(), LISTENERS);
        let refused = listeners.join().expect_err("no place");
        assert_eq!(refused.code, ProblemCode::TooManyListeners);
        drop(places);
        assert_eq!(listeners.connected(), 0);
    }
}
