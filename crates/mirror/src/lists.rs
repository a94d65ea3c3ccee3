//! Lists: tags and referrers, passed through as the upstream sends them, cached for a minute, and served
//! stale for a while if the upstream is unavailable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::ResourceKind;
use super::freshness::{Freshness, KnownAnswer, Stale, WaitLimits, revalidate};
use super::negative_cache::NegativeKey;
use super::origin::OriginView;
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use oci::cache_status::{CacheStatus, Forward};
use oci::manifest::AcceptClass;
use oci::name::RepositoryName;
use oci::v2::{Endpoint, Query, Resource};
use runtime::generation::Question;
use upstream::{Page, UpstreamError};

/// How long a page is fresh at most.
const PAGE_TTL: Duration = Duration::from_secs(60);
/// How long a page is retained in case the upstream fails.
const PAGE_RETENTION: Duration = Duration::from_secs(3600);
/// The most results of an ordinary page: no registry answers 404 because of that number.
const MAX_ORDINARY_PAGE: u32 = 1000;
/// The capacity of the cache of pages and their queries, in KiB.
const PAGES_KIB: u64 = 8 << 10;

pub(super) type PageKey = (RepositoryName, Resource, Query);
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
            let bytes = key.2.weight() + next + cached.page.bytes.len();
            u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
        })
        .time_to_live(PAGE_RETENTION)
        .build()
}

/// A page of tags or referrers.
#[derive(Clone, Debug)]
pub struct PageAnswer {
    cached: Arc<CachedPage>,
    /// How the cache handled the request (RFC 9211).
    pub cache: CacheStatus,
    /// Present if the upstream could not revalidate the answer.
    pub stale: Option<Stale>,
}

impl PageAnswer {
    /// The upstream's page, verbatim.
    pub fn page(&self) -> &Page {
        &self.cached.page
    }
}

impl Mirror {
    /// A page of `resource` (tags or referrers). `query` goes to the upstream: it is a
    /// [selection](oci::page::selection).
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    pub async fn list(
        &self,
        permit: &Permit,
        resource: &Resource,
        query: &Query,
    ) -> Result<PageAnswer, MirrorError> {
        let origin = self.admit(permit, resource).await?;
        if let Resource::Referrers(subject) = resource {
            self.clear_manifest(&origin, permit, subject).await?;
        }
        self.read_page(&origin, permit, resource, query).await
    }

    /// [`Mirror::list`], once the gate has cleared it.
    pub(super) async fn read_page(
        &self,
        origin: &OriginView,
        permit: &Permit,
        resource: &Resource,
        query: &Query,
    ) -> Result<PageAnswer, MirrorError> {
        let (name, state) = (permit.name(), &self.state);
        let resource = resource.clone();
        if origin.caller_key().is_some() {
            return fetch_for_caller(origin, name, resource, query).await;
        }
        let missing = (name.clone(), resource.clone(), AcceptClass::Full);
        if let Some(kind) = state.missing.get(&missing) {
            return Err(kind.remembered_unknown());
        }
        let key = (name.clone(), resource, query.clone());
        let known = state.pages.get(&key);
        let ttl = MirrorState::page_ttl(origin);
        if let Some(cached) = known
            .clone()
            .filter(|known| known.fetched_at.elapsed() < ttl)
        {
            return Ok(PageAnswer {
                cached,
                cache: CacheStatus::HIT,
                stale: None,
            });
        }
        let question = PageQuestion {
            list: state.list_generations.ask(name.clone()),
            missing: state.missing.ask(missing),
        };
        let request_key = (key.clone(), question.list.generation());
        let start = || {
            let (state, origin) = (state.clone(), origin.clone());
            async move { state.fetch_page(&origin, key, &question).await }
        };
        let ask = async {
            let (fetched, collapsed) = state.page_requests.join(request_key, start).await;
            (fetched.unwrap_or(Err(MirrorError::Internal)), collapsed)
        };
        let known = known.map(|cached| KnownAnswer {
            age: cached.fetched_at.elapsed(),
            answer: cached,
        });
        let wait = WaitLimits::UNLIMITED;
        let checked = revalidate(known, wait, ask, |_| Freshness::Fetched).await?;
        Ok(PageAnswer {
            cache: checked.cache_status(),
            stale: checked.freshness.stale(),
            cached: checked.answer,
        })
    }
}

