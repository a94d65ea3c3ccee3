//! Removing on purpose: what a purge of something means, and doing it.
//!
//! Records of a repository go first, then bytes that no other repository has a claim to: bytes are shared.
//! What goes with a tag is what only it leads to: the manifests below it and their blobs, but for those that
//! another tag, or a manifest that was asked for by its digest, leads to as well.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use super::beside::{Room, digest};
use super::blobs::{Blobs, blob_path};
use super::records::component;
use super::{Blob, Store};
use oci::digest::Digest;
use oci::manifest::MAX_MANIFEST;
use oci::name::{Registry, Repository, Tag};
use oci::references::references;

/// What is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Registry(Registry),
    Repository(Registry, Repository),
    Tag(Registry, Repository, Tag),
    /// What a repository has under a digest.
    Content(Registry, Repository, Digest),
    /// A digest, wherever it is.
    Everywhere(Digest),
}

impl Target {
    /// Whether something of this repository may go.
    pub fn concerns(&self, registry: &Registry, repository: &Repository) -> bool {
        match self {
            Self::Registry(own) => own == registry,
            Self::Repository(own, name) | Self::Tag(own, name, _) | Self::Content(own, name, _) => {
                own == registry && name == repository
            }
            Self::Everywhere(_) => true,
        }
    }
}

/// What a purge removes, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// `<registry>/<repository>:<tag>`
    pub tags: BTreeSet<String>,
    /// `<registry>/<repository>@<digest>`
    pub manifests: BTreeSet<String>,
    /// `<registry>/<repository>@<digest>`
    pub blobs: BTreeSet<String>,
    /// The files that go, and their sizes in bytes.
    pub files: Vec<(Digest, u64)>,
    /// Files that stay, since other repositories have a claim to them.
    pub shared: u64,
    /// What else there is of the v1 API on either side, as its place in the store.
    pub beside: BTreeSet<String>,
    /// Records on disk, relative to their room's folder.
    records: BTreeSet<(Room, String)>,
}

impl Purge {
    /// Bytes that become free.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }

    /// A record that is no tag's or link's goes.
    pub(super) fn adds_beside(&mut self, room: Room, path: &str) {
        let place = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        match place.split_once("/_named/tag/") {
            Some((repository, tag)) if room == Room::V1 => {
                self.tags.insert(format!("{repository}:{tag}"));
            }
            _ => {
                self.beside.insert(format!("{}/{place}", room.folder()));
            }
        }
        self.records.insert((room, path.to_owned()));
    }
}

/// The records of one repository, as they lie on disk.
struct Listing {
    /// `<registry>/<repository>`, the registry as a path component.
    path: String,
    /// Record, tag and what it points at.
    tags: Vec<(String, String, Digest)>,
    /// Record, digest, and what its bytes are stored under.
    manifests: Vec<(String, Digest, Digest)>,
    /// Record and digest.
    blobs: Vec<(String, Digest)>,
    /// Other records.
    rest: Vec<String>,
}

impl Store {
    /// What a purge would remove. Blocks: it looks at the records of every repository.
    pub fn plan(&self, target: &Target) -> Purge {
        let root = self.blobs.root.join("repositories");
        let mut listings = Vec::new();
        walk(&root, &root, &mut listings);
        let (mut purge, mut wanted, mut kept) = (Purge::default(), HashSet::new(), HashSet::new());
        for listing in &listings {
            let gone = match target {
                Target::Registry(registry) => {
                    let below = format!("{}/", component(registry.as_str()));
                    listing
                        .path
                        .starts_with(&below)
                        .then(|| listing.everything())
                }
                Target::Repository(registry, repository) => listing
                    .is(registry, repository)
                    .then(|| listing.everything()),
                Target::Tag(registry, repository, tag) => {
                    listing.is(registry, repository).then(|| {
                        let named = |name: &str| name == tag.as_str();
                        self.below(listing, named, |_| false)
                    })
                }
                Target::Content(registry, repository, digest) => {
                    listing.is(registry, repository).then(|| {
                        let is = |other: &Digest| other == digest;
                        self.below(listing, |_| false, is)
                    })
                }
                Target::Everywhere(digest) => Some(listing.alone(digest)),
            };
            let gone = gone.unwrap_or_default();
            let records = gone.iter().map(|&record| record.clone());
            let records = records.map(|record| (Room::Repositories, record));
            purge.records.extend(records);
            listing.sort(&gone, &mut purge, &mut wanted, &mut kept);
        }
        self.plan_beside(target, &mut purge, &mut wanted, &mut kept);
        if let Target::Everywhere(digest) = target {
            wanted.insert(*digest);
            kept.remove(digest);
        }
        for digest in wanted {
            let Ok(meta) = std::fs::metadata(blob_path(&self.blobs.root, &digest)) else {
                continue;
            };
            if kept.contains(&digest) {
                purge.shared += 1;
            } else {
                purge.files.push((digest, meta.len()));
            }
        }
        purge
            .files
            .sort_unstable_by_key(|(digest, _)| digest.to_string());
        purge
    }

