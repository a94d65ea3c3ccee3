//! Routes and authorises requests to the admin listeners. Pure.
//!
//! The API deletes content and asks for no password, so it refuses three kinds of requests. Other machines: only
//! clients on this machine are served. DNS rebinding (a hostile page whose name resolves to 127.0.0.1): `Host` must
//! be a name of the admin address. Cross-site requests (a page that sends a form to 127.0.0.1): requests that change
//! something must be `application/json`, which browsers send across sites only after a preflight with OPTIONS, and
//! that gets 405.

use std::io;
use std::net::IpAddr;

use super::error::AdminError;
use http::{HeaderMap, Method, StatusCode, Uri, header};
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

/// A resource or action of the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Page,
    Metrics,
    Live,
    Ready,
    Stats,
    Purge,
    Verify,
    Warm,
}

impl Route {
    fn of(path: &str, scope: Scope) -> Option<Self> {
        Some(match (path, scope) {
            ("/metrics", _) => Self::Metrics,
            ("/livez", _) => Self::Live,
            ("/readyz", _) => Self::Ready,
            (_, Scope::Metrics) => return None,
            ("/", _) => Self::Page,
            ("/api/stats", _) => Self::Stats,
            ("/api/purge", _) => Self::Purge,
            ("/api/verify", _) => Self::Verify,
            ("/api/warm", _) => Self::Warm,
            _ => return None,
        })
    }

    /// Whether it changes anything.
    const fn acts(self) -> bool {
        matches!(self, Self::Purge | Self::Verify | Self::Warm)
    }

    const fn allow(self) -> &'static str {
        if self.acts() { "POST" } else { "GET, HEAD" }
    }

    /// Whether it is restricted to clients on this machine.
    const fn is_private(self) -> bool {
        !matches!(self, Self::Metrics | Self::Live | Self::Ready)
    }
}

/// Routes a request. `name` is the host of `admin.address`, unless that is a socket file.
///
/// # Errors
/// Unknown routes and methods, other hosts and machines, other media types than JSON.
pub fn route(
    (method, uri, headers): (&Method, &Uri, &HeaderMap),
    (peer, scope): (Peer, Scope),
    name: Option<&str>,
) -> Result<Route, AdminError> {
    if scope == Scope::Everything && !is_addressed_to_admin(uri, headers, name) {
        return Err(AdminError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "the admin address answers to localhost and to its configured name only",
        ));
    }
    let unknown = || AdminError::new(StatusCode::NOT_FOUND, "there is nothing here");
    let route = Route::of(uri.path(), scope).ok_or_else(unknown)?;
    if route.is_private() && !peer.is_local() {
        return Err(AdminError::new(
            StatusCode::FORBIDDEN,
            "this is answered to the gateway's own machine only",
        ));
    }
    let is_allowed = if route.acts() {
        method == Method::POST
    } else {
        matches!(*method, Method::GET | Method::HEAD)
    };
    if !is_allowed {
        return Err(AdminError::method_not_allowed(route.allow()));
    }
    if route.acts() && !is_json(headers) {
        return Err(AdminError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be application/json",
        ));
    }
    Ok(route)
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
mod tests {
    use super::*;

    const HERE: Peer = Peer::Tcp {
        remote: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        local: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    };

