//! Routing: one pure function from a request to a [`Route`].
//!
//! A name belongs to exactly one registry, decided without asking anyone: the listener's registry, else
//! `?ns=`, else the Host, else the longest registry name that is a path prefix, else the registry whose
//! `owns` matches, else the default one.

use std::borrow::Cow;

use http::{Method, StatusCode};

use super::catalogue::{self, Listing};
use super::old_clients::OldClients;
use super::pass::{self, Pass};
use super::search::{self, Search};
use super::v1;
use access::Action;
use oci::error::ErrorCode;
use oci::glob::Pattern;
use oci::name::{Registry, Repository};
use oci::page::{self, PageError};
use oci::query::{Query, QueryError};
use oci::v2::{self, Endpoint, Path, PathError, Resource};

/// The longest name as it is typed: a registry's and a repository's, each of 255 bytes.
pub const LONGEST_NAME: usize = 511;

/// What routing knows of one registry.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are keys of the configuration, each true or false by itself"
)]
pub struct Entry {
    pub registry: Registry,
    /// Other names under which `?ns=` and prefixes may ask for it.
    pub aliases: Vec<String>,
    /// Chosen by Host.
    pub hosts: Vec<String>,
    pub owns: Vec<Pattern>,
    pub default: bool,
    /// One-component names stand for `library/<name>`: the Hub.
    pub library: bool,
    /// Whether it takes writes.
    pub push: bool,
    /// Whether what is read there is kept here.
    pub cached: bool,
    /// Whether it speaks v1.
    pub v1: bool,
    /// Whether it speaks v2, or its v1 images are served through v2.
    pub v2: bool,
    /// Whether images of one API are served through the other.
    pub bridge: bool,
    /// Whether it decides for each caller: it is asked where everything is its own alone.
    pub callers: bool,
}

#[cfg(test)]
impl Entry {
    /// A cached registry that claims nothing.
    pub fn named(name: &str) -> Self {
        Self {
            registry: Registry::new(name),
            aliases: Vec::new(),
            hosts: Vec::new(),
            owns: Vec::new(),
            default: false,
            library: name == "docker.io",
            push: false,
            cached: true,
            v1: false,
            v2: true,
            bridge: false,
            callers: false,
        }
    }
}

/// All registries.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub entries: Vec<Entry>,
    /// To whom v2 is not shown.
    pub old_clients: OldClients,
}

/// What routing knows of the listener a request came in on.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    pub read_only: bool,
    /// Everything on this listener is this registry's.
    pub registry: Option<Registry>,
    /// What clients speak to it: `http` or `https`.
    pub scheme: &'static str,
    /// What clients call it behind another proxy: scheme and authority.
    pub public_url: Option<String>,
}

/// A request as far as routing reads it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub method: &'a Method,
    /// Still encoded.
    pub path: &'a str,
    /// Still encoded, without `?`.
    pub query: &'a str,
    /// Host or `:authority`, with its port if it has one.
    pub host: Option<&'a str>,
    /// User-Agent, empty where there is none.
    pub agent: &'a str,
}

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

/// A resource of a repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub registry: Registry,
    /// With the canonical name.
    pub endpoint: Endpoint,
    /// The name as the client typed it, registry prefix and all.
    pub typed: String,
    /// Which page is asked for of a list; empty for everything else.
    pub query: Query,
    /// The value of `ns`, to be echoed.
    pub namespace: Option<String>,
}

/// A request that goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub message: Cow<'static, str>,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: code.status(),
            code,
            message: message.into(),
        }
    }
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
            return Err(unsupported("a search is only read"));
        }
        let query = Query::parse(asked.query).map_err(|error| refused_query(&error))?;
        let search = search::search(table, listener, asked.host, &query)?;
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
    let query = Query::parse(asked.query).map_err(|error| refused_query(&error))?;
    let namespace = query.value("ns").map(str::to_owned);
    let path = v2::parse(&segments[1..]).map_err(refused_path)?;
    let reads = matches!(*asked.method, Method::GET | Method::HEAD);
    let (name, resource) = match path {
        Path::Base if reads => {
            let fixed = fixed(table, listener, namespace.as_deref(), asked.host)?;
            let of = fixed.filter(|entry| entry.callers);
            let of = of.map(|entry| entry.registry.clone());
            return Ok(Route::Ping { namespace, of });
        }
        Path::Base => return Err(unsupported("only GET and HEAD are answered at /v2/")),
        Path::Catalog if reads => {
            let listing = catalogue::listing(table, listener, asked.host, namespace, &query)?;
            return Ok(Route::Catalogue(listing));
        }
        Path::Catalog => return Err(unsupported("a catalogue is only read")),
        Path::Named { name, resource } => (name, resource),
    };
    let (entry, rest) = owner(table, listener, namespace.as_deref(), asked.host, &name)?;
    let repository = canonical(entry, rest)?;
    let writes = !reads || matches!(resource, Resource::Uploads | Resource::Upload(_));
    if writes && (listener.read_only || !entry.push) {
        return Err(unsupported(format!(
            "{}/{repository} takes no pushes here: its registry has no `push: true`, or this listener only \
             reads; names of a registry that has are claimed with its `owns`, `hosts` or prefix",
            entry.registry
        )));
    }
    let action = pass::action(asked.method, &resource)?;
    let page = page::selection(&resource, &query).map_err(refused_page)?;
    let target = Target {
        registry: entry.registry.clone(),
        endpoint: Endpoint {
            repository,
            resource,
        },
        query: page,
        typed: name,
        namespace: namespace.clone(),
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
        let named = owner(table, listener, namespace.as_deref(), asked.host, from);
        let (owner, rest) = named.ok()?;
        (owner.registry == entry.registry).then(|| canonical(owner, rest).ok())?
    };
    let pass = pass::pass(target, action, (asked.query, &query), source)?;
    Ok(Route::Pass(Box::new(pass)))
}

