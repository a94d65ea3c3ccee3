//! The repository names of a registry that a viewer may pull.
//!
//! A page is filled across the upstream's pages, so that its length does not tell how many names are hidden. Pages
//! are not cached; searches look through a list that is up to a minute old.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::error::ResourceKind;
use super::origin::{ContentScope, OriginView};
use super::{Mirror, MirrorError};
use access::Viewer;
use oci::name::{Registry, Repository, RepositoryName};
use oci::v2::Query;
use store::{KnownRepository, warn_degraded};
use upstream::{Identity, UpstreamError};

/// The longest page that registries send (distribution's `catalog.maxentries`).
const LONGEST_PAGE: usize = 1000;

/// The most names searched of one registry, the most requests for them, and how long they are fresh.
const MAX_NAMES: usize = 50_000;
const MAX_REQUESTS: usize = 64;
const NAMES_TTL: Duration = Duration::from_secs(60);
/// The most registries whose names are cached.
const MAX_REGISTRIES: u64 = 64;

/// The cache of all names of registries, for searches.
pub(super) type NameCache = moka::sync::Cache<Registry, Arc<[Repository]>>;

pub(super) fn name_cache() -> NameCache {
    moka::sync::Cache::builder()
        .max_capacity(MAX_REGISTRIES)
        .time_to_live(NAMES_TTL)
        .build()
}

/// A page of one registry's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePage {
    /// In the upstream's order, without the registry.
    pub names: Vec<Repository>,
    /// Whether there are, or may be, more that the viewer may pull: the budget was not enough to know.
    pub more: bool,
}

/// How many more upstream requests one answer may cost.
#[derive(Debug)]
pub struct RequestBudget(pub usize);

impl MirrorError {
    /// The error if the budget was not enough to find a single name.
    pub fn too_sparse() -> Self {
        let sparse = "too many of its names are hidden from this client";
        Self::Unusable(Arc::new(UpstreamError::Protocol(sparse)))
    }
}

impl Mirror {
    /// Up to `n` names of a registry that the viewer may pull and its gate serves, those after `after`, in the upstream's
    /// order.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked; [`MirrorError::Unknown`] if it has no catalogue.
    pub async fn catalogue(
        &self,
        viewer: &Viewer<'_>,
        registry: &Registry,
        after: Option<&str>,
        n: usize,
        budget: &mut RequestBudget,
    ) -> Result<NamePage, MirrorError> {
        let origin = self.origin_for(registry, viewer.forwarded())?;
        let may_pull = |name: &Repository| {
            let name = RepositoryName::new(registry, name);
            viewer.may_pull(&name).is_some() && origin.shows(&name)
        };
        let page = if origin.has_upstream() {
            collect_names(&origin, may_pull, after, n, budget).await?
        } else {
            NamePage {
                names: Vec::new(),
                more: false,
            }
        };
        let state = &self.state;
        state
            .merge_fallback_names(&origin, may_pull, after, n, budget, page)
            .await
    }

    /// The names of a registry that the viewer may pull, among its first 50,000, and up to a minute
    /// old. All searches share one fetch, which continues when their clients leave.
    ///
    /// # Errors
    /// As [`Mirror::catalogue`].
    pub async fn searched_names(
        &self,
        viewer: &Viewer<'_>,
        registry: &Registry,
    ) -> Result<Vec<Repository>, MirrorError> {
        let origin = self.origin_for(registry, viewer.forwarded())?;
        if origin.is_per_caller() {
            let mut budget = RequestBudget(MAX_REQUESTS);
            let shows = |name: &Repository| origin.shows(&RepositoryName::new(registry, name));
            let listed = collect_names(&origin, shows, None, MAX_NAMES, &mut budget).await?;
            return Ok(listed.names);
        }
        let state = &self.state;
        let all = if let Some(all) = state.names.get(registry) {
            all
        } else {
            let start = || {
                let (state, registry, origin) = (state.clone(), registry.clone(), origin.clone());
                async move {
                    let mut budget = RequestBudget(MAX_REQUESTS);
                    let all =
                        collect_names(&origin, |_| true, None, MAX_NAMES, &mut budget).await?;
                    let all: Arc<[Repository]> = all.names.into();
                    state.names.insert(registry, all.clone());
                    Ok(all)
                }
            };
            let (all, _) = state.name_requests.join(registry.clone(), start).await;
            all.unwrap_or(Err(MirrorError::Internal))?
        };
        let may_pull = |repository: &Repository| {
            let name = RepositoryName::new(registry, repository);
            let shown = viewer.may_pull(&name).is_some() && origin.shows(&name);
            shown.then(|| repository.clone())
        };
        Ok(filter_map_yielding(&all, may_pull).await)
    }
}

