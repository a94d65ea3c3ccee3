//! Purges: planning and carrying them out.
//!
//! Records are removed first, then the blobs that no other record claims, since bytes are shared. With a tag go the
//! manifests and blobs that only it leads to: not those that another tag, or a manifest that was pulled by digest,
//! leads to as well.

mod plan;
mod survey;
mod target;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::Path;

pub use survey::RecordSurvey;
pub use target::PurgeTarget;

use oci::digest::Digest;

use crate::Store;
use crate::blobs::Blobs;
use crate::durable::ignore_absent;
use crate::layout::{PARTIALS, blob_path};
use crate::record::{RecordKey, Reference};
use plan::{Inventory, Listed};

/// The content that a purge removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// `<registry>/<repository>:<tag>`
    pub tags: BTreeSet<String>,
    /// `<registry>/<repository>@<digest>`
    pub manifests: BTreeSet<String>,
    /// `<registry>/<repository>@<digest>`
    pub blobs: BTreeSet<String>,
    /// The blobs whose bytes are removed, and their sizes in bytes.
    pub files: Vec<(Digest, u64)>,
    /// How many blobs stay, since other records claim them.
    pub shared: u64,
    /// Records of other kinds, by their paths in the store.
    pub others: BTreeSet<String>,
    /// The files of records, by their paths below the store's folder.
    records: Vec<(String, Option<RecordKey>)>,
}

impl Purge {
    /// The bytes that become free.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }

    /// Adds a record.
    fn add(&mut self, listed: &Listed) {
        match &listed.key {
            RecordKey::Tag(key) => {
                self.tags.insert(format!("{}:{}", key.name, key.tag));
            }
            RecordKey::Manifest(key) => {
                self.manifests
                    .insert(format!("{}@{}", key.name, key.digest));
            }
            RecordKey::Blob(key) => {
                self.blobs.insert(format!("{}@{}", key.name, key.digest));
            }
            RecordKey::Public(_) => {}
            RecordKey::Extension(key) => {
                let tag = (key.kind().tag)(key);
                if let (Some(name), Some(tag)) = (key.repository(), tag) {
                    self.tags.insert(format!("{name}:{tag}"));
                } else {
                    let place = percent_encoding::percent_decode_str(&listed.path);
                    self.others.insert(place.decode_utf8_lossy().into_owned());
                }
            }
        }
        let record = (listed.path.clone(), Some(listed.key.clone()));
        self.records.push(record);
    }
}

impl Store {
    /// Plans a purge. Blocks: it reads the records of every repository.
    pub fn plan(&self, target: &PurgeTarget) -> Purge {
        let survey = RecordSurvey {
            records: &self.records,
            blobs: &self.blobs,
        };
        let inventory = Inventory::read(&survey);
        let mut selected = inventory.selected(target, &survey);
        for extension in &self.extensions {
            let also = (extension.also_purged)(target, &survey);
            selected.extend(also.into_iter().map(RecordKey::from));
        }
        let (mut purge, mut referenced, mut retained) =
            (Purge::default(), HashSet::new(), HashSet::new());
        for listed in &inventory.records {
            if selected.contains(&listed.key) {
                purge.add(listed);
                referenced.extend(listed.reference.map(Reference::digest));
            } else {
                retained.extend(listed.reference.and_then(Reference::claimed));
            }
        }
        let unknown_files = inventory.unknown_files(target);
        purge
            .records
            .extend(unknown_files.map(|path| (path.clone(), None)));
        if let PurgeTarget::Everywhere(digest) = target {
            referenced.insert(*digest);
            retained.remove(digest);
        }
        self.add_files(&mut purge, &referenced, &retained);
        purge
    }

    fn add_files(
        &self,
        purge: &mut Purge,
        referenced: &HashSet<Digest>,
        retained: &HashSet<Digest>,
    ) {
        for digest in referenced {
            let Ok(meta) = std::fs::metadata(blob_path(&self.root, digest)) else {
                continue;
            };
            if retained.contains(digest) {
                purge.shared += 1;
            } else {
                purge.files.push((*digest, meta.len()));
            }
        }
        purge
            .files
            .sort_unstable_by_key(|(digest, _)| digest.to_string());
    }

    /// Ends all generations: answers to earlier questions are not stored.
    pub fn end_generations(&self) {
        self.records.end_generations(|_| true);
    }

    /// Carries a purge out. Other gateways no longer learn of these records from the bucket either. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// The first failed removal; everything else was removed.
    pub fn purge(&self, purge: &Purge) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut folders = HashSet::new();
        for (path, key) in &purge.records {
            outcome = outcome.and(self.records.remove_now(path, key.as_ref()));
            folders.extend(Path::new(path).parent());
        }
        self.records.sync(&folders);
        for (digest, _) in &purge.files {
            outcome = outcome.and(self.blobs.remove(digest));
        }
        outcome
    }

    /// Checks that the store can be written: writes a byte and removes it again. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's, when it cannot.
    pub fn check_writable(&self) -> io::Result<()> {
        // The next start deletes the file if a crash leaves it.
        let folder = self.root.join(PARTIALS);
        std::fs::create_dir_all(&folder)?;
        let probe = folder.join(".writable");
        std::fs::write(&probe, b"1")?;
        std::fs::remove_file(&probe)
    }
}

impl Blobs {
    /// Removes a blob, if it exists; its readers can read on. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        ignore_absent(std::fs::remove_file(blob_path(&self.root, digest)))?;
        self.space.reindex(digest);
        Ok(())
    }
}
