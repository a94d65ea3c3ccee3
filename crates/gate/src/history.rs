//! `min_age`: which target of a tag is served while it is too young.
//!
//! A tag's age is counted from when this gateway first saw it move to its target: what a registry or an image says of
//! its time of creation is not trusted. The first target that is seen is no move. A target that the tag leaves before
//! its time is never served: a release that was withdrawn or replaced soon is what the rule is for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use oci::digest::Digest;

/// The target of a tag, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagHistory {
    /// The target that was seen last.
    pub digest: Digest,
    /// When it was first seen there, in seconds since 1970; `None`: it is old enough.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub moved_at: Option<u64>,
    /// What is served until then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<Digest>,
}

/// What is seen of a tag.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// Its target now.
    pub target: Digest,
    /// Its target when it was served before there was a history.
    pub served_before: Option<Digest>,
    /// When another tag of the repository was first seen to move to the target, in seconds since 1970, if that has not
    /// been admitted since.
    pub target_moved_at: Option<u64>,
    /// By the clock on the wall, in seconds since 1970.
    pub now: u64,
    /// The time that can have passed since `moved_at` at most: what a steady clock counted since this process knows it.
    pub at_most: Option<Duration>,
}

/// What a tag answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Its target.
    Target,
    /// The target of before.
    Previous(Digest),
    /// Nothing: the target is too young, and it is the first of the tag.
    Nothing,
}

/// The history after a sighting, and what the tag answers.
pub fn observe(
    known: Option<&TagHistory>,
    sighting: &Sighting,
    min_age: Duration,
) -> (TagHistory, Choice) {
    let Sighting { target, now, .. } = *sighting;
    let next = match known {
        None => first(sighting, min_age),
        Some(known) if known.digest == target => {
            // A time in the future is that of a clock which was set back since.
            let moved_at = known.moved_at.map(|at| at.min(now));
            let age = moved_at.map(|at| Duration::from_secs(now - at));
            let age = age.map(|age| sighting.at_most.map_or(age, |most| age.min(most)));
            if age.is_none_or(|age| age >= min_age) {
                settled(target)
            } else {
                TagHistory {
                    moved_at,
                    ..known.clone()
                }
            }
        }
        // It moved back.
        Some(known) if known.previous == Some(target) => settled(target),
        Some(known) => TagHistory {
            digest: target,
            moved_at: Some(now),
            // A target that was left before its time was never served.
            previous: match known.moved_at {
                None => Some(known.digest),
                Some(_) => known.previous,
            },
        },
    };
    let choice = match (next.moved_at, next.previous) {
        (None, _) => Choice::Target,
        (Some(_), Some(previous)) => Choice::Previous(previous),
        (Some(_), None) => Choice::Nothing,
    };
    (next, choice)
}

/// The history of a tag that is seen for the first time.
fn first(sighting: &Sighting, min_age: Duration) -> TagHistory {
    let Sighting { target, now, .. } = *sighting;
    let previous = sighting.served_before.filter(|before| *before != target);
    let moved_at = match previous {
        Some(_) => Some(now),
        None => sighting.target_moved_at.map(|at| at.min(now)),
    };
    let moved_at = moved_at.filter(|at| Duration::from_secs(now - at) < min_age);
    TagHistory {
        digest: target,
        moved_at,
        previous,
    }
}

