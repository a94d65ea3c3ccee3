//! `/v2/_catalog`: the repositories that the caller may pull, under the names that clients of this gateway use.
//!
//! Where the listener, `?ns=` or the Host selects one registry, the answer is its catalogue. Elsewhere it is the
//! catalogues of all hosted registries, one after the other: those with `push`, `hosts` or `owns`, and the default
//! one. The last name of a page says where the next page begins, so no state is stored between pages.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};

use super::cache_control::CacheControl;
use super::error_response::ErrorResponse;
use super::request_options::RequestOptions;
use super::resolver::{self, NameContext, RegistryEntry, Resolver};
use super::session::Session;
use super::{Failure, Gateway, respond, send};
use access::{Denied, Login, Scopes, Viewer};
use mirror::{MirrorError, NamePage, RequestBudget};
use oci::cache_status::{CacheStatus, Forward};
use oci::error::ErrorCode;
use oci::name::{Registry, RepositoryName};
use oci::v2::Query;

/// The default and the maximum number of names on a page (distribution's).
const DEFAULT_PAGE_SIZE: usize = 100;
const MAX_PAGE_SIZE: usize = 1000;
/// The limit of upstream requests for one page, and the time limit of all of them together.
const MAX_UPSTREAM_REQUESTS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(25);

/// A request for a page of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueQuery {
    /// The registries to list, in this order.
    pub registries: Vec<Registry>,
    pub n: usize,
    /// The last name of the page before, as the client got it.
    pub last: Option<String>,
    pub namespace: Option<Arc<str>>,
}

/// The scope of a token that may list the catalogue.
pub(super) fn scope() -> Scopes {
    Scopes::parse(["registry:catalog:*"])
}

/// Parses a request for a page of names.
///
/// # Errors
/// 400 for an invalid `n` or `last`, 404 where no registry is listed.
pub(super) fn catalogue_query(
    resolver: &Resolver,
    name_context: NameContext<'_>,
    namespace: Option<Arc<str>>,
    query: &Query,
) -> Result<CatalogueQuery, ErrorResponse> {
    let n = match query.value("n").map(str::parse::<usize>) {
        None => DEFAULT_PAGE_SIZE,
        Some(Ok(n)) if n <= MAX_PAGE_SIZE => n,
        Some(_) => {
            let message = "n is the maximum number of names, a whole number up to 1000";
            return Err(ErrorResponse::new(
                ErrorCode::PaginationNumberInvalid,
                message,
            ));
        }
    };
    let last = query.value("last").map(str::to_owned);
    if last
        .as_ref()
        .is_some_and(|last| last.len() > resolver::MAX_NAME)
    {
        let message =
            "last is the last name of the page before; this value is longer than any name";
        return Err(ErrorResponse::new(ErrorCode::NameInvalid, message));
    }
    let registries = listed_registries(resolver, resolver.fixed(name_context)?);
    if registries.is_empty() {
        let message = "no registry of this gateway has a catalogue to list";
        return Err(ErrorResponse::new(ErrorCode::NameUnknown, message));
    }
    Ok(CatalogueQuery {
        registries,
        n,
        last,
        namespace,
    })
}

/// The registries whose catalogues are listed: the `fixed` one, or all hosted ones.
pub(super) fn listed_registries(
    resolver: &Resolver,
    fixed: Option<&RegistryEntry>,
) -> Vec<Registry> {
    let is_hosted = |entry: &RegistryEntry| {
        let hosted = entry.push || !entry.hosts.is_empty() || !entry.owns.is_empty();
        !entry.delegates_auth && (hosted || entry.default)
    };
    let is_listed = |entry: &&RegistryEntry| {
        let chosen = fixed.map_or(is_hosted(entry), |fixed| fixed.registry == entry.registry);
        // Docker Hub has no catalogue.
        chosen && !entry.library
    };
    let entries = resolver.entries.iter().filter(is_listed);
    entries.map(|entry| entry.registry.clone()).collect()
}

/// A page of names as clients use them.
struct NamesPage {
    names: Vec<String>,
    /// Whether another page follows.
    more: bool,
}

