//! A client's connection, above TLS if there is TLS.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::{ClientSocket, UNSENT};
use super::tls::certificate_user;
use access::CertificateUser;

/// How many bytes TLS encrypts at least before the socket has taken them: a record, which is what a slow reader costs.
const RECORD: usize = 16 << 10;
/// How many bytes at most.
const MAX_BUFFER: usize = 256 << 10;

/// How many bytes the kernel holds unsent for a client that takes what it gets quickly: fewer wake-ups. What it sends out of
/// files costs no memory, so there may be more of it (docs/benchmarks.md: half the cost of a blob over plain HTTP).
const UNSENT_TLS: u32 = 1 << 20;
const UNSENT_FILES: u32 = 4 << 20;

/// How many bytes TLS collects of frames that are ready together.
const COLLECTED: usize = 64 << 10;

/// A client's connection.
#[derive(Debug)]
pub enum ClientStream {
    Plain(ClientSocket),
    Tls(Box<TlsStream<ClientSocket>>),
}

impl ClientStream {
    /// Accepts TLS.
    ///
    /// # Errors
    /// The handshake or the connection failed.
    pub async fn secure(socket: ClientSocket, config: Arc<ServerConfig>) -> io::Result<Self> {
        let acceptor = TlsAcceptor::from(config);
        let limit = |connection: &mut rustls::ServerConnection| {
            connection.set_buffer_limit(Some(RECORD));
        };
        let mut stream = acceptor.accept_with(socket, limit).await?;
        let (socket, connection) = stream.get_mut();
        let presented = connection.peer_certificates();
        socket.certificate = presented.and_then(|chain| certificate_user(chain.first()?));
        Ok(Self::Tls(Box::new(stream)))
    }

    /// Whether client and gateway agreed on HTTP/2 (RFC 9113 §3.2).
    pub fn is_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Whether the client is an ACME authority that verifies a host (RFC 8737), and wants nothing but the handshake.
    pub fn is_challenge(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(acme::ALPN),
        }
    }

    /// The address and port of the client; `None` for a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket().peer()
    }

    /// The user of the client's certificate; `None` without one that names a user.
    pub fn certificate(&self) -> Option<&CertificateUser> {
        self.socket().certificate.as_ref()
    }

    pub fn fd(&self) -> RawFd {
        self.socket().fd()
    }

    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Sends the head of a response, or nothing, and then a piece of its body, in one call: they share a TLS record.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&mut self, head: &[u8], piece: &[u8]) -> io::Result<()> {
        // TLS holds no more than what it encrypts at once.
        self.flush().await?;
        self.limit_buffer(head.len() + piece.len());
        let mut slices = &mut [IoSlice::new(head), IoSlice::new(piece)][..];
        // Skips what is empty.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let written = self.write_vectored(slices).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// Lets the kernel send part of a file; returns how many bytes it took, 0 behind the file's end.
    ///
    /// # Errors
    /// The connection failed. [`io::ErrorKind::Unsupported`]: it has TLS.
    pub async fn send_file(&mut self, file: &File, offset: u64, bytes: u64) -> io::Result<u64> {
        match self {
            Self::Plain(socket) => socket.send_file(file, offset, bytes).await,
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sets whether the client takes what it gets quickly: the kernel then holds more for it.
    pub fn set_quick(&mut self, quick: bool) {
        match self {
            Self::Plain(socket) => socket.limit_unsent(if quick { UNSENT_FILES } else { UNSENT }),
            Self::Tls(stream) => {
                let socket = stream.get_mut().0;
                socket.limit_unsent(if quick { UNSENT_TLS } else { UNSENT });
            }
        }
    }

    /// Prepares for [`Self::poll_collect`]. Frames are paced by the client's windows instead of the kernel's buffer.
    pub fn collect(&mut self) {
        self.limit_buffer(COLLECTED);
        self.set_quick(true);
    }

    /// Encrypts bytes, and sends them only if there are too many.
    pub fn poll_collect(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Self::Tls(stream) = self {
            let collected = stream.get_mut().1.writer().write_vectored(bufs)?;
            if collected > 0 {
                return Poll::Ready(Ok(collected));
            }
        }
        Pin::new(self).poll_write_vectored(cx, bufs)
    }

    /// Lets TLS encrypt so many bytes at once.
    fn limit_buffer(&mut self, bytes: usize) {
        if let Self::Tls(stream) = self {
            let limit = bytes.clamp(RECORD, MAX_BUFFER);
            stream.get_mut().1.set_buffer_limit(Some(limit));
        }
    }

    fn socket(&self) -> &ClientSocket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
