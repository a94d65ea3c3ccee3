//! How a download continues after an interruption: a state machine without I/O.
//!
//! A drop or stall is resumed, from the same source first. Wrong bytes are discarded, and the download begins
//! anew with a source that did not send them.

use telemetry::metrics::CorruptSource;

/// How often a source may drop a download without a new byte.
const MOST_DROPS: u32 = 6;

/// The attempts made so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempts {
    /// Drops by this source since it last sent a new byte.
    drops: u32,
    /// Whom the staged bytes come from, if not from these attempts: an earlier process's partial may have been damaged on the
    /// disk, and another gateway may have sent other bytes.
    inherited_from: Option<CorruptSource>,
    /// Whether the last source was asked again after wrong bytes: the connection may have damaged them.
    asked_once_more: bool,
}

/// Why a stream of bytes ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DownloadEvent {
    /// The body broke off: `moved` says whether it had sent new bytes, `followed` whether readers see the staged file.
    Dropped { moved: bool, followed: bool },
    /// The source does not supply the content.
    Refused,
    /// The staged bytes do not match the digest.
    WrongBytes { more_sources: bool },
    /// The source sends other bytes than were staged: one of both is wrong.
    Changed,
    /// The disk has no room or is broken.
    NoRoom,
    /// Other fills wait for the slot, and this one has no followers.
    Outranked,
}

/// What the download does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DownloadStep {
    /// Asks the same source for the rest, after a wait for so many drops.
    Resume {
        drops: u32,
    },
    /// Discards the staged bytes, and asks the same source for everything.
    BeginAnew {
        blame: Option<CorruptSource>,
    },
    /// Drops the source and asks the next one for the rest, if there is any.
    NextSource,
    /// The same, for everything: the staged bytes are discarded.
    NextSourceAnew {
        blame: Option<CorruptSource>,
    },
    Fail,
    Pause,
}

impl Attempts {
    /// `inherited_from` is the origin of bytes that are staged already.
    pub const fn new(inherited_from: Option<CorruptSource>) -> Self {
        Self {
            drops: 0,
            inherited_from,
            asked_once_more: false,
        }
    }

    pub const fn next(self, event: DownloadEvent) -> (Self, DownloadStep) {
        match event {
            DownloadEvent::Dropped { moved, followed } => {
                let drops = if moved { 1 } else { self.drops + 1 };
                // An unpublished file has no readers: the request fails at once.
                if followed && drops < MOST_DROPS {
                    (Self { drops, ..self }, DownloadStep::Resume { drops })
                } else {
                    (self.for_next_source(), DownloadStep::NextSource)
                }
            }
            DownloadEvent::Refused => (self.for_next_source(), DownloadStep::NextSource),
            DownloadEvent::WrongBytes { .. } if self.inherited_from.is_some() => {
                let (blame, inherited_from) = (self.inherited_from, None);
                (
                    Self {
                        inherited_from,
                        ..self
                    },
                    DownloadStep::BeginAnew { blame },
                )
            }
            DownloadEvent::WrongBytes { more_sources } => {
                let blame = Some(CorruptSource::Upstream);
                if self.asked_once_more || more_sources {
                    (
                        self.for_next_source(),
                        DownloadStep::NextSourceAnew { blame },
                    )
                } else {
                    let asked_once_more = true;
                    let attempts = Self {
                        asked_once_more,
                        ..self
                    };
                    (attempts, DownloadStep::BeginAnew { blame })
                }
            }
            DownloadEvent::Changed => {
                let drops = self.drops + 1;
                let blame = None;
                if drops < MOST_DROPS {
                    (Self { drops, ..self }, DownloadStep::BeginAnew { blame })
                } else {
                    (
                        self.for_next_source(),
                        DownloadStep::NextSourceAnew { blame },
                    )
                }
            }
            DownloadEvent::NoRoom => (self, DownloadStep::Fail),
            DownloadEvent::Outranked => (self, DownloadStep::Pause),
        }
    }

    const fn for_next_source(self) -> Self {
        Self { drops: 0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPPED: DownloadEvent = DownloadEvent::Dropped {
        moved: false,
        followed: true,
    };
    const MOVED: DownloadEvent = DownloadEvent::Dropped {
        moved: true,
        followed: true,
    };
    const UNSEEN: DownloadEvent = DownloadEvent::Dropped {
        moved: true,
        followed: false,
    };
    const LAST: DownloadEvent = DownloadEvent::WrongBytes {
        more_sources: false,
    };
    const ONE_OF_MANY: DownloadEvent = DownloadEvent::WrongBytes { more_sources: true };

    /// The steps that a series of events leads to.
    fn steps(inherited_from: Option<CorruptSource>, events: &[DownloadEvent]) -> Vec<DownloadStep> {
        let mut attempts = Attempts::new(inherited_from);
        let steps = events.iter().map(|event| {
            let (next, step) = attempts.next(*event);
            attempts = next;
            step
        });
        steps.collect()
    }

    #[test]
    fn each_interruption_leads_to_one_step() {
        let resume = |drops| DownloadStep::Resume { drops };
        let (line, disk) = (Some(CorruptSource::Upstream), Some(CorruptSource::Disk));
        for (inherited_from, events, expected) in [
            // A source that sends new bytes each time may drop without limit.
            (None, &[MOVED; 20][..], vec![resume(1); 20]),
            (
                None,
                &[DROPPED; 6],
                vec![
                    resume(1),
                    resume(2),
                    resume(3),
                    resume(4),
                    resume(5),
                    DownloadStep::NextSource,
                ],
            ),
            (
                None,
                &[DROPPED, DROPPED, MOVED, DROPPED],
                vec![resume(1), resume(2), resume(1), resume(2)],
            ),
            // Drops by one source do not count for the next.
            (
                None,
                &[DROPPED, DROPPED, DownloadEvent::Refused, DROPPED],
                vec![resume(1), resume(2), DownloadStep::NextSource, resume(1)],
            ),
            (None, &[UNSEEN], vec![DownloadStep::NextSource]),
            // The last source is asked once more, and once only.
            (
                None,
                &[LAST, LAST],
                vec![
                    DownloadStep::BeginAnew { blame: line },
                    DownloadStep::NextSourceAnew { blame: line },
                ],
            ),
            (
                None,
                &[ONE_OF_MANY, LAST, LAST],
                vec![
                    DownloadStep::NextSourceAnew { blame: line },
                    DownloadStep::BeginAnew { blame: line },
                    DownloadStep::NextSourceAnew { blame: line },
                ],
            ),
            // An earlier process's partial is blamed first, and once.
            (
                disk,
                &[ONE_OF_MANY, ONE_OF_MANY],
                vec![
                    DownloadStep::BeginAnew { blame: disk },
                    DownloadStep::NextSourceAnew { blame: line },
                ],
            ),
            (
                Some(CorruptSource::Peer),
                &[LAST, LAST],
                vec![
                    DownloadStep::BeginAnew {
                        blame: Some(CorruptSource::Peer),
                    },
                    DownloadStep::BeginAnew { blame: line },
                ],
            ),
            (
                None,
                &[DownloadEvent::Changed; 6],
                [
                    vec![DownloadStep::BeginAnew { blame: None }; 5],
                    vec![DownloadStep::NextSourceAnew { blame: None }],
                ]
                .concat(),
            ),
            (None, &[DownloadEvent::NoRoom], vec![DownloadStep::Fail]),
            (None, &[DownloadEvent::Outranked], vec![DownloadStep::Pause]),
        ] {
            assert_eq!(
                steps(inherited_from, events),
                expected,
                "{inherited_from:?} {events:?}"
            );
        }
    }
}
