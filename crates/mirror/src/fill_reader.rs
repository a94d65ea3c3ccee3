//! Reading a fill: from the staged file as far as it may be read, by a side request where that would take too long, and
//! by a pass-through body where the store has no room.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::ahead::{AheadAnswer, time_to_reach};
use super::fill::{Fill, Follower};
use super::pass_through::PassThroughBody;
use super::progress::{FillError, Phase, Progress};
use super::reader::ReadError;
use super::sent_ahead::SentAhead;
use super::source::FillSource;
use super::waiting::WaitingPlace;
use store::{OpenFile, same};
use upstream::BlobBody;

/// A reader that would wait longer than this for its range sends a side request.
const SIDE_REQUEST_AFTER: Duration = Duration::from_secs(20);
/// How often a waiting reader checks whether the fill will reach it in time.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The most side requests for one part: requests without bytes must end.
const SIDE_REQUESTS: u32 = 4;

/// A reader of a fill.
#[derive(Debug)]
pub(super) struct FillReader {
    fill: Arc<Fill>,
    /// Asked for bytes that the fill does not have; without one the reader waits, or fails.
    source: Option<FillSource>,
    progress: watch::Receiver<Progress>,
    /// The length announced to the receiver.
    announced: Option<u64>,
    sent_prefix: Option<SentPrefix>,
    /// Bytes sent to the receiver that did not come from the file.
    sent_ahead: SentAhead,
    side_request: Option<SideRequest>,
    /// The side requests still allowed for this part.
    side_requests_left: u32,
    /// Present once the fill has failed for lack of room.
    pass_through: Option<Box<PassThroughBody>>,
    /// Its client waits for the fill as long as it is read.
    _place: Option<WaitingPlace>,
}

/// The staged file that bytes were sent from. If another one replaces it, no more are sent before both
/// were compared as far as the receiver has them.
#[derive(Clone, Debug)]
pub(super) struct SentPrefix {
    generation: u32,
    pub file: Arc<OpenFile>,
    /// The least number of bytes in it.
    pub written: u64,
    /// How far the receiver has them.
    sent: u64,
}

/// A request of one reader to the upstream, for bytes that the fill will reach only later.
#[derive(Debug)]
struct SideRequest {
    body: BlobBody,
    _slot: OwnedSemaphorePermit,
}

/// The origin of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceOrigin {
    File,
    /// A side request, or part of a body that cannot be verified.
    Unverified,
    /// A pass-through body that is verified before it ends.
    Verified,
}

/// The bytes that a reader can have next.
pub(super) enum Available {
    /// The file holds everything up to `limit`.
    File {
        file: Arc<OpenFile>,
        limit: u64,
    },
    /// The file holds the bytes up to `limit`, though not all before them.
    Ahead {
        file: Arc<OpenFile>,
        limit: u64,
    },
    /// From a side request or a pass-through body.
    Bytes(Bytes, PieceOrigin),
    End,
}

impl FillReader {
    /// `announced` is the Content-Length sent to the client, if any.
    pub fn new(follower: Follower, source: Option<FillSource>, announced: Option<u64>) -> Self {
        let Follower {
            fill,
            progress,
            place,
        } = follower;
        Self {
            _place: place,
            fill,
            source,
            progress,
            announced,
            sent_prefix: None,
            sent_ahead: SentAhead::default(),
            side_request: None,
            side_requests_left: SIDE_REQUESTS,
            pass_through: None,
        }
    }

    /// Prepares to read another part.
    pub fn seek(&mut self) {
        (self.side_request, self.pass_through) = (None, None);
        self.side_requests_left = SIDE_REQUESTS;
    }

    /// Records a piece that was sent to the receiver.
    pub fn sent(&mut self, offset: u64, piece: &[u8], from: PieceOrigin) {
        match from {
            PieceOrigin::File => {
                if let Some(prefix) = &mut self.sent_prefix {
                    prefix.sent = prefix.sent.max(offset + piece.len() as u64);
                }
            }
            PieceOrigin::Unverified => self.sent_ahead.record(offset, piece),
            PieceOrigin::Verified => {}
        }
    }

