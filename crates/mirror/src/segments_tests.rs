//! Tests of the segment planner: a table of decisions, and random lines against a model.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn receiving(start: u64, end: u64) -> Remainder {
    Remainder {
        start: start * MIB,
        end: end * MIB,
        state: RemainderState::Receiving,
    }
}

fn idle(start: u64, end: u64) -> Remainder {
    let state = RemainderState::Idle;
    Remainder {
        state,
        ..receiving(start, end)
    }
}

fn connecting(start: u64, end: u64) -> Remainder {
    let state = RemainderState::Connecting;
    Remainder {
        state,
        ..receiving(start, end)
    }
}

fn open(start: u64, end: u64) -> SegmentStep {
    SegmentStep::Open {
        start: start * MIB,
        end: end * MIB,
    }
}

/// One observation: tenths of a second, MiB received, what is missing, the expected step.
type Observation = (u64, u64, Vec<Remainder>, SegmentStep);

fn run(mut planner: SegmentPlanner, observations: Vec<Observation>) -> SegmentPlanner {
    for (tenths, received, remainders, expected) in observations {
        let (next, step) = planner.next(SegmentEvent::Progress {
            now: Duration::from_millis(tenths * 100),
            received: received * MIB,
            remainders: &remainders,
        });
        assert_eq!(step, expected, "at {tenths}: {remainders:?}");
        planner = next;
    }
    planner
}

/// A planner that measured 8 MiB/s on one connection after a burst, and opened a second at 2 s.
fn with_two() -> SegmentPlanner {
    run(
        SegmentPlanner::new(4),
        vec![
            (0, 0, vec![receiving(0, 144)], SegmentStep::Wait),
            (10, 16, vec![receiving(16, 144)], SegmentStep::Wait),
            (19, 23, vec![receiving(23, 144)], SegmentStep::Wait),
            (20, 24, vec![receiving(24, 144)], open(84, 144)),
        ],
    )
}

#[test]
fn connections_are_added_while_each_raises_the_rate() {
    let two = |left, right| vec![receiving(left, 84), receiving(right, 144)];
    run(
        with_two(),
        vec![
            // The second connection counts from its first byte on.
            (
                30,
                32,
                vec![receiving(32, 84), connecting(84, 144)],
                SegmentStep::Wait,
            ),
            (40, 40, two(40, 84), SegmentStep::Wait),
            // Its burst is not measured.
            (50, 64, two(48, 100), SegmentStep::Wait),
            (59, 78, two(55, 107), SegmentStep::Wait),
            // 16 MiB/s: a third takes half of the largest remainder.
            (60, 80, two(40, 100), open(122, 144)),
        ],
    );
    run(
        with_two(),
        vec![
            (30, 32, two(32, 84), SegmentStep::Wait),
            (40, 48, two(40, 92), SegmentStep::Wait),
            // 9 MiB/s: the second connection was worth less than a fifth, and no other is tried.
            (50, 57, two(45, 96), SegmentStep::Wait),
            (60, 66, two(49, 101), SegmentStep::Wait),
            (70, 75, two(54, 105), SegmentStep::Wait),
            // The second one is not replaced either.
            (80, 84, vec![receiving(54, 144)], SegmentStep::Wait),
            (90, 94, vec![receiving(64, 144)], SegmentStep::Wait),
            (101, 104, vec![receiving(74, 144)], SegmentStep::Wait),
        ],
    );
    // One slow second ends nothing: a third connection takes half of the largest remainder.
    run(
        with_two(),
        vec![
            (30, 32, two(32, 84), SegmentStep::Wait),
            (40, 48, two(40, 92), SegmentStep::Wait),
            (50, 57, two(45, 96), SegmentStep::Wait),
            (60, 73, two(40, 100), open(122, 144)),
        ],
    );
}

#[test]
fn short_fills_and_forbidden_connections_open_none() {
    for (allowed, total) in [(4, 48), (1, 1024), (0, 1024)] {
        run(
            SegmentPlanner::new(allowed),
            vec![
                (0, 0, vec![receiving(0, total)], SegmentStep::Wait),
                (10, 8, vec![receiving(8, total)], SegmentStep::Wait),
                (20, 16, vec![receiving(16, total)], SegmentStep::Wait),
            ],
        );
    }
    // A connection that sends nothing has no rate.
    run(
        SegmentPlanner::new(4),
        vec![
            (0, 0, vec![receiving(0, 128)], SegmentStep::Wait),
            (50, 0, vec![receiving(0, 128)], SegmentStep::Wait),
            (70, 0, vec![receiving(0, 128)], SegmentStep::Wait),
        ],
    );
}

#[test]
fn useful_connections_are_replaced_at_once() {
    let two = run(
        with_two(),
        vec![
            (
                30,
                24,
                vec![receiving(24, 84), receiving(84, 144)],
                SegmentStep::Wait,
            ),
            (
                40,
                40,
                vec![receiving(32, 84), receiving(92, 144)],
                SegmentStep::Wait,
            ),
            (
                50,
                72,
                vec![receiving(48, 84), receiving(84, 1000)],
                open(542, 1000),
            ),
        ],
    );
    // One of two useful connections ended: idle bytes come first, then the largest remainder.
    run(
        two,
        vec![(51, 74, vec![receiving(34, 68), idle(80, 81)], open(80, 81))],
    );
    run(
        two,
        vec![(51, 74, vec![receiving(34, 334)], open(184, 334))],
    );
    // Too little is left for one more.
    run(
        two,
        vec![(51, 74, vec![receiving(34, 40)], SegmentStep::Wait)],
    );
}

