//! The repository names of a registry's v1 side, by its search.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

use super::queries::protocol_error;
use crate::{Registries, V1Pass, v1_list};
use mirror::{MirrorError, RequestBudget, ResourceKind};
use oci::name::{Registry, Repository};
use oci::v1::plain;
use upstream::UpstreamError;

/// How long search results are fresh.
const SEARCH_TTL: Duration = Duration::from_secs(60);
/// How many registries have their results cached.
const MAX_REGISTRIES: u64 = 64;

/// The names that a registry's v1 side found.
pub(super) type SearchCache = moka::sync::Cache<Registry, Arc<BTreeSet<Repository>>>;

pub(super) fn search_cache() -> SearchCache {
    moka::sync::Cache::builder()
        .max_capacity(MAX_REGISTRIES)
        .time_to_live(SEARCH_TTL)
        .build()
}

#[derive(Deserialize)]
struct SearchResults {
    results: Vec<SearchResult>,
}

#[derive(Deserialize)]
struct SearchResult {
    name: String,
}

impl Registries {
    /// All names on the v1 side; `None` if it has no search, or its images are not served to v2 clients.
    pub(crate) async fn names_of_v1(
        &self,
        registry: &Registry,
        budget: &mut RequestBudget,
    ) -> Result<Option<Arc<BTreeSet<Repository>>>, MirrorError> {
        let Some(origin) = self.bridged_origin(registry) else {
            return Ok(None);
        };
        let cache = &self.conversions.search_results;
        if let Some(names) = cache.get(registry) {
            return Ok(Some(names));
        }
        let Some(left) = budget.0.checked_sub(1) else {
            return Err(MirrorError::too_sparse());
        };
        budget.0 = left;
        let pass = V1Pass {
            method: Method::GET,
            headers: HeaderMap::new(),
            body: None,
        };
        let target = "/v1/search?q=".to_owned();
        let asked = origin.index_server().pass(target, pass, None).await;
        let mut passed = asked.map_err(refused)?;
        match passed.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => return Ok(None),
            status => return Err(refused(UpstreamError::of(status, &passed.headers))),
        }
        let bytes = v1_list(&mut passed).await?;
        let found: SearchResults = serde_json::from_slice(&bytes)
            .map_err(|_| protocol_error("its search cannot be read"))?;
        let names = found.results.iter();
        let names = names.filter_map(|found| plain(&found.name).parse().ok());
        let names: Arc<BTreeSet<Repository>> = Arc::new(names.collect());
        cache.insert(registry.clone(), names.clone());
        Ok(Some(names))
    }
}

fn refused(error: UpstreamError) -> MirrorError {
    MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository)
}
