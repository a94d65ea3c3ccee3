//! When a fill opens another connection, and for which bytes: a state machine without I/O.
//!
//! Registries' CDNs and long lines limit each connection. A fill that will take long gives the second half of its
//! largest remainder to another connection, for as long as each one raises the whole rate by a fifth.

use std::time::Duration;

/// Blobs up to this length are fetched by one connection, in bytes.
pub(super) const MIN_TOTAL: u64 = 32 << 20;
/// A fill that takes no longer than this opens no connection.
const MIN_TIME_LEFT: Duration = Duration::from_secs(5);
/// How long a rate is measured, and before that, for how long a new connection is left to settle: many upstreams begin
/// with a burst, others slowly.
const INTERVAL: Duration = Duration::from_secs(1);
const SETTLING: Duration = Duration::from_millis(500);
/// How many rates in turn must be too low before a connection is not useful.
const MEASUREMENTS: u32 = 3;
/// Splits are at multiples of this offset, in bytes: a restart trusts whole blocks only.
const ALIGNMENT: u64 = 64 << 10;
/// The smallest remainder that is split, in bytes.
const MIN_SPLIT: u64 = 1 << 20;
/// How many connections in a row may drop without a new byte, and the wait after the first; it doubles.
const MOST_DROPS: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Bytes of a blob that are still missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remainder {
    pub start: u64,
    pub end: u64,
    pub state: RemainderState,
}

impl Remainder {
    const fn length(&self) -> u64 {
        self.end - self.start
    }
}

/// Whether a connection fetches a remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemainderState {
    Idle,
    /// Its first byte has not arrived.
    Connecting,
    Receiving,
}

/// What a planner decides by.
#[derive(Clone, Copy, Debug)]
pub(super) enum SegmentEvent<'a> {
    /// At `now`, so many bytes have arrived, and these are missing, in order of their offsets.
    Progress {
        now: Duration,
        received: u64,
        remainders: &'a [Remainder],
    },
    /// A connection broke off: `moved` says whether it had sent bytes.
    Dropped { now: Duration, moved: bool },
    /// The upstream gives no more connections than these.
    Limited { connections: u32 },
}

/// What the fill does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentStep {
    Wait,
    /// Opens a connection for these bytes; one that was to fetch them stops before `start`.
    Open {
        start: u64,
        end: u64,
    },
}

/// The connections of one fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentPlanner {
    /// The most connections.
    allowed: u32,
    /// How many connections raised the rate so far, the first one included.
    useful: u32,
    /// The last connection, until it is known whether it raised the rate.
    trial: Option<Trial>,
    /// Whether more than the useful connections are tried.
    trials: Trials,
    /// Bytes per second, as measured last.
    rate: u64,
    window: Option<RateWindow>,
    drops: u32,
    /// No connection is opened before.
    wait_until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trials {
    Allowed,
    /// The last connection did not raise the rate.
    Over,
}

/// A connection that is not known to be useful yet.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// The rate before it, in bytes per second.
    baseline: u64,
    /// How often the rate was measured since, and not raised.
    failed: u32,
}

/// Why another connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// In place of a useful one that ended.
    Replacement,
    /// To see whether it raises the rate.
    Trial,
}

/// The time in which a rate is measured, with an unchanged number of connections.
#[derive(Clone, Copy, Debug)]
struct RateWindow {
    since: Duration,
    received: u64,
    connections: u32,
    state: WindowState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WindowState {
    Settling,
    Measuring,
}

impl SegmentPlanner {
    pub const fn new(allowed: u32) -> Self {
        Self {
            allowed,
            useful: 1,
            trial: None,
            trials: Trials::Allowed,
            rate: 0,
            window: None,
            drops: 0,
            wait_until: Duration::ZERO,
        }
    }

    pub fn next(mut self, event: SegmentEvent<'_>) -> (Self, SegmentStep) {
        let step = match event {
            SegmentEvent::Progress {
                now,
                received,
                remainders,
            } => self.progress(now, received, remainders),
            SegmentEvent::Dropped { now, moved } => {
                self.drops = if moved { 1 } else { self.drops + 1 };
                self.wait_until = now + FIRST_WAIT * 2_u32.pow(self.drops.min(MOST_DROPS) - 1);
                if self.drops >= MOST_DROPS {
                    self.allowed = 0;
                }
                SegmentStep::Wait
            }
            SegmentEvent::Limited { connections } => {
                self.allowed = self.allowed.min(connections);
                SegmentStep::Wait
            }
        };
        (self, step)
    }

