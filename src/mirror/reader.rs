//! Reading a body, wherever it is: one code for first, late, slow and ranged readers.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::fill::{Fill, FillError, Phase, Progress, TAIL};
use super::source::{Check, Source};
use crate::spec::digest::Digest;
use crate::spec::range::Span;
use crate::store::{Blob, read_at};
use crate::upstream::{BlobBody, UpstreamError};

/// A wait for the receiver that makes it a slow one. Shorter ones are how a bounded socket buffer works.
const SLOW: Duration = Duration::from_millis(50);
/// The smallest piece that is read at once, in bytes: for a slow receiver.
const MIN_CHUNK: usize = 16 << 10;
/// The largest piece for a receiver that may yet turn out slow, in bytes.
const MID_CHUNK: usize = 32 << 10;
/// The largest piece, in bytes.
const MAX_CHUNK: usize = 256 << 10;
/// What a receiver must have taken without being slow to get the largest pieces, in bytes: more than the
/// kernel's buffers swallow for one that does not read at all.
const FAST_AFTER: u64 = 8 << 20;
/// A reader that would wait longer than this for its range asks the upstream beside the fill.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a waiting reader looks whether its patience suffices.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a body ended before its end. The connection must be broken off then.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the fill failed")]
    Fill(#[source] Arc<dyn std::error::Error + Send + Sync>),
    #[error("the upstream's body ended early")]
    Upstream(#[from] UpstreamError),
    #[error("the file on disk is shorter than it was")]
    Short,
    #[error("the store cannot be read")]
    Disk(#[from] std::io::Error),
    #[error("the upstream sent other bytes than it promised")]
    Untrue,
}

/// A body being read. Pieces are small while the receiver is slow, so that a thousand slow receivers
/// cost little memory, and grow while it takes what it gets.
#[derive(Debug)]
pub struct Reader {
    feed: Feed,
    offset: u64,
    /// One past the last byte wanted; unknown while the length of the blob is.
    end: Option<u64>,
    chunk: usize,
    /// Bytes taken since the receiver was last slow.
    taken: u64,
    spare: BytesMut,
}

#[derive(Debug)]
enum Feed {
    Memory(Bytes),
    Blob(Blob),
    Fill(Box<Following>),
    Through(Box<Through>),
    /// The part that is wanted cannot be had: the body breaks off.
    Nothing,
}

/// A fill being followed.
#[derive(Debug)]
struct Following {
    fill: Arc<Fill>,
    source: Source,
    progress: watch::Receiver<Progress>,
    /// The length that the receiver was told.
    announced: Option<u64>,
    taken: Option<Taken>,
    /// Whether the receiver has bytes that did not come from the file.
    beside: bool,
    side: Option<Side>,
    /// Once the fill has failed for want of room.
    through: Option<Box<Through>>,
}

/// The staged file that bytes were taken from. If another one takes its place, none may follow before both
/// were compared as far as the receiver has them.
#[derive(Clone, Debug)]
struct Taken {
    generation: u32,
    file: Arc<File>,
    /// How many bytes it has at least.
    written: u64,
    /// How far the receiver has them.
    sent: u64,
}

/// A request beside a fill, for bytes that it will reach only later.
#[derive(Debug)]
struct Side {
    body: BlobBody,
    _slot: OwnedSemaphorePermit,
}

impl Reader {
    fn new(feed: Feed, offset: u64, end: Option<u64>) -> Self {
        Self {
            feed,
            offset,
            end,
            chunk: MIN_CHUNK,
            taken: 0,
            spare: BytesMut::new(),
        }
    }

    pub(super) fn memory(bytes: Bytes, span: Span) -> Self {
        Self::new(Feed::Memory(bytes), span.first, Some(span.end))
    }

    pub(super) fn blob(blob: Blob, span: Span) -> Self {
        Self::new(Feed::Blob(blob), span.first, Some(span.end))
    }

    /// `announced` is the length of the whole blob that the receiver was told, where it was.
    pub(super) fn fill(
        fill: Arc<Fill>,
        source: Source,
        announced: Option<u64>,
        first: u64,
        end: Option<u64>,
    ) -> Self {
        let following = Following {
            progress: fill.follow(),
            fill,
            source,
            announced,
            taken: None,
            beside: false,
            side: None,
            through: None,
        };
        Self::new(Feed::Fill(Box::new(following)), first, end)
    }

    pub(super) fn through(through: Through, first: u64, end: Option<u64>) -> Self {
        Self::new(Feed::Through(Box::new(through)), first, end)
    }

    /// Goes on with another part, wherever it is. Whoever follows a fill stays on the staged file that it
    /// began with. A body that only passes by has no other part: reading it fails then.
    pub fn turn_to(&mut self, span: Span) {
        (self.offset, self.end) = (span.first, Some(span.end));
        match &mut self.feed {
            Feed::Memory(_) | Feed::Blob(_) => {}
            Feed::Fill(following) => (following.side, following.through) = (None, None),
            Feed::Through(_) | Feed::Nothing => self.feed = Feed::Nothing,
        }
    }

    /// The next piece; `None` when everything wanted was read.
    ///
    /// # Errors
    /// What ended the body before its end. Nothing more can be read then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.end.is_some_and(|end| self.offset >= end) {
            return Ok(None);
        }
        let piece = match &mut self.feed {
            Feed::Memory(bytes) => {
                let end = self.end.unwrap_or(bytes.len() as u64);
                let at = |position: u64| {
                    usize::try_from(position)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len())
                };
                Some(bytes.slice(at(self.offset)..at(end)))
            }
            Feed::Blob(blob) => {
                let (file, limit) = (blob.file.clone(), blob.size);
                Some(self.read(&file, limit).await?)
            }
            Feed::Fill(following) => match following.more(self.offset, self.end).await? {
                More::File { file, limit } => Some(self.read(&file, limit).await?),
                More::Bytes(bytes) => Some(bytes),
                More::End => None,
            },
            Feed::Through(through) => through.next().await?,
            Feed::Nothing => None,
        };
        let Some(piece) = piece else {
            // Only a body without an announced length may end where its bytes do.
            return if self.end.is_none() {
                Ok(None)
            } else {
                Err(ReadError::Short)
            };
        };
        // A side or passed-through body may bring more than was asked for.
        let wanted = self.end.map_or(u64::MAX, |end| end - self.offset);
        let piece = piece.slice(
            ..piece
                .len()
                .min(usize::try_from(wanted).unwrap_or(usize::MAX)),
        );
        self.offset += piece.len() as u64;
        if let Feed::Fill(following) = &mut self.feed {
            following.sent(self.offset);
        }
        Ok(Some(piece))
    }

    /// Gives a written piece back, with how long writing it had to wait for the receiver.
    pub fn written(&mut self, piece: Bytes, waited: Duration) {
        if waited >= SLOW {
            (self.taken, self.chunk) = (0, MIN_CHUNK);
        } else {
            self.taken += piece.len() as u64;
            let most = if self.taken < FAST_AFTER {
                MID_CHUNK
            } else {
                MAX_CHUNK
            };
            self.chunk = (self.chunk * 2).min(most);
        }
        if let Ok(buffer) = piece.try_into_mut()
            && buffer.capacity() <= self.chunk
        {
            self.spare = buffer;
        }
    }

    /// One read of the file, of at most a chunk and not beyond `limit`.
    async fn read(&mut self, file: &Arc<File>, limit: u64) -> Result<Bytes, ReadError> {
        let limit = self.end.map_or(limit, |end| end.min(limit));
        let want = usize::try_from(limit.saturating_sub(self.offset))
            .unwrap_or(usize::MAX)
            .min(self.chunk);
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.resize(want, 0);
        let (mut buffer, read) = read_at(file, buffer, self.offset).await?;
        if read == 0 {
            return Err(ReadError::Short);
        }
        buffer.truncate(read);
        Ok(buffer.freeze())
    }
}

