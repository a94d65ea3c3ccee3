//! Layers that v1 clients can read: unchanged where possible, else derived once and stored.
//!
//! Whether a layer can be served unchanged must be known before its first byte is sent, so it is scanned at its
//! first request, while its fill runs at full speed, and the result is stored. Old clients fetch layers from
//! the root upward, so the layers below an opaque one are stored by then.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::sync::{Semaphore, mpsc};

use super::archive::invalid;
use super::hidden::LayerPaths;
use super::unpack::{self, Compression};
use super::{BridgeError, V1Image};
use crate::V1;
use crate::records::{PreparedLayer, V1ImageRecords};
use access::Permit;
use mirror::{BlobAnswer, MirrorError, ReadError, Requester};
use oci::cache_status::CacheStatus;
use oci::digest::{Algorithm, Digest, Hasher};
use oci::name::Registry;
use runtime::single_flight::SingleFlight;
use store::{Blobs, CommitError, StagedBlob, warn_degraded};

/// How many layers are scanned at once: each occupies a thread.
const MAX_SCANS: usize = 4;
/// How many pieces of a layer are queued for its scan.
const QUEUED_PIECES: usize = 4;

/// The layers that are being scanned.
#[derive(Debug)]
pub struct LayerPreparations {
    preparing: SingleFlight<(Registry, Digest), Result<(), BridgeError>>,
    scan_slots: Arc<Semaphore>,
}

impl Default for LayerPreparations {
    fn default() -> Self {
        Self {
            preparing: SingleFlight::default(),
            scan_slots: Arc::new(Semaphore::new(MAX_SCANS)),
        }
    }
}

/// What a v1 client gets for a layer.
#[derive(Debug)]
pub enum V1ImageLayer {
    /// The empty layer.
    Empty,
    /// A tar archive compressed with gzip: the blob itself, or one made of it for v1 clients.
    Blob(BlobAnswer),
}

impl V1ImageLayer {
    /// In bytes, if known.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(oci::v2_to_v1::EMPTY_LAYER.len() as u64),
            Self::Blob(answer) => answer.size,
        }
    }
}

/// A layer with the layers below it.
#[derive(Clone, Debug)]
struct LayerChain {
    /// From the root to the layer itself.
    layers: Vec<Digest>,
    layer: Digest,
    /// The digest of all layers' digests.
    digest: Digest,
}

impl V1 {
    /// An image's layer in the form that v1 clients can read. Preparing it may take as long as its download,
    /// and continues if the caller stops waiting.
    ///
    /// # Errors
    /// [`BridgeError`]: the upstream's error, or why the layer cannot be prepared.
    pub async fn bridged_layer(
        &self,
        permit: &Permit,
        image: &V1Image,
    ) -> Result<V1ImageLayer, BridgeError> {
        let Some(chain) = layer_chain(image) else {
            return Ok(V1ImageLayer::Empty);
        };
        // A derived layer may be evicted just before it is opened.
        for _ in 0..3 {
            if let Some(answer) = self.prepared(permit, &chain).await? {
                return Ok(V1ImageLayer::Blob(answer));
            }
            let key = (permit.registry().clone(), chain.digest);
            let start = || self.clone().prepare(permit.clone(), chain.clone());
            let (done, _) = self.preparing.preparing.join(key, start).await;
            done.unwrap_or(Err(MirrorError::Internal.into()))?;
        }
        Err(MirrorError::Internal.into())
    }

    /// A layer that is already prepared, if its bytes are stored.
    async fn prepared(
        &self,
        permit: &Permit,
        chain: &LayerChain,
    ) -> Result<Option<BlobAnswer>, BridgeError> {
        let mut known = self.record(permit, &chain.layer).await;
        if known.as_deref() == Some(&PreparedLayer::Opaque) {
            // The derived layer names files of the layers below it, so the repository must have those as well.
            for layer in &chain.layers {
                self.mirror.blob_head(permit, layer).await?;
            }
            known = self.record(permit, &chain.digest).await;
        }
        match known.as_deref() {
            Some(PreparedLayer::AsItIs) => Ok(Some(
                self.mirror
                    .blob(permit, &chain.layer, Requester::Gateway)
                    .await?,
            )),
            Some(PreparedLayer::Derived { digest, size }) => {
                // A right to the original is a right to the derived layer.
                self.mirror.blob_head(permit, &chain.layer).await?;
                Ok(self.derived_blob(digest, *size).await)
            }
            Some(PreparedLayer::Opaque) | None => Ok(None),
        }
    }

