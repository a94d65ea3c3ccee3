//! The repositories of a registry: the folders that hold manifests.
//!
//! One thread at a time lists them for all callers, so that the pool of blocking threads is not used up. A list is
//! cached for a minute, or until a repository is added that is not in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::RecordStore;
use crate::layout::{REPOSITORIES, component};
use crate::record::{BLOBS, MANIFESTS, PUBLIC};
use oci::name::{Registry, Repository, RepositoryName};

/// How many folders are visited at most: a longer list is of no use.
const FOLDERS: usize = 200_000;
/// How many names are cached in all, and for how long.
const MAX_CACHED_NAMES: u64 = 200_000;
const CACHE_TTL: Duration = Duration::from_secs(60);

/// How many folders are searched for repositories with blobs: a client waits for the answer.
const FOLDERS_OF_BLOBS: usize = 20_000;

/// A repository that has a manifest in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRepository {
    /// The name within its registry.
    pub repository: Repository,
    /// Whether the upstream ever allowed an anonymous read.
    pub public: bool,
}

/// Sorted by name.
type Repositories = Arc<[KnownRepository]>;

/// The cached lists, and the permit to walk for another.
#[derive(Debug)]
pub(super) struct RepositoryLists {
    turn: Semaphore,
    known: moka::sync::Cache<Registry, Repositories>,
    /// Counts the changes that invalidated a list.
    changes: AtomicU64,
}

impl RepositoryLists {
    pub fn new() -> Self {
        let weight = |_: &Registry, known: &Repositories| {
            u32::try_from(known.len()).map_or(u32::MAX, |names| names.saturating_add(1))
        };
        Self {
            turn: Semaphore::new(1),
            known: moka::sync::Cache::builder()
                .max_capacity(MAX_CACHED_NAMES)
                .weigher(weight)
                .time_to_live(CACHE_TTL)
                .build(),
            changes: AtomicU64::new(0),
        }
    }

    /// Notes that a repository has a manifest; `public` is whether it can be read anonymously, if that is known.
    pub fn note(&self, name: &RepositoryName, public: Option<bool>) {
        let RepositoryName {
            registry,
            repository,
        } = name;
        let known = self.known.get(registry);
        let same = known.is_some_and(|known| {
            let at = known.binary_search_by(|other| other.repository.cmp(repository));
            at.is_ok_and(|at| public.is_none_or(|public| known[at].public == public))
        });
        if !same {
            self.changes.fetch_add(1, Ordering::SeqCst);
            self.known.invalidate(registry);
        }
    }

    /// Drops all lists: a repository may have lost its last manifest.
    pub fn clear(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate_all();
    }
}

impl RecordStore {
    /// The repositories of a registry that have a manifest in the store, by name.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub async fn repositories(&self, registry: &Registry) -> io::Result<Arc<[KnownRepository]>> {
        let lists = &self.inner.lists;
        if let Some(known) = lists.known.get(registry) {
            return Ok(known);
        }
        let _turn = lists.turn.acquire().await.map_err(io::Error::other)?;
        // The previous caller may have walked the same registry.
        if let Some(known) = lists.known.get(registry) {
            return Ok(known);
        }
        let changes = lists.changes.load(Ordering::SeqCst);
        let root = self.folder(registry);
        let walking = tokio::task::spawn_blocking(move || walk(&root));
        let found: Repositories = walking.await.map_err(io::Error::other)??.into();
        tracing::debug!(%registry, repositories = found.len(), "walked");
        lists.known.insert(registry.clone(), found.clone());
        if lists.changes.load(Ordering::SeqCst) != changes {
            lists.known.invalidate(registry);
        }
        Ok(found)
    }

    /// The repositories of a registry that have a blob in the store, of the first 20,000 folders, in no order. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn repositories_with_blobs(&self, registry: &Registry) -> io::Result<Vec<Repository>> {
        let mut found = Vec::new();
        let root = self.folder(registry);
        visit(&root, FOLDERS_OF_BLOBS, |repository, folder| {
            if folder.join(BLOBS).exists() {
                found.push(repository);
            }
        })?;
        Ok(found)
    }

    fn folder(&self, registry: &Registry) -> PathBuf {
        let registry = component(registry.as_str());
        self.inner
            .files
            .full_path(&format!("{REPOSITORIES}/{registry}"))
    }
}

/// The repositories below a registry's folder that have a manifest, by name. Blocks.
fn walk(root: &Path) -> io::Result<Vec<KnownRepository>> {
    let mut found = Vec::new();
    visit(root, FOLDERS, |repository, folder| {
        if !is_empty(&folder.join(MANIFESTS)) {
            let public = folder.join(PUBLIC).exists();
            found.push(KnownRepository { repository, public });
        }
    })?;
    found.sort_unstable_by(|one, other| one.repository.cmp(&other.repository));
    Ok(found)
}

/// Visits those of the first `most` folders below a registry's that are named like a repository. Blocks.
fn visit(root: &Path, most: usize, mut visit: impl FnMut(Repository, &Path)) -> io::Result<()> {
    let mut folders = vec![root.to_owned()];
    let mut left = most;
    while let Some(folder) = folders.pop() {
        let Some(less) = left.checked_sub(1) else {
            break;
        };
        left = less;
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // The folder was removed, or never created.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            // The kinds of records begin with `_`, components of names never do.
            if !entry.file_name().as_encoded_bytes().starts_with(b"_")
                && entry.file_type()?.is_dir()
            {
                folders.push(entry.path());
            }
        }
        if let Some(repository) = name(root, &folder) {
            visit(repository, &folder);
        }
    }
    Ok(())
}

fn is_empty(folder: &PathBuf) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

fn name(root: &Path, folder: &Path) -> Option<Repository> {
    folder.strip_prefix(root).ok()?.to_str()?.parse().ok()
}

#[cfg(test)]
#[path = "repositories_tests.rs"]
mod tests;
