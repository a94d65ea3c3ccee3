//! Files of the operator that may change while we run: read again when they did.
//!
//! What they hold is compared every two seconds. A write in place, a rename over them and a swapped symbolic
//! link (as Kubernetes and certbot do it) look the same then, on every file system. A change is taken up
//! once two looks in a row saw the same, so that files that are replaced one after the other are mostly read
//! together. Whoever reads them decides whether they are good.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use oci::digest::{Algorithm, Digest};
use telemetry::chain;

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(2);
/// The longest file that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Reads a file of at most 16 MiB.
///
/// # Errors
/// When it cannot be read or is longer.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is longer than 16 MiB",
        ));
    }
    Ok(bytes)
}

/// Calls `look` every two seconds for as long as the runtime lives, on a thread that may wait for a disk.
///
/// # Panics
/// Outside of a runtime.
pub fn keep_looking(mut look: impl FnMut() + Send + 'static) {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is immediate.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let looked = tokio::task::spawn_blocking(move || {
                look();
                look
            });
            match looked.await {
                Ok(again) => look = again,
                Err(error) => {
                    return tracing::error!(%error, "changes of files are no longer noticed");
                }
            }
        }
    });
}

/// What is made of some files: of what they held when they were good last.
pub struct Reloaded<T, E> {
    value: T,
    load: Box<dyn FnMut() -> Result<T, E> + Send>,
    watched: Watched,
}

impl<T, E: Error> Reloaded<T, E> {
    /// Reads the files for the first time. `load` reads these files and no others.
    ///
    /// # Errors
    /// What `load` says.
    pub fn open(
        files: Vec<PathBuf>,
        mut load: impl FnMut() -> Result<T, E> + Send + 'static,
    ) -> Result<Self, E> {
        // Before they are read: a change in between is seen later rather than missed.
        let watched = Watched::new(files);
        Ok(Self {
            value: load()?,
            load: Box::new(load),
            watched,
        })
    }

    /// What is in use.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Reads the files again if they changed. The names of the files where there is a new value; what is not
    /// good is logged, once for each change, and the old value stays.
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

/// Says that what [`Reloaded::look`] found is in use.
pub fn announce(files: &str) {
    tracing::info!(files, "changed files are in use from now on");
}

/// A file's content, or why there is none. No key stays in memory for this.
type Seen = Result<Digest, io::ErrorKind>;

/// Some files and what they held.
#[derive(Debug)]
struct Watched {
    files: Vec<PathBuf>,
    /// What was read last.
    taken: Vec<Seen>,
    /// What the last look saw, where that is something else.
    settling: Option<Vec<Seen>>,
}

impl Watched {
    fn new(files: Vec<PathBuf>) -> Self {
        Self {
            taken: seen(&files),
            files,
            settling: None,
        }
    }

    /// Whether they hold something new, and held the same at the last look.
    fn look(&mut self) -> bool {
        let now = seen(&self.files);
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

fn seen(files: &[PathBuf]) -> Vec<Seen> {
    let seen = files.iter().map(|file| match read(file) {
        Ok(bytes) => Ok(Digest::of(Algorithm::Sha256, &bytes)),
        Err(error) => Err(error.kind()),
    });
    seen.collect()
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
