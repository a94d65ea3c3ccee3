//! What a layer is compressed with, what is in it, and the layer that an old client can read. It blocks, and
//! holds no more than a piece of a layer in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::archive::{Archive, broken};
use super::hidden::{PathKind, path_kind, whiteout};

/// The most that a layer may unpack to, in bytes.
const MAX_UNPACKED: u64 = 16 << 30;
/// The largest window of zstd, as a power of two: what its own program takes unasked, 128 MiB.
const MAX_WINDOW: u32 = 27;

/// The most that is remembered of marks, in bytes.
const MAX_MARKS: usize = 16 << 20;

/// How a layer is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What was found in a layer.
#[derive(Debug, PartialEq, Eq)]
pub struct LayerScan {
    pub compression: Compression,
    /// The folders that hide what lies below them.
    pub opaque: BTreeSet<Vec<u8>>,
}

type Unpacked<'r> = Limited<Box<dyn Read + 'r>>;

/// Unpacks a layer.
fn unpack<'r>(source: impl Read + 'r) -> io::Result<(Compression, Unpacked<'r>)> {
    let mut source = BufReader::with_capacity(64 << 10, source);
    let start = source.fill_buf()?;
    let compression = match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame that is to be skipped may come first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            return Err(broken("it is packed in a way that images of v2 are not"));
        }
        _ => Compression::None,
    };
    let unpacked: Box<dyn Read + 'r> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(MAX_WINDOW)?;
            Box::new(decoder)
        }
        Compression::None => Box::new(source),
    };
    let limited = Limited {
        source: unpacked,
        left: MAX_UNPACKED,
    };
    Ok((compression, limited))
}

/// Looks through a layer. One that is no gzip is packed anew into `target` on the way: what a client gets is
/// gzip always, so that an answer can begin before it is known what follows.
///
/// # Errors
/// When it cannot be unpacked, is no archive or too large, or the target refuses it.
pub fn scan(source: impl Read, target: impl Write) -> io::Result<LayerScan> {
    let (compression, unpacked) = unpack(source)?;
    let opaque = match compression {
        Compression::Gzip => opaque(&mut Archive::new(unpacked))?,
        Compression::None | Compression::Zstd => {
            let mut encoder = encoder(BufWriter::with_capacity(64 << 10, target));
            let tee = TeeReader {
                source: unpacked,
                target: &mut encoder,
            };
            let opaque = opaque(&mut Archive::new(tee))?;
            encoder.finish()?.flush()?;
            opaque
        }
    };
    Ok(LayerScan {
        compression,
        opaque,
    })
}

fn opaque<R: Read>(archive: &mut Archive<R>) -> io::Result<BTreeSet<Vec<u8>>> {
    let (mut opaque, mut size) = (BTreeSet::new(), 0);
    while let Some(entry) = archive.next()? {
        if let PathKind::Opaque(folder) = path_kind(&entry.path) {
            size += folder.len() + 64;
            opaque.insert(folder.to_vec());
            if size > MAX_MARKS {
                return Err(broken("too many folders are opaque"));
            }
        }
    }
    Ok(opaque)
}

/// Reads a layer as an archive.
///
/// # Errors
/// What `read` says, and when it cannot be unpacked.
pub fn read<T>(
    source: impl Read,
    read: impl FnOnce(&mut Archive<Unpacked<'_>>) -> io::Result<T>,
) -> io::Result<T> {
    let (_, unpacked) = unpack(source)?;
    read(&mut Archive::new(unpacked))
}

/// Writes a layer with the names of what its opaque folders hide in place of their marks.
///
/// # Errors
/// When it cannot be unpacked, or the target refuses it.
pub fn rewrite(
    source: impl Read,
    mut hidden: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    target: impl Write,
) -> io::Result<()> {
    let mut out = encoder(BufWriter::with_capacity(64 << 10, target));
    read(source, |archive| {
        while let Some(entry) = archive.next()? {
            if let PathKind::Opaque(folder) = path_kind(&entry.path) {
                // A mark that is there twice says nothing new.
                for path in hidden.remove(folder).unwrap_or_default() {
                    out.write_all(&gone(&path)?)?;
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

/// The entry that says that a path is gone.
fn gone(path: &[u8]) -> io::Result<Vec<u8>> {
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

/// Without a time and a name, so that the same bytes come out each time.
fn encoder<W: Write>(target: W) -> GzEncoder<W> {
    GzEncoder::new(target, flate2::Compression::new(5))
}

/// A reader that gives no more than so many bytes.
pub struct Limited<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| broken("it unpacks to more than 16 GiB"))?;
        Ok(read)
    }
}

/// A reader that writes what was read.
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
    use super::*;

    fn archive(paths: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for path in paths {
            let mut header = tar::Header::new_gnu();
            header.set_size(path.len() as u64);
            builder
                .append_data(&mut header, path, path.as_bytes())
                .expect("an entry");
        }
        builder.into_inner().expect("an archive")
    }

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
    fn what_is_found() {
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
    fn marks_become_names() {
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
    fn what_is_broken_is_an_error() {
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
        let mut limited = Limited {
            source: io::repeat(0),
            left: 1000,
        };
        assert!(io::copy(&mut limited, &mut io::sink()).is_err());
    }
}
