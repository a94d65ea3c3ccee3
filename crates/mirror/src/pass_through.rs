//! Bodies that pass through without being stored.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::fill_reader::SentPrefix;
use super::progress::TAIL;
use super::reader::ReadError;
use super::sent_ahead::{ReplayCheck, SentAhead};
use super::source::{DigestCheck, FillKey};
use store::read_at;
use upstream::BlobBody;

/// A body that goes to one reader without being stored, because the store has no room. Its tail is held
/// back until its digest is verified.
#[derive(Debug)]
pub(super) struct PassThroughBody {
    body: BlobBody,
    key: FillKey,
    /// Absent for a part that does not reach the blob's end: it cannot be verified.
    check: Option<DigestCheck>,
    /// Whether it had a check at first.
    verified: bool,
    /// The length of the blob, if the receiver was told one.
    announced: Option<u64>,
    /// Bytes before this are only hashed.
    skip: u64,
    /// The bytes sent before, from a file and ahead of it: this body must have the same.
    sent: Option<SentPrefix>,
    sent_ahead: Option<ReplayCheck>,
    received: u64,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    started: Instant,
}

impl PassThroughBody {
    /// `check` needs a body that begins at 0; `announced` is the length of the blob, if the receiver was told one.
    pub fn new(
        body: BlobBody,
        key: FillKey,
        first: u64,
        check: Option<DigestCheck>,
        announced: Option<u64>,
    ) -> Self {
        let (skip, received) = (first, body.offset);
        let held = VecDeque::new();
        Self {
            body,
            key,
            verified: check.is_some(),
            check,
            announced,
            skip,
            sent: None,
            sent_ahead: None,
            received,
            held,
            held_bytes: 0,
            started: Instant::now(),
        }
    }

    /// Adds what its receiver was sent already.
    pub fn with_sent(mut self, sent: Option<SentPrefix>, sent_ahead: &SentAhead) -> Self {
        self.sent = sent;
        self.sent_ahead = self.check.is_some().then(|| sent_ahead.replay());
        self
    }

    /// Whether it ends only if its digest matches.
    pub const fn is_verified(&self) -> bool {
        self.verified
    }

    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
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
                let had = |sent_ahead: &ReplayCheck| sent_ahead.fits_within(self.received);
                let whole = self.body.total.is_none_or(|total| total == self.received)
                    && self.sent_ahead.as_ref().is_none_or(had);
                if !whole || !check.accepts(&check.hasher.clone().finish()) {
                    telemetry::metrics::wrong_bytes(telemetry::metrics::CorruptSource::Upstream);
                    return Err(ReadError::DigestMismatch);
                }
                let ms = telemetry::ms(self.started);
                tracing::info!(target: "fill", digest = %self.key, bytes = self.received, ms, "passed through");
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
            if let Some(sent_ahead) = &mut self.sent_ahead
                && !sent_ahead.matches_next(self.received, &chunk)
            {
                telemetry::metrics::wrong_bytes(telemetry::metrics::CorruptSource::Upstream);
                return Err(ReadError::DigestMismatch);
            }
            self.received += chunk.len() as u64;
            // The announced end must be held back like the real one.
            if self.check.is_some() && self.announced.is_some_and(|end| self.received > end) {
                return Err(ReadError::DigestMismatch);
            }
            let wanted = chunk.slice(known..);
            if !wanted.is_empty() {
                self.held_bytes += wanted.len() as u64;
                self.held.push_back(wanted);
            }
        }
    }
}

impl PassThroughBody {
    /// Compares the bytes that the receiver has with those of this body.
    async fn compare(&self, known: &[u8]) -> Result<(), ReadError> {
        let Some(sent) = &self.sent else {
            return Ok(());
        };
        // A reader that seeks may skip bytes that the file never had.
        let actual = sent.written.saturating_sub(self.received);
        let actual = usize::try_from(actual).unwrap_or(usize::MAX);
        let known = &known[..known.len().min(actual)];
        let mut at = 0;
        while at < known.len() {
            let buffer = BytesMut::zeroed(known.len() - at);
            let (buffer, read) = read_at(&sent.file, buffer, self.received + at as u64).await?;
            if read == 0 || buffer[..read] != known[at..at + read] {
                return Err(ReadError::DigestMismatch);
            }
            at += read;
        }
        Ok(())
    }
}
