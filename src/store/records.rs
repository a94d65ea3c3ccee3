//! Small records: JSON files with a cache in front.
//!
//! What the cache holds is what the disk holds or is about to. A record's last use is written as its file's
//! mtime, at most hourly: what nobody asks for goes ([`super::sweep`]).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use moka::policy::EvictionPolicy;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bucket::Bucket;
use super::files::Files;
use super::index::BLOCK;
use super::purge::absent_is_fine;
use super::space::unix;
use super::trouble::trouble;

/// Whom a record concerns, where there is a bucket that gateways share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every gateway: it is what the upstream said.
    Shared,
    /// This gateway: it is about what only it has.
    Here,
}

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
}

impl<V> std::fmt::Debug for Records<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> Records<V> {
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

    /// The record that the bucket has at `path`, kept here, if there is one that is `good`.
    pub async fn shared(&self, path: String, good: impl Fn(&V) -> bool) -> Option<Arc<V>> {
        let record = self.bucket.as_ref()?.record::<V>(&path).await?;
        if !good(&record) {
            return None;
        }
        Some(self.keep_here(path, record).await)
    }

    /// The record at `path`. One that cannot be parsed counts as absent: it is asked for anew.
    ///
    /// # Errors
    /// When the disk cannot say whether there is one.
    pub async fn open(&self, path: String) -> io::Result<Option<Arc<V>>> {
        let now = unix(SystemTime::now());
        if let Some(recent) = self.recent.get(&path) {
            let persisted = recent.persisted_use.load(Ordering::Relaxed);
            if now.saturating_sub(persisted) >= self.files.persist_after() {
                recent.persisted_use.store(now, Ordering::Relaxed);
                let files = self.files.clone();
                tokio::task::spawn_blocking(move || files.touch(&path));
            }
            return Ok(Some(recent.record.clone()));
        }
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
        if now.saturating_sub(used) >= self.files.persist_after() {
            let (files, file) = (self.files.clone(), path.clone());
            tokio::task::spawn_blocking(move || files.touch(&file));
        }
        Ok(Some(self.remember(path, record, now)))
    }

    /// Keeps a record. It counts from now on; a disk that refuses it costs a question after a restart,
    /// so that is only logged. One that is too long, since a stranger may say what is in it, is kept nowhere,
    /// nor is the one before it, which is no longer so.
    pub async fn keep(&self, path: String, record: V) -> Arc<V> {
        let Some(json) = self.written(&path, &record) else {
            self.remove(path).await;
            return Arc::new(record);
        };
        if let Some(bucket) = &self.bucket {
            bucket.keep_record(&path, &record);
        }
        self.keep_written(path, record, json).await
    }

    /// Keeps a record for whom it concerns.
    pub async fn keep_for(&self, reach: Reach, path: String, record: V) -> Arc<V> {
        match reach {
            Reach::Shared => self.keep(path, record).await,
            Reach::Here => self.keep_here(path, record).await,
        }
    }

    /// Keeps a record that is nobody else's.
    async fn keep_here(&self, path: String, record: V) -> Arc<V> {
        let Some(json) = self.written(&path, &record) else {
            self.remove_here(path).await;
            return Arc::new(record);
        };
        self.keep_written(path, record, json).await
    }

