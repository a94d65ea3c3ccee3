//! Decompresses and scans a layer, and rewrites it for old clients. It blocks, and holds no more than a piece
//! of the layer in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::archive::{Archive, invalid};
use super::hidden::{PathKind, path_kind, whiteout};

/// The longest decompressed layer, in bytes.
const MAX_UNPACKED: u64 = 16 << 30;
/// The largest zstd window, as a power of two: the default limit of the zstd program, 128 MiB.
const MAX_WINDOW_LOG: u32 = 27;

/// The most memory for opaque directories, in bytes.
const MAX_OPAQUE: usize = 16 << 20;

/// How a layer is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The result of a scan.
#[derive(Debug, PartialEq, Eq)]
pub struct LayerScan {
    pub compression: Compression,
    /// The directories that hide their content in lower layers.
    pub opaque: BTreeSet<Vec<u8>>,
}

type Decompressed<'r> = LimitedReader<Box<dyn Read + 'r>>;

/// Decompresses a layer.
fn decompress<'r>(source: impl Read + 'r) -> io::Result<(Compression, Decompressed<'r>)> {
    let mut source = BufReader::with_capacity(64 << 10, source);
    let start = source.fill_buf()?;
    let compression = match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A skippable frame may come first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            return Err(invalid(
                "it is compressed in a format that v2 images do not use",
            ));
        }
        _ => Compression::None,
    };
    let decompressed: Box<dyn Read + 'r> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::None => Box::new(source),
    };
    let limited = LimitedReader {
        source: decompressed,
        left: MAX_UNPACKED,
    };
    Ok((compression, limited))
}

/// Scans a layer. One that is not gzip is recompressed into `target` on the way: clients always get gzip, so
/// that a response can begin before the scan ends.
///
/// # Errors
/// [`io::Error`] if it cannot be decompressed, is no archive or too large, or the target fails.
pub fn scan(source: impl Read, target: impl Write) -> io::Result<LayerScan> {
    let (compression, decompressed) = decompress(source)?;
    let opaque = match compression {
        Compression::Gzip => opaque_directories(&mut Archive::new(decompressed))?,
        Compression::None | Compression::Zstd => {
            let mut encoder = encoder(BufWriter::with_capacity(64 << 10, target));
            let tee = TeeReader {
                source: decompressed,
                target: &mut encoder,
            };
            let opaque = opaque_directories(&mut Archive::new(tee))?;
            encoder.finish()?.flush()?;
            opaque
        }
    };
    Ok(LayerScan {
        compression,
        opaque,
    })
}

fn opaque_directories<R: Read>(archive: &mut Archive<R>) -> io::Result<BTreeSet<Vec<u8>>> {
    let (mut opaque, mut size) = (BTreeSet::new(), 0);
    while let Some(entry) = archive.next()? {
        if let PathKind::Opaque(folder) = path_kind(&entry.path) {
            size += folder.len() + 64;
            opaque.insert(folder.to_vec());
            if size > MAX_OPAQUE {
                return Err(invalid("too many directories are opaque"));
            }
        }
    }
    Ok(opaque)
}

/// Reads a layer as an archive.
///
/// # Errors
/// The error of `read`, or [`io::Error`] if it cannot be decompressed.
pub fn read<T>(
    source: impl Read,
    read: impl FnOnce(&mut Archive<Decompressed<'_>>) -> io::Result<T>,
) -> io::Result<T> {
    let (_, decompressed) = decompress(source)?;
    read(&mut Archive::new(decompressed))
}

/// Writes a layer with whiteouts for the paths that its opaque directories hide, instead of their markers.
///
/// # Errors
/// [`io::Error`] if it cannot be decompressed, or the target fails.
pub fn rewrite(
    source: impl Read,
    mut hidden: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    target: impl Write,
) -> io::Result<()> {
    let mut out = encoder(BufWriter::with_capacity(64 << 10, target));
    read(source, |archive| {
        while let Some(entry) = archive.next()? {
            if let PathKind::Opaque(folder) = path_kind(&entry.path) {
                // A repeated marker adds nothing.
                for path in hidden.remove(folder).unwrap_or_default() {
                    out.write_all(&whiteout_entry(&path)?)?;
                }
            } else {
                out.write_all(&entry.raw)?;
                archive.copy_data(&mut out)?;
            }
        }
        out.write_all(&[0; 1024])
    })?;
    out.finish()?.flush()
}

/// The tar entry of a whiteout.
fn whiteout_entry(path: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut builder = tar::Builder::new(Vec::new());
    let path = whiteout(path);
    builder.append_data(
        &mut header,
        Path::new(OsStr::from_bytes(&path)),
        io::empty(),
    )?;
    Ok(std::mem::take(builder.get_mut()))
}

/// A gzip encoder without time and name, so that its output is reproducible.
fn encoder<W: Write>(target: W) -> GzEncoder<W> {
    GzEncoder::new(target, flate2::Compression::new(5))
}

/// A reader that fails after a number of bytes.
pub struct LimitedReader<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| invalid("it decompresses to more than 16 GiB"))?;
        Ok(read)
    }
}

