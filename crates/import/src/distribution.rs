//! The storage folder of distribution: `blobs/<alg>/<2>/<hex>/data`, and for each repository `_layers` and
//! `_manifests/revisions` with a `link` for each digest, and `_manifests/tags/<tag>/current/link`.

use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::repositories::{Found, Repositories};
use crate::{Fault, Journal, Tally, V2};
use oci::digest::Digest;
use oci::manifest::{AcceptClass, MAX_MANIFEST};
use oci::name::{Registry, Repository, RepositoryName, Tag};
use oci::storage::{self, MAX_LINK, StoredManifest};
use runtime::folder::{Entries, EntryKind, Folder};
use store::{
    Adopted, BlobKey, BlobLink, ManifestKey, ManifestLink, Pointer, Record, Store, TagKey, TypedKey,
};

/// When the registry of the folder said what the folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// Now: the folder is the registry's own, and it would say the same.
    Now,
    /// When each file was written: the folder is a cache.
    AsWritten,
}

/// What to import, and as what.
#[derive(Clone, Debug)]
pub struct Options {
    /// See [`Confirmed`].
    pub confirmed: Confirmed,
    /// Only the repositories below this name, without it: those of a project that is a cache of its registry.
    pub below: Option<Repository>,
}

/// The folders of digests, with the kind of link that they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Blob,
    Manifest,
}

const LINKS: [(&str, Kind); 4] = [
    ("_layers/sha256", Kind::Blob),
    ("_layers/sha512", Kind::Blob),
    ("_manifests/revisions/sha256", Kind::Manifest),
    ("_manifests/revisions/sha512", Kind::Manifest),
];
const TAGS: &str = "_manifests/tags";

/// Imports a storage folder into the store, as content of `registry`. Blocks on the disk.
///
/// # Errors
/// If the folder of the repositories cannot be read.
pub async fn import(
    store: &Store,
    registry: &Registry,
    folder: &Folder,
    options: &Options,
    journal: &mut Journal<'_>,
) -> io::Result<()> {
    let v2 = match folder.folder(V2) {
        Ok(v2) => v2,
        // It is that folder itself.
        Err(_) => folder.again()?,
    };
    let import = Import {
        store,
        v2,
        options,
        now: unix(SystemTime::now()),
    };
    journal.report.total = import.count()?;
    for found in Repositories::of(import.v2.folder("repositories")?)? {
        match found {
            Found::Repository(repository, folder) => {
                let Some(own) = import.own_name(&repository) else {
                    continue;
                };
                let name = RepositoryName::new(registry, &own);
                let place = format!("repositories/{repository}");
                import.repository(&name, &folder, &place, journal).await;
                journal.report.repositories += 1;
            }
            Found::Fault(path, fault) => journal.fault(&format!("repositories/{path}"), &fault),
        }
    }
    Ok(())
}

struct Import<'a> {
    store: &'a Store,
    v2: Folder,
    options: &'a Options,
    /// In seconds since 1970.
    now: u64,
}

/// A `link` file.
struct Link {
    digest: Digest,
    /// In seconds since 1970.
    checked_at: u64,
}

/// Whether something was imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Imported,
    Present,
}

