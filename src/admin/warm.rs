//! `/api/v1/warm`: fetches an image into the store, and streams the progress.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};

use super::api::{read, render};
use super::error::{Problem, ProblemCode};
use super::report::{WarmBlob, WarmEnd, WarmLine, WarmRequest};
use super::response::{JSON_LINES, streamed};
use super::{Admin, Body, target};
use mirror::{ImageReference, WarmProgress};
use oci::name::RepositoryName;
use oci::platform::{Platform, Platforms};

/// The most images that are warmed at once, and when a client that was refused may ask again, in seconds.
pub(super) const MAX_WARMED: usize = 4;
const RETRY: u64 = 10;
/// The interval between progress lines, while there is progress.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// The interval between lines without progress, so that the client does not time out.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

impl Admin {
    /// Fetches an image and streams the progress. It stops when the client disconnects; downloads in flight continue.
    ///
    /// # Errors
    /// 400 for a body that names no image or platform, 429 while four others are warmed.
    pub(super) async fn warm(self: Arc<Self>, body: Incoming) -> Result<Response<Body>, Problem> {
        let bad_request = |message| Problem::new(ProblemCode::InvalidBody, message);
        let request: WarmRequest = read(body).await?;
        let image = target::image(&request.image, &self.settings.resolver)
            .map_err(|error| bad_request(error.to_string()))?;
        let platforms = match request.platform {
            Some(text) => text
                .parse::<Platforms>()
                .map_err(|error| bad_request(error.to_string()))?,
            None => Platforms::Only(Platform::host()),
        };
        let Ok(permit) = self.warming.clone().try_acquire_owned() else {
            let message = format!("{MAX_WARMED} images are already being warmed");
            return Err(Problem::new(ProblemCode::TooManyRequests, message).retry_after(RETRY));
        };
        let (lines, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let _permit = permit;
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
        Ok(streamed(JSON_LINES, receiver))
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
    let in_flight = progress
        .in_progress
        .iter()
        .map(|(digest, bytes, size)| WarmBlob {
            digest: digest.to_string(),
            bytes: *bytes,
            size_bytes: *size,
        });
    WarmLine {
        blobs: progress.blobs,
        blobs_total: progress.of_blobs,
        bytes: progress.bytes,
        bytes_total: progress.of_bytes,
        fetched_bytes: progress.fetched,
        in_flight: in_flight.collect(),
        waits_because: progress.waits.clone(),
        done: None,
    }
}
