//! The folder of the gateway's keys: private, and nothing else's.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The mode of the folder.
const PRIVATE: u32 = 0o700;
/// The files that the gateway makes there.
const OURS: [&str; 7] = [
    "acme",
    "ca.pem",
    "ca.key",
    "leaf.pem",
    "leaf.key",
    "token.key",
    "admin.sock",
];
/// The first of them in a folder that was made before.
const KEYS: [&str; 3] = ["ca.key", "token.key", "acme"];
/// How many other files a message lists.
const LISTED: usize = 3;

/// Why a folder cannot have the keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysFolderError {
    /// It has other files, which must not become unreadable for their users.
    #[error(
        "{} has other files ({}), and the folder of keys is made private; write a folder of its own for keys",
        path.display(),
        others.join(", ")
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Some of the files.
        others: Vec<String>,
    },
    /// It cannot be made, read or changed.
    #[error("cannot use {} for keys: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Makes the folder with mode 0700, or checks the one that is there and makes it private. A folder with other files is
/// refused, unless it is private already and has keys: then the files were added to ours.
///
/// # Errors
/// [`KeysFolderError`]
pub fn open(path: &Path) -> Result<(), KeysFolderError> {
    let io_error = |source| KeysFolderError::Io {
        path: path.to_owned(),
        source,
    };
    check(path)?;
    let made = DirBuilder::new().recursive(true).mode(PRIVATE).create(path);
    made.map_err(io_error)?;
    if fs::metadata(path).map_err(io_error)?.mode() & 0o777 != PRIVATE {
        fs::set_permissions(path, Permissions::from_mode(PRIVATE)).map_err(io_error)?;
    }
    Ok(())
}

/// Checks a folder without changing it. Where there is none, one can be made.
///
/// # Errors
/// [`KeysFolderError`]
pub fn check(path: &Path) -> Result<(), KeysFolderError> {
    let io_error = |source| KeysFolderError::Io {
        path: path.to_owned(),
        source,
    };
    let mode = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io_error)?.mode() & 0o777,
    };
    let names = fs::read_dir(path).and_then(|entries| {
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<Vec<String>>>()
    });
    match foreign(mode, names.map_err(io_error)?) {
        others if others.is_empty() => Ok(()),
        others => Err(KeysFolderError::Foreign {
            path: path.to_owned(),
            others,
        }),
    }
}

/// Some of the files for which a folder of this mode is refused.
fn foreign(mode: u32, names: Vec<String>) -> Vec<String> {
    if mode == PRIVATE && names.iter().any(|name| KEYS.contains(&name.as_str())) {
        return Vec::new();
    }
    let mut others: Vec<String> = names.into_iter().filter(|name| !is_ours(name)).collect();
    others.sort();
    if others.len() > LISTED {
        others.truncate(LISTED);
        others.push("…".to_owned());
    }
    others
}

/// Whether the gateway made the file, or the file system.
fn is_ours(name: &str) -> bool {
    // Written before they are renamed.
    let temporary = |ours: &str| {
        let stem = ours.split_once('.').map_or(ours, |(stem, _)| stem);
        name == format!("{stem}.new")
            || name
                .strip_prefix(&format!(".{ours}."))
                .is_some_and(|rest| rest.split_once('.').is_some_and(|(_, end)| end == "tmp"))
    };
    OURS.contains(&name) || name == "lost+found" || OURS.into_iter().any(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_foreign_unless_they_were_added_to_ours() {
        for (mode, names, expected) in [
            (0o755, "", ""),
            (
                0o755,
                "ca.pem ca.key leaf.pem leaf.key token.key admin.sock",
                "",
            ),
            (0o755, "ca.new leaf.new .token.key.17.tmp lost+found", ""),
            (0o755, "ca.key notes", "notes"),
            (0o700, "ca.key notes", ""),
            (0o755, "acme", ""),
            (0o700, "acme notes", ""),
            (0o700, "notes", "notes"),
            (0o700, "ca.pem notes", "notes"),
            (0o755, "e d c b a", "a b c …"),
        ] {
            let names = names.split_whitespace().map(str::to_owned).collect();
            assert_eq!(foreign(mode, names).join(" "), expected);
        }
    }

    #[test]
    fn foreign_folders_stay_as_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("etc");
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("ours");
        let mode = || fs::metadata(&path).expect("there").mode() & 0o777;
        fs::write(path.join("passwd"), "").expect("writable");
        let refused = open(&path).expect_err("foreign").to_string();
        assert!(
            refused.contains("etc has other files (passwd)"),
            "{refused}"
        );
        assert_eq!(mode(), 0o755);
        fs::remove_file(path.join("passwd")).expect("removable");
        open(&path).expect("empty");
        assert_eq!(mode(), 0o700);
        let new = folder.path().join("a/b");
        open(&new).expect("made");
        assert_eq!(fs::metadata(new).expect("there").mode() & 0o777, 0o700);
    }
}
