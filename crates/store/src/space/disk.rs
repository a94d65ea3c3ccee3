//! The free space of the file system.

use std::path::Path;

use crate::settings::MinFree;

/// The free space, and how much of it to leave, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreeSpace {
    pub free: u64,
    pub min_free: u64,
}

impl FreeSpace {
    /// Reads the free space of the file system of `root`; `None` when that fails.
    pub fn of(root: &Path, min_free: MinFree) -> Option<Self> {
        let stat = rustix::fs::statvfs(root).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a disk's size; the exact byte does not matter"
        )]
        let min_free = match min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        };
        Some(Self { free, min_free })
    }

    /// How many bytes are missing to leave `min_free` after writing `more`.
    pub fn missing(self, more: u64) -> u64 {
        self.min_free.saturating_add(more).saturating_sub(self.free)
    }
}
