//! The further connections of a download. `segments.rs` decides when one is opened, and for which bytes.
//!
//! Each writes its segment of the staged file in a task of its own. The download hashes a segment when the contiguous
//! bytes have reached it, also while it is still received; readers see the contiguous bytes alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::ahead::{AheadAnswer, Extents};
use super::download::Download;
use super::fill::Fills;
use super::segments::{
    MIN_TOTAL, Remainder, RemainderState, SegmentEvent, SegmentPlanner, SegmentStep,
};
use super::source::{FillKey, FillSource};
use super::transfer::Interruption;
use oci::name::Registry;
use store::{CommitError, PartialNote, SegmentRoom, SegmentState, SegmentWriter, StagedBlob};
use telemetry::metrics;
use upstream::{BlobBody, UpstreamError};

/// How often the planner looks at a download.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The further connections of one download.
#[derive(Debug)]
pub(super) struct FillConnections {
    /// `None` where the fill has one connection.
    planner: Option<SegmentPlanner>,
    /// Whether none is opened any more: bytes of several connections did not fit together.
    barred: bool,
    tasks: JoinSet<SegmentOutcome>,
    /// Signals bytes of a segment, or its end.
    moved: Arc<Notify>,
    began: Instant,
    next_look: Instant,
    /// Whether a reader has asked for bytes ahead, so that segments are shown.
    pub has_readers_ahead: bool,
    /// How many were opened.
    pub opened: u32,
}

/// Whether the download's own connection receives bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MainConnection {
    Receiving,
    /// A segment is being followed.
    None,
}

/// How a segment's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentOutcome {
    Whole,
    Dropped {
        moved: bool,
    },
    /// The upstream limits connections.
    Refused,
    /// The upstream has no usable ranges.
    NoRanges,
    /// It sends another version, or the disk is broken.
    Unusable,
}

