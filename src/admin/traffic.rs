//! Traffic over time: counters, sampled into steps of a minute and of a quarter of an hour. Pure.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::report::Traffic;

/// The window of "now", in seconds.
const NOW: u64 = 10;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// What is counted: since the start, or within a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub requests: u64,
    pub hits: u64,
    pub misses: u64,
    pub coalesced: u64,
    pub served_bytes: u64,
    pub fetched_bytes: u64,
    /// Answers of 5xx.
    pub errors: u64,
    /// Answers of 401, 403 and 429 that the gateway gave.
    pub denials: u64,
}

impl Counts {
    fn map(self, other: Self, by: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: by(self.requests, other.requests),
            hits: by(self.hits, other.hits),
            misses: by(self.misses, other.misses),
            coalesced: by(self.coalesced, other.coalesced),
            served_bytes: by(self.served_bytes, other.served_bytes),
            fetched_bytes: by(self.fetched_bytes, other.fetched_bytes),
            errors: by(self.errors, other.errors),
            denials: by(self.denials, other.denials),
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
        let (served, fetched) = (self.served_bytes, self.fetched_bytes);
        let saved = i128::from(served) - i128::from(fetched);
        Traffic {
            window_seconds,
            requests: self.requests,
            hits: self.hits,
            misses: self.misses,
            coalesced: self.coalesced,
            hit_ratio: (self.requests > 0).then(|| self.hits as f64 / self.requests as f64),
            served_bytes: served,
            fetched_bytes: fetched,
            saved_bytes: i64::try_from(saved).unwrap_or(i64::MAX),
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
            // A clock that is set back adds to the last step.
            Some(last) if last.at >= at => last.counts = last.counts.plus(counts),
            _ => points.push_back(Point { at, counts }),
        }
        let is_over = |first: &Point| first.at + window.seconds() <= at;
        while points.front().is_some_and(is_over) {
            points.pop_front();
        }
    }
}

/// Samples of the counters, and the history that they add up to.
#[derive(Clone, Debug, Default)]
pub struct TrafficLog {
    history: History,
    /// The counters at the last sample.
    last: Counts,
    /// Seconds since 1970 with the counters then, of the last ten seconds.
    samples: VecDeque<(u64, Counts)>,
}

impl TrafficLog {
    /// Continues the history of an earlier process at `now`, in seconds since 1970. A history from the future is that of
    /// another clock.
    pub fn resume(history: History, now: u64) -> Self {
        let is_past = |points: &VecDeque<Point>| points.back().is_none_or(|last| last.at <= now);
        let is_usable = is_past(&history.hour) && is_past(&history.day);
        Self {
            history: if is_usable {
                history
            } else {
                History::default()
            },
            ..Self::default()
        }
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// Adds what was counted since the last sample. `now` is in seconds since 1970.
    pub fn sample(&mut self, now: u64, counters: Counts) {
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
        let is_recent = |point: &Point| point.at + window.seconds() > now;
        points.filter(is_recent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_790_000_100;

    fn counted(requests: u64) -> Counts {
        Counts {
            requests,
            hits: requests / 2,
            served_bytes: requests * 100,
            fetched_bytes: requests * 40,
            ..Counts::default()
        }
    }

    #[test]
    fn samples_add_up_to_steps_and_windows() {
        let mut log = TrafficLog::default();
        for seconds in 0..=120 {
            log.sample(START + seconds, counted(seconds));
        }
        let now = START + 120;
        let points = log.points(Window::Hour, now);
        let of_step: Vec<u64> = points.iter().map(|point| point.counts.requests).collect();
        assert_eq!(of_step.iter().sum::<u64>(), 120);
        assert_eq!(of_step.len(), 3);
        let hour = log.sum(Window::Hour, now);
        assert_eq!((hour.requests, hour.saved_bytes), (120, 120 * 60));
        let recent = log.now(now);
        assert_eq!((recent.requests, recent.window_seconds), (10, 10));
        // An hour later the hour is empty, and the day is not.
        let later = now + 3600;
        log.sample(later, counted(120));
        assert_eq!(log.sum(Window::Hour, later).requests, 0);
        assert_eq!(log.sum(Window::Hour, later).hit_ratio, None);
        assert_eq!(log.sum(Window::Day, later).requests, 120);
    }

    #[test]
    fn history_is_bounded_and_survives_a_restart() {
        let mut log = TrafficLog::default();
        for minute in 0..3000 {
            log.sample(START + minute * 60, counted(minute));
        }
        let now = START + 2999 * 60;
        assert!(log.points(Window::Hour, now).len() <= 60);
        assert!(log.points(Window::Day, now).len() <= 96);
        let json = serde_json::to_vec(log.history()).expect("JSON");
        assert!(json.len() < 64 << 10, "{}", json.len());
        let history: History = serde_json::from_slice(&json).expect("a history");
        let mut next = TrafficLog::resume(history.clone(), now + 60);
        next.sample(now + 60, counted(5));
        let day = log.sum(Window::Day, now).requests;
        assert!(next.sum(Window::Day, now + 60).requests >= day - 15);
        assert_eq!(
            next.now(now + 60).requests,
            0,
            "the first sample has no rate"
        );
        let from_the_future = TrafficLog::resume(history, START);
        assert_eq!(from_the_future.sum(Window::Day, now).requests, 0);
    }
}
