//! The budget against a registry that counts exactly, in a sliding window.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn stated(limit: u64, remaining: u64, window: u64) -> RateLimit {
    RateLimit {
        limit: Some(limit),
        remaining,
        window: Some(Duration::from_secs(window)),
        reset: None,
    }
}

#[test]
fn requests_are_subtracted_until_a_response_tells() {
    let (mut budget, start) = (Budget::default(), Instant::now());
    assert_eq!((budget.left(start), budget.pulls(start)), (None, None));
    budget.request_sent();
    assert_eq!(budget.left(start), None, "nothing was said");
    budget.read(&stated(100, 20, 60), start, start);
    budget.request_ended(true, start);
    assert_eq!(budget.left(start), Some(20));
    budget.request_sent();
    budget.request_sent();
    assert_eq!(budget.left(start), Some(18), "in flight");
    budget.request_ended(false, start + SECOND);
    budget.request_ended(false, start + SECOND);
    assert_eq!(budget.left(start + SECOND), Some(18), "unstated");
    // Sent before those two ended: it may not include them.
    budget.read(&stated(100, 20, 60), start, start + 2 * SECOND);
    assert_eq!(budget.left(start + 2 * SECOND), Some(18));
    budget.read(&stated(100, 18, 60), start + 2 * SECOND, start + 3 * SECOND);
    assert_eq!(budget.left(start + 3 * SECOND), Some(18));
    // Another client of the same address.
    budget.read(&stated(100, 2, 60), start + 3 * SECOND, start + 4 * SECOND);
    assert_eq!(budget.left(start + 4 * SECOND), Some(2));
}

#[test]
fn responses_may_arrive_out_of_order() {
    let (mut budget, start) = (Budget::default(), Instant::now());
    let (one, two) = (start, start + SECOND);
    budget.read(&stated(100, 48, 60), two, start + 2 * SECOND);
    budget.read(&stated(100, 49, 60), one, start + 3 * SECOND);
    assert_eq!(budget.left(start + 3 * SECOND), Some(48));
    budget.read(&stated(100, 47, 60), one, start + 4 * SECOND);
    assert_eq!(budget.left(start + 4 * SECOND), Some(47));
    // A later request sees pulls that have left the window.
    budget.read(&stated(100, 60, 60), start + 5 * SECOND, start + 6 * SECOND);
    assert_eq!(budget.left(start + 6 * SECOND), Some(60));
}

#[test]
fn everything_is_allowed_again_after_a_window() {
    let start = Instant::now();
    for (reset, seconds) in [(None, 60), (Some(10), 10), (Some(600), 600)] {
        let mut budget = Budget::default();
        let read = RateLimit {
            reset: reset.map(Duration::from_secs),
            ..stated(100, 0, 60)
        };
        budget.read(&read, start, start);
        let renewed = start + Duration::from_secs(seconds);
        let before = start + Duration::from_secs(seconds - 1);
        assert_eq!(budget.left(before), Some(0));
        let named = reset.map(|_| SECOND);
        assert_eq!(budget.reset(before), named);
        assert_eq!(budget.left(renewed), Some(100));
        // What was requested within the window still counts in the next one.
        budget.request_sent();
        budget.request_ended(false, before);
        assert_eq!(budget.left(renewed), Some(99));
        budget.request_sent();
        budget.request_ended(false, renewed);
        assert_eq!(budget.left(renewed), Some(98));
        assert_eq!(budget.left(renewed + 59 * SECOND), Some(98));
        assert_eq!(budget.left(renewed + 60 * SECOND), Some(99));
    }
    // Without a limit it is unknown what is allowed then.
    let mut budget = Budget::default();
    let read = RateLimit {
        limit: None,
        ..stated(1, 7, 60)
    };
    budget.read(&read, start, start);
    assert_eq!(
        (budget.left(start), budget.pulls(start)),
        (Some(7), None),
        "no part of an unknown limit"
    );
    assert_eq!(budget.left(start + 60 * SECOND), None);
}

#[test]
fn reserves() {
    for (limit, reserve) in [
        (1, 0),
        (2, 1),
        (4, 2),
        (10, 5),
        (25, 5),
        (26, 5),
        (100, 20),
        (200, 40),
        (u64::MAX, u64::MAX / 5),
    ] {
        let pulls = |remaining| Pulls {
            limit,
            remaining,
            window: SECOND,
        };
        assert_eq!(pulls(0).reserve(), reserve, "{limit}");
        assert!(!pulls(reserve).allow_replacing() && pulls(reserve + 1).allow_replacing());
        assert!(pulls(limit).allow_replacing(), "of {limit} all are left");
    }
}

