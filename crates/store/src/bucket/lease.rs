//! Leases: of several nodes that need the same blob, one fetches it. A lease is an object that only one node can
//! create; it expires, so that no node waits for a dead one.

use std::time::SystemTime;

use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::outbox::KeyChange;
use super::{Bucket, SMALL_TIMEOUT, Unavailable};
use crate::space::unix;
use oci::digest::Digest;

/// How long a lease is valid, in seconds.
const LIFETIME: u64 = 60;

/// The lease to fetch a blob that other nodes wait for; released on drop.
#[derive(Debug)]
pub struct Lease {
    bucket: Bucket,
    key: Path,
}

/// The outcome of requesting a lease.
#[derive(Debug)]
pub enum Leased {
    /// This node fetches it; the lease ends when it is dropped.
    Held(Lease),
    /// Another node fetches it.
    HeldByPeer,
    /// The bucket is unavailable: fetch without a lease.
    Unavailable,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaseBody {
    node: String,
    /// In seconds since 1970.
    expires_at: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.bucket.change(&self.key, KeyChange::Release);
    }
}

impl Bucket {
    /// Requests the lease of a blob.
    pub async fn lease(&self, digest: &Digest) -> Leased {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
        let key = self.key(&format!("leases/{algorithm}-{hex}"));
        let held = || {
            Leased::Held(Lease {
                bucket: self.clone(),
                key: key.clone(),
            })
        };
        match self.put_lease(&key, PutMode::Create).await {
            Ok(true) => return held(),
            Ok(false) => {}
            Err(Unavailable) => return Leased::Unavailable,
        }
        let read = self.read(SMALL_TIMEOUT, async {
            let got = self.inner.s3.get(&key).await?;
            let version = UpdateVersion {
                e_tag: got.meta.e_tag.clone(),
                version: None,
            };
            let body = if got.meta.size < 1024 {
                serde_json::from_slice::<LeaseBody>(&got.bytes().await?).ok()
            } else {
                None
            };
            Ok((body, version))
        });
        let (body, version) = match read.await {
            Ok(Some(found)) => found,
            // It was just released; the caller checks for the blob next.
            Ok(None) => return Leased::HeldByPeer,
            Err(Unavailable) => return Leased::Unavailable,
        };
        if body
            .as_ref()
            .is_some_and(|body| body.node == self.inner.node)
        {
            return held();
        }
        if body.is_some_and(|body| is_valid(body.expires_at, unix(SystemTime::now()))) {
            return Leased::HeldByPeer;
        }
        match self.put_lease(&key, PutMode::Update(version)).await {
            Ok(true) => held(),
            Ok(false) => Leased::HeldByPeer,
            Err(Unavailable) => Leased::Unavailable,
        }
    }

    async fn put_lease(&self, key: &Path, mode: PutMode) -> Result<bool, Unavailable> {
        let body = LeaseBody {
            node: self.inner.node.clone(),
            expires_at: unix(SystemTime::now()) + LIFETIME,
        };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let put = self
            .inner
            .s3
            .put_opts(key, PutPayload::from(json), mode.into());
        Ok(self.write(SMALL_TIMEOUT, put).await?.is_some())
    }
}

/// Whether a lease is valid. One from too far in the future is not.
fn is_valid(expires_at: u64, now: u64) -> bool {
    (now + 1..=now + 2 * LIFETIME).contains(&expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_expire() {
        for (expires_at, expected) in [
            (0, false),
            (99, false),
            (100, false),
            (101, true),
            (160, true),
            (220, true),
            (221, false),
            (u64::MAX, false),
        ] {
            assert_eq!(is_valid(expires_at, 100), expected, "{expires_at}");
        }
    }
}