impl Gateway {
    /// Answers with a page of names.
    pub(super) async fn catalogue(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        listing: &CatalogueQuery,
        login: &Login,
    ) -> Result<(), Failure> {
        let viewer = self
            .viewer(session, login, &listing.registries)
            .map_err(|denied| self.denied(session, denied, &scope()))?;
        let name_context = self.name_context(session, listing.namespace.as_deref());
        let names =
            tokio::time::timeout(DEADLINE, self.names(&viewer, listing, name_context)).await;
        let names = match names.unwrap_or_else(|_| Err(MirrorError::timed_out())) {
            Ok(names) => names,
            Err(MirrorError::Unknown { .. }) => {
                let message = "the registry has no catalogue";
                return Err(ErrorResponse::new(ErrorCode::NameUnknown, message).into());
            }
            Err(error) => return Err(error.into()),
        };
        let cache = CacheStatus::forward(Forward::Bypass);
        let mut response = respond::response(StatusCode::OK, options, cache)?;
        response.set_json(CacheControl::PrivateNoStore)?;
        if let Some(last) = names.names.last().filter(|_| names.more) {
            let query = Query::default().with("last", last);
            let mut query = query.with("n", &listing.n.to_string());
            if let Some(namespace) = &listing.namespace {
                query = query.with("ns", namespace);
            }
            let link = format!("</v2/_catalog{}>; rel=\"next\"", query.render());
            response.insert_header(header::LINK, link)?;
        }
        let body = serde_json::json!({"repositories": names.names}).to_string();
        Ok(send::whole(session, response, Bytes::from(body)).await?)
    }

