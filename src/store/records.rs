//! Small records: JSON files with a cache in front.
//!
//! A record is replaced whole (temporary file, fsync, rename), so a reader sees the old one or the new
//! one. What the cache holds is what the disk holds or is about to.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::policy::EvictionPolicy;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::purge::absent_is_fine;
use super::trouble::trouble;

/// Records of one kind below one folder, addressed by relative path.
pub struct Records<V> {
    root: PathBuf,
    /// Where a record is before it has its name; what a crash leaves there goes at the next start.
    staging: PathBuf,
    recent: moka::sync::Cache<String, Arc<V>>,
}

impl<V> std::fmt::Debug for Records<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> Records<V> {
    /// Records below `root`, written in `staging` on the same file system first. `entries` bounds what is
    /// kept in memory.
    pub fn new(root: PathBuf, staging: PathBuf, entries: u64) -> Self {
        let recent = moka::sync::Cache::builder()
            .max_capacity(entries)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self {
            root,
            staging,
            recent,
        }
    }

    /// The record at `path`. One that cannot be parsed counts as absent: it is asked for anew.
    ///
    /// # Errors
    /// When the disk cannot say whether there is one.
    pub async fn open(&self, path: String) -> io::Result<Option<Arc<V>>> {
        if let Some(record) = self.recent.get(&path) {
            return Ok(Some(record));
        }
        let file = self.root.join(&path);
        let read = tokio::task::spawn_blocking(move || std::fs::read(file));
        let bytes = match read.await.map_err(io::Error::other)? {
            Ok(bytes) => bytes,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(record) = serde_json::from_slice::<V>(&bytes) else {
            tracing::warn!(record = %path, "a record on disk cannot be read; it is asked for anew");
            return Ok(None);
        };
        let record = Arc::new(record);
        self.recent.insert(path, record.clone());
        Ok(Some(record))
    }

    /// Keeps a record. It counts from now on; a disk that refuses it costs a question after a restart,
    /// so that is only logged.
    pub async fn keep(&self, path: String, record: V) -> Arc<V> {
        let record = Arc::new(record);
        self.recent.insert(path.clone(), record.clone());
        let (file, staging) = (self.root.join(&path), self.staging.clone());
        if let Ok(json) = serde_json::to_vec(record.as_ref()) {
            let write = tokio::task::spawn_blocking(move || write_atomic(&staging, &file, &json));
            if let Ok(Err(error)) = write.await {
                trouble("a record cannot be written", &error);
            }
        }
        record
    }

    /// Forgets the records two levels below `folder` (`<class>/<name>`) that `gone` is true of.
    pub async fn remove_where(&self, folder: String, gone: impl Fn(&V) -> bool + Send + 'static) {
        let root = self.root.clone();
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
    pub fn forget(&self, path: &str) -> io::Result<()> {
        let removed = absent_is_fine(std::fs::remove_file(self.root.join(path)));
        // In this order: who read it just now may have put it here again.
        self.recent.invalidate(path);
        removed
    }

    /// Forgets a record.
    pub async fn remove(&self, path: String) {
        self.recent.invalidate(&path);
        let file = self.root.join(&path);
        let removal = tokio::task::spawn_blocking(move || std::fs::remove_file(file));
        if let Ok(Err(error)) = removal.await
            && !is_absent(&error)
        {
            trouble("a record cannot be removed", &error);
        }
    }
}

/// A component of the path is missing, or is a file where a folder would be.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Replaces a file so that a crash leaves the old bytes or the new ones: temporary file in `staging`, fsync,
/// rename, fsync of the folder. Creates the folders above it.
///
/// # Errors
/// What the disk says; nothing is left behind then.
pub fn write_atomic(staging: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);

    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    std::fs::create_dir_all(staging)?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    // One process at a time has the store, so a number is name enough.
    let temporary = staging.join(format!(".tmp-{serial}"));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    File::open(folder)?.sync_all()
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

    #[tokio::test]
    async fn records_outlive_the_cache() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let staging = folder.path().join("staging");
        let records = Records::<Vec<u32>>::new(folder.path().into(), staging.clone(), 10);
        assert!(
            records
                .open("a/b".into())
                .await
                .expect("readable")
                .is_none()
        );
        records.keep("a/b".into(), vec![1, 2]).await;

        let again = Records::<Vec<u32>>::new(folder.path().into(), staging.clone(), 10);
        assert_eq!(
            again.open("a/b".into()).await.expect("readable").as_deref(),
            Some(&vec![1, 2])
        );
        // A file where a folder would be: absent, as ENOTDIR says.
        assert!(
            again
                .open("a/b/c".into())
                .await
                .expect("readable")
                .is_none()
        );

        std::fs::write(folder.path().join("a/b"), b"{broken").expect("writable");
        let again = Records::<Vec<u32>>::new(folder.path().into(), staging.clone(), 10);
        assert!(again.open("a/b".into()).await.expect("readable").is_none());
        again.remove("a/b".into()).await;
        assert!(!folder.path().join("a/b").exists());
    }
}
