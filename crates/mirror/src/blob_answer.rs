//! The answer to a GET of a blob: stored content, a fill, or a pass-through.

use std::sync::Arc;

use bytes::BytesMut;

use super::MirrorError;
use super::contents::StoredBlob;
use super::error::ResourceKind;
use super::fill::Follower;
use super::pass_through::PassThroughBody;
use super::progress::{Phase, Progress};
use super::reader::Reader;
use super::source::{FillKey, FillSource};
use oci::cache_status::CacheStatus;
use oci::range::Span;

/// The answer to a GET of a blob.
#[derive(Debug)]
pub struct BlobAnswer {
    /// In bytes; unknown while the upstream sends the blob without a length.
    pub size: Option<u64>,
    /// How the cache handled the request (RFC 9211).
    pub cache: CacheStatus,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Stored(StoredBlob),
    Fill(Follower, FillSource),
    /// A fill, for a reader that asks no source.
    Followed(Follower),
    /// The store has no room.
    PassThrough(FillSource, FillKey),
}

/// Where a blob's bytes are.
pub(super) enum BlobLocation {
    Store,
    /// They are being fetched by this fill.
    Fill(Follower),
    /// They cannot be stored.
    PassThrough,
}

impl BlobAnswer {
    /// An answer with stored content.
    pub fn stored(blob: StoredBlob, cache: CacheStatus) -> Self {
        Self {
            size: Some(blob.size()),
            cache,
            content: Content::Stored(blob),
        }
    }

    pub(super) fn location(self) -> BlobLocation {
        match self.content {
            Content::Stored(_) => BlobLocation::Store,
            Content::Fill(follower, _) | Content::Followed(follower) => {
                BlobLocation::Fill(follower)
            }
            Content::PassThrough(..) => BlobLocation::PassThrough,
        }
    }

    /// Whether one reader can read several parts ([`Reader::seek`]). Without room in the store, each part would
    /// need a request of its own.
    pub const fn is_seekable(&self) -> bool {
        match self.content {
            Content::Stored(_) | Content::Fill(..) | Content::Followed(_) => true,
            Content::PassThrough(..) => false,
        }
    }

    /// Waits until the length is known, for a client that needs it to delimit the body.
    pub async fn settled(mut self) -> Self {
        let Content::Fill(follower, _) = &mut self.content else {
            return self;
        };
        let over = |progress: &Progress| {
            !matches!(progress.phase, Phase::Waiting | Phase::Streaming { .. })
        };
        if self.size.is_none()
            && let Ok(progress) = follower.progress.wait_for(over).await
            && matches!(progress.phase, Phase::Done { .. })
        {
            self.size = Some(progress.written);
        }
        self
    }

    /// The whole body, of at most `most` bytes; `None` if it is longer.
    ///
    /// # Errors
    /// As [`BlobAnswer::open`]; [`MirrorError::Internal`] for a body that broke off.
    pub async fn whole(self, most: u64) -> Result<Option<BytesMut>, MirrorError> {
        if self.size.is_some_and(|size| size > most) {
            return Ok(None);
        }
        let mut reader = self.open(None).await?;
        let mut bytes = BytesMut::new();
        loop {
            match reader.next().await {
                Ok(Some(piece)) if (bytes.len() + piece.len()) as u64 > most => return Ok(None),
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => return Ok(Some(bytes)),
                Err(error) => {
                    tracing::warn!(error = telemetry::chain(&error), "a small blob broke off");
                    return Err(MirrorError::Internal);
                }
            }
        }
    }

    /// Opens the body, whole or in part. A part needs a known size.
    ///
    /// # Errors
    /// The upstream's refusal of a pass-through, or why it could not be asked.
    pub async fn open(self, span: Option<Span>) -> Result<Reader, MirrorError> {
        let whole = Span {
            first: 0,
            end: self.size.unwrap_or(0),
        };
        let part = span.unwrap_or(whole);
        let end = span.map(|span| span.end).or(self.size);
        Ok(match self.content {
            Content::Stored(StoredBlob::Memory(bytes)) => Reader::memory(bytes, part),
            Content::Stored(StoredBlob::File(blob)) => Reader::blob(blob, part),
            Content::Fill(follower, source) => {
                Reader::fill(follower, Some(source), self.size, part.first, end)
            }
            Content::Followed(follower) => Reader::fill(follower, None, self.size, part.first, end),
            Content::PassThrough(source, key) => {
                // Only a body that is read from its first to its last byte can be verified.
                let verify = end == self.size;
                let (offset, stop) = if verify { (0, None) } else { (part.first, end) };
                let body = Box::pin(source.body(&key, offset, stop, self.size)).await;
                let body = body.map_err(|error| {
                    MirrorError::from_upstream(Arc::new(error), ResourceKind::Blob)
                })?;
                let check = verify.then(|| source.check(&key));
                Reader::pass_through(
                    PassThroughBody::new(body, key, part.first, check, self.size),
                    part.first,
                    end,
                )
            }
        })
    }
}
