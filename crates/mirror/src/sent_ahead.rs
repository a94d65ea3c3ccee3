//! Bytes that a receiver was sent ahead of the fill, by side requests: remembered by their hashes, and compared with
//! verified bytes before the body may end.

use std::io;

use oci::digest::{Algorithm, Digest, Hasher};
use oci::range::Span;
use store::{OpenFile, hash_part};

/// Spans of a blob that a receiver was sent ahead of the fill.
#[derive(Clone, Debug, Default)]
pub(super) struct SentAhead {
    spans: Vec<SentSpan>,
}

#[derive(Clone, Debug)]
struct SentSpan {
    span: Span,
    hasher: Hasher,
}

impl SentAhead {
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Records bytes that were sent as those at `offset`.
    pub fn record(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        match self.spans.last_mut() {
            Some(last) if last.span.end == offset => {
                last.span.end = end;
                last.hasher.update(bytes);
            }
            _ => {
                let mut hasher = Hasher::new(Algorithm::Sha256);
                hasher.update(bytes);
                let span = Span { first: offset, end };
                self.spans.push(SentSpan { span, hasher });
            }
        }
    }

    /// Whether a file has all of these bytes. Blocks on the disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn matches_file(self, file: &OpenFile) -> io::Result<bool> {
        for SentSpan { span, hasher } in self.spans {
            let actual = Hasher::new(Algorithm::Sha256);
            if hash_part(file, span.first, span.end, actual)? != hasher.finish() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A check of a body that is read from its first byte on.
    pub fn replay(&self) -> ReplayCheck {
        let expected = self.spans.iter().map(|sent| ExpectedSpan {
            span: sent.span,
            sent: sent.hasher.clone().finish(),
            actual: Hasher::new(Algorithm::Sha256),
        });
        ReplayCheck(expected.collect())
    }
}

/// Compares a body with the spans that were sent ahead.
#[derive(Debug)]
pub(super) struct ReplayCheck(Vec<ExpectedSpan>);

#[derive(Debug)]
struct ExpectedSpan {
    span: Span,
    sent: Digest,
    actual: Hasher,
}

impl ReplayCheck {
    /// Takes the body's next bytes, those at `offset`. False if a span of it differs from what was sent.
    pub fn matches_next(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        self.0
            .iter_mut()
            .all(|ExpectedSpan { span, sent, actual }| {
                let within = |position: u64| {
                    let position = position.clamp(offset, end) - offset;
                    usize::try_from(position).unwrap_or(bytes.len())
                };
                actual.update(&bytes[within(span.first)..within(span.end)]);
                let ends_here = offset < span.end && span.end <= end;
                !ends_here || actual.clone().finish() == *sent
            })
    }

    /// Whether a body of this length contains all spans.
    pub fn fits_within(&self, length: u64) -> bool {
        self.0.iter().all(|expected| expected.span.end <= length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Sent in pieces of three: 3..12 and 20..26 of a body.
    fn sent(body: &[u8]) -> SentAhead {
        let mut sent = SentAhead::default();
        for first in [3, 6, 9, 20, 23] {
            sent.record(first as u64, &body[first..first + 3]);
        }
        sent
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_was_sent() {
        let body: Vec<u8> = (0..30).collect();
        for wrong in 0..body.len() {
            let mut other = body.clone();
            other[wrong] ^= 1;
            let was_sent = (3..12).contains(&wrong) || (20..26).contains(&wrong);
            let mut file = tempfile::tempfile().expect("a temporary file");
            file.write_all(&other).expect("room");
            let file = OpenFile::staged(file);
            let stands = sent(&body).matches_file(&file).expect("readable");
            assert_eq!(stands, !was_sent, "in a file, {wrong}");
            for piece in [1, 4, 7, 30] {
                let mut replay = sent(&body).replay();
                let mut offset = 0;
                let right = other.chunks(piece).all(|bytes| {
                    let right = replay.matches_next(offset, bytes);
                    offset += bytes.len() as u64;
                    right
                });
                assert_eq!(right, !was_sent, "in pieces of {piece}, {wrong}");
            }
        }
    }

    #[test]
    fn a_body_that_is_too_short_had_not_all_of_it() {
        let body: Vec<u8> = (0..30).collect();
        let replay = sent(&body).replay();
        assert!(!replay.fits_within(25) && replay.fits_within(26));
        let empty = OpenFile::staged(tempfile::tempfile().expect("a file"));
        assert!(sent(&body).matches_file(&empty).is_err());
        assert!(SentAhead::default().replay().fits_within(0));
    }
}
