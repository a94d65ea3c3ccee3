//! Blobs that are not stored: a request joins a fill, and joins another if that one ended before it was asked for.

use std::sync::Arc;
use std::time::Duration;

use super::blob_answer::{BlobAnswer, Content};
use super::contents::StoredBlob;
use super::fallback::FallbackBlob;
use super::fill::{Follower, Joined, SourceClaim};
use super::origin::OriginView;
use super::progress::{FillError, Phase};
use super::source::{BlobSource, FillKey, FillSource};
use super::waiting::Requester;
use super::{Mirror, MirrorError};
use access::Permit;
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use upstream::UpstreamError;

/// How long a client waits for the headers of a cold blob.
const HEADER_DEADLINE: Duration = Duration::from_secs(25);
/// How often a request joins another fill because one ended with another source's error.
const MOST_JOINS: u32 = 3;

/// The state of a request for a cold blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ColdRequest {
    source_kind: ColdSource,
    /// Whether the repository is known to have it.
    claim: SourceClaim,
    /// Fills joined again because one ended with another source's error.
    joins: u32,
}

/// The kind of source that a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColdSource {
    /// The right to the fallback's content is checked already.
    Fallback,
    Upstream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColdEvent {
    /// A fill is in progress from other repositories.
    Unclaimed,
    /// The fill yielded its slot before this request joined.
    Paused,
    Failed {
        /// Whether the source does not have the content, or sent other bytes.
        lost: bool,
        /// Whether the fill ended by another source's error, before it asked this one.
        ended_without: bool,
        /// Whether the upstream answered 404 to a fill that began before this request.
        too_early: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColdStep {
    /// Joins a fill, or starts one.
    Join,
    /// Asks whether the repository has it, then joins.
    Claim,
    /// Answers with the error.
    Refuse,
}

impl ColdRequest {
    const fn next(self, event: ColdEvent) -> (Self, ColdStep) {
        let Self {
            source_kind,
            claim,
            joins,
        } = self;
        match (source_kind, event) {
            (_, ColdEvent::Unclaimed) => {
                let claim = SourceClaim::Proven;
                (Self { claim, ..self }, ColdStep::Claim)
            }
            (_, ColdEvent::Paused) => (self, ColdStep::Join),
            // The fallback no longer has it. The upstream may.
            (ColdSource::Fallback, ColdEvent::Failed { lost: true, .. }) => {
                let source_kind = ColdSource::Upstream;
                (
                    Self {
                        source_kind,
                        ..self
                    },
                    ColdStep::Join,
                )
            }
            (
                ColdSource::Upstream,
                ColdEvent::Failed {
                    ended_without: true,
                    ..
                },
            ) if joins < MOST_JOINS => {
                let joins = joins + 1;
                (Self { joins, ..self }, ColdStep::Join)
            }
            // The 404 may be older than the upload that the claim proves.
            (
                ColdSource::Upstream,
                ColdEvent::Failed {
                    too_early: true, ..
                },
            ) if matches!(claim, SourceClaim::Proven) && joins < MOST_JOINS => {
                let joins = MOST_JOINS;
                (Self { joins, ..self }, ColdStep::Join)
            }
            (_, ColdEvent::Failed { .. }) => (self, ColdStep::Refuse),
        }
    }
}

impl Mirror {
    /// A blob that is not stored, from a fill.
    pub(super) async fn fill_blob(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &Digest,
        claim: SourceClaim,
        requester: Requester<'_>,
    ) -> Result<BlobAnswer, MirrorError> {
        let state = &self.state;
        let upstream = FillSource::Blob(BlobSource {
            origin: origin.clone(),
            name: permit.name().clone(),
        });
        let supplied = state.fallback_blob(origin, permit.name(), digest);
        let (source_kind, fallback) = match supplied.await {
            Some(FallbackBlob::Rebuilt(bytes)) => {
                let cache = CacheStatus::forward(Forward::UriMiss).stored();
                let cache = cache.detail("converted");
                return Ok(BlobAnswer::stored(StoredBlob::Memory(bytes), cache));
            }
            Some(FallbackBlob::Source(source)) => {
                (ColdSource::Fallback, FillSource::Foreign(source))
            }
            None => (ColdSource::Upstream, upstream.clone()),
        };
        let mut request = ColdRequest {
            source_kind,
            claim,
            joins: 0,
        };
        loop {
            let claim = state.ask_blob(permit, digest);
            let source = match request.source_kind {
                ColdSource::Fallback => &fallback,
                ColdSource::Upstream => &upstream,
            };
            let (event, error) = match self.join_blob(digest, source, request, requester).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let (next, step) = request.next(event);
            match (step, error) {
                (ColdStep::Claim, _) => drop(self.claim_blob(origin, permit, digest).await?),
                (ColdStep::Refuse, Some(error)) => {
                    return Err(match request.source_kind {
                        ColdSource::Fallback => MirrorError::from_fill(error),
                        ColdSource::Upstream => state.blob_error(origin, &claim, error).await,
                    });
                }
                (ColdStep::Join, _) | (ColdStep::Refuse, None) => {}
            }
            request = next;
        }
    }

    /// Joins the fill of a blob, and waits until its length or failure is known.
    async fn join_blob(
        &self,
        digest: &Digest,
        source: &FillSource,
        request: ColdRequest,
        requester: Requester<'_>,
    ) -> Result<BlobAnswer, (ColdEvent, Option<FillError>)> {
        let key = FillKey::Digest(*digest);
        let claim = match request.source_kind {
            ColdSource::Fallback => SourceClaim::Proven,
            ColdSource::Upstream => request.claim,
        };
        let fills = &self.state.contents.fills;
        let Joined::Fill {
            mut follower,
            collapsed,
        } = fills.join(key, source.clone(), claim)
        else {
            return Err((ColdEvent::Unclaimed, None));
        };
        follower.name(requester);
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
            Err(FillError::Paused) => Err((ColdEvent::Paused, None)),
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
                let event = ColdEvent::Failed {
                    lost,
                    ended_without: is_answer && follower.fill.ended_without(&source),
                    too_early: collapsed && not_found,
                };
                Err((event, Some(error)))
            }
        }
    }
}

