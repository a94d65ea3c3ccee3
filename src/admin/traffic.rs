//! Traffic over time: counters, sampled into steps of a minute and of a quarter of an hour. Pure.
//!
//! Steps are named by the system's clock. When that is set, they move along, so that what was counted an hour ago stays an
//! hour old.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::report::{Pulls, Traffic};

/// The window of "now", in seconds.
const NOW: u64 = 10;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// By how much the clocks may differ between two samples, in seconds. Beyond that, one was set.
const CLOCK_TOLERANCE: u64 = 5;

/// A moment by two clocks, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970, by the system's clock.
    pub unix: u64,
    /// By a clock that is never set, and stands still while the machine sleeps.
    pub steady: u64,
}

/// What is counted: since the start, or within a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    #[serde(flatten)]
    pub pulls: Pulls,
    /// Answers of 5xx.
    pub errors: u64,
    /// Answers of 401, 403 and 429 that the gateway gave.
    pub denials: u64,
}

impl Pulls {
    fn map(self, other: Self, by: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: by(self.requests, other.requests),
            hits: by(self.hits, other.hits),
            misses: by(self.misses, other.misses),
            coalesced: by(self.coalesced, other.coalesced),
            served_bytes: by(self.served_bytes, other.served_bytes),
            fetched_bytes: by(self.fetched_bytes, other.fetched_bytes),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        self.map(other, u64::saturating_add)
    }
}

impl Counts {
    fn map(self, other: Self, by: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            errors: by(self.errors, other.errors),
            denials: by(self.denials, other.denials),
            pulls: self.pulls.map(other.pulls, by),
        }
    }

    fn since(self, earlier: Self) -> Self {
        self.map(earlier, u64::saturating_sub)
    }

    fn plus(self, other: Self) -> Self {
        self.map(other, u64::saturating_add)
    }

    /// As the API writes them.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn traffic(self, window_seconds: u64) -> Traffic {
        let pulls = self.pulls;
        let saved = i128::from(pulls.served_bytes) - i128::from(pulls.fetched_bytes);
        Traffic {
            window_seconds,
            hit_ratio: (pulls.requests > 0).then(|| pulls.hits as f64 / pulls.requests as f64),
            saved_bytes: i64::try_from(saved).unwrap_or(i64::MAX),
            pulls,
        }
    }
}

/// The window of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    Hour,
    Day,
}

impl Window {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    pub const fn seconds(self) -> u64 {
        match self {
            Self::Hour => HOUR,
            Self::Day => DAY,
        }
    }

    /// The length of a step, in seconds.
    pub const fn step(self) -> u64 {
        match self {
            Self::Hour => 60,
            Self::Day => 900,
        }
    }

    /// The most steps that are stored.
    const fn max_points(self) -> usize {
        match self {
            Self::Hour => 120,
            Self::Day => 192,
        }
    }
}

/// One step of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its beginning, in seconds since 1970.
    pub at: u64,
    pub counts: Counts,
}

/// The steps of both windows, oldest first. Steps during which the gateway did not run are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    hour: VecDeque<Point>,
    day: VecDeque<Point>,
}

impl History {
    fn points(&self, window: Window) -> &VecDeque<Point> {
        match window {
            Window::Hour => &self.hour,
            Window::Day => &self.day,
        }
    }

    fn add(&mut self, window: Window, now: u64, counts: Counts) {
        let points = match window {
            Window::Hour => &mut self.hour,
            Window::Day => &mut self.day,
        };
        let at = now - now % window.step();
        match points.back_mut() {
            // A clock that is a little behind adds to the last step.
            Some(last) if last.at >= at => last.counts = last.counts.plus(counts),
            _ => points.push_back(Point { at, counts }),
        }
        let is_over = |first: &Point| first.at.saturating_add(window.seconds()) <= at;
        // A clock that is set again and again makes more steps than fit into a window.
        while points.len() > window.max_points() || points.front().is_some_and(is_over) {
            points.pop_front();
        }
    }

    /// Moves all steps along with a clock that was set.
    fn follow_clock(&mut self, before: u64, after: u64) {
        for point in self.hour.iter_mut().chain(&mut self.day) {
            point.at = moved(point.at, before, after);
        }
    }

