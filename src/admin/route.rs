//! Routes and authorises requests to the admin listeners. Pure.
//!
//! The API deletes content. Without `admin.htpasswd` it asks for no password, and refuses other machines, and DNS
//! rebinding (a hostile page whose name resolves to 127.0.0.1): `Host` must be a name of the admin address. With it,
//! every request but those for health and metrics needs a login, and a browser sends that of one name to no other.
//!
//! In both cases it refuses cross-site requests (a page that sends a form, or embeds an image, with the operator's
//! login): a browser's `Sec-Fetch-Site` or `Origin` must not name another site, and requests that change something
//! need a header that a page can send to another site only after a preflight with OPTIONS, which gets 405.

use std::io;
use std::net::IpAddr;

use super::error::{Problem, ProblemCode};
use super::page;
use http::{HeaderMap, Method, Uri, header};
use oci::authority;
use runtime::listen::Accepted;

/// The admin listener that received a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `admin.address`
    Everything,
    /// `admin.metrics`, which may be public.
    Metrics,
}

impl Scope {
    /// Its key in the configuration.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Everything => "admin.address",
            Self::Metrics => "admin.metrics",
        }
    }
}

/// The client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Through a socket file, whose mode restricts access.
    Unix,
    Tcp {
        remote: IpAddr,
        local: IpAddr,
    },
}

impl Peer {
    /// The client of an accepted connection.
    ///
    /// # Errors
    /// When the client has reset it.
    pub fn of(accepted: &Accepted) -> io::Result<Self> {
        match accepted {
            Accepted::Tcp(stream, remote) => Ok(Self::Tcp {
                remote: remote.ip().to_canonical(),
                local: stream.local_addr()?.ip().to_canonical(),
            }),
            Accepted::Unix(_) => Ok(Self::Unix),
        }
    }

    /// Its address; `None` for a socket file.
    pub fn remote(self) -> Option<IpAddr> {
        match self {
            Self::Unix => None,
            Self::Tcp { remote, .. } => Some(remote),
        }
    }

    /// Whether the client is on this machine.
    fn is_local(self) -> bool {
        match self {
            Self::Unix => true,
            // A client whose address is that of the listener is on this machine.
            Self::Tcp { remote, local } => remote.is_loopback() || remote == local,
        }
    }
}

/// What protects a connection's private routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection<'a> {
    /// The client is on this machine and addresses localhost, or this host of `admin.address`.
    Machine(Option<&'a str>),
    /// A login, which was checked.
    Login,
}

/// A resource or action of the admin listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A file of the dashboard.
    Page,
    Metrics,
    Live,
    Ready,
    Api(Operation),
}

/// An operation of the API, as in openapi.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    OpenApi,
    Overview,
    Traffic,
    Registries,
    Fills,
    Errors,
    Requests,
    Repositories,
    Tags,
    Manifest,
    EvictionQueue,
    Pins,
    Pin,
    Unpin,
    Purge,
    Warm,
    Verify,
    Explain,
    Config,
    Reload,
    Upgrade,
    Events,
}

/// The methods, the path and the operation of everything that openapi.json describes.
const API: &[(&str, &str, Operation)] = &[
    ("GET", "/api/v1/openapi.json", Operation::OpenApi),
    ("GET", "/api/v1/overview", Operation::Overview),
    ("GET", "/api/v1/traffic", Operation::Traffic),
    ("GET", "/api/v1/registries", Operation::Registries),
    ("GET", "/api/v1/fills", Operation::Fills),
    ("GET", "/api/v1/errors", Operation::Errors),
    ("GET", "/api/v1/requests", Operation::Requests),
    ("GET", "/api/v1/repositories", Operation::Repositories),
    ("GET", "/api/v1/tags", Operation::Tags),
    ("GET", "/api/v1/manifest", Operation::Manifest),
    ("GET", "/api/v1/eviction-queue", Operation::EvictionQueue),
    ("GET", "/api/v1/pins", Operation::Pins),
    ("POST", "/api/v1/pins", Operation::Pin),
    ("DELETE", "/api/v1/pins", Operation::Unpin),
    ("POST", "/api/v1/purge", Operation::Purge),
    ("POST", "/api/v1/warm", Operation::Warm),
    ("POST", "/api/v1/verify", Operation::Verify),
    ("POST", "/api/v1/explain", Operation::Explain),
    ("GET", "/api/v1/config", Operation::Config),
    ("POST", "/api/v1/reload", Operation::Reload),
    ("POST", "/api/v1/upgrade", Operation::Upgrade),
    ("GET", "/api/v1/events", Operation::Events),
];

impl Operation {
    /// The parameters that its query may have.
    pub const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Traffic => &["window"],
            Self::Registries | Self::Fills | Self::Pins => &["limit", "after"],
            Self::Errors => &["kind", "q", "limit", "after"],
            Self::Requests => &["q", "status", "limit", "after"],
            Self::Repositories => &["registry", "q", "sort", "limit", "after"],
            Self::Tags => &["registry", "repository", "q", "limit", "after"],
            Self::Manifest => &["registry", "repository", "reference"],
            Self::EvictionQueue => &["limit"],
            Self::Unpin => &["image"],
            Self::Events => &["topics", "q", "status"],
            Self::OpenApi
            | Self::Overview
            | Self::Pin
            | Self::Purge
            | Self::Warm
            | Self::Verify
            | Self::Explain
            | Self::Config
            | Self::Reload
            | Self::Upgrade => &[],
        }
    }
}

