//! Bodies from the bucket. They must be verified before use.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::ObjectStoreExt as _;

use super::outbox::KeyChange;
use super::{BODY_TIMEOUT, Bucket, Unavailable};
use oci::digest::Digest;
use telemetry::metrics::{self, BucketEvent};

/// How long a body may stall.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A body being read.
pub struct Object {
    /// In bytes, according to the bucket.
    pub size: u64,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    bucket: Bucket,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Object({} bytes)", self.size)
    }
}

impl Object {
    /// The next bytes; `None` at the end, or when the bucket failed: the caller has to check the length.
    pub async fn next(&mut self) -> Option<Bytes> {
        let error = match tokio::time::timeout(STALL_TIMEOUT, self.stream.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(bytes))) => return Some(bytes),
            Ok(Some(Err(error))) => error.to_string(),
            Err(_) => "a body stalls".to_owned(),
        };
        self.bucket.failed(&self.bucket.inner.reads, error);
        None
    }
}

impl Bucket {
    /// Opens the object of a digest. Not one that is being withdrawn, nor one that was corrupt before.
    pub async fn open(&self, digest: &Digest) -> Option<Object> {
        if self.damaged().contains(digest) {
            return None;
        }
        let key = self.blob_key(digest);
        if !self.inner.outbox.trusts(key.as_ref()) {
            return None;
        }
        let got = self.read(BODY_TIMEOUT, self.inner.s3.get(&key)).await;
        match got {
            Ok(Some(got)) => {
                metrics::bucket(BucketEvent::Hit);
                Some(Object {
                    size: got.meta.size,
                    stream: got.into_stream(),
                    bucket: self.clone(),
                })
            }
            Ok(None) => {
                metrics::bucket(BucketEvent::Miss);
                None
            }
            Err(Unavailable) => None,
        }
    }

    /// Withdraws the object of a digest. This gateway does not use it from now on.
    pub fn remove_blob(&self, digest: &Digest) {
        self.change(&self.blob_key(digest), KeyChange::Withdraw);
    }

    /// Reads and verifies a whole body of at most `most` bytes.
    pub async fn bytes(&self, digest: &Digest, most: usize) -> Option<Bytes> {
        let whole = async {
            let mut object = self.open(digest).await?;
            if object.size > most as u64 {
                return None;
            }
            let mut bytes = Vec::new();
            while let Some(piece) = object.next().await {
                bytes.extend_from_slice(&piece);
                if bytes.len() > most {
                    break;
                }
            }
            Some((object.size, bytes))
        };
        let Ok(whole) = tokio::time::timeout(BODY_TIMEOUT, whole).await else {
            self.failed(&self.inner.reads, "a small body timed out".to_owned());
            return None;
        };
        let (size, bytes) = whole?;
        if (bytes.len() as u64) < size {
            return None;
        }
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            self.report_corrupt(digest);
            return None;
        }
        Some(Bytes::from(bytes))
    }
}
