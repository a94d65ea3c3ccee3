//! The names that the v1 side of a registry has, by its search.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

use super::queries::wrong;
use crate::{Registries, V1Pass, v1_list};
use mirror::{MirrorError, RequestBudget, ResourceKind};
use oci::name::{Registry, Repository};
use oci::v1::plain;
use upstream::UpstreamError;

/// How long the names of the v1 side are believed, and of how many registries.
const NAMES_FOR: Duration = Duration::from_secs(60);
const REGISTRIES: u64 = 64;

/// The names that the v1 side of a registry has.
pub(super) type Names = moka::sync::Cache<Registry, Arc<BTreeSet<Repository>>>;

pub(super) fn names() -> Names {
    moka::sync::Cache::builder()
        .max_capacity(REGISTRIES)
        .time_to_live(NAMES_FOR)
        .build()
}

#[derive(Deserialize)]
struct Found {
    results: Vec<Name>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

impl Registries {
    /// Everything that the v1 side finds; `None` where it has no search, or is not to be asked.
    pub(super) async fn names_of_v1(
        &self,
        registry: &Registry,
        budget: &mut RequestBudget,
    ) -> Result<Option<Arc<BTreeSet<Repository>>>, MirrorError> {
        let Some(v1) = self.bridged_origin(registry) else {
            return Ok(None);
        };
        let known = &self.conversions.listed;
        if let Some(names) = known.get(registry) {
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
        let asked = v1
            .index_server()
            .pass("/v1/search?q=".to_owned(), pass, None)
            .await;
        let mut passed = asked.map_err(refused)?;
        match passed.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => return Ok(None),
            status => return Err(refused(UpstreamError::of(status, &passed.headers))),
        }
        let bytes = v1_list(&mut passed).await?;
        let found: Found =
            serde_json::from_slice(&bytes).map_err(|_| wrong("its search cannot be read"))?;
        let names = found.results.iter();
        let names = names.filter_map(|found| plain(&found.name).parse().ok());
        let names: Arc<BTreeSet<Repository>> = Arc::new(names.collect());
        known.insert(registry.clone(), names.clone());
        Ok(Some(names))
    }
}

fn refused(error: UpstreamError) -> MirrorError {
    MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository)
}
