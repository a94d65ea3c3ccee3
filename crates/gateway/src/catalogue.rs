//! `/v2/_catalog`: what there is, as far as the caller may pull it, under the names that are typed here.
//!
//! Where one registry is everything (the listener's, that of `?ns=`, the Host's), its catalogue is the
//! answer. Elsewhere it is that of every registry that is hosted here, one after the other: those with
//! `push`, `hosts` or `owns`, and the default one. A page's end says where the next one begins, so nothing
//! is kept between them.

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

/// How many names a page has where the client does not say, and the most it may ask for (as distribution's).
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 1000;
/// How often upstreams are asked for one page, and how long that may take in all.
const QUESTIONS: usize = 64;
const WITHIN: Duration = Duration::from_secs(25);

/// A page of names that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueQuery {
    /// Whose names, in this order.
    pub registries: Vec<Registry>,
    pub n: usize,
    /// The name that the page before ended with, as it was given.
    pub last: Option<String>,
    pub namespace: Option<String>,
}

/// What a token has to be for.
pub(super) fn scope() -> Scopes {
    Scopes::parse(["registry:catalog:*"])
}

/// What a request for a page of names asks for.
pub(super) fn listing(
    resolver: &Resolver,
    name_context: NameContext<'_>,
    namespace: Option<String>,
    query: &Query,
) -> Result<CatalogueQuery, ErrorResponse> {
    let n = match query.value("n").map(str::parse::<usize>) {
        None => PAGE,
        Some(Ok(n)) if n <= LONGEST_PAGE => n,
        Some(_) => {
            let message = "n is the number of names wanted, a whole number up to 1000";
            return Err(ErrorResponse::new(
                ErrorCode::PaginationNumberInvalid,
                message,
            ));
        }
    };
    let last = query.value("last").map(str::to_owned);
    if last
        .as_ref()
        .is_some_and(|last| last.len() > resolver::LONGEST_NAME)
    {
        let message = "last is the name that the page before ended with; this is longer than any";
        return Err(ErrorResponse::new(ErrorCode::NameInvalid, message));
    }
    let registries = listed(resolver, resolver.fixed(name_context)?);
    if registries.is_empty() {
        let message = "there is no catalogue here";
        return Err(ErrorResponse::new(ErrorCode::NameUnknown, message));
    }
    Ok(CatalogueQuery {
        registries,
        n,
        last,
        namespace,
    })
}

/// The registries whose catalogues are given: the one that is everything here, or all that are hosted.
pub(super) fn listed(resolver: &Resolver, fixed: Option<&RegistryEntry>) -> Vec<Registry> {
    let is_hosted = |entry: &RegistryEntry| {
        let hosted = entry.push || !entry.hosts.is_empty() || !entry.owns.is_empty();
        !entry.delegates_auth && (hosted || entry.default)
    };
    let is_listed = |entry: &&RegistryEntry| {
        let chosen = fixed.map_or(is_hosted(entry), |fixed| fixed.registry == entry.registry);
        // The Hub has none.
        chosen && !entry.library
    };
    let entries = resolver.entries.iter().filter(is_listed);
    entries.map(|entry| entry.registry.clone()).collect()
}

/// A page of names as they are typed here, and whether there are more.
struct NamesPage {
    names: Vec<String>,
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
        let names = tokio::time::timeout(WITHIN, self.names(&viewer, listing, name_context)).await;
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
        Ok(send::whole(session, response, options.head, Bytes::from(body)).await?)
    }

    /// Who asks what there is in these registries.
    ///
    /// # Errors
    /// [`Denied`] where nothing in them could be seen.
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
        let viewer = self.state.policy.viewer(login)?;
        if registries.iter().any(|registry| viewer.sees(registry)) {
            return Ok(viewer);
        }
        Err(login.user().map_or(Denied::Anonymous, |_| Denied::User))
    }

    /// A page of names of one registry after the other, from where the page before ended.
    async fn names(
        &self,
        viewer: &Viewer<'_>,
        listing: &CatalogueQuery,
        name_context: NameContext<'_>,
    ) -> Result<NamesPage, MirrorError> {
        let (resolver, mirror) = (&self.state.table.resolver, &self.state.mirror);
        let registries = &listing.registries;
        let (first, mut after) = self.begin(listing, name_context);
        let mut budget = RequestBudget(QUESTIONS);
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
                // It has none, or none for us. What cannot be asked now is not left out: a list that is
                // short without a word would be taken for whole.
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

    /// Which registry a page begins in, and behind which name of it.
    fn begin(
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
    fn whose_names_are_listed() {
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
            let namespace = namespace.map(str::to_owned);
            let listed = listing(
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
    fn how_long_a_page_may_be() {
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
            let asked = listing(&table().resolver, NameContext::Operator, None, &query);
            let n = asked
                .map(|listing| listing.n)
                .map_err(|refusal| refusal.code);
            assert_eq!(n, expected, "{query:?}");
        }
    }

    #[test]
    fn names_as_they_are_typed_here() {
        let any = Listener::default();
        let table = table();
        for (registry, repository, host, client_name) in [
            ("hosted", "team/app", "x", Some("team/app")),
            ("hosted", "app", "x", Some("hosted/app")),
            ("other", "team/app", "x", Some("other/team/app")),
            ("other", "team/app", "r.example.com", Some("team/app")),
            ("docker.io", "library/app", "x", Some("library/app")),
            // This would be another registry's here.
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
