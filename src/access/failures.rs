//! Failed logins slow down whoever makes them: an address, and an address with one user. Never a user
//! alone, so nobody can lock another out by guessing; and where a user has logged in lately, what others
//! at the same address do does not count against that user.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// How many addresses, and addresses with a user, are remembered.
const CAPACITY: u64 = 100_000;
/// How long a user is known at an address after a success.
const KNOWN: Duration = Duration::from_secs(24 * 3600);

/// How failures add up.
#[derive(Clone, Copy, Debug)]
struct Measure {
    /// This many cost nothing.
    free: u32,
    /// One is forgiven in this time.
    forgiven: Duration,
    /// The longest pause.
    most: Duration,
}

/// Of one user at one address: in the long run one guess a minute.
const PAIR: Measure = Measure {
    free: 5,
    forgiven: Duration::from_secs(60),
    most: Duration::from_secs(60),
};
/// Of one address, behind which many may be: a guess in ten seconds.
const ADDRESS: Measure = Measure {
    free: 50,
    forgiven: Duration::from_secs(10),
    most: Duration::from_secs(10),
};

/// Failures of somebody that are not forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    failures: u32,
    last: Instant,
}

impl Measure {
    /// After so many failures, how long nothing is looked at: 1, 2, 4 … seconds.
    fn pause(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.free) {
            None => Duration::ZERO,
            Some(over) => Duration::from_secs(1_u64 << over.min(16)).min(self.most),
        }
    }

    /// How long it still is until somebody's next attempt is looked at.
    fn left(&self, tally: Option<Tally>, now: Instant) -> Duration {
        let Some(tally) = tally else {
            return Duration::ZERO;
        };
        let since = now.saturating_duration_since(tally.last);
        self.pause(tally.failures).saturating_sub(since)
    }

    /// One failure more.
    fn add(&self, tally: Option<Tally>, now: Instant) -> Tally {
        let kept = tally.map_or(0, |tally| {
            let since = now.saturating_duration_since(tally.last).as_secs();
            let forgiven = since / self.forgiven.as_secs();
            let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
            tally.failures.saturating_sub(forgiven)
        });
        // Higher it need not count: the pause is at its longest, and forgiving should take an hour at most.
        let failures = (kept + 1).min(self.free + 16);
        Tally {
            failures,
            last: now,
        }
    }
}

/// Somebody, as a keyed hash of the user's name at an address: names of strangers are not kept.
pub(super) type Pair = [u8; 32];

/// Who failed, and who did not.
#[derive(Debug)]
pub(super) struct Failures {
    addresses: Cache<IpAddr, Tally>,
    pairs: Cache<Pair, Tally>,
    known: Cache<Pair, ()>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            addresses: bounded(Duration::from_secs(3600)),
            pairs: bounded(Duration::from_secs(3600)),
            known: bounded(KNOWN),
        }
    }
}

fn bounded<K, V>(life: Duration) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let cache = Cache::builder().max_capacity(CAPACITY).time_to_live(life);
    cache.eviction_policy(EvictionPolicy::lru()).build()
}

impl Failures {
    /// How long until an attempt is looked at; zero: now.
    pub fn pause(&self, address: IpAddr, pair: &Pair, now: Instant) -> Duration {
        let own = PAIR.left(self.pairs.get(pair), now);
        if self.known.contains_key(pair) {
            return own;
        }
        own.max(ADDRESS.left(self.addresses.get(&network(address)), now))
    }

    pub fn failed(&self, address: IpAddr, pair: Pair, now: Instant) {
        let network = network(address);
        let tally = ADDRESS.add(self.addresses.get(&network), now);
        self.addresses.insert(network, tally);
        self.pairs
            .insert(pair, PAIR.add(self.pairs.get(&pair), now));
    }

    /// The address stays slow: else a guesser with one good account could guess others' for ever.
    pub fn succeeded(&self, pair: Pair) {
        self.pairs.invalidate(&pair);
        self.known.insert(pair, ());
    }
}

/// What one customer has: an IPv4 address, or an IPv6 network of 64 bits.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Pair = [1; 32];
    const B: Pair = [2; 32];

    fn at(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn pauses_grow_and_end() {
        let pauses = |measure: Measure, failures: &[u32]| {
            let pause = |&failures| measure.pause(failures).as_secs();
            failures.iter().map(pause).collect::<Vec<_>>()
        };
        let counts = [0, 4, 5, 6, 7, 10, 11, u32::MAX];
        assert_eq!(pauses(PAIR, &counts), [0, 0, 1, 2, 4, 32, 60, 60]);
        let counts = [0, 49, 50, 51, 52, 53, 54, u32::MAX];
        assert_eq!(pauses(ADDRESS, &counts), [0, 0, 1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn failures_are_forgiven() {
        let start = Instant::now();
        let mut tally = None;
        for _ in 0..6 {
            tally = Some(PAIR.add(tally, start));
        }
        assert_eq!(PAIR.left(tally, start), seconds(2));
        assert_eq!(PAIR.left(tally, start + seconds(1)), seconds(1));
        assert_eq!(PAIR.left(tally, start + seconds(2)), Duration::ZERO);
        let later = PAIR.add(tally, start + seconds(120));
        assert_eq!(later.failures, 5);
        assert_eq!(PAIR.add(tally, start + seconds(86_400)).failures, 1);
        // However many there were, an hour forgives them.
        for _ in 0..1000 {
            tally = Some(PAIR.add(tally, start));
        }
        assert_eq!(PAIR.add(tally, start + seconds(3600)).failures, 1);
    }

    #[test]
    fn nobody_is_locked_out_from_elsewhere() {
        let (failures, now) = (Failures::default(), Instant::now());
        for _ in 0..100 {
            failures.failed(at(1), A, now);
        }
        assert_eq!(failures.pause(at(1), &A, now), seconds(60));
        // The same user at another address is another pair, and the address has done nothing.
        assert_eq!(failures.pause(at(2), &B, now), Duration::ZERO);
        // A stranger at the address waits, a user who is known there does not.
        assert_eq!(failures.pause(at(1), &B, now), seconds(10));
        failures.succeeded(B);
        assert_eq!(failures.pause(at(1), &B, now), Duration::ZERO);
        assert_eq!(failures.pause(at(1), &A, now), seconds(60));
    }

    #[test]
    fn a_few_mistakes_cost_nothing() {
        let (failures, now) = (Failures::default(), Instant::now());
        for _ in 0..4 {
            failures.failed(at(1), A, now);
            assert_eq!(failures.pause(at(1), &A, now), Duration::ZERO);
        }
        failures.succeeded(A);
        for _ in 0..4 {
            failures.failed(at(1), A, now);
        }
        assert_eq!(failures.pause(at(1), &A, now), Duration::ZERO);
        failures.failed(at(1), A, now);
        assert_eq!(failures.pause(at(1), &A, now), seconds(1));
    }

    #[test]
    fn networks() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(network(address).to_string(), expected);
        }
    }
}
