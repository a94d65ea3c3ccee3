//! What an upstream can bear: a question that fails is not repeated at once, a host that is away is left alone, a
//! 429 is heeded, its count is read.
//!
//! A question that fails rests by itself. Whether the host as a whole is away is never concluded from questions,
//! since whoever may only read can choose many that fail: it is away where nobody accepts a connection, or where
//! `probe.rs` asked it a question of our own and got no answer. Anything that it answered since then says that it is
//! there. The decisions take `now`; nothing here waits.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

use super::UpstreamError;

/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The cool-down after a 429 that names no time.
const DEFAULT_COOL_DOWN: Duration = Duration::from_secs(60);
/// How many failing questions are remembered.
const FAILING: usize = 1024;
/// How long a host that answered our own question is believed to be there, whatever fails meanwhile.
const VOUCHED_FOR: Duration = Duration::from_secs(5);

/// What a request asks for, as far as limits distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one that is counted.
    ManifestGet,
    /// Not every registry knows it, which it says by a 404 of its own.
    Referrers,
    Other,
}

/// What fails by itself, as a hash: a question with everything that may change its answer, or what a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject(u64);

/// What a request has to do before it goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    /// The host was away: it is to be asked whether it is back.
    Probe,
}

/// What a failure says of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// It was heard meanwhile, or rests already.
    None,
    /// It may be away.
    Away,
}

