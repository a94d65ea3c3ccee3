//! The store of records: JSON files with a cache in front.
//!
//! Cache and disk hold the same records, except for the time of the last confirmation, which is written at most
//! hourly: after a restart a record is taken for older than it is, never for fresher. The last use of a record is
//! its file's mtime, also written at most hourly; the sweep deletes unused records.
//!
//! A [`Question`] is asked before the upstream is. Its answer is stored only if the record was neither written nor
//! removed since, and no later question was answered. That decision, the change on disk and the change in memory
//! are atomic, in the order of the changes on disk. The same holds for reads of the disk: a record that was read
//! while it was being removed is not cached.
//!
//! Errors of the disk cost a request upstream, never an answer. A record that the disk refuses to delete counts as
//! absent.

mod cache;
mod change;
mod files;
mod repositories;
mod walk;

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{RepositoryName, Tag};
use runtime::generation::{self, Generations};

pub use repositories::KnownRepository;
pub(crate) use walk::Visited;

use crate::bucket::Bucket;
use crate::durable::is_absent;
use crate::record::{
    ExtensionKind, Outcome, Reach, Record, RecordKey, StoredValue, TagKey, TypedKey,
};
use crate::space::{Space, unix};
use cache::{CachedRecord, RecordCache};
use change::Persisted;
use files::RecordFiles;
use repositories::RepositoryLists;

/// A question about a record, from before the upstream is asked until its answer is stored. Cloning is cheap.
pub struct Question<V> {
    inner: generation::Question<RecordKey>,
    value: PhantomData<fn() -> V>,
}

impl<V> Question<V> {
    /// The number of the generation that it was asked in: it changes with every write and removal.
    pub fn generation(&self) -> u64 {
        self.inner.generation()
    }

    /// Whether its answer would be stored.
    pub fn is_current(&self) -> bool {
        self.inner.is_current()
    }
}

impl<V> Clone for Question<V> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            value: PhantomData,
        }
    }
}

impl<V> fmt::Debug for Question<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A record, and its last use in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected<V> {
    /// The record.
    pub value: V,
    /// As far as it is written.
    pub last_use: u64,
}

/// The records of all kinds. Cloning is cheap.
#[derive(Clone)]
pub struct RecordStore {
    inner: Arc<Inner>,
}

struct Inner {
    files: RecordFiles,
    cache: RecordCache,
    generations: Generations<RecordKey>,
    bucket: OnceLock<Bucket>,
    lists: RepositoryLists,
    /// Whether the answers of upstreams are not written to disk, where another process writes them now.
    answers_in_memory: AtomicBool,
    /// The kinds that other crates added.
    kinds: Vec<&'static ExtensionKind>,
}

impl fmt::Debug for RecordStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordStore").finish_non_exhaustive()
    }
}

impl RecordStore {
    /// The records of the store in `root`. A last use may stay unwritten for `persist_after` seconds.
    pub(crate) fn new(
        root: &Path,
        space: Arc<Space>,
        persist_after: u32,
        kinds: Vec<&'static ExtensionKind>,
    ) -> Self {
        Self::with_cache(root, space, persist_after, kinds, RecordCache::new())
    }