impl Import<'_> {
    /// The number of links in all repositories.
    fn count(&self) -> io::Result<u64> {
        let mut total = 0;
        for found in Repositories::of(self.v2.folder("repositories")?)? {
            let Found::Repository(repository, folder) = found else {
                continue;
            };
            if self.own_name(&repository).is_none() {
                continue;
            }
            let folders = LINKS.iter().map(|(path, _)| *path).chain([TAGS]);
            for path in folders {
                total += entries(&folder, path).map_or(0, |entries| entries.count() as u64);
            }
        }
        Ok(total)
    }

    /// The name at the registry of a repository of the folder; `None` if it is not imported.
    fn own_name(&self, repository: &Repository) -> Option<Repository> {
        match &self.options.below {
            None => Some(repository.clone()),
            Some(below) => {
                let own = repository.as_str().strip_prefix(below.as_str())?;
                own.strip_prefix('/')?.parse().ok()
            }
        }
    }

    async fn repository(
        &self,
        name: &RepositoryName,
        folder: &Folder,
        place: &str,
        journal: &mut Journal<'_>,
    ) {
        for (path, kind) in LINKS {
            let algorithm = path.rsplit('/').next().unwrap_or_default();
            each(folder, place, path, journal, async |entry, journal| {
                let digest: Digest = format!("{algorithm}:{entry}")
                    .parse()
                    .map_err(|_| Fault::skipped("it is no digest"))?;
                let path = format!("{path}/{entry}/link");
                let Some(link) = self.link(folder, &path)? else {
                    return Ok(());
                };
                if link.digest != digest {
                    let why = format!("its link names {}", link.digest);
                    return Err(Fault::damaged(why));
                }
                match kind {
                    Kind::Blob => self.blob(name, &link, journal).await,
                    Kind::Manifest => self.manifest(name, &link, journal).await,
                }
            })
            .await;
        }
        each(folder, place, TAGS, journal, async |entry, journal| {
            let tag: Tag = entry
                .parse()
                .map_err(|error: oci::name::TagError| Fault::skipped(error))?;
            let path = format!("{TAGS}/{entry}/current/link");
            match self.link(folder, &path)? {
                Some(link) => self.tag(name, &tag, &link, journal).await,
                None => Ok(()),
            }
        })
        .await;
    }

    /// Reads a link; `None` if it was deleted: distribution leaves its folder.
    fn link(&self, folder: &Folder, path: &str) -> Result<Option<Link>, Fault> {
        let mut file = match folder.file(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::unreadable(&error)),
        };
        let mut bytes = Vec::new();
        let read = file.by_ref().take(MAX_LINK).read_to_end(&mut bytes);
        let written = read.and_then(|_| file.metadata()?.modified());
        let written = written.map_err(|error| Fault::unreadable(&error))?;
        let digest = storage::link(&bytes);
        let digest = digest.ok_or_else(|| Fault::damaged("its link holds no digest"))?;
        let checked_at = match self.options.confirmed {
            Confirmed::Now => self.now,
            // Nothing was confirmed in the future.
            Confirmed::AsWritten => unix(written).min(self.now),
        };
        Ok(Some(Link { digest, checked_at }))
    }

    async fn blob(
        &self,
        name: &RepositoryName,
        link: &Link,
        journal: &mut Journal<'_>,
    ) -> Result<(), Fault> {
        let report = &mut journal.report;
        let size = if let Some(size) = self.stored(&link.digest)? {
            size
        } else {
            let file = self.v2.file(&data(&link.digest)).map_err(missing)?;
            let (adopted, size) = self.store.blobs.adopt(&file, &link.digest)?;
            report.imported.bytes += size;
            if adopted == Adopted::Linked {
                report.imported.linked_bytes += size;
            }
            size
        };
        let record = BlobLink {
            checked_at: link.checked_at,
            size: Some(size),
        };
        let key = BlobKey::new(name, &link.digest);
        let outcome = self.record(&key, record).await?;
        tally(journal, outcome).blobs += 1;
        Ok(())
    }

    async fn manifest(
        &self,
        name: &RepositoryName,
        link: &Link,
        journal: &mut Journal<'_>,
    ) -> Result<(), Fault> {
        let (bytes, media_type, subject) = self.read_manifest(&link.digest)?;
        let size = bytes.len() as u64;
        if self.stored(&link.digest)?.is_none() {
            let blobs = &self.store.blobs;
            let room = blobs.reserve_without_eviction(size);
            drop(room.map_err(store::CommitError::from)?);
            blobs.put(&link.digest, &bytes)?;
            journal.report.imported.bytes += size;
        }
        let record = ManifestLink {
            media_type,
            size,
            checked_at: link.checked_at,
            subject,
            stored: None,
        };
        let key = ManifestKey::new(name, &link.digest);
        let outcome = self.record(&key, record).await?;
        tally(journal, outcome).manifests += 1;
        Ok(())
    }

    async fn tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        link: &Link,
        journal: &mut Journal<'_>,
    ) -> Result<(), Fault> {
        let manifest = ManifestKey::new(name, &link.digest);
        let known = self.store.records.open(&manifest).await;
        let Some(known) = known.map_err(Fault::not_stored)? else {
            // Schema 1 is what it is, not damage.
            self.read_manifest(&link.digest)?;
            let why = format!("{} is no manifest of this repository", link.digest);
            return Err(Fault::damaged(why));
        };
        let pointer = Pointer {
            digest: link.digest,
            media_type: known.media_type.clone(),
            size: Some(known.size),
            checked_at: link.checked_at,
        };
        let key = TagKey::new(name, AcceptClass::Full, tag);
        let outcome = self.record(&key, pointer).await?;
        tally(journal, outcome).tags += 1;
        Ok(())
    }

    /// A manifest's bytes, media type and subject.
    fn read_manifest(&self, digest: &Digest) -> Result<(Vec<u8>, String, Option<Digest>), Fault> {
        let read = self.v2.read(&data(digest), MAX_MANIFEST as u64);
        let bytes = read.map_err(missing)?;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(Fault::damaged(format!(
                "its bytes have the digest {actual}"
            )));
        }
        match storage::manifest(&bytes) {
            StoredManifest::Whole {
                media_type,
                subject,
            } => Ok((bytes, media_type, subject)),
            StoredManifest::Schema1 => Err(Fault::skipped(
                "it is a manifest of schema 1, which its registry signs anew for each answer",
            )),
            StoredManifest::Unknown => Err(Fault::damaged("it is no manifest")),
        }
    }

    /// The length of content that is stored, in bytes.
    fn stored(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        let stored = self.store.blobs.inspect(digest, None);
        stored.map_err(Fault::not_stored)
    }

    /// Stores a record, unless it is known or the gateway knows something newer.
    async fn record<K: TypedKey>(&self, key: &K, value: K::Value) -> Result<Outcome, Fault> {
        let records = &self.store.records;
        let known = records.open(key).await;
        let known = known.map_err(Fault::not_stored)?;
        let is_newer = |known: &K::Value| {
            known.has_same_content(&value) || known.checked_at() > value.checked_at()
        };
        if known.is_some_and(|known| is_newer(&known)) {
            return Ok(Outcome::Present);
        }
        records.put(key, value).await;
        if records.is_on_disk(key) {
            Ok(Outcome::Imported)
        } else {
            Err(Fault::not_stored("its record cannot be written"))
        }
    }
}