    /// Brings what was read from a file in order. Steps from the future were counted by another clock: the last one
    /// becomes the current one.
    fn resume(mut self, now: u64) -> Self {
        for points in [&mut self.hour, &mut self.day] {
            points.make_contiguous().sort_by_key(|point| point.at);
        }
        let last = [&self.hour, &self.day].map(|points| points.back().map_or(0, |last| last.at));
        let last = last[0].max(last[1]);
        if last > now {
            self.follow_clock(last, now);
        }
        self
    }
}

/// The time that `at` is by a clock that was set from `before` to `after`.
fn moved(at: u64, before: u64, after: u64) -> u64 {
    let ahead = at.saturating_add(after.saturating_sub(before));
    ahead.saturating_sub(before.saturating_sub(after))
}

/// Samples of the counters, and the history that they add up to.
#[derive(Clone, Debug, Default)]
pub struct TrafficLog {
    history: History,
    /// The counters at the last sample.
    last: Counts,
    /// When that was.
    sampled: Moment,
    /// Seconds since 1970 with the counters then, of the last ten seconds.
    samples: VecDeque<(u64, Counts)>,
}

impl TrafficLog {
    /// Continues the history of an earlier process.
    pub fn resume(history: History, now: Moment) -> Self {
        Self {
            history: history.resume(now.unix),
            sampled: now,
            ..Self::default()
        }
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// Adds what was counted since the last sample.
    pub fn sample(&mut self, now: Moment, counters: Counts) {
        self.follow_clock(now);
        let now = now.unix;
        let counted = counters.since(self.last);
        self.last = counters;
        self.history.add(Window::Hour, now, counted);
        self.history.add(Window::Day, now, counted);
        if self.samples.back().is_none_or(|(at, _)| *at < now) {
            self.samples.push_back((now, counters));
        }
        // The oldest is the first that is at least ten seconds old.
        while self.samples.get(1).is_some_and(|(at, _)| at + NOW <= now) {
            self.samples.pop_front();
        }
    }

    /// Notices whether the system's clock was set since the last sample.
    fn follow_clock(&mut self, now: Moment) {
        let before = std::mem::replace(&mut self.sampled, now);
        let passed = now.steady.saturating_sub(before.steady);
        let expected = before.unix.saturating_add(passed);
        if now.unix.abs_diff(expected) <= CLOCK_TOLERANCE {
            return;
        }
        self.history.follow_clock(expected, now.unix);
        for (at, _) in &mut self.samples {
            *at = moved(*at, expected, now.unix);
        }
    }

    /// The traffic of the last seconds.
    pub fn now(&self, now: u64) -> Traffic {
        let (at, then) = self.samples.front().copied().unwrap_or((now, self.last));
        let window = now.saturating_sub(at).max(1);
        self.last.since(then).traffic(window)
    }

    /// The traffic of a window.
    pub fn sum(&self, window: Window, now: u64) -> Traffic {
        let points = self.points(window, now);
        let first = points.first().map_or(now, |point| point.at);
        let counts = points.iter().map(|point| point.counts);
        let counts = counts.fold(Counts::default(), Counts::plus);
        counts.traffic(now.saturating_sub(first).clamp(1, window.seconds()))
    }

    /// The steps of a window, oldest first; the last one is still growing.
    pub fn points(&self, window: Window, now: u64) -> Vec<Point> {
        let points = self.history.points(window).iter().copied();
        let is_recent = |point: &Point| point.at.saturating_add(window.seconds()) > now;
        points.filter(is_recent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_790_000_100;

    /// So many seconds after the start, by clocks that agree.
    fn after(seconds: u64) -> Moment {
        Moment {
            unix: START + seconds,
            steady: seconds,
        }
    }

    /// A log that begins at the start.
    fn log() -> TrafficLog {
        TrafficLog::resume(History::default(), after(0))
    }

    fn counted(requests: u64) -> Counts {
        let pulls = Pulls {
            requests,
            hits: requests / 2,
            served_bytes: requests * 100,
            fetched_bytes: requests * 40,
            ..Pulls::default()
        };
        Counts {
            pulls,
            ..Counts::default()
        }
    }

    #[test]
    fn samples_add_up_to_steps_and_windows() {
        let mut log = log();
        for seconds in 0..=120 {
            log.sample(after(seconds), counted(seconds));
        }
        let now = START + 120;
        let points = log.points(Window::Hour, now);
        let of_step: Vec<u64> = points
            .iter()
            .map(|point| point.counts.pulls.requests)
            .collect();
        assert_eq!(of_step.iter().sum::<u64>(), 120);
        assert_eq!(of_step.len(), 3);
        let hour = log.sum(Window::Hour, now);
        assert_eq!((hour.pulls.requests, hour.saved_bytes), (120, 120 * 60));
        let recent = log.now(now);
        assert_eq!((recent.pulls.requests, recent.window_seconds), (10, 10));
        // An hour later the hour is empty, and the day is not.
        let later = now + 3600;
        log.sample(after(120 + 3600), counted(120));
        assert_eq!(log.sum(Window::Hour, later).pulls.requests, 0);
        assert_eq!(log.sum(Window::Hour, later).hit_ratio, None);
        assert_eq!(log.sum(Window::Day, later).pulls.requests, 120);
    }

    #[test]
    fn history_is_bounded_and_survives_a_restart() {
        let mut log = log();
        for minute in 0..3000 {
            log.sample(after(minute * 60), counted(minute));
        }
        let now = START + 2999 * 60;
        assert!(log.points(Window::Hour, now).len() <= 60);
        assert!(log.points(Window::Day, now).len() <= 96);
        let json = serde_json::to_vec(log.history()).expect("JSON");
        assert!(json.len() < 64 << 10, "{}", json.len());
        let history: History = serde_json::from_slice(&json).expect("a history");
        let day = log.sum(Window::Day, now).pulls.requests;
        let started = after(3000 * 60);
        let mut next = TrafficLog::resume(history.clone(), started);
        next.sample(started, counted(5));
        assert!(next.sum(Window::Day, started.unix).pulls.requests >= day - 15);
        let first = next.now(started.unix);
        assert_eq!(first.pulls.requests, 0, "the first sample has no rate");
        // By the clock of this process the last one ran in the future.
        let slow = Moment {
            unix: START,
            steady: 0,
        };
        let mut next = TrafficLog::resume(history, slow);
        next.sample(slow, counted(0));
        assert_eq!(next.sum(Window::Day, START).pulls.requests, day);
        assert!(
            next.points(Window::Day, START)
                .iter()
                .all(|one| one.at <= START)
        );
    }

    /// The file may have been written by anyone.
    #[test]
    fn strange_histories_are_bounded() {
        let point = |at| Point {
            at,
            counts: counted(u64::MAX / 1000),
        };
        let times = [u64::MAX, 0, START, u64::MAX - 1, 5];
        let history = History {
            hour: times.into_iter().cycle().take(10_000).map(point).collect(),
            day: (0..10_000).map(point).collect(),
        };
        let mut log = TrafficLog::resume(history, after(0));
        log.sample(after(1), counted(1));
        for window in [Window::Hour, Window::Day] {
            let points = log.history.points(window);
            assert!(points.len() <= window.max_points());
            assert!(points.iter().is_sorted_by_key(|point| point.at));
            assert!(log.sum(window, START + 1).pulls.requests > 0);
        }
    }

    proptest::proptest! {
        /// However the clock is set, what was counted keeps its age, and nothing is from the future.
        #[test]
        fn clocks_that_jump_lose_nothing(
            moves in proptest::collection::vec((0_u64..3000, proptest::prop_oneof![
                proptest::strategy::Just(0_i64), -300_000_i64..-60, 60_i64..300_000,
            ]), 1..150)
        ) {
            let mut log = log();
            let (mut steady, mut offset) = (0, 0_i64);
            let mut counted_at = Vec::new();
            for (passed, jump) in moves {
                steady += passed;
                offset += jump;
                counted_at.push(steady);
                let now = (START + steady).saturating_add_signed(offset);
                let requests = counted_at.len() as u64;
                log.sample(Moment { unix: now, steady }, counted(requests));
                for window in [Window::Hour, Window::Day] {
                    let points = log.points(window, now);
                    proptest::prop_assert!(points.len() <= window.max_points());
                    proptest::prop_assert!(points.iter().all(|point| point.at <= now));
                    proptest::prop_assert!(points.is_sorted_by_key(|point| point.at));
                    let younger = |age: u64| counted_at.iter().filter(|at| steady - **at < age).count() as u64;
                    let sum = log.sum(window, now).pulls.requests;
                    let (least, most) = (younger(window.seconds() - window.step()), younger(window.seconds()));
                    proptest::prop_assert!((least..=most).contains(&sum), "{sum} of {least} to {most}");
                }
                let recent = log.now(now);
                // It begins at a sample that is ten seconds old, or at the one before.
                proptest::prop_assert!(recent.window_seconds < 3000 + NOW, "{recent:?}");
            }
        }
    }
}