    /// A record as it is on disk; `None` if it would be too long.
    fn written(&self, path: &str, record: &V) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(record).ok()?;
        if json.len() as u64 > self.longest {
            let (bytes, most) = (json.len(), self.longest);
            tracing::warn!(record = %path, bytes, most, "a record is too long, and is not kept");
            return None;
        }
        Some(json)
    }

    async fn keep_written(&self, path: String, record: V, json: Vec<u8>) -> Arc<V> {
        let record = self.remember(path.clone(), record, unix(SystemTime::now()));
        let files = self.files.clone();
        let write = tokio::task::spawn_blocking(move || files.write(&path, &json));
        if let Ok(Err(error)) = write.await {
            trouble("a record cannot be written", &error);
        }
        record
    }

    fn remember(&self, path: String, record: V, used: u64) -> Arc<V> {
        let recent = Arc::new(Recent {
            record: Arc::new(record),
            persisted_use: AtomicU64::new(used),
        });
        self.recent.insert(path, recent.clone());
        recent.record.clone()
    }

    /// Forgets the records two levels below `folder` (`<class>/<name>`) that `gone` is true of.
    pub async fn remove_where(&self, folder: String, gone: impl Fn(&V) -> bool + Send + 'static) {
        let root = self.files.root().to_owned();
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

    /// [`Records::remove`] where the disk may be waited for.
    ///
    /// # Errors
    /// When it cannot be removed; that it is not there is none.
    pub fn remove_now(&self, path: &str) -> io::Result<()> {
        let removed = absent_is_fine(self.files.remove(path));
        // In this order: who read it just now may have put it here again.
        self.recent.invalidate(path);
        removed
    }

    /// Forgets a record.
    pub async fn remove(&self, path: String) {
        if let Some(bucket) = &self.bucket {
            bucket.remove_record(&path);
        }
        self.remove_here(path).await;
    }

    async fn remove_here(&self, path: String) {
        self.recent.invalidate(&path);
        let files = self.files.clone();
        let removal = tokio::task::spawn_blocking(move || files.remove(&path));
        if let Ok(Err(error)) = removal.await
            && !is_absent(&error)
        {
            trouble("a record cannot be removed", &error);
        }
    }

    /// Forgets what is in memory of a record.
    pub fn forget(&self, path: &str) {
        self.recent.invalidate(path);
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
mod tests {
    use super::super::Settings;
    use super::super::space::Space;
    use super::*;

    #[test]
    fn components_are_safe() {
        for (name, file) in [
            ("docker.io", "docker.io"),
            ("registry.local:5000", "registry.local%3A5000"),
            (".", "%2E"),
            ("..", "%2E."),
            ("a/b", "a%2Fb"),
        ] {
            assert_eq!(component(name), file);
        }
    }

    fn records(root: &Path) -> Records<Vec<u32>> {
        let space = Arc::new(Space::new(&Settings::at(root)));
        space.settle();
        let files = Arc::new(Files::new(root, space, 3600));
        Records::new(&files, 10)
    }

    #[tokio::test]
    async fn records_outlive_the_cache() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("repositories/a/b");
        let first = records(folder.path());
        let open = async |records: &Records<Vec<u32>>, path: &str| {
            records.open(path.into()).await.expect("readable")
        };
        assert_eq!(open(&first, "a/b").await, None);
        first.keep("a/b".into(), vec![1, 2]).await;
        first.keep("a/b".into(), vec![3]).await;

        let again = records(folder.path());
        assert_eq!(open(&again, "a/b").await.as_deref(), Some(&vec![3]));
        // A file where a folder would be: absent, as ENOTDIR says.
        assert_eq!(open(&again, "a/b/c").await, None);

        std::fs::write(&file, b"{broken").expect("writable");
        let again = records(folder.path());
        assert_eq!(open(&again, "a/b").await, None);
        again.remove("a/b".into()).await;
        assert!(!file.exists());
    }

    /// What is in a record may be a stranger's choice.
    #[tokio::test]
    async fn a_record_that_is_too_long_is_kept_nowhere() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = records(folder.path());
        let long = vec![1_000_000; 512];
        first.keep("a/b".into(), vec![1]).await;
        let kept = first.keep("a/b".into(), long.clone()).await;
        assert_eq!(*kept, long, "who kept it goes on");
        for records in [first, records(folder.path())] {
            let open = records.open("a/b".into()).await.expect("readable");
            assert_eq!(open, None, "neither it nor what was before");
        }

        let space = Arc::new(Space::new(&Settings::at(folder.path())));
        space.settle();
        let files = Arc::new(Files::new(folder.path(), space.clone(), 3600));
        let records: Records<Vec<u32>> = Records::long(&files, 2 * BLOCK, 10, |_| 1);
        for (record, blocks) in [(vec![1], 1), (long.clone(), 2), (vec![1], 1), (long, 2)] {
            records.keep("a/b".into(), record.clone()).await;
            assert_eq!((space.records(), space.used()), (1, blocks * BLOCK));
            let again: Records<Vec<u32>> = Records::new(&files, 10);
            let open = again.open("a/b".into()).await.expect("readable");
            assert_eq!(open.as_deref(), Some(&record));
        }
        records.remove("a/b".into()).await;
        assert_eq!((space.records(), space.used()), (0, 0));
    }

    #[tokio::test]
    async fn a_last_use_is_written_hourly() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("repositories/a/b");
        let first = records(folder.path());
        first.keep("a/b".into(), vec![1]).await;
        let old = SystemTime::now() - std::time::Duration::from_secs(3700);
        let handle = std::fs::File::open(&file).expect("readable");
        handle.set_modified(old).expect("writable");
        let used = || {
            let meta = std::fs::metadata(&file).expect("a record");
            meta.modified().expect("a time")
        };
        first.open("a/b".into()).await.expect("readable");
        assert!(used() <= old, "it is known to be used");
        let again = records(folder.path());
        again.open("a/b".into()).await.expect("readable");
        while used() <= old {
            tokio::task::yield_now().await;
        }
    }
}
