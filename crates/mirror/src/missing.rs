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
pub type MissingKey = (Registry, Repository, Resource, AcceptClass);

/// The remembered 404s.
#[derive(Debug)]
pub struct Missing {
    missed: moka::sync::Cache<MissingKey, Missed>,
    generations: Generations<MissingKey>,
}

/// Until when, and what it was that the upstream did not have.
#[derive(Clone, Copy, Debug)]
struct Missed {
    until: Instant,
    asked: ResourceKind,
}

impl Missing {
    pub fn new() -> Self {
        Self {
            missed: moka::sync::Cache::new(ENTRIES),
            generations: Generations::default(),
        }
    }

    /// Begins a question about whether it is there; ask it before the upstream is asked.
    pub fn ask(&self, key: MissingKey) -> Question<MissingKey> {
        self.generations.ask(key)
    }

    /// The upstream answered that it is not there. An answer to a question from before it was put there is not kept.
    pub fn remember(&self, question: &Question<MissingKey>, ttl: Duration) {
        let asked = match question.key().2 {
            Resource::Manifest(_) => ResourceKind::Manifest,
            Resource::Blob(_) => ResourceKind::Blob,
            _ => ResourceKind::Repository,
        };
        self.remember_as(question, asked, ttl);
    }

    /// [`Missing::remember`] of something else than the resource itself.
    pub fn remember_as(&self, question: &Question<MissingKey>, asked: ResourceKind, ttl: Duration) {
        if !ttl.is_zero() {
            let until = Instant::now() + ttl;
            let missed = Missed { until, asked };
            question.answer(|| self.missed.insert(question.key().clone(), missed));
        }
    }

    /// It is there now.
    pub fn forget(&self, key: &MissingKey) {
        self.generations.write(key, || self.missed.invalidate(key));
    }

    /// It may be there now, as far as `gone` says.
    pub fn forget_where(&self, gone: impl Fn(&MissingKey) -> bool) {
        self.generations.write_where(&gone, || ());
        for (key, _) in &self.missed {
            if gone(&key) {
                self.missed.invalidate(&*key);
            }
        }
    }

    /// Whether the upstream said so a short while ago.
    pub fn knows(&self, key: &MissingKey) -> bool {
        self.asked(key).is_some()
    }

    /// What the upstream said a short while ago that it does not have.
    pub fn asked(&self, key: &MissingKey) -> Option<ResourceKind> {
        let missed = self.missed.get(key)?;
        if Instant::now() < missed.until {
            return Some(missed.asked);
        }
        self.missed.invalidate(key);
        None
    }
}
