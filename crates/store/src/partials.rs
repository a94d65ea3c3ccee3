//! Partials: the downloaded beginnings of blobs whose fills stopped. This process resumes one with its hash
//! state; a later process hashes the file first.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::durable::{ignore_absent, write_atomic, write_without_sync};
use super::extents;
use super::layout::{BLOCK, PARTIALS, digest_name, parse_digest_name};
use super::open_file::{Counted, OpenFile};
use super::read::{continue_hash, hash_to_end};
use super::space::{MIN_RESUMABLE, Reservation, Space};
use oci::digest::{Digest, Hasher};

/// The longest version in a note, in bytes: at most six times as long as JSON.
const LONGEST_VERSION: usize = 512;
/// How long a partial is retained.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a partial is evicted only after whole blobs.
const PREFERRED: Duration = Duration::from_secs(3600);

/// The metadata of a partial, stored beside its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialNote {
    /// The whole length in bytes, where announced.
    pub total: Option<u64>,
    /// The repositories that have the blob: registry and name.
    pub sources: Vec<(String, String)>,
    /// The host that sent the first byte, and its `ETag`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<(String, String)>,
    /// Whether the file may have holes: several connections write it.
    #[serde(skip_serializing_if = "is_false", default)]
    pub segmented: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

impl PartialNote {
    /// Whether the same host now sends another `ETag` (RFC 9110 §13.1.5). Those of different hosts cannot be
    /// compared.
    pub fn contradicts(&self, version: Option<&(String, String)>) -> bool {
        match (&self.version, version) {
            (Some((host, tag)), Some((now_host, now_tag))) => host == now_host && tag != now_tag,
            _ => false,
        }
    }

    /// Whether a blob of this length is worth resuming.
    pub fn is_resumable(&self) -> bool {
        self.total.is_some_and(|total| total >= MIN_RESUMABLE)
    }
}

/// The bytes of a partial so far, and what is known of the rest.
#[derive(Debug)]
pub(super) struct Progress {
    /// Has hashed the written bytes.
    pub hasher: Hasher,
    pub written: u64,
    /// Bytes beyond those, from and to: of segments.
    pub ahead: Vec<(u64, u64)>,
    pub note: PartialNote,
}

impl Progress {
    /// The length of the file.
    fn file_length(&self) -> u64 {
        self.ahead.last().map_or(self.written, |(_, end)| *end)
    }
}

/// A partial that this process parked. Its file is closed unless readers still have it open.
#[derive(Debug)]
pub(super) struct ParkedPartial {
    pub file: Weak<OpenFile>,
    pub progress: Progress,
    /// Covers the bytes on disk.
    pub reservation: Reservation,
}

/// A partial whose file is open: new or resumed.
#[derive(Debug)]
pub(super) struct OpenPartial {
    pub file: Arc<OpenFile>,
    pub progress: Progress,
    pub reservation: Reservation,
}

/// The folder of partials, and those that are not being filled.
#[derive(Debug)]
pub(super) struct Partials {
    root: PathBuf,
    parked: Mutex<HashMap<Digest, Parked>>,
    /// Whether staged files stay on disk when they are dropped, since the process ends.
    stopping: AtomicBool,
    /// Whether another process writes the partials. Locked while one is staged or committed.
    handed_over: RwLock<bool>,
}

/// Holds off a handover while a partial is staged, resumed or committed.
pub(super) type Owned<'a> = RwLockReadGuard<'a, bool>;

#[derive(Debug)]
enum Parked {
    /// By this process.
    InMemory(ParkedPartial, SystemTime),
    /// By an earlier one.
    OnDisk {
        reservation: Reservation,
        note: PartialNote,
        since: SystemTime,
    },
}

impl Parked {
    fn note(&self) -> &PartialNote {
        match self {
            Self::InMemory(partial, _) => &partial.progress.note,
            Self::OnDisk { note, .. } => note,
        }
    }

    fn since(&self) -> SystemTime {
        match self {
            Self::InMemory(_, since) | Self::OnDisk { since, .. } => *since,
        }
    }
}