/// The state of one upstream.
#[derive(Debug, Default)]
pub(super) struct Limits {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    /// Manifest GETs wait until then.
    cool_until: Option<Instant>,
    /// The host is away.
    pause: Option<Pause>,
    /// What failed by itself.
    failing: HashMap<Subject, Pause>,
    /// When the host last said something else than that it fails.
    heard: Option<Instant>,
    /// Until when it needs not be asked whether it is there.
    vouched_until: Option<Instant>,
    /// The count that was logged last.
    logged: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Pause {
    /// The pause after a failure: twice as long each time.
    fn after(earlier: Option<Self>, now: Instant) -> Self {
        let length = match earlier {
            // Requests that were under way together fail together: that is one failure.
            Some(pause) if now < pause.until => return pause,
            Some(pause) if now < pause.forgotten_at() => (pause.length * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        Self {
            until: now + length,
            length,
        }
    }

    /// From when on it says nothing of the next one.
    fn forgotten_at(self) -> Instant {
        self.until + LONGEST_PAUSE
    }
}

impl Limits {
    /// The subject of a question, of everything that may change its answer.
    pub fn subject(&self, question: impl std::hash::Hash) -> Subject {
        Subject(self.hasher.hash_one(question))
    }

    /// Whether a request about these may go out now.
    ///
    /// # Errors
    /// [`UpstreamError::TooManyRequests`] during a cool-down, [`UpstreamError::Resting`] during a pause.
    pub fn admit(&self, kind: Kind, about: &[Subject], now: Instant) -> Result<Way, UpstreamError> {
        let mut state = self.state();
        if kind == Kind::ManifestGet
            && let Some(until) = state.cool_until
        {
            if now < until {
                return Err(UpstreamError::TooManyRequests {
                    retry_after: Some(until - now),
                });
            }
            state.cool_until = None;
        }
        let resting = |pause: &Pause| now < pause.until;
        let failing = about
            .iter()
            .filter_map(|subject| state.failing.get(subject));
        if failing.chain(&state.pause).any(resting) {
            return Err(UpstreamError::Resting);
        }
        Ok(state.pause.map_or(Way::Open, |_| Way::Probe))
    }

    /// Notes that the host said something else than that it fails: it is there.
    pub fn heard(&self, now: Instant) {
        let mut state = self.state();
        state.heard = Some(now);
        if state.pause.take().is_some() {
            tracing::info!("the upstream answers again");
        }
    }

    /// Notes that a question has an answer again.
    pub fn answered(&self, about: &[Subject]) {
        let mut state = self.state();
        for subject in about {
            state.failing.remove(subject);
        }
    }

    /// Notes that a question failed that was first sent at `began`: it rests, twice as long each time. Says
    /// whether the host may be away.
    pub fn failed(&self, subject: Subject, began: Instant, now: Instant) -> Suspicion {
        let mut state = self.state();
        let pause = Pause::after(state.failing.get(&subject).copied(), now);
        if state.failing.len() >= FAILING && !state.failing.contains_key(&subject) {
            state.make_room(now);
        }
        state.failing.insert(subject, pause);
        state.suspicion(began, now)
    }

    /// Whether the host may be away, where something failed that was first sent at `began`.
    pub fn suspicion(&self, began: Instant, now: Instant) -> Suspicion {
        self.state().suspicion(began, now)
    }

    /// Notes that the host is away: it rests, twice as long each time.
    pub fn away(&self, now: Instant) {
        let mut state = self.state();
        if state.pause.is_none() {
            tracing::warn!("the upstream does not answer; it rests");
        }
        state.pause = Some(Pause::after(state.pause, now));
    }

    /// Notes that the host answered a question of our own.
    pub fn vouch(&self, now: Instant) {
        self.state().vouched_until = Some(now + VOUCHED_FOR);
        self.heard(now);
    }

    /// Notes a 429: manifest GETs wait, everything else goes on.
    pub fn limited(&self, retry_after: Option<Duration>, now: Instant) {
        let wait = retry_after.unwrap_or(DEFAULT_COOL_DOWN);
        tracing::warn!(
            seconds = wait.as_secs(),
            "the upstream limits requests; manifest GETs wait"
        );
        self.state().cool_until = Some(now + wait);
    }

    /// Reads the Hub's count, and logs it when it moved by a tenth of the limit.
    pub fn read(&self, headers: &HeaderMap, origin: &str) -> Option<u64> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let remaining = text("ratelimit-remaining").and_then(leading_number)?;
        let limit = text("ratelimit-limit").and_then(leading_number);
        let step = (limit.unwrap_or(remaining) / 10).max(1);
        let mut state = self.state();
        if state
            .logged
            .is_none_or(|logged| logged.abs_diff(remaining) >= step)
        {
            state.logged = Some(remaining);
            let source = text("docker-ratelimit-source").unwrap_or("-");
            tracing::info!(
                origin,
                remaining,
                limit,
                source,
                "the upstream's count of pulls"
            );
        }
        Some(remaining)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn suspicion(&self, began: Instant, now: Instant) -> Suspicion {
        let heard = self.heard.is_some_and(|heard| heard >= began);
        let vouched = self.vouched_until.is_some_and(|until| now < until);
        let rests = self.pause.is_some_and(|pause| now < pause.until);
        if heard || vouched || rests {
            Suspicion::None
        } else {
            Suspicion::Away
        }
    }

    /// Forgets what failed long ago, or else what rests no more soonest.
    fn make_room(&mut self, now: Instant) {
        self.failing.retain(|_, pause| now < pause.forgotten_at());
        if self.failing.len() >= FAILING {
            let first = self.failing.iter().min_by_key(|(_, pause)| pause.until);
            if let Some((&first, _)) = first {
                self.failing.remove(&first);
            }
        }
    }
}

/// `100` of `100;w=21600`.
fn leading_number(value: &str) -> Option<u64> {
    value.split(';').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_host_that_is_away_rests_longer_each_time_and_is_probed() {
        let limits = Limits::default();
        let start = Instant::now();
        let admitted = |at| limits.admit(Kind::Other, &[], start + seconds(at)).ok();
        let away = |at| limits.away(start + seconds(at));
        assert_eq!(admitted(0.0), Some(Way::Open));
        away(0.0);
        away(0.1);
        assert_eq!(admitted(0.9), None);
        assert_eq!(admitted(1.0), Some(Way::Probe));
        away(1.2);
        assert_eq!((admitted(3.1), admitted(3.3)), (None, Some(Way::Probe)));
        limits.heard(start + seconds(3.4));
        assert_eq!(admitted(3.4), Some(Way::Open));
        let mut now = 10.0;
        for _ in 0..20 {
            away(now);
            now += 30.0;
            assert_eq!(admitted(now), Some(Way::Probe), "never longer than 30 s");
        }
    }

    #[test]
    fn a_question_that_fails_rests_by_itself() {
        let limits = Limits::default();
        let start = Instant::now();
        let (one, other) = (limits.subject("one"), limits.subject("other"));
        let admitted = |subject, at| {
            let about = [subject, limits.subject("a token")];
            limits
                .admit(Kind::Other, &about, start + seconds(at))
                .is_ok()
        };
        let failed = |at| limits.failed(one, start, start + seconds(at));
        failed(0.0);
        failed(0.1);
        assert!(!admitted(one, 0.9) && admitted(other, 0.9));
        assert!(admitted(one, 1.0));
        failed(1.5);
        assert!(!admitted(one, 3.4) && admitted(one, 3.5));
        limits.answered(&[one]);
        failed(4.0);
        assert!(!admitted(one, 4.9) && admitted(one, 5.0), "it begins anew");
        failed(100.0);
        assert!(admitted(one, 101.0), "what failed long ago says nothing");
    }

    #[test]
    fn a_host_is_suspected_unless_it_was_heard() {
        let limits = Limits::default();
        let start = Instant::now();
        let suspected = |subject: u64, began, at| {
            let subject = limits.subject(subject);
            limits.failed(subject, start + seconds(began), start + seconds(at)) == Suspicion::Away
        };
        assert!(suspected(1, 0.0, 1.0));
        limits.heard(start + seconds(2.0));
        assert!(
            !suspected(2, 1.5, 3.0),
            "something else was answered meanwhile"
        );
        assert!(suspected(3, 2.5, 3.0));
        limits.vouch(start + seconds(4.0));
        assert!(!suspected(4, 4.5, 8.9), "it answered our own question");
        assert!(suspected(5, 4.5, 9.0));
        limits.away(start + seconds(9.0));
        assert!(!suspected(6, 9.0, 9.5), "it rests already");
    }

    #[test]
    fn only_so_many_failures_are_remembered() {
        let limits = Limits::default();
        let now = Instant::now();
        for n in 0..2 * FAILING {
            limits.failed(limits.subject(n), now, now);
        }
        assert_eq!(limits.state().failing.len(), FAILING);
        let last = limits.subject(2 * FAILING - 1);
        assert!(limits.admit(Kind::Other, &[last], now).is_err());
    }

    #[test]
    fn a_limit_cools_down_manifest_gets_alone() {
        let limits = Limits::default();
        let start = Instant::now();
        limits.limited(Some(Duration::from_secs(5)), start);
        assert!(limits.admit(Kind::Other, &[], start).is_ok());
        assert!(matches!(
            limits.admit(Kind::ManifestGet, &[], start + Duration::from_secs(2)),
            Err(UpstreamError::TooManyRequests { retry_after: Some(wait) }) if wait == Duration::from_secs(3)
        ));
        assert!(
            limits
                .admit(Kind::ManifestGet, &[], start + Duration::from_secs(5))
                .is_ok()
        );
        limits.limited(None, start);
        assert!(
            limits
                .admit(Kind::ManifestGet, &[], start + Duration::from_secs(59))
                .is_err()
        );
    }

    #[test]
    fn counts() {
        for (value, number) in [
            ("100;w=21600", Some(100)),
            ("7", Some(7)),
            (";w=1", None),
            ("x", None),
        ] {
            assert_eq!(leading_number(value), number, "{value}");
        }
    }
}
