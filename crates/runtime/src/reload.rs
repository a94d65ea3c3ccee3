//! Reloads the operator's files when they change.
//!
//! Their contents are compared every two seconds, so that a write in place, a rename over them and a swapped symbolic link (as
//! by Kubernetes and certbot) work alike, on every file system. A change is loaded once two checks in a row saw the same
//! contents, so that files that are replaced one after the other are mostly loaded together. The caller's `load` validates
//! them.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use oci::digest::{Algorithm, Digest};
use telemetry::chain;

/// How often files are checked.
const EVERY: Duration = Duration::from_secs(2);
/// The longest file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Reads a file of at most 16 MiB.
///
/// # Errors
/// When it cannot be read or is longer.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is longer than 16 MiB",
        ));
    }
    Ok(bytes)
}

/// Calls `look` every two seconds until it breaks or the runtime ends, on a thread that may block on a disk.
///
/// # Panics
/// Outside of a Tokio runtime.
pub fn keep_looking(mut look: impl FnMut() -> ControlFlow<()> + Send + 'static) {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is immediate.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let looked = tokio::task::spawn_blocking(move || {
                let next = look();
                (look, next)
            });
            match looked.await {
                Ok((_, ControlFlow::Break(()))) => return,
                Ok((again, ControlFlow::Continue(()))) => look = again,
                Err(error) => {
                    return tracing::error!(%error, "file watching stopped");
                }
            }
        }
    });
}

/// A value loaded from files: from their last valid contents.
pub struct Reloaded<T, E> {
    value: T,
    load: Box<dyn FnMut() -> Result<T, E> + Send>,
    watched: Watched,
}

impl<T, E: Error> Reloaded<T, E> {
    /// Reads the files for the first time. `load` reads these files and no others.
    ///
    /// # Errors
    /// That of `load`.
    pub fn open(
        files: Vec<PathBuf>,
        mut load: impl FnMut() -> Result<T, E> + Send + 'static,
    ) -> Result<Self, E> {
        // Before the files are loaded, so that a change in between is seen later rather than missed.
        let watched = Watched::new(files);
        Ok(Self {
            value: load()?,
            load: Box::new(load),
            watched,
        })
    }

    /// The current value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Reloads the files if they changed. Returns their names where there is a new value; an invalid change is logged once, and
    /// the old value stays.
    pub fn look(&mut self) -> Option<String> {
        if !self.watched.look() {
            return None;
        }
        let files = self.watched.names();
        match (self.load)() {
            Ok(value) => {
                self.value = value;
                Some(files)
            }
            Err(error) => {
                tracing::error!(
                    files,
                    error = chain(&error),
                    "changed files are refused; what they held before stays in use"
                );
                None
            }
        }
    }
}

/// Logs that the value that [`Reloaded::look`] loaded is in use.
pub fn announce(files: &str) {
    tracing::info!(files, "reloaded changed files");
}

/// A file's content, or why there is none. No key stays in memory for this.
type FileStamp = Result<Digest, io::ErrorKind>;

/// Files and their last contents.
#[derive(Debug)]
struct Watched {
    files: Vec<PathBuf>,
    /// The contents that were loaded last.
    taken: Vec<FileStamp>,
    /// The contents at the last check, if they differ.
    settling: Option<Vec<FileStamp>>,
}

impl Watched {
    fn new(files: Vec<PathBuf>) -> Self {
        Self {
            taken: file_stamps(&files),
            files,
            settling: None,
        }
    }

    /// Whether the contents are new, and the same as at the last check.
    fn look(&mut self) -> bool {
        let now = file_stamps(&self.files);
        if now == self.taken {
            self.settling = None;
            return false;
        }
        let settled = self.settling.as_ref() == Some(&now);
        if settled {
            self.taken = now;
            self.settling = None;
        } else {
            self.settling = Some(now);
        }
        settled
    }

    fn names(&self) -> String {
        let names = self.files.iter().map(|file| file.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    }
}

fn file_stamps(files: &[PathBuf]) -> Vec<FileStamp> {
    let stamps = files.iter().map(|file| match read(file) {
        Ok(bytes) => Ok(Digest::of(Algorithm::Sha256, &bytes)),
        Err(error) => Err(error.kind()),
    });
    stamps.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_change_is_seen_once_and_when_it_has_settled() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(at(name), text).expect("writable");
        write("a", "1");
        write("b", "1");
        let mut watched = Watched::new(vec![at("a"), at("b")]);
        let mut after = |what: &str, change: &dyn Fn(), expected: &[bool]| {
            change();
            let looks: Vec<bool> = expected.iter().map(|_| watched.look()).collect();
            assert_eq!(looks, expected, "{what}");
        };
        let (nothing, once) = ([false, false], [false, true, false]);
        after("no change", &|| {}, &nothing);
        after("a write in place", &|| write("a", "2"), &once);
        after("one of two", &|| write("a", "3"), &[false]);
        after("and the other", &|| write("b", "3"), &once);
        let remove = || fs::remove_file(at("a")).expect("removable");
        after("a removal", &remove, &once);
        after("its return", &|| write("a", "3"), &once);
        let rename = || {
            write("new", "4");
            fs::rename(at("new"), at("a")).expect("renamed");
        };
        after("a rename over it", &rename, &once);
        after("a write of the same", &|| write("a", "4"), &nothing);
        after("a change", &|| write("a", "5"), &[false]);
        after("that is taken back", &|| write("a", "4"), &nothing);
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        for version in ["1", "2"] {
            fs::create_dir(at(version)).expect("a folder");
            fs::write(at(version).join("a"), version).expect("writable");
        }
        symlink("1", at("data")).expect("a link");
        symlink("data/a", at("a")).expect("a link");
        let mut watched = Watched::new(vec![at("a")]);
        symlink("2", at("new")).expect("a link");
        fs::rename(at("new"), at("data")).expect("swapped");
        assert_eq!([(); 3].map(|()| watched.look()), [false, true, false]);
    }

    #[test]
    fn what_is_not_good_leaves_the_last_good_value() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("number");
        let write = |text: &str| fs::write(&file, text).expect("writable");
        let load = {
            let file = file.clone();
            move || -> Result<i32, io::Error> {
                let text = String::from_utf8(read(&file)?).map_err(io::Error::other)?;
                text.parse().map_err(io::Error::other)
            }
        };
        assert!(Reloaded::open(vec![file.clone()], load.clone()).is_err());
        write("1");
        let mut number = Reloaded::open(vec![file.clone()], load).expect("a number");
        for (text, looks, value) in [
            ("2", [false, true, false], 2),
            ("two", [false, false, false], 2),
            ("3", [false, true, false], 3),
        ] {
            write(text);
            assert_eq!([(); 3].map(|()| number.look().is_some()), looks, "{text}");
            assert_eq!(*number.value(), value);
        }
    }
}
