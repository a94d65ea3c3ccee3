//! Lists: tags and referrers, passed through as the upstream gives them, kept for a minute, and answered
//! stale for a while where the upstream cannot be asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::ResourceKind;
use super::freshness::{Freshness, KnownAnswer, Stale, WaitLimits, revalidate};
use super::origin::OriginView;
use super::{Mirror, MirrorError};
use access::Permit;
use oci::cache_status::{CacheStatus, Forward};
use oci::manifest::AcceptClass;
use oci::name::{Registry, Repository};
use oci::v2::{Endpoint, Query, Resource};
use upstream::Page;

/// How long a page is believed at most.
const PAGE_TTL: Duration = Duration::from_secs(60);
/// How long a page is kept in case the upstream fails.
const PAGE_RETENTION: Duration = Duration::from_secs(3600);
/// Up to how many results a page is an ordinary one: no registry has nothing because of that.
const MAX_ORDINARY_PAGE: u32 = 1000;
/// What is kept of pages and of the queries for them, in KiB.
const PAGES_KIB: u64 = 8 << 10;

pub(super) type PageKey = (Registry, Repository, Resource, Query);
pub(super) type Pages = moka::sync::Cache<PageKey, Arc<CachedPage>>;

/// A page and when it was fetched.
#[derive(Debug)]
pub(super) struct CachedPage {
    page: Page,
    fetched_at: Instant,
}

pub(super) fn pages() -> Pages {
    moka::sync::Cache::builder()
        .max_capacity(PAGES_KIB)
        .weigher(|key: &PageKey, cached: &Arc<CachedPage>| {
            let next = cached.page.next.as_ref().map_or(0, Query::weight);
            let bytes = key.3.weight() + next + cached.page.bytes.len();
            u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
        })
        .time_to_live(PAGE_RETENTION)
        .build()
}

/// A page of tags or referrers.
#[derive(Clone, Debug)]
pub struct PageAnswer {
    cached: Arc<CachedPage>,
    pub cache: CacheStatus,
    /// Where the upstream could not be asked whether it is still right.
    pub stale: Option<Stale>,
}

impl PageAnswer {
    pub fn page(&self) -> &Page {
        &self.cached.page
    }
}

impl Mirror {
    /// A page of `resource` (tags or referrers). `query` goes to the upstream: it is a
    /// [selection](oci::page::selection).
    ///
    /// # Errors
    /// What the upstream said, where it had to be asked.
    pub async fn list(
        &self,
        permit: &Permit,
        resource: &Resource,
        query: &Query,
    ) -> Result<PageAnswer, MirrorError> {
        let (origin, state) = (self.admit(permit, resource).await?, &self.state);
        let (registry, repository) = (permit.registry().clone(), permit.repository().clone());
        if origin.caller_key().is_some() {
            let (endpoint, resource) = (repository.clone(), resource.clone());
            return fetch_for_caller(&origin, endpoint, resource, query).await;
        }
        let missing = (
            registry.clone(),
            repository.clone(),
            resource.clone(),
            AcceptClass::Full,
        );
        if let Some(asked) = state.missing.get(&missing) {
            return Err(asked.remembered_unknown());
        }
        let key = (
            registry,
            repository.clone(),
            resource.clone(),
            query.clone(),
        );
        let known = state.pages.get(&key);
        // No longer than a tag is.
        let ttl = PAGE_TTL.min(origin.tag_ttl());
        if let Some(cached) = known
            .clone()
            .filter(|cached| cached.fetched_at.elapsed() < ttl)
        {
            return Ok(PageAnswer {
                cached,
                cache: CacheStatus::HIT,
                stale: None,
            });
        }
        let repository_key = (key.0.clone(), key.1.clone());
        let (question, missing) = (
            state.list_generations.ask(repository_key),
            state.missing.ask(missing),
        );
        let generation = question.generation();
        let start = || {
            let (state, key, query) = (state.clone(), key.clone(), query.clone());
            let endpoint = Endpoint {
                repository,
                resource: resource.clone(),
            };
            async move {
                let fetched = state.page(&origin, &endpoint, &query).await;
                let page = fetched.map_err(|error| {
                    if let MirrorError::Unknown { kind, .. } = error {
                        question.unwritten(|| state.pages.invalidate(&key));
                        // An odd page that is not there says nothing of the list.
                        if is_ordinary(&query) {
                            let missing_ttl = origin.missing_ttl();
                            state.missing.remember_as(&missing, kind, missing_ttl);
                        }
                    }
                    error
                })?;
                let cached = Arc::new(CachedPage {
                    page,
                    fetched_at: Instant::now(),
                });
                // One from before a write is not kept.
                question.unwritten(|| state.pages.insert(key, cached.clone()));
                Ok(cached)
            }
        };
        let ask = async {
            let (fetched, collapsed) = state
                .page_requests
                .join((key.clone(), generation), start)
                .await;
            (fetched.unwrap_or(Err(MirrorError::Internal)), collapsed)
        };
        let known = known.map(|cached| KnownAnswer {
            age: cached.fetched_at.elapsed(),
            answer: cached,
        });
        let checked = revalidate(known, WaitLimits::UNLIMITED, ask, |_| Freshness::Fetched).await?;
        Ok(PageAnswer {
            cache: checked.cache_status(),
            stale: checked.freshness.stale(),
            cached: checked.answer,
        })
    }
}

/// Whether a query asks for the first results of a list, all or not too many.
fn is_ordinary(query: &Query) -> bool {
    let n = query.value("n").and_then(|n| n.parse().ok());
    query.keys().all(|key| key == "n") && n.is_none_or(|n| (1..=MAX_ORDINARY_PAGE).contains(&n))
}

/// A page as one caller gets it, which is kept for nobody.
async fn fetch_for_caller(
    origin: &OriginView,
    repository: Repository,
    resource: Resource,
    query: &Query,
) -> Result<PageAnswer, MirrorError> {
    let endpoint = Endpoint {
        repository,
        resource,
    };
    let page = async { origin.upstream()?.page(&endpoint, query).await };
    let page = page
        .await
        .map_err(|error| MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository))?;
    let fetched_at = Instant::now();
    Ok(PageAnswer {
        cached: Arc::new(CachedPage { page, fetched_at }),
        cache: CacheStatus::forward(Forward::Bypass),
        stale: None,
    })
}