fn settled(target: Digest) -> TagHistory {
    TagHistory {
        digest: target,
        moved_at: None,
        previous: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIN_AGE: Duration = Duration::from_secs(100);

    fn digest(n: char) -> Digest {
        let text = format!("sha256:{}", n.to_string().repeat(64));
        text.parse().expect("a digest")
    }

    fn seen(target: char, now: u64) -> Sighting {
        Sighting {
            target: digest(target),
            served_before: None,
            target_moved_at: None,
            now,
            at_most: None,
        }
    }

    /// The digits of what is served at each sighting; `-`: nothing.
    fn served(sightings: &[(char, u64)]) -> String {
        let mut history: Option<TagHistory> = None;
        let mut all = String::new();
        for (target, now) in sightings {
            let (next, choice) = observe(history.as_ref(), &seen(*target, *now), MIN_AGE);
            history = Some(next);
            let shown = match choice {
                Choice::Target => digest(*target),
                Choice::Previous(previous) => previous,
                Choice::Nothing => {
                    all.push('-');
                    continue;
                }
            };
            all.push(shown.hex().chars().next().expect("a digit"));
        }
        all
    }

    #[test]
    fn targets_of_tags() {
        for (sightings, expected) in [
            // The first one is no move.
            (&[('a', 5)][..], "a"),
            // A move is served once it is old enough, and stays.
            (
                &[('a', 5), ('b', 10), ('b', 109), ('b', 110), ('b', 111)],
                "aaabb",
            ),
            // It moves back: it was served all the time. The next move counts from its own time.
            (
                &[
                    ('a', 5),
                    ('b', 10),
                    ('a', 20),
                    ('b', 30),
                    ('b', 129),
                    ('b', 130),
                ],
                "aaaaab",
            ),
            // What it leaves before its time is never served, however long ago that is.
            (
                &[
                    ('a', 5),
                    ('b', 10),
                    ('c', 50),
                    ('c', 149),
                    ('c', 150),
                    ('b', 200),
                ],
                "aaaacc",
            ),
            // Only what is seen there at both ends stayed there.
            (&[('a', 5), ('b', 10), ('c', 1000), ('c', 1100)], "aaac"),
            // A tag that moves more often than that stays where it was.
            (
                &[
                    ('a', 5),
                    ('b', 50),
                    ('c', 100),
                    ('d', 150),
                    ('e', 200),
                    ('e', 300),
                ],
                "aaaaae",
            ),
            // A clock that is set back: the time in the future counts as now.
            (
                &[('a', 5000), ('b', 6000), ('b', 10), ('b', 109), ('b', 110)],
                "aaaab",
            ),
        ] {
            assert_eq!(served(sightings), expected, "{sightings:?}");
        }
    }

    #[test]
    fn steady_clock_bounds_the_age() {
        let (history, _) = observe(None, &seen('a', 5), MIN_AGE);
        let (history, _) = observe(Some(&history), &seen('b', 10), MIN_AGE);
        for (at_most, choice) in [
            (Some(99), Choice::Previous(digest('a'))),
            (Some(100), Choice::Target),
            (None, Choice::Target),
        ] {
            let later = Sighting {
                at_most: at_most.map(Duration::from_secs),
                ..seen('b', 1_000_000)
            };
            assert_eq!(
                observe(Some(&history), &later, MIN_AGE).1,
                choice,
                "{at_most:?}"
            );
        }
    }

    #[test]
    fn first_sightings() {
        let previous = Choice::Previous(digest('b'));
        for (served_before, target_moved_at, choice, moved_at) in [
            (None, None, Choice::Target, None),
            (Some('a'), None, Choice::Target, None),
            // It was served before there was a history.
            (Some('b'), None, previous, Some(1000)),
            // Another tag moved to it a short while ago.
            (None, Some(950), Choice::Nothing, Some(950)),
            (None, Some(2000), Choice::Nothing, Some(1000)),
            (None, Some(900), Choice::Target, None),
            (Some('b'), Some(950), previous, Some(1000)),
        ] {
            let sighting = Sighting {
                served_before: served_before.map(digest),
                target_moved_at,
                ..seen('a', 1000)
            };
            let (history, chosen) = observe(None, &sighting, MIN_AGE);
            let case = (served_before, target_moved_at);
            assert_eq!((chosen, history.moved_at), (choice, moved_at), "{case:?}");
        }
    }

    proptest! {
        /// The reference: the last target that was seen at two times, `MIN_AGE` or more apart, and all the time
        /// between them; or else the first one.
        #[test]
        fn only_targets_that_stayed_are_served(
            steps in proptest::collection::vec((0_u8..3, 0_u64..80), 1..40)
        ) {
            let mut now = 0;
            let mut sightings: Vec<(char, u64)> = Vec::new();
            let (mut current, mut since, mut expected) = (None, 0, None);
            for (target, wait) in steps {
                now += wait;
                let target = char::from(b'a' + target);
                if current != Some(target) {
                    (current, since) = (Some(target), now);
                }
                if expected.is_none() || now - since >= 100 {
                    expected = Some(target);
                }
                sightings.push((target, now));
                let last = served(&sightings).chars().last();
                prop_assert_eq!(last, expected);
            }
        }
    }
}
