//! Cached reads of small bodies of the v1 API: image JSON and ancestries, which are immutable under their image's id
//! and never revalidated, and a repository's lists and tags, which stay fresh for a while.
//!
//! Each is stored whole as a blob, with a pointer to its sha256. The pointer outlives the blob: an evicted body
//! is fetched again.

use std::sync::Arc;
use std::time::SystemTime;

use super::V1;
use super::body_fetch::{FetchedBody, V1Answer};
use super::claim::Claim;
use super::layer;
use super::origin::V1Origin;
use crate::records::BodyPointer;
use access::Permit;
use mirror::{
    Freshness, KnownAnswer, MirrorError, UNCACHED_DEADLINE, WaitLimits, fresh_for, revalidate,
    stale_age,
};
use oci::name::{Registry, Repository};
use oci::v1::{Endpoint, ImageId, Part, Resource, ids_in_list, ids_of_tags};

impl V1 {
    /// Whether the content of a v1 registry is cached.
    pub fn v1_is_mirrored(&self, registry: &Registry) -> bool {
        let origin = self.registries.origins.get(registry);
        origin.is_some_and(|origin| origin.mirrored)
    }

    /// A list or tag of the permit's repository: from the store while fresh. The images that it names are
    /// linked to the repository. Where clients push to the registry, it is fetched each time.
    ///
    /// # Errors
    /// The upstream's error, if it had to be asked.
    pub async fn v1_named(
        &self,
        permit: &Permit,
        resource: &Resource,
    ) -> Result<V1Answer, MirrorError> {
        let origin = self.origin(permit.registry())?;
        let repository = permit.repository();
        let endpoint = Endpoint::Named {
            repository: repository.clone(),
            resource: resource.clone(),
        };
        let known = self.registries.body_pointer(&origin, &endpoint).await;
        let mut answer = None;
        if let Some(known) = known.as_ref().filter(|_| origin.mirrored)
            && let Some(left) = fresh_for(known.checked_at, origin.tag_ttl, SystemTime::now())
            && let Some(fetched) = self.registries.stored_body(known).await
        {
            let fresh = Freshness::Fresh { left };
            answer = Some(V1Answer::of(fetched, fresh.cache_status(false)));
        }
        let answer = match answer {
            Some(answer) => answer,
            None => {
                self.v1_revalidate(&origin, repository, endpoint, known)
                    .await?
            }
        };
        let ids = match resource {
            Resource::Images => ids_in_list(&answer.bytes),
            Resource::Tags | Resource::Tag(_) => ids_of_tags(&answer.bytes),
            _ => Vec::new(),
        };
        self.v1_link(permit, &ids).await?;
        Ok(answer)
    }

    /// An image's JSON.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] if the claim does not cover the image, and the upstream's error.
    pub async fn v1_image_json(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<V1Answer, MirrorError> {
        let origin = self.origin(claim.registry())?;
        let repository = self.check_claim(&origin, claim, id).await?;
        let mut answer = self
            .registries
            .image_part(&origin, repository, id, Part::Json)
            .await?;
        if answer.layer_size.is_none() {
            // Some registries do not report it.
            let layer = layer::endpoint(id);
            let layer = self.registries.body_pointer(&origin, &layer).await;
            answer.layer_size = layer.map(|layer| layer.size);
        }
        Ok(answer)
    }

    /// The ids of an image and of its ancestors, in JSON. The claim covers all of them from now on.
    ///
    /// # Errors
    /// As [`V1::v1_image_json`].
    pub async fn v1_ancestry(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<V1Answer, MirrorError> {
        let origin = self.origin(claim.registry())?;
        let repository = self.check_claim(&origin, claim, id).await?;
        let listing = repository.clone();
        let answer = self
            .registries
            .image_part(&origin, repository, id, Part::Ancestry)
            .await?;
        let ids = ids_in_list(&answer.bytes);
        match (claim, listing) {
            (Claim::Repository(permit), _) => self.v1_link(permit, &ids).await?,
            (Claim::OpenRegistry(_), Some(repository)) => {
                for id in ids {
                    origin.listed_in.insert(id, repository.clone());
                }
            }
            (Claim::OpenRegistry(_), None) => {}
        }
        Ok(answer)
    }

    /// Revalidates a list. If the upstream cannot answer, or not soon enough, the `known` list is the answer,
    /// with its age; the fetch goes on behind it.
    async fn v1_revalidate(
        &self,
        origin: &Arc<V1Origin>,
        repository: &Repository,
        endpoint: Endpoint,
        known: Option<Arc<BodyPointer>>,
    ) -> Result<V1Answer, MirrorError> {
        let age =
            |known: &BodyPointer| stale_age(known.checked_at, origin.max_stale, SystemTime::now());
        let usable = match known.as_ref().and_then(|known| Some((known, age(known)?))) {
            Some((known, age)) => {
                let answer = self.registries.stored_body(known).await;
                answer.map(|answer| KnownAnswer { answer, age })
            }
            None => None,
        };
        let key = (origin.registry.clone(), endpoint, Some(repository.clone()));
        let fetch = async {
            let (fetched, collapsed) = self.registries.join_fetch(origin, key).await;
            (fetched.unwrap_or(Err(MirrorError::Internal)), collapsed)
        };
        let wait = WaitLimits {
            with_known: origin.stale_after,
            without_known: UNCACHED_DEADLINE,
        };
        let compare = |fetched: &FetchedBody| match known {
            Some(known) if known.digest == fetched.pointer.digest => Freshness::Revalidated,
            Some(_) => Freshness::Moved,
            None => Freshness::Fetched,
        };
        let checked = revalidate(usable, wait, fetch, compare).await?;
        let (cache, stale) = (checked.cache_status(), checked.freshness.stale());
        Ok(V1Answer {
            stale,
            ..V1Answer::of(checked.answer, cache)
        })
    }
}
