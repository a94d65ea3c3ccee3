//! The location and the limits of a store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::name::Registry;

/// The free space to leave on the file system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MinFree {
    /// A number of bytes.
    Bytes(u64),
    /// A percentage of the file system's size.
    Percent(f64),
}

/// The settings of a store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder, created if it does not exist.
    pub path: PathBuf,
    /// The hard cap in bytes.
    pub max_size: u64,
    /// The free space to leave on the file system.
    pub min_free: MinFree,
    /// Delete content unused for this long; `None`: never.
    pub unused_ttl: Option<Duration>,
    /// The `unused_ttl` of individual registries. The longest of those that refer to a blob applies to it.
    pub unused_ttls: Vec<(Registry, Option<Duration>)>,
    /// The interval in which every blob is hashed again; `None`: never.
    pub scrub_every: Option<Duration>,
}

impl Settings {
    /// A store in `path` without limits.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            max_size: u64::MAX,
            min_free: MinFree::Bytes(0),
            unused_ttl: None,
            unused_ttls: Vec::new(),
            scrub_every: None,
        }
    }

    /// The shortest `unused_ttl` of all registries.
    fn shortest_ttl(&self) -> Option<Duration> {
        let own = self.unused_ttls.iter().filter_map(|(_, ttl)| *ttl);
        own.chain(self.unused_ttl).min()
    }

    /// How long a last use may stay unwritten, in seconds: an hour, or a quarter of a shorter `unused_ttl`.
    pub(crate) fn persist_after(&self) -> u32 {
        let quarter = self
            .shortest_ttl()
            .map_or(u64::MAX, |ttl| ttl.as_secs() / 4);
        u32::try_from(quarter).map_or(3600, |quarter| quarter.clamp(1, 3600))
    }
}
