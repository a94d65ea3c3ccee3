//! File operations that survive a power cut, and the meaning of their errors.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Replaces a file so that a crash leaves the old bytes or the new ones: temporary file in `staging`, fsync,
/// rename, fsync of the folder. Creates the folders above it.
///
/// # Errors
/// The disk's; the temporary file is removed then.
pub fn write_atomic(staging: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(staging, path, |file| {
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Replaces a file so that the end of the process leaves the old bytes or the new ones; a power cut may leave neither.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_without_sync(staging: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(staging, path, |file| file.write_all(bytes))
}

fn replace(
    staging: &Path,
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);

    let folder = path.parent().unwrap_or(Path::new("."));
    create_folder(staging)?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    // The process that this one takes over from may write records to its end.
    let temporary = staging.join(format!(".tmp-{}-{serial}", std::process::id()));
    let rename = || {
        create_folder(folder)?;
        std::fs::rename(&temporary, path)
    };
    let written = File::create(&temporary)
        .and_then(|mut file| write(&mut file))
        .and_then(|()| match rename() {
            // A folder that became empty may have been removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => rename(),
            outcome => outcome,
        });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Creates a folder and those above it durably: a power cut does not remove them.
///
/// # Errors
/// The disk's.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let above = folder.parent().unwrap_or(Path::new("."));
    match std::fs::create_dir(folder) {
        Ok(()) => File::open(above)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_folder(above)?;
            create_folder(folder)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the file does not exist: a component of its path is missing, or is a file where a folder would be.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The outcome of a removal, where an absent file counts as removed.
pub fn ignore_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