/// Calls `act` for each folder in a folder, with its name, and notes what fails.
async fn each(
    folder: &Folder,
    place: &str,
    path: &str,
    journal: &mut Journal<'_>,
    mut act: impl AsyncFnMut(&str, &mut Journal<'_>) -> Result<(), Fault>,
) {
    let place = format!("{place}/{path}");
    let entries = match entries(folder, path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return journal.fault(&place, &Fault::unreadable(&error)),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return journal.fault(&place, &Fault::unreadable(&error)),
        };
        let name = entry.name.to_string_lossy();
        let outcome = match entry.kind {
            EntryKind::Folder => act(&name, journal).await,
            EntryKind::Link => Err(Fault::skipped(
                "it is a symbolic link, which is not followed",
            )),
            EntryKind::File | EntryKind::Other => Err(Fault::skipped("it is no folder")),
        };
        journal.note(&format!("{place}/{name}"), outcome);
        journal.step();
    }
}

fn entries(folder: &Folder, path: &str) -> io::Result<Entries> {
    folder.folder(path)?.entries()
}

fn tally<'a>(journal: &'a mut Journal<'_>, outcome: Outcome) -> &'a mut Tally {
    match outcome {
        Outcome::Imported => &mut journal.report.imported,
        Outcome::Present => &mut journal.report.present,
    }
}

/// The path of a blob.
fn data(digest: &Digest) -> String {
    let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
    format!("blobs/{algorithm}/{}/{hex}/data", &hex[..2])
}

/// A link whose blob cannot be read.
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn missing(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound => Fault::damaged("the folder has a link to it, but not its blob"),
        _ => Fault::damaged(format!("its blob cannot be read: {error}")),
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "distribution_tests.rs"]
mod tests;
