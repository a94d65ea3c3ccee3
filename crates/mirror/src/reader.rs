//! Reading a body from any place: first, late, slow and ranged readers share one code path.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::fill::Follower;
use super::fill_reader::{Available, FillReader, PieceOrigin};
use super::pass_through::PassThroughBody;
use super::source::FillSource;
use oci::range::Span;
use store::{Blob, OpenFile, is_cached, read_at};
use upstream::UpstreamError;

/// A write that waits this long makes its receiver a slow one, if it took fewer bytes a second than `SLOW_RATE`. Shorter
/// waits are how a bounded socket buffer works.
const SLOW: Duration = Duration::from_millis(50);
const SLOW_RATE: f64 = 2e6;
/// The smallest piece, in bytes: for a receiver that is slow, or may yet turn out slow.
const MIN_CHUNK: usize = 16 << 10;
/// The largest piece, in bytes.
const MAX_CHUNK: usize = 256 << 10;
/// The bytes that a receiver must take without being slow to get the largest pieces: more than the
/// kernel buffers for one that does not read at all.
const FAST_AFTER: u64 = 8 << 20;
/// What the kernel is asked to send at once, in bytes: other connections of the thread wait so long. A slow receiver
/// takes less of it.
const MAX_PART: u64 = 2 << 20;

