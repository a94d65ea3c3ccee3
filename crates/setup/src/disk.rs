//! The clients' files on disk, below a root folder: reading, writing and undoing.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Component, Path, PathBuf};

use super::client::{Client, Wanted, configured_elsewhere};
use super::gateway::Gateway;
use super::hunk::apply;
use super::merge::{Merge, MergeError};
use super::record::{Entry, Record, Restored, VERSION};
use runtime::replace::replace;

/// The folder of the records, which only root may write.
const RECORDS: &str = "/etc/roadstead/setup";
/// The folder whose files may configure the same registries for Podman and CRI-O.
const REGISTRIES: &str = "/etc/containers/registries.conf.d";
/// And the file beside it.
const REGISTRIES_CONF: &str = "/etc/containers/registries.conf";
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 2 << 20;
/// The mode of a new file, and that of a record, which may have a file's secrets.
const MODE: u32 = 0o644;
const RECORD_MODE: u32 = 0o600;

/// Why a client cannot be set up, or that not be undone.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file must stay as it is.
    #[error("{} {reason}", path.display())]
    Merge {
        /// As the client names it.
        path: PathBuf,
        /// Why.
        reason: MergeError,
    },
    /// Another file of Podman or CRI-O configures the registry.
    #[error(
        "{} configures {registry} already; add `[[registry.mirror]]` with `location = \"{location}\"` to it, or remove that registry there",
        path.display()
    )]
    Elsewhere {
        /// The file.
        path: PathBuf,
        /// The registry.
        registry: String,
        /// The location of the mirror.
        location: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The record of an earlier set-up is not one of this program.
    #[error("{} is no record that this version knows; undo with the version that wrote it", .0.display())]
    Record(PathBuf),
}

/// A file, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As the client names it.
    pub path: PathBuf,
    /// What it has now; `None`: there is no file.
    pub now: Option<String>,
    /// What it should have; `None`: no file.
    pub then: Option<String>,
}

impl Change {
    /// Whether anything changes.
    pub fn is_needed(&self) -> bool {
        self.now != self.then
    }
}

/// The changes by which a client is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order in which they are written.
    pub changes: Vec<Change>,
    /// The file of the CA that the client trusts for the gateway, if it has one of its own.
    pub ca: Option<PathBuf>,
    /// The folders of files that are no longer needed, which were made for them.
    folders: Vec<PathBuf>,
    record: Record,
}

/// What undoing did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// The files that are as before.
    pub restored: Vec<PathBuf>,
    /// Those that stay: they were changed since, so that what was ours cannot be told from the rest.
    pub left: Vec<PathBuf>,
}

