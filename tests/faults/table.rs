//! The table: each fault, and the clients' view of it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::scene::{Reach, SIZE, World};
use testkit::origin::{Auth, Bearer, Fault};

/// A client's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// 200, complete and correct.
    Whole,
    /// The same, marked as stale.
    Stale,
    /// This status and code, complete.
    Error(u16, &'static str),
    /// 200, and visibly incomplete.
    Broken,
}

impl Seen {
    pub fn is_a_body(self) -> bool {
        !matches!(self, Self::Error(..))
    }
}

/// The outcomes of requests for one subject.
#[derive(Clone, Copy)]
pub struct Expected {
    pub cold: Seen,
    pub warm: Seen,
    pub late: Seen,
    /// The client whose download the late one joined.
    pub first: Seen,
}

/// The kind of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// A fault of answers: bodies in flight are not affected.
    Answer,
    /// A fault of bodies.
    Body,
}

#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub when: When,
    pub apply: fn(&mut World),
    pub blob: Expected,
    pub tag: Expected,
    pub digest: Expected,
    pub reach: Reach,
    /// Whether it waits for a deadline.
    pub slow: bool,
    /// Whether the upstream is paused after it.
    pub pauses: bool,
    /// Upstream requests of one blob download.
    pub gets: RangeInclusive<usize>,
    /// Upstream requests of one manifest download.
    pub manifest_gets: RangeInclusive<usize>,
    /// Wrong bytes that an incomplete body may contain.
    pub wrong_bytes: usize,
}

const WHOLE: Seen = Seen::Whole;
const STALE: Seen = Seen::Stale;
const BROKEN: Seen = Seen::Broken;
const DENIED: Seen = Seen::Error(403, "DENIED");
const LIMITED: Seen = Seen::Error(429, "TOOMANYREQUESTS");
const DOWN: Seen = Seen::Error(503, "UNAVAILABLE");
const UNUSABLE: Seen = Seen::Error(502, "UNKNOWN");
const GONE: Seen = Seen::Error(404, "MANIFEST_UNKNOWN");

/// The offset at which bodies are cut off: past the half that late clients wait for.
const MOST: u64 = SIZE as u64 * 2 / 3;
/// The same for a manifest.
const SOME: u64 = 10;

/// A fault of answers: bodies in flight end well. `cold` is the outcome of a request that must go upstream, `tag` that
/// of a known tag.
fn answers(name: &'static str, cold: Seen, tag: Seen, apply: fn(&mut World)) -> Case {
    let first = WHOLE;
    let here = Expected {
        cold,
        warm: WHOLE,
        late: WHOLE,
        first,
    };
    let tag = Expected {
        cold,
        warm: tag,
        late: tag,
        first,
    };
    Case {
        name,
        when: When::Answer,
        apply,
        blob: here,
        tag,
        digest: here,
        reach: Reach::Direct,
        slow: false,
        pauses: false,
        gets: 1..=1,
        manifest_gets: 1..=1,
        wrong_bytes: 0,
    }
}

/// A fault of bodies: all clients see it except those served from the store.
fn bodies(name: &'static str, blob: Seen, manifest: Seen, apply: fn(&mut World)) -> Case {
    let all = |cold| Expected {
        cold,
        warm: WHOLE,
        late: cold,
        first: cold,
    };
    Case {
        when: When::Body,
        blob: all(blob),
        tag: all(manifest),
        digest: all(manifest),
        ..answers(name, WHOLE, WHOLE, apply)
    }
}

