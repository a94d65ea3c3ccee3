//! A client's connection that pingora's or the h2 crate's session reads and writes, while the gateway flushes it.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::client_stream::ClientStream;

/// A handle to a connection. All handles belong to one task, so that the lock is never contended.
#[derive(Clone)]
pub struct SharedStream {
    stream: Arc<Mutex<ClientStream>>,
    collects: bool,
}

impl SharedStream {
    /// For a session that flushes rarely: the gateway does it too.
    pub fn new(stream: ClientStream) -> Self {
        let stream = Arc::new(Mutex::new(stream));
        Self {
            stream,
            collects: false,
        }
    }

    /// For a session that flushes after each frame: flushing does nothing, and frames that are ready together are sent
    /// together by [`Self::poll_send`].
    pub fn collecting(mut stream: ClientStream) -> Self {
        stream.collect();
        Self {
            collects: true,
            ..Self::new(stream)
        }
    }

    /// The connection, if this is its last handle.
    pub fn into_inner(self) -> Option<ClientStream> {
        let stream = Arc::into_inner(self.stream)?.into_inner();
        Some(stream.unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    /// As [`Self::poll_send`].
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await
    }

    fn lock(&self) -> MutexGuard<'_, ClientStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedStream({:?})", self.lock())
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.lock();
        if self.collects {
            stream.poll_collect(cx, bufs)
        } else {
            Pin::new(&mut *stream).poll_write_vectored(cx, bufs)
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.collects {
            Poll::Ready(Ok(()))
        } else {
            self.poll_send(cx)
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

// What pingora asks of a stream besides. The gateway knows the client's address itself.

#[async_trait]
impl Shutdown for SharedStream {
    async fn shutdown(&mut self) {
        // The client may be gone already.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for SharedStream {
    fn id(&self) -> UniqueIDType {
        self.lock().fd()
    }
}

impl Ssl for SharedStream {}

impl GetTimingDigest for SharedStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for SharedStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for SharedStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[async_trait]
impl Peek for SharedStream {}
