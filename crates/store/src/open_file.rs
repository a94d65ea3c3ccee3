//! A file of the store that is open for reading, and what it counts as until its last reader closed it: a file
//! that has no name any more still takes its room.

use std::fs::File;
use std::ops::Deref;
use std::sync::OnceLock;

use super::space::{Pin, Reservation};

/// An open file. What keeps its room counted is dropped after it was closed.
#[derive(Debug)]
pub struct OpenFile {
    // Dropped in this order.
    file: File,
    counted: OnceLock<Counted>,
}

/// What counts a file.
#[derive(Debug)]
pub(super) enum Counted {
    /// A committed blob, which is not evicted meanwhile.
    #[expect(dead_code, reason = "held until the file is closed")]
    Blob(Pin),
    /// A staged file that was given up.
    #[expect(dead_code, reason = "held until the file is closed")]
    Abandoned(Reservation),
}

impl OpenFile {
    /// A file that something else counts: it is being staged.
    pub fn staged(file: File) -> Self {
        Self {
            file,
            counted: OnceLock::new(),
        }
    }

    pub(super) fn blob(file: File, pin: Pin) -> Self {
        let file = Self::staged(file);
        file.count(Counted::Blob(pin));
        file
    }

    /// Counts it like this from now on. A file becomes a blob or is given up once in its life.
    pub(super) fn count(&self, counted: Counted) {
        let _ = self.counted.set(counted);
    }
}

impl Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}
