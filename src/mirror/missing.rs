//! What an upstream said it does not have, for a short while.

use std::time::{Duration, Instant};

use crate::spec::manifest::AcceptClass;
use crate::spec::name::{Registry, Repository, Tag};
use crate::spec::v2::Resource;

/// How many 404s are remembered.
const ENTRIES: u64 = 65_536;

/// How long the absence of what only few tags have is remembered: signatures and the like, which every
/// pull asks for.
const COMPANION: Duration = Duration::from_secs(300);

/// What was asked for. Only manifests differ by class; the rest is asked as [`AcceptClass::Full`].
pub type MissingKey = (Registry, Repository, Resource, AcceptClass);

/// The remembered 404s.
#[derive(Debug)]
pub struct Missing {
    until: moka::sync::Cache<MissingKey, Instant>,
}

impl Missing {
    pub fn new() -> Self {
        Self {
            until: moka::sync::Cache::new(ENTRIES),
        }
    }

    pub fn remember(&self, key: MissingKey, ttl: Duration) {
        if !ttl.is_zero() {
            self.until.insert(key, Instant::now() + ttl);
        }
    }

    /// It is there now.
    pub fn forget(&self, key: &MissingKey) {
        self.until.invalidate(key);
    }

    /// It may be there now, as far as `gone` says.
    pub fn forget_where(&self, gone: impl Fn(&MissingKey) -> bool) {
        for (key, _) in &self.until {
            if gone(&key) {
                self.until.invalidate(&*key);
            }
        }
    }

    /// Whether the upstream said so a short while ago.
    pub fn knows(&self, key: &MissingKey) -> bool {
        match self.until.get(key) {
            Some(until) if Instant::now() < until => true,
            Some(_) => {
                self.until.invalidate(key);
                false
            }
            None => false,
        }
    }
}

/// How long the absence of a tag is remembered where that of others is for `ttl`; zero stays zero.
pub fn life(tag: &Tag, ttl: Duration) -> Duration {
    if ttl.is_zero() || !tag.is_companion() {
        ttl
    } else {
        ttl.max(COMPANION)
    }
}
