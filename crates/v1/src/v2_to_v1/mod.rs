//! Images of the v2 API for clients of the v1 API, made up from what the ordinary reads give: rights, fills,
//! freshness and links are theirs.
//!
//! A tag costs one HEAD, since its id is made of the digest that it points at; manifest and configuration are
//! read when somebody asks for the image. Which manifest an id stands for is kept, so that an id is good
//! after a restart, and only where it was given out: for its repository, or for a registry that everybody may
//! read.

mod archive;
mod hidden;
mod issued_ids;
mod layer;
mod unpack;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::V1;
use crate::records::{V1ImageRecord, V1ImageRecords};
use access::Permit;
use mirror::{MirrorError, ReadMethod, ResourceKind};
use oci::digest::Digest;
use oci::manifest::{AcceptClass, is_index};
use oci::name::{Reference, Registry, Repository, Tag};
use oci::v1::ImageId;
use oci::v2::{Query, Resource};
use oci::v2_to_v1::{self, ChainImage, ClientPlatform, ImageManifest, V2ToV1Error};
use store::{CommitError, warn_degraded};

pub use layer::{LayerPreparations, V1ImageLayer};

/// How many tags are asked for at once.
const TAGS_AT_ONCE: usize = 32;
/// How long all tags may take: old Docker gives up after 60 s without a byte. What was learned stays, so that
/// the next question is quicker.
const TAGS_DEADLINE: Duration = Duration::from_secs(50);
/// How many tags of a repository there are at most, and on one page.
const MOST_TAGS: usize = 20_000;
const PAGE: &str = "1000";
/// The longest configuration, in bytes.
const MAX_CONFIG: usize = 8 << 20;
/// How many manifests are looked at to find the image of an index, and how deep.
const MOST_MANIFESTS: usize = 8;
const DEEPEST: usize = 3;

