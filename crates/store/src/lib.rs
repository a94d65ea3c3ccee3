//! Blobs and records on disk, the limits on their size, and the bucket that gateways share.
//!
//! [`Store::open`] locks a folder for this process. It contains:
//!
//! ```text
//! blobs/<alg>/<2>/<hex>                  immutable content, named by its digest: Blobs
//! repositories/<registry>/<repository>/  records, small JSON files that refer to blobs: RecordStore
//! partials/                              unfinished downloads: StagedBlob
//! quarantine/                            damaged files
//! ```
//!
//! *Blobs.* [`Blobs::open`] decides whether a blob is present: the folder is the truth, and an index in memory only
//! orders the evictions. The only way in is [`StagedBlob`]: bytes are appended and hashed, and `commit`
//! checks length and digest before the blob gets its name. An open blob is never evicted.
//!
//! *Records* store answers of an upstream: that a repository has a manifest or a blob, where a tag points, that a
//! repository is public. A [`RecordKey`] defines its kind: path, references, retention.
//! [`RecordStore::ask`] a [`Question`] before asking the upstream; [`RecordStore::answer`] stores the answer unless
//! the record was written or removed since. Other crates add kinds of records as an [`Extension`].
//!
//! *Space* is reserved before it is written ([`Space::reserve`]), and freed by evicting the least recently used
//! blobs. [`Store::start_maintenance`] does the background work, for which no request waits: the scan counts the
//! files, the sweep deletes unused content, the scrub hashes everything again.
//!
//! *Errors.* Absent is `Ok(None)`, unknown is `Err`: a broken disk makes answers slower, never wrong. This crate
//! knows neither upstreams nor clients. Functions documented to block on the disk do so.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

mod adopt;
mod blobs;
mod bucket;
mod degraded;
mod durable;
mod extension;
mod extents;
mod inspect;
mod layout;
mod maintenance;
mod open_file;
mod partials;
mod pins;
mod purge;
mod read;
mod record;
mod records;
mod retention;
mod scan;
mod scrub;
mod segment;
mod settings;
mod space;
mod staged;
mod staging;
mod state;
mod sweep;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use adopt::Adopted;
pub use blobs::{Blob, Blobs};
pub use bucket::{
    Bucket, Lease, LeaseHolder, Leased, Object, SetUpError as BucketError,
    Settings as BucketSettings,
};
pub use degraded::warn_degraded;
pub use extension::Extension;
pub use inspect::RepositorySummary;
pub use layout::{digest_name, parse_digest_name};
pub use open_file::OpenFile;
pub use partials::PartialNote;
pub use pins::{HeldImages, HeldSize};
pub use purge::{Purge, PurgeTarget, RecordSurvey};
pub use read::{BlobReader, hash, hash_part, is_cached, read_at, same};
pub use record::{
    BlobKey, BlobLink, ExtensionKey, ExtensionKeyOf, ExtensionKind, ManifestKey, ManifestLink,
    OnPurge, Outcome, Pointer, PublicKey, PublicLink, Reach, Record, RecordKey, Reference,
    Retention, StoredValue, TagKey, TypedKey,
};
pub use records::{Inspected, KnownRepository, Question, RecordStore};
pub use scrub::Verified;
pub use segment::{Segment, SegmentRoom, SegmentState, SegmentWriter};
pub use settings::{MinFree, Settings};
pub use space::{BlobStatus, EvictionCandidate, Full, Reservation, Space, StoreUsage};
pub use staged::{CommitError, Mismatch, StagedBlob};
pub use sweep::Swept;

use layout::{BLOCK, PARTIALS, QUARANTINE, REPOSITORIES};
use retention::RetentionSettings;

/// The version of the layout on disk that this program writes.
const VERSION: &str = "1\n";

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file in it cannot be created, read or locked.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// The store was written by a program with another layout.
    #[error("{} has the layout version {found:?}, which this program does not know; it knows 1. Start the program that wrote it, or give this one another store.path", path.display())]
    Version {
        /// The store's folder.
        path: PathBuf,
        /// The content of its file `VERSION`.
        found: String,
    },
}

/// Blobs and records on disk, locked against other processes.
#[derive(Debug)]
pub struct Store {
    /// Bytes by digest: manifests, configurations and layers.
    pub blobs: Blobs,
    /// What repositories claim, and what their tags point at.
    pub records: RecordStore,
    /// The space that both take, and its limits.
    pub space: Arc<Space>,
    bucket: Option<Bucket>,
    root: PathBuf,
    retention: RetentionSettings,
    extensions: Vec<Extension>,
    scrub_every: watch::Sender<Option<Duration>>,
    is_new: bool,
    /// Whether another process maintains it.
    handed_over: AtomicBool,
    /// Held by what changes it.
    handing_over: Mutex<()>,
    lock: File,
}

/// The process that a store is taken over from. It goes on serving for a while.
#[derive(Debug)]
pub struct Predecessor {
    /// The lock of the store, as [`Store::hand_over`] gave it.
    pub lock: File,
    /// Its process id: files that it may still write have it in their names.
    pub process: u32,
}

