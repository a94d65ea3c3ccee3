//! A file of the store that is open for reading. Its space counts until the last reader closes it, since an
//! unlinked file still takes space.

use std::fs::File;
use std::ops::Deref;
use std::sync::OnceLock;

use super::space::{Pin, Reservation};

/// An open file, and the guard that counts its space until the file is closed.
#[derive(Debug)]
pub struct OpenFile {
    // Dropped in this order.
    file: File,
    counted: OnceLock<Counted>,
}

/// The guard that counts the space of a file.
#[derive(Debug)]
pub(super) enum Counted {
    /// A committed blob, pinned against eviction.
    #[expect(dead_code, reason = "held until the file is closed")]
    Blob(Pin),
    /// A staged file that was discarded.
    #[expect(dead_code, reason = "held until the file is closed")]
    Abandoned(Reservation),
}

impl OpenFile {
    /// A file that is being staged: its reservation counts it.
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

    /// Sets the guard, once: a file becomes a blob or is discarded.
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