/// The header that requests which change something must have.
const OWN_REQUEST: &str = "x-roadstead-request";

impl Route {
    /// The routes of a path by their methods; none of an unknown path.
    fn of(path: &str, scope: Scope) -> Vec<(&'static str, Self)> {
        let read = |route| vec![("GET", route)];
        match (path, scope) {
            ("/metrics", _) => read(Self::Metrics),
            ("/livez", _) => read(Self::Live),
            ("/readyz", _) => read(Self::Ready),
            (_, Scope::Metrics) => Vec::new(),
            _ if page::file(path).is_some() => read(Self::Page),
            _ => {
                let of_path = API.iter().filter(|(_, known, _)| *known == path);
                let routes = of_path.map(|(method, _, operation)| (*method, Self::Api(*operation)));
                routes.collect()
            }
        }
    }

    /// Whether it is restricted to clients on this machine, or to logins.
    const fn is_private(self) -> bool {
        !matches!(self, Self::Metrics | Self::Live | Self::Ready)
    }
}

/// Whether a path needs the protection of its listener.
pub fn is_private(path: &str, scope: Scope) -> bool {
    let routes = Route::of(path, scope);
    // An unknown path tells nobody that it is unknown.
    routes.first().is_none_or(|(_, first)| first.is_private())
}

/// Routes a request.
///
/// # Errors
/// Unknown routes and methods, other hosts, machines and sites, other media types than JSON.
pub fn route(
    (method, uri, headers): (&Method, &Uri, &HeaderMap),
    (peer, scope): (Peer, Scope),
    protection: Protection<'_>,
) -> Result<Route, Problem> {
    if scope == Scope::Everything
        && let Protection::Machine(name) = protection
        && !is_addressed_to_admin(uri, headers, name)
    {
        return Err(Problem::new(
            ProblemCode::WrongHost,
            "the admin address answers to localhost and to its configured name only",
        ));
    }
    let routes = Route::of(uri.path(), scope);
    let Some((_, first)) = routes.first() else {
        return Err(Problem::new(ProblemCode::NotFound, "there is nothing here"));
    };
    if first.is_private() && protection != Protection::Login && !peer.is_local() {
        return Err(Problem::new(
            ProblemCode::OtherMachine,
            "this is answered to the gateway's own machine only",
        ));
    }
    let effective = if *method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    let found = routes.iter().find(|(known, _)| *known == effective);
    let Some((_, route)) = found else {
        return Err(Problem::method_not_allowed(allowed(&routes)));
    };
    if matches!(route, Route::Api(_)) {
        refuse_other_sites(method, headers)?;
    }
    Ok(*route)
}

/// Refuses requests that a page of another site could make a browser send.
fn refuse_other_sites(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let cross_site = |detail| Err(Problem::new(ProblemCode::CrossSiteRequest, detail));
    if !is_same_site(headers) {
        return cross_site("a page of another site asks");
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    if headers.get(OWN_REQUEST).is_none_or(|value| value != "1") {
        return cross_site(
            "a request that changes something needs the header X-Roadstead-Request: 1",
        );
    }
    if *method == Method::POST && !is_json(headers) {
        return Err(Problem::new(
            ProblemCode::UnsupportedMediaType,
            "the body must be application/json",
        ));
    }
    Ok(())
}

/// Whether no page of another site asks, as far as the browser says. `Sec-Fetch-Site` also holds behind a proxy that
/// changes `Host`; browsers without it send `Origin` with all that changes something.
fn is_same_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return matches!(site.as_bytes(), b"none" | b"same-origin");
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let authority = origin.to_str().ok().and_then(|origin| {
        let (_, authority) = origin.split_once("://")?;
        Some(authority)
    });
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    authority
        .zip(host)
        .is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
}

/// The value of `Allow`.
fn allowed(routes: &[(&str, Route)]) -> String {
    let methods = routes.iter().map(|(method, _)| match *method {
        "GET" => "GET, HEAD",
        method => method,
    });
    methods.collect::<Vec<_>>().join(", ")
}

/// Whether the host of a request is `localhost`, a loopback address or the host of `admin.address`, with any port. An
/// absolute target takes precedence over `Host` (RFC 9112 §3.2.2).
fn is_addressed_to_admin(uri: &Uri, headers: &HeaderMap, name: Option<&str>) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let authority = match (uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), _, None) => authority.as_str(),
        (None, Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return false,
    };
    let (host, _) = authority::split_port(authority);
    let bare = authority::unbracketed(host);
    let ip = bare.parse::<IpAddr>();
    let own = |name: &str| name.eq_ignore_ascii_case(bare);
    host.eq_ignore_ascii_case("localhost")
        || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
        || name.is_some_and(own)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
