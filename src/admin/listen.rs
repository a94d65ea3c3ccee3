//! Where operators connect: a TCP address, or a socket file that only its owner may open.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::route::Peer;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`
    Tcp(String),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listener that is open.
#[derive(Debug)]
pub struct Bound {
    socket: Listening,
    /// How it is named: `http://127.0.0.1:5002` or `unix:PATH`.
    pub url: String,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A connection.
pub(super) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Bound {
    /// Opens a listener.
    ///
    /// # Errors
    /// What the system says: the address is taken, or not ours.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = TcpListener::bind(address).await?;
                let url = format!("http://{}", socket.local_addr()?);
                let socket = Listening::Tcp(socket);
                Ok(Self { socket, url })
            }
            Address::Unix(path) => Ok(Self {
                socket: Listening::Unix(private_socket(path)?, path.clone()),
                url: format!("unix:{}", path.display()),
            }),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match &self.socket {
            Listening::Tcp(socket) => {
                let (stream, remote) = socket.accept().await?;
                let peer = Peer::tcp(remote, stream.local_addr()?);
                Ok((Accepted::Tcp(stream), peer))
            }
            Listening::Unix(socket, _) => {
                Ok((Accepted::Unix(socket.accept().await?.0), Peer::Unix))
            }
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
    runtime::socket_file::remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}
