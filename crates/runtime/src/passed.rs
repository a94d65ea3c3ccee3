//! Listening sockets that another process has bound and passed to this one, as systemd does (`sd_listen_fds(3)`).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use socket2::{Domain, Socket, Type};
use tokio::net::lookup_host;

use super::bind_error::BindError;
use super::listen::{Address, Bound};

/// The names of the sockets, divided by colons.
const NAMES: &str = "LISTEN_FDNAMES";

/// The sockets that were passed to this process. They stay open as long as it lives: a listener that one reload removes and
/// another one adds has its socket again.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<PassedSocket>);

#[derive(Debug)]
struct PassedSocket {
    name: String,
    place: Place,
    socket: OwnedFd,
}

/// Where a passed socket is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    /// A port on all addresses of both families.
    DualStack(u16),
    Unix(PathBuf),
}

/// A configured address, with its name resolved.
enum Wanted {
    Tcp(Vec<SocketAddr>),
    Everywhere(u16),
    Unix(PathBuf),
}

/// A passed socket that cannot be listened on, by its name.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// It has no connections.
    #[error("{0} is a socket of datagrams or packets; write ListenStream= in its unit")]
    NoStream(String),
    /// It is a connection.
    #[error("{0} does not listen for connections; write Accept=no in its unit")]
    NotListening(String),
    /// It is neither TCP nor bound to a path.
    #[error("{0} is bound neither to a TCP port nor to a path")]
    NoAddress(String),
    /// It is no socket, or one of another family.
    #[error("{0} is no socket of TCP or of a path; write ListenStream= in its unit")]
    NoSocket(String),
    /// The system's error.
    #[error("{0} cannot be used")]
    System(String, #[source] io::Error),
}

