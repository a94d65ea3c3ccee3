//! The negative cache: 404s of upstreams, remembered for a short while.

use std::time::{Duration, Instant};

use super::error::ResourceKind;
use oci::manifest::AcceptClass;
use oci::name::RepositoryName;
use oci::v2::Resource;
use runtime::generation::{Generations, Question};

/// The most 404s remembered.
const ENTRIES: u64 = 65_536;

/// The content that was asked for. Only manifests differ by class; the rest is asked as [`AcceptClass::Full`].
pub type NegativeKey = (RepositoryName, Resource, AcceptClass);

/// The remembered 404s. Clones share them.
#[derive(Clone, Debug)]
pub struct NegativeCache {
    entries: moka::sync::Cache<NegativeKey, NegativeEntry>,
    generations: Generations<NegativeKey>,
}

/// A 404: until when it counts, and what the upstream did not have.
#[derive(Clone, Copy, Debug)]
struct NegativeEntry {
    until: Instant,
    kind: ResourceKind,
}

impl NegativeCache {
    pub fn new() -> Self {
        Self {
            entries: moka::sync::Cache::new(ENTRIES),
            generations: Generations::default(),
        }
    }

    /// Begins a question; call it before the upstream is asked.
    pub fn ask(&self, key: NegativeKey) -> Question<NegativeKey> {
        self.generations.ask(key)
    }

    /// Remembers the upstream's 404, unless the content was written after the question.
    pub fn remember(&self, question: &Question<NegativeKey>, ttl: Duration) {
        let kind = match question.key().1 {
            Resource::Manifest(_) => ResourceKind::Manifest,
            Resource::Blob(_) => ResourceKind::Blob,
            _ => ResourceKind::Repository,
        };
        self.remember_as(question, kind, ttl);
    }

    /// [`NegativeCache::remember`] of a 404 that concerns another kind than the resource itself.
    pub fn remember_as(&self, question: &Question<NegativeKey>, kind: ResourceKind, ttl: Duration) {
        if !ttl.is_zero() {
            let until = Instant::now() + ttl;
            let entries = NegativeEntry { until, kind };
            question.answer(|| self.entries.insert(question.key().clone(), entries));
        }
    }

    /// Ends a 404: the content was written.
    pub fn remove(&self, key: &NegativeKey) {
        self.generations.write(key, || self.entries.invalidate(key));
    }

    /// Ends the 404s of all keys that `concerned` is true of.
    pub fn remove_where(&self, concerned: impl Fn(&NegativeKey) -> bool) {
        self.generations.write_where(&concerned, || ());
        for (key, _) in &self.entries {
            if concerned(&key) {
                self.entries.invalidate(&*key);
            }
        }
    }

    /// Whether a 404 is remembered.
    pub fn contains(&self, key: &NegativeKey) -> bool {
        self.get(key).is_some()
    }

    /// The kind of content that a remembered 404 is about.
    pub fn get(&self, key: &NegativeKey) -> Option<ResourceKind> {
        let entries = self.entries.get(key)?;
        if Instant::now() < entries.until {
            return Some(entries.kind);
        }
        self.entries.invalidate(key);
        None
    }
}
