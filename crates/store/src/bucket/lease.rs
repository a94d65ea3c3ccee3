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
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::held_leases::HeldLease;
use super::outbox::KeyChange;
use super::{Bucket, SMALL_TIMEOUT, Unavailable};
use crate::space::unix;
use oci::digest::Digest;

/// How long a lease is valid, in seconds.
const LIFETIME: u64 = 60;
/// How often it is renewed: two renewals may fail.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// The difference of the nodes' clocks, in seconds, up to which a lease that names its holder is followed: that node says
/// itself whether it still fetches.
const MAX_CLOCK_SKEW: u64 = 600;
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

/// The node that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// Identifies its process.
    pub node: String,
    /// How other nodes reach it.
    pub url: String,
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

#[derive(Clone, Debug, Serialize, Deserialize)]
struct LeaseBody {
    node: String,
    /// Random, since a node may hold one lease of a blob after the other.
    #[serde(default)]
    number: u64,
    /// In seconds since 1970.
    expires_at: u64,
    /// The URL of a node that advertises itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
}

/// What a node may do with the lease that it found.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Own,
    HeldByPeer(Option<LeaseHolder>),
    /// Expired, or of a lost node: it may be taken over.
    Free,
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
        match self.standing(body, unix(SystemTime::now()), lost) {
            Standing::HeldByPeer(holder) => Ok(Attempt::HeldByPeer(holder)),
            Standing::Own | Standing::Free => {
                let put = self
                    .put_lease(key, number, PutMode::Update(version))
                    .await?;
                Ok(put.map_or(Attempt::Outrun, Attempt::Put))
            }
        }
    }

    /// What this node may do with a lease.
    fn standing(&self, body: Option<LeaseBody>, now: u64, lost: &HashSet<String>) -> Standing {
        let Some(LeaseBody {
            node,
            expires_at,
            holder,
            ..
        }) = body
        else {
            return Standing::Free;
        };
        if node == self.inner.node {
            return Standing::Own;
        }
        if lost.contains(&node) {
            return Standing::Free;
        }
        match (&self.inner.advertise, holder) {
            // An earlier process of this node: it fetches nothing any more.
            (Some(own), Some(url)) if *own == url => Standing::Free,
            (Some(_), Some(url)) if now.abs_diff(expires_at) <= MAX_CLOCK_SKEW => {
                Standing::HeldByPeer(Some(LeaseHolder { node, url }))
            }
            _ if is_valid(expires_at, now) => Standing::HeldByPeer(None),
            _ => Standing::Free,
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
                    Ok(Some((Some(body), found))) if self.wrote(&body, number) => version = found,
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
            Ok(Some((Some(body), _))) if self.wrote(&body, number) => {
                let delete = self.inner.s3.delete(key);
                self.write_existing(SMALL_TIMEOUT, delete).await.is_ok()
            }
            Ok(_) => true,
            Err(Unavailable) => false,
        }
    }

    /// Whether this process wrote the lease of this number.
    fn wrote(&self, body: &LeaseBody, number: u64) -> bool {
        body.node == self.inner.node && body.number == number
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

/// Whether a lease is valid. One from too far in the future is not.
fn is_valid(expires_at: u64, now: u64) -> bool {
    (now + 1..=now + 2 * LIFETIME).contains(&expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Settings;

    fn bucket(advertise: Option<&str>) -> Bucket {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let settings = Settings {
            name: "b".into(),
            prefix: String::new(),
            endpoint: Some("http://127.0.0.1:1".into()),
            region: None,
            account: None,
            advertise: advertise.map(ToOwned::to_owned),
            views: std::collections::HashMap::new(),
        };
        Bucket::new(&settings, &tokio::runtime::Handle::current()).expect("a client")
    }

    fn body(node: &str, expires_at: u64, holder: Option<&str>) -> LeaseBody {
        LeaseBody {
            node: node.to_owned(),
            number: 0,
            expires_at,
            holder: holder.map(ToOwned::to_owned),
        }
    }

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

    #[tokio::test]
    async fn found_leases_are_followed_waited_for_or_taken_over() {
        let (alone, named) = (bucket(None), bucket(Some("http://me")));
        let own = named.inner.node.clone();
        let peer = |url: &str| {
            Standing::HeldByPeer(Some(LeaseHolder {
                node: "n".to_owned(),
                url: url.to_owned(),
            }))
        };
        let lost = HashSet::from(["gone".to_owned()]);
        let at = 1_000;
        assert_eq!(alone.standing(None, at, &lost), Standing::Free);
        for (bucket, found, expected) in [
            (&alone, body("n", at + 1, None), Standing::HeldByPeer(None)),
            (&alone, body("n", at, None), Standing::Free),
            // A node that is not reachable itself does not read from others.
            (
                &alone,
                body("n", at + 1, Some("http://n")),
                Standing::HeldByPeer(None),
            ),
            (&named, body("n", at + 1, None), Standing::HeldByPeer(None)),
            (
                &named,
                body("n", at + 1, Some("http://n")),
                peer("http://n"),
            ),
            // The clocks may differ: the holder says whether it still fetches.
            (
                &named,
                body("n", at - 600, Some("http://n")),
                peer("http://n"),
            ),
            (
                &named,
                body("n", at + 660, Some("http://n")),
                Standing::Free,
            ),
            (
                &named,
                body("n", at - 601, Some("http://n")),
                Standing::Free,
            ),
            // An earlier process of the same node.
            (&named, body("n", at + 1, Some("http://me")), Standing::Free),
            (
                &named,
                body("gone", at + 1, Some("http://n")),
                Standing::Free,
            ),
            (
                &named,
                body(&own, at - 600, Some("http://me")),
                Standing::Own,
            ),
        ] {
            let standing = bucket.standing(Some(found.clone()), at, &lost);
            assert_eq!(standing, expected, "{found:?}");
        }
    }

    /// Leases of older versions name neither a holder nor a number.
    #[test]
    fn leases_of_older_versions_are_read() {
        let old = br#"{"node":"n","expires_at":1}"#;
        let read: LeaseBody = serde_json::from_slice(old).expect("a lease");
        assert_eq!((read.number, read.holder), (0, None));
    }

    #[tokio::test]
    async fn only_the_lease_of_the_same_number_is_released_and_renewed() {
        let bucket = bucket(None);
        let own = bucket.inner.node.clone();
        let lease = |node: &str, number| LeaseBody {
            number,
            ..body(node, 1, None)
        };
        for (found, wrote) in [
            (lease(&own, 7), true),
            (lease(&own, 8), false),
            (lease("n", 7), false),
        ] {
            assert_eq!(bucket.wrote(&found, 7), wrote, "{found:?}");
        }
    }
}
