//! Where the store is and how much it may hold.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::name::Registry;

/// How much of the file system is left to others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MinFree {
    Bytes(u64),
    /// Of the file system's size.
    Percent(f64),
}

/// The settings of a store.
#[derive(Clone, Debug)]
pub struct Settings {
    pub path: PathBuf,
    /// The hard cap in bytes.
    pub max_size: u64,
    /// What is left to others on the same file system.
    pub min_free: MinFree,
    /// Content unused for this long is deleted; `None`: it stays.
    pub unused_ttl: Option<Duration>,
    /// Registries with a time of their own. A blob is retained by the longest of those that refer to it.
    pub unused_ttls: Vec<(Registry, Option<Duration>)>,
    /// Everything on disk is hashed again within this; `None`: never.
    pub scrub_every: Option<Duration>,
}

impl Settings {
    /// A store in `path` without any limit.
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

    /// The shortest time that anything is retained unused.
    fn shortest_ttl(&self) -> Option<Duration> {
        let own = self.unused_ttls.iter().filter_map(|(_, ttl)| *ttl);
        own.chain(self.unused_ttl).min()
    }

    /// How long a last use may stay unwritten, in seconds: an hour, or less if content is retained for less.
    pub(crate) fn persist_after(&self) -> u32 {
        let quarter = self
            .shortest_ttl()
            .map_or(u64::MAX, |ttl| ttl.as_secs() / 4);
        u32::try_from(quarter).map_or(3600, |quarter| quarter.clamp(1, 3600))
    }
}