    /// Has no answer kept to a question that was asked before this.
    pub fn end_generations(&self) {
        for room in [Room::Repositories, Room::V1, Room::Conversions] {
            self.files(room).end_generations("");
        }
    }

    /// Carries a purge out. Other gateways do not learn of these records from the bucket any more either. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest was.
    pub fn purge(&self, purge: &Purge) -> io::Result<()> {
        let mut outcome = Ok(());
        for room in [Room::Repositories, Room::V1, Room::Conversions] {
            let mut folders = HashSet::new();
            for (_, record) in purge.records.iter().filter(|(its, _)| *its == room) {
                if let Some(bucket) = &self.bucket
                    && room == Room::Repositories
                {
                    bucket.remove_record(record);
                }
                outcome = outcome.and(self.remove_now(room, record));
                folders.extend(Path::new(record).parent());
            }
            self.files(room).sync(&folders);
        }
        for (digest, _) in &purge.files {
            outcome = outcome.and(self.blobs.remove(digest));
        }
        outcome
    }

    /// The records that only those tags or digests lead to, and themselves.
    fn below<'s>(
        &self,
        listing: &'s Listing,
        tag: impl Fn(&str) -> bool,
        content: impl Fn(&Digest) -> bool,
    ) -> HashSet<&'s String> {
        let goes = |name: &str, digest: &Digest| tag(name) || content(digest);
        let mut gone: HashSet<&String> = HashSet::new();
        let (mut roots, mut others) = (Vec::new(), Vec::new());
        for (record, name, digest) in &listing.tags {
            if goes(name, digest) {
                gone.insert(record);
                roots.push(*digest);
            } else {
                others.push(*digest);
            }
        }
        let here = listing.manifests.iter().map(|(_, digest, _)| *digest);
        let blobs = listing.blobs.iter().map(|(_, digest)| *digest);
        roots.extend(here.clone().chain(blobs).filter(&content));
        let reached = self.reach(listing, roots);
        others.extend(here.filter(|digest| !reached.contains(digest)));
        let mut kept = self.reach(listing, others);
        kept.retain(|digest| !content(digest));
        let goes = |digest: &Digest| reached.contains(digest) && !kept.contains(digest);
        let manifests = listing
            .manifests
            .iter()
            .filter(|(_, digest, _)| goes(digest));
        gone.extend(manifests.map(|(record, ..)| record));
        let blobs = listing.blobs.iter().filter(|(_, digest)| goes(digest));
        gone.extend(blobs.map(|(record, _)| record));
        gone
    }

    /// Everything that these lead to, themselves included.
    fn reach(&self, listing: &Listing, mut from: Vec<Digest>) -> HashSet<Digest> {
        let links = listing.manifests.iter();
        let links: HashMap<_, _> = links
            .map(|(_, digest, stored)| (*digest, *stored))
            .collect();
        let mut reached = HashSet::new();
        while let Some(digest) = from.pop() {
            if !reached.insert(digest) {
                continue;
            }
            if let Some(stored) = links.get(&digest) {
                from.extend(references(&self.manifest(stored).unwrap_or_default()));
            }
        }
        reached
    }

    pub(super) fn manifest(&self, stored: &Digest) -> Option<Vec<u8>> {
        use std::io::Read as _;

        let Blob { file, .. } = &self.blobs.open(stored, None).ok()??;
        let mut bytes = Vec::new();
        (&***file)
            .take(MAX_MANIFEST as u64)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    }

    /// Whether the store can be written: a byte is, and removed again. Blocks on the disk.
    ///
    /// # Errors
    /// Why not.
    pub fn check_writable(&self) -> io::Result<()> {
        // What a crash leaves there is removed at the next start.
        let folder = self.blobs.root.join("partials");
        std::fs::create_dir_all(&folder)?;
        let probe = folder.join(".writable");
        std::fs::write(&probe, b"1")?;
        std::fs::remove_file(&probe)
    }
}

impl Blobs {
    /// Removes a blob; whoever reads it reads on. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be removed; that it is not there is none.
    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        absent_is_fine(std::fs::remove_file(blob_path(&self.root, digest)))?;
        self.space.lost(digest);
        Ok(())
    }
}