impl Store {
    /// Opens or creates the store and reads `partials/`; [`Store::scan`] reads the rest. Blocks; call it before
    /// serving.
    ///
    /// # Errors
    /// [`OpenError`] when the folder cannot be written, is locked, or has a newer layout.
    pub fn open(settings: &Settings, extensions: &[Extension]) -> Result<Self, OpenError> {
        Self::open_after(settings, extensions, None)
    }

    /// [`Store::open`] while another process has the lock, and hands it over.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn take_over(
        settings: &Settings,
        extensions: &[Extension],
        predecessor: Predecessor,
    ) -> Result<Self, OpenError> {
        Self::open_after(settings, extensions, Some(predecessor))
    }

    fn open_after(
        settings: &Settings,
        extensions: &[Extension],
        predecessor: Option<Predecessor>,
    ) -> Result<Self, OpenError> {
        let root = &settings.path;
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        for folder in [
            root.clone(),
            root.join("blobs"),
            root.join(PARTIALS),
            root.join(QUARANTINE),
            root.join(REPOSITORIES),
        ] {
            std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        let process = predecessor.as_ref().map(|before| before.process);
        let lock = lock(&root.join("lock"), predecessor)?;
        let is_new = check_version(root)?;
        let space = Arc::new(Space::new(&for_content(settings)));
        let blobs = Blobs::open_in(root, space.clone(), process);
        let blobs = blobs.map_err(at(&root.join(PARTIALS)))?;
        let kinds = extensions.iter().flat_map(|extension| extension.kinds);
        let kinds = kinds.copied().collect();
        let records = RecordStore::new(root, space.clone(), settings.persist_after(), kinds);
        Ok(Self {
            records,
            blobs,
            space,
            bucket: None,
            root: root.clone(),
            retention: RetentionSettings::new(settings),
            extensions: extensions.to_vec(),
            scrub_every: watch::Sender::new(settings.scrub_every),
            is_new,
            handed_over: AtomicBool::new(false),
            handing_over: Mutex::default(),
            lock,
        })
    }

    /// Hands the store over to another process: unfinished downloads stay on disk for it, and it does the maintenance
    /// from now on. Blobs and records can be read on; small bodies and records of writes can be stored on. Call it after
    /// [`Blobs::stop`], when no fill writes any more. Blocks on the disk.
    ///
    /// # Errors
    /// When the lock cannot be duplicated, or the store was taken back while the disk did not respond.
    pub fn hand_over(&self) -> io::Result<OwnedFd> {
        let lock = self.lock.as_fd().try_clone_to_owned()?;
        let _turn = self.handing_over();
        self.blobs.hand_over()?;
        self.records.keep_answers_in_memory(true);
        self.handed_over.store(true, Ordering::SeqCst);
        Ok(lock)
    }

    /// Takes the store back from a process that has ended, after [`Store::hand_over`]. Blocks on the disk.
    pub fn take_back(&self) {
        // A handover that still waits for the disk fails now.
        self.blobs.resume_after_stop();
        let _turn = self.handing_over();
        self.records.keep_answers_in_memory(false);
        self.handed_over.store(false, Ordering::SeqCst);
    }

    fn handing_over(&self) -> MutexGuard<'_, ()> {
        let turn = self.handing_over.lock();
        turn.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another process maintains it.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::SeqCst)
    }

    /// Applies changed limits and TTLs from now on. The path stays, and so does how often last uses are written.
    pub fn reconfigure(&self, settings: &Settings) {
        self.retention.replace(settings);
        self.scrub_every.send_replace(settings.scrub_every);
        self.space.set_limits(&for_content(settings));
    }

    /// Adds a bucket that gateways share, and resumes the withdrawals that the last process left unfinished. Blocks on
    /// the disk.
    #[must_use]
    pub fn with_bucket(mut self, bucket: Bucket) -> Self {
        bucket.open_journal(&self.root);
        self.records.share(&bucket);
        self.bucket = Some(bucket);
        self
    }

    /// Whether there was no store at its path before.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The shared bucket, if one is configured.
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }
}

/// The settings of what remains beside VERSION and the lock, which take a block each.
fn for_content(settings: &Settings) -> Settings {
    Settings {
        max_size: settings.max_size.saturating_sub(2 * BLOCK),
        ..settings.clone()
    }
}

/// Takes the lock file, or takes it over.
fn lock(path: &Path, predecessor: Option<Predecessor>) -> Result<File, OpenError> {
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
    // The lock belongs to the open file, which both processes share.
    let file = match predecessor {
        Some(before) if is_same_file(&before.lock, &file).map_err(io_error)? => before.lock,
        _ => file,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked {
            path: path.to_owned(),
        }),
        Err(error) => Err(io_error(error.into())),
    }
}

fn is_same_file(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Checks the version of the layout; true if there is no store yet.
fn check_version(root: &Path) -> Result<bool, OpenError> {
    let path = root.join("VERSION");
    let io_error = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    match std::fs::read_to_string(&path) {
        Ok(found) if found == VERSION => Ok(false),
        Ok(found) => Err(OpenError::Version {
            path,
            found: found.trim().into(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let written = durable::write_atomic(&root.join(PARTIALS), &path, VERSION.as_bytes());
            written.map(|()| true).map_err(io_error)
        }
        Err(error) => Err(io_error(error)),
    }
}
