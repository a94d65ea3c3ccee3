//! Listeners on TCP addresses and Unix socket files.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::bind_error::BindError;
use super::socket_file::{self, SocketPermissions};

/// The backlog of a listener on all addresses, as tokio's.
const BACKLOG: i32 = 1024;

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`
    Tcp(String),
    /// A port on all addresses, of IPv4 and of IPv6.
    Everywhere(u16),
    /// The path of a socket file, and its permissions.
    Unix(PathBuf, SocketPermissions),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::Unix(path, _) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An open listener. Its socket file is removed when it is dropped.
#[derive(Debug)]
pub struct Bound {
    socket: Listening,
    /// The address for clients: `https://127.0.0.1:5000` or `unix:PATH`.
    pub url: String,
    owner: Mutex<FileOwner>,
}

/// Who removes a socket file at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOwner {
    /// This process.
    This,
    /// Another one, such as the service manager.
    Other,
    /// The process that this one takes over from, until it has.
    Predecessor,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// An accepted connection.
#[derive(Debug)]
pub enum Accepted {
    /// With the client's address.
    Tcp(TcpStream, SocketAddr),
    /// Of a client on this machine.
    Unix(UnixStream),
}

/// A connection that no runtime polls, on its way to another one.
#[derive(Debug)]
pub enum Detached {
    /// With the client's address.
    Tcp(std::net::TcpStream, SocketAddr),
    /// Of a client on this machine.
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// The client's address; `None` for a Unix socket.
    pub fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, peer) => Some(peer.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }

    /// Takes it off the runtime that accepted it.
    ///
    /// # Errors
    /// What the system says; the connection is closed then.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(stream, peer) => Detached::Tcp(stream.into_std()?, peer),
            Self::Unix(stream) => Detached::Unix(stream.into_std()?),
        })
    }
}