/// What a fill has for a reader.
enum More {
    /// The file holds everything up to `limit`.
    File {
        file: Arc<File>,
        limit: u64,
    },
    /// From a request beside the fill, or from one in its place.
    Bytes(Bytes),
    End,
}

impl Following {
    /// Notes how far the receiver has it.
    fn sent(&mut self, offset: u64) {
        self.beside |= self.side.is_some() || self.through.is_some();
        if let Some(taken) = &mut self.taken {
            taken.sent = taken.sent.max(offset);
        }
    }

    /// Waits until there is something at `offset`.
    async fn more(&mut self, offset: u64, end: Option<u64>) -> Result<More, ReadError> {
        loop {
            if let Some(through) = &mut self.through {
                return Ok(through.next().await?.map_or(More::End, More::Bytes));
            }
            if let Some(bytes) = self.side_bytes(offset).await {
                return Ok(More::Bytes(bytes));
            }
            let wait = match self.look(offset, end)? {
                Look::More(more) => return Ok(more),
                Look::Elsewhere => {
                    self.through = Some(self.pass_through(offset, end).await?);
                    continue;
                }
                Look::Compare(now) => {
                    self.compare(&now).await?;
                    self.taken = Some(now);
                    continue;
                }
                Look::Wait(wait) => wait,
            };
            if wait > PATIENCE && self.start_side(offset, end).await {
                continue;
            }
            let changed = tokio::time::timeout(LOOK_EVERY, self.progress.changed()).await;
            if let Ok(Err(_)) = changed {
                return Err(ReadError::Fill(Arc::new(FillError::Lost)));
            }
        }
    }

