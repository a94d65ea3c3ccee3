//! Who is admitted to a registry where our account may read more than everybody: only what everybody may
//! read is served there.
//!
//! A repository is public once the upstream showed something of it to a question without our account. That
//! is remembered for a day; the next question asks again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::ResourceKind;
use super::freshness::{Freshness, KnownAnswer, is_fresh, revalidate, stale_age, unix_seconds};
use super::origin::{OriginView, Visibility};
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use oci::name::{Registry, Repository};
use oci::v2::Resource;
use store::{PublicLink, Reach, warn_degraded};

/// How long a repository is known to be public.
const PUBLIC_TTL: Duration = Duration::from_secs(24 * 3600);

/// What of a repository is asked for without our account.
pub(super) type PublicKey = (Registry, Repository, Resource);

impl Mirror {
    /// The origin of a permit's registry, once it is known that `resource` may be served from there.
    pub(super) async fn admit(
        &self,
        permit: &Permit,
        resource: &Resource,
    ) -> Result<OriginView, MirrorError> {
        let origin = self.origin(permit)?;
        if origin.visibility() == Visibility::PublicOnly {
            let (registry, repository) = (permit.registry().clone(), permit.repository().clone());
            let key = (registry, repository, resource.clone());
            self.state.clone().admit_public(&origin, key).await?;
        }
        if let Some(caller_key) = origin.caller_key() {
            self.admit_caller(&origin, caller_key, permit, resource)
                .await?;
        }
        Ok(origin)
    }
}

impl MirrorState {
    /// Makes sure that everybody may read a repository. Where the upstream cannot be asked, what it said
    /// last counts for as long as a stale tag does.
    async fn admit_public(
        self: Arc<Self>,
        origin: &OriginView,
        key: PublicKey,
    ) -> Result<(), MirrorError> {
        let (registry, repository, _) = &key;
        let record = store::PublicKey::new(registry, repository);
        let known = self.store.records.open(&record).await;
        let known = known.unwrap_or_else(|error| {
            warn_degraded("a record of what is public cannot be read", &error);
            None
        });
        let now = SystemTime::now();
        let checked_at = known.map(|known| known.checked_at);
        if checked_at.is_some_and(|at| is_fresh(at, PUBLIC_TTL, now)) {
            return Ok(());
        }
        let known = checked_at.and_then(|at| stale_age(at, origin.max_stale(), now));
        let known = known.map(|age| KnownAnswer { answer: (), age });
        let start = || self.clone().check_public(origin.clone(), key.clone());
        let ask = async {
            let (proof, collapsed) = self.public_checks.join(key.clone(), start).await;
            (proof.unwrap_or(Err(MirrorError::Internal)), collapsed)
        };
        let checked = revalidate(known, origin.wait_limits(), ask, |()| Freshness::Fetched);
        checked.await.map(drop)
    }

    /// Asks the upstream as everybody may, and keeps the answer.
    async fn check_public(
        self: Arc<Self>,
        origin: OriginView,
        key: PublicKey,
    ) -> Result<(), MirrorError> {
        let (registry, repository, resource) = &key;
        let records = &self.store.records;
        let record = store::PublicKey::new(registry, repository);
        let question = records.ask(&record);
        let accepts_peer_record = origin.accepts_peer_record(PUBLIC_TTL);
        let accepts = |link: &PublicLink| accepts_peer_record(link.checked_at);
        let from_peer = records.open_shared(&record, accepts).await;
        if from_peer.is_some() {
            return Ok(());
        }
        let asked = async {
            origin
                .upstream()?
                .ask_as_anybody(repository, resource)
                .await
        };
        match asked.await {
            Ok(()) => {
                let checked_at = unix_seconds(SystemTime::now());
                records
                    .answer(&question, PublicLink { checked_at }, Reach::Shared)
                    .await;
                Ok(())
            }
            Err(error) => {
                let asked = match resource {
                    Resource::Manifest(_) => ResourceKind::Manifest,
                    Resource::Blob(_) => ResourceKind::Blob,
                    _ => ResourceKind::Repository,
                };
                let error = match MirrorError::from_upstream(Arc::new(error), asked) {
                    MirrorError::Denied => MirrorError::NotPublic,
                    error => error,
                };
                if error.revokes_link() {
                    records.answer_absent(&question).await;
                }
                Err(error)
            }
        }
    }
}
