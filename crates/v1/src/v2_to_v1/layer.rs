//! Layers that v1 clients can read: as they are wherever that goes, else made of them once and kept.
//!
//! Whether a layer can be served as it is must be known before its first byte is, so it is looked through when
//! it is first wanted: its fill runs at full speed meanwhile, and what was found is kept. Old clients ask for
//! layers from the root on, so that those below one that hides some of them are here by then.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::sync::{Semaphore, mpsc};

use super::archive::broken;
use super::hidden::Paths;
use super::unpack::{self, Compression};
use super::{BridgeError, V1Image};
use crate::V1;
use crate::records::{PreparedLayer, V1ImageRecords};
use access::Permit;
use mirror::{BlobAnswer, MirrorError, ReadError};
use oci::cache_status::CacheStatus;
use oci::digest::{Algorithm, Digest, Hasher};
use oci::name::Registry;
use runtime::single_flight::SingleFlight;
use store::{Blobs, CommitError, StagedBlob, warn_degraded};

/// How many layers are looked through at once: each takes a thread that computes.
const AT_ONCE: usize = 4;
/// How many pieces of a layer wait for it.
const PIECES: usize = 4;

/// Layers that are being looked through.
#[derive(Debug)]
pub struct LayerPreparations {
    preparing: SingleFlight<(Registry, Digest), Result<(), BridgeError>>,
    turns: Arc<Semaphore>,
}

impl Default for LayerPreparations {
    fn default() -> Self {
        Self {
            preparing: SingleFlight::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

/// What a v1 client gets for a layer.
#[derive(Debug)]
pub enum V1ImageLayer {
    /// A layer that changes nothing.
    Empty,
    Blob(BlobAnswer),
}

impl V1ImageLayer {
    /// In bytes, where known.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(oci::v2_to_v1::EMPTY_LAYER.len() as u64),
            Self::Blob(answer) => answer.size,
        }
    }
}

/// A layer and those below it.
#[derive(Clone, Debug)]
struct LayerChain {
    /// From the root on; the last one is wanted.
    layers: Vec<Digest>,
    layer: Digest,
    /// Of all of them.
    chain: Digest,
}

impl V1 {
    /// An image's layer, once it is known what a v1 client can be given of it. That may take as long as its
    /// download; who stops waiting does not stop it.
    ///
    /// # Errors
    /// What the upstream said, and why it can be no such layer.
    pub async fn bridged_layer(
        &self,
        permit: &Permit,
        image: &V1Image,
    ) -> Result<V1ImageLayer, BridgeError> {
        let Some(wanted) = wanted(image) else {
            return Ok(V1ImageLayer::Empty);
        };
        // What was made may be evicted just before it is opened.
        for _ in 0..3 {
            if let Some(answer) = self.prepared(permit, &wanted).await? {
                return Ok(V1ImageLayer::Blob(answer));
            }
            let key = (permit.registry().clone(), wanted.chain);
            let start = || self.clone().prepare(permit.clone(), wanted.clone());
            let (done, _) = self.preparing.preparing.join(key, start).await;
            done.unwrap_or(Err(MirrorError::Internal.into()))?;
        }
        Err(MirrorError::Internal.into())
    }

    /// A layer of which it is known what it becomes, if that is here.
    async fn prepared(
        &self,
        permit: &Permit,
        wanted: &LayerChain,
    ) -> Result<Option<BlobAnswer>, BridgeError> {
        let mut known = self.record(permit, &wanted.layer).await;
        if known.as_deref() == Some(&PreparedLayer::Opaque) {
            // What is made of it has names of what lies below it: that must be the repository's as well.
            for layer in &wanted.layers {
                self.mirror.blob_head(permit, layer).await?;
            }
            known = self.record(permit, &wanted.chain).await;
        }
        match known.as_deref() {
            Some(PreparedLayer::AsItIs) => Ok(Some(self.mirror.blob(permit, &wanted.layer).await?)),
            Some(PreparedLayer::Derived { digest, size }) => {
                // Who may have the one may have the other.
                self.mirror.blob_head(permit, &wanted.layer).await?;
                Ok(self.derived_blob(digest, *size).await)
            }
            Some(PreparedLayer::Opaque) | None => Ok(None),
        }
    }

    /// A blob that was made here, of a layer that the caller's repository has.
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

