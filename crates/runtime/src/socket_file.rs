//! Unix sockets as files: what a process that ended left of them.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Removes a socket that nobody listens on any more; what is no socket stays.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] when somebody does; what the disk says when it cannot be removed.
pub fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}
