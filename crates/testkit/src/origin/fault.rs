//! Faults, and the requests they apply to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// A fault. Byte positions count in the body of the response, whatever range that is,
/// except in [`Fault::WrongByteAt`], which counts in the whole content.
#[derive(Clone, Debug)]
pub enum Fault {
    /// At most this many body bytes per second.
    Throttle(u64),
    /// The head is sent after this delay.
    Delay(Duration),
    /// The head is sent once the latch is released; its content is that at the time of the request.
    Hold(Latch),
    /// The body stops before this byte until the latch is released.
    PauseAt(u64, Latch),
    /// The body stops before this byte for ever, the connection stays open.
    StallAt(u64),
    /// Nothing is sent, and the connection stays open.
    Stall,
    /// The connection is closed before this byte, cleanly: short of an announced length, without a last
    /// chunk, or, with [`Fault::CloseDelimited`], like an end.
    TruncateAt(u64),
    /// The connection is reset (RST) before this byte.
    ResetAt(u64),
    /// The connection is reset without a response.
    Reset,
    /// The connection is closed without a response.
    Hangup,
    /// This many more bytes than the content has, and the announced length says so.
    Overlong(u64),
    /// This many more bytes on the wire than the announced length.
    Trailing(u64),
    /// The byte at this position of the content is changed.
    WrongByteAt(u64),
    /// Other content under the same digest; only the length in the headers fits it.
    Body(Vec<u8>),
    /// This status, with the specification's JSON and these headers.
    Status(u16, Vec<(String, String)>),
    /// A redirect with this status to this URL; `{path}` in it becomes the path asked for.
    Redirect(u16, String),
    /// No `Docker-Content-Digest` and no `ETag`.
    NoDigestHeader,
    /// Another `Docker-Content-Digest`.
    DigestHeader(String),
    /// `Transfer-Encoding: chunked` instead of a length.
    Chunked,
    /// Neither length nor chunks: the end of the connection ends the body.
    CloseDelimited,
    /// 200 and everything, whatever range was asked.
    IgnoreRange,
    /// A 206 whose `Content-Range` says this.
    ContentRange(String),
    /// The body compressed, with `Content-Encoding: gzip`, whether or not that was accepted.
    Gzip,
    /// One more header, in place of one of the same name.
    Header(String, String),
    /// `Connection: close` after the answer.
    Close,
}

impl Fault {
    /// This fault for a method and path only (patterns, `*` is any characters).
    pub fn on(self, method: &str, path: &str) -> Rule {
        Rule {
            method: method.to_owned(),
            path: path.to_owned(),
            ..Rule::from(self)
        }
    }

    /// A status without further headers.
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new())
    }

    /// A status with one header, as in `status_with(429, "Retry-After", "2")`.
    pub fn status_with(status: u16, name: &str, value: &str) -> Self {
        Self::Status(status, vec![(name.to_owned(), value.to_owned())])
    }

    /// One more header, in place of one of the same name.
    pub fn header(name: &str, value: &str) -> Self {
        Self::Header(name.to_owned(), value.to_owned())
    }
}

/// A fault, whom it befalls and how often.
#[derive(Clone, Debug)]
pub struct Rule {
    method: String,
    path: String,
    skip: usize,
    times: usize,
    header: Option<String>,
    fault: Fault,
}

impl Rule {
    /// Only the first `n` requests that match.
    pub fn times(mut self, n: usize) -> Self {
        self.times = n;
        self
    }

    /// Not the first `n` requests that match.
    pub fn after(mut self, n: usize) -> Self {
        self.skip = n;
        self
    }

    /// Only requests with this header present, as in `Authorization`.
    pub fn with_header(mut self, name: &str) -> Self {
        self.header = Some(name.to_ascii_lowercase());
        self
    }
}

impl From<Fault> for Rule {
    fn from(fault: Fault) -> Self {
        Self {
            method: "*".to_owned(),
            path: "*".to_owned(),
            skip: 0,
            times: usize::MAX,
            header: None,
            fault,
        }
    }
}

/// Names a fault that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(usize);

/// The faults in force, oldest first.
#[derive(Default)]
pub struct Rules {
    rules: Vec<Counted>,
    added: usize,
}

struct Counted {
    id: RuleId,
    rule: Rule,
    seen: usize,
    applied: usize,
}

impl Rules {
    pub fn add(&mut self, rule: Rule) -> RuleId {
        let id = RuleId(self.added);
        self.added += 1;
        self.rules.push(Counted {
            id,
            rule,
            seen: 0,
            applied: 0,
        });
        id
    }

    pub fn remove(&mut self, id: RuleId) {
        self.rules.retain(|counted| counted.id != id);
    }

    pub fn applied(&self, id: RuleId) -> usize {
        let found = self.rules.iter().find(|counted| counted.id == id);
        found.map_or(0, |counted| counted.applied)
    }

    /// What befalls this request; counts it.
    pub fn apply(&mut self, request: &super::Recorded) -> Plan {
        let mut plan = Vec::new();
        for counted in &mut self.rules {
            let Rule {
                method,
                path,
                skip,
                times,
                header,
                fault,
            } = &counted.rule;
            let wanted = header.as_deref();
            if !request.matches(method, path)
                || wanted.is_some_and(|name| request.header(name).is_none())
            {
                continue;
            }
            counted.seen += 1;
            if counted.seen > *skip && counted.applied < *times {
                counted.applied += 1;
                plan.push(fault.clone());
            }
        }
        plan.reverse();
        Plan(plan)
    }
}

/// The faults of one request, newest first.
pub struct Plan(Vec<Fault>);

impl Plan {
    /// The newest fault that `pick` takes.
    pub fn find<'a, T>(&'a self, pick: impl FnMut(&'a Fault) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(pick)
    }

    /// Every fault that `pick` takes.
    pub fn all<'a, T>(
        &'a self,
        pick: impl FnMut(&'a Fault) -> Option<T>,
    ) -> impl Iterator<Item = T> {
        self.0.iter().filter_map(pick)
    }

    pub fn has(&self, is: impl FnMut(&Fault) -> bool) -> bool {
        self.0.iter().any(is)
    }
}

/// What a test holds to keep answers waiting.
#[derive(Clone)]
pub struct Latch {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

impl std::fmt::Debug for Latch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Latch(open: {})", *self.open.borrow())
    }
}

impl Default for Latch {
    fn default() -> Self {
        Self::new()
    }
}

impl Latch {
    /// A closed latch that no request waits for.
    pub fn new() -> Self {
        Self {
            open: Arc::new(watch::Sender::new(false)),
            waiting: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Releases all held responses, and later ones.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `n` answers have been held here.
    #[track_caller]
    pub fn wait_reached(&self, n: usize) {
        crate::until(&format!("{n} responses at the latch"), || {
            *self.waiting.borrow() >= n
        });
    }

    /// Holds one response.
    pub(super) async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}
