//! What repositories there are: the folders that hold manifests.
//!
//! They are walked by one thread for all who ask, so that none are missing where bytes are read, and remembered for a
//! minute, or until a repository comes that is not among them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Links;
use super::records::component;
use oci::name::{Registry, Repository};

/// How many folders are looked at. More names than that nobody reads.
const FOLDERS: usize = 200_000;
/// How many names are remembered in all, and how long.
const REMEMBERED: u64 = 200_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// How many folders are looked at for repositories with blobs: somebody waits for them.
const FOLDERS_OF_BLOBS: usize = 20_000;

/// A repository of which something is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRepository {
    pub repository: Repository,
    /// Whether the upstream ever said that everybody may read it.
    pub public: bool,
}

/// By name.
type Repositories = Arc<[KnownRepository]>;

/// What was found, and whose turn it is to look.
#[derive(Debug)]
pub(super) struct Walks {
    turn: Semaphore,
    known: moka::sync::Cache<Registry, Repositories>,
    /// Counts what made something remembered wrong.
    changes: AtomicU64,
}

impl Walks {
    pub fn new() -> Self {
        let weight = |_: &Registry, known: &Repositories| {
            u32::try_from(known.len()).map_or(u32::MAX, |names| names.saturating_add(1))
        };
        Self {
            turn: Semaphore::new(1),
            known: moka::sync::Cache::builder()
                .max_capacity(REMEMBERED)
                .weigher(weight)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            changes: AtomicU64::new(0),
        }
    }

    /// A repository is here; `public` is whether everybody may read it, where that is known now.
    pub fn note(&self, registry: &Registry, repository: &Repository, public: Option<bool>) {
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

    /// Something is gone, whatever it was.
    pub fn forget(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate_all();
    }
}

impl Links {
    /// The repositories of a registry that have a manifest here, by name.
    ///
    /// # Errors
    /// When the disk cannot say.
    pub async fn repositories(&self, registry: &Registry) -> io::Result<Arc<[KnownRepository]>> {
        let walks = &self.walks;
        if let Some(known) = walks.known.get(registry) {
            return Ok(known);
        }
        let _turn = walks.turn.acquire().await.map_err(io::Error::other)?;
        // Whoever had the turn before may have walked there.
        if let Some(known) = walks.known.get(registry) {
            return Ok(known);
        }
        let changes = walks.changes.load(Ordering::SeqCst);
        let root = self.root.join(component(registry.as_str()));
        let walking = tokio::task::spawn_blocking(move || walk(&root));
        let found: Repositories = walking.await.map_err(io::Error::other)??.into();
        tracing::debug!(%registry, repositories = found.len(), "walked");
        walks.known.insert(registry.clone(), found.clone());
        if walks.changes.load(Ordering::SeqCst) != changes {
            walks.known.invalidate(registry);
        }
        Ok(found)
    }

    /// The repositories of a registry that have a blob here, of the first 20,000 folders, in no order. Blocks.
    ///
    /// # Errors
    /// When the disk cannot say.
    pub fn repositories_with_blobs(&self, registry: &Registry) -> io::Result<Vec<Repository>> {
        let mut found = Vec::new();
        let root = self.root.join(component(registry.as_str()));
        visit(&root, FOLDERS_OF_BLOBS, |repository, folder| {
            if folder.join("_blobs").exists() {
                found.push(repository);
            }
        })?;
        Ok(found)
    }
}

/// The repositories below a registry's folder that have a manifest, by name. Blocks.
fn walk(root: &Path) -> io::Result<Vec<KnownRepository>> {
    let mut found = Vec::new();
    visit(root, FOLDERS, |repository, folder| {
        if !is_empty(&folder.join("_manifests")) {
            let public = folder.join("_public").exists();
            found.push(KnownRepository { repository, public });
        }
    })?;
    found.sort_unstable_by(|one, other| one.repository.cmp(&other.repository));
    Ok(found)
}

/// Visits those of the first `most` folders below a registry's that are called like a repository. Blocks.
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
            // It is gone, or nothing was ever kept.
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
mod tests {
    use super::*;
    use crate::{ManifestLink, PublicLink, Reach, Store};

    fn named(found: &[KnownRepository]) -> Vec<(&str, bool)> {
        let named = found.iter();
        named
            .map(|known| (known.repository.as_str(), known.public))
            .collect()
    }

    #[test]
    fn repositories_are_the_folders_with_manifests() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("registry.local%3A5000");
        assert_eq!(walk(&root).expect("readable"), []);
        for (folder, file) in [
            ("app/_manifests", "sha256-x"),
            ("team/app/_manifests", "sha256-x"),
            ("team/app/sub/_manifests", "sha256-x"),
            ("team/app", "_public"),
            // Nothing is left of it.
            ("team/gone/_manifests", ""),
            ("team/blobs/_blobs", "sha256-x"),
            ("_manifests", "sha256-x"),
        ] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).expect("writable");
            if !file.is_empty() {
                std::fs::write(folder.join(file), b"{}").expect("writable");
            }
        }
        let found = walk(&root).expect("readable");
        let expected = [("app", false), ("team/app", true), ("team/app/sub", false)];
        assert_eq!(named(&found), expected);
    }

    #[tokio::test]
    async fn what_comes_and_goes_is_seen_by_the_next_who_ask() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&crate::Settings::at(dir.path())).expect("a store");
        store.scan();
        let (links, registry) = (&store.links, Registry::new("up.example"));
        let manifest = |name: &'static str, n: u8| {
            let digest = oci::digest::Digest::of(oci::digest::Algorithm::Sha256, &[n]);
            let link = ManifestLink {
                media_type: "x".into(),
                size: 1,
                checked_at: 0,
                subject: None,
                stored: None,
            };
            let repository: Repository = name.parse().expect("a name");
            async move {
                let registry = Registry::new("up.example");
                links
                    .link_manifest(
                        &links.ask_manifest(&registry, &repository, &digest),
                        link,
                        Reach::Here,
                    )
                    .await;
            }
        };
        let found = || async { links.repositories(&registry).await.expect("readable") };
        assert_eq!(named(&found().await), []);
        manifest("team/app", 1).await;
        let first = found().await;
        assert_eq!(named(&first), [("team/app", false)]);
        manifest("team/app", 2).await;
        assert!(Arc::ptr_eq(&first, &found().await), "nothing new");
        manifest("base/app", 3).await;
        assert_eq!(
            named(&found().await),
            [("base/app", false), ("team/app", false)]
        );
        let app: Repository = "team/app".parse().expect("a name");
        let link = PublicLink { checked_at: 0 };
        links
            .link_public(&links.ask_public(&registry, &app), link)
            .await;
        assert_eq!(
            named(&found().await),
            [("base/app", false), ("team/app", true)]
        );
        links.public_gone(&links.ask_public(&registry, &app)).await;
        assert_eq!(
            named(&found().await),
            [("base/app", false), ("team/app", false)]
        );
    }

    #[test]
    fn repositories_with_blobs_are_the_folders_with_blobs() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&crate::Settings::at(dir.path())).expect("a store");
        let root = dir.path().join("repositories/up.example");
        for folder in ["team/blobs/_blobs", "team/app/_manifests"] {
            std::fs::create_dir_all(root.join(folder)).expect("writable");
        }
        let found = store
            .links
            .repositories_with_blobs(&Registry::new("up.example"));
        assert_eq!(
            found.expect("readable"),
            ["team/blobs".parse().expect("a name")]
        );
    }
}
