//! How long each registry's unused content is retained.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::Settings;
use crate::layout::component;
use crate::space::unix;

/// The configured TTLs, and the one of each registry.
#[derive(Debug)]
pub(crate) struct RetentionPolicy {
    /// In ascending order; `None` is for ever.
    ttls: Vec<Option<Duration>>,
    /// Indexes into `ttls`, by the folder of a registry.
    registries: HashMap<String, u8>,
    /// The index for registries that are not configured.
    others: u8,
    /// Added to every TTL, since last uses are written with this delay.
    grace: u64,
}

/// The policy in use, and the next one. A sweep marks content with indexes of its policy, so the policy changes only
/// between sweeps.
#[derive(Debug)]
pub(crate) struct RetentionSettings {
    current: Mutex<Arc<RetentionPolicy>>,
    next: Mutex<Option<RetentionPolicy>>,
    /// The delay with which last uses are written, in seconds.
    grace: u64,
}

impl RetentionSettings {
    pub fn new(settings: &Settings) -> Self {
        let grace = settings.persist_after().into();
        Self {
            current: Mutex::new(Arc::new(RetentionPolicy::new(settings, grace))),
            next: Mutex::default(),
            grace,
        }
    }

    /// Has the next sweep use other settings.
    pub fn replace(&self, settings: &Settings) {
        *lock(&self.next) = Some(RetentionPolicy::new(settings, self.grace));
    }

    /// Before a sweep: uses the next policy, if there is one.
    pub fn advance(&self) -> bool {
        let next = lock(&self.next).take();
        let has_next = next.is_some();
        if let Some(next) = next {
            *lock(&self.current) = Arc::new(next);
        }
        has_next
    }

    pub fn current(&self) -> Arc<RetentionPolicy> {
        lock(&self.current).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RetentionPolicy {
    fn new(settings: &Settings, grace: u64) -> Self {
        let own = settings.unused_ttls.iter().map(|(_, ttl)| *ttl);
        let mut ttls: Vec<_> = own.chain([settings.unused_ttl]).collect();
        ttls.sort_by_key(|time| time.unwrap_or(Duration::MAX));
        ttls.dedup();
        let index = |ttl: &Option<Duration>| {
            let at = ttls.iter().position(|time| time == ttl);
            at.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
        };
        let registries = settings.unused_ttls.iter();
        Self {
            registries: registries
                .map(|(registry, ttl)| (component(registry.as_str()), index(ttl)))
                .collect(),
            others: index(&settings.unused_ttl),
            grace,
            ttls,
        }
    }

    /// The shortest TTL; `None` if everything is retained for ever.
    pub fn shortest(&self) -> Option<Duration> {
        self.ttls.first().copied().flatten()
    }

    /// The index of a registry's TTL, by the folder of the registry.
    pub fn index(&self, registry: &str) -> u8 {
        let known = self.registries.get(registry);
        known.copied().unwrap_or(self.others)
    }

    /// By index: content last used before that is deleted, in seconds since 1970. An index beyond these, for more
    /// ttls than a byte can tell apart, has no cutoff.
    pub fn cutoffs(&self, now: SystemTime) -> Vec<u64> {
        let cutoff = |time: &Option<Duration>| {
            let time = time.map_or(u64::MAX, |time| time.as_secs().saturating_add(self.grace));
            unix(now).saturating_sub(time)
        };
        self.ttls.iter().map(cutoff).collect()
    }
}
