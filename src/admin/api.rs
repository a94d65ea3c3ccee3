//! `/api/v1/purge`, `/api/v1/verify` and `/api/v1/eviction-queue`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::audit::OperatorRequest;
use super::error::{Problem, ProblemCode};
use super::query::Parameters;
use super::report::{Page, PurgeReport, PurgeRequest, VerifyEnd, VerifyLine};
use super::response::{JSON_LINES, streamed};
use super::time::rfc3339_of;
use super::{Admin, Body, ok, target};
use events::EventAction;
use mirror::PurgeMode;
use store::{Purge, PurgeTarget, Verified};

/// The longest request body, in bytes.
const MAX_BODY: usize = 4 << 10;
/// The timeout for receiving it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most names in the report of a purge, and digests in that of a verification.
const MAX_NAMES: usize = 1000;
/// The interval between the progress lines of a verification.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// An item of `GET /api/v1/eviction-queue`.
#[derive(Debug, Serialize)]
pub(super) struct EvictionItem {
    digest: String,
    kind: &'static str,
    size_bytes: u64,
    last_used_at: String,
}

impl Admin {
    /// # Errors
    /// 400 for a body without a valid target, 503 if something cannot be removed.
    pub(super) async fn purge(
        self: Arc<Self>,
        operator: OperatorRequest,
        body: Incoming,
    ) -> Result<Response<Body>, Problem> {
        let request: PurgeRequest = read(body).await?;
        let target = target::parse(&request.target, &self.settings.resolver)
            .map_err(|error| Problem::new(ProblemCode::InvalidBody, error.to_string()))?;
        let mode = if request.dry_run {
            PurgeMode::DryRun
        } else {
            PurgeMode::Remove
        };
        let purged = self.mirror.purge(target.clone(), mode).await;
        if mode == PurgeMode::Remove {
            self.clone().unpin_purged(target).await;
            self.survey.discard();
            self.audit(operator, EventAction::Purge, Some(&request.target));
        }
        match purged {
            Ok(purge) => {
                let report = report(&purge, mode);
                if mode == PurgeMode::Remove {
                    tracing::info!(
                        target = request.target,
                        files = report.files,
                        bytes = report.freed_bytes,
                        "purged"
                    );
                }
                Ok(ok(&report))
            }
            Err(fault) => {
                tracing::error!(
                    target = request.target,
                    error = telemetry::chain(&fault),
                    "a purge failed"
                );
                let words = format!("the purge is incomplete: {fault}");
                Err(Problem::new(ProblemCode::StoreFailed, words))
            }
        }
    }

    /// Unpins purged images, and releases their blobs.
    async fn unpin_purged(self: Arc<Self>, target: PurgeTarget) {
        let work = tokio::task::spawn_blocking(move || self.pins.remove_purged(&target));
        if let Ok(Err(error)) = work.await {
            store::warn_degraded("the list of pinned images cannot be written", &error);
        }
    }

    /// The blobs that are evicted next.
    ///
    /// # Errors
    /// 400 for a wrong `limit`.
    pub(super) fn eviction_queue(
        &self,
        parameters: &Parameters,
    ) -> Result<Page<EvictionItem>, Problem> {
        let next = self.store.next_evicted(parameters.limit()?).into_iter();
        let items = next.map(|one| EvictionItem {
            digest: one.digest.to_string(),
            kind: if one.is_manifest { "manifest" } else { "layer" },
            size_bytes: one.status.size,
            last_used_at: rfc3339_of(one.status.last_use),
        });
        Ok(Page {
            items: items.collect(),
            next: None,
            total: Some(self.store.space.blobs() as u64),
        })
    }

    /// Starts a verification, unless one is running, and streams its progress. It continues if the client
    /// disconnects.
    ///
    /// # Errors
    /// 409 while another verification is running.
    pub(super) fn verify(self: Arc<Self>) -> Result<Response<Body>, Problem> {
        let Ok(permit) = self.verifying.clone().try_acquire_owned() else {
            let message = "a verification is already running";
            return Err(Problem::new(ProblemCode::VerifyRunning, message));
        };
        let (lines, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let began = Instant::now();
            let (mut last, mut reported) = (VerifyLine::default(), None::<Instant>);
            let summary = self.mirror.verify(|progress| {
                last = line(progress);
                if reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                    reported = Some(Instant::now());
                    // A slow client misses a line, but never the last one.
                    let _ = lines.try_send(render(&last));
                }
            });
            let (blobs, bytes, ms) = (summary.blobs, summary.bytes, telemetry::ms(began));
            let damaged = summary.damaged.len();
            tracing::info!(blobs, bytes, damaged, ms, "verification finished");
            last.done = Some(end(&summary));
            let _ = lines.blocking_send(render(&last));
        });
        Ok(streamed(JSON_LINES, receiver))
    }
}

/// Parses the body of a request.
///
/// # Errors
/// 413 for a body that is too long, 400 for one that is late or not the expected JSON.
pub(super) async fn read<A: DeserializeOwned>(body: Incoming) -> Result<A, Problem> {
    let invalid = |detail| Problem::new(ProblemCode::InvalidBody, detail);
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    let body = body.map_err(|_| invalid("the request body was not received in time".to_owned()))?;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let detail = format!("the request body exceeds {MAX_BODY} bytes");
            return Problem::new(ProblemCode::BodyTooLarge, detail);
        }
        invalid(format!("the request body cannot be read: {error}"))
    })?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|fault| invalid(format!("invalid request body: {fault}")))
}

fn report(purge: &Purge, purge_mode: PurgeMode) -> PurgeReport {
    let all = purge
        .tags
        .iter()
        .chain(&purge.manifests)
        .chain(&purge.blobs)
        .chain(&purge.others);
    let count = all.clone().count();
    let mut names: Vec<String> = all.take(MAX_NAMES).cloned().collect();
    if names.is_empty() {
        // Files without records are listed by their digests.
        names.extend(purge.files.iter().map(|(digest, _)| digest.to_string()));
    }
    let more = count.saturating_sub(MAX_NAMES);
    PurgeReport {
        dry_run: purge_mode == PurgeMode::DryRun,
        tags: purge.tags.len() as u64,
        manifests: purge.manifests.len() as u64,
        blobs: purge.blobs.len() as u64,
        other_records: purge.others.len() as u64,
        files: purge.files.len() as u64,
        freed_bytes: purge.bytes(),
        shared_files: purge.shared,
        names,
        names_left_off: more as u64,
    }
}

fn line(progress: &Verified) -> VerifyLine {
    VerifyLine {
        blobs: progress.blobs,
        blobs_total: progress.of_blobs,
        bytes: progress.bytes,
        bytes_total: progress.of_bytes,
        damaged: progress.damaged.len() as u64,
        done: None,
    }
}

fn end(summary: &Verified) -> VerifyEnd {
    let damaged = summary.damaged.iter().map(ToString::to_string);
    VerifyEnd {
        damaged: damaged.take(MAX_NAMES).collect(),
        damaged_left_off: summary.damaged.len().saturating_sub(MAX_NAMES) as u64,
    }
}

pub(super) fn render(line: &impl Serialize) -> Bytes {
    let mut json = serde_json::to_vec(line).unwrap_or_default();
    json.push(b'\n');
    json.into()
}
