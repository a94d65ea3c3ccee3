//! `/api/warm`: fetches an image into the store, and streams the progress.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};

use super::api::{lines_of_json, read, render};
use super::error::AdminError;
use super::report::{WarmBlob, WarmEnd, WarmLine, WarmRequest};
use super::{Admin, Body, target};
use mirror::{ImageReference, WarmProgress};
use oci::name::RepositoryName;
use oci::platform::{Platform, Platforms};

/// The interval between progress lines, while there is progress.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// The interval between lines without progress, so that the client does not time out.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

impl Admin {
    /// Fetches an image and streams the progress. It stops when the client disconnects; downloads in flight continue.
    ///
    /// # Errors
    /// 400 for a body that names no image or platform.
    pub(super) async fn warm(
        self: Arc<Self>,
        body: Incoming,
    ) -> Result<Response<Body>, AdminError> {
        let bad_request = |message| AdminError::new(StatusCode::BAD_REQUEST, message);
        let request: WarmRequest = read(body).await?;
        let image = target::image(&request.image, &self.settings.resolver)
            .map_err(|error| bad_request(error.to_string()))?;
        let platforms = match request.platform {
            Some(text) => text
                .parse::<Platforms>()
                .map_err(|error| bad_request(error.to_string()))?,
            None => Platforms::Only(Platform::host()),
        };
        let (lines, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let (progress, mut current) = watch::channel(WarmProgress::default());
            let fetch = self.fetch(image, platforms, progress);
            tokio::pin!(fetch);
            let end = loop {
                let pause = async {
                    let changed = tokio::time::timeout(KEEP_ALIVE_EVERY, current.changed());
                    let _ = changed.await;
                    tokio::time::sleep(REPORT_EVERY).await;
                };
                tokio::select! {
                    end = &mut fetch => break end,
                    () = pause => {}
                }
                let line = line(&current.borrow_and_update());
                // The client has disconnected.
                if lines.send(render(&line)).await.is_err() {
                    return;
                }
            };
            let mut last = line(&current.borrow());
            last.done = Some(end);
            let _ = lines.send(render(&last)).await;
        });
        Ok(lines_of_json(receiver))
    }

    async fn fetch(
        &self,
        image: ImageReference,
        platforms: Platforms,
        progress: watch::Sender<WarmProgress>,
    ) -> WarmEnd {
        let outcome = self.mirror.warm(&image, &platforms, &progress).await;
        let ImageReference { name, reference } = &image;
        let RepositoryName {
            registry,
            repository,
        } = name;
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
    let in_progress = progress
        .in_progress
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
        in_progress: in_progress.collect(),
        waits: progress.waits.clone(),
        done: None,
    }
}