/// What a name in a path stands for.
pub fn repository(
    table: &Table,
    listener: &Listener,
    host: Option<&str>,
    name: &str,
) -> Option<(Registry, Repository)> {
    let (entry, rest) = owner(table, listener, None, host, name).ok()?;
    Some((entry.registry.clone(), canonical(entry, rest).ok()?))
}

/// The registry that a name belongs to, and the name without its registry prefix.
pub fn owner<'t, 'n>(
    table: &'t Table,
    listener: &Listener,
    namespace: Option<&str>,
    host: Option<&str>,
    name: &'n str,
) -> Result<(&'t Entry, &'n str), Refusal> {
    // Before patterns are matched, which takes longer the longer a name is.
    if name.len() > LONGEST_NAME {
        let message = "the name is longer than that of any registry and repository";
        return Err(Refusal::new(ErrorCode::NameInvalid, message));
    }
    if let Some(entry) = fixed(table, listener, namespace, host)? {
        return Ok((entry, name));
    }
    if let Some((entry, rest)) = table.by_prefix(name) {
        return if entry.callers {
            Err(at_its_host())
        } else {
            Ok((entry, rest))
        };
    }
    let owner = table
        .entries
        .iter()
        .find(|entry| entry.owns.iter().any(|pattern| pattern.matches(name)));
    let entry = owner.or_else(|| table.entries.iter().find(|entry| entry.default));
    if entry.is_some_and(|entry| entry.callers) {
        return Err(at_its_host());
    }
    entry.map(|entry| (entry, name)).ok_or_else(|| {
        let message = "no registry claims this name: write the registry's name before it";
        Refusal::new(ErrorCode::NameUnknown, message)
    })
}

/// The registry whose everything is that is asked here: the listener's, that of `?ns=`, or the Host's.
pub fn fixed<'t>(
    table: &'t Table,
    listener: &Listener,
    namespace: Option<&str>,
    host: Option<&str>,
) -> Result<Option<&'t Entry>, Refusal> {
    let named = check_namespace(table, listener, namespace)?;
    let by_host = host.and_then(|host| table.by_host(host));
    // Elsewhere its clients would be challenged by us, and show it what is for us.
    let elsewhere = |entry: &Entry| {
        let own = by_host.is_some_and(|own| own.registry == entry.registry);
        entry.callers && !own && listener.registry.is_none()
    };
    if named.is_some_and(elsewhere) {
        return Err(at_its_host());
    }
    Ok(named.or(by_host))
}

fn at_its_host() -> Refusal {
    let message = "this registry is asked by a host of its own alone";
    Refusal::new(ErrorCode::NameUnknown, message)
}

/// The registry that the listener or `?ns=` fixes, if one does.
fn check_namespace<'t>(
    table: &'t Table,
    listener: &Listener,
    namespace: Option<&str>,
) -> Result<Option<&'t Entry>, Refusal> {
    let unknown = || Refusal::new(ErrorCode::NameUnknown, "this namespace is not served here");
    let named = namespace
        .map(|namespace| table.by_namespace(namespace).ok_or_else(unknown))
        .transpose()?;
    let Some(fixed) = &listener.registry else {
        return Ok(named);
    };
    if named.is_some_and(|named| named.registry != *fixed) {
        return Err(unknown());
    }
    table
        .entries
        .iter()
        .find(|entry| entry.registry == *fixed)
        .ok_or_else(unknown)
        .map(Some)
}

impl Table {
    fn by_namespace(&self, namespace: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| {
            entry.registry.as_str() == namespace
                || entry.aliases.iter().any(|alias| alias == namespace)
        })
    }

    fn by_host(&self, host: &str) -> Option<&Entry> {
        let bare = match host.rsplit_once(':') {
            Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
            _ => host,
        };
        let is =
            |known: &String| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(bare);
        self.entries.iter().find(|entry| entry.hosts.iter().any(is))
    }

    fn by_prefix<'t, 'n>(&'t self, name: &'n str) -> Option<(&'t Entry, &'n str)> {
        let rest = |entry: &Entry| {
            let aliases = entry.aliases.iter().map(String::as_str);
            let names = aliases.chain([entry.registry.as_str()]);
            let mut rests = names.filter_map(|known| name.strip_prefix(known)?.strip_prefix('/'));
            rests.next()
        };
        let found = self
            .entries
            .iter()
            .filter_map(|entry| Some((entry, rest(entry)?)));
        // The longest name leaves the shortest rest.
        found.min_by_key(|(_, rest)| rest.len())
    }
}

/// The canonical name within a registry.
pub(super) fn canonical(entry: &Entry, name: &str) -> Result<Repository, Refusal> {
    let parsed = if entry.library && !name.is_empty() && !name.contains('/') {
        format!("library/{name}").parse()
    } else {
        name.parse()
    };
    parsed.map_err(|error: oci::name::NameError| {
        Refusal::new(ErrorCode::NameInvalid, error.to_string())
    })
}

pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(ErrorCode::Unsupported, message)
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

pub fn refused_query(error: &QueryError) -> Refusal {
    Refusal::new(ErrorCode::NameInvalid, error.to_string())
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
