//! Search: the registry's own, of which everybody is shown what they may pull.

use bytes::Bytes;
use http::{Method, StatusCode};
use pingora::proxy::Session;
use serde_json::Value;

use super::super::route::Refusal;
use super::super::{Gateway, send};
use super::{Failed, Seen, route};
use crate::access::{Action, Login};
use crate::mirror::{self, V1Pass};
use crate::spec::error::ErrorCode;
use crate::spec::name::Registry;

impl Gateway {
    pub(super) async fn v1_search(
        &self,
        session: &mut Session,
        head: bool,
        registry: Option<Registry>,
        seen: &mut Seen,
    ) -> Result<(), Failed> {
        let login = self.v1_login(session).await?;
        seen.user = login.user().map(str::to_owned);
        let Some(registry) = registry else {
            return Err(Refusal::new(ErrorCode::NameUnknown, "there is no search here").into());
        };
        seen.registry = Some(registry.clone());
        let open = self.house.policy.search(&registry);
        let pass = V1Pass {
            method: Method::GET,
            headers: self.v1_headers(session),
            body: None,
        };
        let query = session
            .req_header()
            .uri
            .query()
            .unwrap_or_default()
            .to_owned();
        let mut passed = self.house.mirror.v1_search(&open, &query, pass).await?;
        let response = self.v1_response(session, &registry, Action::Pull, &passed)?;
        if passed.status != StatusCode::OK {
            return self.v1_relay(session, response, passed).await;
        }
        let found = mirror::v1_list(&mut passed).await?;
        let shown = if self.house.policy.is_open(&registry) {
            found
        } else {
            self.may_be_shown(session, &login, &registry, &found)
        };
        Ok(send::whole(session, response, head, shown).await?)
    }

    /// Of what was found, what the caller may pull.
    fn may_be_shown(
        &self,
        session: &Session,
        login: &Login,
        registry: &Registry,
        found: &[u8],
    ) -> Bytes {
        let host = super::super::host(session.req_header()).ok().flatten();
        let caller = login.catalog_caller();
        let may_pull = |result: &Value| {
            let name = result.get("name").and_then(Value::as_str);
            let resolved = name.and_then(|name| {
                route::resolve(&self.house.table, &self.listener, host, name).ok()
            });
            let (Some((entry, repository)), Some(caller)) = (resolved, &caller) else {
                return false;
            };
            let policy = &self.house.policy;
            entry.registry == *registry
                && policy
                    .decide(caller, Action::Pull, registry, &repository)
                    .is_ok()
        };
        let mut found: Value = serde_json::from_slice(found).unwrap_or_default();
        let mut results = match found.get_mut("results").map(Value::take) {
            Some(Value::Array(results)) => results,
            _ => Vec::new(),
        };
        results.retain(may_pull);
        let query = found.get("query").cloned().unwrap_or_default();
        let shown =
            serde_json::json!({"query": query, "num_results": results.len(), "results": results});
        shown.to_string().into()
    }
}