    /// Waits until bytes at `offset` are available.
    pub async fn available(
        &mut self,
        offset: u64,
        end: Option<u64>,
    ) -> Result<Available, ReadError> {
        loop {
            if let Some(body) = &mut self.pass_through {
                let from = if body.is_verified() {
                    PieceOrigin::Verified
                } else {
                    PieceOrigin::Unverified
                };
                let next = body.next().await?;
                return Ok(next.map_or(Available::End, |bytes| Available::Bytes(bytes, from)));
            }
            if let Some(bytes) = self.next_of_side_request(offset, end).await {
                return Ok(Available::Bytes(bytes, PieceOrigin::Unverified));
            }
            let wait = match self.next_step(offset, end)? {
                ReadStep::Verified(more, file) => {
                    self.verify(file).await?;
                    return Ok(more);
                }
                ReadStep::Read(more) => return Ok(more),
                ReadStep::PassThrough => {
                    self.pass_through = Some(self.pass_through(offset, end).await?);
                    continue;
                }
                ReadStep::Compare(now) => {
                    self.compare(&now).await?;
                    self.sent_prefix = Some(now);
                    continue;
                }
                ReadStep::Wait(wait) => wait,
            };
            if wait > SIDE_REQUEST_AFTER
                && offset < self.release(end)
                && self.side_requests_left > 0
                && (self.ask_ahead(offset).await || self.start_side_request(offset, end).await)
            {
                continue;
            }
            let changed = tokio::time::timeout(CHECK_EVERY, self.progress.changed()).await;
            if let Ok(Err(_)) = changed {
                return Err(ReadError::Fill(Arc::new(FillError::Lost)));
            }
        }
    }

    /// Decides by the fill's progress what this reader does next.
    fn next_step(&mut self, offset: u64, end: Option<u64>) -> Result<ReadStep, ReadError> {
        let progress = self.progress.borrow_and_update();
        let limit = progress.readable(end);
        let file = match &progress.phase {
            Phase::Waiting => return Ok(ReadStep::Wait(Duration::ZERO)),
            Phase::Failed(FillError::NoRoom { .. }) => return Ok(ReadStep::PassThrough),
            Phase::Failed(error) => return Err(ReadError::Fill(Arc::new(error.clone()))),
            Phase::Done { file } | Phase::Streaming { file, .. } => file.clone(),
        };
        let total = match progress.phase {
            Phase::Done { .. } => Some(progress.written),
            _ => progress.total,
        };
        let other_length = self.announced.is_some() && total.is_some() && self.announced != total;
        let prefix = self.sent_prefix.as_ref();
        if other_length {
            return Err(ReadError::DigestMismatch);
        }
        if let Some(prefix) = prefix.filter(|prefix| prefix.generation != progress.generation) {
            // The file that was read was discarded for this one.
            return if limit >= prefix.sent {
                let now = SentPrefix {
                    generation: progress.generation,
                    file,
                    written: limit,
                    ..prefix.clone()
                };
                Ok(ReadStep::Compare(now))
            } else {
                Ok(ReadStep::Wait(Duration::ZERO))
            };
        }
        if limit > offset {
            self.sent_prefix = Some(SentPrefix {
                generation: progress.generation,
                file: file.clone(),
                written: prefix.map_or(limit, |prefix| prefix.written.max(limit)),
                sent: prefix.map_or(0, |prefix| prefix.sent),
            });
            let more = Available::File {
                file: file.clone(),
                limit,
            };
            return Ok(match progress.phase {
                Phase::Done { .. } => ReadStep::Verified(more, file),
                _ => ReadStep::Read(more),
            });
        }
        if let Some(step) = progress.step_ahead(offset, end, self.announced) {
            return Ok(step);
        }
        Ok(match progress.phase {
            Phase::Streaming { since, resumed, .. } => {
                let arrived = progress.written.saturating_sub(resumed);
                let missing = offset.saturating_sub(progress.written);
                ReadStep::Wait(time_to_reach(missing, arrived, since.elapsed()))
            }
            Phase::Done { .. } => ReadStep::Verified(Available::End, file),
            _ => ReadStep::Read(Available::End),
        })
    }

    /// Checks that the verified file has the bytes that were sent ahead, before any more are sent.
    async fn verify(&mut self, file: Arc<OpenFile>) -> Result<(), ReadError> {
        if self.sent_ahead.is_empty() {
            return Ok(());
        }
        let sent_ahead = std::mem::take(&mut self.sent_ahead);
        let stands = blocking(move || sent_ahead.matches_file(&file)).await?;
        if !stands {
            telemetry::metrics::wrong_bytes(telemetry::metrics::CorruptSource::Upstream);
            return Err(ReadError::DigestMismatch);
        }
        Ok(())
    }