impl PassedSockets {
    /// Takes the sockets that the service manager passed (`LISTEN_FDS`, `LISTEN_PID`), and removes these two variables. To be
    /// called first of all: a file that is opened before may have the number of such a socket.
    ///
    /// # Errors
    /// [`PassedError`] for the first socket that cannot be listened on.
    pub fn of_service_manager() -> Result<Self, PassedError> {
        let names = std::env::var(NAMES).unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut descriptors = Vec::new();
        for index in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty());
            let name = name.map_or_else(|| format!("socket {index}"), str::to_owned);
            let descriptor = descriptor(&mut passed, index);
            descriptors.push((name.clone(), descriptor.ok_or(PassedError::NoSocket(name))?));
        }
        Self::of(descriptors)
    }

    /// These sockets, with their names.
    ///
    /// # Errors
    /// [`PassedError`] for the first one that cannot be listened on.
    pub fn of(descriptors: Vec<(String, OwnedFd)>) -> Result<Self, PassedError> {
        let sockets = descriptors.into_iter().map(|(name, descriptor)| {
            let socket = Socket::from(descriptor);
            Ok(PassedSocket {
                place: place(&socket, &name)?,
                name,
                socket: socket.into(),
            })
        });
        sockets.collect::<Result<_, _>>().map(Self)
    }

    /// The listener of the socket that is bound to this address, if one was passed; `scheme` is that of its URL on TCP.
    ///
    /// # Errors
    /// [`BindError`]: the socket file is open to more users than configured, or the system's.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(&self, address: &Address, scheme: &str) -> Option<Result<Bound, BindError>> {
        let passed = &self.0[self.index(address).await?];
        let bound = passed.socket.try_clone();
        let bound = bound.and_then(|socket| Bound::passed(socket, scheme));
        let bound = bound.map_err(|error| BindError::of(address, error));
        Some(bound.and_then(|bound| match address {
            Address::Unix(path, permissions) => {
                permitted(path, permissions.mode)?;
                Ok(bound)
            }
            Address::Tcp(_) | Address::Everywhere(_) => Ok(bound),
        }))
    }

    /// All of them with their names, for another process.
    ///
    /// # Errors
    /// The system's error.
    pub fn duplicates(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let duplicate =
            |passed: &PassedSocket| Ok((passed.name.clone(), passed.socket.try_clone()?));
        self.0.iter().map(duplicate).collect()
    }

    /// The names of the sockets that none of these addresses is bound to, with where they are bound.
    pub async fn unused(&self, addresses: &[Address]) -> Vec<(String, String)> {
        let mut unused: Vec<Option<&PassedSocket>> = self.0.iter().map(Some).collect();
        for address in addresses {
            if let Some(index) = self.index(address).await {
                unused[index] = None;
            }
        }
        let named = |passed: &PassedSocket| (passed.name.clone(), passed.place.to_string());
        unused.into_iter().flatten().map(named).collect()
    }

    async fn index(&self, address: &Address) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        let wanted = match address {
            // Binding to a name that cannot be resolved is the better error.
            Address::Tcp(name) => Wanted::Tcp(lookup_host(name).await.ok()?.collect()),
            Address::Everywhere(port) => Wanted::Everywhere(*port),
            Address::Unix(path, _) => Wanted::Unix(std::path::absolute(path).ok()?),
        };
        let places: Vec<&Place> = self.0.iter().map(|passed| &passed.place).collect();
        matching(&wanted, &places)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::DualStack(port) => write!(f, ":{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The index of the place that is this address. A port on all addresses may be one of IPv4 alone where no other was passed.
fn matching(wanted: &Wanted, places: &[&Place]) -> Option<usize> {
    let is = |at: &dyn Fn(&Place) -> bool| places.iter().position(|place| at(place));
    let all_ipv4 = |port: u16| Place::Tcp((Ipv4Addr::UNSPECIFIED, port).into());
    match wanted {
        Wanted::Everywhere(port) => is(&|place| *place == Place::DualStack(*port))
            .or_else(|| is(&|place| *place == all_ipv4(*port))),
        Wanted::Tcp(addresses) => is(&|place| match place {
            Place::Tcp(at) => addresses
                .iter()
                .any(|one| (one.ip(), one.port()) == (at.ip(), at.port())),
            Place::DualStack(port) => addresses.contains(&(Ipv6Addr::UNSPECIFIED, *port).into()),
            Place::Unix(_) => false,
        }),
        Wanted::Unix(path) => is(&|place| matches!(place, Place::Unix(at) if at == path)),
    }
}

/// A passed descriptor: of a socket whose kind is not yet known to be right, so that the error can name it.
fn descriptor(passed: &mut ListenFd, index: usize) -> Option<OwnedFd> {
    if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
        return Some(socket.into());
    }
    if let Ok(Some(socket)) = passed.take_unix_listener(index) {
        return Some(socket.into());
    }
    [Domain::UNIX, Domain::IPV4].iter().find_map(|domain| {
        [Type::DGRAM, Type::SEQPACKET].iter().find_map(|kind| {
            let taken = passed.take_custom(index, (*domain).into(), (*kind).into(), "socket");
            taken.ok().flatten()
        })
    })
}

fn place(socket: &Socket, name: &str) -> Result<Place, PassedError> {
    let system = |error: io::Error| PassedError::System(name.to_owned(), error);
    if socket.r#type().map_err(system)? != Type::STREAM {
        return Err(PassedError::NoStream(name.to_owned()));
    }
    if !socket.is_listener().map_err(system)? {
        return Err(PassedError::NotListening(name.to_owned()));
    }
    let address = socket.local_addr().map_err(system)?;
    if let Some(path) = address.as_pathname() {
        return Ok(Place::Unix(path.to_owned()));
    }
    let address = address.as_socket();
    let address = address.ok_or_else(|| PassedError::NoAddress(name.to_owned()))?;
    let is_dual = address.ip() == Ipv6Addr::UNSPECIFIED && !socket.only_v6().map_err(system)?;
    Ok(if is_dual {
        Place::DualStack(address.port())
    } else {
        Place::Tcp(address)
    })
}

