//! The progress of a fill, as its readers follow it: how much of the staged file they may read, and how it ended.

use std::sync::Arc;
use std::time::Instant;

use super::ahead::Extents;
use store::{CommitError, OpenFile};
use upstream::UpstreamError;

/// The tail of a body that is held back until it is verified, in bytes.
pub(super) const TAIL: u64 = 64 << 10;

/// Why a fill, or one of its sources, failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    /// A source refused, or its connection broke too often.
    #[error("the upstream did not supply it")]
    Upstream(#[source] Arc<UpstreamError>),
    /// The bytes of a source have another length or digest.
    #[error("the upstream's bytes cannot be stored")]
    Commit(#[source] Arc<CommitError>),
    /// The store has no room or cannot be written; the bytes can still pass through.
    #[error("the store has no room or cannot be written")]
    NoRoom {
        /// The blob's length in bytes, if known.
        total: Option<u64>,
    },
    /// The download was parked as a partial for others that wait for its slot.
    #[error("other fills need the slot; it resumes later")]
    Paused,
    /// No slot became free in time.
    #[error("too many fills are in progress")]
    Busy,
    /// The task of the fill panicked or was cut off.
    #[error("the fill ended without a result")]
    Lost,
}

/// The progress of a fill.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub phase: Phase,
    /// The whole length in bytes, where announced.
    pub total: Option<u64>,
    /// Bytes in the staged file.
    pub written: u64,
    /// What further connections have brought; `None` where the fill may have none.
    pub segments: Option<Extents>,
    /// Counts the staged files: wrong bytes are discarded with their file.
    pub generation: u32,
    /// Counts refusals, so that a change wakes the readers.
    pub refusals: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Waiting for a slot or for the upstream's headers.
    Waiting,
    Streaming {
        file: Arc<OpenFile>,
        since: Instant,
        /// The bytes that the file had at that time.
        resumed: u64,
    },
    /// Committed: everything may be read.
    Done {
        file: Arc<OpenFile>,
    },
    Failed(FillError),
}

impl Progress {
    /// The offset up to which a reader of the bytes before `end` may read; `None` means to the end of the blob.
    pub fn readable(&self, end: Option<u64>) -> u64 {
        match (&self.phase, self.total) {
            (Phase::Done { .. }, _) => self.written,
            (_, Some(total)) if end.is_some_and(|end| end < total) => self.written,
            (_, Some(total)) => self.written.min(total - TAIL.min(total)),
            (_, None) => self.written.saturating_sub(TAIL),
        }
    }

    /// The offset up to which bytes may be sent before the blob is verified: the end of a part that does not reach the
    /// blob's end, else the start of the tail, which is only ever read from the verified file. `announced` is the length
    /// that the receiver was told.
    pub fn release(&self, end: Option<u64>, announced: Option<u64>) -> u64 {
        match (end, self.total.or(announced)) {
            (Some(end), Some(total)) if end < total => end,
            (_, Some(total)) => total - TAIL.min(total),
            // The start of the tail is unknown.
            (_, None) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_held_back_until_commit() {
        let file = tempfile::tempfile().expect("a temporary file");
        let file = Arc::new(OpenFile::staged(file));
        let streaming = Phase::Streaming {
            file: file.clone(),
            since: Instant::now(),
            resumed: 0,
        };
        let at = |phase: &Phase, total, written| Progress {
            phase: phase.clone(),
            total,
            written,
            segments: None,
            generation: 1,
            refusals: 0,
        };
        let big = 10 * TAIL;
        for (total, written, end, readable) in [
            (Some(big), 0, None, 0),
            (Some(big), 3 * TAIL, None, 3 * TAIL),
            (Some(big), big, None, big - TAIL),
            (Some(big), big, Some(big), big - TAIL),
            // A range that does not reach the end is released as it arrives.
            (Some(big), big, Some(big - 1), big),
            // A blob smaller than the tail is held back whole.
            (Some(10), 10, None, 0),
            (Some(10), 10, Some(10), 0),
            (Some(0), 0, None, 0),
            (None, 3 * TAIL, None, 2 * TAIL),
            (None, 10, None, 0),
        ] {
            assert_eq!(
                at(&streaming, total, written).readable(end),
                readable,
                "{total:?} {written} {end:?}"
            );
            assert_eq!(
                at(&Phase::Done { file: file.clone() }, total, written).readable(end),
                written
            );
        }
    }
}
