//! A layer that is packed anew while it is read: the bytes of its blob come as fast as the v1 side, or the
//! disk, gives what they are made of. Whoever reads them checks them by the blob's digest.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};

use super::layer::{opened, repacked};
use crate::layer_source::LayerSource;
use mirror::{DigestCheck, ForeignSource, StoredBlob};
use oci::digest::{Algorithm, Digest, Hasher};
use oci::name::{Registry, Repository};
use store::Blob;
use upstream::{BlobBody, UpstreamError};

/// How many pieces wait on either side of the packing.
const AHEAD: usize = 8;
const UNPACKABLE: &str = "a layer cannot be packed as it was";

/// A layer of the v1 API, and how long its blob is.
#[derive(Debug)]
pub(super) struct RepackedLayer {
    pub layer: Arc<LayerSource>,
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob, in bytes.
    pub size: u64,
    /// One for each that is packed at a time.
    pub slots: Arc<Semaphore>,
}

type Piece = Result<Bytes, UpstreamError>;

impl RepackedLayer {
    /// The layer as the v1 side has it, if it is in the store.
    async fn stored(&self) -> Option<Blob> {
        let digest = self.layer.known_digest().await?;
        let store = self.layer.store.clone();
        let opened = tokio::task::spawn_blocking(move || store.blobs.open(&digest, None));
        opened.await.ok()?.ok()?
    }

    /// Begins to pack it, from the first byte on.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    async fn body(&self) -> Result<BlobBody, UpstreamError> {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.map_err(|_| UpstreamError::Protocol(UNPACKABLE))?;
        let mut layer = match self.stored().await {
            Some(blob) => Raw::Here(opened(StoredBlob::File(blob))),
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

    /// It is packed from its first byte on.
    fn fetch(
        &self,
        _: u64,
        _: Option<u64>,
        _: Option<u64>,
    ) -> BoxFuture<'_, Result<BlobBody, UpstreamError>> {
        Box::pin(self.body())
    }

    /// Its digest is known.
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
