//! A client's socket: writes that make no progress fail.

use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};

use access::CertificateUser;
use oci::proxy_protocol::{self, ProxyHeader, Versions};
use runtime::listen::Accepted;

/// The limit of unsent bytes in the kernel, for a client that may be slow: the kernel would accept megabytes at once,
/// and a slow reader would seem to make no progress until a third of them is sent.
pub const UNSENT: u32 = 128 << 10;

/// Room for a header of the PROXY protocol, in bytes; most need no more.
const PROXY_HEADER: usize = 256;

/// A client's connection, below TLS. A write fails when it makes no progress for `write_timeout`.
pub struct ClientSocket {
    transport: SocketTransport,
    write_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    unsent: u32,
    /// A byte that was read ahead, to be read again.
    first: Option<u8>,
    /// What was read behind the header of a proxy, to be read after that.
    ahead: Option<Box<Bytes>>,
    /// Known from the beginning: a socket that its client has reset no longer knows it.
    peer: Option<SocketAddr>,
    /// The user of its client certificate, which TLS has verified.
    pub certificate: Option<CertificateUser>,
}

/// A transport connection.
enum SocketTransport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientSocket {
    /// `write_timeout` is how long a write may make no progress.
    pub fn new(accepted: Accepted, write_timeout: Duration) -> Self {
        let (transport, peer) = match accepted {
            Accepted::Tcp(stream, peer) => (SocketTransport::tcp(stream), Some(peer)),
            Accepted::Unix(stream) => (SocketTransport::Unix(stream), None),
        };
        Self {
            transport,
            write_timeout,
            deadline: None,
            waiting: false,
            unsent: UNSENT,
            first: None,
            ahead: None,
            peer,
            certificate: None,
        }
    }

    /// The address and port of the client; `None` for a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The address of the client; `None` for a Unix socket.
    pub fn client(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip().to_canonical())
    }

    /// The local address that the client connected to; `None` for a Unix socket, and once the client has reset it.
    pub fn local(&self) -> Option<IpAddr> {
        let SocketTransport::Tcp(stream) = &self.transport else {
            return None;
        };
        let local = stream.local_addr().ok()?;
        Some(local.ip().to_canonical())
    }

    pub fn fd(&self) -> RawFd {
        match &self.transport {
            SocketTransport::Tcp(stream) => stream.as_raw_fd(),
            SocketTransport::Unix(stream) => stream.as_raw_fd(),
        }
    }

    /// The first byte, which stays to be read again; `None` at the end of the stream.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        if self.read(&mut byte).await? > 0 {
            self.first = Some(byte[0]);
        }
        Ok(self.first)
    }

    /// Reads a header of the PROXY protocol, and takes the client's address from it.
    ///
    /// # Errors
    /// The connection failed, or ended. [`io::ErrorKind::InvalidData`]: it begins with no such header.
    pub async fn read_proxy_header(&mut self, versions: Versions) -> io::Result<()> {
        let mut bytes = BytesMut::with_capacity(PROXY_HEADER);
        loop {
            if self.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let parsed = proxy_protocol::parse(&bytes, versions);
            let parsed = parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            if let ProxyHeader::Complete { length, source } = parsed? {
                bytes.advance(length);
                self.ahead = (!bytes.is_empty()).then(|| Box::new(bytes.freeze()));
                self.peer = source.or(self.peer);
                return Ok(());
            }
        }
    }

    /// Limits the unsent bytes in the kernel; [`UNSENT`] in the beginning.
    pub fn limit_unsent(&mut self, bytes: u32) {
        if self.unsent != bytes
            && let SocketTransport::Tcp(stream) = &self.transport
        {
            self.unsent = bytes;
            limit_unsent(stream, bytes);
        }
    }

    /// Lets the kernel send part of a file; returns how many bytes it took, 0 behind the file's end.
    ///
    /// # Errors
    /// The connection failed, or made no progress for the write timeout.
    pub async fn send_file(&mut self, file: &File, offset: u64, bytes: u64) -> io::Result<u64> {
        poll_fn(|cx| {
            let sent = self.transport.poll_send_file(cx, file, offset, bytes);
            self.pace(cx, sent)
        })
        .await
    }

    /// Turns a wait of more than `write_timeout` into an error.
    fn pace<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waiting = false;
            return poll;
        }
        let until = Instant::now() + self.write_timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.waiting {
            self.waiting = true;
            deadline.as_mut().reset(until);
        }
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl SocketTransport {
    fn tcp(stream: TcpStream) -> Self {
        // Headers and bodies are flushed whole, so waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        limit_unsent(&stream, UNSENT);
        Self::Tcp(stream)
    }

    fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        bytes: u64,
    ) -> Poll<io::Result<u64>> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let (ready, socket) = match self {
            Self::Tcp(stream) => (stream.poll_write_ready(cx), stream.as_fd()),
            Self::Unix(stream) => (stream.poll_write_ready(cx), stream.as_fd()),
        };
        ready!(ready)?;
        let call = || {
            let sent = rustix::fs::sendfile(socket, file, Some(&mut { offset }), bytes)?;
            Ok(sent as u64)
        };
        let sent = match self {
            Self::Tcp(stream) => stream.try_io(Interest::WRITABLE, call),
            Self::Unix(stream) => stream.try_io(Interest::WRITABLE, call),
        };
        match sent {
            // The socket was not ready after all; this waits for it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.poll_send_file(cx, file, offset, bytes as u64)
            }
            sent => Poll::Ready(sent),
        }
    }
}

fn limit_unsent(stream: &TcpStream, bytes: u32) {
    // Without the limit it works as well.
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(bytes);
}

impl fmt::Debug for ClientSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientSocket({})", self.fd())
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(byte) = self.first.take()
        {
            buf.put_slice(&[byte]);
            return Poll::Ready(Ok(()));
        }
        if let Some(ahead) = &mut self.ahead {
            buf.put_slice(&ahead.split_to(buf.remaining().min(ahead.len())));
            if ahead.is_empty() {
                self.ahead = None;
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            SocketTransport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            SocketTransport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.transport {
            SocketTransport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            SocketTransport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.pace(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [one] = bufs {
            // The system call for one buffer costs less.
            return self.poll_write(cx, one);
        }
        let poll = match &mut self.transport {
            SocketTransport::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            SocketTransport::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.pace(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is buffered.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            SocketTransport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            SocketTransport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
