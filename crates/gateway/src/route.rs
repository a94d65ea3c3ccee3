//! Routing: one pure function from a request to a [`Route`]. Which registry a name belongs to is the
//! [`super::resolver`]'s part.

use http::Method;

use super::catalogue::{self, Listing};
use super::pass::{self, Pass};
use super::refusal::Refusal;
use super::search::{self, Search};
use super::table::{Asked, Listener, Table};
use super::target::Target;
use super::v1;
use access::Action;
use oci::error::ErrorCode;
use oci::name::Registry;
use oci::page::{self, PageError};
use oci::query::Query;
use oci::v2::{self, Path, PathError, Resource};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: answered by ourselves.
    Ping {
        namespace: Option<String>,
        /// The registry that answers it, where it decides for each caller.
        of: Option<Registry>,
    },
    /// `/token`: answered by ourselves.
    Token,
    /// `/v2/_catalog`
    Catalogue(Listing),
    /// `/v1/search`
    Search(Search),
    /// A cached read.
    Pull(Target),
    /// A write, or a read of a registry whose bytes stay there.
    Pass(Box<Pass>),
    V1(v1::Route),
}

/// Routes a request.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn route(table: &Table, listener: &Listener, asked: Asked<'_>) -> Result<Route, Refusal> {
    // The v1 API's, but what is found is not v1's alone.
    let is_search = || v2::segments(asked.path).is_ok_and(|segments| segments == ["v1", "search"]);
    if asked.path.ends_with("search") && is_search() {
        if !matches!(*asked.method, Method::GET | Method::HEAD) {
            return Err(Refusal::unsupported("a search is only read"));
        }
        let query = Query::parse(asked.query)?;
        let search = search::search(&table.resolver, listener.place(None, asked.host), &query)?;
        return Ok(Route::Search(search));
    }
    if let Some(route) = v1::route(table, listener, &asked) {
        return Ok(Route::V1(route));
    }
    let segments = v2::segments(asked.path).map_err(refused_path)?;
    match segments.first().map(String::as_str) {
        Some("token") if segments.len() == 1 => return Ok(Route::Token),
        Some("v2") => {
            if let Some(route) = v1::instead_of_v2(table, listener, &asked) {
                return Ok(Route::V1(route));
            }
        }
        _ => {
            return Err(Refusal::new(
                ErrorCode::NameUnknown,
                "this is a registry: it serves /v2/",
            ));
        }
    }
    let query = Query::parse(asked.query)?;
    let namespace = query.value("ns").map(str::to_owned);
    let resolver = &table.resolver;
    let place = listener.place(query.value("ns"), asked.host);
    let path = v2::parse(&segments[1..]).map_err(refused_path)?;
    let reads = matches!(*asked.method, Method::GET | Method::HEAD);
    let (name, resource) = match path {
        Path::Base if reads => {
            let fixed = resolver.fixed(place)?;
            let of = fixed.filter(|entry| entry.delegates_auth);
            let of = of.map(|entry| entry.registry.clone());
            return Ok(Route::Ping { namespace, of });
        }
        Path::Base => {
            return Err(Refusal::unsupported(
                "only GET and HEAD are answered at /v2/",
            ));
        }
        Path::Catalog if reads => {
            let listing = catalogue::listing(resolver, place, namespace, &query)?;
            return Ok(Route::Catalogue(listing));
        }
        Path::Catalog => return Err(Refusal::unsupported("a catalogue is only read")),
        Path::Named { name, resource } => (name, resource),
    };
    let (entry, named) = resolver.resolve(place, &name)?;
    let writes = !reads || matches!(resource, Resource::Uploads | Resource::Upload(_));
    if writes && (listener.read_only || !entry.push) {
        return Err(Refusal::unsupported(format!(
            "{named} takes no pushes here: its registry has no `push: true`, or this listener only reads; names \
             of a registry that has are claimed with its `owns`, `hosts` or prefix"
        )));
    }
    let action = pass::action(asked.method, &resource)?;
    let page = page::selection(&resource, &query).map_err(refused_page)?;
    let target = Target {
        name: named,
        resource,
        query: page,
        typed: name,
        namespace,
    };
    if action == Action::Pull && entry.cached {
        return Ok(Route::Pull(target));
    }
    let source = |from: &str, origin: Option<&str>| {
        // Another registry's repository of that name is none of ours.
        let host = asked.host.unwrap_or_default();
        if origin.is_some_and(|origin| !origin.eq_ignore_ascii_case(host)) {
            return None;
        }
        let (owner, name) = resolver.resolve(place, from).ok()?;
        (owner.registry == entry.registry).then_some(name.repository)
    };
    let pass = pass::pass(target, action, (asked.query, &query), source)?;
    Ok(Route::Pass(Box::new(pass)))
}

fn refused_path(error: PathError) -> Refusal {
    let code = match error {
        PathError::Unknown => ErrorCode::NameUnknown,
        PathError::Encoding => ErrorCode::NameInvalid,
        PathError::Digest(_) => ErrorCode::DigestInvalid,
        PathError::Tag(_) => ErrorCode::TagInvalid,
    };
    Refusal::new(code, error.to_string())
}

fn refused_page(error: PageError) -> Refusal {
    let code = match error {
        PageError::Number => ErrorCode::PaginationNumberInvalid,
        PageError::Long { .. } => ErrorCode::NameInvalid,
    };
    Refusal::new(code, error.to_string())
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
