//! A layer of the v1 API as it streams by: what its bytes are called, what they unpack to, and what is kept.
//!
//! What is packed by gzip is kept as it is; by xz, or not at all, it is packed anew, since not every client of
//! v2 reads it. All of this blocks, and holds a few hundred KiB, whatever comes.

use std::io::{self, Cursor, Read, Write};

use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use tokio::sync::mpsc;

use super::gzip::Gzip;
use crate::spec::conversion::Layer;
use crate::spec::digest::{Algorithm, Digest, Hasher};
use crate::store::{Blobs, CommitError, StagedBlob};

/// What is unpacked at once, in bytes.
const PIECE: usize = 64 << 10;
/// The most that a layer may unpack to, in bytes.
const MOST: u64 = 256 << 30;
/// What xz may hold in memory, in bytes: its strongest preset takes 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// bzip2, zstd: neither do clients of v2 read the one, nor did those of v1 write the other.
const OTHERS: [&[u8]; 2] = [b"BZh", &[0x28, 0xb5, 0x2f, 0xfd]];

/// A piece of a layer's body.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    /// That was all: a body without this is broken off.
    End,
}

/// Why a layer did not become a blob.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("a layer cannot be unpacked")]
    Packing,
    #[error("a layer is packed by what clients do not read")]
    Kind,
    #[error("a layer unpacks to too much")]
    TooLong,
    #[error("a layer is not what its checksum says")]
    Checksum,
    #[error("the body of a layer was broken off")]
    Broken,
}

/// How a layer is to be read.
#[derive(Debug)]
pub(super) struct Task {
    pub blobs: Blobs,
    /// What the blob is staged as: its digest, where that is known.
    pub key: Digest,
    /// Whether it must have that digest.
    pub known: bool,
    /// What is to be expected, in bytes.
    pub size: Option<u64>,
    /// A sum that has begun, and what it must come to with the body.
    pub checksum: Option<(Hasher, Digest)>,
}

impl Task {
    /// Reads a layer to its end and keeps it.
    ///
    /// # Errors
    /// Why there is none; nothing is kept then.
    pub fn read(self, pieces: mpsc::Receiver<Piece>) -> Result<Layer, LayerError> {
        let reservation = self.blobs.reserve(self.size.unwrap_or(0));
        let reservation = reservation.map_err(CommitError::from)?;
        let staged = self.blobs.stage_unnamed(&self.key, reservation, None);
        let mut kept = Kept {
            staged: staged.map_err(CommitError::from)?,
            failed: None,
        };
        let (sum, expected) = self.checksum.unzip();
        let mut body = Body {
            pieces,
            current: Bytes::new(),
            received: 0,
            sum,
            ended: false,
            broken: false,
        };
        let mut diff = Diff::default();
        let unpacked = unpack(&mut body, &mut kept, &mut diff);
        if let Some(failed) = kept.failed {
            return Err(failed.into());
        }
        // The first cause: what is cut off cannot be unpacked either.
        if body.broken {
            return Err(LayerError::Broken);
        }
        unpacked?;
        body.drain().map_err(|_| LayerError::Broken)?;
        if let (Some(sum), Some(expected)) = (body.sum, expected)
            && sum.finish() != expected
        {
            return Err(LayerError::Checksum);
        }
        let diff_id = diff.sum.finish();
        if !diff.seen {
            return Ok(Layer {
                digest: diff_id,
                size: body.received,
                diff_id,
                is_empty: true,
            });
        }
        let size = kept.staged.written();
        let digest = if self.known {
            kept.staged.commit()?;
            self.key
        } else {
            kept.staged.commit_unnamed()?.0
        };
        Ok(Layer {
            digest,
            size,
            diff_id,
            is_empty: false,
        })
    }
}

/// Unpacks a body into `diff`, and what is to be served into `kept`.
fn unpack(body: &mut Body, kept: &mut Kept, diff: &mut Diff) -> Result<(), LayerError> {
    let mut head = Vec::new();
    let sniffed = body.by_ref().take(XZ.len() as u64).read_to_end(&mut head);
    sniffed.map_err(|_| LayerError::Broken)?;
    let is = |magic: &&[u8]| head.starts_with(magic);
    if OTHERS.iter().any(is) {
        return Err(LayerError::Kind);
    }
    let (is_gzip, is_xz) = (is(&GZIP), is(&XZ));
    let whole = Read::chain(Cursor::new(head), body);
    let copied = if is_gzip {
        let mut decoder = MultiGzDecoder::new(Tee { whole, kept });
        copy(&mut decoder, diff)
    } else if is_xz {
        Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
            .map_err(io::Error::from)
            .and_then(|stream| pack(XzDecoder::new_stream(whole, stream), kept, diff))
    } else {
        pack(whole, kept, diff)
    };
    copied.map_err(|_| match diff.length {
        length if length > MOST => LayerError::TooLong,
        _ => LayerError::Packing,
    })
}

/// Packs an archive into `kept`.
fn pack(archive: impl Read, kept: &mut Kept, diff: &mut Diff) -> io::Result<()> {
    let mut packed = Gzip::new(kept)?;
    let both = &mut Both {
        diff,
        packed: &mut packed,
    };
    copy(archive, both)?;
    packed.finish()
}

fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A body as it arrives. It ends only where its sender said so.
struct Body {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    received: u64,
    sum: Option<Hasher>,
    ended: bool,
    broken: bool,
}

impl Body {
    /// Reads on to the end.
    fn drain(&mut self) -> io::Result<()> {
        copy(self, &mut io::sink())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    self.received += bytes.len() as u64;
                    if let Some(sum) = &mut self.sum {
                        sum.update(&bytes);
                    }
                    self.current = bytes;
                }
                Some(Piece::End) => self.ended = true,
                None => {
                    self.broken = true;
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
        let read = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

/// What is to be a blob.
struct Kept {
    staged: StagedBlob,
    failed: Option<CommitError>,
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.staged.append(bytes).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("it cannot be kept")
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what is read.
struct Tee<'a, R> {
    whole: R,
    kept: &'a mut Kept,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.whole.read(buffer)?;
        self.kept.write_all(&buffer[..read])?;
        Ok(read)
    }
}

/// An archive, as far as it counts.
struct Diff {
    sum: Hasher,
    length: u64,
    /// Whether anything but zeros was seen: an archive of zeros has no entries.
    seen: bool,
}

impl Default for Diff {
    fn default() -> Self {
        Self {
            sum: Hasher::new(Algorithm::Sha256),
            length: 0,
            seen: false,
        }
    }
}

impl Write for Diff {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.length > MOST {
            return Err(io::Error::other("too long"));
        }
        self.sum.update(bytes);
        self.seen = self.seen || bytes.iter().any(|&byte| byte != 0);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Both<'a, W> {
    diff: &'a mut Diff,
    packed: &'a mut W,
}

impl<W: Write> Write for Both<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.diff.write_all(bytes)?;
        self.packed.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
