//! One image of the folder: its JSON, its ancestry, and its layer, which has to match the checksums beside it.
//!
//! Where there are none, as in a mirror, the layer has to decompress to its end: docker-registry's mirror stored layers
//! that were cut off.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::{MAX_FILE, V1Import};
use crate::body_fetch::is_expected;
use crate::layer_source::checksums;
use crate::records::{BodyPointer, BodyRecords};
use crate::v1_to_v2::{WholeLayerError, check_whole};
use ::import::{Fault, Journal};
use oci::digest::{Algorithm, Digest, Hasher};
use oci::v1::{Endpoint, ImageId, Part};
use runtime::folder::{EntryKind, Folder};
use store::CommitError;

/// How much of a layer is copied at once, in bytes.
const PIECE: usize = 1 << 20;
/// The longest `_checksum`, in bytes.
const MAX_CHECKSUMS: u64 = 64 << 10;

impl V1Import<'_> {
    /// All images, whether a tag names them or not: a mirror has no tags.
    pub(super) async fn images(&self, images: &Folder, journal: &mut Journal<'_>) {
        let entries = match images.entries() {
            Ok(entries) => entries,
            Err(error) => return journal.fault("images", &Fault::unreadable(&error)),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return journal.fault("images", &Fault::unreadable(&error)),
            };
            let name = entry.name.to_string_lossy();
            let outcome = match (name.parse::<ImageId>(), entry.kind) {
                (Ok(id), EntryKind::Folder) => match images.folder(&name) {
                    Ok(folder) => self.image(&id, &folder, journal).await,
                    Err(error) => Err(Fault::unreadable(&error)),
                },
                (_, EntryKind::Link) => Err(Fault::skipped(
                    "it is a symbolic link, which is not followed",
                )),
                _ => Err(Fault::skipped("it is no image")),
            };
            journal.note(&format!("images/{name}"), outcome);
            journal.step();
        }
    }

    async fn image(
        &self,
        id: &ImageId,
        folder: &Folder,
        journal: &mut Journal<'_>,
    ) -> Result<(), Fault> {
        if folder.file("_inprogress").is_ok() {
            return Err(Fault::skipped("its upload did not end"));
        }
        let json = optional(folder, "json", MAX_FILE)?;
        let json = json.ok_or_else(|| Fault::skipped("it has no json"))?;
        if !is_expected(&part(id, Part::Json), &json) {
            return Err(Fault::damaged("its json is not that of this image"));
        }
        let mut is_new = false;
        if let Some(ancestry) = optional(folder, "ancestry", MAX_FILE)? {
            let endpoint = part(id, Part::Ancestry);
            if !is_expected(&endpoint, &ancestry) {
                return Err(Fault::damaged("its ancestry is not that of this image"));
            }
            is_new |= self.body(&endpoint, &ancestry, None, None).await?;
        }
        let Some(file) = optional_file(folder, "layer")? else {
            self.body(&part(id, Part::Json), &json, None, None).await?;
            return Err(Fault::skipped("its layer is not in the folder"));
        };
        let sums = optional(folder, "_checksum", MAX_CHECKSUMS)?.unwrap_or_default();
        let sums = String::from_utf8_lossy(&sums).into_owned();
        let size = file
            .metadata()
            .map_err(|error| Fault::unreadable(&error))?
            .len();
        is_new |= self
            .layer(id, &file, size, &json, &checksums(&sums), journal)
            .await?;
        // What a request would have been answered with.
        let sums = Some(sums).filter(|sums| !checksums(sums).is_empty());
        is_new |= self
            .body(&part(id, Part::Json), &json, Some(size), sums)
            .await?;
        if is_new {
            journal.report.imported.images += 1;
        } else {
            journal.report.present.images += 1;
        }
        Ok(())
    }

    /// Stores a layer, unless it is stored; returns whether it is new.
    async fn layer(
        &self,
        id: &ImageId,
        file: &File,
        size: u64,
        json: &[u8],
        checksums: &[Digest],
        journal: &mut Journal<'_>,
    ) -> Result<bool, Fault> {
        let endpoint = part(id, Part::Layer);
        let store = &self.registries.store;
        let known = BodyRecords::of(store)
            .open(self.registry(), &endpoint)
            .await;
        if let Some(known) = known.map_err(Fault::not_stored)? {
            let stored = store.blobs.inspect(&known.digest, Some(known.size));
            if known.size == size && stored.map_err(Fault::not_stored)?.is_some() {
                return Ok(false);
            }
        }
        if checksums.is_empty() {
            check_whole(FileReader { file, offset: 0 }).map_err(|error| match error {
                WholeLayerError::Damaged => {
                    Fault::damaged("its layer has no checksum, and does not decompress to its end")
                }
                WholeLayerError::Unknown => Fault::skipped(
                    "its layer has no checksum, and a format that shows no end, so that it may be incomplete",
                ),
                WholeLayerError::Read(error) => Fault::unreadable(&error),
            })?;
        }
        let digest = self.copy(id, file, size, json, checksums)?;
        journal.report.imported.bytes += size;
        let pointer = BodyPointer {
            digest,
            size,
            checked_at: self.now,
            layer_size: None,
            checksum: None,
        };
        self.point(&endpoint, pointer).await?;
        Ok(true)
    }

    /// Copies a layer into the store. It is no hard link, since docker-registry writes into its files.
    fn copy(
        &self,
        id: &ImageId,
        file: &File,
        size: u64,
        json: &[u8],
        checksums: &[Digest],
    ) -> Result<Digest, Fault> {
        let blobs = &self.registries.store.blobs;
        let mut payload = Hasher::new(Algorithm::Sha256);
        payload.update(json);
        payload.update(b"\n");
        let seed = format!("roadstead imported layer\0{}\0{id}", self.registry());
        let key = Digest::of(Algorithm::Sha256, seed.as_bytes());
        let room = blobs.reserve_without_eviction(size);
        let staged = blobs.stage_unnamed(&key, room.map_err(CommitError::from)?, Some(size));
        let mut staged = staged.map_err(CommitError::from)?;
        let mut buffer = vec![0; PIECE];
        loop {
            let read = read_at_once(file, &mut buffer, staged.written());
            let read = read.map_err(|error| Fault::unreadable(&error))?;
            if read == 0 {
                break;
            }
            payload.update(&buffer[..read]);
            staged.append(&buffer[..read])?;
        }
        let payload = payload.finish();
        if !checksums.is_empty() && !checksums.contains(&payload) {
            return Err(Fault::damaged(format!(
                "its json and layer have the checksum {payload}, which is not among those beside them"
            )));
        }
        Ok(staged.commit_unnamed()?.0)
    }
}

pub(super) fn part(id: &ImageId, part: Part) -> Endpoint {
    let id = id.clone();
    Endpoint::Image { id, part }
}

/// A file's bytes, if there is such a file.
pub(super) fn optional(folder: &Folder, name: &str, most: u64) -> Result<Option<Vec<u8>>, Fault> {
    match folder.read(name, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::damaged(format!(
            "its {name} cannot be read: {error}"
        ))),
    }
}

fn optional_file(folder: &Folder, name: &str) -> Result<Option<File>, Fault> {
    match folder.file(name) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::damaged(format!(
            "its {name} cannot be read: {error}"
        ))),
    }
}

fn read_at_once(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Reads a file from its start, whatever others read of it.
struct FileReader<'a> {
    file: &'a File,
    offset: u64,
}

impl io::Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