impl Partials {
    /// Reads the folder: partials that can be resumed stay, and what `predecessor` may still write; the rest is removed.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(root: &Path, space: &Arc<Space>, predecessor: Option<u32>) -> io::Result<Self> {
        let partials = Self {
            root: root.join(PARTIALS),
            parked: Mutex::default(),
            stopping: AtomicBool::new(false),
            handed_over: RwLock::new(false),
        };
        let mut parked = HashMap::new();
        for entry in std::fs::read_dir(&partials.root)? {
            let path = entry?.path();
            if let Some((digest, found)) = resumable(&path, space) {
                parked.insert(digest, found);
            } else if path.extension().is_none_or(|extension| extension != "json")
                && !predecessor.is_some_and(|process| is_of_process(&path, process))
            {
                ignore_absent(std::fs::remove_file(&path))?;
            }
        }
        for entry in std::fs::read_dir(&partials.root)? {
            let path = entry?.path();
            let orphaned = path
                .extension()
                .is_some_and(|extension| extension == "json")
                && !path.with_extension("").exists();
            if orphaned {
                ignore_absent(std::fs::remove_file(&path))?;
            }
        }
        *partials.parked() = parked;
        Ok(partials)
    }

    /// Continues after [`Partials::hand_over`]: what was left on disk can be resumed.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn resume_after_stop(&self, space: &Arc<Space>) -> io::Result<()> {
        // First: a handover that still waits ends without effect.
        self.stopping.store(false, Ordering::SeqCst);
        *self
            .handed_over
            .write()
            .unwrap_or_else(PoisonError::into_inner) = false;
        for entry in std::fs::read_dir(&self.root)? {
            if let Some((digest, found)) = resumable(&entry?.path(), space) {
                self.parked().entry(digest).or_insert(found);
            }
        }
        Ok(())
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest_name(digest))
    }

    /// The path of a separate file for a body that is written at once, of which there may be several. The process that
    /// this one takes over from may write such files to its end.
    pub fn unique_path(&self, digest: &Digest, serial: u64) -> PathBuf {
        let process = std::process::id();
        self.root
            .join(format!("{}.{serial}-{process}", digest_name(digest)))
    }

    /// Writes the note that a later process needs to resume. A note takes one block: sources that do not fit, and
    /// a version that is too long, are left out.
    ///
    /// Only that a partial has holes is synced: a later process would take the holes for bytes. The rest would delay the
    /// first byte, and is worth no more than the bytes that it describes, which are not synced either.
    pub fn write_note(&self, digest: &Digest, note: &PartialNote) -> io::Result<()> {
        let mut note = note.clone();
        note.version
            .take_if(|(host, tag)| host.len() + tag.len() > LONGEST_VERSION);
        let mut json = serde_json::to_vec(&note)?;
        while json.len() as u64 > BLOCK && note.sources.pop().is_some() {
            json = serde_json::to_vec(&note)?;
        }
        let write = if note.segmented {
            write_atomic
        } else {
            write_without_sync
        };
        write(&self.root, &note_path(&self.path(digest)), &json)
    }

    pub fn park(&self, digest: Digest, partial: ParkedPartial) {
        self.parked()
            .insert(digest, Parked::InMemory(partial, SystemTime::now()));
    }

    /// Leaves staged files on disk from now on, for a later process to resume.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Leaves the partials to another process, after [`Partials::stop`]. Waits until those that are being staged or committed
    /// are.
    ///
    /// # Errors
    /// When they were taken back meanwhile.
    pub fn hand_over(&self) -> io::Result<()> {
        let mut handed_over = self
            .handed_over
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if !self.is_stopping() {
            return Err(io::Error::other("the store was taken back"));
        }
        *handed_over = true;
        Ok(())
    }

    /// Holds off a handover.
    ///
    /// # Errors
    /// When another process writes the partials.
    pub fn own(&self) -> io::Result<Owned<'_>> {
        let handed_over = self
            .handed_over
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if *handed_over {
            return Err(io::Error::other("another process has taken over the store"));
        }
        Ok(handed_over)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Whether there is a partial to take out.
    pub fn has(&self, digest: &Digest) -> bool {
        self.parked().contains_key(digest)
    }

    /// Whether a partial must be hashed before it is resumed, since an earlier process wrote it.
    pub fn needs_hashing(&self, digest: &Digest) -> bool {
        matches!(self.parked().get(digest), Some(Parked::OnDisk { .. }))
    }

    /// Takes a partial out, to resume it. Hashes one of an earlier process, which may take a while.
    ///
    /// # Errors
    /// When it cannot be read; it is removed then.
    pub fn take(&self, digest: &Digest) -> io::Result<Option<OpenPartial>> {
        // Hashing is slow: not under the lock.
        let parked = self.parked().remove(digest);
        let resumed = match parked {
            None => return Ok(None),
            Some(Parked::InMemory(partial, _)) => self.reopen(digest, partial),
            Some(Parked::OnDisk {
                reservation, note, ..
            }) => self.rehash(digest, reservation, note),
        };
        if resumed.is_err() {
            self.remove(digest);
        }
        resumed.map(Some)
    }

    fn reopen(&self, digest: &Digest, parked: ParkedPartial) -> io::Result<OpenPartial> {
        let ParkedPartial {
            file,
            progress,
            reservation,
        } = parked;
        let file = match file.upgrade() {
            Some(file) => file,
            None => Arc::new(OpenFile::staged(self.open_partial(digest)?)),
        };
        if file.metadata()?.len() != progress.file_length() {
            // The file was changed by something else.
            return self.rehash(digest, reservation, progress.note);
        }
        Ok(OpenPartial {
            file,
            progress,
            reservation,
        })
    }

    fn rehash(
        &self,
        digest: &Digest,
        reservation: Reservation,
        note: PartialNote,
    ) -> io::Result<OpenPartial> {
        let file = self.open_partial(digest)?;
        let hasher = Hasher::new(digest.algorithm());
        let (hasher, written, ahead) = if note.segmented {
            let mut ahead = extents::recover(&file)?;
            let contiguous = ahead.first().filter(|(start, _)| *start == 0);
            let written = contiguous.map_or(0, |(_, end)| *end);
            ahead.retain(|(start, _)| *start > 0);
            (continue_hash(&file, 0, written, hasher)?, written, ahead)
        } else {
            let (hasher, written) = hash_to_end(&file, hasher)?;
            (hasher, written, Vec::new())
        };
        Ok(OpenPartial {
            file: Arc::new(OpenFile::staged(file)),
            progress: Progress {
                hasher,
                written,
                ahead,
                note,
            },
            reservation,
        })
    }

    fn open_partial(&self, digest: &Digest) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).open(self.path(digest))
    }

    /// Drops the partial that was parked first, if that was more than [`PREFERRED`] ago. False when there is none.
    pub fn drop_idle(&self, now: SystemTime) -> bool {
        self.drop_parked_before(now.checked_sub(PREFERRED))
    }

    /// Drops a partial that was not resumed in time. False when there is none.
    pub fn drop_expired(&self, now: SystemTime) -> bool {
        self.drop_parked_before(now.checked_sub(LIFE))
    }

    /// Drops the partial that was parked first, to free its space. False when there is none.
    pub fn drop_oldest(&self) -> bool {
        self.drop_parked_before(Some(SystemTime::now() + LIFE))
    }

    fn drop_parked_before(&self, time: Option<SystemTime>) -> bool {
        let mut parked = self.parked();
        let oldest = parked
            .iter()
            .map(|(digest, parked)| (*digest, parked.since()))
            .filter(|(_, since)| time.is_some_and(|time| *since < time))
            .min_by_key(|(_, since)| *since);
        let Some((oldest, _)) = oldest else {
            return false;
        };
        let dropped = parked.remove(&oldest);
        // Under the lock: a fill of this blob that begins now would lose its new file.
        self.remove(&oldest);
        drop(parked);
        if let Some(Parked::InMemory(partial, _)) = dropped
            && let Some(file) = partial.file.upgrade()
        {
            // Slow readers still have it open.
            file.count(Counted::Abandoned(partial.reservation));
        }
        true
    }

    /// Removes a partial's files.
    pub fn remove(&self, digest: &Digest) {
        let path = self.path(digest);
        let _ = std::fs::remove_file(&path);
        remove_note(&path);
    }

    /// The parked partials.
    pub fn waiting(&self) -> Vec<(Digest, PartialNote)> {
        self.parked()
            .iter()
            .map(|(digest, parked)| (*digest, parked.note().clone()))
            .collect()
    }

    fn parked(&self) -> MutexGuard<'_, HashMap<Digest, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file has a process in its name, as temporary files and those of [`Partials::unique_path`] do.
