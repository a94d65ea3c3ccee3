//! Small records: JSON files with a cache in front.
//!
//! What the cache holds is what the disk holds or is about to, but for the time of the last confirmation, which is
//! written at most hourly: after a restart a record is taken for older than it is, never for fresher. A record's last
//! use is written as its file's mtime, as seldom: what nobody asks for goes ([`super::sweep`]).
//!
//! An answer is kept under the [`Question`] that it is an answer to: one from before a write or removal is not kept.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use moka::policy::EvictionPolicy;

use super::bucket::Bucket;
use super::files::{Change, Files};
use super::index::BLOCK;
use super::record::{Outcome, Question, Reach, Record};
use super::space::unix;
use super::trouble::trouble;

/// How much later a confirmation may be than the one on disk, in seconds.
const CONFIRMED_WITHIN: u64 = 3600;

/// Records of one kind, addressed by their path below `repositories`. Cloning is cheap.
pub struct Records<V> {
    files: Arc<Files>,
    /// The longest that there may be, in bytes.
    longest: u64,
    recent: moka::sync::Cache<String, Arc<Recent<V>>>,
    bucket: Option<Bucket>,
}

/// A record in memory.
struct Recent<V> {
    record: Arc<V>,
    /// Its last use as it is on disk, in seconds since 1970.
    persisted_use: AtomicU64,
    /// What the disk has is no older than so many seconds since 1970; `None`: it does not have this.
    persisted_check: Option<u64>,
}

impl<V> Clone for Records<V> {
    fn clone(&self) -> Self {
        Self {
            files: self.files.clone(),
            longest: self.longest,
            recent: self.recent.clone(),
            bucket: self.bucket.clone(),
        }
    }
}

impl<V> std::fmt::Debug for Records<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl<V: Record> Records<V> {
    /// Records of a block at most. `entries` bounds what is kept in memory.
    pub fn new(files: &Arc<Files>, entries: u64) -> Self {
        Self::long(files, BLOCK, entries, |_| 1)
    }

    /// Records of `longest` bytes at most. What is kept in memory weighs `capacity` at most.
    pub fn long(files: &Arc<Files>, longest: u64, capacity: u64, weight: fn(&V) -> u32) -> Self {
        let recent = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(move |_, recent: &Arc<Recent<V>>| weight(&recent.record))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self {
            files: files.clone(),
            longest,
            recent,
            bucket: None,
        }
    }

    /// Shares the records of those registries that share theirs.
    pub fn share(&mut self, bucket: &Bucket) {
        self.bucket = Some(bucket.clone());
    }

    /// Begins a question about the record at `path`.
    pub fn ask(&self, path: String) -> Question {
        self.files.ask(path)
    }

    /// The record that the bucket has at `path`, kept here, if there is one that is `good`.
    pub async fn shared(&self, path: String, good: impl Fn(&V) -> bool) -> Option<Arc<V>> {
        let bucket = self.bucket.as_ref()?;
        let question = self.ask(path);
        let record = bucket.record::<V>(question.key()).await?;
        if !good(&record) {
            return None;
        }
        match self.keep(&question, record, Reach::Here).await {
            Outcome::Current(record) => Some(record),
            // It was taken back meanwhile.
            Outcome::Outdated(_) => None,
        }
    }

