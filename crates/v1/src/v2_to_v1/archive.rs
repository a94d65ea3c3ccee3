//! Tar archives, entry by entry, with the raw bytes of headers: an unchanged entry is copied as it is, with all
//! its extensions.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// The longest extensions before one entry, in bytes.
const MAX_EXTENSIONS: u64 = 1 << 20;
/// The longest path, in bytes: Linux accepts none longer.
const MAX_PATH: usize = 4096;

/// An archive, read once from its beginning.
pub struct Archive<R> {
    source: R,
    /// The remaining data of the current entry, in bytes, and the padding after it.
    data: u64,
    padding: u64,
}

/// One entry of an archive.
#[derive(Debug)]
pub struct Entry {
    /// Its raw headers, with the extensions before them.
    pub raw: Vec<u8>,
    /// Without a leading `./` and without slashes at its ends; empty for the root, and for global extensions.
    pub path: Vec<u8>,
    pub is_directory: bool,
}

impl<R: Read> Archive<R> {
    pub fn new(source: R) -> Self {
        Self {
            source,
            data: 0,
            padding: 0,
        }
    }

    /// The next entry. Skips uncopied data of the previous one.
    ///
    /// # Errors
    /// [`io::Error`] if the data is no archive, or cannot be read.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        self.copy_data(&mut io::sink())?;
        let mut raw = Vec::new();
        let mut extended = Extended::default();
        while let Some(block) = self.header(&raw)? {
            let header = tar::Header::from_byte_slice(&block);
            raw.extend_from_slice(&block);
            let kind = header.entry_type();
            let announced = header
                .entry_size()
                .map_err(|_| invalid("an entry has an invalid size"))?;
            if kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink() {
                let extension = self.extension(announced, &mut raw)?;
                extended.read(kind, &extension)?;
                continue;
            }
            if kind.is_pax_global_extensions() {
                self.expect(announced)?;
                return Ok(Some(Entry {
                    raw,
                    path: Vec::new(),
                    is_directory: false,
                }));
            }
            if header.as_gnu().is_some_and(tar::GnuHeader::is_extended) && kind.is_gnu_sparse() {
                self.sparse_map(&mut raw)?;
            }
            let size = extended.size.unwrap_or(announced);
            self.expect(if has_data(kind) { size } else { 0 })?;
            let path = extended.path;
            let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
            if path.len() > MAX_PATH {
                return Err(invalid("a path is longer than 4096 bytes"));
            }
            return Ok(Some(Entry {
                raw,
                is_directory: kind.is_dir() || path.ends_with(b"/"),
                path: normalized(&path).to_vec(),
            }));
        }
        Ok(None)
    }

    /// The next header; `None` at the archive's end, which may not come after the extensions of an entry (`raw`).
    fn header(&mut self, raw: &[u8]) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        if self.block(&mut block)? {
            if block.iter().any(|&byte| byte != 0) {
                check(tar::Header::from_byte_slice(&block), &block)?;
                return Ok(Some(block));
            }
            // The rest is padding, but reading it verifies the compression's checksum.
            io::copy(&mut self.source, &mut io::sink())?;
        }
        if raw.is_empty() {
            Ok(None)
        } else {
            Err(invalid("the archive is truncated"))
        }
    }

    /// Reads the blocks that continue the map of a GNU sparse file; the last byte of each map says whether another follows.
    fn sparse_map(&mut self, raw: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? || raw.len() as u64 > MAX_EXTENSIONS {
                return Err(invalid("a sparse entry is invalid"));
            }
            raw.extend_from_slice(&block);
            if block[504] != 1 {
                return Ok(());
            }
        }
    }

    /// Copies the current entry's data and padding.
    ///
    /// # Errors
    /// [`io::Error`] if the archive is truncated, or cannot be read or written.
    pub fn copy_data(&mut self, target: &mut impl Write) -> io::Result<()> {
        let all = self.data + self.padding;
        (self.data, self.padding) = (0, 0);
        let copied = io::copy(&mut (&mut self.source).take(all), target)?;
        if copied < all {
            return Err(invalid("the archive is truncated"));
        }
        Ok(())
    }

    /// Expects `size` bytes of data next. A header may announce any number.
    fn expect(&mut self, size: u64) -> io::Result<()> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        self.padding = padded.ok_or_else(|| invalid("an entry has an invalid size"))? - size;
        self.data = size;
        Ok(())
    }

    fn extension(&mut self, size: u64, raw: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        if size.saturating_add(raw.len() as u64) > MAX_EXTENSIONS {
            return Err(invalid("the extensions of an entry are too long"));
        }
        self.expect(size)?;
        let from = raw.len();
        self.copy_data(raw)?;
        let until = from + usize::try_from(size).unwrap_or(0);
        Ok(raw[from..until].to_vec())
    }

    /// Reads a whole block; `false` at the end.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut read = 0;
        while read < BLOCK {
            match self.source.read(&mut block[read..]) {
                Ok(0) if read == 0 => return Ok(false),
                Ok(0) => return Err(invalid("the archive is truncated")),
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The path and size of an entry where its extensions replace those of its header.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    /// Reads an extension: a GNU long name, or the fields of a pax header. A later one replaces an earlier one.
    fn read(&mut self, kind: tar::EntryType, extension: &[u8]) -> io::Result<()> {
        if kind.is_gnu_longname() {
            let name = extension.split(|&byte| byte == 0).next();
            self.path = Some(name.unwrap_or_default().to_vec());
        } else if kind.is_pax_local_extensions() {
            for field in tar::PaxExtensions::new(extension) {
                let field = field?;
                match field.key_bytes() {
                    b"path" => self.path = Some(field.value_bytes().to_vec()),
                    b"size" => self.size = field.value().ok().and_then(|size| size.parse().ok()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Whether data follows the header of such an entry. As in Go: only files have data, whatever the header says.
fn has_data(kind: tar::EntryType) -> bool {
    !(kind.is_hard_link()
        || kind.is_symlink()
        || kind.is_character_special()
        || kind.is_block_special()
        || kind.is_dir()
        || kind.is_fifo())
}

/// Verifies a header's checksum: the sum of its bytes, with its own field as spaces. Some old programs summed
/// signed bytes, which differs only for non-ASCII names.
fn check(header: &tar::Header, block: &[u8; BLOCK]) -> io::Result<()> {
    let expected = header
        .cksum()
        .map_err(|_| invalid("the data is no tar archive"))?;
    let byte = |(at, &byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(byte);
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i32 = bytes().map(|byte| i32::from(byte.cast_signed())).sum();
    if expected == unsigned || i64::from(expected) == i64::from(signed) {
        Ok(())
    } else {
        Err(invalid("the data is no tar archive"))
    }
}

/// A path without a leading `./` and without slashes at its ends.
fn normalized(path: &[u8]) -> &[u8] {
    let mut path = path;
    loop {
        let shorter = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/"));
        match shorter {
            Some(shorter) => path = shorter,
            None if path == b"." => return b"",
            None => break,
        }
    }
    while let Some(shorter) = path.strip_suffix(b"/") {
        path = shorter;
    }
    path
}

/// The error of an invalid archive.
pub fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An archive of files, and of directories where a path ends in `/`.
    pub fn archive(paths: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for path in paths {
            let mut header = tar::Header::new_gnu();
            let data = if path.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
                Vec::new()
            } else {
                path.repeat(20).into_bytes()
            };
            header.set_size(data.len() as u64);
            builder
                .append_data(&mut header, path, &*data)
                .expect("an entry");
        }
        builder.into_inner().expect("an archive")
    }

    #[test]
    fn entries_are_copied_unchanged() {
        let long = "d/".repeat(80) + "file";
        let paths = ["./a/", "a/b", "a/.wh.c", &long, "z"];
        let bytes = archive(&paths);
        let mut archive = Archive::new(&*bytes);
        let (mut copy, mut seen) = (Vec::new(), Vec::new());
        while let Some(entry) = archive.next().expect("an entry") {
            copy.extend(&entry.raw);
            archive.copy_data(&mut copy).expect("data");
            seen.push((
                String::from_utf8(entry.path).expect("text"),
                entry.is_directory,
            ));
        }
        copy.resize(copy.len() + 2 * BLOCK, 0);
        assert!(copy == bytes);
        let expected: Vec<(String, bool)> = paths
            .iter()
            .map(|path| {
                (
                    String::from_utf8_lossy(normalized(path.as_bytes())).into(),
                    path.ends_with('/'),
                )
            })
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn invalid_archives_are_errors() {
        let whole = archive(&["a", "b"]);
        let count = |bytes: &[u8]| -> io::Result<usize> {
            let (mut archive, mut count) = (Archive::new(bytes), 0);
            while archive.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        };
        assert_eq!(count(&whole).ok(), Some(2));
        assert_eq!(count(b"").ok(), Some(0));
        for length in [1, 511, 513, 600, 1025] {
            assert!(count(&whole[..length]).is_err(), "{length}");
        }
        assert!(count(&[7; 2048]).is_err());
    }

    /// Sums of such sizes wrap around to small numbers, which would pass the limits.
    #[test]
    fn overflowing_sizes_are_errors() {
        for kind in [
            tar::EntryType::Regular,
            tar::EntryType::XHeader,
            tar::EntryType::XGlobalHeader,
            tar::EntryType::GNULongName,
            tar::EntryType::GNULongLink,
        ] {
            for size in [u64::MAX, u64::MAX - 511, u64::MAX - 1023] {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(kind);
                header.set_size(size);
                header.set_cksum();
                let source = header.as_bytes().chain(io::repeat(0).take(8 << 20));
                let mut archive = Archive::new(source);
                let outcome = std::iter::repeat_with(|| archive.next())
                    .find(|entry| !matches!(entry, Ok(Some(_))));
                assert!(matches!(outcome, Some(Err(_))), "{kind:?} {size}");
            }
        }
    }
}
