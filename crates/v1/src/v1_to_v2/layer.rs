//! Layers of the v1 API for v2 clients: a gzip layer stays as it is; an xz or uncompressed one is compressed
//! with gzip, because not every v2 client reads it. All of this blocks, and holds a few hundred KiB whatever
//! the input.

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

/// The size of a read, in bytes.
const BUFFER: usize = 64 << 10;
/// The longest decompressed layer, in bytes.
const MAX_TAR: u64 = 256 << 30;
/// The memory limit of xz, in bytes: its strongest preset takes 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// bzip2 and zstd: v2 clients do not read the one, v1 clients never wrote the other.
const UNSUPPORTED: [&[u8]; 2] = [b"BZh", &[0x28, 0xb5, 0x2f, 0xfd]];

/// Why a layer cannot be converted.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("a layer cannot be decompressed")]
    Corrupt,
    #[error("a layer is compressed in a format that v2 clients do not read")]
    Format,
    #[error("a layer decompresses to more than 256 GiB")]
    TooLong,
    #[error("a layer cannot be read")]
    Read(#[source] io::Error),
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LayerFormat {
    Gzip,
    Xz,
    Plain,
}

/// Converts a stored layer for v2 clients. A recompressed one is committed to the store, staged as `key`.
///
/// # Errors
/// [`LayerError`] if it cannot be converted; nothing more is stored then.
pub(super) fn examine(
    blobs: &Blobs,
    key: &Digest,
    stored: StoredLayer,
) -> Result<ConvertedLayer, LayerError> {
    let StoredLayer { digest, size, blob } = stored;
    let (format, whole) = sniff(reader_of(blob))?;
    let mut tar = TarDigest::default();
    let (digest, size) = if format == LayerFormat::Gzip {
        let read = copy(MultiGzDecoder::new(whole), &mut tar);
        read.map_err(|_| tar.failure())?;
        (digest, size)
    } else {
        let reservation = blobs.reserve(size).map_err(CommitError::from)?;
        let staged = blobs.stage_unnamed(key, reservation, None);
        let mut staged = StagedWriter {
            blob: staged.map_err(CommitError::from)?,
            failed: None,
        };
        let packed = compress(format, whole, &mut staged, &mut tar);
        if let Some(failed) = staged.failed {
            return Err(failed.into());
        }
        packed?;
        if tar.has_entries {
            let size = staged.blob.written();
            (staged.blob.commit_unnamed()?.0, size)
        } else {
            (digest, size)
        }
    };
    let diff_id = tar.hasher.finish();
    Ok(ConvertedLayer {
        // A layer without entries is no blob of any manifest.
        digest: if tar.has_entries { digest } else { diff_id },
        size,
        diff_id,
        is_empty: !tar.has_entries,
    })
}

/// Writes the blob that v2 clients get for a layer.
///
/// # Errors
/// [`LayerError`] if it cannot be converted.
pub(super) fn repack(layer: impl Read, out: &mut impl Write) -> Result<(), LayerError> {
    let (format, whole) = sniff(layer)?;
    match format {
        LayerFormat::Gzip => copy(whole, out).map_err(LayerError::Read),
        LayerFormat::Xz | LayerFormat::Plain => {
            compress(format, whole, out, &mut TarDigest::default())
        }
    }
}

/// Why a layer is not known to be whole.
#[derive(Debug)]
pub(crate) enum WholeLayerError {
    /// It does not decompress to its end.
    Damaged,
    /// Its format shows no end, or is one that is not read here.
    Unknown,
    /// It cannot be read.
    Read(io::Error),
}

/// Checks that a layer ends where its format says: one that was cut off does not.
///
/// # Errors
/// [`WholeLayerError`] otherwise.
pub(crate) fn check_whole(layer: impl Read) -> Result<(), WholeLayerError> {
    let (format, whole) = sniff(layer).map_err(|error| match error {
        LayerError::Read(error) => WholeLayerError::Read(error),
        _ => WholeLayerError::Unknown,
    })?;
    let mut tar = TarEnd::default();
    let read = match format {
        LayerFormat::Gzip => copy(MultiGzDecoder::new(whole), &mut tar),
        LayerFormat::Xz => Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
            .map_err(io::Error::from)
            .and_then(|stream| copy(XzDecoder::new_stream(whole, stream), &mut tar)),
        LayerFormat::Plain => {
            copy(whole, &mut tar).map_err(WholeLayerError::Read)?;
            let is_whole = tar.length.is_multiple_of(512) && tar.zeros >= TAR_END;
            return is_whole.then_some(()).ok_or(WholeLayerError::Unknown);
        }
    };
    read.map_err(|_| WholeLayerError::Damaged)
}

/// A tar archive ends with two blocks of zeros.
const TAR_END: u64 = 1024;

/// The length of an archive, and how many zeros it ends with.
#[derive(Default)]
struct TarEnd {
    length: u64,
    zeros: u64,
}

impl Write for TarEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.length > MAX_TAR {
            return Err(io::Error::other("too long"));
        }
        let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        self.zeros = if zeros == bytes.len() {
            self.zeros + zeros as u64
        } else {
            zeros as u64
        };
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blocking reader of a stored blob.
pub(super) fn reader_of(blob: StoredBlob) -> Box<dyn Read + Send> {
    match blob {
        StoredBlob::Memory(bytes) => Box::new(Cursor::new(bytes)),
        StoredBlob::File(blob) => Box::new(BufReader::with_capacity(BUFFER, BlobReader::new(blob))),
    }
}

/// A layer whose first bytes were sniffed.
type Rewound<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// The format of a layer, and the layer from its first byte.
fn sniff<R: Read>(mut layer: R) -> Result<(LayerFormat, Rewound<R>), LayerError> {
    let mut head = Vec::new();
    let sniffed = layer.by_ref().take(XZ.len() as u64).read_to_end(&mut head);
    sniffed.map_err(LayerError::Read)?;
    let is = |magic: &&[u8]| head.starts_with(magic);
    let format = match () {
        () if UNSUPPORTED.iter().any(is) => return Err(LayerError::Format),
        () if is(&GZIP) => LayerFormat::Gzip,
        () if is(&XZ) => LayerFormat::Xz,
        () => LayerFormat::Plain,
    };
    Ok((format, Cursor::new(head).chain(layer)))
}

/// Compresses a layer that is not gzip.
fn compress(
    format: LayerFormat,
    whole: impl Read,
    out: &mut impl Write,
    tar: &mut TarDigest,
) -> Result<(), LayerError> {
    let packed = if format == LayerFormat::Xz {
        Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
            .map_err(io::Error::from)
            .and_then(|stream| gzip(XzDecoder::new_stream(whole, stream), out, tar))
    } else {
        gzip(whole, out, tar)
    };
    packed.map_err(|_| tar.failure())
}

fn gzip(archive: impl Read, out: &mut impl Write, tar: &mut TarDigest) -> io::Result<()> {
    let mut packed = Gzip::new(out)?;
    let both = &mut TeeWriter {
        tar,
        packed: &mut packed,
    };
    copy(archive, both)?;
    packed.finish()
}

fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes into a staged blob, and remembers its error.
struct StagedWriter {
    blob: StagedBlob,
    failed: Option<CommitError>,
}

impl Write for StagedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.blob.append(bytes).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("it cannot be stored")
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The digest of a tar archive, and whether it has entries.
struct TarDigest {
    hasher: Hasher,
    length: u64,
    /// Whether it has any byte but zero: an archive of zeros has no entries.
    has_entries: bool,
}

impl TarDigest {
    fn failure(&self) -> LayerError {
        if self.length > MAX_TAR {
            LayerError::TooLong
        } else {
            LayerError::Corrupt
        }
    }
}

impl Default for TarDigest {
    fn default() -> Self {
        Self {
            hasher: Hasher::new(Algorithm::Sha256),
            length: 0,
            has_entries: false,
        }
    }
}

impl Write for TarDigest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.length > MAX_TAR {
            return Err(io::Error::other("too long"));
        }
        self.hasher.update(bytes);
        self.has_entries = self.has_entries || bytes.iter().any(|&byte| byte != 0);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to the digest and to the compressor.
struct TeeWriter<'a, W> {
    tar: &'a mut TarDigest,
    packed: &'a mut W,
}

impl<W: Write> Write for TeeWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tar.write_all(bytes)?;
        self.packed.write_all(bytes)?;
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
    fn layers_that_were_cut_off_are_not_whole() {
        let mut tar = vec![7; 512];
        tar.extend([0; 1024]);
        let gzip = testkit::gzip(&tar);
        let outcome = |bytes: &[u8]| match check_whole(bytes) {
            Ok(()) => "whole",
            Err(WholeLayerError::Damaged) => "damaged",
            Err(WholeLayerError::Unknown) => "unknown",
            Err(WholeLayerError::Read(_)) => "unreadable",
        };
        for (bytes, expected) in [
            (&gzip[..], "whole"),
            (&gzip[..gzip.len() - 1], "damaged"),
            (&gzip[..12], "damaged"),
            (&tar[..], "whole"),
            (&tar[..1024], "unknown"),
            (&tar[1..], "unknown"),
            (&[0; 1024], "whole"),
            (b"BZh91AY", "unknown"),
            (b"", "unknown"),
        ] {
            assert_eq!(outcome(bytes), expected, "{} bytes", bytes.len());
        }
    }
}