/// A fault by name.
type Named = (&'static str, fn(&mut World));

/// A fault for blobs and one for manifests.
fn both(world: &World, blob: Fault, manifest: Fault) {
    world.origin.fault(blob.on("GET", "*/blobs/*"));
    world.origin.fault(manifest.on("GET", "*/manifests/*"));
}

fn everywhere(world: &World, fault: Fault) {
    world.origin.fault(fault.on("*", "/v2/*"));
}

fn bearer(world: &World, bearer: Bearer) {
    world.origin.require(Auth::Bearer(bearer));
}

pub fn cases() -> Vec<Case> {
    let mut cases = of_bodies();
    cases.extend(of_answers());
    cases
}

fn of_bodies() -> Vec<Case> {
    vec![
        bodies("throttled", WHOLE, WHOLE, |world| {
            both(world, Fault::Throttle(1 << 20), Fault::Throttle(2000));
        }),
        Case {
            gets: 2..=2,
            ..bodies("truncated", WHOLE, DOWN, |world| {
                both(world, Fault::TruncateAt(MOST), Fault::TruncateAt(SOME));
            })
        },
        Case {
            gets: 2..=2,
            manifest_gets: 2..=2,
            ..bodies("truncated once", WHOLE, WHOLE, |world| {
                for name in ["h1", "h2"] {
                    for (kind, at) in [("blobs", MOST), ("manifests", SOME)] {
                        let path = format!("/v2/library/{name}/{kind}/*");
                        let cut = Fault::TruncateAt(at).on("GET", &path);
                        world.origin.fault(cut.times(1));
                    }
                }
            })
        },
        Case {
            // A source of wrong bytes is asked once more.
            gets: 2..=2,
            ..bodies("overlong", BROKEN, UNUSABLE, |world| {
                both(world, Fault::Overlong(10), Fault::Overlong(10));
            })
        },
        Case {
            gets: 2..=2,
            wrong_bytes: 1,
            ..bodies("wrong bytes", BROKEN, UNUSABLE, |world| {
                both(world, Fault::WrongByteAt(1000), Fault::WrongByteAt(SOME));
            })
        },
        Case {
            slow: true,
            gets: 2..=2,
            ..bodies("stalled", WHOLE, DOWN, |world| {
                both(world, Fault::StallAt(MOST), Fault::StallAt(SOME));
            })
        },
        Case {
            // A reset discards bytes in flight.
            gets: 2..=4,
            ..bodies("reset", WHOLE, DOWN, |world| {
                both(world, Fault::ResetAt(MOST), Fault::ResetAt(SOME));
            })
        },
        Case {
            gets: 2..=2,
            wrong_bytes: SIZE,
            ..bodies("gzip without a word", BROKEN, UNUSABLE, |world| {
                both(world, Fault::Gzip, Fault::Gzip);
                let word = Fault::header("Content-Encoding", "identity");
                world.origin.fault(word);
            })
        },
    ]
}

fn of_answers() -> Vec<Case> {
    let denied: [Named; 3] = [
        ("401 for ever", |world| {
            bearer(
                world,
                Bearer {
                    accepts: false,
                    ..Bearer::default()
                },
            );
        }),
        ("a token without rights, 401", |world| {
            bearer(
                world,
                Bearer {
                    grants: false,
                    ..Bearer::default()
                },
            );
        }),
        ("a token without rights, 403", |world| {
            bearer(
                world,
                Bearer {
                    grants: false,
                    refusal: 403,
                    ..Bearer::default()
                },
            );
        }),
    ];
    let denied = denied.map(|(name, apply)| answers(name, DENIED, DENIED, apply));
    let failing: [Named; 4] = [
        ("500", |world| everywhere(world, Fault::status(500))),
        ("503", |world| everywhere(world, Fault::status(503))),
        ("reset at once", |world| everywhere(world, Fault::Reset)),
        ("hung up", |world| everywhere(world, Fault::Hangup)),
    ];
    let failing = failing.map(|(name, apply)| Case {
        pauses: true,
        ..answers(name, DOWN, STALE, apply)
    });
    let mut cases = vec![
        Case {
            slow: true,
            pauses: true,
            ..answers("no answer", DOWN, STALE, |world| {
                everywhere(world, Fault::Stall);
            })
        },
        answers("429", LIMITED, STALE, |world| {
            everywhere(world, Fault::status_with(429, "Retry-After", "30"));
        }),
        Case {
            reach: Reach::Account,
            // The first request is challenged for the account.
            gets: 1..=2,
            ..answers(
                "a redirect to a host that wants no account",
                WHOLE,
                WHOLE,
                |world| {
                    world
                        .storage
                        .fault(Fault::status(400).on("*", "*").with_header("Authorization"));
                    let target = format!("{}{{path}}?signed=1", world.storage.url());
                    everywhere(world, Fault::Redirect(307, target));
                },
            )
        },
        Case {
            reach: Reach::Proxied,
            ..answers("a redirect to 127.0.0.1", UNUSABLE, UNUSABLE, |world| {
                let target = format!("{}{{path}}", world.storage.url());
                let target = target.replace("127.0.0.8", "127.0.0.1");
                everywhere(world, Fault::Redirect(307, target));
            })
        },
        answers("HEAD 405", WHOLE, WHOLE, |world| {
            world.origin.fault(Fault::status(405).on("HEAD", "*"));
        }),
        answers("no digest header", WHOLE, WHOLE, |world| {
            world.origin.fault(Fault::NoDigestHeader);
        }),
        answers("a moved tag", WHOLE, WHOLE, World::move_tags),
        deleted(),
        answers("gzip", UNUSABLE, UNUSABLE, |world| {
            everywhere(world, Fault::Gzip);
        }),
        down(),
        answers("late headers", WHOLE, WHOLE, |world| {
            everywhere(world, Fault::Delay(Duration::from_millis(300)));
        }),
    ];
    cases.extend(denied);
    cases.extend(failing);
    cases
}

/// A deleted tag does not affect content by digest.
fn deleted() -> Case {
    let apply: fn(&mut World) = |world| {
        for image in &world.images {
            world.origin.delete_tag(&image.repository, &image.tag);
        }
    };
    let there = answers("", WHOLE, WHOLE, apply);
    Case {
        blob: there.blob,
        digest: there.digest,
        ..answers("a deleted tag", GONE, GONE, apply)
    }
}

/// The upstream is gone and bodies in flight are cut off: a blob's readers wait during the retries, then see an
/// incomplete body.
fn down() -> Case {
    let mut case = answers("down", DOWN, STALE, |world| world.origin.down());
    (case.blob.first, case.blob.late) = (BROKEN, BROKEN);
    (case.tag.first, case.tag.late) = (DOWN, DOWN);
    (case.digest.first, case.digest.late) = (DOWN, DOWN);
    Case {
        slow: true,
        pauses: true,
        ..case
    }
}
