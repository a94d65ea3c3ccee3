//! Socket files: their permissions, and those that an ended process left behind.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// The backlog of a socket file.
const BACKLOG: i32 = 1024;
/// The mode of a socket with a group, unless configured.
const GROUP_MODE: u32 = 0o660;
/// The groups of the machine.
const GROUPS: &str = "/etc/group";

/// The permissions of a socket file. Who may write to it may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketPermissions {
    /// The mode, such as 0o660. Unless set, 0660 with a group, else that of the process's umask.
    pub mode: Option<u32>,
    /// The group, by name or number.
    pub group: Option<String>,
}

impl SocketPermissions {
    /// The owner alone.
    pub const OWNER: Self = Self {
        mode: Some(0o600),
        group: None,
    };
}

/// Binds a socket file. Nobody can connect before the file has its mode and group.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] if another process listens there or the path is no socket; [`io::ErrorKind::InvalidInput`] for an
/// unknown group; else the system's error.
pub(super) fn bind(path: &Path, permissions: &SocketPermissions) -> io::Result<UnixListener> {
    let group = permissions.group.as_deref().map(group_id).transpose()?;
    remove_stale(path)?;
    let mode = permissions.mode.or(group.map(|_| GROUP_MODE));
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if mode.is_some() {
        // Linux gives the file the mode of the socket that is bound to it.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    }
    socket.bind(&SockAddr::unix(path)?)?;
    let permitted = || -> io::Result<()> {
        if let Some(group) = group {
            chown(path, None, Some(group))?;
        }
        if let Some(mode) = mode {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)
    };
    permitted().inspect_err(|_| {
        let _ = fs::remove_file(path);
    })?;
    UnixListener::from_std(socket.into())
}

/// The number of a group of the machine.
fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let unknown = || {
        let message = format!("no group {group} in {GROUPS}; write its number");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    };
    group_in(&fs::read_to_string(GROUPS)?, group).ok_or_else(unknown)
}

/// The number of a group in a file of groups: `name:password:number:members` in each line.
fn group_in(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        fields.nth(1)?.parse().ok()
    })
}

/// Removes a socket without a listener; any other file stays.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] for a socket with a listener; the disk's error when it cannot be removed.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\nwww-data:x:33:alice,bob\nbroken\nempty:x:\n";
        for (name, number) in [
            ("root", Some(0)),
            ("www-data", Some(33)),
            ("www", None),
            ("broken", None),
            ("empty", None),
            ("", None),
        ] {
            assert_eq!(group_in(groups, name), number, "{name}");
        }
    }

    #[tokio::test]
    async fn files_have_their_permissions() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = fs::metadata(folder.path()).expect("it is there").gid();
        let mode = |permissions: &SocketPermissions| {
            let path = folder.path().join("a.sock");
            let bound = bind(&path, permissions);
            let meta = fs::metadata(&path).expect("a file");
            drop(bound.expect("bound"));
            (meta.mode() & 0o777, meta.gid())
        };
        assert_eq!(mode(&SocketPermissions::OWNER), (0o600, own));
        let permissions = |mode, group: Option<u32>| SocketPermissions {
            mode,
            group: group.map(|group| group.to_string()),
        };
        assert_eq!(mode(&permissions(Some(0o666), None)), (0o666, own));
        assert_eq!(mode(&permissions(None, Some(own))), (0o660, own));
        assert_eq!(mode(&permissions(Some(0o620), Some(own))), (0o620, own));
        if rustix::process::geteuid().is_root() {
            assert_eq!(mode(&permissions(None, Some(54_321))), (0o660, 54_321));
        }
        let unknown = SocketPermissions {
            mode: None,
            group: Some("no such group".to_owned()),
        };
        let error = bind(&folder.path().join("b.sock"), &unknown).expect_err("unknown");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(!folder.path().join("b.sock").exists());
    }
}
