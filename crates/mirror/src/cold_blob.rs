//! Blobs that are not stored: a request joins a fill, and joins another where that one ended without it.

use std::sync::Arc;
use std::time::Duration;

use super::blob::{BlobAnswer, Content};
use super::contents::StoredBlob;
use super::fallback::FallbackBlob;
use super::fill::{FillError, Follower, Joined, Phase};
use super::source::{BlobSource, FillKey, FillSource};
use super::{Mirror, MirrorError, Origin};
use access::Permit;
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use upstream::UpstreamError;

/// How long a client waits for the first sign of a cold blob.
const HEADER_DEADLINE: Duration = Duration::from_secs(25);
/// How often a request joins another fill because one ended with what others were told.
const MOST_JOINS: u32 = 3;

/// How far a request for a cold blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asking {
    side: Side,
    /// Whether the repository is known to have it.
    claimed: bool,
    /// Fills joined again because one ended with what others were told.
    joins: u32,
}

/// Where a request gets its bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Who may have what the fallback gave out was looked up.
    Fallback,
    Upstream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A fill is under way from other repositories.
    Unclaimed,
    /// The fill gave its slot up before it saw this request.
    Paused,
    Failed {
        /// Whether the source does not have it, or has something else.
        lost: bool,
        /// Whether the fill ended by what another source said, before it came to this one.
        ended_without: bool,
        /// Whether it had been asked for before this request came, and the upstream said 404.
        too_early: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Joins a fill, or starts one.
    Join,
    /// Asks whether the repository has it, then joins.
    Claim,
    /// Answers with why there is none.
    Refuse,
}

impl Asking {
    const fn next(self, event: Event) -> (Self, Step) {
        let Self {
            side,
            claimed,
            joins,
        } = self;
        match (side, event) {
            (_, Event::Unclaimed) => {
                let claimed = true;
                (Self { claimed, ..self }, Step::Claim)
            }
            (_, Event::Paused) => (self, Step::Join),
            // The fallback has it no more. The v2 side may.
            (Side::Fallback, Event::Failed { lost: true, .. }) => {
                let side = Side::Upstream;
                (Self { side, ..self }, Step::Join)
            }
            (
                Side::Upstream,
                Event::Failed {
                    ended_without: true,
                    ..
                },
            ) if joins < MOST_JOINS => {
                let joins = joins + 1;
                (Self { joins, ..self }, Step::Join)
            }
            // It may have been asked for before it was put there, of which the claim tells.
            (
                Side::Upstream,
                Event::Failed {
                    too_early: true, ..
                },
            ) if claimed && joins < MOST_JOINS => {
                let joins = MOST_JOINS;
                (Self { joins, ..self }, Step::Join)
            }
            (_, Event::Failed { .. }) => (self, Step::Refuse),
        }
    }
}

impl Mirror {
    /// A blob that is not stored, from a fill. `claimed` says that the repository is known to have it.
    pub(super) async fn fill_blob(
        &self,
        origin: &Arc<Origin>,
        permit: &Permit,
        digest: &Digest,
        claimed: bool,
    ) -> Result<BlobAnswer, MirrorError> {
        let shared = &self.shared;
        let upstream = FillSource::Blob(BlobSource {
            origin: origin.clone(),
            repository: permit.repository().clone(),
        });
        let given = shared.blob_of_fallback(origin, permit.repository(), digest);
        let (side, fallback) = match given.await {
            Some(FallbackBlob::Rebuilt(bytes)) => {
                let cache = CacheStatus::forward(Forward::UriMiss).stored();
                let cache = cache.detail("converted");
                return Ok(BlobAnswer::stored(StoredBlob::Memory(bytes), cache));
            }
            Some(FallbackBlob::Source(source)) => (Side::Fallback, FillSource::Foreign(source)),
            None => (Side::Upstream, upstream.clone()),
        };
        let mut asking = Asking {
            side,
            claimed,
            joins: 0,
        };
        loop {
            let claim = shared.ask_blob(permit, digest);
            let source = match asking.side {
                Side::Fallback => &fallback,
                Side::Upstream => &upstream,
            };
            let (event, error) = match self.join_blob(digest, source, asking).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let (next, step) = asking.next(event);
            match (step, error) {
                (Step::Claim, _) => drop(self.claim_blob(origin, permit, digest).await?),
                (Step::Refuse, Some(error)) => {
                    return Err(match asking.side {
                        Side::Fallback => MirrorError::from_fill(error),
                        Side::Upstream => shared.blob_refused(origin, &claim, error).await,
                    });
                }
                (Step::Join, _) | (Step::Refuse, None) => {}
            }
            asking = next;
        }
    }

