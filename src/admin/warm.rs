//! Pulls beforehand: what `roadstead warm` asks for.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};

use super::api::{error, lines_of_json, read, render};
use super::report::{WarmAsked, WarmBlob, WarmEnd, WarmLine};
use super::{Admin, Body, target};
use mirror::{ImageReference, WarmProgress};
use oci::platform::{Platform, Platforms};

/// How often the progress is told, where there is any.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// How often a line is sent all the same, so that whoever listens knows that it goes on.
const SIGN_EVERY: Duration = Duration::from_secs(10);

impl Admin {
    /// Begins to fetch an image, and tells how it goes. It ends early when nobody listens any more; downloads
    /// that are under way then go on.
    pub(super) async fn warm(self: Arc<Self>, body: Incoming) -> Response<Body> {
        let asked: WarmAsked = match read(body).await {
            Ok(asked) => asked,
            Err(refused) => return *refused,
        };
        let image = match target::image(&asked.image, &self.settings.resolver) {
            Ok(image) => image,
            Err(fault) => return error(StatusCode::BAD_REQUEST, fault.to_string()),
        };
        let platforms = asked.platform.as_deref().map(str::parse::<Platforms>);
        let platforms = match platforms.unwrap_or(Ok(Platforms::Only(Platform::host()))) {
            Ok(platforms) => platforms,
            Err(fault) => return error(StatusCode::BAD_REQUEST, fault.to_string()),
        };
        let (lines, told) = mpsc::channel(4);
        tokio::spawn(async move {
            let (progress, mut seen) = watch::channel(WarmProgress::default());
            let fetch = self.fetch(image, platforms, progress);
            tokio::pin!(fetch);
            let end = loop {
                let pause = async {
                    let changed = tokio::time::timeout(SIGN_EVERY, seen.changed());
                    let _ = changed.await;
                    tokio::time::sleep(REPORT_EVERY).await;
                };
                tokio::select! {
                    end = &mut fetch => break end,
                    () = pause => {}
                }
                let line = line(&seen.borrow_and_update());
                // Who went away ends it.
                if lines.send(render(&line)).await.is_err() {
                    return;
                }
            };
            let mut last = line(&seen.borrow());
            last.done = Some(end);
            let _ = lines.send(render(&last)).await;
        });
        lines_of_json(told)
    }

    async fn fetch(
        &self,
        image: ImageReference,
        platforms: Platforms,
        progress: watch::Sender<WarmProgress>,
    ) -> WarmEnd {
        let outcome = self.mirror.warm(&image, &platforms, &progress).await;
        let ImageReference {
            registry,
            repository,
            reference,
        } = &image;
        let fetched = progress.borrow().fetched;
        match outcome {
            Ok(()) => {
                tracing::info!(%registry, %repository, %reference, %platforms, fetched, "warmed");
                WarmEnd { error: None }
            }
            Err(fault) => {
                let error = telemetry::chain(&fault);
                tracing::warn!(%registry, %repository, %reference, %platforms, error, "not warmed");
                WarmEnd { error: Some(error) }
            }
        }
    }
}

fn line(progress: &WarmProgress) -> WarmLine {
    let coming = progress
        .coming
        .iter()
        .map(|(digest, bytes, size)| WarmBlob {
            digest: digest.to_string(),
            bytes: *bytes,
            size: *size,
        });
    WarmLine {
        blobs: progress.blobs,
        of_blobs: progress.of_blobs,
        bytes: progress.bytes,
        of_bytes: progress.of_bytes,
        fetched: progress.fetched,
        coming: coming.collect(),
        waits: progress.waits.clone(),
        done: None,
    }
}
