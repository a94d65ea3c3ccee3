//! Questions to the v1 side, as ourselves. What they bring is kept as it is for clients of v1, and what those
//! brought is not asked for again; where a tag points, and whether an image is still there, is asked each time.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::V1Repository;
use crate::Registries;
use crate::cached::V1Answer;
use crate::layer::StoredLayer;
use mirror::{MirrorError, ResourceKind};
use oci::name::Tag;
use oci::v1::{Endpoint, ImageId, Part, Resource, ids_in_list};
use upstream::UpstreamError;

/// How long a short question may take.
const QUESTION: Duration = Duration::from_secs(8);
/// The longest description of one image, in bytes.
const MAX_DESCRIPTION: usize = 1 << 20;
/// The longest chain of images. Docker makes none of more than 127.
const MAX_CHAIN: usize = 512;

/// What a registry says of an image.
#[derive(Debug)]
pub(super) struct Description {
    pub json: String,
    /// The length of its layer in bytes, where that is said.
    pub size: Option<u64>,
}

impl V1Repository {
    /// The image that a tag of the repository stands for; `None` where there is no such tag.
    pub async fn tag(
        &self,
        registries: &Registries,
        tag: &Tag,
    ) -> Result<Option<ImageId>, MirrorError> {
        let asked = self.named(registries, Resource::Tag(tag.clone()));
        let id = match asked.await {
            Ok(answer) => serde_json::from_slice::<String>(&answer.bytes).ok(),
            Err(MirrorError::Unknown { .. }) => return Ok(None),
            // Some know no single tags.
            Err(MirrorError::Unusable(error)) if is(&error, StatusCode::METHOD_NOT_ALLOWED) => {
                let tags = self.tags(registries).await?.unwrap_or_default();
                match tags.get(tag.as_str()) {
                    Some(id) => id.as_str().map(str::to_owned),
                    None => return Ok(None),
                }
            }
            Err(error) => return Err(error),
        };
        let id = id.and_then(|id| id.parse().ok());
        id.map(Some).ok_or_else(|| wrong("its tag names no image"))
    }

    /// All tags of the repository; `None` where there is none.
    pub async fn tags(
        &self,
        registries: &Registries,
    ) -> Result<Option<serde_json::Map<String, serde_json::Value>>, MirrorError> {
        match self.named(registries, Resource::Tags).await {
            Ok(answer) => {
                let tags = serde_json::from_slice(&answer.bytes);
                tags.map(Some).map_err(|_| wrong("its tags cannot be read"))
            }
            Err(MirrorError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An image and those that it is made on, the root last.
    pub async fn ancestry(
        &self,
        registries: &Registries,
        top: &ImageId,
    ) -> Result<Vec<ImageId>, MirrorError> {
        let answer = self.part(registries, top, Part::Ancestry).await?;
        let chain = ids_in_list(&answer.bytes);
        let mut seen: Vec<&ImageId> = chain.iter().collect();
        seen.sort();
        seen.dedup();
        if chain.first() != Some(top) || seen.len() != chain.len() || chain.len() > MAX_CHAIN {
            return Err(wrong("its ancestry is none of that image"));
        }
        Ok(chain)
    }

    /// What the registry says of an image.
    pub async fn description(
        &self,
        registries: &Registries,
        id: &ImageId,
    ) -> Result<Description, MirrorError> {
        let answer = self.part(registries, id, Part::Json).await?;
        if answer.bytes.len() > MAX_DESCRIPTION {
            let limit = MAX_DESCRIPTION;
            return Err(failed(UpstreamError::TooLarge { limit }));
        }
        let json = String::from_utf8(answer.bytes.to_vec());
        Ok(Description {
            json: json.map_err(|_| wrong("its description of an image is no text"))?,
            size: answer.layer_size,
        })
    }

    /// Whether the registry still lets us have an image for this repository.
    pub async fn has(&self, registries: &Registries, id: &ImageId) -> Result<bool, MirrorError> {
        let what = Endpoint::Image {
            id: id.clone(),
            part: Part::Json,
        };
        match self.anew(registries, what).await {
            Ok(_) => Ok(true),
            Err(MirrorError::Unknown { .. } | MirrorError::Denied) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A layer, which is in the store then.
    pub async fn layer(
        &self,
        registries: &Registries,
        id: &ImageId,
    ) -> Result<StoredLayer, MirrorError> {
        let whose = Some(self.repository.clone());
        let kept = registries.fetch_layer(&self.v1, whose, id).await;
        kept.map_err(of_image)
    }

    async fn part(
        &self,
        registries: &Registries,
        id: &ImageId,
        which: Part,
    ) -> Result<V1Answer, MirrorError> {
        let whose = Some(self.repository.clone());
        let asked = registries.image_part(&self.v1, whose, id, which);
        let asked = tokio::time::timeout(QUESTION, asked).await;
        let late = |_| Err(MirrorError::timed_out());
        asked.unwrap_or_else(late).map_err(of_image)
    }

    async fn named(
        &self,
        registries: &Registries,
        resource: Resource,
    ) -> Result<V1Answer, MirrorError> {
        let repository = self.repository.clone();
        let what = Endpoint::Named {
            repository,
            resource,
        };
        self.anew(registries, what).await
    }

    async fn anew(&self, registries: &Registries, what: Endpoint) -> Result<V1Answer, MirrorError> {
        let asked = registries.fetch_body(&self.v1, Some(self.repository.clone()), what);
        let asked = tokio::time::timeout(QUESTION, asked).await;
        asked
            .unwrap_or_else(|_| Err(MirrorError::timed_out()))
            .map_err(ours)
    }
}

/// What is wanted is our login, of which clients of v2 know nothing.
fn ours(error: MirrorError) -> MirrorError {
    match error {
        MirrorError::LoginRequired => MirrorError::Denied,
        error => error,
    }
}

/// A tag led there: that it is not there is no answer about the tag.
fn of_image(error: MirrorError) -> MirrorError {
    match ours(error) {
        MirrorError::Unknown { .. } => wrong("its tag leads to an image that is not there"),
        error => error,
    }
}

pub(super) fn wrong(what: &'static str) -> MirrorError {
    failed(UpstreamError::Protocol(what))
}

fn failed(error: UpstreamError) -> MirrorError {
    MirrorError::from_upstream(Arc::new(error), ResourceKind::Image)
}

fn is(error: &UpstreamError, status: StatusCode) -> bool {
    matches!(error, UpstreamError::Status(said) if *said == status)
}