    fn with_cache(
        root: &Path,
        space: Arc<Space>,
        persist_after: u32,
        kinds: Vec<&'static ExtensionKind>,
        cache: RecordCache,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                files: RecordFiles::new(root, space, persist_after),
                cache,
                generations: Generations::default(),
                bucket: OnceLock::new(),
                lists: RepositoryLists::new(),
                answers_in_memory: AtomicBool::new(false),
                kinds,
            }),
        }
    }

    /// Sets the bucket to share records in.
    pub(crate) fn share(&self, bucket: &Bucket) {
        let _ = self.inner.bucket.set(bucket.clone());
    }

    /// Whether answers to questions stay in memory from now on. Writes and removals reach the disk nevertheless.
    pub(crate) fn keep_answers_in_memory(&self, value: bool) {
        self.inner.answers_in_memory.store(value, Ordering::SeqCst);
    }

    /// Reads the records of a repository from the disk again, since another process has changed some.
    pub fn reread(&self, name: &RepositoryName) {
        let is_of = |key: &RecordKey| key.repository() == Some(name);
        self.inner.generations.write_where(is_of, || {
            self.inner.cache.remove_where(is_of);
        });
        self.inner.lists.clear();
    }

    /// Begins a question about a record. Call it before asking the upstream.
    pub fn ask<K: TypedKey>(&self, key: &K) -> Question<K::Value> {
        Question {
            inner: self.inner.generations.ask(key.clone().into()),
            value: PhantomData,
        }
    }

    /// Opens a record. One that cannot be parsed counts as absent: the upstream is asked again.
    ///
    /// # Errors
    /// When the disk cannot tell whether the record exists, which is not the same as absent.
    pub async fn open<K: TypedKey>(&self, key: &K) -> io::Result<Option<Arc<K::Value>>> {
        let key = key.clone().into();
        loop {
            let now = unix(SystemTime::now());
            if let Some(record) = self.cached(&key, now) {
                return Ok(Some(record));
            }
            let question = self.inner.generations.ask(key.clone());
            let (inner, path) = (self.inner.clone(), key.path());
            let file = path.clone();
            let read = tokio::task::spawn_blocking(move || inner.files.read(&file));
            let (bytes, used) = match read.await.map_err(io::Error::other)? {
                Ok(read) => read,
                Err(error) if is_absent(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let Ok(record) = serde_json::from_slice::<K::Value>(&bytes) else {
                tracing::warn!(record = %path, "a record on disk cannot be parsed; the upstream is asked again");
                return Ok(None);
            };
            let record = Arc::new(record);
            let cache = || self.cache(&key, &record, bytes.len(), Persisted::Yes);
            // Otherwise the record was changed or removed meanwhile: read the disk again.
            if question.unchanged(cache).is_some() {
                if now.saturating_sub(used) >= self.inner.files.persist_after() {
                    self.touch(path);
                }
                return Ok(Some(record));
            }
        }
    }

    /// A record that another gateway shared in the bucket, if `accepts` allows it. It is not stored here.
    pub async fn find_shared<K: TypedKey>(
        &self,
        key: &K,
        accepts: impl Fn(&K::Value) -> bool,
    ) -> Option<K::Value> {
        let bucket = self.inner.bucket.get()?;
        let record = bucket.record::<K::Value>(&key.clone().into()).await?;
        accepts(&record).then_some(record)
    }

    /// Opens a record that another gateway shared in the bucket, if `accepts` allows it, and stores it.
    pub async fn open_shared<K: TypedKey>(
        &self,
        key: &K,
        accepts: impl Fn(&K::Value) -> bool,
    ) -> Option<Arc<K::Value>> {
        let question = self.ask(key);
        let record = self.find_shared(key, accepts).await?;
        match self.answer(&question, record, Reach::Local).await {
            Outcome::Current(record) => Some(record),
            // The record was removed meanwhile.
            Outcome::Outdated(_) => None,
        }
    }

    /// A record and its last use, from memory where it is newer; without noting a use. Blocks on the disk.
    pub(crate) fn inspect<K: TypedKey>(&self, key: &K) -> io::Result<Option<Inspected<K::Value>>>
    where
        K::Value: Clone,
    {
        let key = key.clone().into();
        let cached = self.inner.cache.entry(&key);
        let used = cached.as_ref().map(|entry| &entry.persisted_use);
        let used = used.map(|used| used.load(Ordering::Relaxed));
        let cached = cached.and_then(|entry| entry.record::<K::Value>());
        let (bytes, last_use) = match (self.inner.files.read(&key.path()), used) {
            (Ok(read), _) => read,
            // The disk refused to write it.
            (Err(error), Some(used)) if is_absent(&error) => (Vec::new(), used),
            (Err(error), None) if is_absent(&error) => return Ok(None),
            (Err(error), _) => return Err(error),
        };
        let value = match cached {
            Some(record) => Some(K::Value::clone(&record)),
            None => serde_json::from_slice(&bytes).ok(),
        };
        Ok(value.map(|value| Inspected { value, last_use }))
    }

    /// How long a last use may stay unwritten.
    pub(crate) fn persist_after(&self) -> Duration {
        Duration::from_secs(self.inner.files.persist_after())
    }

    /// Writes the current time as the last use of a record, if there is one and its last use is a while ago. Blocks on
    /// the disk.
    pub(crate) fn note_use(&self, key: &RecordKey) {
        let (files, path) = (&self.inner.files, key.path());
        let used = std::fs::metadata(files.full_path(&path)).and_then(|meta| meta.modified());
        let now = unix(SystemTime::now());
        if used.is_ok_and(|used| now.saturating_sub(unix(used)) >= files.persist_after()) {
            files.touch(&path);
        }
    }

    /// Whether a record is on disk. Blocks on the disk.
    pub fn is_on_disk<K: TypedKey>(&self, key: &K) -> bool {
        let path = key.clone().into().path();
        self.inner.files.full_path(&path).is_file()
    }

    /// Stores a record of this gateway, which is not shared.
    pub async fn put<K: TypedKey>(&self, key: &K, record: K::Value) -> Arc<K::Value> {
        let question = self.ask(key);
        let outcome = self.answer(&question, record, Reach::Local).await;
        outcome.into_record()
    }

    /// The tags of a repository that have a record. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn known_tags(&self, name: &RepositoryName) -> io::Result<Vec<Tag>> {
        let folder = TagKey::class_folder(name, AcceptClass::Full);
        let folder = self.inner.files.full_path(&folder);
        let entries = match std::fs::read_dir(folder) {
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            entries => entries?,
        };
        let tag =
            |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        Ok(entries.filter_map(tag).collect())
    }

    /// Removes every tag of a repository that points at `digest`, and discards answers to earlier questions about any
    /// of its tags. Reads all of its tags.
    pub async fn remove_tags_of(&self, name: &RepositoryName, digest: Digest) {
        self.end_generations(|key| match key {
            RecordKey::Tag(tag) => tag.name == *name,
            _ => false,
        });
        let (records, folder) = (self.clone(), TagKey::folder(name));
        let found = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            records.walk_folder(&folder, &mut |visited| {
                let Visited::Record { path, entry, .. } = visited else {
                    return;
                };
                let file = entry.path();
                let read = || std::fs::read(&file).ok();
                let pointer: Option<crate::record::Pointer> = StoredValue::new(&read).parse();
                let is_of = pointer.is_some_and(|pointer| pointer.digest == digest);
                if let (true, Some(RecordKey::Tag(tag))) = (is_of, records.parse(path)) {
                    found.push(tag);
                }
            });
            found
        });
        for tag in found.await.unwrap_or_default() {
            self.remove(&tag).await;
        }
    }

    /// Ends the generations of these records: answers to earlier questions are not stored.
    pub(crate) fn end_generations(&self, ends: impl Fn(&RecordKey) -> bool) {
        self.inner.generations.write_where(ends, || ());
    }

    /// The key of the record at a path below the store's folder.
    pub(crate) fn parse(&self, path: &str) -> Option<RecordKey> {
        RecordKey::parse(path, &self.inner.kinds)
    }

    /// The cached record, if there is one. Notes its use.
    fn cached<V: Record>(&self, key: &RecordKey, now: u64) -> Option<Arc<V>> {
        let entry = self.inner.cache.entry(key)?;
        let record = entry.record()?;
        let persisted = entry.persisted_use.load(Ordering::Relaxed);
        if now.saturating_sub(persisted) >= self.inner.files.persist_after() {
            entry.persisted_use.store(now, Ordering::Relaxed);
            self.touch(key.path());
        }
        Some(record)
    }

    fn cache<V: Record>(
        &self,
        key: &RecordKey,
        record: &Arc<V>,
        length: usize,
        persisted: Persisted,
    ) {
        let persisted_check = match persisted {
            Persisted::Yes => record.checked_at().or(Some(0)),
            Persisted::No => None,
        };
        let used = unix(SystemTime::now());
        let entry = CachedRecord::new(record, length, used, persisted_check);
        self.inner.cache.insert(key, entry);
    }

    fn touch(&self, path: String) {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || inner.files.touch(&path));
    }
}

#[cfg(test)]
mod tests;
