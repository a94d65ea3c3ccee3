//! Uploads of committed blobs to the bucket: a bounded queue with retries; dropped uploads are counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload as _, ObjectStoreExt as _};
use tokio::sync::{Mutex, mpsc};

use super::{BODY_TIMEOUT, Bucket, Lease, Unavailable};
use crate::blobs::{Blob, Blobs};
use crate::read::read_at;
use oci::digest::Digest;
use telemetry::metrics::{self, BucketEvent};

/// How many blobs are uploaded concurrently. Each holds one part in memory.
pub(super) const WORKERS: usize = 2;
/// The length of the queue.
const CAPACITY: usize = 256;
/// The minimum size of a part, in bytes, and the maximum number of parts: services allow 10,000.
const PART: u64 = 8 << 20;
const PARTS: u64 = 9_000;
/// The timeout of a part.
const PART_TIMEOUT: Duration = Duration::from_secs(60);
/// The delays before retries.
const WAITS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// A blob to upload.
#[derive(Debug)]
pub(super) struct UploadJob {
    digest: Digest,
    blobs: Blobs,
    /// Released when the upload succeeded or was dropped.
    _lease: Option<Lease>,
}

/// The end of the queue that the workers share.
pub(super) type UploadReceiver = Arc<Mutex<mpsc::Receiver<UploadJob>>>;

#[derive(Debug)]
pub(super) struct Uploads(mpsc::Sender<UploadJob>);

impl Uploads {
    pub fn new() -> (Self, UploadReceiver) {
        let (sender, jobs) = mpsc::channel(CAPACITY);
        (Self(sender), Arc::new(Mutex::new(jobs)))
    }
}

/// Why an upload failed.
#[derive(Debug, PartialEq, Eq)]
enum UploadError {
    /// The blob is no longer in the store.
    Gone,
    Retry,
}

impl From<Unavailable> for UploadError {
    fn from(_: Unavailable) -> Self {
        Self::Retry
    }
}

impl Bucket {
    /// Uploads a committed blob in the background.
    pub fn write_through(&self, blobs: &Blobs, digest: &Digest, lease: Option<Lease>) {
        let job = UploadJob {
            digest: *digest,
            blobs: blobs.clone(),
            _lease: lease,
        };
        if self.inner.uploads.0.try_send(job).is_err() {
            drop_upload(digest, "the queue is full");
        }
    }

    /// Uploads blobs until the process ends.
    pub(super) async fn send_blobs(self, jobs: UploadReceiver) {
        loop {
            let job = jobs.lock().await.recv().await;
            let Some(job) = job else { return };
            self.run(&job).await;
        }
    }

    async fn run(&self, job: &UploadJob) {
        let (digest, started) = (&job.digest, Instant::now());
        for wait in WAITS.into_iter().map(Some).chain([None]) {
            let error = match self.upload(job).await {
                Ok(bytes) => {
                    let ms = telemetry::ms(started);
                    tracing::info!(%digest, bytes, ms, "written to the bucket");
                    metrics::bucket(BucketEvent::Uploaded);
                    self.damaged().remove(digest);
                    return;
                }
                Err(error) => error,
            };
            match wait {
                Some(wait) if error == UploadError::Retry => tokio::time::sleep(wait).await,
                _ => break,
            }
        }
        drop_upload(
            digest,
            "the bucket fails, or the blob is no longer in the store",
        );
    }

    /// Makes one attempt, and returns the bytes sent.
    async fn upload(&self, job: &UploadJob) -> Result<u64, UploadError> {
        let (blobs, digest) = (job.blobs.clone(), job.digest);
        let opened = tokio::task::spawn_blocking(move || blobs.open(&digest, None)).await;
        let Ok(Ok(Some(blob))) = opened else {
            return Err(UploadError::Gone);
        };
        let key = self.blob_key(&digest);
        if !self.damaged().contains(&digest) {
            let head = self.inner.s3.head(&key);
            let found = self.write_existing(BODY_TIMEOUT, head).await?;
            if found.is_some_and(|found| found.size == blob.size) {
                return Ok(0);
            }
        }
        if blob.size <= PART {
            let bytes = part(&blob, 0, blob.size).await?;
            let put = self.inner.s3.put(&key, bytes.into());
            let stored = self.write(PART_TIMEOUT, put).await?;
            stored.ok_or(UploadError::Retry)?;
        } else {
            self.upload_parts(&key, &blob).await?;
        }
        Ok(blob.size)
    }

    async fn upload_parts(&self, key: &Path, blob: &Blob) -> Result<(), UploadError> {
        let begun = self
            .write(BODY_TIMEOUT, self.inner.s3.put_multipart(key))
            .await?;
        let mut upload = begun.ok_or(UploadError::Retry)?;
        let parts = async {
            let (size, mut at) = (blob.size.div_ceil(PARTS).max(PART), 0);
            while at < blob.size {
                let bytes = part(blob, at, size.min(blob.size - at)).await?;
                at += bytes.len() as u64;
                let sent = self.write(PART_TIMEOUT, upload.put_part(bytes.into()));
                sent.await?.ok_or(UploadError::Retry)?;
            }
            let completed = self.write(PART_TIMEOUT, upload.complete()).await?;
            completed.map(drop).ok_or(UploadError::Retry)
        };
        let outcome = parts.await;
        if outcome.is_err() {
            // If this fails too, the lifecycle rule for unfinished uploads removes the parts.
            let _ = tokio::time::timeout(BODY_TIMEOUT, upload.abort()).await;
        }
        outcome
    }
}

fn drop_upload(digest: &Digest, reason: &'static str) {
    metrics::bucket(BucketEvent::UploadDropped);
    tracing::warn!(%digest, reason, "not written to the bucket");
}

/// Reads a part of a blob.
async fn part(blob: &Blob, from: u64, length: u64) -> Result<Bytes, UploadError> {
    const PIECE: u64 = 1 << 20;

    let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
    while (bytes.len() as u64) < length {
        let (at, left) = (from + bytes.len() as u64, length - bytes.len() as u64);
        let want = usize::try_from(left.min(PIECE)).unwrap_or(0);
        let read = read_at(&blob.file, BytesMut::zeroed(want), at).await;
        let (piece, read) = read.map_err(|_| UploadError::Gone)?;
        if read == 0 {
            return Err(UploadError::Gone);
        }
        bytes.extend_from_slice(&piece[..read]);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::bucket::Settings;
    use oci::digest::Algorithm;

    /// No worker takes from the queue: the test does not yield.
    #[tokio::test]
    async fn queue_is_bounded() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&crate::Settings::at(folder.path()), &[]).expect("a store");
        let settings = Settings {
            name: "b".into(),
            prefix: String::new(),
            endpoint: Some("http://127.0.0.1:1".into()),
            region: None,
            account: None,
            advertise: None,
            views: std::collections::HashMap::new(),
        };
        let bucket = Bucket::new(&settings, &tokio::runtime::Handle::current()).expect("a client");
        let dropped = || {
            let figures = metrics::figures().bucket.expect("there is a bucket");
            figures.uploads_dropped
        };
        let digest = Digest::of(Algorithm::Sha256, b"");
        for _ in 0..CAPACITY {
            bucket.write_through(&store.blobs, &digest, None);
        }
        assert_eq!(dropped(), 0);
        bucket.write_through(&store.blobs, &digest, None);
        assert_eq!(dropped(), 1);
    }
}
