//! The leases that this node holds or held a moment ago: for their blobs other nodes may ask it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oci::digest::Digest;

/// How long after its release a lease counts: a node may have read its note just before.
const RECENT: Duration = Duration::from_secs(60);

/// All leases of this node. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldLeases(Arc<Mutex<HashMap<Digest, Holding>>>);

#[derive(Debug, Default)]
struct Holding {
    leases: u32,
    released: Option<Instant>,
}

/// One lease among them, from before it is written to the bucket until it is dropped.
#[derive(Debug)]
pub(super) struct HeldLease {
    leases: HeldLeases,
    digest: Digest,
    state: LeaseState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaseState {
    Requested,
    Held,
}

impl HeldLeases {
    /// Adds a lease that is being requested.
    pub fn hold(&self, digest: Digest) -> HeldLease {
        let mut leases = self.lock();
        leases.retain(|_, holding| holding.counts(Instant::now()));
        leases.entry(digest).or_default().leases += 1;
        HeldLease {
            leases: self.clone(),
            digest,
            state: LeaseState::Requested,
        }
    }

    pub fn holds(&self, digest: &Digest) -> bool {
        let leases = self.lock();
        leases.get(digest).is_some_and(|holding| holding.leases > 0)
    }

    pub fn held_recently(&self, digest: &Digest) -> bool {
        let leases = self.lock();
        let holding = leases.get(digest);
        holding.is_some_and(|holding| holding.counts(Instant::now()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Holding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    fn counts(&self, now: Instant) -> bool {
        self.leases > 0
            || self
                .released
                .is_some_and(|released| now < released + RECENT)
    }
}

impl HeldLease {
    /// The lease was written to the bucket.
    pub fn confirm(mut self) -> Self {
        self.state = LeaseState::Held;
        self
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let mut leases = self.leases.lock();
        let Some(holding) = leases.get_mut(&self.digest) else {
            return;
        };
        holding.leases -= 1;
        if self.state == LeaseState::Held {
            holding.released = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::Algorithm;

    #[test]
    fn released_leases_count_for_a_while_and_refused_ones_do_not() {
        let leases = HeldLeases::default();
        let [one, other] = [b"one", b"two"].map(|body| Digest::of(Algorithm::Sha256, body));
        let (first, second) = (leases.hold(one).confirm(), leases.hold(one).confirm());
        drop(first);
        assert!(leases.holds(&one));
        drop(second);
        assert!(!leases.holds(&one) && leases.held_recently(&one));
        let refused = leases.hold(other);
        assert!(leases.holds(&other));
        drop(refused);
        assert!(!leases.holds(&other) && !leases.held_recently(&other));
        let long_ago = Holding {
            leases: 0,
            released: Instant::now().checked_sub(RECENT),
        };
        assert!(!long_ago.counts(Instant::now()));
    }
}