/// Up to `n` names that the viewer may pull, those after `after`, in the upstream's order.
async fn collect_names(
    origin: &OriginView,
    may_pull: impl Fn(&Repository) -> bool,
    after: Option<&str>,
    n: usize,
    budget: &mut RequestBudget,
) -> Result<NamePage, MirrorError> {
    let mut found = Vec::new();
    // One name more tells whether there are more.
    let mut ask_for = (n + 1).min(LONGEST_PAGE);
    let mut query = Query::default().with("n", &ask_for.to_string());
    if let Some(after) = after {
        query = query.with("last", after);
    }
    while let Some(left) = budget.0.checked_sub(1) {
        budget.0 = left;
        let upstream = origin.upstream().map_err(catalogue_error)?;
        let identity = match origin.content_scope() {
            ContentScope::PublicOnly => Identity::Anonymous,
            ContentScope::Account | ContentScope::Caller => Identity::Account,
        };
        let page = upstream.catalogue(&query, identity).await;
        let page = page.map_err(catalogue_error)?;
        // Some registries do not paginate: they send everything, from the first name on.
        let known = page.names.iter().position(|name| Some(&**name) == after);
        for name in page.names.iter().skip(known.map_or(0, |at| at + 1)) {
            let name = name.parse::<Repository>().ok();
            match name.filter(&may_pull) {
                Some(_) if found.len() == n => {
                    return Ok(NamePage {
                        names: found,
                        more: true,
                    });
                }
                Some(name) => found.push(name),
                None => {}
            }
        }
        let Some(next) = page.next.filter(|next| *next != query) else {
            return Ok(NamePage {
                names: found,
                more: false,
            });
        };
        ask_for = (ask_for * 2).min(LONGEST_PAGE);
        query = next.with("n", &ask_for.to_string());
    }
    Ok(NamePage {
        names: found,
        more: true,
    })
}

impl Mirror {
    /// The repositories with cached content that the viewer may pull. None for a registry that decides for each
    /// caller: the cache does not tell what it would show them.
    pub async fn cached_names(&self, viewer: &Viewer<'_>, registry: &Registry) -> Vec<Repository> {
        let Some(origin) = self.state.origins.get(registry) else {
            return Vec::new();
        };
        if origin.is_per_caller() {
            return Vec::new();
        }
        let known = match self.state.store.records.repositories(registry).await {
            Ok(known) => known,
            Err(error) => {
                warn_degraded("the repositories cannot be listed", &error);
                return Vec::new();
            }
        };
        let is_visible = |known: &KnownRepository| {
            (known.public || origin.content_scope() != ContentScope::PublicOnly)
                && viewer
                    .may_pull(&RepositoryName::new(registry, &known.repository))
                    .is_some()
        };
        let may_pull =
            |known: &KnownRepository| is_visible(known).then(|| known.repository.clone());
        filter_map_yielding(&known, may_pull).await
    }
}

/// `filter_map` over a long slice that yields to other tasks of the thread.
pub async fn filter_map_yielding<T, U>(all: &[T], filter: impl Fn(&T) -> Option<U>) -> Vec<U> {
    /// The items between two yields.
    const SLICE: usize = 256;

    let mut found = Vec::new();
    for slice in all.chunks(SLICE) {
        found.extend(slice.iter().filter_map(&filter));
        tokio::task::yield_now().await;
    }
    found
}

fn catalogue_error(error: UpstreamError) -> MirrorError {
    match error {
        UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) => {
            MirrorError::from_upstream(Arc::new(UpstreamError::NotFound), ResourceKind::Repository)
        }
        error => MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository),
    }
}
