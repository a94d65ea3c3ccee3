//! Cross-repository mounts: finding a repository that is known to have a blob.

use std::time::Duration;

use super::Mirror;
use access::Permit;
use oci::digest::Digest;
use oci::name::{Registry, Repository};
use oci::v2::Resource;
use store::{BlobKey, warn_degraded};

/// The most repositories in which a blob is looked for.
const MAX_CANDIDATES: usize = 256;
/// How long a source is looked for; without one the mount becomes an upload.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(2);

impl Mirror {
    /// Whether the permit's repository may be read, also by the registry's visibility and its gate: if the gateway's
    /// account may read more than an anonymous client, only public content is mounted with it.
    pub async fn may_be_mounted(&self, permit: &Permit, digest: &Digest) -> bool {
        let admitted = async {
            let origin = self.admit(permit, &Resource::Blob(*digest)).await?;
            self.clear_blob(&origin, permit, digest).await.map(drop)
        };
        let admitted = tokio::time::timeout(MOUNT_TIMEOUT, admitted).await;
        admitted.is_ok_and(|admitted| admitted.is_ok())
    }

    /// A repository with a link to the blob, of those that `may_pull` gives a permit for.
    /// Links of others are never read, so that the response time tells nothing of them.
    pub async fn mountable_from(
        &self,
        registry: &Registry,
        digest: &Digest,
        may_pull: impl Fn(&Repository) -> Option<Permit>,
    ) -> Option<Repository> {
        let found = self.find_source(registry, digest, may_pull);
        tokio::time::timeout(MOUNT_TIMEOUT, found)
            .await
            .ok()
            .flatten()
    }

    async fn find_source(
        &self,
        registry: &Registry,
        digest: &Digest,
        may_pull: impl Fn(&Repository) -> Option<Permit>,
    ) -> Option<Repository> {
        let (store, wanted) = (self.state.store.clone(), registry.clone());
        let listed =
            tokio::task::spawn_blocking(move || store.records.repositories_with_blobs(&wanted))
                .await;
        let listed = listed
            .map_err(std::io::Error::other)
            .and_then(|listed| listed);
        let listed = listed.unwrap_or_else(|error| {
            warn_degraded("the repositories cannot be listed", &error);
            Vec::new()
        });
        let permits = listed.iter().filter_map(may_pull).take(MAX_CANDIDATES);
        for permit in permits {
            let records = &self.state.store.records;
            let link = records.open(&BlobKey::new(permit.name(), digest)).await;
            let is_linked = link.is_ok_and(|link| link.is_some());
            if is_linked && self.may_be_mounted(&permit, digest).await {
                return Some(permit.repository().clone());
            }
        }
        None
    }
}
