//! Hand-written HTTP/1.1 over TCP, TLS or a Unix socket, blocking.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::reply::{Cut, End, Head, Reply};
use super::{WAIT, runtime};
use crate::tls::{Leaf, client_config_as};

/// The size of a read, in bytes.
const STEP: usize = 64 << 10;

/// A connection.
pub struct Raw {
    stream: Box<dyn Duplex>,
    /// Received and not yet consumed.
    buffer: Vec<u8>,
    taken: usize,
    timer: Timer,
}

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// Another handle of the socket, to set its timeout and to cut it.
enum Timer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How to connect.
#[derive(Clone, Copy, Default)]
pub struct Connect<'a> {
    /// The CA to trust, for `https://`.
    pub ca: Option<&'a Path>,
    /// The name for SNI and certificate verification; the default is the URL's host.
    pub server_name: Option<&'a str>,
    /// The client certificate, if the server requests one.
    pub identity: Option<&'a Leaf>,
    /// The socket's receive buffer in bytes; a small one throttles the sender too.
    pub receive_buffer: Option<u32>,
    /// The address to connect from, such as another one of 127.0.0.0/8.
    pub source: Option<IpAddr>,
}

impl Raw {
    /// Connects to `http://host:port`, `https://host:port` (trusting `ca`) or `unix:PATH`.
    #[track_caller]
    pub fn connect(url: &str, ca: Option<&Path>) -> Self {
        let how = Connect {
            ca,
            ..Connect::default()
        };
        Self::connect_with(url, how).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// [`Raw::connect`] with options; returns errors.
    pub fn connect_with(url: &str, how: Connect<'_>) -> io::Result<Self> {
        if let Some(path) = url.strip_prefix("unix:") {
            let stream = UnixStream::connect(path)?;
            let timer = Timer::Unix(stream.try_clone()?);
            return Self::new(Box::new(stream), timer);
        }
        let (scheme, authority) = url.split_once("://").ok_or(io::ErrorKind::InvalidInput)?;
        let authority = authority.trim_end_matches('/');
        let stream = dial(authority, how)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT))?;
        let timer = Timer::Tcp(stream.try_clone()?);
        if scheme == "http" {
            return Self::new(Box::new(stream), timer);
        }
        let ca = how.ca.expect("a CA for https");
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        let name = how.server_name.unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let config = client_config_as(ca, &["http/1.1"], how.identity);
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(session, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Self::new(Box::new(tls), timer)
    }

    fn new(stream: Box<dyn Duplex>, timer: Timer) -> io::Result<Self> {
        let connection = Self {
            stream,
            buffer: Vec::new(),
            taken: 0,
            timer,
        };
        connection.read_timeout(WAIT)?;
        Ok(connection)
    }

    /// Sets the read timeout.
    pub fn read_timeout(&self, wait: Duration) -> io::Result<()> {
        match &self.timer {
            Timer::Tcp(stream) => {
                stream.set_read_timeout(Some(wait))?;
                stream.set_write_timeout(Some(wait))
            }
            Timer::Unix(stream) => {
                stream.set_read_timeout(Some(wait))?;
                stream.set_write_timeout(Some(wait))
            }
        }
    }

