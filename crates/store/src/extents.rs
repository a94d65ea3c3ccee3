//! The extents of a partial that an earlier process left, as the file system knows them.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::layout::BLOCK;

/// The bytes of a file outside of its holes, from and to, in order; the file is truncated after the last of them. Of each
/// extent the last block is left out: it may have been written in part, and the rest of it reads as zeros. On a file
/// system without holes the whole file is one extent, and the digest finds what is wrong with it.
///
/// # Errors
/// The disk's.
pub fn recover(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let length = file.metadata()?.len();
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data follows.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?.min(length);
        let end = at.saturating_sub(1) / BLOCK * BLOCK;
        if end > start {
            parts.push((start, end));
        }
    }
    // A block that is left out must not be taken for bytes once the file grows again.
    file.set_len(parts.last().map_or(0, |(_, end)| *end))?;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn holes_and_last_blocks_are_left_out() {
        let file = tempfile::tempfile().expect("a temporary file");
        let bytes = vec![1; 100_000];
        file.write_all_at(&bytes, 0).expect("room");
        file.write_all_at(&bytes, 1 << 20).expect("room");
        file.write_all_at(&bytes[..10], 4 << 20).expect("room");
        let parts = recover(&file).expect("readable");
        // 100,000 bytes end in the 25th block.
        let end = 24 * BLOCK;
        assert_eq!(parts, [(0, end), (1 << 20, (1 << 20) + end)]);
        assert_eq!(file.metadata().expect("a file").len(), (1 << 20) + end);
        let empty = tempfile::tempfile().expect("a temporary file");
        assert_eq!(recover(&empty).expect("readable"), []);
    }
}
