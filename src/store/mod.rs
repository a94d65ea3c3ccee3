//! Floor 1, disk: what is kept, and nothing about where it came from.
//!
//! `blobs/` is content-addressed and immutable; `repositories/` holds small records that point into
//! it; `partials/` is what is being filled. The folder is the truth: an index in memory only orders
//! what may go first. Absent is `Ok(None)`, unknown is `Err`.

mod blobs;
mod index;
mod links;
mod partials;
mod purge;
mod read;
mod records;
mod space;
mod tags;
mod trouble;
mod verify;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use blobs::{Blob, Blobs, CommitError, Mismatch, StagedBlob};
pub use links::{BlobLink, Links, ManifestLink, PublicLink};
pub use partials::Note;
pub use purge::{Purge, Target};
pub use read::read_at;
pub use space::{Full, MinFree, Reservation, Space};
pub use tags::{Pointer, Tags};
pub use trouble::trouble;
pub use verify::{Progress, Summary};

/// The version of the layout on disk that this program writes.
const VERSION: &str = "1\n";

/// Where the store is and how much it may hold.
#[derive(Clone, Debug)]
pub struct Settings {
    pub path: PathBuf,
    /// The hard cap in bytes.
    pub max_size: u64,
    /// What is left to others on the same file system.
    pub min_free: MinFree,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("{} has the layout version {found:?}, which this program does not know; it knows 1", path.display())]
    Version { path: PathBuf, found: String },
}

/// The three rooms of the disk, and the lock that keeps a second process out.
#[derive(Debug)]
pub struct Store {
    pub blobs: Blobs,
    pub links: Links,
    pub tags: Tags,
    pub space: Arc<Space>,
    _lock: File,
}

impl Store {
    /// Opens or creates the store and takes stock of `partials/`. Blocks; call it before serving.
    ///
    /// # Errors
    /// When the folder cannot be written, is locked, or has a layout from the future.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let root = &settings.path;
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        for folder in [
            root.clone(),
            root.join("blobs"),
            root.join("partials"),
            root.join("repositories"),
        ] {
            std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        let lock = lock(&root.join("lock"))?;
        check_version(root)?;
        let space = Arc::new(Space::new(settings));
        let blobs = Blobs::open_in(root, space.clone()).map_err(at(&root.join("partials")))?;
        Ok(Self {
            links: Links::new(root),
            tags: Tags::new(root),
            blobs,
            space,
            _lock: lock,
        })
    }
}

/// Takes the lock file, or says who has it.
fn lock(path: &Path) -> Result<File, OpenError> {
    use rustix::fs::{FlockOperation, flock};

    let io_error = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io_error)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked {
            path: path.to_owned(),
        }),
        Err(error) => Err(io_error(error.into())),
    }
}

fn check_version(root: &Path) -> Result<(), OpenError> {
    let path = root.join("VERSION");
    let io_error = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    match std::fs::read_to_string(&path) {
        Ok(found) if found == VERSION => Ok(()),
        Ok(found) => Err(OpenError::Version {
            path,
            found: found.trim().into(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            records::write_atomic(&root.join("partials"), &path, VERSION.as_bytes())
                .map_err(io_error)
        }
        Err(error) => Err(io_error(error)),
    }
}
