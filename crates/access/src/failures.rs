//! Limits failed logins, per address and per address with user. Never per user alone, so that no client can lock out a
//! user by guessing; where a user has logged in recently, failures of others at the same address do not count against that
//! user.
//!
//! A repeated guess does not count. A password that was right recently is accepted at once, whatever others at the same
//! address do; one that was wrong recently from that address is refused at once and not counted again: tools retry an old
//! password for days.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use oci::addresses::network;

/// How many addresses, addresses with a user, and guesses of each outcome are remembered.
const CAPACITY: u64 = 100_000;
/// How long a right password is remembered, and its user known at an address.
const KNOWN: Duration = Duration::from_secs(24 * 3600);
/// How long a wrong password is remembered.
const KNOWN_WRONG: Duration = Duration::from_secs(3600);

/// How failures add up.
#[derive(Clone, Copy, Debug)]
struct Measure {
    /// Failures allowed before the first delay.
    free: u32,
    /// The time in which one failure is forgiven.
    forgiven: Duration,
    /// The longest pause.
    most: Duration,
}

/// The limit for one user at one address: in the long run one guess a minute.
const PAIR: Measure = Measure {
    free: 10,
    forgiven: Duration::from_secs(60),
    most: Duration::from_secs(60),
};
/// The limit for one address, which many users may share: one guess in ten seconds.
const ADDRESS: Measure = Measure {
    free: 200,
    forgiven: Duration::from_secs(10),
    most: Duration::from_secs(10),
};

/// The failures of one key that are not yet forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    failures: u32,
    last: Instant,
}

impl Measure {
    /// The pause after so many failures: 1, 2, 4 … seconds.
    fn pause(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.free) {
            None => Duration::ZERO,
            Some(over) => Duration::from_secs(1_u64 << over.min(16)).min(self.most),
        }
    }

    /// The remaining pause before the next attempt is verified.
    fn left(&self, tally: Option<Tally>, now: Instant) -> Duration {
        let Some(tally) = tally else {
            return Duration::ZERO;
        };
        let since = now.saturating_duration_since(tally.last);
        self.pause(tally.failures).saturating_sub(since)
    }

    /// Adds a failure.
    fn add(&self, tally: Option<Tally>, now: Instant) -> Tally {
        let retained = tally.map_or(0, |tally| {
            let since = now.saturating_duration_since(tally.last).as_secs();
            let forgiven = since / self.forgiven.as_secs();
            let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
            tally.failures.saturating_sub(forgiven)
        });
        // Capped: the pause is at its longest, and forgiving should take an hour at most.
        let failures = (retained + 1).min(self.free + 16);
        Tally {
            failures,
            last: now,
        }
    }
}

/// A user at an address, as a keyed hash, so that no unverified names are stored.
pub(super) type Pair = [u8; 32];
/// A keyed hash of a user, a password, and the user's line.
pub(super) type Guess = [u8; 32];

/// An attempt to log in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempted {
    pub guess: Guess,
    pub pair: Pair,
    pub address: IpAddr,
}

/// The state of an attempt before its password is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The password was right recently.
    Right,
    /// The password was wrong recently, from the same address. Attempts from other addresses are not disclosed.
    Wrong,
    /// The password has to be verified, after this pause.
    After(Duration),
}

/// Recent failures and successes.
#[derive(Debug)]
pub(super) struct Failures {
    addresses: Cache<IpAddr, Tally>,
    pairs: Cache<Pair, Tally>,
    known: Cache<Pair, Instant>,
    right: Cache<Guess, Instant>,
    wrong: Cache<(Guess, IpAddr), Instant>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            addresses: bounded(Duration::from_secs(3600)),
            pairs: bounded(Duration::from_secs(3600)),
            known: bounded(KNOWN),
            right: bounded(KNOWN),
            wrong: bounded(KNOWN_WRONG),
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
    /// The state of an attempt; a remembered success overrides all pauses.
    pub fn known(&self, attempt: &Attempted, now: Instant) -> Known {
        let lately = |at: Instant, life| now.saturating_duration_since(at) < life;
        let network = network(attempt.address);
        let right = self.right.get(&attempt.guess);
        if right.is_some_and(|at| lately(at, KNOWN)) {
            return Known::Right;
        }
        let wrong = self.wrong.get(&(attempt.guess, network));
        if wrong.is_some_and(|at| lately(at, KNOWN_WRONG)) {
            return Known::Wrong;
        }
        let own = PAIR.left(self.pairs.get(&attempt.pair), now);
        let known = self.known.get(&attempt.pair);
        if known.is_some_and(|at| lately(at, KNOWN)) {
            return Known::After(own);
        }
        Known::After(own.max(ADDRESS.left(self.addresses.get(&network), now)))
    }

    pub fn failed(&self, attempt: &Attempted, now: Instant) {
        let network = network(attempt.address);
        let tally = ADDRESS.add(self.addresses.get(&network), now);
        self.addresses.insert(network, tally);
        let tally = PAIR.add(self.pairs.get(&attempt.pair), now);
        self.pairs.insert(attempt.pair, tally);
        self.wrong.insert((attempt.guess, network), now);
    }

