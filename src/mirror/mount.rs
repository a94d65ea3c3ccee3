//! Sources of mounts: repositories that are known to have a blob.

use std::time::Duration;

use super::Mirror;
use crate::access::Permit;
use crate::spec::digest::Digest;
use crate::spec::v2::Resource;

/// How long a source is looked for; without one a mount becomes an upload.
const WITHIN: Duration = Duration::from_secs(2);

impl Mirror {
    /// Whether what the permit's repository has may be read, by all that is known of it: where our account may
    /// read more than everybody, only what everybody may read is mounted with it.
    pub async fn may_be_mounted(&self, permit: &Permit, digest: &Digest) -> bool {
        let blob = Resource::Blob(*digest);
        let admitted = self.admit(permit, &blob);
        let admitted = tokio::time::timeout(WITHIN, admitted).await;
        admitted.is_ok_and(|admitted| admitted.is_ok())
    }
}
