//! Listeners on TCP addresses and Unix socket files.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::socket_file;

/// The backlog of a private socket file.
const BACKLOG: i32 = 64;

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`
    Tcp(String),
    /// The path of a socket file, and its permissions.
    Unix(PathBuf, SocketMode),
}

/// The permissions of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketMode {
    /// Those of the process's umask.
    Umask,
    /// The owner only: 0600.
    Owner,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
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
    /// The system's error: the address is in use, or not local.
    pub async fn bind(address: &Address, scheme: &str) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = TcpListener::bind(address).await?;
                let url = format!("{scheme}://{}", socket.local_addr()?);
                let socket = Listening::Tcp(socket);
                Ok(Self { socket, url })
            }
            Address::Unix(path, mode) => {
                socket_file::remove_stale(path)?;
                let socket = match mode {
                    SocketMode::Umask => UnixListener::bind(path)?,
                    SocketMode::Owner => private_socket(path)?,
                };
                Ok(Self {
                    socket: Listening::Unix(socket, path.clone()),
                    url: format!("unix:{}", path.display()),
                })
            }
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
        if let Listening::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket file of mode 0600 from the moment of its creation, since Linux gives the file the mode of the socket that is
/// bound to it: no other user can connect before a chmod.
fn private_socket(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}
