//! A client's connection, above TLS, as pingora gets it: it can be flushed while a session of pingora's owns it,
//! and bytes that were read ahead of pingora are read again.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf as _, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// The length of HTTP/2's connection preface (RFC 9113 §3.4), in bytes.
const PREFACE: usize = 24;

/// Bytes that were read ahead, to be read again.
#[derive(Debug, Default)]
pub struct ReadAhead(BytesMut);

/// A connection that can be flushed through a shared reference: pingora's HTTP/1 session flushes a body of known
/// length only at its end. One task owns it, so that its lock is never contended; reads and writes do not take it.
pub struct ClientStream {
    stream: Mutex<Stream>,
    read_ahead: ReadAhead,
}

impl ReadAhead {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Moves bytes to `buf`; false if there are none.
    pub fn read(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let length = self.0.len().min(buf.remaining());
        buf.put_slice(&self.0[..length]);
        self.0.advance(length);
        length > 0
    }
}

impl ClientStream {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream: Mutex::new(stream),
            read_ahead: ReadAhead::default(),
        }
    }

    /// Waits for as many bytes as HTTP/2's preface has, which pingora would do without a timeout, and then checks.
    ///
    /// # Errors
    /// The connection failed or ended before.
    pub async fn with_preface(mut stream: Stream) -> io::Result<Self> {
        let mut preface = [0; PREFACE];
        stream.read_exact(&mut preface).await?;
        let mut stream = Self::new(stream);
        stream.read_ahead.push(&preface);
        Ok(stream)
    }

    /// The `ClientStream` in a boxed stream, if it is one.
    pub fn downcast(stream: &Stream) -> Option<&Self> {
        // Of the content of the box: the box is a stream as well.
        (**stream).as_any().downcast_ref()
    }

    /// Sends what TLS and the socket have buffered.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self.lock()).poll_flush(cx)).await
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut Stream> {
        let stream = self.get_mut().stream.get_mut();
        Pin::new(stream.unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientStream({:?})", self.lock())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.read(buf) {
            return Poll::Ready(Ok(()));
        }
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        let stream = self.stream.get_mut();
        let stream = stream.unwrap_or_else(PoisonError::into_inner);
        Shutdown::shutdown(&mut **stream).await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.lock().id()
    }
}

impl Ssl for ClientStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.lock().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.lock().selected_alpn_proto()
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.lock().get_timing_digest()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.lock().get_proxy_digest()
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.lock().get_socket_digest()
    }
}

#[async_trait]
impl Peek for ClientStream {}
