//! The storage folder of docker-registry 0.9, taken into the store: `images/<id>/{json,ancestry,layer,_checksum}` and
//! `repositories/<namespace>/<name>/{tag_<tag>,_index_images}`.
//!
//! Nothing is asked of the registry, which may be gone. Where its images are served to v2 clients, they are converted at
//! once, so that those can pull them then.

mod converted;
mod image;
mod repository;

use std::sync::Arc;
use std::time::SystemTime;

use crate::Registries;
use crate::origin::V1Origin;
use crate::pass_through::MAX_LIST;
use crate::records::{BodyPointer, BodyRecords};
use ::import::{Fault, Journal};
use mirror::{MirrorError, unix_seconds};
use oci::digest::{Algorithm, Digest};
use oci::name::Registry;
use oci::v1::Endpoint;
use runtime::folder::{Entries, EntryKind, Folder};
use store::CommitError;

/// The longest file but a layer, in bytes.
const MAX_FILE: u64 = MAX_LIST as u64;

/// An import that is running.
struct V1Import<'a> {
    registries: &'a Arc<Registries>,
    origin: &'a Arc<V1Origin>,
    folder: &'a Folder,
    /// In seconds since 1970.
    now: u64,
}

impl Registries {
    /// Imports a storage folder as content of a registry. Blocks on the disk.
    ///
    /// # Errors
    /// [`MirrorError::NotServed`] if the registry has no v1 side, and [`MirrorError::Disk`] if the folder cannot be read.
    pub async fn import(
        self: &Arc<Self>,
        registry: &Registry,
        folder: &Folder,
        journal: &mut Journal<'_>,
    ) -> Result<(), MirrorError> {
        let origin = self.origins.get(registry).ok_or(MirrorError::NotServed)?;
        let import = V1Import {
            registries: self,
            origin,
            folder,
            now: unix_seconds(SystemTime::now()),
        };
        let unreadable = |error| MirrorError::Disk(Arc::new(error));
        let images = folder.folder("images").map_err(unreadable)?;
        journal.report.total = import.count(&images).map_err(unreadable)?;
        import.images(&images, journal).await;
        if let Ok(repositories) = folder.folder("repositories") {
            import.repositories(&repositories, journal).await;
        }
        Ok(())
    }
}

impl V1Import<'_> {
    fn registry(&self) -> &Registry {
        &self.origin.registry
    }

    /// The number of images and tags.
    fn count(&self, images: &Folder) -> std::io::Result<u64> {
        let mut total = images.entries()?.count() as u64;
        let Ok(repositories) = self.folder.folder("repositories") else {
            return Ok(total);
        };
        for (namespace, folder) in folders(&repositories) {
            for (name, _) in folders(&folder) {
                let tags = entries(&repositories, &format!("{namespace}/{name}"));
                total += tags.map_or(0, |tags| tags.filter(is_tag).count() as u64);
            }
        }
        Ok(total)
    }

    /// Stores a small body with its pointer; returns whether it was new.
    async fn body(
        &self,
        endpoint: &Endpoint,
        bytes: &[u8],
        layer_size: Option<u64>,
        checksum: Option<String>,
    ) -> Result<bool, Fault> {
        let blobs = &self.registries.store.blobs;
        let pointer = BodyPointer {
            digest: Digest::of(Algorithm::Sha256, bytes),
            size: bytes.len() as u64,
            checked_at: self.now,
            layer_size,
            checksum,
        };
        let stored = blobs.inspect(&pointer.digest, None);
        if stored.map_err(Fault::not_stored)?.is_none() {
            let room = blobs.reserve_without_eviction(pointer.size);
            drop(room.map_err(CommitError::from)?);
            blobs.put(&pointer.digest, bytes)?;
        }
        self.point(endpoint, pointer).await
    }

    /// Stores a pointer; returns whether it was new.
    async fn point(&self, endpoint: &Endpoint, pointer: BodyPointer) -> Result<bool, Fault> {
        use store::Record as _;

        let bodies = BodyRecords::of(&self.registries.store);
        let known = bodies.open(self.registry(), endpoint).await;
        let known = known.map_err(Fault::not_stored)?;
        if known.is_some_and(|known| known.has_same_content(&pointer)) {
            return Ok(false);
        }
        let question = bodies.ask(self.registry(), endpoint);
        bodies.store(&question, pointer).await;
        if bodies.is_on_disk(self.registry(), endpoint) {
            Ok(true)
        } else {
            Err(Fault::not_stored("its record cannot be written"))
        }
    }
}

/// The folders in a folder.
fn folders(folder: &Folder) -> impl Iterator<Item = (String, Folder)> {
    let entries = folder.entries().into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.name.into_string().ok()?;
        let folder = folder.folder(&name).ok()?;
        (entry.kind == EntryKind::Folder).then_some((name, folder))
    })
}

fn entries(folder: &Folder, path: &str) -> std::io::Result<Entries> {
    folder.folder(path)?.entries()
}

/// Whether an entry of a repository is a tag.
fn is_tag(entry: &std::io::Result<runtime::folder::Entry>) -> bool {
    let name = entry.as_ref().map(|entry| entry.name.to_string_lossy());
    name.is_ok_and(|name| name.starts_with(repository::TAG))
}
