//! The rate limit of one account: a 429 is respected, and the remaining pulls are read. Decisions take `now`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use super::budget::{Budget, Pulls};
use oci::rate_limit;

/// The cool-down after a 429 without `Retry-After`: at most so long, and at most this part of the registry's window.
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(60);
const COOL_DOWNS_PER_WINDOW: u32 = 360;
/// The shortest one, and the longest that a reset may ask for.
const SHORTEST_COOL_DOWN: Duration = Duration::from_secs(1);
const LONGEST_RESET: Duration = Duration::from_secs(3600);

/// The rate limit of one account, as the registry's responses last stated it.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    budget: Budget,
    cool_down: Option<CoolDown>,
    /// The remaining pulls that were logged last.
    logged_remaining: Option<u64>,
    /// What is counted, as the registry last named it, and when that was.
    source: Option<String>,
    observed_at: Option<SystemTime>,
    window: Option<Duration>,
}

/// The pulls that a registry allows (`ratelimit-*`, as Docker Hub sends them), as it last said, less what was requested
/// since; after a window all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemainingPulls {
    /// How many are left.
    pub remaining: u64,
    /// Of how many.
    pub limit: Option<u64>,
    /// Within this time, in seconds.
    pub window: Option<u64>,
    /// What is counted, as the registry names it: an address or an account.
    pub source: Option<String>,
    /// When the registry said so.
    pub observed_at: SystemTime,
}

impl RemainingPulls {
    /// The sums of several accounts; of one alone with what is counted.
    pub(super) fn of_all<'a>(accounts: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let sum = |one: u64, other: u64| one.saturating_add(other);
        accounts.cloned().reduce(|all, one| Self {
            remaining: sum(all.remaining, one.remaining),
            limit: all.limit.zip(one.limit).map(|(all, one)| sum(all, one)),
            window: all.window.max(one.window),
            source: None,
            observed_at: all.observed_at.max(one.observed_at),
        })
    }
}

/// The time after a 429 in which no manifest GET is sent.
#[derive(Clone, Copy, Debug)]
struct CoolDown {
    began: Instant,
    until: Instant,
    /// Whether the registry chose its length.
    is_stated: bool,
}

/// What a response said of the remaining pulls.
#[derive(Debug)]
pub(super) struct Statement {
    pub remaining: u64,
    pub limit: Option<u64>,
    /// What is counted, as the registry names it.
    pub source: Option<String>,
    /// Whether a tenth of the limit was used since the last news.
    pub is_news: bool,
}

/// A counted request that was sent, until it is dropped.
#[derive(Debug)]
pub(super) struct CountedRequest<'a> {
    rate_limit: &'a RateLimit,
    /// Whether its response said what is left.
    stated: bool,
}

impl Drop for CountedRequest<'_> {
    fn drop(&mut self) {
        let budget = &mut self.rate_limit.state().budget;
        budget.request_ended(self.stated, Instant::now());
    }
}

impl CountedRequest<'_> {
    /// Its response has come; whether it said what is left.
    pub fn end(mut self, stated: bool) {
        self.stated = stated;
    }
}

