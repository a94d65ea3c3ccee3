//! Reading files without a thread hop where the page cache has the bytes, and hashing them.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::BytesMut;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::OpenFile;
use oci::digest::{Digest, Hasher};

/// Fills `buffer` (its whole length) from `offset` of `file`, as far as one read goes, and returns it
/// with the number of bytes read; 0 is the end of the file.
///
/// # Errors
/// The disk's. The buffer is lost then.
pub async fn read_at(
    file: &Arc<OpenFile>,
    mut buffer: BytesMut,
    offset: u64,
) -> io::Result<(BytesMut, usize)> {
    let descriptor: &File = file;
    match preadv2(
        descriptor,
        &mut [IoSliceMut::new(&mut buffer)],
        offset,
        ReadWriteFlags::NOWAIT,
    ) {
        Ok(read) => return Ok((buffer, read)),
        // The bytes are not in the page cache, or the file system does not support the flag.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let file = file.clone();
    tokio::task::spawn_blocking(move || {
        let read = file.read_at(&mut buffer, offset)?;
        Ok((buffer, read))
    })
    .await
    .map_err(io::Error::other)?
}

/// Whether the page cache has the first and the last of `bytes` bytes at `offset`, and so very likely all of them:
/// reading them does not block.
pub fn is_cached(file: &File, offset: u64, bytes: u64) -> bool {
    [offset, (offset + bytes).saturating_sub(1)]
        .iter()
        .all(|&at| {
            let mut byte = [0];
            let read = preadv2(
                file,
                &mut [IoSliceMut::new(&mut byte)],
                at,
                ReadWriteFlags::NOWAIT,
            );
            read == Ok(1)
        })
}

/// Hashes the first `length` bytes of a file. Blocks on the disk.
///
/// # Errors
/// When they cannot be read.
pub fn hash(file: &File, length: u64, hasher: Hasher) -> io::Result<Digest> {
    hash_part(file, 0, length, hasher)
}

/// Hashes the bytes of a file from `offset` up to `end`. Blocks on the disk.
///
/// # Errors
/// When they cannot be read.
pub fn hash_part(file: &File, offset: u64, end: u64, hasher: Hasher) -> io::Result<Digest> {
    Ok(continue_hash(file, offset, end, hasher)?.finish())
}

/// Hashes more bytes, those from `offset` up to `end` of a file. Blocks on the disk.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn continue_hash(
    file: &File,
    mut offset: u64,
    end: u64,
    mut hasher: Hasher,
) -> io::Result<Hasher> {
    let mut buffer = vec![0; 1 << 20];
    while offset < end {
        let most = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let piece = most.min(buffer.len());
        file.read_exact_at(&mut buffer[..piece], offset)?;
        hasher.update(&buffer[..piece]);
        offset += piece as u64;
    }
    Ok(hasher)
}

/// Hashes a file to its end, and returns its length in bytes. Blocks on the disk.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn hash_to_end(file: &File, mut hasher: Hasher) -> io::Result<(Hasher, u64)> {
    let (mut buffer, mut length) = (vec![0; 1 << 20], 0);
    loop {
        match file.read_at(&mut buffer, length)? {
            0 => return Ok((hasher, length)),
            read => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}

/// Whether two files begin with the same `length` bytes. Blocks on the disk.
///
/// # Errors
/// When they cannot be read.
pub fn same(one: &File, other: &File, length: u64) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut offset = 0;
    while offset < length {
        let most = usize::try_from(length - offset).unwrap_or(usize::MAX);
        let piece = most.min(ours.len());
        one.read_exact_at(&mut ours[..piece], offset)?;
        other.read_exact_at(&mut theirs[..piece], offset)?;
        if ours[..piece] != theirs[..piece] {
            return Ok(false);
        }
        offset += piece as u64;
    }
    Ok(true)
}

/// Reads a blob from its beginning to its end. Blocks on the disk.
#[derive(Debug)]
pub struct BlobReader {
    blob: super::Blob,
    at: u64,
}

impl BlobReader {
    /// Reads from the first byte on.
    pub const fn new(blob: super::Blob) -> Self {
        Self { blob, at: 0 }
    }
}

impl io::Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        if read == 0 && self.at < self.blob.size && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}
