//! What a layer of the v1 API is to clients of v2: what is packed by gzip stays as it is; by xz, or not at all,
//! it is packed anew, since not every client of v2 reads it. All of this blocks, and holds a few hundred KiB,
//! whatever comes.

use std::io::{self, BufReader, Cursor, Read, Write};

use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::gzip::Gzip;
use crate::layer::StoredLayer;
use mirror::StoredBlob;
use oci::digest::{Algorithm, Digest, Hasher};
use oci::v1_to_v2::ConvertedLayer;
use store::{BlobReader, Blobs, CommitError, StagedBlob};

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
    #[error("a layer cannot be read")]
    Read(#[source] io::Error),
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gzip,
    Xz,
    Plain,
}

/// What a layer that is in the store is to clients of v2. What has to be packed anew is kept, staged as `key`.
///
/// # Errors
/// Why it is nothing; nothing more is kept then.
pub(super) fn examined(
    blobs: &Blobs,
    key: &Digest,
    kept: StoredLayer,
) -> Result<ConvertedLayer, LayerError> {
    let StoredLayer { digest, size, blob } = kept;
    let (kind, whole) = sniffed(opened(blob))?;
    let mut diff = Diff::default();
    let (digest, size) = if kind == Kind::Gzip {
        let read = copy(MultiGzDecoder::new(whole), &mut diff);
        read.map_err(|_| diff.failure())?;
        (digest, size)
    } else {
        let reservation = blobs.reserve(size).map_err(CommitError::from)?;
        let staged = blobs.stage_unnamed(key, reservation, None);
        let mut staged = Staged {
            blob: staged.map_err(CommitError::from)?,
            failed: None,
        };
        let packed = pack(kind, whole, &mut staged, &mut diff);
        if let Some(failed) = staged.failed {
            return Err(failed.into());
        }
        packed?;
        if diff.seen {
            let size = staged.blob.written();
            (staged.blob.commit_unnamed()?.0, size)
        } else {
            (digest, size)
        }
    };
    let diff_id = diff.sum.finish();
    Ok(ConvertedLayer {
        // One without entries is no blob of any manifest.
        digest: if diff.seen { digest } else { diff_id },
        size,
        diff_id,
        is_empty: !diff.seen,
    })
}

/// Writes what clients of v2 get of a layer.
///
/// # Errors
/// Why that is nothing.
pub(super) fn repacked(layer: impl Read, out: &mut impl Write) -> Result<(), LayerError> {
    let (kind, whole) = sniffed(layer)?;
    match kind {
        Kind::Gzip => copy(whole, out).map_err(LayerError::Read),
        Kind::Xz | Kind::Plain => pack(kind, whole, out, &mut Diff::default()),
    }
}

/// Reads what is in the store.
pub(super) fn opened(blob: StoredBlob) -> Box<dyn Read + Send> {
    match blob {
        StoredBlob::Memory(bytes) => Box::new(Cursor::new(bytes)),
        StoredBlob::File(blob) => Box::new(BufReader::with_capacity(PIECE, BlobReader::new(blob))),
    }
}

/// A layer whose first bytes were looked at.
type Whole<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// How a layer is packed, and all of it.
fn sniffed<R: Read>(mut layer: R) -> Result<(Kind, Whole<R>), LayerError> {
    let mut head = Vec::new();
    let sniffed = layer.by_ref().take(XZ.len() as u64).read_to_end(&mut head);
    sniffed.map_err(LayerError::Read)?;
    let is = |magic: &&[u8]| head.starts_with(magic);
    let kind = match () {
        () if OTHERS.iter().any(is) => return Err(LayerError::Kind),
        () if is(&GZIP) => Kind::Gzip,
        () if is(&XZ) => Kind::Xz,
        () => Kind::Plain,
    };
    Ok((kind, Cursor::new(head).chain(layer)))
}

/// Packs what is not packed by gzip.
fn pack(
    kind: Kind,
    whole: impl Read,
    out: &mut impl Write,
    diff: &mut Diff,
) -> Result<(), LayerError> {
    let packed = if kind == Kind::Xz {
        Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
            .map_err(io::Error::from)
            .and_then(|stream| gzipped(XzDecoder::new_stream(whole, stream), out, diff))
    } else {
        gzipped(whole, out, diff)
    };
    packed.map_err(|_| diff.failure())
}

fn gzipped(archive: impl Read, out: &mut impl Write, diff: &mut Diff) -> io::Result<()> {
    let mut packed = Gzip::new(out)?;
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

/// What is to be a blob.
struct Staged {
    blob: StagedBlob,
    failed: Option<CommitError>,
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.blob.append(bytes).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("it cannot be kept")
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An archive, as far as it counts.
struct Diff {
    sum: Hasher,
    length: u64,
    /// Whether anything but zeros was seen: an archive of zeros has no entries.
    seen: bool,
}

impl Diff {
    fn failure(&self) -> LayerError {
        if self.length > MOST {
            LayerError::TooLong
        } else {
            LayerError::Packing
        }
    }
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