impl RateLimit {
    /// Notes that a request is sent that counts as a pull.
    pub fn count(&self) -> CountedRequest<'_> {
        self.state().budget.request_sent();
        CountedRequest {
            rate_limit: self,
            stated: false,
        }
    }

    /// Records a 429: manifest GETs are held back, everything else continues. Returns for how long.
    pub fn rate_limited(&self, retry_after: Option<Duration>, now: Instant) -> Duration {
        let mut state = self.state();
        let wait = retry_after.unwrap_or_else(|| state.cool_down(now));
        state.cool_down = Some(CoolDown {
            began: now,
            until: now + wait,
            is_stated: retry_after.is_some(),
        });
        wait
    }

    /// Reads the remaining pulls in the response to a request that was sent at `asked_at`. Returns what it says, if it does.
    pub fn read(&self, headers: &HeaderMap, asked_at: Instant, now: Instant) -> Option<Statement> {
        let stated = rate_limit::RateLimit::of(headers)?;
        let source = headers.get("docker-ratelimit-source");
        let source = source.and_then(|value| value.to_str().ok());
        let source = source.map(|source| telemetry::harmless(source, 100));
        let mut state = self.state();
        state.budget.read(&stated, asked_at, now);
        (state.observed_at, state.window) = (Some(SystemTime::now()), stated.window);
        // The length of the pause was a guess, and the registry allows pulls again.
        let is_over = |pause: &CoolDown| !pause.is_stated && asked_at > pause.began;
        if stated.remaining > 0 && state.cool_down.as_ref().is_some_and(is_over) {
            state.cool_down = None;
        }
        let remaining = stated.remaining;
        let step = (stated.limit.unwrap_or(remaining) / 10).max(1);
        let logged = state.logged_remaining;
        let is_news = logged.is_none_or(|logged| logged.abs_diff(remaining) >= step);
        if is_news {
            state.logged_remaining = Some(remaining);
        }
        state.source.clone_from(&source);
        Some(Statement {
            remaining,
            limit: stated.limit,
            source,
            is_news,
        })
    }

    /// How long manifest GETs are held back from `now` on.
    pub fn limited_for(&self, now: Instant) -> Option<Duration> {
        let left = self.state().cool_down?.until.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }

    /// How many pulls are left; `None` if the registry has not said.
    pub fn left(&self, now: Instant) -> Option<u64> {
        self.state().budget.left(now)
    }

    /// The pulls of a registry that says how many it allows; none are left while manifest GETs are held back.
    pub fn pulls(&self, now: Instant) -> Option<Pulls> {
        let is_limited = self.limited_for(now).is_some();
        let pulls = self.state().budget.pulls(now)?;
        Some(Pulls {
            remaining: if is_limited { 0 } else { pulls.remaining },
            ..pulls
        })
    }

    /// What the registry said, brought up to date.
    pub fn remaining_pulls(&self, now: Instant) -> Option<RemainingPulls> {
        let state = self.state();
        Some(RemainingPulls {
            remaining: state.budget.left(now)?,
            limit: state.budget.limit(now),
            window: state.window.map(|window| window.as_secs()),
            source: state.source.clone(),
            observed_at: state.observed_at?,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The cool-down after a 429 that names none: until the registry's reset if it names one, else so short that pulls which
    /// leave the window are used soon.
    fn cool_down(&self, now: Instant) -> Duration {
        let window = self.window.unwrap_or(Duration::MAX);
        match self.budget.reset(now) {
            Some(reset) => reset.clamp(SHORTEST_COOL_DOWN, LONGEST_RESET),
            None => (window / COOL_DOWNS_PER_WINDOW).clamp(SHORTEST_COOL_DOWN, LONGEST_COOL_DOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn a_429_holds_back_manifest_gets() {
        let (rate_limit, start) = (RateLimit::default(), Instant::now());
        assert_eq!(rate_limit.limited_for(start), None);
        rate_limit.rate_limited(Some(seconds(5)), start);
        assert_eq!(rate_limit.limited_for(start + seconds(2)), Some(seconds(3)));
        assert_eq!(rate_limit.limited_for(start + seconds(5)), None);
    }

    #[test]
    fn the_pause_after_a_429_follows_the_registry() {
        for (stated, retry_after, pause) in [
            (vec![], Some(5), 5),
            (vec![], None, 60),
            (vec![("ratelimit-remaining", "0;w=21600")], None, 60),
            (vec![("ratelimit-remaining", "0;w=3600")], None, 10),
            (vec![("ratelimit-remaining", "0;w=60")], None, 1),
            (vec![("ratelimit-remaining", "0;w=999999")], None, 60),
            (
                vec![
                    ("ratelimit-remaining", "0;w=21600"),
                    ("ratelimit-reset", "90"),
                ],
                None,
                90,
            ),
            (
                vec![("ratelimit-remaining", "0"), ("ratelimit-reset", "1")],
                None,
                1,
            ),
            // A reset that has passed says nothing.
            (
                vec![("ratelimit-remaining", "0"), ("ratelimit-reset", "0")],
                None,
                60,
            ),
            (
                vec![("ratelimit-remaining", "0"), ("ratelimit-reset", "999999")],
                None,
                3600,
            ),
            (
                vec![("ratelimit-remaining", "0"), ("ratelimit-reset", "90")],
                Some(7),
                7,
            ),
        ] {
            let (rate_limit, start) = (RateLimit::default(), Instant::now());
            rate_limit.read(&headers(&stated), start, start);
            rate_limit.rate_limited(retry_after.map(seconds), start);
            let left = rate_limit.limited_for(start);
            assert_eq!(left, Some(seconds(pause)), "{stated:?} {retry_after:?}");
        }
    }

    #[test]
    fn a_guessed_pause_ends_when_pulls_are_left() {
        for (retry_after, asked, remaining, ends) in [
            (None, 2, "1;w=60", true),
            (None, 2, "0;w=60", false),
            // The response to an earlier request.
            (None, 0, "1;w=60", false),
            (Some(30), 2, "1;w=60", false),
        ] {
            let (rate_limit, start) = (RateLimit::default(), Instant::now());
            rate_limit.rate_limited(retry_after.map(seconds), start + seconds(1));
            let (asked_at, now) = (start + seconds(asked), start + seconds(3));
            let stated = headers(&[("ratelimit-remaining", remaining)]);
            rate_limit.read(&stated, asked_at, now);
            assert_eq!(
                rate_limit.limited_for(now).is_none(),
                ends,
                "{retry_after:?} {asked} {remaining}"
            );
        }
    }

    #[test]
    fn a_counted_request_without_a_statement_is_one_pull() {
        let (rate_limit, start) = (RateLimit::default(), Instant::now());
        let stated = headers(&[
            ("ratelimit-limit", "100;w=60"),
            ("ratelimit-remaining", "20;w=60"),
        ]);
        rate_limit.read(&stated, start, start);
        let counted = rate_limit.count();
        assert_eq!(rate_limit.left(Instant::now()), Some(19));
        drop(counted);
        assert_eq!(rate_limit.left(Instant::now()), Some(19));
        rate_limit.count().end(true);
        assert_eq!(rate_limit.left(Instant::now()), Some(19));
        rate_limit.rate_limited(Some(seconds(5)), Instant::now());
        let pulls = rate_limit.pulls(Instant::now()).expect("a limit");
        assert_eq!((pulls.limit, pulls.remaining), (100, 0), "held back");
        let now = Instant::now();
        let told = rate_limit.remaining_pulls(now).expect("a statement");
        assert_eq!((told.remaining, told.limit), (19, Some(100)));
    }
}