    /// What the fill's progress means for this reader.
    fn look(&mut self, offset: u64, end: Option<u64>) -> Result<Look, ReadError> {
        let progress = self.progress.borrow_and_update();
        let limit = progress.readable(end);
        let file = match &progress.phase {
            Phase::Asking => return Ok(Look::Wait(Duration::ZERO)),
            Phase::Failed(FillError::NoRoom { .. }) => return Ok(Look::Elsewhere),
            Phase::Failed(error) => return Err(ReadError::Fill(Arc::new(error.clone()))),
            Phase::Done { file } | Phase::Streaming { file, .. } => file.clone(),
        };
        let total = match progress.phase {
            Phase::Done { .. } => Some(progress.written),
            _ => progress.total,
        };
        let other_length = self.announced.is_some() && total.is_some() && self.announced != total;
        let taken = self.taken.as_ref();
        if other_length {
            return Err(ReadError::Untrue);
        }
        if let Some(taken) = taken.filter(|taken| taken.generation != progress.generation) {
            // The file that was read was given up for this one.
            return if self.beside {
                Err(ReadError::Untrue)
            } else if limit >= taken.sent {
                let now = Taken {
                    generation: progress.generation,
                    file,
                    written: limit,
                    ..taken.clone()
                };
                Ok(Look::Compare(now))
            } else {
                Ok(Look::Wait(Duration::ZERO))
            };
        }
        if limit > offset {
            self.taken = Some(Taken {
                generation: progress.generation,
                file: file.clone(),
                written: taken.map_or(limit, |taken| taken.written.max(limit)),
                sent: taken.map_or(0, |taken| taken.sent),
            });
            return Ok(Look::More(More::File { file, limit }));
        }
        Ok(match progress.phase {
            Phase::Streaming { since, .. } => {
                Look::Wait(wait_for(offset, progress.written, since.elapsed()))
            }
            _ => Look::More(More::End),
        })
    }

    /// Makes sure that what the receiver has stands in another file as well.
    async fn compare(&self, now: &Taken) -> Result<(), ReadError> {
        let Some(taken) = &self.taken else {
            return Ok(());
        };
        let mut at = 0;
        while at < taken.sent {
            let most = usize::try_from(taken.sent - at).unwrap_or(MAX_CHUNK);
            let buffer = || BytesMut::zeroed(most.min(MAX_CHUNK));
            let (then, read) = read_at(&taken.file, buffer(), at).await?;
            let (now, there) = read_at(&now.file, buffer(), at).await?;
            let both = read.min(there);
            if both == 0 || then[..both] != now[..both] {
                return Err(ReadError::Untrue);
            }
            at += both as u64;
        }
        Ok(())
    }

    /// Goes on without the store. What was sent already must be what comes now.
    async fn pass_through(&self, offset: u64, end: Option<u64>) -> Result<Box<Through>, ReadError> {
        let verify = end.is_none() || end == self.announced;
        let (from, stop) = if verify { (0, None) } else { (offset, end) };
        let (source, digest) = (&self.source, self.fill.digest);
        let body = source.body(&digest, from, stop, self.announced).await?;
        let check = verify.then(|| source.check(&digest));
        let mut through = Through::new(body, digest, offset, check, self.announced);
        through.sent.clone_from(&self.taken);
        Ok(Box::new(through))
    }

    /// The next bytes of a side request, if there is one and the rest is not better read from the file.
    async fn side_bytes(&mut self, offset: u64) -> Option<Bytes> {
        let side = self.side.as_mut()?;
        // The tail is only ever read from the verified file.
        let total = self.progress.borrow().total;
        let release = total.map_or(u64::MAX, |total| total - TAIL.min(total));
        if offset < release
            && let Ok(Some(bytes)) = side.body.next().await
        {
            let most = usize::try_from(release - offset).unwrap_or(usize::MAX);
            return Some(bytes.slice(..bytes.len().min(most)));
        }
        self.side = None;
        None
    }

    /// Asks the upstream for the range itself, if one more side request is allowed.
    async fn start_side(&mut self, offset: u64, end: Option<u64>) -> bool {
        let Ok(slot) = self.fill.side_requests.clone().try_acquire_owned() else {
            return false;
        };
        let (digest, total) = (self.fill.digest, self.progress.borrow().total);
        match self.source.body(&digest, offset, end, total).await {
            Ok(body) if body.offset == offset => {
                tracing::debug!(digest = %self.fill.digest, offset, "a side request");
                self.side = Some(Side { body, _slot: slot });
                true
            }
            _ => false,
        }
    }
}

