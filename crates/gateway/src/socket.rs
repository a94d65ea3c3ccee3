//! A client's socket as pingora gets it: buffered writes that fail when they make no progress.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};

use super::client_stream::ReadAhead;
use runtime::listen::Accepted;

/// The size of the write buffer, in bytes: the head and the first chunk of a body are sent together.
const WRITE_BUFFER: usize = 16 << 10;

/// The limit of unsent bytes in the kernel.
const UNSENT: u32 = 128 << 10;

/// A transport connection.
#[derive(Debug)]
enum SocketTransport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A transport whose writes fail when they make no progress for `write_timeout`.
#[derive(Debug)]
struct PacedTransport {
    transport: SocketTransport,
    write_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// A client's connection, below TLS.
pub struct ClientSocket {
    stream: BufWriter<PacedTransport>,
    read_ahead: ReadAhead,
    digest: Arc<SocketDigest>,
    fd: RawFd,
}

impl ClientSocket {
    /// `write_timeout` is how long a write may make no progress.
    pub fn new(accepted: Accepted, write_timeout: Duration) -> Self {
        match accepted {
            Accepted::Tcp(stream, peer) => Self::tcp(stream, peer, write_timeout),
            Accepted::Unix(stream) => Self::over(SocketTransport::Unix(stream), write_timeout),
        }
    }

    fn tcp(stream: TcpStream, peer: SocketAddr, write_timeout: Duration) -> Self {
        // Headers and bodies are flushed whole, so waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        // Otherwise the kernel accepts megabytes at once, and a slow reader seems to make no progress until a
        // third of them is sent.
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        let local = stream.local_addr().ok();
        let socket = Self::over(SocketTransport::Tcp(stream), write_timeout);
        // A socket that its client has reset no longer knows them.
        let _ = socket.digest.peer_addr.set(Some(peer.into()));
        let _ = socket.digest.local_addr.set(local.map(Into::into));
        socket
    }

    fn over(transport: SocketTransport, write_timeout: Duration) -> Self {
        let fd = match &transport {
            SocketTransport::Tcp(stream) => stream.as_raw_fd(),
            SocketTransport::Unix(stream) => stream.as_raw_fd(),
        };
        let paced = PacedTransport {
            transport,
            write_timeout,
            deadline: None,
            waiting: false,
        };
        Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER, paced),
            read_ahead: ReadAhead::default(),
            digest: Arc::new(SocketDigest::from_raw_fd(fd)),
            fd,
        }
    }

    /// The address of the client; `None` for a Unix socket.
    pub fn peer(&self) -> Option<IpAddr> {
        let address = self.digest.peer_addr()?.as_inet()?;
        Some(address.ip().to_canonical())
    }

    /// The local address that the client connected to; `None` for a Unix socket.
    pub fn local(&self) -> Option<IpAddr> {
        let address = self.digest.local_addr()?.as_inet()?;
        Some(address.ip().to_canonical())
    }

    /// The first byte, which stays to be read again; `None` at the end of the stream.
    pub async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        use tokio::io::AsyncReadExt as _;

        let mut byte = [0];
        if self.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        self.read_ahead.push(&byte);
        Ok(Some(byte[0]))
    }
}

impl fmt::Debug for ClientSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.fd)
    }
}

impl PacedTransport {
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

impl AsyncWrite for PacedTransport {
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
        let poll = match &mut self.transport {
            SocketTransport::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            SocketTransport::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.pace(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            SocketTransport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            SocketTransport::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            SocketTransport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            SocketTransport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for PacedTransport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.transport {
            SocketTransport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            SocketTransport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.read(buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for ClientSocket {
    async fn shutdown(&mut self) {
        // The client may be gone already.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for ClientSocket {
    fn id(&self) -> UniqueIDType {
        self.fd
    }
}

impl Ssl for ClientSocket {}

impl GetTimingDigest for ClientSocket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientSocket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientSocket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}

#[async_trait]
impl Peek for ClientSocket {}
