//! The names that a registry has, as far as whoever asks may pull them.
//!
//! A page is filled across the upstream's pages, so that nobody can tell from a short one how much they do
//! not see. Pages are not kept; searches look through a list that is up to a minute old.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::error::ResourceKind;
use super::origin::{OriginView, Visibility};
use super::{Mirror, MirrorError};
use access::Viewer;
use oci::name::{Registry, Repository, RepositoryName};
use oci::v2::Query;
use store::{KnownRepository, warn_degraded};
use upstream::UpstreamError;

/// The longest page that registries give (distribution's `catalog.maxentries`).
const LONGEST_PAGE: usize = 1000;

/// What is searched of one registry, in how many questions at most, and how long it is believed.
const MAX_NAMES: usize = 50_000;
const MAX_REQUESTS: usize = 64;
const NAMES_TTL: Duration = Duration::from_secs(60);
/// Of how many registries that is kept.
const MAX_REGISTRIES: u64 = 64;

/// All names of a registry, for searches.
pub(super) type NameCache = moka::sync::Cache<Registry, Arc<[Repository]>>;

pub(super) fn name_cache() -> NameCache {
    moka::sync::Cache::builder()
        .max_capacity(MAX_REGISTRIES)
        .time_to_live(NAMES_TTL)
        .build()
}

/// Names of one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePage {
    pub names: Vec<Repository>,
    /// Whether there are more that the viewer may pull, or may be: the budget was not enough to know.
    pub more: bool,
}

/// How often upstreams may still be asked for one answer.
#[derive(Debug)]
pub struct RequestBudget(pub usize);

impl MirrorError {
    /// A page for which the budget was not enough to find a single name.
    pub fn too_sparse() -> Self {
        let sparse = "among very many names there is none to be seen";
        Self::Unusable(Arc::new(UpstreamError::Protocol(sparse)))
    }
}

impl Mirror {
    /// Up to `n` names of a registry, those behind `after`, in the upstream's order.
    ///
    /// # Errors
    /// What the upstream said; [`MirrorError::Unknown`] where it has no catalogue.
    pub async fn catalogue(
        &self,
        viewer: &Viewer<'_>,
        registry: &Registry,
        after: Option<&str>,
        n: usize,
        budget: &mut RequestBudget,
    ) -> Result<NamePage, MirrorError> {
        let origin = self.origin_for(registry, viewer.forwarded())?;
        let seen = |name: &Repository| {
            viewer
                .may_pull(&RepositoryName::new(registry, name))
                .is_some()
        };
        let listed = if !origin.has_upstream() {
            NamePage {
                names: Vec::new(),
                more: false,
            }
        } else {
            collect_names(&origin, seen, after, n, budget).await?
        };
        let state = &self.state;
        state
            .merge_fallback_names(&origin, seen, after, n, budget, listed)
            .await
    }

    /// The names of a registry that the viewer may pull, up to 50,000 of all that it has, and up to a minute
    /// old. The first who asks has them fetched for all; it goes on when nobody waits any more.
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
            let listed = collect_names(&origin, |_| true, None, MAX_NAMES, &mut budget).await?;
            return Ok(listed.names);
        }
        let state = &self.state;
        let all = if let Some(all) = state.names.get(registry) {
            all
        } else {
            let start = || {
                let (state, registry) = (state.clone(), registry.clone());
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
        let seen = |name: &Repository| {
            let seen = viewer
                .may_pull(&RepositoryName::new(registry, name))
                .is_some();
            seen.then(|| name.clone())
        };
        Ok(filter_map_yielding(&all, seen).await)
    }
}

/// Up to `n` names that are `seen`, those behind `after`, in the upstream's order.
async fn collect_names(
    origin: &OriginView,
    seen: impl Fn(&Repository) -> bool,
    after: Option<&str>,
    n: usize,
    budget: &mut RequestBudget,
) -> Result<NamePage, MirrorError> {
    let mut found = Vec::new();
    // One more than is wanted tells whether there are more.
    let mut ask_for = (n + 1).min(LONGEST_PAGE);
    let mut query = Query::default().with("n", &ask_for.to_string());
    if let Some(after) = after {
        query = query.with("last", after);
    }
    while let Some(left) = budget.0.checked_sub(1) {
        budget.0 = left;
        let v2 = origin.upstream().map_err(catalogue_error)?;
        let page = v2
            .catalogue(&query, origin.visibility() == Visibility::PublicOnly)
            .await;
        let page = page.map_err(catalogue_error)?;
        // Some registries know no pages: everything comes, from the first name on.
        let known = page.names.iter().position(|name| Some(&**name) == after);
        for name in page.names.iter().skip(known.map_or(0, |at| at + 1)) {
            let name = name.parse::<Repository>().ok();
            match name.filter(&seen) {
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
    /// The repositories of which something is here, those that the viewer may pull. Where a registry decides
    /// for each caller there are none: what is here says nothing of what it would give them.
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
        let seen = |known: &KnownRepository| {
            (known.public || origin.visibility() != Visibility::PublicOnly)
                && viewer
                    .may_pull(&RepositoryName::new(registry, &known.repository))
                    .is_some()
        };
        let seen = |known: &KnownRepository| seen(known).then(|| known.repository.clone());
        filter_map_yielding(&known, seen).await
    }
}

/// What is picked of many. Whoever else is served by this thread is not held up meanwhile.
pub async fn filter_map_yielding<T, U>(all: &[T], pick: impl Fn(&T) -> Option<U>) -> Vec<U> {
    /// How many are looked at without a break.
    const SLICE: usize = 256;

    let mut picked = Vec::new();
    for slice in all.chunks(SLICE) {
        picked.extend(slice.iter().filter_map(&pick));
        tokio::task::yield_now().await;
    }
    picked
}

fn catalogue_error(error: UpstreamError) -> MirrorError {
    match error {
        UpstreamError::Status(StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) => {
            MirrorError::from_upstream(Arc::new(UpstreamError::NotFound), ResourceKind::Repository)
        }
        error => MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository),
    }
}