impl FillConnections {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            planner: None,
            barred: false,
            tasks: JoinSet::new(),
            moved: Arc::default(),
            began: now,
            next_look: now,
            has_readers_ahead: false,
            opened: 0,
        }
    }

    /// Allows further connections to this source, if the blob is large enough.
    pub fn allow(&mut self, fills: &Fills, key: &FillKey, source: &FillSource, total: Option<u64>) {
        if self.barred || self.planner.is_some() || total.is_none_or(|total| total <= MIN_TOTAL) {
            return;
        }
        let limits = &fills.state.connection_limits;
        let limit = limits.of(source.registry(), Instant::now());
        let allowed = source
            .connections_per_fill(key)
            .min(limit.unwrap_or(u32::MAX));
        self.planner = (allowed > 1).then(|| SegmentPlanner::new(allowed));
    }

    /// Closes all connections. Their bytes stay.
    pub fn close(&mut self) {
        self.tasks = JoinSet::new();
        self.planner = None;
    }

    /// Closes all connections, and lets the download open no other.
    pub fn bar(&mut self) {
        self.close();
        self.barred = true;
    }

    /// Waits until the planner looks at the download again.
    pub async fn look(&self) {
        match self.planner {
            Some(_) => tokio::time::sleep_until(self.next_look.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Waits for bytes of a segment.
    async fn moved(&self) {
        // A closed connection signals nothing more.
        let _ = tokio::time::timeout(LOOK_EVERY, self.moved.notified()).await;
    }

    /// Tells the planner how connections ended.
    fn reap(&mut self, fills: &Fills, registry: &Registry, main: MainConnection) {
        while let Some(ended) = self.tasks.try_join_next() {
            let now = self.began.elapsed();
            let event = match ended {
                Ok(SegmentOutcome::Dropped { moved }) => SegmentEvent::Dropped { now, moved },
                Ok(SegmentOutcome::Refused) => {
                    let own = usize::from(main == MainConnection::Receiving);
                    Self::limited(fills, registry, self.tasks.len() + own)
                }
                Ok(SegmentOutcome::NoRanges) => Self::limited(fills, registry, 1),
                Ok(SegmentOutcome::Unusable) => SegmentEvent::Limited { connections: 0 },
                Ok(SegmentOutcome::Whole) | Err(_) => continue,
            };
            self.planner = self.planner.map(|planner| planner.next(event).0);
        }
    }

    /// Remembers that a registry gives a fill no more connections than these.
    fn limited(fills: &Fills, registry: &Registry, connections: usize) -> SegmentEvent<'static> {
        let connections = u32::try_from(connections.max(1)).unwrap_or(u32::MAX);
        tracing::info!(target: "fill", %registry, connections, "the upstream gives a fill no further connection");
        let limits = &fills.state.connection_limits;
        limits.limit(registry, connections, Instant::now());
        SegmentEvent::Limited { connections }
    }

    fn plan(&mut self, staged: &mut StagedBlob, main: MainConnection) -> Option<(u64, u64)> {
        let (planner, remainders) = (self.planner?, remainders(staged, main)?);
        let (planner, step) = planner.next(SegmentEvent::Progress {
            now: self.began.elapsed(),
            received: staged.stored(),
            remainders: &remainders,
        });
        self.planner = Some(planner);
        match step {
            SegmentStep::Wait => None,
            SegmentStep::Open { start, end } => Some((start, end)),
        }
    }
}

impl Download {
    /// Opens another connection where the planner finds it useful, at most ten times a second.
    pub(super) fn open_connections(
        &mut self,
        source: &FillSource,
        staged: &mut StagedBlob,
        main: MainConnection,
    ) {
        let now = Instant::now();
        let connections = &mut self.connections;
        if connections.planner.is_none() || now < connections.next_look {
            return;
        }
        connections.next_look = now + LOOK_EVERY;
        connections.reap(&self.fills, source.registry(), main);
        self.serve_ahead(source, staged, main);
        if let Some((start, end)) = self.connections.plan(staged, main) {
            self.open_connection(source, staged, start, end);
        }
        self.publish_segments(staged);
    }

    /// Opens connections for readers that need bytes long before the contiguous ones reach them.
    fn serve_ahead(&mut self, source: &FillSource, staged: &mut StagedBlob, main: MainConnection) {
        for request in self.fill.ahead.take() {
            self.connections.has_readers_ahead = true;
            let connections = &self.connections;
            let wanted = connections
                .planner
                .zip(remainders(staged, main))
                .and_then(|(planner, parts)| planner.ahead(request.offset, &parts));
            if let Some((start, end)) = wanted {
                self.open_connection(source, staged, start, end);
            }
            self.publish_segments(staged);
            let segments = Extents::new(staged.segments());
            let is_there = segments.readable(request.offset).is_some();
            let answer = if is_there || segments.is_coming(request.offset) {
                AheadAnswer::Coming
            } else {
                AheadAnswer::Refused
            };
            request.answer(answer);
        }
    }

    /// Opens a connection for these bytes.
    fn open_connection(
        &mut self,
        source: &FillSource,
        staged: &mut StagedBlob,
        start: u64,
        end: u64,
    ) {
        let connections = &mut self.connections;
        let writer = match staged.open_segment(start, end) {
            Ok(Some(writer)) => writer,
            Ok(None) => return,
            Err(error) => {
                store::warn_degraded("a partial's note cannot be written", &error);
                return connections.close();
            }
        };
        tracing::debug!(target: "fill", digest = %self.fill.key, start, end, "a further connection");
        connections.opened += 1;
        metrics::segment_opened();
        let request = SegmentRequest {
            source: source.clone(),
            key: self.fill.key,
            start,
            end,
            note: staged.note().clone(),
            moved: connections.moved.clone(),
        };
        connections.tasks.spawn(request.run(writer));
    }

    /// Hashes the segments that the contiguous bytes reach, until they reach bytes that no connection fetches.
    pub(super) async fn follow_segments(
        &mut self,
        source: &FillSource,
        staged: &mut StagedBlob,
    ) -> Result<(), Interruption> {
        loop {
            let absorbed = staged.absorb().map_err(CommitError::from);
            if absorbed.map_err(|error| self.interruption_of(error))? > 0 {
                self.progressed(staged);
                // Other fills share this thread.
                tokio::task::yield_now().await;
            } else {
                let at = staged.written();
                let reached = staged.next_segment().filter(|next| next.start == at);
                if reached.is_none_or(|next| next.state == SegmentState::Closed) {
                    return Ok(());
                }
                self.connections.moved().await;
            }
            self.open_connections(source, staged, MainConnection::None);
            if self.fills.yield_slot(&self.fill) {
                return Err(Interruption::Pause);
            }
        }
    }
}

/// A segment to fetch.
struct SegmentRequest {
    source: FillSource,
    key: FillKey,
    start: u64,
    end: u64,
    note: PartialNote,
    moved: Arc<Notify>,
}

impl SegmentRequest {
    async fn run(self, writer: SegmentWriter) -> SegmentOutcome {
        let outcome = self.fetch(writer).await;
        self.moved.notify_one();
        outcome
    }

    /// Fetches the segment, as far as the writer takes it.
    async fn fetch(&self, mut writer: SegmentWriter) -> SegmentOutcome {
        let mut body = match self.source.segment(&self.key, self.start, self.end).await {
            Ok(body) if body.offset != self.start => return SegmentOutcome::NoRanges,
            Ok(body) if self.contradicts(&body) => return SegmentOutcome::Unusable,
            Ok(body) => body,
            Err(error) => return outcome_of(&error),
        };
        let mut moved = false;
        loop {
            let Ok(Some(bytes)) = body.next().await else {
                return SegmentOutcome::Dropped { moved };
            };
            match writer.write(&bytes) {
                Ok(SegmentRoom::Full) => return SegmentOutcome::Whole,
                Ok(SegmentRoom::Left) => moved |= !bytes.is_empty(),
                Err(_) => return SegmentOutcome::Unusable,
            }
            self.moved.notify_one();
        }
    }

    fn contradicts(&self, body: &BlobBody) -> bool {
        body.total != self.note.total || self.note.contradicts(body.version.as_ref())
    }
}

/// How a connection ended that got no body.
fn outcome_of(error: &UpstreamError) -> SegmentOutcome {
    match error.root() {
        UpstreamError::TooManyRequests { .. }
        | UpstreamError::Status(StatusCode::SERVICE_UNAVAILABLE) => SegmentOutcome::Refused,
        UpstreamError::Protocol(_) => SegmentOutcome::NoRanges,
        _ => SegmentOutcome::Dropped { moved: false },
    }
}

/// The missing bytes of a blob, if its length is known.
fn remainders(staged: &mut StagedBlob, main: MainConnection) -> Option<Vec<Remainder>> {
    let (written, total) = (staged.written(), staged.total()?);
    let (mut remainders, mut at) = (Vec::new(), written);
    let mut add = |start, end, state| {
        if start < end {
            remainders.push(Remainder { start, end, state });
        }
    };
    for segment in staged.segments() {
        add(at, segment.start, gap(at == written, main));
        let state = match segment.state {
            SegmentState::Waiting => RemainderState::Connecting,
            SegmentState::Receiving | SegmentState::Closed => RemainderState::Receiving,
        };
        add(segment.written, segment.end, state);
        at = segment.end;
    }
    add(at, total, gap(at == written, main));
    Some(remainders)
}

/// Whether bytes outside of all segments are fetched: the first ones are, by the download's own connection.
fn gap(first: bool, main: MainConnection) -> RemainderState {
    match main {
        MainConnection::Receiving if first => RemainderState::Receiving,
        MainConnection::Receiving | MainConnection::None => RemainderState::Idle,
    }
}
