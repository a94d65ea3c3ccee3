//! What an upstream said it does not have, for a short while.

use std::time::{Duration, Instant};

use super::error::ResourceKind;
use oci::manifest::AcceptClass;
use oci::name::{Registry, Repository};
use oci::v2::Resource;
use runtime::generation::{Generations, Question};

/// How many 404s are remembered.
const ENTRIES: u64 = 65_536;

/// What was asked for. Only manifests differ by class; the rest is asked as [`AcceptClass::Full`].
pub type NegativeKey = (Registry, Repository, Resource, AcceptClass);

/// The remembered 404s.
#[derive(Debug)]
pub struct NegativeCache {
    entries: moka::sync::Cache<NegativeKey, NegativeEntry>,
    generations: Generations<NegativeKey>,
}

/// Until when, and what it was that the upstream did not have.
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

    /// Begins a question about whether it is there; ask it before the upstream is asked.
    pub fn ask(&self, key: NegativeKey) -> Question<NegativeKey> {
        self.generations.ask(key)
    }

    /// The upstream answered that it is not there. An answer to a question from before it was put there is not kept.
    pub fn remember(&self, question: &Question<NegativeKey>, ttl: Duration) {
        let kind = match question.key().2 {
            Resource::Manifest(_) => ResourceKind::Manifest,
            Resource::Blob(_) => ResourceKind::Blob,
            _ => ResourceKind::Repository,
        };
        self.remember_as(question, kind, ttl);
    }

    /// [`NegativeCache::remember`] of something else than the resource itself.
    pub fn remember_as(&self, question: &Question<NegativeKey>, kind: ResourceKind, ttl: Duration) {
        if !ttl.is_zero() {
            let until = Instant::now() + ttl;
            let entries = NegativeEntry { until, kind };
            question.answer(|| self.entries.insert(question.key().clone(), entries));
        }
    }

    /// It is there now.
    pub fn remove(&self, key: &NegativeKey) {
        self.generations.write(key, || self.entries.invalidate(key));
    }

    /// It may be there now, as far as `gone` says.
    pub fn remove_where(&self, gone: impl Fn(&NegativeKey) -> bool) {
        self.generations.write_where(&gone, || ());
        for (key, _) in &self.entries {
            if gone(&key) {
                self.entries.invalidate(&*key);
            }
        }
    }

    /// Whether the upstream said so a short while ago.
    pub fn contains(&self, key: &NegativeKey) -> bool {
        self.get(key).is_some()
    }

    /// What the upstream said a short while ago that it does not have.
    pub fn get(&self, key: &NegativeKey) -> Option<ResourceKind> {
        let entries = self.entries.get(key)?;
        if Instant::now() < entries.until {
            return Some(entries.kind);
        }
        self.entries.invalidate(key);
        None
    }
}
