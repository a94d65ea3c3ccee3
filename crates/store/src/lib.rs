//! Floor 1, disk: what is kept, and nothing about where it came from.
//!
//! `blobs/` is content-addressed and immutable; `repositories/` holds small records that point into
//! it; `partials/` is what is being filled; `quarantine/` is what was found damaged. The folder is the truth:
//! an index in memory only orders what may go first. Absent is `Ok(None)`, unknown is `Err`.
//!
//! [`Store::tend`] does in the background what no request should wait for: `scan` counts what is here,
//! `sweep` removes what nobody asked for, `scrub` hashes everything again.

mod beside;
mod blobs;
mod bucket;
mod conversions;
mod disk;
mod files;
mod images;
mod index;
mod links;
mod open_file;
mod partials;
mod purge;
mod read;
mod record;
mod records;
mod repositories;
mod scan;
mod scrub;
mod space;
mod staged;
mod sweep;
mod synthesis;
mod tags;
mod tend;
mod trouble;
mod v1_bodies;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use blobs::{Blob, Blobs};
pub use bucket::{
    Bucket, Lease, Leased, Object, SetUpError as BucketError, Settings as BucketSettings,
};
pub use conversions::{Conversions, KnownImage, Made, MadeKind, MadeOf};
pub use images::Images;
pub use links::{BlobLink, Links, ManifestLink, PublicLink};
pub use open_file::OpenFile;
pub use partials::Note;
pub use purge::{Purge, Target};
pub use read::{BlobReader, hash, hash_part, read_at, same};
pub use record::{Question, Reach};
pub use repositories::KnownRepository;
pub use scrub::Verified;
pub use space::{Full, MinFree, Reservation, Space};
pub use staged::{CommitError, Mismatch, StagedBlob};
pub use sweep::Swept;
pub use synthesis::{PreparedLayer, Synthesis, SynthesisedImage};
pub use tags::{Pointer, Tags};
pub use trouble::trouble;
pub use v1_bodies::{V1Bodies, V1Body};

use files::Files;
use sweep::Lives;

use oci::name::Registry;

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
    /// What nobody asked for this long goes; `None`: it stays.
    pub unused_ttl: Option<Duration>,
    /// Registries with a time of their own. A blob lives by the longest of those that link it.
    pub unused_ttls: Vec<(Registry, Option<Duration>)>,
    /// Everything on disk is hashed again within this; `None`: never.
    pub scrub_every: Option<Duration>,
}

impl Settings {
    /// A store in `path` without any limit.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            max_size: u64::MAX,
            min_free: MinFree::Bytes(0),
            unused_ttl: None,
            unused_ttls: Vec::new(),
            scrub_every: None,
        }
    }

    /// The shortest time that anything is kept unasked.
    fn shortest_ttl(&self) -> Option<Duration> {
        let own = self.unused_ttls.iter().filter_map(|(_, ttl)| *ttl);
        own.chain(self.unused_ttl).min()
    }

    /// How long a last use may stay unwritten, in seconds: an hour, or less where less is kept.
    fn persist_after(&self) -> u32 {
        let quarter = self
            .shortest_ttl()
            .map_or(u64::MAX, |ttl| ttl.as_secs() / 4);
        u32::try_from(quarter).map_or(3600, |quarter| quarter.clamp(1, 3600))
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("{} has the layout version {found:?}, which this program does not know; it knows 1. Start the program that wrote it, or give this one another store.path", path.display())]
    Version { path: PathBuf, found: String },
}

/// The three rooms of the disk, and the lock that keeps a second process out.
#[derive(Debug)]
pub struct Store {
    pub blobs: Blobs,
    pub links: Links,
    pub tags: Tags,
    pub images: Images,
    pub v1: V1Bodies,
    pub conversions: Conversions,
    pub synthesis: Synthesis,
    pub space: Arc<Space>,
    bucket: Option<Bucket>,
    files: Arc<Files>,
    image_files: Arc<Files>,
    conversion_files: Arc<Files>,
    root: PathBuf,
    lives: Lives,
    scrub_every: Option<Duration>,
    _lock: File,
}

impl Store {
    /// Opens or creates the store and takes stock of `partials/`. Blocks; call it before serving. What it
    /// keeps is not known before [`Store::scan`].
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
            root.join("quarantine"),
            root.join("repositories"),
        ] {
            std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        let lock = lock(&root.join("lock"))?;
        check_version(root)?;
        // VERSION and the lock take a block each.
        let max_size = settings.max_size.saturating_sub(2 * index::BLOCK);
        let space = Arc::new(Space::new(&Settings {
            max_size,
            ..settings.clone()
        }));
        let blobs = Blobs::open_in(root, space.clone()).map_err(at(&root.join("partials")))?;
        let files = Arc::new(Files::new(root, space.clone(), settings.persist_after()));
        let images = Files::below(root, "v1", space.clone(), settings.persist_after());
        let images = Arc::new(images);
        let converted = Files::below(root, "conversions", space.clone(), settings.persist_after());
        let converted = Arc::new(converted);
        Ok(Self {
            links: Links::new(&files),
            tags: Tags::new(&files),
            v1: V1Bodies::new(&images),
            images: Images::new(&images),
            conversions: Conversions::new(&converted),
            synthesis: Synthesis::new(&files),
            blobs,
            space,
            bucket: None,
            files,
            image_files: images,
            conversion_files: converted,
            root: root.clone(),
            lives: Lives::new(settings),
            scrub_every: settings.scrub_every,
            _lock: lock,
        })
    }

    /// The same store with a bucket behind it, which others share. What was to be taken back from it when the last
    /// process ended still is. Blocks on the disk.
    #[must_use]
    pub fn with_bucket(mut self, bucket: Bucket) -> Self {
        bucket.remember_in(&self.root);
        self.links.share(&bucket);
        self.tags.share(&bucket);
        self.bucket = Some(bucket);
        self
    }

    /// The bucket that others share, if there is one.
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
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
            files::write_atomic(&root.join("partials"), &path, VERSION.as_bytes()).map_err(io_error)
        }
        Err(error) => Err(io_error(error)),
    }
}