/// Why a body failed before its end. The connection must be aborted then.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The fill that it follows ended without the whole blob.
    #[error("the fill failed")]
    Fill(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The upstream's body, which passes through uncached, broke off.
    #[error("the upstream's body ended early")]
    Upstream(#[from] UpstreamError),
    /// A committed file was truncated behind the gateway's back.
    #[error("the file on disk is shorter than it was")]
    Short,
    /// A read failed.
    #[error("the store cannot be read")]
    Disk(#[from] std::io::Error),
    /// The bytes have another digest. Their tail is held back, so no client has the whole body.
    #[error("the upstream sent bytes that do not match the digest")]
    DigestMismatch,
}

/// A body being read. Pieces are small while the receiver is slow, so that a thousand slow receivers
/// cost little memory, and grow while it keeps up.
#[derive(Debug)]
pub struct Reader {
    source: BodySource,
    offset: u64,
    /// One past the last byte to read; unknown while the length of the blob is.
    end: Option<u64>,
    chunk: usize,
    /// Bytes taken since the receiver was last slow.
    taken: u64,
    /// One past the last byte that was found in the page cache lately.
    cached_to: u64,
    spare: BytesMut,
}

/// A part of a stored blob that is in the page cache.
#[derive(Debug)]
pub struct CachedPart {
    /// The blob's file.
    pub file: Arc<OpenFile>,
    /// Where the part begins, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

#[derive(Debug)]
enum BodySource {
    Memory(Bytes),
    Blob(Blob),
    Fill(Box<FillReader>),
    PassThrough(Box<PassThroughBody>),
    /// The requested part is not available: the body fails.
    Unavailable,
}

impl Reader {
    fn new(source: BodySource, offset: u64, end: Option<u64>) -> Self {
        Self {
            source,
            offset,
            end,
            chunk: MIN_CHUNK,
            taken: 0,
            cached_to: 0,
            spare: BytesMut::new(),
        }
    }

    pub(super) fn memory(bytes: Bytes, span: Span) -> Self {
        Self::new(BodySource::Memory(bytes), span.first, Some(span.end))
    }

    pub(super) fn blob(blob: Blob, span: Span) -> Self {
        Self::new(BodySource::Blob(blob), span.first, Some(span.end))
    }

    /// `announced` is the Content-Length sent to the client, if any.
    pub(super) fn fill(
        follower: Follower,
        source: Option<FillSource>,
        announced: Option<u64>,
        first: u64,
        end: Option<u64>,
    ) -> Self {
        let fill_reader = FillReader::new(follower, source, announced);
        Self::new(BodySource::Fill(Box::new(fill_reader)), first, end)
    }

    pub(super) fn pass_through(body: PassThroughBody, first: u64, end: Option<u64>) -> Self {
        Self::new(BodySource::PassThrough(Box::new(body)), first, end)
    }

    /// Continues with another part, at any offset. A reader of a fill stays on the staged file that it
    /// began with. A pass-through body has no other part: reading it fails then.
    pub fn seek(&mut self, span: Span) {
        (self.offset, self.end) = (span.first, Some(span.end));
        self.cached_to = 0;
        match &mut self.source {
            BodySource::Memory(_) | BodySource::Blob(_) => {}
            BodySource::Fill(fill_reader) => fill_reader.seek(),
            BodySource::PassThrough(_) | BodySource::Unavailable => {
                self.source = BodySource::Unavailable;
            }
        }
    }

    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// Why the body failed before its end. Nothing more can be read then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.end.is_some_and(|end| self.offset >= end) {
            return Ok(None);
        }
        let mut from = PieceOrigin::File;
        let piece = match &mut self.source {
            BodySource::Memory(bytes) => {
                let end = self.end.unwrap_or(bytes.len() as u64);
                let at = |position: u64| {
                    usize::try_from(position)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len())
                };
                Some(bytes.slice(at(self.offset)..at(end)))
            }
            BodySource::Blob(blob) => {
                let (file, limit) = (blob.file.clone(), blob.size);
                Some(self.read(&file, limit).await?)
            }
            BodySource::Fill(fill_reader) => {
                // In a box, so that reading a stored blob does not carry its state.
                match Box::pin(fill_reader.available(self.offset, self.end)).await? {
                    Available::File { file, limit } => Some(self.read(&file, limit).await?),
                    Available::Ahead { file, limit } => {
                        from = PieceOrigin::Unverified;
                        Some(self.read(&file, limit).await?)
                    }
                    Available::Bytes(bytes, origin) => {
                        from = origin;
                        Some(bytes)
                    }
                    Available::End => None,
                }
            }
            BodySource::PassThrough(through) => Box::pin(through.next()).await?,
            BodySource::Unavailable => None,
        };
        let Some(piece) = piece else {
            // Only a body without an announced length may end where its bytes do.
            return if self.end.is_none() {
                Ok(None)
            } else {
                Err(ReadError::Short)
            };
        };
        // A side request or pass-through body may supply more than was asked for.
        let wanted = self.end.map_or(u64::MAX, |end| end - self.offset);
        let piece = piece.slice(
            ..piece
                .len()
                .min(usize::try_from(wanted).unwrap_or(usize::MAX)),
        );
        if let BodySource::Fill(fill_reader) = &mut self.source {
            fill_reader.sent(self.offset, &piece, from);
        }
        self.offset += piece.len() as u64;
        Ok(Some(piece))
    }

    /// The next bytes, if they are those of a stored blob and the page cache has them: the kernel may send them itself.
    /// [`Reader::sent`] goes on behind them.
    pub fn cached_part(&mut self) -> Option<CachedPart> {
        let BodySource::Blob(blob) = &self.source else {
            return None;
        };
        let left = self.end.unwrap_or(blob.size).saturating_sub(self.offset);
        if left > 0 && self.offset >= self.cached_to {
            let bytes = left.min(MAX_PART);
            if is_cached(&blob.file, self.offset, bytes) {
                self.cached_to = self.offset + bytes;
            }
        }
        let bytes = left.min(self.cached_to.saturating_sub(self.offset));
        (bytes > 0).then(|| CachedPart {
            file: blob.file.clone(),
            offset: self.offset,
            bytes,
        })
    }

    /// Skips bytes of a [`CachedPart`] that were sent, with how long that waited for the receiver.
    pub fn sent(&mut self, bytes: u64, waited: Duration) {
        self.offset += bytes;
        self.pace(bytes, waited);
    }

    /// Takes a written piece back, with how long the write waited for the receiver.
    pub fn written(&mut self, piece: Bytes, waited: Duration) {
        self.pace(piece.len() as u64, waited);
        if let Ok(buffer) = piece.try_into_mut()
            && buffer.capacity() <= self.chunk
        {
            self.spare = buffer;
        }
    }

    /// Whether the receiver has taken enough without being slow, so that more may be on its way at once.
    pub fn is_quick(&self) -> bool {
        self.taken >= FAST_AFTER
    }

    /// Chooses the size of the next piece.
    fn pace(&mut self, bytes: u64, waited: Duration) {
        if is_slow(bytes, waited) {
            self.taken = 0;
            // The page cache may have lost them meanwhile.
            self.cached_to = 0;
        } else {
            self.taken += bytes;
        }
        self.chunk = if self.is_quick() {
            (self.chunk * 2).min(MAX_CHUNK)
        } else {
            MIN_CHUNK
        };
    }

    /// Reads the file once: at most a chunk, and not beyond `limit`.
    async fn read(&mut self, file: &Arc<OpenFile>, limit: u64) -> Result<Bytes, ReadError> {
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

/// Whether a receiver is slow that took `bytes` bytes while a write waited.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn is_slow(bytes: u64, waited: Duration) -> bool {
    waited >= SLOW && (bytes as f64) < SLOW_RATE * waited.as_secs_f64()
}