    /// Opens a derived blob. The caller has checked the right to the original.
    async fn derived_blob(&self, digest: &Digest, size: u64) -> Option<BlobAnswer> {
        let blob = self.registries.contents.open(digest, Some(size)).await?;
        Some(BlobAnswer::stored(blob, CacheStatus::HIT.detail("derived")))
    }

    async fn record(&self, permit: &Permit, key: &Digest) -> Option<Arc<PreparedLayer>> {
        let records = V1ImageRecords::of(self.store());
        let known = records.layer(permit.registry(), key);
        known.await.unwrap_or_else(|error| {
            warn_degraded("the record of a layer cannot be read", &error);
            None
        })
    }

    /// Scans a layer, and derives another one if v1 clients cannot read it.
    async fn prepare(self, permit: Permit, chain: LayerChain) -> Result<(), BridgeError> {
        let scan_slots = self.preparing.scan_slots.clone();
        let _slot = scan_slots
            .acquire_owned()
            .await
            .map_err(|_| MirrorError::Internal)?;
        let (images, registry) = (V1ImageRecords::of(self.store()), permit.registry());
        let known = self.record(&permit, &chain.layer).await;
        if known.as_deref() != Some(&PreparedLayer::Opaque) {
            let mut staging = self.staging(&chain);
            let found = self.read_layer(&permit, chain.layer, move |source| {
                let found = unpack::scan(source, &mut staging)?;
                let made = match found.compression {
                    Compression::None | Compression::Zstd if found.opaque.is_empty() => {
                        Some(staging.commit()?)
                    }
                    _ => None,
                };
                Ok((found.opaque.is_empty(), made))
            });
            let prepared = match found.await? {
                (false, _) => PreparedLayer::Opaque,
                (true, Some(made)) => made,
                (true, None) => PreparedLayer::AsItIs,
            };
            let opaque = prepared == PreparedLayer::Opaque;
            images.store_layer(registry, &chain.layer, prepared).await;
            if !opaque {
                return Ok(());
            }
        }
        let made = self.expand_opaque(&permit, &chain).await?;
        images.store_layer(registry, &chain.digest, made).await;
        Ok(())
    }

    /// Derives a layer with one whiteout for each path that its opaque directories hide.
    async fn expand_opaque(
        &self,
        permit: &Permit,
        chain: &LayerChain,
    ) -> Result<PreparedLayer, BridgeError> {
        let opaque = self.read_layer(permit, chain.layer, |source| {
            unpack::scan(source, io::sink()).map(|found| found.opaque)
        });
        let opaque = Arc::new(opaque.await?);
        let mut lower = LayerPaths::default();
        for layer in chain.layers.iter().rev().skip(1).rev() {
            let above = self.paths(permit, *layer, &opaque).await?;
            let applied = blocking(move || lower.apply(above).map(|()| lower));
            lower = applied.await?.map_err(failed)?;
        }
        let own = self.paths(permit, chain.layer, &opaque).await?;
        let hidden = blocking(move || own.hidden(&lower)).await?;
        let mut staging = self.staging(chain);
        let made = self.read_layer(permit, chain.layer, move |source| {
            unpack::rewrite(source, hidden, &mut staging)?;
            staging.commit()
        });
        made.await
    }

    async fn paths(
        &self,
        permit: &Permit,
        layer: Digest,
        within: &Arc<BTreeSet<Vec<u8>>>,
    ) -> Result<LayerPaths, BridgeError> {
        let within = within.clone();
        let paths = self.read_layer(permit, layer, move |source| {
            unpack::read(source, |archive| LayerPaths::read(archive, &within))
        });
        paths.await
    }

    fn staging(&self, chain: &LayerChain) -> StagedLayer {
        StagedLayer {
            blobs: self.store().blobs.clone(),
            key: chain.digest,
            staged: None,
        }
    }

