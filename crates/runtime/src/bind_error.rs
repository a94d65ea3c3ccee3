//! Why an address cannot be listened on, in the operator's words.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::listen::Address;

/// Why an address cannot be listened on: the end of a sentence that names the address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket has the port.
    #[error("another program listens there; `ss -ltnp` lists which")]
    PortInUse,
    /// Another process listens on the socket file.
    #[error("another program listens there; `ss -lxp` lists which")]
    SocketInUse,
    /// The path has a file that is no socket.
    #[error("a file that is no socket is there; remove it, or write another path")]
    NoSocket,
    /// No interface has the address.
    #[error("this machine has no such address; `ip address` lists those it has")]
    NotLocal,
    /// The port is below 1024.
    #[error(
        "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE; grant it, or write a higher port"
    )]
    Privileged,
    /// The host is a name without an address.
    #[error("the name has no address here; write an address, or :port for all addresses")]
    Unresolved,
    /// The folder of the socket file is missing.
    #[error("the folder {} does not exist; make it, or write another path", .0.display())]
    NoFolder(PathBuf),
    /// The socket file may not be made there.
    #[error("this user may not make a socket in {}; change its owner or mode", .0.display())]
    Denied(PathBuf),
    /// The socket file may not be given to its group.
    #[error("this user may not give a file to the group {0}; make the user a member of it")]
    Group(String),
    /// A socket file that another process made is writable by more users than its configured mode.
    #[error(
        "the service manager made the file with mode {found:04o}, which lets more users connect than {configured:04o}; write SocketMode={configured:04o} in its unit"
    )]
    TooOpen {
        /// The mode of the file.
        found: u32,
        /// The mode that is configured.
        configured: u32,
    },
    /// The group is unknown.
    #[error("{0}")]
    NoGroup(String),
    /// Any other cause.
    #[error("{}", words(.0))]
    Other(io::Error),
}

impl BindError {
    /// The cause of an error of binding to `address`.
    pub(super) fn of(address: &Address, error: io::Error) -> Self {
        use io::ErrorKind as Kind;

        let errno = Errno::from_io_error(&error);
        match (address, error.kind()) {
            (Address::Unix(path, permissions), kind) => {
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.map_or_else(|| PathBuf::from("."), PathBuf::from);
                match (kind, errno, &permissions.group) {
                    (Kind::InvalidInput, None, _) => Self::NoGroup(error.to_string()),
                    (Kind::AddrInUse, None, _) => Self::SocketInUse,
                    (Kind::AddrInUse, Some(_), _) => Self::NoSocket,
                    (Kind::NotFound, ..) => Self::NoFolder(folder),
                    (_, Some(Errno::PERM), Some(group)) => Self::Group(group.clone()),
                    (Kind::PermissionDenied, ..) => Self::Denied(folder),
                    _ => Self::Other(error),
                }
            }
            (_, Kind::AddrInUse) => Self::PortInUse,
            (_, Kind::AddrNotAvailable) => Self::NotLocal,
            (_, Kind::PermissionDenied) => Self::Privileged,
            // The resolver's errors are no system errors.
            _ if errno.is_none() => Self::Unresolved,
            _ => Self::Other(error),
        }
    }
}

/// A system's error without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error ").unwrap_or(text.len());
    text[..end].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::socket_file::SocketPermissions;
    use super::*;

    #[test]
    fn causes_are_told_apart() {
        let tcp = || Address::Tcp("h:443".to_owned());
        let unix = |group: Option<&str>| {
            let group = group.map(str::to_owned);
            Address::Unix("run/a.sock".into(), SocketPermissions { mode: None, group })
        };
        let system = |errno: Errno| io::Error::from(errno);
        for (address, error, words) in [
            (
                tcp(),
                system(Errno::ADDRINUSE),
                "another program listens there; `ss -ltnp`",
            ),
            (
                Address::Everywhere(443),
                system(Errno::ACCESS),
                "ports below 1024",
            ),
            (tcp(), system(Errno::ADDRNOTAVAIL), "no such address"),
            (
                tcp(),
                io::Error::other("failed to lookup"),
                "the name has no address",
            ),
            (tcp(), system(Errno::MFILE), "too many open files"),
            (
                unix(None),
                system(Errno::ADDRINUSE),
                "a file that is no socket",
            ),
            (unix(None), io::ErrorKind::AddrInUse.into(), "`ss -lxp`"),
            (
                unix(None),
                system(Errno::NOENT),
                "the folder run does not exist",
            ),
            (
                unix(None),
                system(Errno::ACCESS),
                "may not make a socket in run",
            ),
            (unix(Some("www")), system(Errno::PERM), "to the group www"),
            (
                unix(Some("www")),
                io::Error::new(io::ErrorKind::InvalidInput, "no group www in /etc/group"),
                "no group www in /etc/group",
            ),
        ] {
            let told = BindError::of(&address, error).to_string();
            assert!(told.contains(words), "{address}: {told}");
            assert!(!told.contains("os error"), "{told}");
        }
    }
}