/// The files below a root folder.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// The files below `root`, mostly `/`.
    pub fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The place of a client's file.
    pub fn place(&self, path: &Path) -> PathBuf {
        let below = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let mut place = self.root.clone();
        place.extend(below);
        place
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// [`SetupError::Io`], also for a file that is no UTF-8 or larger than 2 MiB.
    pub fn read(&self, path: &Path) -> Result<Option<String>, SetupError> {
        let io_error = |source| SetupError::Io {
            path: path.to_owned(),
            source,
        };
        let file = match fs::File::open(self.place(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io_error)?,
        };
        let mut text = String::new();
        let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
        read.map_err(io_error)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(io_error(ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(text))
    }

    /// What setting up the client would change. What an earlier set-up of it changed is taken into account.
    ///
    /// # Errors
    /// [`SetupError`] for a file that must stay as it is, or cannot be read. Nothing is written.
    pub fn plan(&self, client: Client, gateway: &Gateway) -> Result<Plan, SetupError> {
        if matches!(client, Client::Podman | Client::Crio) {
            self.check_elsewhere(gateway)?;
        }
        let earlier = self.record(client)?;
        let mut old = earlier.map_or(Vec::new(), |record| record.files);
        let read = |path: &str| self.read(Path::new(path)).ok().flatten();
        let (mut changes, mut files, mut ca) = (Vec::new(), Vec::new(), None);
        for wanted in client.files(gateway, &read) {
            let own_ca = gateway.ca.clone().map(Merge::Own);
            if own_ca.is_some_and(|own| own == wanted.merge) {
                ca = Some(wanted.path.clone());
            }
            let (change, entry) = self.change(wanted, &mut old)?;
            changes.push(change);
            files.extend(entry);
        }
        let mut folders = Vec::new();
        // Those of another gateway.
        for entry in old {
            folders.extend(entry.made.iter().cloned());
            let now = self.read(&entry.path)?;
            if let Restored::Text(then) = entry.restored(now.as_deref()) {
                let path = entry.path;
                changes.push(Change { path, now, then });
            }
        }
        let record = Record {
            version: VERSION,
            client,
            gateway: gateway.url(),
            files,
        };
        Ok(Plan {
            changes,
            ca,
            folders,
            record,
        })
    }

    /// The change of one file, and its entry in the record unless it has what it needs without one. Takes the file's entry out
    /// of those of an earlier set-up.
    fn change(
        &self,
        wanted: Wanted,
        old: &mut Vec<Entry>,
    ) -> Result<(Change, Option<Entry>), SetupError> {
        let Wanted { path, merge } = wanted;
        let now = self.read(&path)?;
        let known = old.iter().position(|entry| entry.path == path);
        let known = known.map(|index| old.remove(index));
        // What others have in it, without what an earlier set-up added.
        let base = match known.as_ref().map(|entry| entry.restored(now.as_deref())) {
            Some(Restored::Text(base)) => base,
            Some(Restored::Unknown) | None => now.clone(),
        };
        let text = base.as_deref().unwrap_or_default();
        let hunks = merge.hunks(text).map_err(|reason| SetupError::Merge {
            path: path.clone(),
            reason,
        })?;
        let mut then = base.clone();
        let mut entry = None;
        if !hunks.is_empty() {
            let after = apply(text, &hunks);
            then = Some(after.clone());
            entry = Some(Entry {
                path: path.clone(),
                before: base,
                after,
                hunks,
                own: matches!(merge, Merge::Own(_)),
                made: known.map_or_else(|| self.missing_folders(&path, old), |it| it.made),
            });
        }
        Ok((Change { path, now, then }, entry))
    }

    /// Writes what a plan changes; each file is replaced at once. Returns the files that were written.
    ///
    /// # Errors
    /// [`SetupError::Io`]; files before the one that it names are written, and undoing restores them.
    pub fn write(&self, plan: &Plan) -> Result<Vec<PathBuf>, SetupError> {
        // First, so that whatever is written can be undone.
        self.write_record(&plan.record)?;
        let needed = plan.changes.iter().filter(|change| change.is_needed());
        let mut written = Vec::new();
        for change in needed {
            self.put(&change.path, change.then.as_deref(), MODE)?;
            written.push(change.path.clone());
        }
        self.remove_folders(&plan.folders);
        Ok(written)
    }

    /// Makes the files what they were before the client was set up; what others changed since stays. `None`: there is no
    /// record of a set-up.
    ///
    /// # Errors
    /// [`SetupError::Io`]; it can be repeated.
    pub fn undo(&self, client: Client) -> Result<Option<Undone>, SetupError> {
        let Some(mut record) = self.record(client)? else {
            return Ok(None);
        };
        let mut undone = Undone::default();
        let mut left = Vec::new();
        // First what makes the client use the gateway.
        for entry in record.files.into_iter().rev() {
            let now = self.read(&entry.path)?;
            match entry.restored(now.as_deref()) {
                Restored::Text(then) => {
                    if then != now {
                        self.put(&entry.path, then.as_deref(), MODE)?;
                        undone.restored.push(entry.path.clone());
                    }
                    self.remove_folders(&entry.made);
                }
                Restored::Unknown => {
                    undone.left.push(entry.path.clone());
                    left.push(entry);
                }
            }
        }
        record.files = left;
        if record.files.is_empty() {
            self.put(&record_path(client), None, RECORD_MODE)?;
            let folders = [Path::new(RECORDS).parent(), Some(Path::new(RECORDS))];
            let folders: Vec<PathBuf> = folders.into_iter().flatten().map(PathBuf::from).collect();
            self.remove_folders(&folders);
        } else {
            self.write_record(&record)?;
        }
        Ok(Some(undone))
    }

    /// Fails if another file configures a registry for Podman and CRI-O: of two files one would be ignored.
    fn check_elsewhere(&self, gateway: &Gateway) -> Result<(), SetupError> {
        let names = match fs::read_dir(self.place(Path::new(REGISTRIES))) {
            Ok(entries) => entries
                .filter_map(|entry| Some(entry.ok()?.file_name()))
                .collect(),
            Err(_) => Vec::new(),
        };
        let mut files: Vec<PathBuf> = names
            .iter()
            .filter(|name| Path::new(name).extension().is_some_and(|it| it == "conf"))
            .filter(|name| *name != "roadstead.conf")
            .map(|name| Path::new(REGISTRIES).join(name))
            .collect();
        files.push(REGISTRIES_CONF.into());
        files.sort();
        for path in files {
            let text = self.read(&path)?.unwrap_or_default();
            if let Some(registry) = configured_elsewhere(&text, gateway) {
                return Err(SetupError::Elsewhere {
                    path,
                    location: format!("{}/{registry}", gateway.authority()),
                    registry,
                });
            }
        }
        Ok(())
    }

    fn record(&self, client: Client) -> Result<Option<Record>, SetupError> {
        let path = record_path(client);
        let Some(text) = self.read(&path)? else {
            return Ok(None);
        };
        match serde_json::from_str::<Record>(&text) {
            Ok(record) if record.version == VERSION && record.client == client => Ok(Some(record)),
            _ => Err(SetupError::Record(path)),
        }
    }

    fn write_record(&self, record: &Record) -> Result<(), SetupError> {
        let path = record_path(record.client);
        let text = serde_json::to_string_pretty(record).map_err(|error| SetupError::Io {
            path: path.clone(),
            source: error.into(),
        })?;
        if self.read(&path)?.as_deref() == Some(&text) {
            return Ok(());
        }
        self.put(&path, Some(&text), RECORD_MODE)
    }

    /// Replaces or removes a file. `mode` is that of a new one.
    fn put(&self, path: &Path, text: Option<&str>, mode: u32) -> Result<(), SetupError> {
        let place = self.place(path);
        let done = match text {
            None => match fs::remove_file(&place) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            Some(text) => {
                let folder = place.parent().map_or(Ok(()), fs::create_dir_all);
                folder.and_then(|()| replace(&place, text.as_bytes(), mode))
            }
        };
        done.map_err(|source| SetupError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// The folders that have to be made for a file, or were for one of an earlier set-up, the outermost first.
    fn missing_folders(&self, path: &Path, earlier: &[Entry]) -> Vec<PathBuf> {
        let is_ours = |folder: &Path| {
            earlier
                .iter()
                .any(|entry| entry.made.iter().any(|it| it == folder))
        };
        let folders = path.ancestors().skip(1);
        let missing = folders.take_while(|folder| is_ours(folder) || !self.place(folder).exists());
        let mut missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        missing.reverse();
        missing
    }

    /// Removes folders that are empty.
    fn remove_folders(&self, folders: &[PathBuf]) {
        for folder in folders.iter().rev() {
            let _ = fs::remove_dir(self.place(folder));
        }
    }
}

fn record_path(client: Client) -> PathBuf {
    Path::new(RECORDS).join(format!("{}.json", client.name()))
}
