//! Tar archives, entry by entry, with every byte of what announces them: what is not changed is passed on as
//! it came, with all its extensions.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// The longest extensions before one entry, in bytes.
const MAX_EXTENSIONS: u64 = 1 << 20;
/// The longest path, in bytes: Linux takes no longer ones.
const MAX_PATH: usize = 4096;

/// An archive that is read once, from its beginning.
pub struct Archive<R> {
    source: R,
    /// What is left of the current entry's data, and the padding behind it.
    data: u64,
    padding: u64,
}

/// One entry.
#[derive(Debug)]
pub struct Entry {
    /// Its headers as they are, those of its extensions before it included.
    pub raw: Vec<u8>,
    /// Without `./` before it and without slashes at its ends; empty for the root, and for what is no file.
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

    /// The next entry. Data of the one before that was not copied is passed over.
    ///
    /// # Errors
    /// When this is no archive, or it cannot be read.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        self.copy_data(&mut io::sink())?;
        let mut raw = Vec::new();
        let (mut path, mut size) = (None, None);
        loop {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return if raw.is_empty() {
                    Ok(None)
                } else {
                    Err(broken("it ends too early"))
                };
            }
            if block.iter().all(|&byte| byte == 0) {
                // The rest is padding, but its checksum counts.
                io::copy(&mut self.source, &mut io::sink())?;
                return if raw.is_empty() {
                    Ok(None)
                } else {
                    Err(broken("it ends too early"))
                };
            }
            let header = tar::Header::from_byte_slice(&block);
            check(header, &block)?;
            raw.extend_from_slice(&block);
            let kind = header.entry_type();
            let announced = header
                .entry_size()
                .map_err(|_| broken("a size cannot be read"))?;
            if kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink() {
                let extension = self.extension(announced, &mut raw)?;
                if kind.is_gnu_longname() {
                    let name = extension.split(|&byte| byte == 0).next();
                    path = Some(name.unwrap_or_default().to_vec());
                } else if kind.is_pax_local_extensions() {
                    for field in tar::PaxExtensions::new(&extension) {
                        let field = field?;
                        match field.key_bytes() {
                            b"path" => path = Some(field.value_bytes().to_vec()),
                            b"size" => size = field.value().ok().and_then(|size| size.parse().ok()),
                            _ => {}
                        }
                    }
                }
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
            if kind.is_gnu_sparse() {
                let mut extended = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
                while extended {
                    let mut more = [0; BLOCK];
                    if !self.block(&mut more)? || raw.len() as u64 > MAX_EXTENSIONS {
                        return Err(broken("a sparse file cannot be read"));
                    }
                    extended = more[504] == 1;
                    raw.extend_from_slice(&more);
                }
            }
            // As Go has it: only files have data, whatever the header says.
            let bare = kind.is_hard_link()
                || kind.is_symlink()
                || kind.is_character_special()
                || kind.is_block_special()
                || kind.is_dir()
                || kind.is_fifo();
            self.expect(if bare { 0 } else { size.unwrap_or(announced) })?;
            let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
            if path.len() > MAX_PATH {
                return Err(broken("a path is too long"));
            }
            return Ok(Some(Entry {
                raw,
                is_directory: kind.is_dir() || path.ends_with(b"/"),
                path: plain(&path).to_vec(),
            }));
        }
    }

    /// Copies the current entry's data with its padding.
    ///
    /// # Errors
    /// When it ends too early, or cannot be read or written.
    pub fn copy_data(&mut self, target: &mut impl Write) -> io::Result<()> {
        let all = self.data + self.padding;
        (self.data, self.padding) = (0, 0);
        let copied = io::copy(&mut (&mut self.source).take(all), target)?;
        if copied < all {
            return Err(broken("it ends too early"));
        }
        Ok(())
    }

    /// Data of so many bytes comes next. A header may announce any number.
    fn expect(&mut self, size: u64) -> io::Result<()> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        self.padding = padded.ok_or_else(|| broken("a size cannot be read"))? - size;
        self.data = size;
        Ok(())
    }

    fn extension(&mut self, size: u64, raw: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        if size.saturating_add(raw.len() as u64) > MAX_EXTENSIONS {
            return Err(broken("the extensions of an entry are too long"));
        }
        self.expect(size)?;
        let from = raw.len();
        self.copy_data(raw)?;
        let until = from + usize::try_from(size).unwrap_or(0);
        Ok(raw[from..until].to_vec())
    }

    /// A whole block; `false` at the end.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut read = 0;
        while read < BLOCK {
            match self.source.read(&mut block[read..]) {
                Ok(0) if read == 0 => return Ok(false),
                Ok(0) => return Err(broken("it ends too early")),
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Whether a header's checksum is right: of bytes, with its own field taken for spaces. Some old programs
/// added signed ones, which differ for names beyond ASCII only.
fn check(header: &tar::Header, block: &[u8; BLOCK]) -> io::Result<()> {
    let said = header.cksum().map_err(|_| broken("this is no archive"))?;
    let byte = |(at, &byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(byte);
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i32 = bytes().map(|byte| i32::from(byte.cast_signed())).sum();
    if said == unsigned || i64::from(said) == i64::from(signed) {
        Ok(())
    } else {
        Err(broken("this is no archive"))
    }
}

fn plain(path: &[u8]) -> &[u8] {
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

pub fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(paths: &[&str]) -> Vec<u8> {
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
    fn entries_are_passed_on_as_they_are() {
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
                    String::from_utf8_lossy(plain(path.as_bytes())).into(),
                    path.ends_with('/'),
                )
            })
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
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

    /// Sums of such numbers come out small where they wrap, and then there is no limit.
    #[test]
    fn sizes_that_no_archive_has_are_errors() {
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