    /// Joins the fill of a blob, and waits until its length is known.
    async fn join_blob(
        &self,
        digest: &Digest,
        source: &FillSource,
        asking: Asking,
    ) -> Result<BlobAnswer, (Event, Option<FillError>)> {
        let key = FillKey::Digest(*digest);
        let claimed = asking.claimed || asking.side == Side::Fallback;
        let fills = &self.shared.contents.fills;
        let Joined::Fill {
            mut follower,
            collapsed,
        } = fills.join(key, source.clone(), claimed)
        else {
            return Err((Event::Unclaimed, None));
        };
        let cache = CacheStatus::forward(Forward::UriMiss).collapsed(collapsed);
        let source = source.clone();
        match opened(&mut follower, &source).await {
            Ok(size) => Ok(BlobAnswer {
                size,
                cache: cache.stored(),
                content: Content::Fill(follower, source),
            }),
            Err(FillError::NoRoom { total }) => Ok(BlobAnswer {
                size: total,
                cache: cache.detail("no-room"),
                content: Content::PassThrough(source, key),
            }),
            Err(FillError::Paused) => Err((Event::Paused, None)),
            Err(error) => {
                let is_answer = matches!(error, FillError::Upstream(_) | FillError::Commit(_));
                let not_found = matches!(
                    &error,
                    FillError::Upstream(error) if matches!(error.root(), UpstreamError::NotFound)
                );
                let lost = matches!(
                    MirrorError::from_fill(error.clone()),
                    MirrorError::Unknown { .. }
                        | MirrorError::Unusable(_)
                        | MirrorError::DigestMismatch(_)
                );
                let event = Event::Failed {
                    lost,
                    ended_without: is_answer && follower.fill.ended_without(&source),
                    too_early: collapsed && not_found,
                };
                Err((event, Some(error)))
            }
        }
    }
}

/// Waits until a fill knows its length, or why this source gave nothing, for as long as a client does.
pub(super) async fn opened(
    follower: &mut Follower,
    source: &FillSource,
) -> Result<Option<u64>, FillError> {
    let opened = tokio::time::timeout(HEADER_DEADLINE, begun(follower, source)).await;
    opened.unwrap_or_else(|_| Err(FillError::Upstream(Arc::new(UpstreamError::Timeout))))
}

async fn begun(follower: &mut Follower, source: &FillSource) -> Result<Option<u64>, FillError> {
    let Follower { fill, progress } = follower;
    loop {
        if let Some(refusal) = fill.refusal(source) {
            return Err(refusal);
        }
        {
            let progress = progress.borrow_and_update();
            match &progress.phase {
                // The bucket has it, and its length is known from elsewhere.
                Phase::Asking if progress.total.is_some() => return Ok(progress.total),
                Phase::Asking => {}
                Phase::Streaming { .. } => return Ok(progress.total),
                Phase::Done { .. } => return Ok(Some(progress.written)),
                Phase::Failed(error) => return Err(error.clone()),
            }
        }
        progress.changed().await.map_err(|_| FillError::Lost)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Event = failed(true, false, false);
    const WITHOUT: Event = failed(true, true, false);
    const TOO_EARLY: Event = failed(true, false, true);

    const fn failed(lost: bool, ended_without: bool, too_early: bool) -> Event {
        Event::Failed {
            lost,
            ended_without,
            too_early,
        }
    }

    /// What a series of events leads to, step by step.
    fn steps(side: Side, claimed: bool, events: &[Event]) -> Vec<Step> {
        let mut asking = Asking {
            side,
            claimed,
            joins: 0,
        };
        let steps = events.iter().map(|event| {
            let (next, step) = asking.next(*event);
            asking = next;
            step
        });
        steps.collect()
    }

    #[test]
    fn each_event_leads_to_one_step() {
        use Step::{Claim, Join, Refuse};
        for (side, claimed, events, expected) in [
            (Side::Upstream, false, &[Event::Unclaimed][..], &[Claim][..]),
            (Side::Upstream, true, &[Event::Paused; 9], &[Join; 9]),
            (Side::Upstream, true, &[LOST], &[Refuse]),
            // What others were told ends a request after a few tries.
            (
                Side::Upstream,
                false,
                &[WITHOUT; 4],
                &[Join, Join, Join, Refuse],
            ),
            // One that is claimed asks once more where the 404 may be older than the claim.
            (Side::Upstream, true, &[TOO_EARLY; 2], &[Join, Refuse]),
            (Side::Upstream, false, &[TOO_EARLY], &[Refuse]),
            (
                Side::Upstream,
                false,
                &[Event::Unclaimed, TOO_EARLY, TOO_EARLY],
                &[Claim, Join, Refuse],
            ),
            (Side::Upstream, true, &[TOO_EARLY, WITHOUT], &[Join, Refuse]),
            // What the fallback lost, the v2 side may have; what it cannot say is the answer.
            (Side::Fallback, false, &[LOST, LOST], &[Join, Refuse]),
            (Side::Fallback, false, &[WITHOUT, LOST], &[Join, Refuse]),
            (
                Side::Fallback,
                true,
                &[failed(false, true, false)],
                &[Refuse],
            ),
            (Side::Fallback, true, &[Event::Paused, LOST], &[Join, Join]),
        ] {
            assert_eq!(
                steps(side, claimed, events),
                expected,
                "{side:?} {claimed} {events:?}"
            );
        }
    }
}