    /// The record at `path`. One that cannot be parsed counts as absent: it is asked for anew.
    ///
    /// # Errors
    /// When the disk cannot say whether there is one.
    pub async fn open(&self, path: String) -> io::Result<Option<Arc<V>>> {
        loop {
            let now = unix(SystemTime::now());
            if let Some(recent) = self.recent.get(&path) {
                let persisted = recent.persisted_use.load(Ordering::Relaxed);
                if now.saturating_sub(persisted) >= self.files.persist_after() {
                    recent.persisted_use.store(now, Ordering::Relaxed);
                    self.touch(path);
                }
                return Ok(Some(recent.record.clone()));
            }
            let question = self.ask(path.clone());
            let (files, file) = (self.files.clone(), path.clone());
            let read = tokio::task::spawn_blocking(move || files.read(&file));
            let (bytes, used) = match read.await.map_err(io::Error::other)? {
                Ok(read) => read,
                Err(error) if is_absent(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let Ok(record) = serde_json::from_slice::<V>(&bytes) else {
                tracing::warn!(record = %path, "a record on disk cannot be read; it is asked for anew");
                return Ok(None);
            };
            let record = Arc::new(record);
            // Or what was read is no longer so, and there is something else to be read.
            if let Some(()) = question.unchanged(|| self.remember(&path, &record, Disk::Has)) {
                if now.saturating_sub(used) >= self.files.persist_after() {
                    self.touch(path);
                }
                return Ok(Some(record));
            }
        }
    }

    fn touch(&self, path: String) {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || files.touch(&path));
    }

    /// Keeps an answer, if that still counts. It counts from now on; a disk that refuses it costs a question after a
    /// restart, so that is only logged. One that is too long, since a stranger may say what is in it, is kept
    /// nowhere, nor is the one before it, which is no longer so.
    pub async fn keep(&self, question: &Question, record: V, reach: Reach) -> Outcome<V> {
        let record = Arc::new(record);
        if let Some(outcome) = self.confirm(question, &record, reach) {
            return outcome;
        }
        let Some(json) = self.json(question.key(), &record) else {
            self.gone(question).await;
            return Outcome::Current(record);
        };
        let (records, question, kept) = (self.clone(), question.clone(), record.clone());
        let keep =
            tokio::task::spawn_blocking(move || records.keep_now(&question, &kept, &json, reach));
        if keep.await.unwrap_or(false) {
            Outcome::Current(record)
        } else {
            Outcome::Outdated(record)
        }
    }

    /// [`Records::keep`] of what this gateway itself knows, whoever asked.
    pub async fn put(&self, path: String, record: V) -> Arc<V> {
        let question = self.ask(path);
        let outcome = self.keep(&question, record, Reach::Here).await;
        outcome.into_record()
    }

    /// Keeps what was written through us when `question` was asked. Where another write ended meanwhile, which of the
    /// two counts is forgotten, and asked for again.
    pub async fn write(&self, question: &Question, record: V) {
        let Some(json) = self.json(question.key(), &record) else {
            return self.remove(question.key().clone()).await;
        };
        let (records, question, record) = (self.clone(), question.clone(), Arc::new(record));
        let write = move || records.write_now(&question, &record, &json);
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// An answer says that there is none: forgets it, if that still counts.
    pub async fn gone(&self, question: &Question) {
        let (records, question) = (self.clone(), question.clone());
        let remove = move || {
            let change = records.files.change(question.key());
            if question.is_current() {
                records.take_back(question.key());
                removed(change.remove_for_good());
                question.answer(|| records.recent.invalidate(question.key()));
            }
        };
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Forgets a record, and what answers to questions under way say of it.
    pub async fn remove(&self, path: String) {
        let records = self.clone();
        let remove = move || {
            records.take_back(&path);
            let change = records.files.change(&path);
            removed(change.remove_for_good());
            records
                .files
                .end_generation(&path, || records.recent.invalidate(&path));
        };
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Notes that an answer says what is known already, where that needs no writing.
    fn confirm(&self, question: &Question, record: &Arc<V>, reach: Reach) -> Option<Outcome<V>> {
        let path = question.key();
        let same = question.answer(|| {
            let known = self.recent.get(path)?;
            let persisted = known.persisted_check?;
            // One from before what is on disk is not for the disk to contradict.
            let since = record
                .checked_at()
                .unwrap_or(persisted)
                .checked_sub(persisted)?;
            let same = known.record.says_the_same(record) && since < CONFIRMED_WITHIN;
            same.then(|| {
                let used = known.persisted_use.load(Ordering::Relaxed);
                let recent = Recent {
                    record: record.clone(),
                    persisted_use: AtomicU64::new(used),
                    persisted_check: known.persisted_check,
                };
                self.recent.insert(path.clone(), Arc::new(recent));
            })
        });
        match same {
            None => Some(Outcome::Outdated(record.clone())),
            Some(None) => None,
            Some(Some(())) => {
                self.tell(path, record, reach);
                Some(Outcome::Current(record.clone()))
            }
        }
    }

    /// Keeps an answer on disk and in memory; whether it still counts. Blocks.
    fn keep_now(&self, question: &Question, record: &Arc<V>, json: &[u8], reach: Reach) -> bool {
        let path = question.key();
        let change = self.files.change(path);
        if !question.is_current() {
            return false;
        }
        let disk = self.write_file(&change, path, record, json);
        let kept = question.answer(|| self.remember(path, record, disk));
        if kept.is_none() {
            removed(change.remove());
            return false;
        }
        self.tell(path, record, reach);
        drop(change);
        self.files.retry_stuck();
        true
    }

    /// Keeps what was written, or forgets it and what was kept before. Blocks.
    fn write_now(&self, question: &Question, record: &Arc<V>, json: &[u8]) {
        let path = question.key();
        let change = self.files.change(path);
        let disk = self.write_file(&change, path, record, json);
        let is_alone = question.write(|is_alone| {
            if is_alone {
                self.remember(path, record, disk);
            } else {
                self.recent.invalidate(path);
            }
            is_alone
        });
        if is_alone {
            self.tell(path, record, Reach::Shared);
        } else {
            self.take_back(path);
            removed(change.remove_for_good());
        }
    }

    /// Writes a record's file. What was there before must not stay in its place.
    fn write_file(&self, change: &Change<'_>, path: &String, record: &V, json: &[u8]) -> Disk {
        let Err(error) = change.write(json) else {
            return Disk::Has;
        };
        trouble("a record cannot be written", &error);
        let known = self.recent.get(path);
        if !known.is_some_and(|known| known.record.says_the_same(record)) {
            removed(change.remove());
        }
        Disk::HasNot
    }

    /// A record as it is on disk; `None` if it would be too long.
    fn json(&self, path: &str, record: &V) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(record).ok()?;
        if json.len() as u64 > self.longest {
            let (bytes, most) = (json.len(), self.longest);
            tracing::warn!(record = %path, bytes, most, "a record is too long, and is not kept");
            return None;
        }
        Some(json)
    }

    fn remember(&self, path: &str, record: &Arc<V>, disk: Disk) {
        let persisted_check = match disk {
            Disk::Has => record.checked_at().or(Some(0)),
            Disk::HasNot => None,
        };
        let recent = Recent {
            record: record.clone(),
            persisted_use: AtomicU64::new(unix(SystemTime::now())),
            persisted_check,
        };
        self.recent.insert(path.to_owned(), Arc::new(recent));
    }

    /// Lets other gateways know a record that concerns them.
    fn tell(&self, path: &str, record: &V, reach: Reach) {
        if let (Some(bucket), Reach::Shared) = (&self.bucket, reach) {
            bucket.keep_record(path, record);
        }
    }

    fn take_back(&self, path: &str) {
        if let Some(bucket) = &self.bucket {
            bucket.remove_record(path);
        }
    }

    /// Ends the generations of all records below `folder`, and forgets those two levels below it
    /// (`<class>/<name>`) that `gone` is true of.
    pub async fn remove_where(&self, folder: String, gone: impl Fn(&V) -> bool + Send + 'static) {
        let root = self.files.root().to_owned();
        self.files.end_generations(&format!("{folder}/"));
        let found = tokio::task::spawn_blocking(move || {
            let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
            let mut found = Vec::new();
            for record in entries(&root.join(folder)).flat_map(|class| entries(&class.path())) {
                let read = std::fs::read(record.path()).ok();
                let read = read.and_then(|bytes| serde_json::from_slice::<V>(&bytes).ok());
                if read.is_some_and(|record| gone(&record))
                    && let Ok(path) = record.path().strip_prefix(&root)
                {
                    found.push(path.to_string_lossy().into_owned());
                }
            }
            found
        });
        for path in found.await.unwrap_or_default() {
            self.remove(path).await;
        }
    }

    /// Forgets what is in memory of a record.
    pub fn forget(&self, path: &str) {
        self.recent.invalidate(path);
    }
}

/// Whether the disk has a record as it is in memory.
#[derive(Clone, Copy)]
enum Disk {
    Has,
    HasNot,
}

fn removed(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        trouble("a record cannot be removed", &error);
    }
}

/// A component of the path is missing, or is a file where a folder would be.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// One path component for a name that may hold anything: percent-encoded, dots at the start included,
/// so that `.` and `..` cannot arise.
pub fn component(name: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    let encoded = utf8_percent_encode(name, PLAIN).to_string();
    match encoded.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => encoded,
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
