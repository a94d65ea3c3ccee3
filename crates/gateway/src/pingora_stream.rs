//! A client's connection as pingora's HTTP/1 session gets it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::client_stream::ClientStream;

/// A connection that can be flushed through a shared reference: pingora's HTTP/1 session flushes a body of known
/// length only at its end. One task owns it, so that its lock is never contended; reads and writes do not take it.
pub struct PingoraStream(Mutex<ClientStream>);

impl PingoraStream {
    pub fn new(stream: ClientStream) -> Self {
        Self(Mutex::new(stream))
    }

    /// The `PingoraStream` in a boxed stream, if it is one.
    pub fn downcast(stream: &Stream) -> Option<&Self> {
        // Of the content of the box: the box is a stream as well.
        (**stream).as_any().downcast_ref()
    }

    /// The connection of a boxed stream, if it is a `PingoraStream`.
    pub fn into_client(stream: Stream) -> Option<ClientStream> {
        let stream = stream.into_any().downcast::<Self>().ok()?;
        let stream = stream.0.into_inner();
        Some(stream.unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends what TLS has buffered.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self.lock()).poll_flush(cx)).await
    }

    fn lock(&self) -> MutexGuard<'_, ClientStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut ClientStream> {
        let stream = self.get_mut().0.get_mut();
        Pin::new(stream.unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for PingoraStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PingoraStream({:?})", self.lock())
    }
}

impl AsyncRead for PingoraStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for PingoraStream {
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
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for PingoraStream {
    async fn shutdown(&mut self) {
        let stream = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The client may be gone already.
        let _ = stream.shutdown().await;
    }
}

impl UniqueID for PingoraStream {
    fn id(&self) -> UniqueIDType {
        self.lock().fd()
    }
}

// The gateway knows the client's address itself, and pingora needs nothing of these.
impl Ssl for PingoraStream {}

impl GetTimingDigest for PingoraStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for PingoraStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for PingoraStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[async_trait]
impl Peek for PingoraStream {}