/// What a look at the progress came to.
enum Look {
    More(More),
    /// Another file took the place of the one that was read.
    Compare(Taken),
    /// The fill has failed for want of room.
    Elsewhere,
    /// How long the fill will take to get there.
    Wait(Duration),
}

/// How long a fill will take to reach `offset` at the speed it had so far; nothing is known of its first
/// second.
fn wait_for(offset: u64, written: u64, elapsed: Duration) -> Duration {
    let missing = offset.saturating_sub(written);
    if missing == 0 || elapsed < Duration::from_secs(1) {
        return Duration::ZERO;
    }
    if written == 0 {
        return Duration::MAX;
    }
    let seconds = u128::from(missing) * elapsed.as_millis() / u128::from(written) / 1000;
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))
}

/// A body that goes to one reader without being kept, because the store has no room. Its tail is held
/// back until its digest is known to be right.
#[derive(Debug)]
pub(super) struct Through {
    body: BlobBody,
    digest: Digest,
    /// Absent for a part that does not reach the blob's end: it cannot be verified.
    check: Option<Check>,
    /// The length that the receiver was told, where it was.
    announced: Option<u64>,
    /// Bytes before this are only hashed.
    skip: u64,
    /// What was sent of those already: it must be the same.
    sent: Option<Taken>,
    received: u64,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    started: Instant,
}

impl Through {
    /// `check` needs a body that begins at 0; `announced` is the length of the blob that the receiver was told.
    pub fn new(
        body: BlobBody,
        digest: Digest,
        first: u64,
        check: Option<Check>,
        announced: Option<u64>,
    ) -> Self {
        let (skip, received) = (first, body.offset);
        let held = VecDeque::new();
        Self {
            body,
            digest,
            check,
            announced,
            skip,
            sent: None,
            received,
            held,
            held_bytes: 0,
            started: Instant::now(),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let keep = if self.check.is_some() { TAIL } else { 0 };
            if let Some(first) = self.held.front()
                && self.held_bytes - first.len() as u64 >= keep
            {
                self.held_bytes -= first.len() as u64;
                return Ok(self.held.pop_front());
            }
            let Some(chunk) = self.body.next().await? else {
                let Some(check) = self.check.take() else {
                    return Ok(None);
                };
                let whole = self.body.total.is_none_or(|total| total == self.received);
                if !whole || !check.is_right(&check.hasher.clone().finish()) {
                    crate::metrics::lie(crate::metrics::Liar::Upstream);
                    return Err(ReadError::Untrue);
                }
                let ms = crate::telemetry::ms(self.started);
                tracing::info!(target: "fill", digest = %self.digest, bytes = self.received, ms, "passed through");
                continue;
            };
            if let Some(check) = &mut self.check {
                check.hasher.update(&chunk);
            }
            let known = self
                .skip
                .saturating_sub(self.received)
                .min(chunk.len() as u64);
            let known = usize::try_from(known).unwrap_or(chunk.len());
            self.compare(&chunk[..known]).await?;
            self.received += chunk.len() as u64;
            // What the receiver takes for the end must be held back like one.
            if self.check.is_some() && self.announced.is_some_and(|end| self.received > end) {
                return Err(ReadError::Untrue);
            }
            let wanted = chunk.slice(known..);
            if !wanted.is_empty() {
                self.held_bytes += wanted.len() as u64;
                self.held.push_back(wanted);
            }
        }
    }
}

impl Through {
    /// Compares what the receiver has with what comes now.
    async fn compare(&self, known: &[u8]) -> Result<(), ReadError> {
        let Some(sent) = &self.sent else {
            return Ok(());
        };
        // Who jumps from part to part may skip bytes that the file never had.
        let there = sent.written.saturating_sub(self.received);
        let there = usize::try_from(there).unwrap_or(usize::MAX);
        let known = &known[..known.len().min(there)];
        let mut at = 0;
        while at < known.len() {
            let buffer = BytesMut::zeroed(known.len() - at);
            let (buffer, read) = read_at(&sent.file, buffer, self.received + at as u64).await?;
            if read == 0 || buffer[..read] != known[at..at + read] {
                return Err(ReadError::Untrue);
            }
            at += read;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience() {
        let seconds = Duration::from_secs;
        for (offset, written, elapsed, wait) in [
            (100, 100, seconds(5), Duration::ZERO),
            (1000, 10, Duration::from_millis(500), Duration::ZERO),
            (1000, 100, seconds(10), seconds(90)),
            (1000, 900, seconds(9), seconds(1)),
            (1000, 0, seconds(2), Duration::MAX),
            (u64::MAX, 1, seconds(u64::MAX >> 10), seconds(u64::MAX)),
        ] {
            assert_eq!(
                wait_for(offset, written, elapsed),
                wait,
                "{offset} {written} {elapsed:?}"
            );
        }
    }
}
