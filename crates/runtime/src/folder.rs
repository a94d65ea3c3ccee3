//! Folders that other programs wrote, read without leaving them: no symbolic link below the first folder is followed, and
//! only regular files are opened.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

/// A folder. It stays the same one if its path is replaced meanwhile.
#[derive(Debug)]
pub struct Folder {
    descriptor: OwnedFd,
}

/// What a name in a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link, which is not followed.
    Link,
    /// A socket, a pipe or a device.
    Other,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As on disk; it may be no UTF-8.
    pub name: OsString,
    /// What it is, which may have changed since.
    pub kind: EntryKind,
}

/// The names in a folder, in no order. Some kilobytes are read at a time.
#[derive(Debug)]
pub struct Entries {
    folder: rustix::fs::Dir,
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

impl Folder {
    /// Opens a folder. The path itself may lead through symbolic links: it is the operator's.
    ///
    /// # Errors
    /// If it cannot be opened, or is no folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        let descriptor = rustix::fs::open(path, FOLDER, Mode::empty())?;
        Ok(Self { descriptor })
    }

    /// The same folder once more.
    ///
    /// # Errors
    /// The system's.
    pub fn again(&self) -> io::Result<Self> {
        let descriptor = self.descriptor.try_clone()?;
        Ok(Self { descriptor })
    }

    /// Opens a folder below this one, by a relative path.
    ///
    /// # Errors
    /// If a component is absent, a symbolic link, `..`, or no folder.
    pub fn folder(&self, path: &str) -> io::Result<Self> {
        let mut folder: Option<OwnedFd> = None;
        for component in path.split('/') {
            let above = folder.as_ref().unwrap_or(&self.descriptor);
            folder = Some(open_component(above, component, FOLDER)?);
        }
        let descriptor = folder.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { descriptor })
    }

    /// Opens a file below this folder for reading, by a relative path.
    ///
    /// # Errors
    /// As [`Folder::folder`]; if the last component is no regular file.
    pub fn file(&self, path: &str) -> io::Result<File> {
        // A pipe would block.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match path.rsplit_once('/') {
            Some((folder, name)) => open_component(&self.folder(folder)?.descriptor, name, flags)?,
            None => open_component(&self.descriptor, path, flags)?,
        };
        let file = File::from(file);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(file)
    }

    /// Reads a file of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Folder::file`]; [`io::ErrorKind::FileTooLarge`] if it is longer.
    pub fn read(&self, path: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            let why = format!("it is longer than {most} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(bytes)
    }

    /// The names in it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn entries(&self) -> io::Result<Entries> {
        let folder = rustix::fs::Dir::read_from(&self.descriptor)?;
        Ok(Entries { folder })
    }

    /// Whether a folder is there, by a relative path.
    pub fn has_folder(&self, path: &str) -> bool {
        self.folder(path).is_ok()
    }
}

impl Iterator for Entries {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.folder.read()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut kind = entry.file_type();
            // Some file systems do not say.
            if kind == FileType::Unknown
                && let Ok(folder) = self.folder.fd()
                && let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            {
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            let kind = match kind {
                FileType::Directory => EntryKind::Folder,
                FileType::RegularFile => EntryKind::File,
                FileType::Symlink => EntryKind::Link,
                _ => EntryKind::Other,
            };
            let name = OsString::from_vec(name.to_bytes().to_vec());
            return Some(Ok(Entry { name, kind }));
        }
    }
}

fn open_component(above: &OwnedFd, component: &str, flags: OFlags) -> io::Result<OwnedFd> {
    if matches!(component, "" | "." | "..") || component.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a component of its path is no name",
        ));
    }
    let opened = rustix::fs::openat(above, component, flags | OFlags::NOFOLLOW, Mode::empty());
    opened.map_err(|error| {
        let is_link = match error {
            rustix::io::Errno::LOOP => true,
            // What a link answers to a demand for a folder.
            rustix::io::Errno::NOTDIR => {
                let stat = rustix::fs::statat(above, component, AtFlags::SYMLINK_NOFOLLOW);
                stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
            }
            _ => false,
        };
        if is_link {
            io::Error::other("it is a symbolic link, which is not followed")
        } else {
            error.into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn nothing_leads_outside() {
        let outside = tempfile::tempdir().expect("a folder");
        std::fs::write(outside.path().join("secret"), "s").expect("writable");
        let inside = tempfile::tempdir().expect("a folder");
        let at = |name: &str| inside.path().join(name);
        std::fs::create_dir_all(at("a/b")).expect("writable");
        std::fs::write(at("a/b/file"), "12345").expect("writable");
        std::os::unix::fs::symlink(outside.path(), at("out")).expect("writable");
        std::os::unix::fs::symlink(outside.path().join("secret"), at("a/secret"))
            .expect("writable");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bound");
        let folder = Folder::open(inside.path()).expect("a folder");
        assert_eq!(folder.read("a/b/file", 5).expect("readable"), b"12345");
        let b = folder.folder("a/b").expect("a folder");
        assert_eq!(b.read("file", 9).expect("readable"), b"12345");
        assert!(folder.has_folder("a") && !folder.has_folder("out"));
        for (path, why) in [
            ("a/b/file/x", "Not a directory"),
            ("a/secret", "symbolic link"),
            ("out/secret", "symbolic link"),
            ("a/../a/b/file", "no name"),
            ("../x", "no name"),
            ("/etc/passwd", "no name"),
            ("", "no name"),
            ("a/b", "no regular file"),
            ("a/b/none", "No such file"),
        ] {
            let error = folder.read(path, 100).expect_err(path).to_string();
            assert!(error.contains(why), "{path}: {error}");
        }
        let long = folder.read("a/b/file", 4).expect_err("it is too long");
        assert_eq!(long.kind(), io::ErrorKind::FileTooLarge);
        assert!(folder.file("socket").is_err());
        let entries = folder.entries().expect("readable");
        let kinds: BTreeMap<OsString, EntryKind> = entries
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.name, entry.kind))
            .collect();
        let expected = [
            ("a", EntryKind::Folder),
            ("out", EntryKind::Link),
            ("socket", EntryKind::Other),
        ];
        assert_eq!(
            kinds,
            expected.map(|(name, kind)| (name.into(), kind)).into()
        );
    }
}
