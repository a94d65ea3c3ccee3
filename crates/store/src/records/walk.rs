//! Walks through the files of records.

use std::fs::DirEntry;
use std::path::Path;

use super::RecordStore;
use crate::layout::{BLOCK, REPOSITORIES, component};
use crate::record::ExtensionKind;
use crate::space::blocks;
use oci::name::Registry;

/// A step of a walk.
pub(crate) enum Visited<'a> {
    /// A file: its path below the store's folder, and its registry's folder.
    Record {
        path: &'a str,
        registry: &'a str,
        entry: &'a DirEntry,
    },
    /// A folder whose files were all visited.
    Folder(&'a Path),
}

impl RecordStore {
    /// Visits the records of all kinds. Blocks on the disk.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(Visited<'_>)) {
        for namespace in self.namespaces() {
            for registry in read_dir(&self.inner.files.full_path(namespace)) {
                let registry = registry.file_name().to_string_lossy().into_owned();
                self.walk_folder(&format!("{namespace}/{registry}"), visit);
            }
        }
    }

    /// Visits the records of a registry in the namespace of a kind. Blocks on the disk.
    pub(crate) fn walk_registry(
        &self,
        kind: &ExtensionKind,
        registry: &Registry,
        visit: &mut dyn FnMut(Visited<'_>),
    ) {
        let registry = component(registry.as_str());
        self.walk_folder(&format!("{}/{registry}", kind.namespace), visit);
    }

    /// Visits the records in a folder of a registry, given by its path below the store's. Blocks on the disk.
    pub(super) fn walk_folder(&self, path: &str, visit: &mut dyn FnMut(Visited<'_>)) {
        let registry = path.split('/').nth(1).unwrap_or_default().to_owned();
        walk(&self.inner.files.full_path(path), path, &registry, visit);
    }

    /// Counts the records and their blocks. Calls `manifest` with the file name of every manifest's link. Blocks on
    /// the disk.
    pub(crate) fn count(&self, manifest: &mut dyn FnMut(&str)) -> (u64, u64) {
        let (mut records, mut taken) = (0, 0);
        self.walk(&mut |visited| {
            let Visited::Record { path, entry, .. } = visited else {
                return;
            };
            records += 1;
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let meta = self.may_be_long(name).then(|| entry.metadata().ok());
            taken += meta.flatten().map_or(1, |meta| blocks(meta.len()));
            if folder.ends_with("/_manifests") {
                manifest(name);
            }
        });
        (records, taken)
    }

    /// Whether a file of this name may take more than a block.
    fn may_be_long(&self, name: &str) -> bool {
        let mut kinds = self.inner.kinds.iter();
        kinds.any(|kind| kind.max_bytes > BLOCK && name.starts_with(kind.prefix))
    }

    /// The folders below the store's that hold records.
    fn namespaces(&self) -> Vec<&'static str> {
        let mut namespaces = vec![REPOSITORIES];
        for kind in &self.inner.kinds {
            if !namespaces.contains(&kind.namespace) {
                namespaces.push(kind.namespace);
            }
        }
        namespaces
    }
}

fn walk(folder: &Path, path: &str, registry: &str, visit: &mut dyn FnMut(Visited<'_>)) {
    for entry in read_dir(folder) {
        // Names written by this program are ASCII.
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), &path, registry, visit);
        } else {
            visit(Visited::Record {
                path: &path,
                registry,
                entry: &entry,
            });
        }
    }
    visit(Visited::Folder(folder));
}

/// The entries of a folder; none if it cannot be read.
fn read_dir(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}