#[test]
fn drops_delay_and_end_further_connections() {
    let later = |planner, tenths, step| {
        run(
            planner,
            vec![(tenths, 2 * tenths, vec![receiving(8, 1008)], step)],
        )
    };
    let drop = |planner: SegmentPlanner, moved| {
        let now = Duration::from_secs(3);
        planner.next(SegmentEvent::Dropped { now, moved }).0
    };
    let once = drop(with_two(), true);
    let once = later(once, 31, SegmentStep::Wait);
    later(once, 41, open(508, 1008));
    let mut many = with_two();
    for _ in 0..20 {
        many = drop(many, true);
    }
    later(later(many, 31, SegmentStep::Wait), 41, open(508, 1008));
    for _ in 0..MOST_DROPS {
        many = drop(many, false);
    }
    later(
        later(many, 1000, SegmentStep::Wait),
        2000,
        SegmentStep::Wait,
    );
    let limited = |connections| with_two().next(SegmentEvent::Limited { connections }).0;
    later(
        later(limited(1), 1000, SegmentStep::Wait),
        2000,
        SegmentStep::Wait,
    );
    later(limited(2), 31, open(508, 1008));
}

#[test]
fn reader_far_ahead_gets_what_no_connection_sends_next() {
    let planner = SegmentPlanner::new(3);
    let parts = [receiving(8, 64), receiving(70, 100), idle(120, 144)];
    for (mib, expected) in [
        // Not yet, or no longer, missing.
        (5, None),
        (65, None),
        // A connection sends these next.
        (8, None),
        (70, None),
        (9, Some((9, 64))),
        (99, Some((99, 100))),
        (120, Some((120, 144))),
        (130, Some((130, 144))),
    ] {
        let expected = expected.map(|(start, end): (u64, u64)| (start * MIB, end * MIB));
        let offset = mib * MIB;
        assert_eq!(planner.ahead(offset, &parts), expected, "{mib}");
        // The part begins at a whole block.
        let inside = expected.filter(|(start, _)| *start == offset);
        assert_eq!(planner.ahead(offset + 1, &parts), inside, "{mib}");
    }
    let many = [receiving(8, 64), connecting(70, 100), receiving(120, 144)];
    assert_eq!(planner.ahead(30 * MIB, &many), None);
    let two = &many[..2];
    assert_eq!(planner.ahead(30 * MIB, two), Some((30 * MIB, 64 * MIB)));
}

/// A connection of the model: it fetches `at..end`, its first byte after `connects` ticks, at `rate` bytes a tick.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: u64,
    end: u64,
    connects: u32,
    rate: u64,
    /// After so many ticks it drops.
    lives: u32,
}

/// The missing bytes: those of each line, and those that no line fetches.
fn missing(lines: &[Line], idle: &[(u64, u64)]) -> Vec<Remainder> {
    let mut parts: Vec<_> = lines
        .iter()
        .map(|line| Remainder {
            start: line.at,
            end: line.end,
            state: if line.connects > 0 {
                RemainderState::Connecting
            } else {
                RemainderState::Receiving
            },
        })
        .collect();
    parts.extend(idle.iter().map(|&(start, end)| Remainder {
        start,
        end,
        state: RemainderState::Idle,
    }));
    parts.sort_by_key(|part| part.start);
    parts
}

proptest! {
    /// Each byte is fetched by one line, never by more lines than allowed, and all of them arrive.
    #[test]
    fn each_byte_is_fetched_once(
        total in MIN_TOTAL..256 * MIB,
        allowed in 1_u32..6,
        rates in prop::collection::vec(MIB / 4..8 * MIB, 1..12),
        connects in prop::collection::vec(0_u32..15, 1..12),
        lives in prop::collection::vec(5_u32..2000, 1..12),
    ) {
        let line = |number: usize, at, end| Line {
            at,
            end,
            connects: connects[number % connects.len()],
            rate: rates[number % rates.len()],
            lives: lives[number % lives.len()],
        };
        let mut planner = SegmentPlanner::new(allowed);
        let mut lines = vec![line(0, 0, total)];
        let (mut idle, mut opened) = (Vec::new(), 1);
        let (mut received, mut tick) = (0, 0_u64);
        while received < total {
            tick += 1;
            let now = Duration::from_millis(tick * 100);
            let mut open = Vec::new();
            for mut line in std::mem::take(&mut lines) {
                if line.connects > 0 {
                    line.connects -= 1;
                } else {
                    line.lives -= 1;
                    let step = line.rate.min(line.end - line.at);
                    (line.at, received) = (line.at + step, received + step);
                }
                if line.at == line.end {
                    continue;
                }
                if line.lives > 0 {
                    open.push(line);
                    continue;
                }
                idle.push((line.at, line.end));
                planner = planner.next(SegmentEvent::Dropped { now, moved: true }).0;
            }
            lines = open;
            if lines.is_empty() && !idle.is_empty() {
                // The fill's own connection continues at the first missing byte.
                idle.sort_unstable();
                let (start, end) = idle.remove(0);
                lines.push(line(opened, start, end));
                opened += 1;
            }
            let parts = missing(&lines, &idle);
            let left: u64 = parts.iter().map(Remainder::length).sum();
            prop_assert_eq!(received + left, total);
            let event = SegmentEvent::Progress { now, received, remainders: &parts };
            let (next, step) = planner.next(event);
            planner = next;
            let SegmentStep::Open { start, end } = step else { continue };
            if let Some(place) = idle.iter().position(|part| *part == (start, end)) {
                idle.remove(place);
            } else {
                prop_assert_eq!(start % ALIGNMENT, 0);
                let mut owners = lines.iter_mut().filter(|line| line.end == end);
                let owner = owners.next().expect("a line is cut");
                prop_assert!(owner.at < start && start < end);
                owner.end = start;
            }
            lines.push(line(opened, start, end));
            opened += 1;
            prop_assert!(lines.len() <= allowed as usize);
        }
    }
}
