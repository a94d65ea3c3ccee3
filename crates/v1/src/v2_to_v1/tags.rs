//! Tags of the v2 API as v1 clients list them: a tag with the id of its image.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::super::V1;
use super::{IdScope, TAGS_AT_ONCE};
use access::Permit;
use mirror::{MirrorError, ReadMethod};
use oci::manifest::AcceptClass;
use oci::name::{Reference, Tag};
use oci::v1::ImageId;
use oci::v2::{Query, Resource};
use oci::v2_to_v1::{self, ClientPlatform};
use store::warn_degraded;

/// How long all tags may take: old Docker gives up after 60 s without a byte. Resolved tags stay cached, so the
/// next request is quicker.
const TAGS_DEADLINE: Duration = Duration::from_secs(50);
/// The most tags of a repository that are listed, and the size of a page.
const MAX_TAGS: usize = 20_000;
const PAGE_SIZE: &str = "1000";

/// A page of `tags/list`.
#[derive(Debug, Deserialize)]
struct TagsPage {
    tags: Option<Vec<String>>,
}

impl V1 {
    /// Checks that the repository exists.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] if it does not, and why the upstream could not answer.
    pub async fn bridged_repository(&self, permit: &Permit) -> Result<(), MirrorError> {
        match self.tags_page(permit, &first_page()).await {
            Err(error) if error.stale_reason().is_some() => {
                let known = !self.known_tags(permit).await.is_empty();
                if known { Ok(()) } else { Err(error) }
            }
            answered => answered.map(drop),
        }
    }

    /// The ids of a repository's tags. Companions of a digest (signatures and the like) are left out.
    ///
    /// # Errors
    /// The upstream's error: a silently truncated list would be taken for complete.
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
                    // Deleted meanwhile, or not served.
                    Err(MirrorError::Unknown { .. } | MirrorError::Gate(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(ids)
        };
        let all = tokio::time::timeout(TAGS_DEADLINE, all).await;
        all.unwrap_or_else(|_| Err(MirrorError::timed_out()))
    }

    /// The id of one tag.
    ///
    /// # Errors
    /// The upstream's error.
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
        self.issue_id(permit, scope, &id, &manifest.digest, platform, None)
            .await;
        Ok(id)
    }

    /// [`V1::bridged_tag`], returned with its tag.
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

    /// The tags of a repository; if the upstream cannot answer, the cached ones.
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
            match next.filter(|next| *next != query && tags.len() < MAX_TAGS) {
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

    pub(super) async fn known_tags(&self, permit: &Permit) -> Vec<Tag> {
        let (store, permit) = (self.registries.store.clone(), permit.clone());
        let known = tokio::task::spawn_blocking(move || {
            let known = store.records.known_tags(permit.name());
            known.unwrap_or_else(|error| {
                warn_degraded("the tags cannot be listed", &error);
                Vec::new()
            })
        });
        known.await.unwrap_or_default()
    }
}

pub(crate) fn first_page() -> Query {
    Query::default().with("n", PAGE_SIZE)
}