    /// Ends the sending direction; answers can still be read.
    pub fn shut_down_sending(&self) {
        let ended = match &self.timer {
            Timer::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Timer::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        ended.expect("an open connection");
    }

    /// Whether the peer's socket of a TCP connection on this machine is open. Nothing is read, so the windows stay as
    /// they are.
    pub fn peer_is_open(&self) -> bool {
        const ESTABLISHED: &str = "01";

        let Timer::Tcp(stream) = &self.timer else {
            panic!("a Unix socket");
        };
        let ends = [stream.peer_addr(), stream.local_addr()].map(|end| {
            let SocketAddr::V4(end) = end.expect("a connected socket") else {
                panic!("an IPv6 socket");
            };
            let address = u32::from_ne_bytes(end.ip().octets());
            format!("{address:08X}:{:04X}", end.port())
        });
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
        sockets.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            ends.iter().all(|end| fields.next() == Some(end)) && fields.next() == Some(ESTABLISHED)
        })
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer takes the bytes");
    }

    /// [`Raw::send`] to a peer that may have disconnected.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Sends a request without a body. `Host` is added unless given.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            text.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        self.send(text);
    }

    /// Sends a request and reads the whole response.
    #[track_caller]
    pub fn exchange(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.request(method, path, headers);
        self.reply(method)
    }

    /// Sends a GET without further headers, and reads the whole response.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Reply {
        self.exchange("GET", path, &[])
    }

    /// The same with HEAD.
    #[track_caller]
    pub fn head(&mut self, path: &str) -> Reply {
        self.exchange("HEAD", path, &[])
    }

    /// Reads a whole response to a request of this method.
    #[track_caller]
    pub fn reply(&mut self, method: &str) -> Reply {
        let head = self
            .read_head()
            .unwrap_or_else(|cut| panic!("no answer: {cut:?}"));
        let (body, end) = self.read_body(method, &head);
        Reply { head, body, end }
    }

    /// Reads status line and headers, skipping 1xx responses.
    pub fn read_head(&mut self) -> Result<Head, Cut> {
        loop {
            let text = self.read_until(b"\r\n\r\n")?;
            let text = String::from_utf8_lossy(&text);
            let mut lines = text.trim_end().split("\r\n");
            let line = lines.next().unwrap_or_default();
            let mut words = line.splitn(3, ' ').skip(1);
            let status = words.next().and_then(|word| word.parse().ok());
            let head = Head {
                status: status.unwrap_or_else(|| panic!("not a status line: {line}")),
                reason: words.next().unwrap_or_default().to_owned(),
                headers: lines
                    .filter_map(|line| line.split_once(':'))
                    .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                    .collect(),
            };
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    /// Reads the body that follows this head, and how it ended.
    pub fn read_body(&mut self, method: &str, head: &Head) -> (Vec<u8>, End) {
        let mut body = Vec::new();
        let end = if method == "HEAD" || matches!(head.status, 204 | 304) {
            End::Complete
        } else if head.chunked() {
            self.read_chunks(&mut body)
        } else if let Some(announced) = head.length() {
            match self.read_into(&mut body, announced) {
                Ok(()) => End::Complete,
                Err(cut) => End::Short { announced, cut },
            }
        } else {
            match self.read_into(&mut body, u64::MAX) {
                Ok(()) | Err(Cut::Closed) => End::Closed,
                Err(cut) => End::Torn(cut),
            }
        };
        (body, end)
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> End {
        loop {
            let line = match self.read_until(b"\r\n") {
                Ok(line) => String::from_utf8_lossy(&line).trim_end().to_owned(),
                Err(cut) => return End::NoLastChunk(cut),
            };
            let size = line.split(';').next().unwrap_or_default();
            let Ok(size) = u64::from_str_radix(size, 16) else {
                return End::Malformed(format!("chunk size {line:?}"));
            };
            if let Err(cut) = self.read_into(body, size) {
                return End::NoLastChunk(cut);
            }
            match self.read_until(b"\r\n") {
                Ok(rest) if rest == b"\r\n" => {}
                Ok(rest) => return End::Malformed(format!("after a chunk: {rest:?}")),
                Err(cut) => return End::NoLastChunk(cut),
            }
            if size == 0 {
                return End::Complete;
            }
        }
    }

    /// Reads at most `most` bytes, at least one.
    pub fn read_some(&mut self, most: usize) -> Result<Vec<u8>, Cut> {
        if self.taken == self.buffer.len() {
            self.fill(most.min(STEP))?;
        }
        let end = self.buffer.len().min(self.taken + most);
        let bytes = self.buffer[self.taken..end].to_vec();
        self.taken = end;
        Ok(bytes)
    }

    /// Reads exactly `n` bytes.
    #[track_caller]
    pub fn read_exactly(&mut self, n: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(cut) = self.read_into(&mut bytes, n) {
            panic!("{cut:?} after {} of {n} bytes", bytes.len());
        }
        bytes
    }

    /// Reads `n` bytes at this rate, in bytes per second.
    pub fn read_slowly(&mut self, n: u64, rate: u64) -> Result<Vec<u8>, Cut> {
        let mut bytes = Vec::new();
        let start = Instant::now();
        let step = (rate / 20).max(1);
        while (bytes.len() as u64) < n {
            let left = n - bytes.len() as u64;
            self.read_into(&mut bytes, left.min(step))?;
            let millis = bytes.len() as u64 * 1000 / rate.max(1);
            let due = Duration::from_millis(millis);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        Ok(bytes)
    }

    /// Whether nothing at all arrives within `quiet`.
    pub fn is_silent(&mut self, quiet: Duration) -> bool {
        let _ = self.read_timeout(quiet);
        let silent = self.taken == self.buffer.len() && self.fill(STEP) == Err(Cut::TimedOut);
        let _ = self.read_timeout(WAIT);
        silent
    }

    /// Reads until the peer ends the connection; returns the bytes and how it ended.
    pub fn read_to_end(&mut self) -> (Vec<u8>, Cut) {
        let mut bytes = Vec::new();
        let cut = self.read_into(&mut bytes, u64::MAX).err();
        (bytes, cut.unwrap_or(Cut::Closed))
    }

    fn read_into(&mut self, bytes: &mut Vec<u8>, n: u64) -> Result<(), Cut> {
        let mut left = n;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(STEP);
            let some = self.read_some(most)?;
            left -= some.len() as u64;
            bytes.extend(some);
        }
        Ok(())
    }

    fn read_until(&mut self, mark: &[u8]) -> Result<Vec<u8>, Cut> {
        loop {
            let waiting = &self.buffer[self.taken..];
            let mut windows = waiting.windows(mark.len());
            if let Some(at) = windows.position(|window| window == mark) {
                let end = self.taken + at + mark.len();
                let bytes = self.buffer[self.taken..end].to_vec();
                self.taken = end;
                return Ok(bytes);
            }
            self.fill(STEP)?;
        }
    }

    fn fill(&mut self, most: usize) -> Result<(), Cut> {
        let mut piece = vec![0; most.clamp(1, STEP)];
        let read = loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => Err(Cut::Closed),
            Ok(read) => {
                self.buffer.drain(..self.taken);
                self.taken = 0;
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(())
            }
            Err(error) => Err(Cut::from(&error)),
        }
    }
}

fn dial(authority: &str, how: Connect<'_>) -> io::Result<TcpStream> {
    let address: SocketAddr = match authority.parse() {
        Ok(address) => address,
        Err(_) => std::net::ToSocketAddrs::to_socket_addrs(authority)?
            .next()
            .ok_or(io::ErrorKind::NotFound)?,
    };
    if how.receive_buffer.is_none() && how.source.is_none() {
        return TcpStream::connect_timeout(&address, WAIT);
    }
    let stream = runtime().block_on(async {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        if let Some(bytes) = how.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = how.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(address).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}