/// Why a v1 client gets no image. It is told these words.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BridgeError {
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error(transparent)]
    Image(#[from] V2ToV1Error),
    #[error("a layer of the image cannot be unpacked")]
    Archive(#[source] Arc<std::io::Error>),
    #[error("a layer of the image cannot be kept as clients of v1 can read it")]
    Keep(#[source] Arc<CommitError>),
}

/// An image as a v1 client sees it, with those below it.
#[derive(Clone, Debug)]
pub struct V1Image {
    /// From the root on.
    links: Vec<ChainImage>,
    at: usize,
}

impl V1Image {
    fn link(&self) -> Option<&ChainImage> {
        self.links.get(self.at)
    }

    /// Its description.
    pub fn json(&self) -> &str {
        self.link().map_or("", |link| &link.json)
    }

    /// Itself and those below it, the root last.
    pub fn ancestry(&self) -> Vec<&str> {
        let ids = self.links.iter().take(self.at + 1).rev();
        ids.map(|link| link.id.as_str()).collect()
    }
}

/// Where the id of a bridged image is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdScope {
    /// In one repository.
    Repository,
    /// In the whole registry, which anonymous clients may read.
    Registry,
}

impl IdScope {
    /// The scope of a registry's ids: `is_open` where anonymous clients may read all of it.
    pub fn of(is_open: bool) -> Self {
        if is_open {
            Self::Registry
        } else {
            Self::Repository
        }
    }

    /// The repository that the record of an id belongs to.
    fn repository(self, repository: &Repository) -> Option<&Repository> {
        match self {
            Self::Repository => Some(repository),
            Self::Registry => None,
        }
    }
}

/// A page of `tags/list`.
#[derive(Debug, Deserialize)]
struct TagsPage {
    tags: Option<Vec<String>>,
}

impl V1 {
    /// Whether a registry's images are made up for v1 clients.
    pub fn bridges_v2(&self, registry: &Registry) -> bool {
        self.registries.bridged.contains(registry)
    }

    /// Makes sure that there is such a repository.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] where there is none, and why it could not be asked.
    pub async fn bridged_repository(&self, permit: &Permit) -> Result<(), MirrorError> {
        match self.tags_page(permit, &first_page()).await {
            Err(error) if error.stale_reason().is_some() => {
                let known = !self.known_tags(permit).await.is_empty();
                if known { Ok(()) } else { Err(error) }
            }
            answered => answered.map(drop),
        }
    }

    /// The ids that the tags of a repository stand for, by tag. `everybody` is whether everybody may read the
    /// whole registry. What only goes with a digest (signatures and the like) is left out.
    ///
    /// # Errors
    /// What the upstream said: a list that is short without a word would be taken for whole.
    pub async fn bridged_tags(
        &self,
        permit: &Permit,
        scope: IdScope,
        platform: &ClientPlatform,
    ) -> Result<BTreeMap<String, ImageId>, MirrorError> {
        let all = async {
            let tags = self.tags(permit).await?;
            let tags = tags.into_iter().filter(|tag| !tag.is_companion());
            let asked: Vec<_> = tags
                .map(|tag| self.named_tag(permit, scope, tag, platform))
                .collect();
            let mut asked = futures_util::stream::iter(asked).buffer_unordered(TAGS_AT_ONCE);
            let mut ids = BTreeMap::new();
            while let Some((tag, id)) = asked.next().await {
                match id {
                    Ok(id) => {
                        ids.insert(tag.to_string(), id);
                    }
                    // It went while we asked.
                    Err(MirrorError::Unknown { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(ids)
        };
        let all = tokio::time::timeout(TAGS_DEADLINE, all).await;
        all.unwrap_or_else(|_| Err(MirrorError::timed_out()))
    }

    /// The id that one tag stands for.
    ///
    /// # Errors
    /// What the upstream said.
    pub async fn bridged_tag(
        &self,
        permit: &Permit,
        scope: IdScope,
        tag: &Tag,
        platform: &ClientPlatform,
    ) -> Result<ImageId, MirrorError> {
        let reference = Reference::Tag(tag.clone());
        let manifest = self
            .mirror
            .manifest(permit, &reference, AcceptClass::Full, ReadMethod::Head)
            .await?;
        let id = v2_to_v1::top_id(&manifest.digest, platform);
        self.note_image(permit, scope, &id, &manifest.digest, platform, None)
            .await;
        Ok(id)
    }

    /// What an id stands for, where it was given out: for a repository, or for a registry that everybody may
    /// read.
    ///
    /// # Errors
    /// When the disk cannot say.
    pub async fn bridged_id(
        &self,
        registry: &Registry,
        repository: Option<&Repository>,
        id: &ImageId,
    ) -> Result<Option<Arc<V1ImageRecord>>, MirrorError> {
        let records = V1ImageRecords::of(self.store());
        let known = records.image(registry, repository, id);
        known
            .await
            .map_err(|error| MirrorError::Disk(Arc::new(error)))
    }

    /// The image that an id stands for.
    ///
    /// # Errors
    /// What the upstream said, and why there can be no such image.
    pub async fn bridged_image(
        &self,
        permit: &Permit,
        id: &ImageId,
        known: &V1ImageRecord,
    ) -> Result<V1Image, BridgeError> {
        let platform = ClientPlatform {
            os: known.os.clone(),
            architecture: known.architecture.clone(),
        };
        let image = self.image_for(permit, known.manifest, &platform).await?;
        let config = self.config(permit, &image.config).await?;
        let links = v2_to_v1::chain(&known.manifest, &platform, &image, &config)?;
        let at = known.position.unwrap_or(links.len().saturating_sub(1));
        if links.get(at).is_none_or(|link| link.id != *id) {
            // Made by another version of this program.
            return Err(MirrorError::Unknown {
                kind: ResourceKind::Image,
                remembered: false,
            }
            .into());
        }
        Ok(V1Image { links, at })
    }

    /// Gives the ids below an image out, so that they can be asked for.
    pub async fn issue_ancestry(
        &self,
        permit: &Permit,
        scope: IdScope,
        known: &V1ImageRecord,
        image: &V1Image,
    ) {
        let platform = ClientPlatform {
            os: known.os.clone(),
            architecture: known.architecture.clone(),
        };
        let below = image.links.iter().enumerate().take(image.at);
        let noted: Vec<BoxFuture<'_, ()>> = below
            .map(|(at, link)| {
                let (manifest, platform) = (&known.manifest, &platform);
                let noted = self.note_image(permit, scope, &link.id, manifest, platform, Some(at));
                Box::pin(noted) as BoxFuture<'_, ()>
            })
            .collect();
        let noted = futures_util::stream::iter(noted).buffer_unordered(TAGS_AT_ONCE);
        noted.collect::<Vec<()>>().await;
    }

    /// [`V1::bridged_tag`] with the tag.
    fn named_tag<'a>(
        &'a self,
        permit: &'a Permit,
        scope: IdScope,
        tag: Tag,
        platform: &'a ClientPlatform,
    ) -> BoxFuture<'a, (Tag, Result<ImageId, MirrorError>)> {
        Box::pin(async move {
            let id = self.bridged_tag(permit, scope, &tag, platform).await;
            (tag, id)
        })
    }

    async fn note_image(
        &self,
        permit: &Permit,
        scope: IdScope,
        id: &ImageId,
        manifest: &Digest,
        platform: &ClientPlatform,
        position: Option<usize>,
    ) {
        let (registry, repository) = (permit.registry(), permit.repository());
        let image = V1ImageRecord {
            repository: repository.to_string(),
            manifest: *manifest,
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            position,
        };
        let whose = scope.repository(repository);
        let images = V1ImageRecords::of(self.store());
        images.store_image(registry, whose, id, image).await;
    }

    /// The tags of a repository. Where the upstream cannot be asked, those that were asked for before.
    async fn tags(&self, permit: &Permit) -> Result<Vec<Tag>, MirrorError> {
        let mut tags: Vec<Tag> = Vec::new();
        let mut query = first_page();
        loop {
            let (page, next) = match self.tags_page(permit, &query).await {
                Ok(page) => page,
                Err(error) if error.stale_reason().is_some() => {
                    let known = self.known_tags(permit).await;
                    return if known.is_empty() {
                        Err(error)
                    } else {
                        Ok(known)
                    };
                }
                Err(error) => return Err(error),
            };
            let new = page.tags.unwrap_or_default();
            tags.extend(new.iter().filter_map(|tag| tag.parse().ok()));
            match next.filter(|next| *next != query && tags.len() < MOST_TAGS) {
                Some(next) => query = next,
                None => return Ok(tags),
            }
        }
    }

    async fn tags_page(
        &self,
        permit: &Permit,
        query: &Query,
    ) -> Result<(TagsPage, Option<Query>), MirrorError> {
        let answer = self.mirror.list(permit, &Resource::Tags, query).await?;
        let page = answer.page();
        let tags = serde_json::from_slice(&page.bytes).map_err(|_| {
            MirrorError::Unusable(Arc::new(upstream::UpstreamError::Protocol(
                "its list of tags cannot be read",
            )))
        })?;
        Ok((tags, page.next.clone()))
    }

    async fn known_tags(&self, permit: &Permit) -> Vec<Tag> {
        let (store, permit) = (self.registries.store.clone(), permit.clone());
        let known = tokio::task::spawn_blocking(move || {
            let known = store
                .records
                .known_tags(permit.registry(), permit.repository());
            known.unwrap_or_else(|error| {
                warn_degraded("the tags cannot be listed", &error);
                Vec::new()
            })
        });
        known.await.unwrap_or_default()
    }

    /// The image for a platform that a manifest is, or that an index leads to.
    async fn image_for(
        &self,
        permit: &Permit,
        named: Digest,
        platform: &ClientPlatform,
    ) -> Result<ImageManifest, BridgeError> {
        let mut left: Vec<(Digest, usize)> = vec![(named, 0)];
        let mut looked_at = 0;
        let mut missed = None;
        while let Some((digest, depth)) = left.pop() {
            looked_at += 1;
            if looked_at > MOST_MANIFESTS || depth > DEEPEST {
                return Err(V2ToV1Error::Nesting.into());
            }
            let reference = Reference::Digest(digest);
            let manifest = self
                .mirror
                .manifest(permit, &reference, AcceptClass::Full, ReadMethod::Get)
                .await?;
            let bytes = manifest.bytes.ok_or(MirrorError::Internal)?;
            if !is_index(&manifest.media_type) {
                return Ok(ImageManifest::parse(&bytes)?);
            }
            match v2_to_v1::choose(&bytes, platform) {
                Ok(found) => {
                    // An image is what was looked for; of indexes, one may have it.
                    let found = found.iter().rev();
                    left.extend(found.map(|found| (found.digest, depth + 1)));
                }
                Err(error) => missed = Some(error),
            }
        }
        Err(missed.unwrap_or(V2ToV1Error::Manifest).into())
    }

    async fn config(&self, permit: &Permit, digest: &Digest) -> Result<BytesMut, BridgeError> {
        let answer = self.mirror.blob(permit, digest).await?;
        let mut reader = answer.open(None).await?;
        let mut bytes = BytesMut::new();
        loop {
            match reader.next().await {
                Ok(Some(piece)) if bytes.len() + piece.len() > MAX_CONFIG => {
                    return Err(V2ToV1Error::Config.into());
                }
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => return Ok(bytes),
                Err(error) => {
                    tracing::warn!(
                        error = telemetry::chain(&error),
                        "a configuration broke off"
                    );
                    return Err(MirrorError::Internal.into());
                }
            }
        }
    }
}

fn first_page() -> Query {
    Query::default().with("n", PAGE)
}