    /// Looks through a layer, and makes another one of it where that must be.
    async fn prepare(self, permit: Permit, wanted: LayerChain) -> Result<(), BridgeError> {
        let turns = self.preparing.turns.clone();
        let _turn = turns
            .acquire_owned()
            .await
            .map_err(|_| MirrorError::Internal)?;
        let (images, registry) = (V1ImageRecords::of(self.store()), permit.registry());
        let known = self.record(&permit, &wanted.layer).await;
        if known.as_deref() != Some(&PreparedLayer::Opaque) {
            let mut staging = self.staging(&wanted);
            let found = self.through(&permit, wanted.layer, move |source| {
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
            images.store_layer(registry, &wanted.layer, prepared).await;
            if !opaque {
                return Ok(());
            }
        }
        let made = self.explicit(&permit, &wanted).await?;
        images.store_layer(registry, &wanted.chain, made).await;
        Ok(())
    }

    /// Makes a layer that says name by name what its opaque folders hide.
    async fn explicit(
        &self,
        permit: &Permit,
        wanted: &LayerChain,
    ) -> Result<PreparedLayer, BridgeError> {
        let opaque = self.through(permit, wanted.layer, |source| {
            unpack::scan(source, io::sink()).map(|found| found.opaque)
        });
        let opaque = Arc::new(opaque.await?);
        let mut lower = Paths::default();
        for layer in wanted.layers.iter().rev().skip(1).rev() {
            let above = self.paths(permit, *layer, &opaque).await?;
            let laid = computed(move || lower.lay(above).map(|()| lower));
            lower = laid.await?.map_err(failed)?;
        }
        let own = self.paths(permit, wanted.layer, &opaque).await?;
        let hidden = computed(move || own.hidden(&lower)).await?;
        let mut staging = self.staging(wanted);
        let made = self.through(permit, wanted.layer, move |source| {
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
    ) -> Result<Paths, BridgeError> {
        let within = within.clone();
        let paths = self.through(permit, layer, move |source| {
            unpack::read(source, |archive| Paths::read(archive, &within))
        });
        paths.await
    }

    fn staging(&self, wanted: &LayerChain) -> Staging {
        Staging {
            blobs: self.store().blobs.clone(),
            key: wanted.chain,
            staged: None,
        }
    }

    /// Reads a layer from its beginning to its end with something that blocks.
    async fn through<T: Send + 'static>(
        &self,
        permit: &Permit,
        layer: Digest,
        work: impl FnOnce(Fed) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BridgeError> {
        let mut reader = self.mirror.blob(permit, &layer).await?.open(None).await?;
        let (give, take) = mpsc::channel(PIECES);
        let fed = Fed {
            take,
            piece: Bytes::new(),
            ended: false,
        };
        let working = tokio::task::spawn_blocking(move || work(fed));
        loop {
            let next = reader.next().await;
            let given = match next {
                Ok(Some(piece)) => {
                    let given = give.send(Ok(piece.clone())).await;
                    reader.written(piece, Duration::ZERO);
                    given
                }
                Ok(None) => {
                    let _ = give.send(Ok(Bytes::new())).await;
                    break;
                }
                Err(error) => {
                    let _ = give.send(Err(error)).await;
                    break;
                }
            };
            if given.is_err() {
                // It has enough, or failed.
                break;
            }
        }
        drop(give);
        let worked = working.await.map_err(|_| MirrorError::Internal)?;
        worked.map_err(failed)
    }
}

/// Does something with very many paths where it holds nobody up.
async fn computed<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MirrorError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| MirrorError::Internal)
}

/// What an image's layer is known by; `None` for the empty one.
fn wanted(image: &V1Image) -> Option<LayerChain> {
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
        chain: hasher.finish(),
    })
}

fn failed(error: io::Error) -> BridgeError {
    let error = match error.downcast::<CommitError>() {
        Ok(error) => return BridgeError::Keep(Arc::new(error)),
        Err(error) => error,
    };
    match error.downcast::<ReadError>() {
        Ok(error) => {
            tracing::warn!(error = telemetry::chain(&error), "a layer broke off");
            MirrorError::timed_out().into()
        }
        Err(error) => BridgeError::Archive(Arc::new(error)),
    }
}

/// What a thread reads of a body that arrives. An empty piece is its end; without one it was broken off, as
/// when the process ends.
struct Fed {
    take: mpsc::Receiver<Result<Bytes, ReadError>>,
    piece: Bytes,
    ended: bool,
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            let piece = self.take.blocking_recv();
            let piece = piece.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.piece = piece.map_err(io::Error::other)?;
            self.ended = self.piece.is_empty();
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// A layer that is being made; nothing of it stays unless it is committed.
struct Staging {
    blobs: Blobs,
    key: Digest,
    /// Once there is something in it.
    staged: Option<StagedBlob>,
}

impl Staging {
    fn commit(self) -> io::Result<PreparedLayer> {
        let staged = self
            .staged
            .ok_or_else(|| broken("there is nothing in it"))?;
        let (digest, blob) = staged.commit_unnamed().map_err(io::Error::other)?;
        Ok(PreparedLayer::Derived {
            digest,
            size: blob.size,
        })
    }
}

impl Write for Staging {
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
    fn a_body_ends_only_where_that_was_said() {
        for (ended, expected) in [(true, Ok(3)), (false, Err(io::ErrorKind::UnexpectedEof))] {
            let (give, take) = mpsc::channel(PIECES);
            let pieces = [&b"ab"[..], b"c", b""];
            for piece in pieces.iter().take(if ended { 3 } else { 2 }) {
                let given = give.try_send(Ok(Bytes::from_static(piece)));
                given.expect("room for it");
            }
            drop(give);
            let mut fed = Fed {
                take,
                piece: Bytes::new(),
                ended: false,
            };
            let mut all = Vec::new();
            let read = fed.read_to_end(&mut all);
            assert_eq!(read.map_err(|error| error.kind()), expected);
            assert_eq!(all, b"abc");
        }
    }
}
