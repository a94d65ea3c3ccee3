//! How many connections registries give a fill, as far as they refused one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use oci::name::Registry;

/// How long a registry is not asked for more connections than it gave a fill.
const LIMITED_FOR: Duration = Duration::from_secs(3600);

/// The limits of all registries.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimits(Mutex<HashMap<Registry, (u32, Instant)>>);

impl ConnectionLimits {
    /// Remembers that a registry gives a fill no more connections than these.
    pub fn limit(&self, registry: &Registry, connections: u32, now: Instant) {
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limits.insert(registry.clone(), (connections, now + LIMITED_FOR));
    }

    /// The most connections that a registry gives a fill, if it refused one within the last hour.
    pub fn of(&self, registry: &Registry, now: Instant) -> Option<u32> {
        let limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = limits.get(registry).filter(|(_, until)| now < *until);
        known.map(|(connections, _)| *connections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_remembered_for_an_hour() {
        let (limits, start) = (ConnectionLimits::default(), Instant::now());
        let [one, other] = ["one", "other"].map(Registry::new);
        limits.limit(&one, 2, start);
        let after = |seconds| start + Duration::from_secs(seconds);
        for (registry, now, limit) in [
            (&one, after(3599), Some(2)),
            (&one, after(3600), None),
            (&other, after(1), None),
        ] {
            assert_eq!(limits.of(registry, now), limit, "{registry}");
        }
    }
}
