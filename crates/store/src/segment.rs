//! Segments of a staged blob: bytes ahead of its contiguous beginning, each written by a connection of its own.
//!
//! A segment is written at its offset of the staged file and hashed later, when the contiguous bytes reach it. Its
//! lock is held while bytes are written, so that none are written past an end that was moved meanwhile.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::open_file::OpenFile;

/// A segment: the bytes from `start` to `written` are in the file, those up to `end` are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The offset of its first byte in the blob.
    pub start: u64,
    /// The offset after its last byte in the file.
    pub written: u64,
    /// Equals `written` once the segment is closed.
    pub end: u64,
    /// Whether it has a writer.
    pub state: SegmentState,
}

/// The life of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// It has a writer, and no byte yet.
    Waiting,
    /// It has a writer and bytes.
    Receiving,
    /// Its writer is gone.
    Closed,
}

impl Segment {
    pub(super) const fn closed(start: u64, end: u64) -> Self {
        Self {
            start,
            written: end,
            end,
            state: SegmentState::Closed,
        }
    }

    fn close(&mut self) {
        self.end = self.written;
        self.state = SegmentState::Closed;
    }

    /// Whether it has bytes, or may get some.
    fn counts(&self) -> bool {
        let open = self.state != SegmentState::Closed && self.start < self.end;
        open || self.written > self.start
    }
}

/// Whether a segment takes more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentRoom {
    /// It takes more bytes.
    Left,
    /// It has reached its end.
    Full,
}

/// Writes one segment. Dropped, it closes the segment where it is.
#[derive(Debug)]
pub struct SegmentWriter {
    file: Arc<OpenFile>,
    segment: Arc<Mutex<Segment>>,
}

impl SegmentWriter {
    /// Writes the next bytes, as far as the segment reaches. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<SegmentRoom> {
        let mut segment = lock(&self.segment);
        let room = usize::try_from(segment.end - segment.written).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        self.file.write_all_at(bytes, segment.written)?;
        segment.written += bytes.len() as u64;
        if segment.state == SegmentState::Waiting && !bytes.is_empty() {
            segment.state = SegmentState::Receiving;
        }
        Ok(if segment.written == segment.end {
            SegmentRoom::Full
        } else {
            SegmentRoom::Left
        })
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        lock(&self.segment).close();
    }
}

/// The segments of one staged file, in order of their offsets.
#[derive(Debug, Default)]
pub(super) struct Segments(Vec<Arc<Mutex<Segment>>>);

impl Segments {
    /// Closed segments with these bytes.
    pub fn of_extents(extents: &[(u64, u64)]) -> Self {
        let closed = |&(start, end): &(u64, u64)| Arc::new(Mutex::new(Segment::closed(start, end)));
        Self(extents.iter().map(closed).collect())
    }

    /// Opens a segment, and moves the end of the one before it to its start. `None` if some of its bytes are written
    /// already.
    pub fn open(&mut self, file: &Arc<OpenFile>, start: u64, end: u64) -> Option<SegmentWriter> {
        self.prune();
        let place = self
            .0
            .partition_point(|segment| lock(segment).start < start);
        if let Some(before) = place.checked_sub(1).and_then(|before| self.0.get(before)) {
            let mut before = lock(before);
            if before.written > start {
                return None;
            }
            before.end = before.end.min(start);
        }
        let next = self.0.get(place).map_or(u64::MAX, |next| lock(next).start);
        if next < end || start >= end {
            return None;
        }
        let segment = Arc::new(Mutex::new(Segment {
            start,
            written: start,
            end,
            state: SegmentState::Waiting,
        }));
        self.0.insert(place, segment.clone());
        let file = file.clone();
        Some(SegmentWriter { file, segment })
    }

    /// The segments now. Closed ones without bytes are removed.
    pub fn all(&mut self) -> Vec<Segment> {
        self.prune();
        self.0.iter().map(|segment| *lock(segment)).collect()
    }

    /// The first segment.
    pub fn first(&self) -> Option<Segment> {
        let mut all = self.0.iter().map(|segment| *lock(segment));
        all.find(Segment::counts)
    }

    /// Notes that the bytes before `offset` are contiguous now.
    pub fn absorbed(&mut self, offset: u64) {
        self.prune();
        if let Some(first) = self.0.first() {
            lock(first).start = offset;
        }
        self.prune();
    }

    /// The bytes in the file.
    pub fn bytes(&self) -> u64 {
        let written = |segment: &Arc<Mutex<Segment>>| {
            let segment = lock(segment);
            segment.written - segment.start
        };
        self.0.iter().map(written).sum()
    }

    /// Closes all segments: nothing more is written to the file.
    pub fn close(&mut self) {
        for segment in &self.0 {
            lock(segment).close();
        }
    }

    /// Closes all segments, and returns where their bytes are.
    pub fn into_extents(mut self) -> Vec<(u64, u64)> {
        self.close();
        let extents = self.all();
        extents
            .iter()
            .map(|part| (part.start, part.written))
            .collect()
    }

    fn prune(&mut self) {
        self.0.retain(|segment| lock(segment).counts());
    }
}

fn lock(segment: &Mutex<Segment>) -> MutexGuard<'_, Segment> {
    segment.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
