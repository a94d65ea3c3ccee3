//! Admits requests to registries, among them public-only ones whose account may read more.
//!
//! A repository is public once the upstream served something of it to an anonymous request. That is remembered for a
//! day; the next request asks again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::ResourceKind;
use super::freshness::{Freshness, KnownAnswer, is_fresh, revalidate, stale_age, unix_seconds};
use super::origin::{ContentScope, OriginView};
use super::{Mirror, MirrorError, MirrorState, gate};
use access::Permit;
use oci::name::RepositoryName;
use oci::v2::Resource;
use store::{PublicLink, Reach, warn_degraded};

/// How long a repository counts as public.
pub(super) const PUBLIC_TTL: Duration = Duration::from_secs(24 * 3600);

/// The content of a repository that is asked for anonymously.
pub(super) type PublicKey = (RepositoryName, Resource);

impl Mirror {
    /// The registry of a permit, once `resource` may be served by its content scope.
    ///
    /// # Errors
    /// [`MirrorError::Gate`] for names that its gate denies, [`MirrorError::NotPublic`] or the registry's denial, and why
    /// it could not be asked.
    pub(super) async fn admit(
        &self,
        permit: &Permit,
        resource: &Resource,
    ) -> Result<OriginView, MirrorError> {
        let origin = self.origin(permit)?;
        gate::check_names(&origin, permit, resource)?;
        if origin.content_scope() == ContentScope::PublicOnly {
            let key = (permit.name().clone(), resource.clone());
            Box::pin(self.state.clone().admit_public(&origin, key)).await?;
        }
        if let Some(caller_key) = origin.caller_key() {
            Box::pin(self.admit_caller(&origin, caller_key, permit, resource)).await?;
        }
        Ok(origin)
    }
}

impl MirrorState {
    /// Makes sure that a repository is public. If the upstream is unavailable, its last answer counts for as long as a
    /// stale tag does.
    async fn admit_public(
        self: Arc<Self>,
        origin: &OriginView,
        key: PublicKey,
    ) -> Result<(), MirrorError> {
        let record = store::PublicKey::new(&key.0);
        let known = self.store.records.open(&record).await;
        let known = known.unwrap_or_else(|error| {
            warn_degraded("a record of a public repository cannot be read", &error);
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

    /// Asks the upstream anonymously, and stores the answer.
    async fn check_public(
        self: Arc<Self>,
        origin: OriginView,
        key: PublicKey,
    ) -> Result<(), MirrorError> {
        let (name, resource) = &key;
        let records = &self.store.records;
        let record = store::PublicKey::new(name);
        let question = records.ask(&record);
        let accepts_peer_record = origin.accepts_peer_record(PUBLIC_TTL);
        let accepts = |link: &PublicLink| accepts_peer_record(link.checked_at);
        let from_peer = records.open_shared(&record, accepts).await;
        if from_peer.is_some() {
            return Ok(());
        }
        let answer = async {
            origin
                .upstream()?
                .ask_as_anybody(&name.repository, resource)
                .await
        };
        match answer.await {
            Ok(()) => {
                let checked_at = unix_seconds(SystemTime::now());
                records
                    .answer(&question, PublicLink { checked_at }, Reach::Shared)
                    .await;
                Ok(())
            }
            Err(error) => {
                let kind = match resource {
                    Resource::Manifest(_) => ResourceKind::Manifest,
                    Resource::Blob(_) => ResourceKind::Blob,
                    _ => ResourceKind::Repository,
                };
                let error = match MirrorError::from_upstream(Arc::new(error), kind) {
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