/// Waits until a fill knows its length, or why this source failed, for as long as a client waits.
pub(super) async fn opened(
    follower: &mut Follower,
    source: &FillSource,
) -> Result<Option<u64>, FillError> {
    let opened = tokio::time::timeout(HEADER_DEADLINE, begun(follower, source)).await;
    opened.unwrap_or_else(|_| Err(FillError::Upstream(Arc::new(UpstreamError::Timeout))))
}

async fn begun(follower: &mut Follower, source: &FillSource) -> Result<Option<u64>, FillError> {
    let Follower { fill, progress, .. } = follower;
    loop {
        if let Some(refusal) = fill.refusal(source) {
            return Err(refusal);
        }
        {
            let progress = progress.borrow_and_update();
            match &progress.phase {
                // The bucket has it, and the claim told its length.
                Phase::Waiting if progress.total.is_some() => return Ok(progress.total),
                Phase::Waiting => {}
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

    const LOST: ColdEvent = failed(true, false, false);
    const WITHOUT: ColdEvent = failed(true, true, false);
    const TOO_EARLY: ColdEvent = failed(true, false, true);

    const fn failed(lost: bool, ended_without: bool, too_early: bool) -> ColdEvent {
        ColdEvent::Failed {
            lost,
            ended_without,
            too_early,
        }
    }

    /// The steps that a series of events leads to.
    fn steps(source_kind: ColdSource, claim: SourceClaim, events: &[ColdEvent]) -> Vec<ColdStep> {
        let mut request = ColdRequest {
            source_kind,
            claim,
            joins: 0,
        };
        let steps = events.iter().map(|event| {
            let (next, step) = request.next(*event);
            request = next;
            step
        });
        steps.collect()
    }

    #[test]
    fn each_event_leads_to_one_step() {
        use ColdStep::{Claim, Join, Refuse};
        use SourceClaim::{Proven, Unproven};
        for (source_kind, claim, events, expected) in [
            (
                ColdSource::Upstream,
                Unproven,
                &[ColdEvent::Unclaimed][..],
                &[Claim][..],
            ),
            (
                ColdSource::Upstream,
                Proven,
                &[ColdEvent::Paused; 9],
                &[Join; 9],
            ),
            (ColdSource::Upstream, Proven, &[LOST], &[Refuse]),
            // Other sources' errors end a request after a few tries.
            (
                ColdSource::Upstream,
                Unproven,
                &[WITHOUT; 4],
                &[Join, Join, Join, Refuse],
            ),
            // A proven claim asks once more, since the 404 may be older.
            (
                ColdSource::Upstream,
                Proven,
                &[TOO_EARLY; 2],
                &[Join, Refuse],
            ),
            (ColdSource::Upstream, Unproven, &[TOO_EARLY], &[Refuse]),
            (
                ColdSource::Upstream,
                Unproven,
                &[ColdEvent::Unclaimed, TOO_EARLY, TOO_EARLY],
                &[Claim, Join, Refuse],
            ),
            (
                ColdSource::Upstream,
                Proven,
                &[TOO_EARLY, WITHOUT],
                &[Join, Refuse],
            ),
            // The upstream is asked for what the fallback lost; another failure of the fallback is the answer.
            (
                ColdSource::Fallback,
                Unproven,
                &[LOST, LOST],
                &[Join, Refuse],
            ),
            (
                ColdSource::Fallback,
                Unproven,
                &[WITHOUT, LOST],
                &[Join, Refuse],
            ),
            (
                ColdSource::Fallback,
                Proven,
                &[failed(false, true, false)],
                &[Refuse],
            ),
            (
                ColdSource::Fallback,
                Proven,
                &[ColdEvent::Paused, LOST],
                &[Join, Join],
            ),
        ] {
            assert_eq!(
                steps(source_kind, claim, events),
                expected,
                "{source_kind:?} {claim:?} {events:?}"
            );
        }
    }
}
