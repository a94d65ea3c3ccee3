//! Files of state: small JSON files of the program, beside blobs and records. All of it blocks on the disk.

use std::io;
use std::path::PathBuf;

use super::Store;
use super::durable::{is_absent, write_atomic};
use super::layout::{PARTIALS, STATE};

impl Store {
    /// Reads a file of state; `None` if there is none.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_state(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.state_path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a file of state, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_state(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let staging = self.root.join(PARTIALS);
        write_atomic(&staging, &self.state_path(name), bytes)
    }

    fn state_path(&self, name: &str) -> PathBuf {
        self.root.join(STATE).join(name)
    }
}