impl Detached {
    /// Has it polled by the runtime that this is called on.
    ///
    /// # Errors
    /// What the system says; the connection is closed then.
    pub fn attach(self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(stream, peer) => Accepted::Tcp(TcpStream::from_std(stream)?, peer),
            Self::Unix(stream) => Accepted::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl Bound {
    /// Opens a listener; `scheme` is that of the URL on TCP.
    ///
    /// # Errors
    /// [`BindError`], which names the cause.
    pub async fn bind(address: &Address, scheme: &str) -> Result<Self, BindError> {
        let bound = match address {
            Address::Tcp(name) => Self::tcp(TcpListener::bind(name).await, scheme),
            Address::Everywhere(port) => Self::tcp(everywhere(*port), scheme),
            Address::Unix(path, permissions) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                socket_file::bind(&path, permissions).map(|socket| Self::unix(socket, path))
            }
        };
        bound.map_err(|source| BindError::of(address, source))
    }

    fn tcp(socket: io::Result<TcpListener>, scheme: &str) -> io::Result<Self> {
        let socket = socket?;
        let url = format!("{scheme}://{}", socket.local_addr()?);
        let socket = Listening::Tcp(socket);
        Ok(Self {
            socket,
            url,
            owner: Mutex::new(FileOwner::This),
        })
    }

    fn unix(socket: UnixListener, path: PathBuf) -> Self {
        Self {
            url: format!("unix:{}", path.display()),
            socket: Listening::Unix(socket, path),
            owner: Mutex::new(FileOwner::This),
        }
    }

    /// The listener of a socket that another process has bound, which owns its socket file. `scheme` is that of the URL on
    /// TCP.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if it does not listen for connections; else the system's.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn passed(socket: OwnedFd, scheme: &str) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            return Err(invalid("it does not listen for connections"));
        }
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        if address.is_ipv4() || address.is_ipv6() {
            return Self::tcp(TcpListener::from_std(socket.into()), scheme);
        }
        let path = address.as_pathname();
        let path = path.ok_or_else(|| invalid("it has no path"))?.to_owned();
        let bound = Self::unix(UnixListener::from_std(socket.into())?, path);
        bound.set_file_owner(FileOwner::Other);
        Ok(bound)
    }

    /// The socket, for another process.
    ///
    /// # Errors
    /// The system's error.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        let socket = match &self.socket {
            Listening::Tcp(socket) => socket.as_fd(),
            Listening::Unix(socket, _) => socket.as_fd(),
        };
        socket.try_clone_to_owned()
    }

    /// Who removes its socket file.
    pub fn file_owner(&self) -> FileOwner {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets who removes its socket file.
    pub fn set_file_owner(&self, owner: FileOwner) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
    }

    /// Has this process remove the socket file of the one that it has taken over from.
    pub fn inherit_file(&self) {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if *owner == FileOwner::Predecessor {
            *owner = FileOwner::This;
        }
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// The system's error, mostly that there are no more descriptors.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Listening::Tcp(socket) => {
                let (stream, remote) = socket.accept().await?;
                Ok(Accepted::Tcp(stream, remote))
            }
            Listening::Unix(socket, _) => Ok(Accepted::Unix(socket.accept().await?.0)),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Listening::Unix(_, path) = &self.socket
            && self.file_owner() == FileOwner::This
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One socket for all addresses of both families, whatever `net.ipv6.bindv6only` says; IPv4 alone where the system has no
/// IPv6.
fn everywhere(port: u16) -> io::Result<TcpListener> {
    let both = listener(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into());
    let without_ipv6 = |error: &io::Error| {
        let missing = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
        Errno::from_io_error(error).is_some_and(|errno| missing.contains(&errno))
    };
    match both {
        Err(error) if without_ipv6(&error) => {
            listener(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        both => both,
    }
}

fn listener(domain: Domain, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the last process's connections.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passed_sockets_accept_and_keep_their_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        for address in [
            Address::Tcp("127.0.0.1:0".to_owned()),
            Address::Unix(path.clone(), SocketPermissions::default()),
        ] {
            let bound = Bound::bind(&address, "http").await.expect("bound");
            let passed = bound.duplicate().expect("duplicated");
            bound.set_file_owner(FileOwner::Other);
            let url = bound.url.clone();
            drop(bound);
            let passed = Bound::passed(passed, "http").expect("a listener");
            assert_eq!(passed.url, url);
            let connected: io::Result<()> = match url.strip_prefix("http://") {
                Some(authority) => TcpStream::connect(authority).await.map(drop),
                None => UnixStream::connect(&path).await.map(drop),
            };
            connected.expect("connected");
            passed.accept().await.expect("a connection");
            drop(Bound::passed(
                passed.duplicate().expect("duplicated"),
                "http",
            ));
            assert_eq!(path.exists(), url.starts_with("unix"), "it is another's");
            passed.inherit_file();
            assert_eq!(
                passed.file_owner() == FileOwner::This,
                url.starts_with("http")
            );
            passed.set_file_owner(FileOwner::Predecessor);
            passed.inherit_file();
        }
        assert!(!path.exists(), "the owner removes it");
        let file = OwnedFd::from(tempfile::tempfile().expect("a file"));
        assert!(Bound::passed(file, "http").is_err());
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let error = Bound::passed(datagrams.into(), "http").expect_err("no listener");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_port_is_open_on_both_families() {
        let bound = Bound::bind(&Address::Everywhere(0), "http").await;
        let bound = bound.expect("a port");
        let port = bound.url.rsplit(':').next().expect("a port");
        let port: u16 = port.parse().expect("a number");
        let v4 = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        let accepted = bound.accept().await.expect("a connection");
        assert_eq!(accepted.peer(), Some(Ipv4Addr::LOCALHOST.into()));
        drop(v4.expect("connected"));
        if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            let v6 = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await;
            let accepted = bound.accept().await.expect("a connection");
            assert_eq!(accepted.peer(), Some(Ipv6Addr::LOCALHOST.into()));
            drop(v6.expect("connected"));
        }
    }
}
