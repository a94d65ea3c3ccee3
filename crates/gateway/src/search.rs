//! `/v1/search`: repository names that contain a word, for `docker search` and `podman search`
//! (docker-registry's search, `GET /v1/search?q=&n=&page=`).
//!
//! It searches the catalogues of hosted registries and the cached repositories that the caller may pull. Without
//! an unavailable catalogue the results are incomplete, but the search does not fail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::cache_control::CacheControl;
use super::catalogue;
use super::error_response::ErrorResponse;
use super::request_options::RequestOptions;
use super::resolver::{self, NameContext, Resolver};
use super::session::Session;
use super::{Failure, Gateway, respond, send};
use access::{Login, Viewer};
use mirror::{MirrorError, filter_map_yielding};
use oci::cache_status::{CacheStatus, Forward};
use oci::error::ErrorCode;
use oci::name::{Registry, Repository, RepositoryName};
use oci::v2::Query;

/// The maximum number of results on a page.
const MAX_PAGE_SIZE: usize = 100;
/// The time limit for the catalogue of one registry.
const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(8);

/// A parsed search request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchQuery {
    /// The registries whose cached names are searched, in this order.
    pub registries: Vec<Registry>,
    /// Those of them whose catalogues are searched too.
    pub hosted: Vec<Registry>,
    /// In lower case, as names are; an empty word matches every name.
    pub word: String,
    pub page: ResultPage,
    pub namespace: Option<Arc<str>>,
}

/// The page of results to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultPage {
    /// Results per page; `None` returns all on one page.
    pub size: Option<usize>,
    /// Counted from 1.
    pub number: usize,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchResult {
    /// The name that clients of this gateway use.
    pub name: String,
    pub description: String,
}

/// Parses a search request.
///
/// # Errors
/// 400 for an invalid `n` or `page` or a word that is too long, 404 for an unknown `ns`.
pub(super) fn search_query(
    resolver: &Resolver,
    name_context: NameContext<'_>,
    query: &Query,
) -> Result<SearchQuery, ErrorResponse> {
    let number = |key: &str| match query.value(key).map(str::parse::<usize>) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => {
            let message = format!("{key} must be a whole number");
            Err(ErrorResponse::new(
                ErrorCode::PaginationNumberInvalid,
                message,
            ))
        }
    };
    let page = ResultPage {
        size: number("n")?.map(|n| n.clamp(1, MAX_PAGE_SIZE)),
        number: number("page")?.unwrap_or(1).max(1),
    };
    let word = query.value("q").unwrap_or_default();
    if word.len() > resolver::MAX_NAME {
        let message = "the word is longer than any repository name";
        return Err(ErrorResponse::new(ErrorCode::NameInvalid, message));
    }
    let namespace = query.value("ns").map(Arc::from);
    let fixed = resolver.fixed(name_context.with_namespace(namespace.as_deref()))?;
    let entries = resolver.entries.iter().filter(|entry| {
        fixed.map_or(!entry.delegates_auth, |fixed| {
            fixed.registry == entry.registry
        })
    });
    Ok(SearchQuery {
        registries: entries.map(|entry| entry.registry.clone()).collect(),
        hosted: catalogue::listed_registries(resolver, fixed),
        word: word.to_lowercase(),
        page,
        namespace,
    })
}

impl Gateway {
    /// Answers a search.
    pub(super) async fn search(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        search: &SearchQuery,
        login: &Login,
    ) -> Result<(), Failure> {
        let viewer = self
            .viewer(session, login, &search.registries)
            .map_err(|denied| self.denied(session, denied, &catalogue::scope()))?;
        let name_context = self.name_context(session, search.namespace.as_deref());
        // The results of a v1 registry at this context come first.
        let (names, described) = tokio::join!(
            self.matching_names(&viewer, search, name_context),
            self.v1_found(session, search, login)
        );
        let names = names?;
        let body = results(search, described, names).to_string();
        let cache = CacheStatus::forward(Forward::Bypass);
        let mut response = respond::response(StatusCode::OK, options, cache)?;
        response.set_json(CacheControl::PrivateNoStore)?;
        // A response of the v1 API.
        response.remove_header("Docker-Distribution-Api-Version");
        Ok(send::whole(session, response, Bytes::from(body)).await?)
    }