impl MirrorState {
    /// How long a page of a registry is fresh: no longer than a tag.
    pub(super) fn page_ttl(origin: &OriginView) -> Duration {
        PAGE_TTL.min(origin.tag_ttl())
    }

    /// The age of a cached page.
    ///
    /// # Errors
    /// The 404 that is remembered.
    pub(super) fn page_age(&self, key: &PageKey) -> Result<Option<Duration>, MirrorError> {
        let missing = (key.0.clone(), key.1.clone(), AcceptClass::Full);
        if let Some(kind) = self.missing.get(&missing) {
            return Err(kind.remembered_unknown());
        }
        Ok(self.pages.get(key).map(|known| known.fetched_at.elapsed()))
    }
}

/// The question for a page. Its answer is dropped if a write of the repository ends first.
struct PageQuestion {
    list: Question<RepositoryName>,
    missing: Question<NegativeKey>,
}

impl MirrorState {
    /// Fetches a page and caches it, or remembers its 404.
    async fn fetch_page(
        &self,
        origin: &OriginView,
        key: PageKey,
        question: &PageQuestion,
    ) -> Result<Arc<CachedPage>, MirrorError> {
        let page = self.page(origin, &key).await;
        match page.and_then(|page| only_served_tags(origin, &key.0, &key.1, page)) {
            Ok(page) => {
                let fetched_at = Instant::now();
                let cached = Arc::new(CachedPage { page, fetched_at });
                let list = &question.list;
                list.unwritten(|| self.pages.insert(key, cached.clone()));
                Ok(cached)
            }
            Err(error) => {
                if let MirrorError::Unknown { kind, .. } = error {
                    question.list.unwritten(|| self.pages.invalidate(&key));
                    // A 404 to an unusual page says nothing of the list.
                    if is_ordinary(&key.2) {
                        let missing_ttl = origin.missing_ttl();
                        self.missing
                            .remember_as(&question.missing, kind, missing_ttl);
                    }
                }
                Err(error)
            }
        }
    }
}

/// Whether a query asks for the first results of a list, without a limit or with an ordinary one.
fn is_ordinary(query: &Query) -> bool {
    let n = query.value("n").and_then(|n| n.parse().ok());
    query.keys().all(|key| key == "n") && n.is_none_or(|n| (1..=MAX_ORDINARY_PAGE).contains(&n))
}

/// Leaves tags out of a list that the gate does not serve.
fn only_served_tags(
    origin: &OriginView,
    name: &RepositoryName,
    resource: &Resource,
    page: Page,
) -> Result<Page, MirrorError> {
    let Some(gate) = origin
        .enforced_gate()
        .filter(|_| *resource == Resource::Tags)
    else {
        return Ok(page);
    };
    let unreadable = || {
        let error = UpstreamError::Protocol("its list of tags cannot be read");
        MirrorError::Unusable(Arc::new(error))
    };
    let list: serde_json::Value = serde_json::from_slice(&page.bytes).map_err(|_| unreadable())?;
    let serde_json::Value::Object(mut list) = list else {
        return Err(unreadable());
    };
    // Some registries send `null` for none.
    let Some(serde_json::Value::Array(tags)) = list.get_mut("tags") else {
        return Ok(page);
    };
    let all = tags.len();
    tags.retain(|tag| {
        let tag = tag.as_str().and_then(|tag| tag.parse().ok());
        tag.is_some_and(|tag| gate.lists(name, &tag))
    });
    if tags.len() == all {
        return Ok(page);
    }
    let bytes = serde_json::Value::Object(list).to_string().into();
    Ok(Page { bytes, ..page })
}

/// Fetches a page for one caller; it is not cached.
async fn fetch_for_caller(
    origin: &OriginView,
    name: &RepositoryName,
    resource: Resource,
    query: &Query,
) -> Result<PageAnswer, MirrorError> {
    let endpoint = Endpoint {
        repository: name.repository.clone(),
        resource,
    };
    let page = async { origin.upstream()?.page(&endpoint, query).await };
    let page = page
        .await
        .map_err(|error| MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository))?;
    let page = only_served_tags(origin, name, &endpoint.resource, page)?;
    let fetched_at = Instant::now();
    Ok(PageAnswer {
        cached: Arc::new(CachedPage { page, fetched_at }),
        cache: CacheStatus::forward(Forward::Bypass),
        stale: None,
    })
}
