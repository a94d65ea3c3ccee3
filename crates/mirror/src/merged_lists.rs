//! Lists merged from the upstream and the fallback: the tags of a repository, and the names of a registry.
//!
//! If the upstream is unavailable there is no list, since a silently truncated list would be taken for complete. If
//! the fallback is unavailable the list is the upstream's alone, as it would be without a fallback: an outage of the
//! fallback must not take the upstream down with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::error::ResourceKind;
use super::lists::PageKey;
use super::origin::OriginView;
use super::{MirrorError, MirrorState, NamePage, RequestBudget};
use oci::name::{Registry, Repository};
use oci::v2::{Endpoint, Query, Resource};
use upstream::{Page, UpstreamError};

/// The tags of one page, and the most pages of one list.
const LONGEST_PAGE: usize = 1000;
const MAX_PAGES: usize = 64;

#[derive(Deserialize)]
struct TagList {
    /// Some registries write `null` for none.
    tags: Option<Vec<String>>,
}

impl MirrorState {
    /// A page of tags or referrers; of the merged tags, if the fallback has the repository.
    pub(super) async fn page(
        &self,
        origin: &OriginView,
        (name, resource, query): &PageKey,
    ) -> Result<Page, MirrorError> {
        let endpoint = &Endpoint {
            repository: name.repository.clone(),
            resource: resource.clone(),
        };
        let page = upstream_page(origin, endpoint, query).await;
        let fallback = self.fallback(origin);
        let Some(fallback) = fallback.filter(|_| *resource == Resource::Tags) else {
            return page.map_err(list_error);
        };
        if !matches!(page, Ok(_) | Err(UpstreamError::NotFound)) {
            return page.map_err(list_error);
        }
        let tags = fallback.tags(name);
        let mut all = match tags.await {
            Ok(Some(tags)) => tags,
            Ok(None) => return page.map_err(list_error),
            Err(error) if page.is_ok() && is_unavailable(&error) => {
                warn_fallback_down(origin.registry(), &error);
                return page.map_err(list_error);
            }
            Err(error) => return Err(error),
        };
        if let Ok(first) = page {
            all.extend(all_tags(origin, endpoint, query, first).await?);
        }
        Ok(select_page(&name.repository, &all, query))
    }

    /// Merges the fallback's names after `after` into the upstream's page of `n`, in order.
    pub(super) async fn merge_fallback_names(
        &self,
        origin: &OriginView,
        may_pull: impl Fn(&Repository) -> bool,
        after: Option<&str>,
        n: usize,
        budget: &mut RequestBudget,
        listed: NamePage,
    ) -> Result<NamePage, MirrorError> {
        let Some(fallback) = self.fallback(origin) else {
            return Ok(listed);
        };
        let names = match fallback.names(origin.registry(), budget).await {
            Ok(Some(names)) => names,
            Ok(None) => return Ok(listed),
            Err(error) if origin.has_upstream() && is_unavailable(&error) => {
                warn_fallback_down(origin.registry(), &error);
                return Ok(listed);
            }
            Err(error) => return Err(error),
        };
        let is_after = |name: &&Repository| after.is_none_or(|after| name.as_str() > after);
        let more_names = names.iter().filter(is_after).filter(|name| may_pull(name));
        // Further names of the upstream may come before later ones of the fallback.
        let last = listed.more.then(|| listed.names.last().cloned()).flatten();
        let more_names =
            more_names.take_while(|name| last.as_ref().is_none_or(|last| *name <= last));
        let mut all: BTreeSet<Repository> = more_names.cloned().collect();
        all.extend(listed.names);
        let more = listed.more || all.len() > n;
        let names = all.into_iter().take(n).collect();
        Ok(NamePage { names, more })
    }
}

async fn upstream_page(
    origin: &OriginView,
    endpoint: &Endpoint,
    query: &Query,
) -> Result<Page, UpstreamError> {
    origin.upstream()?.page(endpoint, query).await
}

/// Whether an error is temporary, and says nothing of the content.
fn is_unavailable(error: &MirrorError) -> bool {
    matches!(
        error,
        MirrorError::Unavailable(_)
            | MirrorError::Busy { .. }
            | MirrorError::TooManyRequests { .. }
    )
}

fn warn_fallback_down(registry: &Registry, error: &MirrorError) {
    let error = telemetry::chain(error);
    tracing::warn!(%registry, error, "the fallback is unavailable: a list has the upstream's entries only");
}

/// All tags of the upstream, whose answer to `query` is `first`.
async fn all_tags(
    origin: &OriginView,
    endpoint: &Endpoint,
    query: &Query,
    first: Page,
) -> Result<Vec<String>, MirrorError> {
    let whole = *query == Query::default();
    let mut page = first;
    if !whole {
        let query = Query::default().with("n", &LONGEST_PAGE.to_string());
        page = upstream_page(origin, endpoint, &query)
            .await
            .map_err(list_error)?;
    }
    let mut all = Vec::new();
    for _ in 0..MAX_PAGES {
        let tags: TagList = serde_json::from_slice(&page.bytes)
            .map_err(|_| list_error(UpstreamError::Protocol("its list of tags is not JSON")))?;
        all.extend(tags.tags.unwrap_or_default());
        let Some(next) = page.next else {
            return Ok(all);
        };
        page = upstream_page(origin, endpoint, &next)
            .await
            .map_err(list_error)?;
    }
    Err(list_error(UpstreamError::Protocol(
        "its list of tags does not end",
    )))
}

/// The page of these tags that a query asks for (distribution-spec 1.1, "Listing Tags").
fn select_page(repository: &Repository, all: &BTreeSet<String>, query: &Query) -> Page {
    let most = query.value("n").and_then(|n| n.parse::<usize>().ok());
    let last = query.value("last").unwrap_or_default();
    let rest: Vec<&String> = all.iter().filter(|tag| tag.as_str() > last).collect();
    let tags = &rest[..most.unwrap_or(usize::MAX).min(rest.len())];
    let next = tags.last().filter(|_| tags.len() < rest.len());
    let next = next.map(|next| {
        let query = Query::default().with("n", &tags.len().to_string());
        query.with("last", next)
    });
    let body = serde_json::json!({"name": repository.as_str(), "tags": tags});
    Page {
        bytes: Bytes::from(body.to_string()),
        media_type: Some("application/json".to_owned()),
        next,
        filters_applied: None,
    }
}

fn list_error(error: UpstreamError) -> MirrorError {
    MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_all_tags() {
        let all = ["1", "2", "a", "b"].map(str::to_owned).into();
        let repository = "team/app".parse().expect("a name");
        for (query, tags, next) in [
            ("", &["1", "2", "a", "b"][..], None),
            ("n=2", &["1", "2"], Some("n=2&last=2")),
            ("n=2&last=2", &["a", "b"], None),
            ("n=3&last=1", &["2", "a", "b"], None),
            ("last=a", &["b"], None),
            ("n=5&last=z", &[], None),
            ("n=0", &[], None),
        ] {
            let page = select_page(&repository, &all, &Query::parse(query).expect("a query"));
            let body: serde_json::Value = serde_json::from_slice(&page.bytes).expect("JSON");
            assert_eq!(body, serde_json::json!({"name": "team/app", "tags": tags}));
            let next = next.map(|next| Query::parse(next).expect("a query"));
            assert_eq!(page.next, next, "{query}");
        }
    }
}
