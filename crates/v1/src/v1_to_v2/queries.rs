//! Queries of the v1 side with our own login. They share the store with the reads of v1 clients; a tag, and
//! whether an image still exists, is fetched each time.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::V1Repository;
use crate::Registries;
use crate::body_fetch::V1Answer;
use crate::layer::StoredLayer;
use mirror::{MirrorError, ResourceKind};
use oci::name::Tag;
use oci::v1::{Endpoint, ImageId, Part, Resource, ids_in_list};
use upstream::UpstreamError;

/// How long a query of a small body may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest JSON of one image, in bytes.
const MAX_DESCRIPTION: usize = 1 << 20;
/// The longest chain of images. Docker builds none of more than 127.
const MAX_CHAIN: usize = 512;

/// An image's JSON.
#[derive(Debug)]
pub(super) struct ImageDescription {
    pub json: String,
    /// The length of its layer in bytes, if the registry reports it.
    pub size: Option<u64>,
}

impl V1Repository {
    /// The image that a tag names; `None` if there is no such tag.
    pub async fn tag(
        &self,
        registries: &Registries,
        tag: &Tag,
    ) -> Result<Option<ImageId>, MirrorError> {
        let asked = self.named(registries, Resource::Tag(tag.clone()));
        let id = match asked.await {
            Ok(answer) => serde_json::from_slice::<String>(&answer.bytes).ok(),
            Err(MirrorError::Unknown { .. }) => return Ok(None),
            // Some registries serve only the list of tags.
            Err(MirrorError::Unusable(error))
                if has_status(&error, StatusCode::METHOD_NOT_ALLOWED) =>
            {
                let tags = self.tags(registries).await?.unwrap_or_default();
                match tags.get(tag.as_str()) {
                    Some(id) => id.as_str().map(str::to_owned),
                    None => return Ok(None),
                }
            }
            Err(error) => return Err(error),
        };
        let id = id.and_then(|id| id.parse().ok());
        id.map(Some)
            .ok_or_else(|| protocol_error("its tag names no image"))
    }

    /// All tags of the repository; `None` if there is no such repository.
    pub async fn tags(
        &self,
        registries: &Registries,
    ) -> Result<Option<serde_json::Map<String, serde_json::Value>>, MirrorError> {
        match self.named(registries, Resource::Tags).await {
            Ok(answer) => {
                let tags = serde_json::from_slice(&answer.bytes);
                tags.map(Some)
                    .map_err(|_| protocol_error("its tags cannot be read"))
            }
            Err(MirrorError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An image and its ancestors, the root last.
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
            return Err(protocol_error("its ancestry does not belong to the image"));
        }
        Ok(chain)
    }

    /// Fetches an image's JSON.
    pub(super) async fn description(
        &self,
        registries: &Registries,
        id: &ImageId,
    ) -> Result<ImageDescription, MirrorError> {
        let answer = self.part(registries, id, Part::Json).await?;
        if answer.bytes.len() > MAX_DESCRIPTION {
            let limit = MAX_DESCRIPTION;
            return Err(failed(UpstreamError::TooLarge { limit }));
        }
        let json = String::from_utf8(answer.bytes.to_vec());
        Ok(ImageDescription {
            json: json.map_err(|_| protocol_error("its image JSON is not UTF-8"))?,
            size: answer.layer_size,
        })
    }

    /// Whether the registry still serves us an image for this repository.
    pub async fn has_image(
        &self,
        registries: &Registries,
        id: &ImageId,
    ) -> Result<bool, MirrorError> {
        let what = Endpoint::Image {
            id: id.clone(),
            part: Part::Json,
        };
        match self.fetch(registries, what).await {
            Ok(_) => Ok(true),
            Err(MirrorError::Unknown { .. } | MirrorError::Denied) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches a layer into the store.
    pub async fn layer(
        &self,
        registries: &Registries,
        id: &ImageId,
    ) -> Result<StoredLayer, MirrorError> {
        let repository = Some(self.name.repository.clone());
        let fetched = registries.fetch_layer(&self.origin, repository, id).await;
        fetched.map_err(image_error)
    }

    async fn part(
        &self,
        registries: &Registries,
        id: &ImageId,
        which: Part,
    ) -> Result<V1Answer, MirrorError> {
        let repository = Some(self.name.repository.clone());
        let asked = registries.image_part(&self.origin, repository, id, which);
        let asked = tokio::time::timeout(QUERY_TIMEOUT, asked).await;
        let late = |_| Err(MirrorError::timed_out());
        asked.unwrap_or_else(late).map_err(image_error)
    }

    async fn named(
        &self,
        registries: &Registries,
        resource: Resource,
    ) -> Result<V1Answer, MirrorError> {
        let repository = self.name.repository.clone();
        let what = Endpoint::Named {
            repository,
            resource,
        };
        self.fetch(registries, what).await
    }

    async fn fetch(
        &self,
        registries: &Registries,
        what: Endpoint,
    ) -> Result<V1Answer, MirrorError> {
        let asked = registries.fetch_body(&self.origin, Some(self.name.repository.clone()), what);
        let asked = tokio::time::timeout(QUERY_TIMEOUT, asked).await;
        asked
            .unwrap_or_else(|_| Err(MirrorError::timed_out()))
            .map_err(own_login_error)
    }
}

/// Turns a demand for a login into a denial: it is our login there, not the client's.
fn own_login_error(error: MirrorError) -> MirrorError {
    match error {
        MirrorError::LoginRequired => MirrorError::Denied,
        error => error,
    }
}

/// Turns "unknown" into a protocol error: a tag named this image, so it must exist.
fn image_error(error: MirrorError) -> MirrorError {
    match own_login_error(error) {
        MirrorError::Unknown { .. } => {
            protocol_error("its tag names an image that it does not have")
        }
        error => error,
    }
}

pub(super) fn protocol_error(what: &'static str) -> MirrorError {
    failed(UpstreamError::Protocol(what))
}

fn failed(error: UpstreamError) -> MirrorError {
    MirrorError::from_upstream(Arc::new(error), ResourceKind::Image)
}

fn has_status(error: &UpstreamError, status: StatusCode) -> bool {
    matches!(error, UpstreamError::Status(actual) if *actual == status)
}
