//! Tags that have moved to a manifest which could not be fetched: remembered for a short while, so that not every request asks
//! again where the tag points.

use std::time::{Duration, Instant};

use super::freshness::StaleReason;
use oci::digest::Digest;
use store::TagKey;

/// The most that are remembered.
const ENTRIES: u64 = 65_536;
/// How long at most.
const LONGEST: Duration = Duration::from_secs(60);

/// A tag, and the digest that is served meanwhile.
type MovedTag = (TagKey, Digest);

/// The moves that wait. Clones share them.
#[derive(Clone, Debug)]
pub struct DeferredMoves {
    entries: moka::sync::Cache<MovedTag, (Instant, StaleReason)>,
}

impl DeferredMoves {
    pub fn new() -> Self {
        let entries = moka::sync::Cache::builder()
            .max_capacity(ENTRIES)
            .time_to_live(LONGEST)
            .build();
        Self { entries }
    }

    /// Remembers from `now` on, for as long as a tag is fresh, that the manifest which a tag has moved to cannot be fetched.
    pub fn defer(&self, tag: MovedTag, reason: StaleReason, tag_ttl: Duration, now: Instant) {
        if !tag_ttl.is_zero() {
            let until = now + tag_ttl.min(LONGEST);
            self.entries.insert(tag, (until, reason));
        }
    }

    /// Why a tag's move waits; `None` if the upstream is to be asked.
    pub fn reason(&self, tag: &MovedTag, now: Instant) -> Option<StaleReason> {
        let (until, reason) = self.entries.get(tag)?;
        (now < until).then_some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::Algorithm;
    use oci::manifest::AcceptClass;
    use oci::name::{Registry, RepositoryName};

    #[test]
    fn a_move_waits_as_long_as_a_tag_is_fresh_and_a_minute_at_most() {
        let repository = "library/app".parse().expect("a name");
        let name = RepositoryName::new(&Registry::new("docker.io"), &repository);
        let key = TagKey::new(&name, AcceptClass::Full, &"latest".parse().expect("a tag"));
        let tag = |content: &[u8]| (key.clone(), Digest::of(Algorithm::Sha256, content));
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        for (ttl, waits) in [(0, 0), (5, 5), (600, 60)] {
            let moves = DeferredMoves::new();
            moves.defer(tag(b"old"), StaleReason::Reserved, ttl * second, start);
            let reason = |at| moves.reason(&tag(b"old"), start + at * second);
            assert_eq!(reason(waits), None, "{ttl}");
            if waits > 0 {
                assert_eq!(reason(waits - 1), Some(StaleReason::Reserved), "{ttl}");
            }
            // Another manifest was cached meanwhile.
            assert_eq!(moves.reason(&tag(b"new"), start), None);
        }
    }
}