/// What was to be removed is not there.
pub(super) fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl Listing {
    fn is(&self, registry: &Registry, repository: &Repository) -> bool {
        self.path == format!("{}/{repository}", component(registry.as_str()))
    }

    fn everything(&self) -> HashSet<&String> {
        let tags = self.tags.iter().map(|(record, ..)| record);
        let manifests = self.manifests.iter().map(|(record, ..)| record);
        let blobs = self.blobs.iter().map(|(record, _)| record);
        tags.chain(manifests)
            .chain(blobs)
            .chain(&self.rest)
            .collect()
    }

    /// What is about this digest, and nothing that leads there or from there.
    fn alone(&self, digest: &Digest) -> HashSet<&String> {
        let tags = self.tags.iter().filter(|(.., at)| at == digest);
        let manifests = self
            .manifests
            .iter()
            .filter(|(_, own, stored)| own == digest || stored == digest);
        let blobs = self.blobs.iter().filter(|(_, own)| own == digest);
        let records = tags
            .map(|(record, ..)| record)
            .chain(manifests.map(|(record, ..)| record));
        records.chain(blobs.map(|(record, _)| record)).collect()
    }

    /// Tells what goes from what stays: names for the report, digests that are wanted gone or kept.
    fn sort(
        &self,
        gone: &HashSet<&String>,
        purge: &mut Purge,
        wanted: &mut HashSet<Digest>,
        kept: &mut HashSet<Digest>,
    ) {
        let name = percent_encoding::percent_decode_str(&self.path).decode_utf8_lossy();
        for record in self.rest.iter().filter(|record| gone.contains(record)) {
            if record.contains("/_image-") {
                purge.adds_beside(Room::Repositories, record);
            }
        }
        for (record, tag, _) in &self.tags {
            if gone.contains(record) {
                purge.tags.insert(format!("{name}:{tag}"));
            }
        }
        for (record, digest, stored) in &self.manifests {
            if gone.contains(record) {
                purge.manifests.insert(format!("{name}@{digest}"));
                wanted.insert(*stored);
            } else {
                kept.insert(*stored);
            }
        }
        for (record, digest) in &self.blobs {
            if gone.contains(record) {
                purge.blobs.insert(format!("{name}@{digest}"));
                wanted.insert(*digest);
            } else {
                kept.insert(*digest);
            }
        }
    }
}

/// Collects the listings below a folder. Names that begin with `_` are no repositories.
fn walk(root: &Path, folder: &Path, listings: &mut Vec<Listing>) {
    let Some(path) = relative(root, folder) else {
        return;
    };
    let mut listing = Listing {
        path,
        tags: Vec::new(),
        manifests: Vec::new(),
        blobs: Vec::new(),
        rest: Vec::new(),
    };
    for (entry, name) in entries(folder) {
        match name.as_str() {
            "_tags" => {
                let records = entries(&entry)
                    .into_iter()
                    .flat_map(|(class, _)| entries(&class));
                for (file, tag) in records {
                    let pointer: Option<super::Pointer> = read(&file);
                    if let (Some(record), Some(pointer)) = (relative(root, &file), pointer) {
                        listing.tags.push((record, tag, pointer.digest));
                    }
                }
            }
            "_manifests" => {
                for (file, name) in entries(&entry) {
                    let link: Option<super::ManifestLink> = read(&file);
                    if let (Some(record), Some(digest)) = (relative(root, &file), digest(&name)) {
                        let stored = link.map_or(digest, |link| link.stored(&digest));
                        listing.manifests.push((record, digest, stored));
                    }
                }
            }
            "_blobs" => {
                for (file, name) in entries(&entry) {
                    if let (Some(record), Some(digest)) = (relative(root, &file), digest(&name)) {
                        listing.blobs.push((record, digest));
                    }
                }
            }
            other if other.starts_with('_') => listing.rest.extend(relative(root, &entry)),
            _ if entry.is_dir() => walk(root, &entry, listings),
            _ => {}
        }
    }
    listings.push(listing);
}

pub(super) fn entries(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.map(|entry| {
        (
            entry.path(),
            entry.file_name().to_string_lossy().into_owned(),
        )
    });
    // What is being written has no name yet.
    named.filter(|(_, name)| !name.starts_with('.')).collect()
}

pub(super) fn relative(root: &Path, path: &Path) -> Option<String> {
    Some(path.strip_prefix(root).ok()?.to_string_lossy().into_owned())
}

fn read<V: serde::de::DeserializeOwned>(path: &Path) -> Option<V> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