fn is_of_process(path: &Path, process: u32) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| {
        name.ends_with(&format!("-{process}")) || name.starts_with(&format!(".tmp-{process}-"))
    })
}

/// A partial of an earlier process that can be resumed.
fn resumable(path: &Path, space: &Arc<Space>) -> Option<(Digest, Parked)> {
    let digest = parse_digest_name(path.file_name()?.to_str()?)?;
    let note: PartialNote = serde_json::from_slice(&std::fs::read(note_path(path)).ok()?).ok()?;
    let meta = std::fs::metadata(path).ok()?;
    let since = meta.modified().ok()?;
    let young = SystemTime::now().duration_since(since).unwrap_or_default() < LIFE;
    let plausible = meta.len() > 0 && note.total.is_some_and(|total| meta.len() <= total);
    if !young || !plausible || !note.is_resumable() {
        return None;
    }
    // A file with holes takes less than its length.
    let reservation = space.adopt(meta.len().min(meta.blocks() * 512));
    Some((
        digest,
        Parked::OnDisk {
            reservation,
            note,
            since,
        },
    ))
}

/// Removes the note of a staged file.
pub(super) fn remove_note(path: &Path) {
    let _ = std::fs::remove_file(note_path(path));
}

fn note_path(path: &Path) -> PathBuf {
    path.with_extension("json")
}
