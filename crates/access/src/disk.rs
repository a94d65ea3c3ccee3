//! The files of the crate: the accounts and the token key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use runtime::keys_folder;
use runtime::replace::{folder_of, replace, resolve};
use rustix::fs::{FlockOperation, flock};

use super::htpasswd::MAX_BYTES;

/// The file of the token key.
const TOKEN_KEY: &str = "token.key";
const KEY_BYTES: usize = 32;

/// The whole htpasswd file.
pub(super) fn read_accounts(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("it is larger than {} MiB", MAX_BYTES >> 20);
        return Err(io::Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// Rewrites the htpasswd file atomically and under a lock; mode and owner are preserved. A new file is readable by its
/// owner only.
///
/// # Errors
/// When it cannot be read or replaced, or `change` fails.
pub(super) fn change_accounts<E: From<io::Error>>(
    path: &Path,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    let path = resolve(path)?;
    let folder = File::open(folder_of(&path))?;
    flock(&folder, FlockOperation::LockExclusive).map_err(io::Error::from)?;
    let bytes = match read_accounts(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    replace(&path, &change(&bytes)?, 0o600)?;
    Ok(())
}

/// The token key in the folder of keys. Both are created where missing: the folder with mode 0700, the key with 0600.
///
/// # Errors
/// When the key can neither be read nor created.
pub(super) fn token_key(folder: &Path) -> io::Result<Vec<u8>> {
    let path = folder.join(TOKEN_KEY);
    match read_key(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        read => return read,
    }
    keys_folder::open(folder).map_err(io::Error::other)?;
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let temporary = temporary(&path);
    create(&temporary, &key)?;
    // Unlike a rename this never replaces the key of a process that starts at the same time.
    let linked = fs::hard_link(&temporary, &path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        linked => linked?,
    }
    File::open(folder)?.sync_all()?;
    read_key(&path)
}

fn read_key(path: &Path) -> io::Result<Vec<u8>> {
    let mut key = Vec::new();
    File::open(path)?.take(1024).read_to_end(&mut key)?;
    if key.len() == KEY_BYTES {
        Ok(key)
    } else {
        let message = "it is not a token key; remove it, and a new one is made";
        Err(io::Error::new(ErrorKind::InvalidData, message))
    }
}

/// The path of the temporary file, in the same folder, so that a rename can replace the original.
fn temporary(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Writes a new file of mode 0600 and syncs it to disk.
fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A leftover of an earlier process with the same id.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
    }

    #[test]
    fn the_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("a/keys");
        let key = token_key(&folder).expect("made");
        assert_eq!(key.len(), KEY_BYTES);
        assert_eq!(token_key(&folder).expect("read"), key);
        assert_eq!(
            (mode(&folder), mode(&folder.join(TOKEN_KEY))),
            (0o700, 0o600)
        );
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1);
        let other = token_key(&dir.path().join("b")).expect("made");
        assert_ne!(other, key);
        for broken in [&b""[..], b"short", &[7; KEY_BYTES + 1]] {
            fs::write(folder.join(TOKEN_KEY), broken).expect("writable");
            let error = token_key(&folder).expect_err("no key");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_change_keeps_mode_and_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, link) = (dir.path().join("real"), dir.path().join("link"));
        let append =
            |byte: u8| move |old: &[u8]| -> io::Result<Vec<u8>> { Ok([old, &[byte]].concat()) };
        change_accounts(&path, append(b'a')).expect("made");
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("ours");
        std::os::unix::fs::symlink("real", &link).expect("a link");
        change_accounts(&link, append(b'b')).expect("changed");
        assert_eq!(fs::read(&path).expect("there"), b"ab");
        assert_eq!(mode(&path), 0o640);
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        let refused = change_accounts(&path, |_| Err(io::Error::other("no")));
        assert_eq!(refused.expect_err("refused").to_string(), "no");
        assert_eq!(fs::read(&path).expect("there"), b"ab");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2);
    }
}
