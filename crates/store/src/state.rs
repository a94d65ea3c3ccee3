//! Files of state: small JSON files of the program, beside blobs and records. All of it blocks on the disk.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::Store;
use super::durable::{is_absent, write_atomic};
use super::layout::{PARTIALS, STATE};
use super::space::unix;

/// The largest file of state that is read, in bytes: several times what the program writes.
const MAX_STATE: u64 = 16 << 20;

impl Store {
    /// Reads a file of state; `None` if there is none, or if it is damaged. A damaged file is moved aside, and logged.
    pub fn read_state<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        match read(&self.state_path(name)) {
            Ok(value) => value,
            Err(error) => {
                self.set_state_aside(name, &error);
                None
            }
        }
    }

    /// Renames a damaged file of state, so that the next write does not replace it. Logs the damage.
    pub fn set_state_aside(&self, name: &str, damage: &dyn Display) {
        let path = self.state_path(name);
        let aside = path.with_file_name(format!("{name}.damaged-{}", unix(SystemTime::now())));
        let file = path.display();
        match std::fs::rename(&path, &aside) {
            Ok(()) => tracing::error!(
                %file,
                moved_to = %aside.display(),
                error = %damage,
                "a state file is damaged: it was moved aside and is not used"
            ),
            Err(error) => tracing::error!(
                %file,
                error = %damage,
                rename_error = %error,
                "a state file is damaged and is not used; it cannot be moved aside"
            ),
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

/// Reads a file as JSON; `None` if there is none.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_STATE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_STATE {
        let size = format!("it is larger than {} MiB", MAX_STATE >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, size));
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}