    fn route_status(
        method: &str,
        path: &str,
        lines: &[(&str, &str)],
        from: (Peer, Scope),
    ) -> Result<Route, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: header::HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        let (method, uri) = (
            method.parse().expect("a method"),
            path.parse().expect("a target"),
        );
        let routed = route((&method, &uri, &headers), from, Some("admin.example"));
        routed.map_err(|error| error.status.as_u16())
    }

    #[test]
    fn hosts() {
        for (host, ours) in [
            ("localhost", true),
            ("LocalHost:5002", true),
            ("127.0.0.1", true),
            ("127.8.9.1:1", true),
            ("[::1]:5002", true),
            ("[::ffff:127.0.0.1]", true),
            ("admin.example:80", true),
            ("ADMIN.example", true),
            ("example.com", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1:5002", false),
            ("[::2]", false),
            ("", false),
            ("localhost:x", false),
        ] {
            let status = route_status(
                "GET",
                "/metrics",
                &[("host", host)],
                (HERE, Scope::Everything),
            );
            let expected = if ours { Ok(Route::Metrics) } else { Err(421) };
            assert_eq!(status, expected, "{host}");
        }
        let everything = (HERE, Scope::Everything);
        assert_eq!(route_status("GET", "/", &[], everything), Err(421));
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(route_status("GET", "/", &two, everything), Err(421));
        let absolute = route_status(
            "GET",
            "http://evil.example/",
            &[("host", "localhost")],
            everything,
        );
        assert_eq!(absolute, Err(421));
        // What may be public answers to any name.
        assert_eq!(
            route_status(
                "GET",
                "/metrics",
                &[("host", "a.b")],
                (HERE, Scope::Metrics)
            ),
            Ok(Route::Metrics)
        );
    }

    #[test]
    fn routes() {
        let json = ("content-type", "application/json; charset=utf-8");
        let form = ("content-type", "text/plain");
        let elsewhere = Peer::Tcp {
            remote: "10.0.0.2".parse().expect("an address"),
            local: "10.0.0.1".parse().expect("an address"),
        };
        let itself = Peer::Tcp {
            remote: "10.0.0.1".parse().expect("an address"),
            local: "10.0.0.1".parse().expect("an address"),
        };
        let (all, few) = (Scope::Everything, Scope::Metrics);
        for (method, path, line, peer, scope, expected) in [
            ("GET", "/", None, HERE, all, Ok(Route::Page)),
            ("HEAD", "/livez", None, HERE, all, Ok(Route::Live)),
            ("GET", "/readyz?x", None, HERE, all, Ok(Route::Ready)),
            ("GET", "/api/stats", None, Peer::Unix, all, Ok(Route::Stats)),
            ("GET", "/api/stats", None, itself, all, Ok(Route::Stats)),
            ("GET", "/api/stats", None, elsewhere, all, Err(403)),
            ("GET", "/", None, elsewhere, all, Err(403)),
            ("GET", "/metrics", None, elsewhere, all, Ok(Route::Metrics)),
            (
                "POST",
                "/api/purge",
                Some(json),
                HERE,
                all,
                Ok(Route::Purge),
            ),
            (
                "POST",
                "/api/verify",
                Some(json),
                HERE,
                all,
                Ok(Route::Verify),
            ),
            ("POST", "/api/warm", Some(json), HERE, all, Ok(Route::Warm)),
            ("POST", "/api/warm", Some(form), HERE, all, Err(415)),
            ("POST", "/api/warm", Some(json), elsewhere, all, Err(403)),
            ("GET", "/api/warm", Some(json), HERE, all, Err(405)),
            ("POST", "/api/purge", Some(form), HERE, all, Err(415)),
            ("POST", "/api/verify", None, HERE, all, Err(415)),
            ("POST", "/api/purge", Some(json), elsewhere, all, Err(403)),
            ("GET", "/api/purge", Some(json), HERE, all, Err(405)),
            ("OPTIONS", "/api/purge", None, HERE, all, Err(405)),
            ("POST", "/metrics", Some(json), HERE, all, Err(405)),
            ("GET", "/api", None, HERE, all, Err(404)),
            ("GET", "/v2/", None, HERE, all, Err(404)),
            ("GET", "/readyz", None, elsewhere, few, Ok(Route::Ready)),
            ("GET", "/livez", None, elsewhere, few, Ok(Route::Live)),
            ("GET", "/", None, HERE, few, Err(404)),
            ("GET", "/api/stats", None, HERE, few, Err(404)),
            ("POST", "/api/purge", Some(json), HERE, few, Err(404)),
        ] {
            let lines: Vec<_> = line.into_iter().chain([("host", "localhost")]).collect();
            assert_eq!(
                route_status(method, path, &lines, (peer, scope)),
                expected,
                "{method} {path} {line:?} {peer:?}"
            );
        }
    }
}
