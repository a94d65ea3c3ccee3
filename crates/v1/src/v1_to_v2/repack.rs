//! A layer that is recompressed while it is read: the bytes of its blob come as fast as the v1 side or the disk
//! delivers the original. The fill checks them by the blob's digest.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};

use super::layer::{reader_of, repack};
use crate::layer_source::LayerSource;
use mirror::{DigestCheck, ForeignSource, StoredBlob};
use oci::digest::{Algorithm, Digest, Hasher};
use oci::name::{Registry, Repository};
use store::Blob;
use upstream::{BlobBody, UpstreamError};

/// How many pieces are queued before and after the compression.
const QUEUED_PIECES: usize = 8;
const NOT_REPRODUCIBLE: &str = "a layer cannot be recompressed to the same bytes";

/// The blob of a recompressed layer of the v1 API.
#[derive(Debug)]
pub(super) struct RepackedLayer {
    pub layer: Arc<LayerSource>,
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob, in bytes.
    pub size: u64,
    /// Limits how many layers are recompressed at once.
    pub slots: Arc<Semaphore>,
}

type LayerPiece = Result<Bytes, UpstreamError>;

impl RepackedLayer {
    /// The original layer, if it is in the store.
    async fn stored(&self) -> Option<Blob> {
        let digest = self.layer.known_digest().await?;
        let store = self.layer.store.clone();
        let opened = tokio::task::spawn_blocking(move || store.blobs.open(&digest, None));
        opened.await.ok()?.ok()?
    }

    /// Starts the compression, from the first byte.
    ///
    /// # Errors
    /// The upstream's error, or why it could not answer.
    async fn body(&self) -> Result<BlobBody, UpstreamError> {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.map_err(|_| UpstreamError::Protocol(NOT_REPRODUCIBLE))?;
        let mut layer = match self.stored().await {
            Some(blob) => RawLayer::Stored(reader_of(StoredBlob::File(blob))),
            None => RawLayer::streaming(self.layer.body(0, None, None).await?),
        };
        let (sender, pieces) = mpsc::channel(QUEUED_PIECES);
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            if repack(&mut layer, &mut PieceSender(&sender)).is_err() {
                // The root cause: a truncated layer fails to decompress too.
                let error = layer.failure();
                let error = error.unwrap_or(UpstreamError::Protocol(NOT_REPRODUCIBLE));
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(BlobBody::generated(self.size, pieces))
    }
}

impl ForeignSource for RepackedLayer {
    fn registry(&self) -> &Registry {
        self.layer.registry()
    }

    fn repository(&self) -> Option<&Repository> {
        self.layer.repository()
    }

    fn name(&self) -> &str {
        self.layer.name()
    }

    /// Ignores the range: compression starts at the first byte.
    fn fetch(
        &self,
        _: u64,
        _: Option<u64>,
        _: Option<u64>,
    ) -> BoxFuture<'_, Result<BlobBody, UpstreamError>> {
        Box::pin(self.body())
    }

    /// Checks the known digest.
    fn check(&self) -> DigestCheck {
        DigestCheck::new(Hasher::new(Algorithm::Sha256), vec![self.digest])
    }

    fn committed_as(&self) -> BoxFuture<'_, Option<Digest>> {
        Box::pin(std::future::ready(Some(self.digest)))
    }

    fn committed(&self, _: Digest, _: u64) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The original of a layer, as a blocking reader.
enum RawLayer {
    Stored(Box<dyn Read + Send>),
    Streaming {
        pieces: mpsc::Receiver<LayerPiece>,
        current: Bytes,
        failed: Option<UpstreamError>,
    },
}

impl RawLayer {
    fn streaming(mut body: BlobBody) -> Self {
        let (sender, pieces) = mpsc::channel(QUEUED_PIECES);
        tokio::spawn(async move {
            while let Some(piece) = body.next().await.transpose() {
                // An error ends a body.
                let is_last = piece.is_err();
                if sender.send(piece).await.is_err() || is_last {
                    return;
                }
            }
        });
        Self::Streaming {
            pieces,
            current: Bytes::new(),
            failed: None,
        }
    }

    fn failure(self) -> Option<UpstreamError> {
        match self {
            Self::Stored(_) => None,
            Self::Streaming { failed, .. } => failed,
        }
    }
}

impl Read for RawLayer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (pieces, current, failed) = match self {
            Self::Stored(layer) => return layer.read(buffer),
            Self::Streaming {
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

/// Sends the compressed pieces to the reader.
struct PieceSender<'a>(&'a mpsc::Sender<LayerPiece>);

impl Write for PieceSender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