/// A reader that copies what it reads to a writer.
struct TeeReader<'t, R, W> {
    source: R,
    target: &'t mut W,
}

impl<R: Read, W: Write> Read for TeeReader<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.target.write_all(&buffer[..read])?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::archive;
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = encoder(Vec::new());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        read(bytes, |archive| {
            while let Some(entry) = archive.next()? {
                names.push(String::from_utf8_lossy(&entry.path).into_owned());
            }
            Ok(())
        })
        .expect("an archive");
        names
    }

    #[test]
    fn scans_find_compression_and_opaque_directories() {
        let plain = archive(&["a", "b/c"]);
        let marked = archive(&["a", "b/.wh..wh..opq", ".wh.x"]);
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).expect("memory");
        let two = [zstd(&plain[..700]), zstd(&plain[700..])].concat();
        for (layer, compression, opaque) in [
            (plain.clone(), Compression::None, None),
            (gzip(&plain), Compression::Gzip, None),
            (
                [gzip(&plain[..700]), gzip(&plain[700..])].concat(),
                Compression::Gzip,
                None,
            ),
            (gzip(&marked), Compression::Gzip, Some(&b"b"[..])),
            (zstd(&plain), Compression::Zstd, None),
            (two, Compression::Zstd, None),
            (zstd(&marked), Compression::Zstd, Some(b"b")),
        ] {
            let mut written = Vec::new();
            let found = scan(&*layer, &mut written).expect("a layer");
            let opaque: BTreeSet<Vec<u8>> = opaque.map(<[u8]>::to_vec).into_iter().collect();
            assert_eq!(
                found,
                LayerScan {
                    compression,
                    opaque
                }
            );
            assert_eq!(written.is_empty(), compression == Compression::Gzip);
            if compression != Compression::Gzip {
                assert_eq!(names(&written), names(&layer));
            }
        }
    }

    #[test]
    fn opaque_markers_become_whiteouts() {
        let layer = gzip(&archive(&[
            "a",
            "b/.wh..wh..opq",
            "b/c",
            "b/.wh..wh..opq",
            "z",
        ]));
        let long = [b"b/".to_vec(), vec![b'n'; 200]].concat();
        let hidden = BTreeMap::from([(b"b".to_vec(), vec![b"b/x".to_vec(), long.clone()])]);
        let mut written = Vec::new();
        rewrite(&*layer, hidden, &mut written).expect("rewritten");
        let long = String::from_utf8(whiteout(&long)).expect("text");
        assert_eq!(names(&written), ["a", "b/.wh.x", &long, "b/c", "z"]);
    }

    #[test]
    fn invalid_layers_are_errors() {
        let whole = gzip(&archive(&["a"]));
        let mut wrong = whole.clone();
        let crc = wrong.len() - 8;
        wrong[crc] ^= 1;
        for layer in [
            &whole[..whole.len() - 5],
            &wrong,
            &[7; 2048],
            &gzip(&[7; 2048]),
        ] {
            assert!(scan(layer, io::sink()).is_err());
        }
        let zstd = zstd::encode_all(&*archive(&["a"]), 1).expect("memory");
        assert!(
            scan(&*zstd, &mut [0_u8; 10][..]).is_err(),
            "there is no room"
        );
        let mut limited = LimitedReader {
            source: io::repeat(0),
            left: 1000,
        };
        assert!(io::copy(&mut limited, &mut io::sink()).is_err());
    }
}
