//! A limit of pulls as Docker Hub's: manifest GETs are counted for each account or address within a sliding window, HEADs and
//! blobs are not.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Recorded;
use super::wire::Answer;

/// How many manifest GETs are allowed within a window.
#[derive(Clone, Debug)]
pub struct Quota {
    /// For each account, and for all clients without one together.
    pub limit: usize,
    /// It slides: a pull counts for so long. Whole seconds.
    pub window: Duration,
    /// Whether responses tell what is left.
    pub is_stated: bool,
}

/// The pulls of one account or address.
#[derive(Debug, Default)]
pub struct PullCounter {
    counted: VecDeque<Instant>,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Quotas {
    quota: Option<Quota>,
    counters: HashMap<String, PullCounter>,
    pulls: usize,
    refused: usize,
}

/// Sums since the quota was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullTotals {
    /// Manifest GETs that counted.
    pub pulls: usize,
    /// Manifest GETs that were answered 429.
    pub refused: usize,
}

impl PullCounter {
    /// How many pulls are left.
    pub fn left(&mut self, quota: &Quota, now: Instant) -> usize {
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= quota.window;
        while self.counted.front().is_some_and(is_over) {
            self.counted.pop_front();
        }
        quota.limit.saturating_sub(self.counted.len())
    }

    /// Counts a pull; false if none is left.
    pub fn pull(&mut self, quota: &Quota, now: Instant) -> bool {
        let is_allowed = self.left(quota, now) > 0;
        if is_allowed {
            self.counted.push_back(now);
        }
        is_allowed
    }
}

impl Quotas {
    pub fn set(&mut self, quota: Option<Quota>) {
        *self = Self {
            quota,
            ..Self::default()
        };
    }

    /// Lets all windows pass.
    pub fn renew(&mut self) {
        self.counters.clear();
    }

    pub fn totals(&self) -> PullTotals {
        PullTotals {
            pulls: self.pulls,
            refused: self.refused,
        }
    }

    /// How many pulls an account has left, of a quota that is set.
    pub fn left(&mut self, account: &str) -> Option<usize> {
        let quota = self.quota.as_ref()?;
        let counter = self.counters.entry(account.to_owned()).or_default();
        Some(counter.left(quota, Instant::now()))
    }

    /// Counts a request that would be answered with `answer`, which it changes.
    pub fn apply(&mut self, request: &Recorded, account: &str, answer: &mut Answer) {
        let Some(quota) = &self.quota else { return };
        if !request.path.contains("/manifests/") || answer.status != 200 {
            return;
        }
        let now = Instant::now();
        let counter = self.counters.entry(account.to_owned()).or_default();
        if request.method == "GET" {
            if counter.pull(quota, now) {
                self.pulls += 1;
            } else {
                self.refused += 1;
                *answer = Answer::error(429, "TOOMANYREQUESTS");
            }
        }
        if quota.is_stated {
            let window = quota.window.as_secs();
            let left = counter.left(quota, now);
            answer.set("ratelimit-limit", format!("{};w={window}", quota.limit));
            answer.set("ratelimit-remaining", format!("{left};w={window}"));
            answer.set("docker-ratelimit-source", account);
        }
    }
}
