//! Lists: tags and referrers, passed through as the upstream gives them and kept for a minute.

use std::sync::Arc;
use std::time::Duration;

use super::error::Asked;
use super::{Mirror, MirrorError};
use crate::access::Permit;
use crate::spec::cache_status::{CacheStatus, Forward};
use crate::spec::name::{Registry, Repository};
use crate::spec::v2::{Endpoint, Query, Resource};
use crate::upstream::Page;

/// How long a page is kept.
const PAGE_TTL: Duration = Duration::from_secs(60);
/// What is kept of pages, in KiB.
const PAGES_KIB: u64 = 8 << 10;

pub(super) type PageKey = (Registry, Repository, Resource, Query);
pub(super) type Pages = moka::future::Cache<PageKey, Arc<Page>>;

pub(super) fn pages() -> Pages {
    moka::future::Cache::builder()
        .max_capacity(PAGES_KIB)
        .weigher(|_, page: &Arc<Page>| {
            u32::try_from(page.bytes.len() / 1024 + 1).unwrap_or(u32::MAX)
        })
        .time_to_live(PAGE_TTL)
        .build()
}

/// A page of tags or referrers.
#[derive(Clone, Debug)]
pub struct PageAnswer {
    pub page: Arc<Page>,
    pub cache: CacheStatus,
}

impl Mirror {
    /// A page of `resource` (tags or referrers). `query` goes to the upstream, so it must not hold `ns`.
    ///
    /// # Errors
    /// What the upstream said, where it had to be asked.
    pub async fn list(
        &self,
        permit: &Permit,
        resource: &Resource,
        query: &Query,
    ) -> Result<PageAnswer, MirrorError> {
        let origin = self.origin(permit)?;
        let (registry, repository) = (permit.registry().clone(), permit.repository().clone());
        let missing = (
            registry.clone(),
            repository.clone(),
            resource.clone(),
            crate::spec::manifest::AcceptClass::Full,
        );
        if self.shared.missing.knows(&missing) {
            return Err(Asked::Repository.still_unknown());
        }
        let endpoint = Endpoint {
            repository: repository.clone(),
            resource: resource.clone(),
        };
        let key = (registry, repository, resource.clone(), query.clone());
        let fetch = async { origin.upstream.page(&endpoint, query).await.map(Arc::new) };
        let entry = self
            .shared
            .pages
            .entry(key)
            .or_try_insert_with(fetch)
            .await
            .map_err(|error| {
                let error = MirrorError::of(error, Asked::Repository);
                if matches!(error, MirrorError::Unknown { .. }) {
                    self.shared.missing.remember(missing, origin.missing_ttl);
                }
                error
            })?;
        let cache = if entry.is_fresh() {
            CacheStatus::forward(Forward::UriMiss).stored()
        } else {
            CacheStatus::HIT
        };
        Ok(PageAnswer {
            page: entry.into_value(),
            cache,
        })
    }
}
