//! Replaces a file at once: readers see the old content or the new one, also after a power cut.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// Writes a temporary file beside the file, syncs it and renames it over the file, whose mode and owner stay. A new file has
/// `mode`, less what the umask takes away. The target of a symbolic link is replaced, not the link.
///
/// # Errors
/// The system's error; the file is as it was then.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let path = resolve(path)?;
    let old = match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        metadata => Some(metadata?),
    };
    let temporary = temporary(&path);
    // A leftover of an earlier process with the same id.
    let _ = fs::remove_file(&temporary);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            // Not wider than the old one, even for a moment.
            .mode(if old.is_some() { 0o600 } else { mode })
            .open(&temporary)?;
        if let Some(old) = &old {
            let new = file.metadata()?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder_of(&path))?.sync_all()
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// The file that a path leads to, which need not exist.
///
/// # Errors
/// The system's error.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        resolved => resolved,
    }
}

/// The folder of a file.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The path of the temporary file, in the same folder, so that a rename can replace the original.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_link_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, link) = (dir.path().join("real"), dir.path().join("link"));
        let mode = || fs::metadata(&path).expect("it is there").mode() & 0o7777;
        replace(&path, b"a", 0o600).expect("made");
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("ours");
        std::os::unix::fs::symlink("real", &link).expect("a link");
        replace(&link, b"b", 0o600).expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"b");
        assert_eq!(mode(), 0o640);
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert!(replace(&dir.path().join("none/a"), b"c", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2);
    }
}
