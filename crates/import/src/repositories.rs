//! The repositories in a storage folder of distribution, whose names are paths.

use crate::Fault;
use oci::name::Repository;
use runtime::folder::{Entries, EntryKind, Folder};

/// A folder on the way down, with the names that are not looked at yet.
struct Level {
    folder: Folder,
    entries: Entries,
    /// Its name so far, with a slash at its end; empty at the top.
    prefix: String,
}

/// Walks down the folder. Names have at most 255 characters, so there are few levels.
pub struct Repositories {
    levels: Vec<Level>,
}

/// What the walk came to.
pub enum Found {
    /// A repository.
    Repository(Repository, Folder),
    /// Something else, with its path.
    Fault(String, Fault),
}

impl Repositories {
    /// The repositories below `folder`.
    pub fn of(folder: Folder) -> std::io::Result<Self> {
        let level = Level {
            entries: folder.entries()?,
            folder,
            prefix: String::new(),
        };
        Ok(Self {
            levels: vec![level],
        })
    }
}

impl Iterator for Repositories {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let level = self.levels.last_mut()?;
            let entry = match level.entries.next() {
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    let path = level.prefix.clone();
                    self.levels.pop();
                    return Some(Found::Fault(path, Fault::unreadable(&error)));
                }
                None => {
                    self.levels.pop();
                    continue;
                }
            };
            let name = entry.name.to_string_lossy();
            let path = format!("{}{name}", level.prefix);
            let is_inside = !level.prefix.is_empty();
            if is_inside && matches!(&*name, "_layers" | "_manifests" | "_uploads") {
                continue;
            }
            let fault = |why: &str| Some(Found::Fault(path.clone(), Fault::skipped(why)));
            match entry.kind {
                EntryKind::Folder => {}
                EntryKind::Link => return fault("it is a symbolic link, which is not followed"),
                EntryKind::File | EntryKind::Other => return fault("it is no repository"),
            }
            let Ok(repository) = path.parse::<Repository>() else {
                return fault("it is no name of a repository");
            };
            let opened = level.folder.folder(&name).and_then(|folder| {
                let entries = folder.entries()?;
                Ok((folder, entries))
            });
            let (folder, entries) = match opened {
                Ok(opened) => opened,
                Err(error) => return Some(Found::Fault(path, Fault::unreadable(&error))),
            };
            let own = ["_manifests", "_layers"];
            let own = own.iter().any(|own| folder.has_folder(own));
            let again = folder.again();
            self.levels.push(Level {
                folder,
                entries,
                prefix: format!("{path}/"),
            });
            if let (true, Ok(folder)) = (own, again) {
                return Some(Found::Repository(repository, folder));
            }
        }
    }
}
