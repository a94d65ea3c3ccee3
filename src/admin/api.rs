//! `/api/stats`, `/api/purge` and `/api/verify`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::error::AdminError;
use super::report::{
    BucketStats, Fills, Pulls, PurgeReport, PurgeRequest, Stats, StoreStats, UpstreamStats,
    VerifyEnd, VerifyFailures, VerifyLine,
};
use super::{Admin, Body, json, target};
use mirror::PurgeMode;
use store::{Purge, Verified};
use telemetry::metrics::{self, ContentFigures};

/// The limit for a request's body, in bytes.
const BODY_BYTES: usize = 4 << 10;
/// The timeout for receiving it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of names in the report of a purge.
const NAMES: usize = 1000;
/// The interval between the progress lines of a verification.
const REPORT_EVERY: Duration = Duration::from_millis(250);

impl Admin {
    pub(super) async fn stats(&self) -> Stats {
        let (counted, store) = (metrics::figures(), self.figures());
        let pulls = |of: ContentFigures| Pulls {
            requests: of.requests,
            hits: of.hits,
            misses: of.misses,
            coalesced: of.coalesced,
            pulled_bytes: of.pulled,
            pushed_bytes: of.pushed,
        };
        let upstreams = counted.upstreams.into_iter().map(|one| UpstreamStats {
            registry: one.registry,
            requests: one.requests,
            failures: one.failures,
            ratelimit_remaining: one.remaining,
        });
        Stats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: metrics::started_at(),
            ready: self.ready().await.is_ok(),
            store: StoreStats {
                bytes: store.bytes,
                max_bytes: self.settings.max_bytes,
                objects: store.objects,
                evicted: counted.evicted,
                evicted_bytes: counted.evicted_bytes,
            },
            blobs: pulls(counted.blob),
            manifests: pulls(counted.manifest),
            fills: Fills {
                in_flight: counted.fills_in_flight,
                resumed: counted.resumed,
            },
            verify_failures: VerifyFailures {
                upstream: counted.wrong_bytes_upstream,
                disk: counted.wrong_bytes_disk,
            },
            stale_served: counted.stale.into_iter().collect::<BTreeMap<_, _>>(),
            upstreams: upstreams.collect(),
            bucket: counted.bucket.map(|bucket| BucketStats {
                hits: bucket.hits,
                misses: bucket.misses,
                failures: bucket.failures,
                verify_failures: bucket.wrong_bytes,
                uploads: bucket.uploads,
                uploads_dropped: bucket.uploads_dropped,
                records_dropped: bucket.records_dropped,
                lease_timeouts: bucket.lease_timeouts,
            }),
        }
    }

    pub(super) async fn purge(&self, body: Incoming) -> Result<Response<Body>, AdminError> {
        let request: PurgeRequest = read(body).await?;
        let target = target::parse(&request.target, &self.settings.resolver)
            .map_err(|error| AdminError::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        let mode = if request.dry_run {
            PurgeMode::DryRun
        } else {
            PurgeMode::Remove
        };
        match self.mirror.purge(target, mode).await {
            Ok(purge) => {
                let report = report(&purge, mode);
                if mode == PurgeMode::Remove {
                    tracing::info!(
                        target = request.target,
                        files = report.files,
                        bytes = report.bytes,
                        "purged"
                    );
                }
                Ok(json(StatusCode::OK, &report))
            }
            Err(fault) => {
                tracing::error!(
                    target = request.target,
                    error = telemetry::chain(&fault),
                    "a purge failed"
                );
                let words = format!("not everything could be removed: {fault}");
                Err(AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, words))
            }
        }
    }

    /// Starts a verification, unless one is running, and streams its progress. It continues if the client
    /// disconnects.
    ///
    /// # Errors
    /// 409 while another verification is running.
    pub(super) fn verify(self: Arc<Self>) -> Result<Response<Body>, AdminError> {
        let Ok(permit) = self.verifying.clone().try_acquire_owned() else {
            let message = "a verification is under way already";
            return Err(AdminError::new(StatusCode::CONFLICT, message));
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
            tracing::info!(blobs, bytes, damaged, ms, "the store was rehashed");
            last.done = Some(end(&summary));
            let _ = lines.blocking_send(render(&last));
        });
        Ok(lines_of_json(receiver))
    }
}

/// A response of JSON lines, sent as they come.
pub(super) fn lines_of_json(lines: mpsc::Receiver<Bytes>) -> Response<Body> {
    let frames = futures_util::stream::unfold(lines, |mut lines| async {
        let line: Bytes = lines.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), lines))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Parses the body of a request.
///
/// # Errors
/// 400 for a body that is too long, late or not the expected JSON.
pub(super) async fn read<A: DeserializeOwned>(body: Incoming) -> Result<A, AdminError> {
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES).collect()).await;
    let Ok(Ok(body)) = body else {
        let words = "the body is too long, or did not arrive";
        return Err(AdminError::new(StatusCode::BAD_REQUEST, words));
    };
    serde_json::from_slice(&body.to_bytes()).map_err(|fault| {
        let words = format!("the body is not understood: {fault}");
        AdminError::new(StatusCode::BAD_REQUEST, words)
    })
}

fn report(purge: &Purge, purge_mode: PurgeMode) -> PurgeReport {
    let all = purge
        .tags
        .iter()
        .chain(&purge.manifests)
        .chain(&purge.blobs)
        .chain(&purge.others);
    let count = all.clone().count();
    let mut names: Vec<String> = all.take(NAMES).cloned().collect();
    if names.is_empty() {
        // A file without a record is named by its digest.
        names.extend(purge.files.iter().map(|(digest, _)| digest.to_string()));
    }
    let more = count.saturating_sub(NAMES);
    PurgeReport {
        dry_run: purge_mode == PurgeMode::DryRun,
        tags: purge.tags.len() as u64,
        manifests: purge.manifests.len() as u64,
        blobs: purge.blobs.len() as u64,
        other_records: purge.others.len() as u64,
        files: purge.files.len() as u64,
        bytes: purge.bytes(),
        shared: purge.shared,
        names,
        more: more as u64,
    }
}

fn line(progress: &Verified) -> VerifyLine {
    VerifyLine {
        blobs: progress.blobs,
        of_blobs: progress.of_blobs,
        bytes: progress.bytes,
        of_bytes: progress.of_bytes,
        damaged: progress.damaged.len() as u64,
        done: None,
    }
}

fn end(summary: &Verified) -> VerifyEnd {
    let damaged = summary.damaged.iter().map(ToString::to_string);
    VerifyEnd {
        damaged: damaged.collect(),
    }
}

pub(super) fn render(line: &impl Serialize) -> Bytes {
    let mut json = serde_json::to_vec(line).unwrap_or_default();
    json.push(b'\n');
    json.into()
}