#[test]
fn lifetimes_grow_as_the_budget_falls() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let week = Some(minutes(7 * 24 * 60));
    for (remaining, max_stale, expected) in [
        (100, week, minutes(10)),
        (50, week, minutes(10)),
        (25, week, minutes(20)),
        (10, week, minutes(50)),
        (1, week, minutes(360)),
        (0, week, minutes(360)),
        (0, None, minutes(360)),
        // Never older than may be served.
        (0, Some(minutes(30)), minutes(30)),
        (25, Some(minutes(15)), minutes(15)),
        // But as long as is configured.
        (0, Some(Duration::ZERO), minutes(10)),
    ] {
        let pulls = Pulls {
            limit: 100,
            remaining,
            window: minutes(360),
        };
        let stretched = pulls.stretch(minutes(10), max_stale);
        assert_eq!(stretched, expected, "{remaining} {max_stale:?}");
        // Where each pull revalidates, each pull does.
        assert_eq!(pulls.stretch(Duration::ZERO, max_stale), Duration::ZERO);
        assert_eq!(pulls.stretch(minutes(600), max_stale), minutes(600));
    }
}

/// A registry that counts each manifest GET for a window.
struct Model {
    limit: usize,
    window: Duration,
    counted: VecDeque<Instant>,
}

impl Model {
    fn left(&mut self, now: Instant) -> u64 {
        while self
            .counted
            .front()
            .is_some_and(|at| now >= *at + self.window)
        {
            self.counted.pop_front();
        }
        (self.limit - self.counted.len()) as u64
    }

    /// Counts a GET, unless nothing is left.
    fn get(&mut self, now: Instant) {
        if self.left(now) > 0 {
            self.counted.push_back(now);
        }
    }
}

/// A step of the random walk.
#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Head,
    /// A GET; whether its response says what is left.
    Get(bool),
    /// Somebody else at the same address.
    Others,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..40).prop_map(Step::Wait),
        2 => Just(Step::Head),
        4 => any::<bool>().prop_map(Step::Get),
        1 => Just(Step::Others),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// After each response the estimate is the registry's count, and unless others spend the same budget it never exceeds it.
    #[test]
    fn the_estimate_follows_the_registry(limit in 1_usize..30, window in 1_u64..200, steps in steps()) {
        let window = Duration::from_secs(window);
        let mut model = Model { limit, window, counted: VecDeque::new() };
        let mut budget = Budget::default();
        let mut now = Instant::now();
        let (mut read_at, mut others) = (None::<Instant>, false);
        for step in steps {
            now += Duration::from_millis(1);
            let read = |budget: &mut Budget, left, now| {
                let said = RateLimit {
                    limit: Some(limit as u64),
                    remaining: left,
                    window: Some(window),
                    reset: None,
                };
                budget.read(&said, now, now);
            };
            match step {
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Head => {
                    read(&mut budget, model.left(now), now);
                    (read_at, others) = (Some(now), false);
                }
                Step::Get(states) => {
                    budget.request_sent();
                    model.get(now);
                    if states {
                        read(&mut budget, model.left(now), now);
                        (read_at, others) = (Some(now), false);
                    }
                    budget.request_ended(states, now);
                }
                Step::Others => {
                    model.get(now);
                    others = true;
                }
            }
            let (estimate, left) = (budget.left(now), model.left(now));
            prop_assert_eq!(estimate.is_some(), read_at.is_some());
            if read_at == Some(now) {
                prop_assert_eq!(estimate, Some(left));
            }
            if let (Some(estimate), false) = (estimate, others) {
                prop_assert!(estimate <= left, "{} of {}", estimate, left);
            }
        }
        now += 2 * window;
        prop_assert!(budget.left(now).is_none_or(|left| left == limit as u64));
    }

    /// Less is left: no shorter lifetime; within the bounds; and no pull for a replacement if one with more left has none.
    #[test]
    fn stretching_is_monotone_and_bounded(
        limit in 1_u64..100_000, some in 0_u64..100_000, fewer in 0_u64..100_000,
        ttl in 0_u64..100_000, window in 1_u64..100_000, max_stale in proptest::option::of(0_u64..1_000_000),
    ) {
        let pulls = |remaining: u64| Pulls {
            limit,
            remaining: remaining.min(limit),
            window: Duration::from_secs(window),
        };
        let (some, fewer) = (pulls(some.max(fewer)), pulls(some.min(fewer)));
        let (ttl, max_stale) = (Duration::from_secs(ttl), max_stale.map(Duration::from_secs));
        let (one, other) = (some.stretch(ttl, max_stale), fewer.stretch(ttl, max_stale));
        prop_assert!(ttl <= one && one <= other);
        let bound = some.window.min(max_stale.unwrap_or(Duration::MAX));
        prop_assert!(other <= bound.max(ttl));
        prop_assert!(some.allow_replacing() || !fewer.allow_replacing());
    }
}