    /// Checks that another file begins with the bytes that were sent.
    async fn compare(&self, now: &SentPrefix) -> Result<(), ReadError> {
        let Some(taken) = &self.sent_prefix else {
            return Ok(());
        };
        let (then, now, sent) = (taken.file.clone(), now.file.clone(), taken.sent);
        if blocking(move || same(&then, &now, sent)).await? {
            Ok(())
        } else {
            Err(ReadError::DigestMismatch)
        }
    }

    /// Continues without the store. The new body must begin with the bytes that were sent.
    async fn pass_through(
        &self,
        offset: u64,
        end: Option<u64>,
    ) -> Result<Box<PassThroughBody>, ReadError> {
        let verify = end.is_none() || end == self.announced;
        let (from, stop) = if verify { (0, None) } else { (offset, end) };
        let no_room = FillError::NoRoom {
            total: self.announced,
        };
        let source = self.source.as_ref();
        let source = source.ok_or_else(|| ReadError::Fill(Arc::new(no_room)))?;
        let key = self.fill.key;
        let body = source.body(&key, from, stop, self.announced).await?;
        let check = verify.then(|| source.check(&key));
        let through = PassThroughBody::new(body, key, offset, check, self.announced);
        Ok(Box::new(
            through.with_sent(self.sent_prefix.clone(), &self.sent_ahead),
        ))
    }

    /// The offset up to which unverified bytes may be sent.
    fn release(&self, end: Option<u64>) -> u64 {
        self.progress.borrow().release(end, self.announced)
    }

    /// The next bytes of the side request, if there is one and it has not reached the tail.
    async fn next_of_side_request(&mut self, offset: u64, end: Option<u64>) -> Option<Bytes> {
        let release = self.release(end);
        let side_request = self.side_request.as_mut()?;
        if offset < release
            && let Ok(Some(bytes)) = side_request.body.next().await
        {
            let most = usize::try_from(release - offset).unwrap_or(usize::MAX);
            return Some(bytes.slice(..bytes.len().min(most)));
        }
        self.side_request = None;
        None
    }

    /// Asks the download for the bytes from `offset` on, if it may have further connections. They are stored, those of a
    /// side request are not. Whether the progress shows what follows.
    async fn ask_ahead(&self, offset: u64) -> bool {
        let is_possible = self.progress.borrow().segments.is_some();
        is_possible && self.fill.ahead.ask(offset).await != AheadAnswer::Refused
    }

    /// Sends a side request for the range, if one more is allowed.
    async fn start_side_request(&mut self, offset: u64, end: Option<u64>) -> bool {
        let slot = self.fill.side_requests.clone().try_acquire_owned();
        let (Ok(slot), Some(source)) = (slot, &self.source) else {
            return false;
        };
        self.side_requests_left -= 1;
        let (key, total) = (self.fill.key, self.progress.borrow().total);
        let total = total.or(self.announced);
        match source.body(&key, offset, end, total).await {
            Ok(body) if body.offset == offset && body.total == total => {
                tracing::debug!(digest = %self.fill.key, offset, "a side request");
                self.side_request = Some(SideRequest { body, _slot: slot });
                true
            }
            _ => false,
        }
    }
}

/// What a reader does next.
enum ReadStep {
    Read(Available),
    /// Reads from this verified file.
    Verified(Available, Arc<OpenFile>),
    /// Compares the file that replaced the one that was read.
    Compare(SentPrefix),
    /// Continues without the store: the fill failed for lack of room.
    PassThrough,
    /// Waits: the time in which the fill should reach the offset.
    Wait(Duration),
}

impl Progress {
    /// What a reader does that has reached no contiguous bytes, if further connections fetch those that it needs.
    fn step_ahead(
        &self,
        offset: u64,
        end: Option<u64>,
        announced: Option<u64>,
    ) -> Option<ReadStep> {
        let (Phase::Streaming { file, .. }, Some(segments)) = (&self.phase, &self.segments) else {
            return None;
        };
        if segments.is_coming(offset) {
            return Some(ReadStep::Wait(Duration::ZERO));
        }
        let limit = segments.readable(offset)?.min(self.release(end, announced));
        let file = file.clone();
        (limit > offset).then_some(ReadStep::Read(Available::Ahead { file, limit }))
    }
}

/// Runs work that blocks on the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other)?
}
