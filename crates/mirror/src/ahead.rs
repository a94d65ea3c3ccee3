//! Bytes that a reader needs long before the contiguous bytes of a fill reach them: the reader asks the download, which
//! opens a connection for them and shows how far it got.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use store::{Segment, SegmentState};

/// How long a reader waits for the download's answer, which looks ten times a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The most requests that wait for an answer: more readers are refused.
const MAX_WAITING: usize = 64;
/// A reader waits for a connection whose next byte is at most so far before its own.
const NEAR: u64 = 64 << 10;

/// A reader's request for the bytes from `offset` on.
#[derive(Debug)]
pub(super) struct AheadRequest {
    pub offset: u64,
    answer: oneshot::Sender<AheadAnswer>,
}

/// What a reader hears of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AheadAnswer {
    /// A connection fetches them, as the progress shows.
    Coming,
    /// No further connection is possible.
    Refused,
    /// The download has ended, as the progress shows.
    Ended,
}

impl AheadRequest {
    /// Answers the reader, which may have left.
    pub fn answer(self, answer: AheadAnswer) {
        let _ = self.answer.send(answer);
    }
}

/// The requests of a fill's readers; `None` once it has ended.
#[derive(Debug)]
pub(super) struct AheadRequests(Mutex<Option<Vec<AheadRequest>>>);

impl Default for AheadRequests {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl AheadRequests {
    /// Asks for the bytes from `offset` on.
    pub async fn ask(&self, offset: u64) -> AheadAnswer {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.lock();
            let Some(waiting) = waiting.as_mut() else {
                return AheadAnswer::Ended;
            };
            if waiting.len() >= MAX_WAITING {
                return AheadAnswer::Refused;
            }
            waiting.push(AheadRequest { offset, answer });
        }
        match timeout(ANSWER_TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => AheadAnswer::Ended,
            Err(_) => AheadAnswer::Refused,
        }
    }

    /// Takes those that wait.
    pub fn take(&self) -> Vec<AheadRequest> {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Ends those that wait, and all later ones. The outcome of the download is published before.
    pub fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<AheadRequest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The segments of a staged file, as its readers see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extents(Arc<[Segment]>);

impl Extents {
    pub fn new(segments: Vec<Segment>) -> Self {
        Self(segments.into())
    }

    /// The offset up to which the bytes from `offset` on are in the file; `None` if the first is not.
    pub fn readable(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| segment.start <= offset && offset < segment.written;
        self.0.iter().find(holds).map(|segment| segment.written)
    }

    /// Whether a connection is about to reach the byte at `offset`.
    pub fn is_coming(&self, offset: u64) -> bool {
        self.0.iter().any(|segment| {
            segment.state != SegmentState::Closed
                && (segment.written..segment.end).contains(&offset)
                && offset - segment.written < NEAR
        })
    }
}

/// How long `missing` bytes will take at the speed at which `arrived` came in `elapsed`; zero in the first second, when
/// that is unknown.
pub(super) fn time_to_reach(missing: u64, arrived: u64, elapsed: Duration) -> Duration {
    if missing == 0 || elapsed < Duration::from_secs(1) {
        return Duration::ZERO;
    }
    if arrived == 0 {
        return Duration::MAX;
    }
    let seconds = u128::from(missing) * elapsed.as_millis() / u128::from(arrived) / 1000;
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_show_bytes_and_what_comes() {
        let segment = |start, written, end, state| Segment {
            start,
            written,
            end,
            state,
        };
        let extents = Extents::new(vec![
            segment(100, 100, 900, SegmentState::Waiting),
            segment(1_000, 2_000, 9_000_000, SegmentState::Receiving),
            segment(9_500_000, 9_600_000, 9_600_000, SegmentState::Closed),
        ]);
        for (offset, readable, is_coming) in [
            (99, None, false),
            (100, None, true),
            (899, None, true),
            (900, None, false),
            (1_000, Some(2_000), false),
            (1_999, Some(2_000), false),
            (2_000, None, true),
            (2_000 + NEAR, None, false),
            (9_500_000, Some(9_600_000), false),
            (9_600_000, None, false),
        ] {
            assert_eq!(extents.readable(offset), readable, "{offset}");
            assert_eq!(extents.is_coming(offset), is_coming, "{offset}");
        }
    }

    #[tokio::test]
    async fn requests_are_answered_once() {
        let requests = AheadRequests::default();
        let ask = requests.ask(7);
        let answer = async {
            tokio::task::yield_now().await;
            for request in requests.take() {
                assert_eq!(request.offset, 7);
                request.answer(AheadAnswer::Coming);
            }
        };
        let (answer, ()) = tokio::join!(ask, answer);
        assert_eq!(answer, AheadAnswer::Coming);
        assert!(requests.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_end_with_the_download() {
        let requests = AheadRequests::default();
        let close = async {
            tokio::task::yield_now().await;
            requests.close();
        };
        let (answer, ()) = tokio::join!(requests.ask(7), close);
        assert_eq!(answer, AheadAnswer::Ended);
        assert_eq!(requests.ask(8).await, AheadAnswer::Ended);
        assert!(requests.take().is_empty());
    }

    #[test]
    fn a_side_request_is_sent_for_a_part_that_is_far_away() {
        let seconds = Duration::from_secs;
        for (missing, arrived, elapsed, wait) in [
            (0, 100, seconds(5), Duration::ZERO),
            (990, 10, Duration::from_millis(500), Duration::ZERO),
            (900, 100, seconds(10), seconds(90)),
            (100, 900, seconds(9), seconds(1)),
            (1000, 0, seconds(2), Duration::MAX),
            (u64::MAX, 1, seconds(u64::MAX >> 10), seconds(u64::MAX)),
        ] {
            assert_eq!(
                time_to_reach(missing, arrived, elapsed),
                wait,
                "{missing} {arrived} {elapsed:?}"
            );
        }
    }
}
