//! Listeners: TCP addresses, and socket files with their modes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::socket_file;

/// Connections that wait to be accepted on a private socket file.
const BACKLOG: i32 = 64;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`
    Tcp(String),
    Unix(PathBuf, SocketMode),
}

/// Who may open a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketMode {
    /// Whoever the process's umask lets.
    Umask,
    /// Its owner alone: 0600.
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

/// A listener that is open. Its socket file is removed when it is dropped.
#[derive(Debug)]
pub struct Bound {
    socket: Listening,
    /// How a client names it: `https://127.0.0.1:5000` or `unix:PATH`.
    pub url: String,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A connection.
#[derive(Debug)]
pub enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Bound {
    /// Opens a listener; `scheme` is what is spoken over TCP.
    ///
    /// # Errors
    /// What the system says: the address is taken, or not ours.
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
    /// What the system says: mostly that there are no more descriptors.
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

/// A socket file of mode 0600. It has that mode from its first moment, since Linux gives the file the mode of
/// the socket that is bound to it: nobody else can slip in before a chmod.
fn private_socket(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}
