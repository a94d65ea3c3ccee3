//! Which images a request may read: an image request names no repository, so it carries a [`Claim`].
//!
//! An image is served under a repository's claim only if it is linked to that repository: the repository's image
//! list or tags named it, it is an ancestor of a linked image, or a client with push rights put it.

use std::sync::Arc;

use super::V1;
use super::origin::V1Origin;
use super::records::ImageRecords;
use access::{Open, Permit};
use mirror::{MirrorError, ResourceKind};
use oci::name::{Registry, Repository, RepositoryName};
use oci::v1::{ImageId, Resource};

/// The right that an image request relies on.
#[derive(Clone, Copy, Debug)]
pub enum Claim<'a> {
    /// To the images that are linked to this repository.
    Repository(&'a Permit),
    /// To every image of a registry that anonymous clients may read.
    OpenRegistry(&'a Open),
}

impl<'a> Claim<'a> {
    /// The registry that the claim is valid in.
    pub fn registry(self) -> &'a Registry {
        match self {
            Self::Repository(permit) => permit.registry(),
            Self::OpenRegistry(open) => open.registry(),
        }
    }
}

impl V1 {
    /// Links images to the permit's repository.
    ///
    /// # Errors
    /// [`MirrorError::Disk`] if the records cannot be read.
    pub async fn v1_link(&self, permit: &Permit, ids: &[ImageId]) -> Result<(), MirrorError> {
        if let Some(origin) = self.registries.origins.get(permit.registry()) {
            for id in ids {
                origin
                    .listed_in
                    .insert(id.clone(), permit.repository().clone());
            }
        }
        let images = ImageRecords::of(self.store());
        let linked = images.link(permit.name(), ids);
        linked
            .await
            .map_err(|error| MirrorError::Disk(Arc::new(error)))
    }

    /// Unlinks all images of the permit's repository, which was deleted.
    pub async fn v1_unlink_all(&self, permit: &Permit) {
        let images = ImageRecords::of(self.store());
        images.unlink_all(permit.name()).await;
    }

    /// Notes that a client says that an image belongs to this repository. That gives no right to the image, but
    /// selects the index token to fetch it with.
    pub fn v1_hint_repository(&self, name: &RepositoryName, id: &ImageId) {
        if let Some(origin) = self.registries.origins.get(&name.registry) {
            let repository = name.repository.clone();
            origin.hinted_in.insert(id.clone(), repository);
        }
    }

    /// Checks that a claim covers an image; returns the repository whose index token fetches it. A client that
    /// got the image list elsewhere, as Docker with `--registry-mirror` does, is admitted by the list that we
    /// fetch.
    pub(super) async fn check_claim(
        &self,
        origin: &Arc<V1Origin>,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<Option<Repository>, MirrorError> {
        let permit = match claim {
            Claim::OpenRegistry(_) => {
                // The upstream's word takes precedence over a client's.
                let hinted = || origin.hinted_in.get(id);
                return Ok(origin.listed_in.get(id).or_else(hinted));
            }
            Claim::Repository(permit) => permit,
        };
        let repository = Some(permit.repository().clone());
        if self.is_linked(permit, id).await? {
            return Ok(repository);
        }
        if origin.mirrored {
            match self.v1_named(permit, &Resource::Images).await {
                Ok(_) if self.is_linked(permit, id).await? => return Ok(repository),
                Ok(_) | Err(MirrorError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(MirrorError::Unknown {
            kind: ResourceKind::Image,
            remembered: false,
        })
    }

    pub(super) async fn is_linked(
        &self,
        permit: &Permit,
        id: &ImageId,
    ) -> Result<bool, MirrorError> {
        let images = ImageRecords::of(self.store());
        let linked = images.is_linked(permit.name(), id);
        linked
            .await
            .map_err(|error| MirrorError::Disk(Arc::new(error)))
    }
}
