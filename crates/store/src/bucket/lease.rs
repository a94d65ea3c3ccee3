//! Leases: of several nodes that need the same blob, one fetches it. A lease is an object that only one node can
//! create; its holder renews it, and it expires, so that no node waits for a dead one.
//!
//! A node that advertises itself names its URL in its leases, so that the others can read the blob from it meanwhile.
//! They follow such a lease as long as that node sends bytes, whatever the clocks say, and take it over from one that
//! does not. A lease only saves requests: two nodes that fetch the same blob do no harm.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, UpdateVersion};
use tokio::task::AbortHandle;

use super::held_leases::HeldLease;
use super::lease_body::{self, LIFETIME, LeaseBody, LeaseHolder, Standing, ThisNode};
use super::outbox::KeyChange;
use super::{Bucket, SMALL_TIMEOUT, Unavailable};
use crate::space::unix;
use oci::digest::Digest;

/// How often a lease is renewed: two renewals may fail.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// How often a lease is requested that others take over at the same moment.
const MAX_TAKEOVERS: u32 = 3;

/// The lease to fetch a blob that other nodes wait for; renewed until it is dropped, which releases it.
#[derive(Debug)]
pub struct Lease {
    bucket: Bucket,
    key: Path,
    number: u64,
    renewal: AbortHandle,
    _held: HeldLease,
}

/// The outcome of requesting a lease.
#[derive(Debug)]
pub enum Leased {
    /// This node fetches it; the lease ends when it is dropped.
    Held(Lease),
    /// Another node fetches it. The holder is named if both nodes advertise themselves.
    HeldByPeer(Option<LeaseHolder>),
    /// The bucket is unavailable: fetch without a lease.
    Unavailable,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        self.bucket
            .change(&self.key, KeyChange::Release(self.number));
    }
}

impl Bucket {
    /// Requests the lease of a blob. One that a node of `lost` holds is taken over.
    pub async fn lease(&self, digest: &Digest, lost: &HashSet<String>) -> Leased {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
        let key = self.key(&format!("leases/{algorithm}-{hex}"));
        // Before others can see it in the bucket, and ask for the blob.
        let held = self.inner.held_leases.hold(*digest);
        let number = fastrand::u64(..);
        for _ in 0..MAX_TAKEOVERS {
            let version = match self.try_lease(&key, number, lost).await {
                Ok(Attempt::Put(version)) => version,
                Ok(Attempt::HeldByPeer(holder)) => return Leased::HeldByPeer(holder),
                Ok(Attempt::Outrun) => continue,
                Err(Unavailable) => return Leased::Unavailable,
            };
            let renewal = tokio::spawn(self.clone().renew(key.clone(), number, version));
            return Leased::Held(Lease {
                bucket: self.clone(),
                key,
                number,
                renewal: renewal.abort_handle(),
                _held: held.confirm(),
            });
        }
        Leased::HeldByPeer(None)
    }

    /// Whether this node holds the lease of a blob.
    pub fn holds_lease(&self, digest: &Digest) -> bool {
        self.inner.held_leases.holds(digest)
    }

    /// Whether this node holds the lease of a blob, or did within the last minute.
    pub fn held_lease_recently(&self, digest: &Digest) -> bool {
        self.inner.held_leases.held_recently(digest)
    }

    fn this_node(&self) -> ThisNode<'_> {
        ThisNode {
            id: &self.inner.node,
            url: self.inner.advertise.as_deref(),
        }
    }

    async fn try_lease(
        &self,
        key: &Path,
        number: u64,
        lost: &HashSet<String>,
    ) -> Result<Attempt, Unavailable> {
        if let Some(version) = self.put_lease(key, number, PutMode::Create).await? {
            return Ok(Attempt::Put(version));
        }
        let Some((body, version)) = self.read_lease(key).await? else {
            // It was just released; the caller checks for the blob next.
            return Ok(Attempt::HeldByPeer(None));
        };
        let now = unix(SystemTime::now());
        match lease_body::standing(body, self.this_node(), now, lost) {
            Standing::HeldByPeer(holder) => Ok(Attempt::HeldByPeer(holder)),
            Standing::Own | Standing::Free => {
                let put = self
                    .put_lease(key, number, PutMode::Update(version))
                    .await?;
                Ok(put.map_or(Attempt::Outrun, Attempt::Put))
            }
        }
    }

    /// Renews a lease until another one replaced it.
    async fn renew(self, key: Path, number: u64, mut version: UpdateVersion) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let mode = PutMode::Update(version.clone());
            match self.put_lease(&key, number, mode).await {
                Ok(Some(renewed)) => version = renewed,
                Ok(None) => match self.read_lease(&key).await {
                    // The answer to an earlier renewal was lost.
                    Ok(Some((Some(body), found))) if body.is_of(&self.inner.node, number) => {
                        version = found;
                    }
                    Err(Unavailable) => {}
                    Ok(_) => return,
                },
                Err(Unavailable) => {}
            }
        }
    }

    /// Deletes a lease, unless another one replaced it.
    pub(super) async fn release(&self, key: &Path, number: u64) -> bool {
        match self.read_lease(key).await {
            Ok(Some((Some(body), _))) if body.is_of(&self.inner.node, number) => {
                let delete = self.inner.s3.delete(key);
                self.write_existing(SMALL_TIMEOUT, delete).await.is_ok()
            }
            Ok(_) => true,
            Err(Unavailable) => false,
        }
    }

    /// A lease with its version; without its body if that is invalid.
    async fn read_lease(
        &self,
        key: &Path,
    ) -> Result<Option<(Option<LeaseBody>, UpdateVersion)>, Unavailable> {
        let read = self.read(SMALL_TIMEOUT, async {
            let got = self.inner.s3.get(key).await?;
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
        read.await
    }

    /// Writes a lease; `None` if another version of it exists.
    async fn put_lease(
        &self,
        key: &Path,
        number: u64,
        mode: PutMode,
    ) -> Result<Option<UpdateVersion>, Unavailable> {
        let body = LeaseBody {
            node: self.inner.node.clone(),
            number,
            expires_at: unix(SystemTime::now()) + LIFETIME,
            holder: self.inner.advertise.clone(),
        };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let replaces = matches!(mode, PutMode::Update(_));
        let payload = PutPayload::from(json);
        let put = self.inner.s3.put_opts(key, payload, mode.into());
        let put = if replaces {
            self.write_existing(SMALL_TIMEOUT, put).await?
        } else {
            self.write(SMALL_TIMEOUT, put).await?
        };
        Ok(put.map(|put| UpdateVersion {
            e_tag: put.e_tag,
            version: None,
        }))
    }
}

/// One attempt to get a lease.
enum Attempt {
    Put(UpdateVersion),
    HeldByPeer(Option<LeaseHolder>),
    /// Another node took it over at the same moment.
    Outrun,
}