    /// The address keeps its pause: otherwise a guesser with one valid account could guess others' passwords for ever.
    pub fn succeeded(&self, attempt: &Attempted, now: Instant) {
        self.pairs.invalidate(&attempt.pair);
        self.known.insert(attempt.pair, now);
        self.right.insert(attempt.guess, now);
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

    /// A new guess, different from all others.
    fn new(pair: Pair, last: u8, number: u8) -> Attempted {
        let mut guess = pair;
        guess[1] = number;
        guess[2] = 1;
        Attempted {
            guess,
            pair,
            address: at(last),
        }
    }

    fn after(time: u64) -> Known {
        Known::After(seconds(time))
    }

    #[test]
    fn pauses_grow_and_end() {
        let pauses = |measure: Measure, failures: &[u32]| {
            let pause = |&failures| measure.pause(failures).as_secs();
            failures.iter().map(pause).collect::<Vec<_>>()
        };
        let counts = [0, 9, 10, 11, 12, 15, 16, u32::MAX];
        assert_eq!(pauses(PAIR, &counts), [0, 0, 1, 2, 4, 32, 60, 60]);
        let counts = [0, 199, 200, 201, 202, 203, 204, u32::MAX];
        assert_eq!(pauses(ADDRESS, &counts), [0, 0, 1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn failures_are_forgiven() {
        let start = Instant::now();
        let mut tally = None;
        for _ in 0..11 {
            tally = Some(PAIR.add(tally, start));
        }
        assert_eq!(PAIR.left(tally, start), seconds(2));
        assert_eq!(PAIR.left(tally, start + seconds(1)), seconds(1));
        assert_eq!(PAIR.left(tally, start + seconds(2)), Duration::ZERO);
        let later = PAIR.add(tally, start + seconds(120));
        assert_eq!(later.failures, 10);
        assert_eq!(PAIR.add(tally, start + seconds(86_400)).failures, 1);
        // An hour forgives any number of failures.
        for _ in 0..1000 {
            tally = Some(PAIR.add(tally, start));
        }
        assert_eq!(PAIR.add(tally, start + seconds(3600)).failures, 1);
    }

    #[test]
    fn failures_do_not_affect_other_addresses() {
        let (failures, now) = (Failures::default(), Instant::now());
        for number in 0..250 {
            failures.failed(&new(A, 1, number), now);
        }
        assert_eq!(failures.known(&new(A, 1, 255), now), after(60));
        // The same user at another address is another key, and that address has no failures.
        assert_eq!(failures.known(&new(B, 2, 0), now), after(0));
        // An unknown user at the address waits, a known one does not.
        assert_eq!(failures.known(&new(B, 1, 0), now), after(10));
        failures.succeeded(&new(B, 1, 1), now);
        assert_eq!(failures.known(&new(B, 1, 0), now), after(0));
        assert_eq!(failures.known(&new(A, 1, 255), now), after(60));
    }

    #[test]
    fn a_few_mistakes_cost_nothing() {
        let (failures, now) = (Failures::default(), Instant::now());
        for number in 0..9 {
            failures.failed(&new(A, 1, number), now);
            assert_eq!(failures.known(&new(A, 1, 255), now), after(0));
        }
        failures.succeeded(&new(A, 1, 100), now);
        for number in 10..19 {
            failures.failed(&new(A, 1, number), now);
        }
        assert_eq!(failures.known(&new(A, 1, 255), now), after(0));
        failures.failed(&new(A, 1, 19), now);
        assert_eq!(failures.known(&new(A, 1, 255), now), after(1));
    }

    /// Others guess the password of a user who has logged in recently, from the same address.
    #[test]
    fn what_was_right_lately_is_right_whatever_others_do() {
        let (failures, start) = (Failures::default(), Instant::now());
        let right = new(A, 1, 200);
        failures.succeeded(&right, start);
        for hour in 0..24 {
            let now = start + seconds(hour * 3600);
            for number in 0..100 {
                failures.failed(&new(A, 1, number), now);
            }
            assert_eq!(failures.known(&right, now), Known::Right, "{hour}");
            let elsewhere = Attempted {
                address: at(7),
                ..right
            };
            assert_eq!(failures.known(&elsewhere, now), Known::Right, "{hour}");
            assert_eq!(failures.known(&new(A, 1, 255), now), after(60), "{hour}");
        }
        // After a day it counts as a new guess.
        let now = start + seconds(24 * 3600);
        assert_eq!(failures.known(&right, now), after(0));
    }

    /// Many tools with an old password, behind one address.
    #[test]
    fn the_same_wrong_password_again_is_no_guess() {
        let (failures, now) = (Failures::default(), Instant::now());
        let old = new(A, 1, 1);
        assert_eq!(failures.known(&old, now), after(0));
        failures.failed(&old, now);
        assert_eq!(failures.known(&old, now), Known::Wrong);
        // Other addresses do not learn that it was tried from this one.
        let elsewhere = Attempted {
            address: at(2),
            ..old
        };
        assert_eq!(failures.known(&elsewhere, now), after(0));
        let later = now + KNOWN_WRONG;
        assert_eq!(failures.known(&old, later), after(0));
    }
}