    /// The caller as a viewer of these registries.
    ///
    /// # Errors
    /// [`Denied`] if the caller may see none of them.
    pub(super) fn viewer(
        &self,
        session: &Session,
        login: &Login,
        registries: &[Registry],
    ) -> Result<Viewer<'_>, Denied> {
        let policy = &self.state.policy;
        if let [registry] = registries
            && let Some(viewer) = policy.viewer_of(&self.forwarded_authorization(session), registry)
        {
            return Ok(viewer);
        }
        let viewer = policy.viewer(login)?;
        if registries.iter().any(|registry| viewer.sees(registry)) {
            return Ok(viewer);
        }
        Err(login.user().map_or(Denied::Anonymous, |_| Denied::User))
    }

    /// Collects a page of names from one registry after the other, after the last name of the page before.
    async fn names(
        &self,
        viewer: &Viewer<'_>,
        listing: &CatalogueQuery,
        name_context: NameContext<'_>,
    ) -> Result<NamesPage, MirrorError> {
        let (resolver, mirror) = (&self.state.table.resolver, &self.state.mirror);
        let registries = &listing.registries;
        let (first, mut after) = self.page_start(listing, name_context);
        let mut budget = RequestBudget(MAX_UPSTREAM_REQUESTS);
        let mut names = Vec::new();
        let mut refused = None;
        let mut answered = false;
        for registry in registries[first..].iter().filter(|it| viewer.sees(it)) {
            let left = listing.n - names.len();
            let (after, budget) = (after.take(), &mut budget);
            let listed = mirror
                .catalogue(viewer, registry, after.as_deref(), left, budget)
                .await;
            let NamePage {
                names: more,
                more: has_more,
            } = match listed {
                Ok(listed) => listed,
                // It has no catalogue, or denies it to us. Any other failure fails the page: a list without the
                // names of a registry would be taken for complete.
                Err(error @ (MirrorError::Unknown { .. } | MirrorError::Denied)) => {
                    refused = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            answered = true;
            names.extend(more.iter().filter_map(|repository| {
                resolver.client_name(name_context, &RepositoryName::new(registry, repository))
            }));
            if has_more && names.is_empty() && listing.n > 0 {
                return Err(MirrorError::too_sparse());
            }
            if has_more {
                return Ok(NamesPage { names, more: true });
            }
        }
        match refused {
            Some(error) if !answered => Err(error),
            _ => Ok(NamesPage { names, more: false }),
        }
    }

    /// The index of the registry that a page begins in, and the last name of the page before in that registry.
    fn page_start(
        &self,
        listing: &CatalogueQuery,
        name_context: NameContext<'_>,
    ) -> (usize, Option<String>) {
        let Some(last) = &listing.last else {
            return (0, None);
        };
        let chosen = self.state.table.resolver.owner(name_context, last);
        let found = chosen.ok().and_then(|(entry, rest)| {
            let registries = listing.registries.iter();
            let at = registries.clone().position(|it| *it == entry.registry)?;
            Some((at, Some(rest.to_owned())))
        });
        found.unwrap_or((0, None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Listener, RoutingTable};
    use super::*;
    use oci::glob::Pattern;

    fn table() -> RoutingTable {
        RoutingTable {
            resolver: Resolver {
                entries: vec![
                    RegistryEntry {
                        default: true,
                        ..RegistryEntry::named("docker.io")
                    },
                    RegistryEntry::named("ghcr.io"),
                    RegistryEntry {
                        push: true,
                        owns: vec![Pattern::parse("team/**").expect("a pattern")],
                        ..RegistryEntry::named("hosted")
                    },
                    RegistryEntry {
                        hosts: vec!["r.example.com".into()],
                        ..RegistryEntry::named("other")
                    },
                ],
            },
            ..RoutingTable::default()
        }
    }

    #[test]
    fn listed_registries_by_context() {
        let any = Listener::default();
        let pinned = Listener {
            registry: Some(Registry::new("ghcr.io")),
            ..Listener::default()
        };
        let none = Err(ErrorCode::NameUnknown);
        for (listener, host, namespace, expected) in [
            (&any, "x", None, Ok("[hosted, other]")),
            (&any, "r.example.com:5000", None, Ok("[other]")),
            (&any, "r.example.com", Some("hosted"), Ok("[hosted]")),
            (&any, "x", Some("ghcr.io"), Ok("[ghcr.io]")),
            (&any, "x", Some("docker.io"), none),
            (&any, "x", Some("quay.io"), none),
            (&pinned, "r.example.com", None, Ok("[ghcr.io]")),
            (&pinned, "x", Some("hosted"), none),
        ] {
            let name_context = listener.name_context(namespace, Some(host));
            let namespace = namespace.map(Arc::from);
            let listed = catalogue_query(
                &table().resolver,
                name_context,
                namespace,
                &Query::default(),
            );
            let listed = listed.map(|listing| format!("{:?}", listing.registries));
            let listed = listed.map_err(|refusal| refusal.code);
            assert_eq!(listed, expected.map(str::to_owned), "{host}");
        }
    }

    #[test]
    fn page_sizes() {
        let invalid = Err(ErrorCode::PaginationNumberInvalid);
        for (query, expected) in [
            ("", Ok(100)),
            ("n=0", Ok(0)),
            ("n=1000", Ok(1000)),
            ("n=1001", invalid),
            ("n=-1", invalid),
            ("n=x", invalid),
            ("n=", invalid),
        ] {
            let query = Query::parse(query).expect("a query");
            let parsed = catalogue_query(&table().resolver, NameContext::Operator, None, &query);
            let n = parsed
                .map(|listing| listing.n)
                .map_err(|refusal| refusal.code);
            assert_eq!(n, expected, "{query:?}");
        }
    }

    #[test]
    fn client_names_by_context() {
        let any = Listener::default();
        let table = table();
        for (registry, repository, host, client_name) in [
            ("hosted", "team/app", "x", Some("team/app")),
            ("hosted", "app", "x", Some("hosted/app")),
            ("other", "team/app", "x", Some("other/team/app")),
            ("other", "team/app", "r.example.com", Some("team/app")),
            ("docker.io", "library/app", "x", Some("library/app")),
            // Without its prefix, this name belongs to another registry.
            ("docker.io", "team/app", "x", Some("docker.io/team/app")),
            ("hosted", "other/app", "x", Some("hosted/other/app")),
            ("hosted", "app", "r.example.com", None),
        ] {
            let repository = repository.parse().expect("a name");
            let name = RepositoryName::new(&Registry::new(registry), &repository);
            let found = table
                .resolver
                .client_name(any.name_context(None, Some(host)), &name);
            assert_eq!(
                found.as_deref(),
                client_name,
                "{registry} {repository} at {host}"
            );
        }
    }
}
