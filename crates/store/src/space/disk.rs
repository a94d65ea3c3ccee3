//! The free space that the file system reports.

use std::path::Path;

use crate::settings::MinFree;

/// In bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreeSpace {
    pub free: u64,
    keep: u64,
}

impl FreeSpace {
    /// What the file system of `root` has, of which `min_free` is for others; `None` when it cannot say.
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
        let keep = match min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        };
        Some(Self { free, keep })
    }

    /// How many bytes it lacks to keep `min_free` after `more` was written.
    pub fn missing(self, more: u64) -> u64 {
        self.keep.saturating_add(more).saturating_sub(self.free)
    }
}
