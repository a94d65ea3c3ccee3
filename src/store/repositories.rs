//! What repositories there are: the folders that hold manifests.

use std::io;
use std::path::{Path, PathBuf};

use super::Links;
use super::records::component;
use crate::spec::name::{Registry, Repository};

/// How many folders are looked at. More names than that nobody reads.
const FOLDERS: usize = 200_000;

/// A repository of which something is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRepository {
    pub repository: Repository,
    /// Whether the upstream ever said that everybody may read it.
    pub public: bool,
}

impl Links {
    /// The repositories of a registry that have a manifest here, in no order. Blocks.
    ///
    /// # Errors
    /// When the disk cannot say.
    pub fn repositories(&self, registry: &Registry) -> io::Result<Vec<KnownRepository>> {
        let root = self.root.join(component(registry.as_str()));
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        let mut left = FOLDERS;
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
            if is_empty(&folder.join("_manifests")) {
                continue;
            }
            if let Some(repository) = name(&root, &folder) {
                let public = folder.join("_public").exists();
                found.push(KnownRepository { repository, public });
            }
        }
        Ok(found)
    }
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

    #[test]
    fn repositories_are_the_folders_with_manifests() {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::new("registry.local:5000");
        let space = std::sync::Arc::new(super::super::Space::new(&super::super::Settings::at(
            dir.path(),
        )));
        space.settle();
        let files = super::super::files::Files::new(dir.path(), space, 3600);
        let links = Links::new(&std::sync::Arc::new(files));
        assert_eq!(links.repositories(&registry).expect("readable"), []);
        let root = dir.path().join("repositories/registry.local%3A5000");
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
        let found = links.repositories(&registry).expect("readable");
        let mut found: Vec<_> = found
            .iter()
            .map(|known| (known.repository.as_str(), known.public))
            .collect();
        found.sort_unstable();
        let expected = [("app", false), ("team/app", true), ("team/app/sub", false)];
        assert_eq!(found, expected);
        let other = Registry::new("other");
        assert_eq!(links.repositories(&other).expect("readable"), []);
    }
}
