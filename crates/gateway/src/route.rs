//! Routing: one pure function from a request to a [`Route`]. [`super::resolver`] finds the registry of a name.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;

use super::catalogue::{self, CatalogueQuery};
use super::error_response::ErrorResponse;
use super::pass_through::{self, PassThrough};
use super::peer;
use super::resolver::Resolver;
use super::search::{self, SearchQuery};
use super::table::{Listener, RequestParts, RoutingTable};
use super::target::RequestTarget;
use super::v1;
use access::Action;
use oci::digest::Digest;
use oci::error::ErrorCode;
use oci::name::Registry;
use oci::page::{self, PageError};
use oci::query::Query;
use oci::v2::{self, Path, PathError, Resource};

/// The operation that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`
    Ping {
        namespace: Option<Arc<str>>,
        /// The registry that answers it, if it authenticates its own callers.
        delegated_to: Option<Registry>,
    },
    /// `/token`
    Token,
    /// `/v2/_catalog`
    Catalogue(CatalogueQuery),
    /// `/v1/search`
    Search(SearchQuery),
    /// A cached read.
    Pull(RequestTarget),
    /// A write, or a read of a registry that is not cached.
    PassThrough(Box<PassThrough>),
    V1(v1::V1Route),
    /// A blob, for another gateway of the bucket.
    Peer(Digest),
}

/// Routes a request.
///
/// # Errors
/// The [`ErrorResponse`] to send.
pub fn route(
    table: &RoutingTable,
    listener: &Listener,
    parts: RequestParts<'_>,
) -> Result<Route, ErrorResponse> {
    // This path of the v1 API also finds v2 repositories.
    let is_search = || v2::segments(parts.path).is_ok_and(|segments| segments == ["v1", "search"]);
    if parts.path.ends_with("search") && is_search() {
        return search_route(table, listener, &parts);
    }
    if let Some(route) = v1::route(table, listener, &parts) {
        return Ok(Route::V1(route));
    }
    let segments = v2::segments(parts.path).map_err(path_error)?;
    match segments.first().map(|first| &**first) {
        Some("token") if segments.len() == 1 => Ok(Route::Token),
        Some("v2") => match v1::instead_of_v2(table, listener, &parts) {
            Some(route) => Ok(Route::V1(route)),
            None => v2_route(table, listener, &parts, &segments[1..]),
        },
        Some(peer::PATH) => peer::route(parts.method, &segments[1..]).ok_or_else(unknown_path),
        _ => Err(unknown_path()),
    }
}

/// The response to a path outside of the API.
pub fn unknown_path() -> ErrorResponse {
    ErrorResponse::new(
        ErrorCode::NameUnknown,
        "not an endpoint of the registry API, which is at /v2/",
    )
}

fn search_route(
    table: &RoutingTable,
    listener: &Listener,
    parts: &RequestParts<'_>,
) -> Result<Route, ErrorResponse> {
    if !is_read(parts.method) {
        return Err(ErrorResponse::unsupported(
            "a search supports only GET and HEAD",
        ));
    }
    let query = Query::parse(parts.query)?;
    let name_context = listener.name_context(None, parts.host);
    let search = search::search_query(&table.resolver, name_context, &query)?;
    Ok(Route::Search(search))
}

/// Routes a request below `/v2`. `segments` are those after it.
fn v2_route(
    table: &RoutingTable,
    listener: &Listener,
    parts: &RequestParts<'_>,
    segments: &[Cow<'_, str>],
) -> Result<Route, ErrorResponse> {
    let query = Query::parse(parts.query)?;
    let namespace = || query.value("ns").map(Arc::from);
    let resolver = &table.resolver;
    let name_context = listener.name_context(query.value("ns"), parts.host);
    let is_read = is_read(parts.method);
    match v2::parse(segments).map_err(path_error)? {
        Path::Base if is_read => {
            let fixed = resolver.fixed(name_context)?;
            let delegated_to = fixed.filter(|entry| entry.delegates_auth);
            Ok(Route::Ping {
                namespace: namespace(),
                delegated_to: delegated_to.map(|entry| entry.registry.clone()),
            })
        }
        Path::Base => Err(ErrorResponse::unsupported(
            "/v2/ supports only GET and HEAD",
        )),
        Path::Catalog if is_read => {
            let query = catalogue::catalogue_query(resolver, name_context, namespace(), &query)?;
            Ok(Route::Catalogue(query))
        }
        Path::Catalog => Err(ErrorResponse::unsupported(
            "a catalogue supports only GET and HEAD",
        )),
        Path::Named { name, resource } => {
            repository_route(resolver, listener, parts, &query, (name, resource))
        }
    }
}

/// Routes a request for a resource of a repository, under the name that the client used.
fn repository_route(
    resolver: &Resolver,
    listener: &Listener,
    parts: &RequestParts<'_>,
    query: &Query,
    (client_name, resource): (String, Resource),
) -> Result<Route, ErrorResponse> {
    let name_context = listener.name_context(query.value("ns"), parts.host);
    let (entry, name) = resolver.resolve(name_context, &client_name)?;
    let writes =
        !is_read(parts.method) || matches!(resource, Resource::Uploads | Resource::Upload(_));
    if writes && (listener.read_only || !entry.push) {
        return Err(ErrorResponse::unsupported(format!(
            "{name} does not accept pushes: its registry lacks `push: true`, or this listener is read-only; \
             to push to a registry with `push: true`, use a name of its `owns`, its `hosts` or its prefix"
        )));
    }
    let action = pass_through::action(parts.method, &resource)?;
    let page = page::selection(&resource, query).map_err(page_error)?;
    let target = RequestTarget {
        name,
        resource,
        query: page,
        client_name,
        namespace: query.value("ns").map(Arc::from),
    };
    if action == Action::Pull && entry.cached {
        return Ok(Route::Pull(target));
    }
    let source = |from: &str, origin: Option<&str>| {
        // A repository of another registry, which `origin` names, cannot be the source of a mount.
        let host = parts.host.unwrap_or_default();
        if origin.is_some_and(|origin| !origin.eq_ignore_ascii_case(host)) {
            return None;
        }
        let (owner, name) = resolver.resolve(name_context, from).ok()?;
        (owner.registry == entry.registry).then_some(name.repository)
    };
    let pass = pass_through::pass(target, action, (parts.query, query), source)?;
    Ok(Route::PassThrough(Box::new(pass)))
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn path_error(error: PathError) -> ErrorResponse {
    let code = match error {
        PathError::Unknown => ErrorCode::NameUnknown,
        PathError::Encoding => ErrorCode::NameInvalid,
        PathError::Digest(_) => ErrorCode::DigestInvalid,
        PathError::Tag(_) => ErrorCode::TagInvalid,
    };
    ErrorResponse::new(code, error.to_string())
}

fn page_error(error: PageError) -> ErrorResponse {
    let code = match error {
        PageError::Number => ErrorCode::PaginationNumberInvalid,
        PageError::Long { .. } => ErrorCode::NameInvalid,
    };
    ErrorResponse::new(code, error.to_string())
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "route_write_tests.rs"]
mod write_tests;
