//! The disk usage of a store's folder, as `du` reports it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Every file below a folder; files that disappear meanwhile are left out.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.flat_map(|entry| {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path)
        } else {
            vec![path]
        }
    });
    files.collect()
}

/// The disk usage of all files, in bytes: blocks of 4 KiB, or what the file system reports if that is more.
pub fn measured(folder: &Path) -> u64 {
    let sizes = files(folder).into_iter().filter_map(|file| {
        let meta = std::fs::metadata(file).ok()?;
        Some((meta.len().div_ceil(4096) * 4096).max(meta.blocks() * 512))
    });
    sizes.sum()
}