/// Whether no more users may connect to a socket file than its configured mode allows.
fn permitted(path: &Path, mode: Option<u32>) -> Result<(), BindError> {
    let Some(configured) = mode else {
        return Ok(());
    };
    let found = std::fs::metadata(path).map_err(BindError::Other)?.mode() & 0o777;
    // To connect takes the right to write.
    if found & !configured & 0o222 == 0 {
        return Ok(());
    }
    Err(BindError::TooOpen { found, configured })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::super::socket_file::SocketPermissions;
    use super::*;

    #[test]
    fn addresses_have_the_sockets_that_are_bound_to_them() {
        let tcp = |address: &str| Place::Tcp(address.parse().expect("an address"));
        let unix = |path: &str| Place::Unix(path.into());
        let wanted = |addresses: &[&str]| {
            let parsed = addresses.iter().map(|one| one.parse().expect("an address"));
            Wanted::Tcp(parsed.collect())
        };
        for (wanted, places, expected) in [
            (
                wanted(&["127.0.0.1:5000"]),
                vec![tcp("127.0.0.1:5000")],
                Some(0),
            ),
            (
                wanted(&["127.0.0.1:5000"]),
                vec![tcp("127.0.0.1:5001")],
                None,
            ),
            (wanted(&["127.0.0.1:5000"]), vec![tcp("0.0.0.0:5000")], None),
            (
                wanted(&["0.0.0.0:5000"]),
                vec![Place::DualStack(5000), tcp("0.0.0.0:5000")],
                Some(1),
            ),
            (
                wanted(&["[::]:5000"]),
                vec![Place::DualStack(5000)],
                Some(0),
            ),
            (wanted(&["[::]:5000"]), vec![tcp("[::]:5000")], Some(0)),
            // A name with several addresses.
            (
                wanted(&["[::1]:5000", "127.0.0.1:5000"]),
                vec![unix("/a"), tcp("127.0.0.1:5000")],
                Some(1),
            ),
            (
                Wanted::Everywhere(80),
                vec![tcp("0.0.0.0:80"), Place::DualStack(80)],
                Some(1),
            ),
            (Wanted::Everywhere(80), vec![tcp("0.0.0.0:80")], Some(0)),
            (
                Wanted::Everywhere(80),
                vec![tcp("[::]:80"), tcp("127.0.0.1:80")],
                None,
            ),
            (
                Wanted::Unix("/run/a".into()),
                vec![unix("/run/b"), unix("/run/a")],
                Some(1),
            ),
            (Wanted::Unix("/run/a".into()), vec![], None),
        ] {
            let places: Vec<&Place> = places.iter().collect();
            assert_eq!(matching(&wanted, &places), expected, "{places:?}");
        }
    }

    fn named(sockets: Vec<OwnedFd>) -> Result<PassedSockets, PassedError> {
        let sockets = sockets.into_iter();
        PassedSockets::of(sockets.map(|one| ("a.socket".to_owned(), one)).collect())
    }

    #[test]
    fn sockets_of_other_kinds_are_refused_by_name() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let connection = TcpStream::connect(tcp.local_addr().expect("an address"));
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let nameless = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        nameless.listen(1).expect_err("it is bound to nothing");
        for (socket, words) in [
            (
                OwnedFd::from(datagrams),
                "a.socket is a socket of datagrams",
            ),
            (connection.expect("connected").into(), "does not listen"),
            (nameless.into(), "does not listen"),
        ] {
            let error = named(vec![socket]).expect_err("it is refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn passed_sockets_are_used_again_and_unused_ones_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let tcp_address = Address::Tcp(tcp.local_addr().expect("an address").to_string());
        let unix = UnixListener::bind(&path).expect("a socket");
        let passed = named(vec![tcp.into(), unix.into()]).expect("listeners");
        let unix_address = |permissions| Address::Unix(path.clone(), permissions);
        let permissive = unix_address(SocketPermissions::default());
        for address in [&tcp_address, &permissive] {
            for _ in 0..2 {
                let bound = passed.open(address, "http").await.expect("it was passed");
                drop(bound.expect("opened"));
            }
        }
        assert!(path.exists(), "it belongs to whoever passed it");
        let other = Address::Tcp("127.0.0.1:1".to_owned());
        assert!(passed.open(&other, "http").await.is_none());
        let unused = passed.unused(&[tcp_address, other]).await;
        let expected = format!("unix:{}", path.display());
        assert_eq!(unused, [("a.socket".to_owned(), expected)]);
        // The admin API is for one user.
        let private = unix_address(SocketPermissions::OWNER);
        for (mode, is_open) in [(0o666, false), (0o660, false), (0o600, true)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("its owner");
            let opened = passed.open(&private, "").await.expect("it was passed");
            assert_eq!(opened.is_ok(), is_open, "{mode:o}: {opened:?}");
        }
    }
}
