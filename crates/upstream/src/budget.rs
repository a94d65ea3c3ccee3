//! The budget of one account at a registry that counts pulls: what is left of them, as its responses tell. Pure.
//!
//! Each response replaces the estimate. In between, manifest GETs are subtracted, those in flight included, and after a
//! window everything is allowed again but what was requested meanwhile. Only monotonic time counts, so that a wall clock that
//! jumps changes nothing.

use std::time::{Duration, Instant};

use oci::rate_limit::RateLimit;

/// The window of a registry that does not say it.
const DEFAULT_WINDOW: Duration = Duration::from_secs(3600);
/// The smallest reserve, unless that is more than half of the limit.
const MIN_RESERVE: u64 = 5;

/// The estimate for one account.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    reading: Option<Reading>,
    /// Counted requests without a response.
    in_flight: u64,
}

/// What a response said, and what was requested since.
#[derive(Clone, Copy, Debug)]
struct Reading {
    limit: Option<u64>,
    remaining: u64,
    window: Duration,
    /// When the request was sent whose response said so.
    asked_at: Instant,
    /// When everything is allowed again, and whether the registry named that time.
    renews_at: Instant,
    has_reset: bool,
    /// Counted requests since whose responses did not say what is left, and when the last one ended.
    unstated: u64,
    unstated_at: Instant,
}

impl Reading {
    fn left(&self) -> u64 {
        self.remaining.saturating_sub(self.unstated)
    }
}

impl Budget {
    /// A counted request is sent.
    pub fn request_sent(&mut self) {
        self.in_flight += 1;
    }

    /// A counted request has ended. If its response did not say what is left, it counts as one pull.
    pub fn request_ended(&mut self, stated: bool, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(mut reading) = self.reading(now).filter(|_| !stated) else {
            return;
        };
        (reading.unstated, reading.unstated_at) = (reading.unstated + 1, now);
        self.reading = Some(reading);
    }

    /// Takes over what the response to a request said that was sent at `asked_at`.
    pub fn read(&mut self, stated: &RateLimit, asked_at: Instant, now: Instant) {
        let earlier = self.reading(now);
        // The responses to concurrent requests may arrive in another order than they were counted.
        let overtaken = earlier.filter(|earlier| asked_at < earlier.asked_at);
        let remaining = overtaken.map_or(stated.remaining, |earlier| {
            earlier.remaining.min(stated.remaining)
        });
        let window = stated.window.unwrap_or(DEFAULT_WINDOW);
        // It was sent after these were counted.
        let unstated = earlier.filter(|earlier| earlier.unstated_at > asked_at);
        self.reading = Some(Reading {
            limit: stated.limit,
            remaining,
            window,
            asked_at: overtaken.map_or(asked_at, |earlier| earlier.asked_at),
            renews_at: now + stated.reset.unwrap_or(window),
            has_reset: stated.reset.is_some(),
            unstated: unstated.map_or(0, |earlier| earlier.unstated),
            unstated_at: unstated.map_or(now, |earlier| earlier.unstated_at),
        });
    }

    /// How many pulls are left; `None` if the registry does not count, or has not said.
    pub fn left(&self, now: Instant) -> Option<u64> {
        let reading = self.reading(now)?;
        Some(reading.left().saturating_sub(self.in_flight))
    }

    /// The pulls of a registry that says how many it allows.
    pub fn pulls(&self, now: Instant) -> Option<Pulls> {
        let reading = self.reading(now)?;
        Some(Pulls {
            limit: reading.limit?,
            remaining: self.left(now)?,
            window: reading.window,
        })
    }

    /// How many pulls the registry allows within a window, if it says so.
    pub fn limit(&self, now: Instant) -> Option<u64> {
        self.reading(now)?.limit
    }

    /// The time until everything is allowed again, where the registry names it.
    pub fn reset(&self, now: Instant) -> Option<Duration> {
        let reading = self.reading(now).filter(|reading| reading.has_reset)?;
        Some(reading.renews_at.saturating_duration_since(now))
    }

    /// What counts at `now`. After a window the limit does, less what was requested within it, and after another one all
    /// of it.
    fn reading(&self, now: Instant) -> Option<Reading> {
        let reading = self.reading?;
        if now < reading.renews_at {
            return Some(reading);
        }
        let limit = reading.limit?;
        let is_idle = now >= reading.renews_at + reading.window;
        let requested = if is_idle { 0 } else { reading.unstated };
        Some(Reading {
            remaining: limit.saturating_sub(requested),
            renews_at: now + reading.window,
            has_reset: false,
            unstated: 0,
            ..reading
        })
    }
}

/// The pulls that a registry allows, all accounts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulls {
    /// Within a window.
    pub limit: u64,
    /// Those that are left; at most `limit`.
    pub remaining: u64,
    /// The time within which the registry counts.
    pub window: Duration,
}

impl Pulls {
    /// The pulls that are for what is not cached at all: a fifth, but at least five, but at most half.
    pub fn reserve(&self) -> u64 {
        (self.limit / 5).max(MIN_RESERVE).min(self.limit / 2)
    }

    /// Whether a pull may be spent on what is cached, to replace it by something newer.
    pub fn allow_replacing(&self) -> bool {
        self.remaining > self.reserve()
    }

    /// How long a tag is fresh whose lifetime is `ttl`. It is unchanged while half of the pulls are left, then it grows in
    /// inverse proportion to them, up to the window and up to `max_stale`, the oldest answer that may be given (`None`: any).
    /// A tag that is never fresh remains so.
    pub fn stretch(&self, ttl: Duration, max_stale: Option<Duration>) -> Duration {
        if ttl.is_zero() || self.remaining >= self.limit.div_ceil(2) {
            return ttl;
        }
        let longest = self.window.min(max_stale.unwrap_or(Duration::MAX)).max(ttl);
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let factor = self.limit as f64 / (2.0 * self.remaining as f64);
        let stretched = Duration::try_from_secs_f64(ttl.as_secs_f64() * factor);
        // Without a pull left the factor is infinite.
        stretched.unwrap_or(longest).clamp(ttl, longest)
    }

    /// These and those of another account.
    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            limit: self.limit.saturating_add(other.limit),
            remaining: self.remaining.saturating_add(other.remaining),
            window: self.window.max(other.window),
        }
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
