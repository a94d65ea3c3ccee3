//! A layer that is packed anew while it is read: the bytes of its blob come as fast as the v1 side, or the
//! disk, gives what they are made of. Whoever reads them checks them by the blob's digest.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tokio::sync::{Semaphore, mpsc};

use super::layer::{opened, repacked};
use crate::blob::Content;
use crate::source::{Layer, Source};
use store::Store;
use upstream::{BlobBody, UpstreamError};

/// How many pieces wait on either side of the packing.
const AHEAD: usize = 8;
const UNPACKABLE: &str = "a layer cannot be packed as it was";

/// A layer of the v1 API, and how long its blob is.
#[derive(Debug)]
pub(crate) struct Packed {
    pub layer: Arc<Layer>,
    /// Of the blob, in bytes.
    pub size: u64,
    pub store: Arc<Store>,
    /// One for each that is packed at a time.
    pub slots: Arc<Semaphore>,
}

type Piece = Result<Bytes, UpstreamError>;

impl Packed {
    /// Begins to pack it, from the first byte on.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn body(&self) -> Result<BlobBody, UpstreamError> {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.map_err(|_| UpstreamError::Protocol(UNPACKABLE))?;
        let key = Layer::key(&self.layer.origin.registry, &self.layer.id);
        let source = Source::Layer(self.layer.clone());
        let mut layer = match source.came_meanwhile(&self.store, &key).await {
            Some(blob) => {
                let opened = opened(Content::File(blob));
                Raw::Here(opened.map_err(|_| UpstreamError::Protocol(UNPACKABLE))?)
            }
            None => Raw::coming(self.layer.body(0, None, None).await?),
        };
        let (out, pieces) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            if repacked(&mut layer, &mut Out(&out)).is_err() {
                // The first cause: what is broken off cannot be unpacked either.
                let error = layer.failure();
                let error = error.unwrap_or(UpstreamError::Protocol(UNPACKABLE));
                let _ = out.blocking_send(Err(error));
            }
        });
        Ok(BlobBody::made(self.size, pieces))
    }
}

/// A layer that is to be packed.
enum Raw {
    Here(Box<dyn Read + Send>),
    Coming {
        pieces: mpsc::Receiver<Piece>,
        current: Bytes,
        failed: Option<UpstreamError>,
    },
}

impl Raw {
    fn coming(mut body: BlobBody) -> Self {
        let (feed, pieces) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            while let Some(piece) = body.next().await.transpose() {
                // An error is the last that a body gives.
                let is_last = piece.is_err();
                if feed.send(piece).await.is_err() || is_last {
                    return;
                }
            }
        });
        Self::Coming {
            pieces,
            current: Bytes::new(),
            failed: None,
        }
    }

    fn failure(self) -> Option<UpstreamError> {
        match self {
            Self::Here(_) => None,
            Self::Coming { failed, .. } => failed,
        }
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (pieces, current, failed) = match self {
            Self::Here(layer) => return layer.read(buffer),
            Self::Coming {
                pieces,
                current,
                failed,
            } => (pieces, current, failed),
        };
        while current.is_empty() {
            match pieces.blocking_recv() {
                Some(Ok(bytes)) => *current = bytes,
                Some(Err(error)) => {
                    *failed = Some(error);
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                None if failed.is_some() => return Err(io::ErrorKind::ConnectionAborted.into()),
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(current.len());
        current.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

/// Whoever reads what was packed.
struct Out<'a>(&'a mpsc::Sender<Piece>);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