    /// The bytes of a connection for a reader that needs those at `offset`: what is missing from there on, as far as one
    /// connection would fetch it. `None` where as many are open as allowed, or one will send them next.
    pub fn ahead(&self, offset: u64, remainders: &[Remainder]) -> Option<(u64, u64)> {
        let idle = |part: &&Remainder| part.state == RemainderState::Idle;
        let open = remainders.len() - remainders.iter().filter(idle).count();
        if u32::try_from(open).is_ok_and(|open| open >= self.allowed) {
            return None;
        }
        let wanted = |part: &&Remainder| (part.start..part.end).contains(&offset);
        let part = remainders.iter().find(wanted)?;
        let start = part.start.max(offset / ALIGNMENT * ALIGNMENT);
        let is_next = start == part.start && part.state != RemainderState::Idle;
        (!is_next).then_some((start, part.end))
    }

    fn progress(&mut self, now: Duration, received: u64, remainders: &[Remainder]) -> SegmentStep {
        let of = |state| {
            let matching = remainders.iter().filter(|part| part.state == state);
            u32::try_from(matching.count()).unwrap_or(u32::MAX)
        };
        let connecting = of(RemainderState::Connecting);
        let connections = connecting + of(RemainderState::Receiving);
        let measured = connecting == 0 && self.measure(now, received, connections);
        if measured {
            self.judge(connections);
        }
        // A connection counts from its first byte on.
        if connecting > 0 {
            self.window = None;
            return SegmentStep::Wait;
        }
        let purpose = if connections >= self.useful {
            Purpose::Trial
        } else {
            Purpose::Replacement
        };
        let most = match self.trials {
            Trials::Allowed => self.useful + 1,
            Trials::Over => self.useful,
        };
        if connections >= most.min(self.allowed)
            || now < self.wait_until
            || self.rate == 0
            || (purpose == Purpose::Trial && !measured)
        {
            return SegmentStep::Wait;
        }
        let step = self.choose(remainders, connections, purpose);
        if purpose == Purpose::Trial && step != SegmentStep::Wait {
            self.trial = Some(Trial {
                baseline: self.rate,
                failed: 0,
            });
        }
        step
    }

    /// Measures the rate once the number of connections has been the same for long enough.
    fn measure(&mut self, now: Duration, received: u64, connections: u32) -> bool {
        let window = |state| RateWindow {
            since: now,
            received,
            connections,
            state,
        };
        let same = self.window.filter(|was| was.connections == connections);
        let Some(was) = same else {
            self.window = Some(window(WindowState::Settling));
            return false;
        };
        let elapsed = now.saturating_sub(was.since);
        match was.state {
            WindowState::Settling if elapsed >= SETTLING => {
                self.window = Some(window(WindowState::Measuring));
                return false;
            }
            WindowState::Measuring if elapsed >= INTERVAL => {}
            WindowState::Settling | WindowState::Measuring => return false,
        }
        let bytes = u128::from(received.saturating_sub(was.received));
        let rate = bytes * 1000 / elapsed.as_millis().max(1);
        self.rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.window = Some(window(WindowState::Measuring));
        true
    }

    /// Decides whether the last connection raised the rate by a fifth. One second's rate may be low by chance.
    fn judge(&mut self, connections: u32) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        let failed = trial.failed + 1;
        if connections <= self.useful {
            // It ended before it was judged.
        } else if u128::from(self.rate) * 5 >= u128::from(trial.baseline) * 6 {
            self.useful = connections;
        } else if failed < MEASUREMENTS {
            self.trial = Some(Trial { failed, ..trial });
        } else {
            self.trials = Trials::Over;
        }
    }

    /// The bytes for another connection: a remainder that has none, or the second half of the largest.
    fn choose(&self, remainders: &[Remainder], connections: u32, purpose: Purpose) -> SegmentStep {
        let idle = remainders
            .iter()
            .find(|part| part.state == RemainderState::Idle && part.length() >= MIN_SPLIT / 2);
        if let Some(idle) = idle {
            let left = remainders.iter().map(Remainder::length).sum();
            // A useful connection is replaced whatever is left.
            if purpose == Purpose::Trial && !self.takes_long(left, 1) {
                return SegmentStep::Wait;
            }
            return SegmentStep::Open {
                start: idle.start,
                end: idle.end,
            };
        }
        let Some(largest) = remainders.iter().max_by_key(|part| part.length()) else {
            return SegmentStep::Wait;
        };
        if largest.length() < MIN_SPLIT || !self.takes_long(largest.length(), connections) {
            return SegmentStep::Wait;
        }
        let half = largest.start + largest.length() / 2;
        SegmentStep::Open {
            start: half.next_multiple_of(ALIGNMENT),
            end: largest.end,
        }
    }

    /// Whether `bytes` take long for one of so many connections.
    fn takes_long(&self, bytes: u64, connections: u32) -> bool {
        let shared = u128::from(bytes) * u128::from(connections) * 1000;
        shared > u128::from(self.rate) * MIN_TIME_LEFT.as_millis()
    }
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