    /// Feeds a layer from beginning to end to a blocking function.
    async fn read_layer<T: Send + 'static>(
        &self,
        permit: &Permit,
        layer: Digest,
        work: impl FnOnce(ChannelReader) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BridgeError> {
        let mut reader = self
            .mirror
            .blob(permit, &layer, Requester::Gateway)
            .await?
            .open(None)
            .await?;
        let (sender, pieces) = mpsc::channel(QUEUED_PIECES);
        let source = ChannelReader {
            pieces,
            piece: Bytes::new(),
            ended: false,
        };
        let working = tokio::task::spawn_blocking(move || work(source));
        loop {
            let next = reader.next().await;
            let sent = match next {
                Ok(Some(piece)) => {
                    let sent = sender.send(Ok(piece.clone())).await;
                    reader.written(piece, Duration::ZERO);
                    sent
                }
                Ok(None) => {
                    let _ = sender.send(Ok(Bytes::new())).await;
                    break;
                }
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    break;
                }
            };
            if sent.is_err() {
                // The reader is done, or failed.
                break;
            }
        }
        drop(sender);
        let worked = working.await.map_err(|_| MirrorError::Internal)?;
        worked.map_err(failed)
    }
}

/// Runs a computation over very many paths on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MirrorError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| MirrorError::Internal)
}

/// The chain of an image's layer; `None` for the empty layer.
fn layer_chain(image: &V1Image) -> Option<LayerChain> {
    let links = image.links.get(..=image.at)?.iter();
    let layers: Vec<Digest> = links.filter_map(|link| Some(link.layer?.digest)).collect();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(b"roadstead v1 layer 1");
    for layer in &layers {
        hasher.update(layer.to_string().as_bytes());
        hasher.update(b"\n");
    }
    Some(LayerChain {
        layer: *layers.last()?,
        layers,
        digest: hasher.finish(),
    })
}

fn failed(error: io::Error) -> BridgeError {
    let error = match error.downcast::<CommitError>() {
        Ok(error) => return BridgeError::Store(Arc::new(error)),
        Err(error) => error,
    };
    match error.downcast::<ReadError>() {
        Ok(error) => {
            tracing::warn!(error = telemetry::chain(&error), "a layer was truncated");
            MirrorError::timed_out().into()
        }
        Err(error) => BridgeError::Archive(Arc::new(error)),
    }
}

/// A blocking reader of an arriving body. An empty piece marks its end; without one it was truncated, as when
/// the process ends.
struct ChannelReader {
    pieces: mpsc::Receiver<Result<Bytes, ReadError>>,
    piece: Bytes,
    ended: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            let piece = self.pieces.blocking_recv();
            let piece = piece.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.piece = piece.map_err(io::Error::other)?;
            self.ended = self.piece.is_empty();
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// A derived layer being written; dropped unless it is committed.
struct StagedLayer {
    blobs: Blobs,
    key: Digest,
    /// Set at the first write.
    staged: Option<StagedBlob>,
}

impl StagedLayer {
    fn commit(self) -> io::Result<PreparedLayer> {
        let staged = self.staged.ok_or_else(|| invalid("it is empty"))?;
        let (digest, blob) = staged.commit_unnamed().map_err(io::Error::other)?;
        Ok(PreparedLayer::Derived {
            digest,
            size: blob.size,
        })
    }
}

impl Write for StagedLayer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let staged = match &mut self.staged {
            Some(staged) => staged,
            none => {
                let full = |full| io::Error::other(CommitError::from(full));
                let room = self.blobs.reserve(bytes.len() as u64).map_err(full)?;
                none.insert(self.blobs.stage_unnamed(&self.key, room, None)?)
            }
        };
        staged.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_without_its_end_marker_is_truncated() {
        for (ended, expected) in [(true, Ok(3)), (false, Err(io::ErrorKind::UnexpectedEof))] {
            let (sender, pieces) = mpsc::channel(QUEUED_PIECES);
            let input = [&b"ab"[..], b"c", b""];
            for piece in input.iter().take(if ended { 3 } else { 2 }) {
                let sent = sender.try_send(Ok(Bytes::from_static(piece)));
                sent.expect("room for it");
            }
            drop(sender);
            let mut source = ChannelReader {
                pieces,
                piece: Bytes::new(),
                ended: false,
            };
            let mut all = Vec::new();
            let read = source.read_to_end(&mut all);
            assert_eq!(read.map_err(|error| error.kind()), expected);
            assert_eq!(all, b"abc");
        }
    }
}