    /// The client names that contain the word, of repositories that the viewer may pull.
    async fn matching_names(
        &self,
        viewer: &Viewer<'_>,
        search: &SearchQuery,
        name_context: NameContext<'_>,
    ) -> Result<BTreeSet<String>, MirrorError> {
        let visible = search.registries.iter().filter(|it| viewer.sees(it));
        // Concurrently, so that a slow registry does not delay the others.
        let found =
            visible.map(|registry| self.matching_names_of(viewer, search, name_context, registry));
        let found = futures_util::future::try_join_all(found).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The matching client names of one registry.
    async fn matching_names_of(
        &self,
        viewer: &Viewer<'_>,
        search: &SearchQuery,
        name_context: NameContext<'_>,
        registry: &Registry,
    ) -> Result<Vec<String>, MirrorError> {
        let mirror = &self.state.mirror;
        let client_name = |repository: &Repository| {
            let name = RepositoryName::new(registry, repository);
            let client_name = self.state.table.resolver.client_name(name_context, &name);
            client_name.filter(|client_name| client_name.contains(&search.word))
        };
        let mut found = mirror.cached_names(viewer, registry).await;
        if search.hosted.contains(registry) {
            let listed = mirror.searched_names(viewer, registry);
            match tokio::time::timeout(CATALOGUE_TIMEOUT, listed).await {
                Ok(Ok(listed)) => found.extend(listed),
                // The client needs the challenge to log in.
                Ok(Err(error @ MirrorError::Challenged(_))) => return Err(error),
                Ok(Err(error)) => {
                    let error = telemetry::chain(&error);
                    tracing::debug!(%registry, error, "skipped a catalogue in a search: it is unavailable");
                }
                Err(_) => {
                    tracing::debug!(%registry, "skipped a catalogue in a search: it is too slow");
                }
            }
        }
        Ok(filter_map_yielding(&found, client_name).await)
    }
}

/// Renders a page of results: those of a v1 registry with their descriptions first, then the other names.
fn results(search: &SearchQuery, described: Vec<SearchResult>, names: BTreeSet<String>) -> Value {
    let mut known = BTreeSet::new();
    let mut found: Vec<SearchResult> = Vec::new();
    let plain = names.into_iter().map(|name| SearchResult {
        name,
        description: String::new(),
    });
    for result in described.into_iter().chain(plain) {
        if known.insert(result.name.clone()) {
            found.push(result);
        }
    }
    let size = search.page.size.unwrap_or(found.len()).max(1);
    let first = (search.page.number - 1).saturating_mul(size);
    let page = found.iter().skip(first).take(size).map(|result| {
        json!({
            "name": result.name,
            "description": result.description,
            "star_count": 0,
            "is_official": false,
            "is_trusted": false,
            "is_automated": false,
        })
    });
    json!({
        "query": search.word,
        "num_results": found.len(),
        "num_pages": found.len().div_ceil(size),
        "page": search.page.number,
        "page_size": size,
        "results": page.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<SearchQuery, ErrorCode> {
        let query = Query::parse(text).expect("a query");
        let found = search_query(&Resolver::default(), NameContext::Operator, &query);
        found.map_err(|refusal| refusal.code)
    }

    #[test]
    fn queries_of_searches() {
        let invalid = Err(ErrorCode::PaginationNumberInvalid);
        for (text, expected) in [
            ("", Ok((String::new(), None, 1))),
            ("q=App&n=25", Ok(("app".into(), Some(25), 1))),
            ("q=a%2Fb&n=500&page=3", Ok(("a/b".into(), Some(100), 3))),
            ("n=0&page=0", Ok((String::new(), Some(1), 1))),
            ("n=x", invalid.clone()),
            ("page=-1", invalid),
        ] {
            let found = parsed(text);
            let found = found.map(|it| (it.word, it.page.size, it.page.number));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn results_are_merged_and_paginated() {
        let found = |name: &str| SearchResult {
            name: name.into(),
            description: "of v1".into(),
        };
        let names = || ["a", "b", "c", "d"].map(str::to_owned).into();
        for (text, count, pages, page) in [
            ("", 5, 1, vec!["z", "b", "a", "c", "d"]),
            ("n=2", 5, 3, vec!["z", "b"]),
            ("n=2&page=3", 5, 3, vec!["d"]),
            ("n=2&page=4", 5, 3, vec![]),
        ] {
            let search = parsed(text).expect("a search");
            let described = vec![found("z"), found("b"), found("z")];
            let body = results(&search, described, names());
            assert_eq!(body["num_results"], count, "{text}");
            assert_eq!(body["num_pages"], pages, "{text}");
            let results = body["results"].as_array().expect("a list").iter();
            let listed: Vec<_> = results.clone().map(|it| it["name"].clone()).collect();
            assert_eq!(listed, page, "{text}");
            for result in results {
                let described = result["name"] == "b" || result["name"] == "z";
                assert_eq!(result["description"] == "of v1", described);
            }
        }
        let nothing = results(
            &parsed("q=x").expect("a search"),
            Vec::new(),
            BTreeSet::new(),
        );
        assert_eq!(
            (&nothing["num_results"], &nothing["query"]),
            (&json!(0), &json!("x"))
        );
    }
}
