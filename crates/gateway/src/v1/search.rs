//! Searches v1 registries, and shows the results that the caller may pull.

use http::{Method, StatusCode};
use serde_json::Value;

use super::super::Gateway;
use super::super::search::{SearchQuery, SearchResult};
use super::super::session::Session;
use super::route;
use ::v1::V1Pass;
use access::{Action, Login};
use oci::name::Registry;
use oci::v2::Query;

impl Gateway {
    /// The results of the v1 registries of a search that the caller may pull. A registry that fails has none.
    pub(crate) async fn v1_found(
        &self,
        session: &Session,
        search: &SearchQuery,
        login: &Login,
    ) -> Vec<SearchResult> {
        let mut found = Vec::new();
        for registry in &search.registries {
            let entries = &self.state.table.resolver.entries;
            let speaks_v1 = |name: &Registry| {
                let entry = entries.iter().find(|entry| entry.registry == *name);
                entry.is_some_and(|entry| entry.v1)
            };
            if !speaks_v1(registry) {
                continue;
            }
            let open = self.state.policy.search(registry);
            let pass = V1Pass {
                method: Method::GET,
                headers: super::forwarded_headers::upstream_headers(session),
                body: None,
            };
            let query = Query::default().with("q", &search.word).render_pairs();
            let answer = match self.state.v1.v1_search(&open, &query, pass).await {
                Ok(mut passed) if passed.status == StatusCode::OK => {
                    ::v1::v1_list(&mut passed).await.unwrap_or_default()
                }
                Ok(_) => continue,
                Err(error) => {
                    let error = telemetry::chain(&error);
                    tracing::debug!(%registry, error, "cannot search a v1 registry");
                    continue;
                }
            };
            found.extend(self.v1_allowed_results(session, login, registry, &answer));
        }
        found
    }

    /// The results of a registry that the caller may pull.
    fn v1_allowed_results(
        &self,
        session: &Session,
        login: &Login,
        registry: &Registry,
        answer: &[u8],
    ) -> Vec<SearchResult> {
        let name_context = self.name_context(session, None);
        let Some(caller) = login.catalog_caller() else {
            return Vec::new();
        };
        let mut answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        let results = match answer.get_mut("results").map(Value::take) {
            Some(Value::Array(results)) => results,
            _ => Vec::new(),
        };
        let shown = results.iter().filter_map(|result| {
            let text = |key: &str| result.get(key).and_then(Value::as_str);
            let name = text("name")?;
            let (_, found) = route::resolve(&self.state.table.resolver, name_context, name).ok()?;
            let decided = self.state.policy.decide(&caller, Action::Pull, &found);
            (found.registry == *registry && decided.is_ok()).then(|| SearchResult {
                name: name.to_owned(),
                description: text("description").unwrap_or_default().to_owned(),
            })
        });
        shown.collect()
    }
}
