//! Routing of the v1 API: one pure function from a request to a [`V1Route`]. Names are resolved as in v2.

use http::{Method, StatusCode};

use super::super::error_response::ErrorResponse;
use super::super::resolver::{NameContext, RegistryEntry, ResolveError, Resolver};
use super::super::table::{Listener, RequestParts, RoutingTable};
use access::Action;
use oci::error::ErrorCode;
use oci::name::{Registry, RepositoryName};
use oci::v1::{self, ImageId, Part, Path, Resource};
use oci::v2;

/// The operation that a v1 request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum V1Route {
    Ping,
    /// A login.
    Users,
    Named(RepositoryRequest),
    Image(ImageRequest),
    Refused(ErrorResponse),
}

/// A request about a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryRequest {
    pub name: RepositoryName,
    pub resource: Resource,
    pub action: Action,
    /// The name as the client wrote it, without `library/`, as tokens have it.
    pub client_name: String,
}

/// A request for a part of an image, whose repository only a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    pub id: ImageId,
    pub part: Part,
    pub action: Action,
    /// The registry of the image if there is no token.
    pub registry: Option<Registry>,
}

/// Whether a path, still encoded, is one of the v1 API.
fn is_v1(path: &str) -> bool {
    let path = path.trim_start_matches('/');
    let after = path
        .strip_prefix("v1")
        .or_else(|| path.strip_prefix("_ping"));
    after.is_some_and(|after| after.is_empty() || after.starts_with('/'))
}

/// Routes a request of the v1 API; `None` for other paths.
pub fn route(
    table: &RoutingTable,
    listener: &Listener,
    parts: &RequestParts<'_>,
) -> Option<V1Route> {
    is_v1(parts.path).then(|| routed(table, listener, parts).unwrap_or_else(V1Route::Refused))
}

/// The 404 at `/v2/` after which a client continues with v1; `None` for clients and registries of v2.
pub fn instead_of_v2(
    table: &RoutingTable,
    listener: &Listener,
    parts: &RequestParts<'_>,
) -> Option<V1Route> {
    let message = if table.old_clients.include(parts.agent) {
        "this client speaks the v1 API"
    } else if is_v1_alone(&table.resolver, listener.name_context(None, parts.host)) {
        // Docker 1.6 to 1.12 continues with v1 only after a 404 at v2.
        "this registry speaks the v1 API alone"
    } else {
        return None;
    };
    let refusal = ErrorResponse::new(ErrorCode::NameUnknown, message);
    Some(V1Route::Refused(refusal))
}

/// Whether only one registry is served, and it has no v2.
fn is_v1_alone(resolver: &Resolver, name_context: NameContext<'_>) -> bool {
    if resolver.entries.iter().all(|entry| entry.v2) {
        return false;
    }
    let fixed = resolver.fixed(name_context);
    fixed.is_ok_and(|fixed| fixed.is_some_and(|entry| !entry.v2))
}

fn routed(
    table: &RoutingTable,
    listener: &Listener,
    parts: &RequestParts<'_>,
) -> Result<V1Route, ErrorResponse> {
    let path = v1::parse(parts.path).map_err(|error| {
        let status = match error {
            v2::PathError::Encoding | v2::PathError::Tag(_) => StatusCode::BAD_REQUEST,
            v2::PathError::Unknown | v2::PathError::Digest(_) => StatusCode::NOT_FOUND,
        };
        ErrorResponse::with_status(status, ErrorCode::NameUnknown, error.to_string())
    })?;
    let reads = matches!(*parts.method, Method::GET | Method::HEAD);
    let (resolver, name_context) = (&table.resolver, listener.name_context(None, parts.host));
    match path {
        Path::Ping | Path::Users => {
            nameless(resolver, name_context)?.ok_or_else(not_served)?;
            match path {
                Path::Ping if reads => Ok(V1Route::Ping),
                Path::Users if reads => Ok(V1Route::Users),
                Path::Users if *parts.method == Method::POST && !listener.read_only => {
                    Ok(V1Route::Users)
                }
                _ => Err(ErrorResponse::unsupported("method not allowed")),
            }
        }
        // Routed before: a search finds v2 repositories as well.
        Path::Search => Err(ErrorResponse::unsupported("method not allowed")),
        Path::Image { id, part } => {
            let entry = nameless(resolver, name_context)?.ok_or_else(not_served)?;
            let action = action_on_image(parts.method, part)?;
            if action != Action::Pull && (listener.read_only || !entry.v1) {
                return Err(no_pushes(&entry.registry));
            }
            Ok(V1Route::Image(ImageRequest {
                id,
                part,
                action,
                registry: Some(entry.registry.clone()),
            }))
        }
        Path::Named { name, resource } => {
            let (entry, named) = resolve(resolver, name_context, &name)?;
            let action = action_on_repository(parts.method, &resource)?;
            if action != Action::Pull && (listener.read_only || !entry.push || !entry.v1) {
                return Err(no_pushes(&entry.registry));
            }
            Ok(V1Route::Named(RepositoryRequest {
                name: named,
                resource,
                action,
                client_name: v1::plain(&name).to_owned(),
            }))
        }
    }
}

/// The registry and repository of a name.
///
/// # Errors
/// 404: no registry has the name, or its registry serves no v1.
pub fn resolve<'r>(
    resolver: &'r Resolver,
    name_context: NameContext<'_>,
    name: &str,
) -> Result<(&'r RegistryEntry, RepositoryName), ErrorResponse> {
    let (entry, rest) = resolver.owner(name_context, v1::plain(name))?;
    if !serves_v1(entry) {
        return Err(not_served());
    }
    let name = entry.repository(v1::plain(rest));
    Ok((entry, name.map_err(ResolveError::from)?))
}

/// The registry of a request without a repository: that of the listener or the Host; else the default one, or else
/// any, that serves v1.
fn nameless<'r>(
    resolver: &'r Resolver,
    name_context: NameContext<'_>,
) -> Result<Option<&'r RegistryEntry>, ErrorResponse> {
    if let Some(entry) = resolver.fixed(name_context)? {
        return Ok(Some(entry).filter(|entry| serves_v1(entry)));
    }
    let v1 = || resolver.entries.iter().filter(|entry| entry.v1);
    let bridged = || resolver.entries.iter().filter(|entry| serves_v1(entry));
    let own = v1().find(|entry| entry.default).or_else(|| v1().next());
    let bridged = || {
        let default = bridged().find(|entry| entry.default);
        default.or_else(|| bridged().next())
    };
    Ok(own.or_else(bridged))
}

/// Whether a registry is served to v1 clients: it has a v1 API, or its v2 images are converted, which needs that they
/// are cached and that the gateway authorises their readers.
pub fn serves_v1(entry: &RegistryEntry) -> bool {
    entry.v1 || entry.bridge && entry.cached && !entry.delegates_auth
}

fn action_on_repository(method: &Method, resource: &Resource) -> Result<Action, ErrorResponse> {
    use Resource::{Auth, Images, Properties, Repository, Tag, Tags};

    match (method, resource) {
        (&Method::GET | &Method::HEAD, Repository | Auth) => {
            Err(ErrorResponse::unsupported("method not allowed"))
        }
        (&Method::GET | &Method::HEAD, _) => Ok(Action::Pull),
        (&Method::PUT, Repository | Images | Auth | Properties | Tag(_)) => Ok(Action::Push),
        (&Method::DELETE, Repository | Images | Tags | Tag(_)) => Ok(Action::Delete),
        _ => Err(ErrorResponse::unsupported("method not allowed")),
    }
}

fn action_on_image(method: &Method, part: Part) -> Result<Action, ErrorResponse> {
    match (method, part) {
        (&Method::GET | &Method::HEAD, Part::Checksum) => {
            Err(ErrorResponse::unsupported("method not allowed"))
        }
        (&Method::GET | &Method::HEAD, _) => Ok(Action::Pull),
        (&Method::PUT, Part::Json | Part::Layer | Part::Checksum) => Ok(Action::Push),
        _ => Err(ErrorResponse::unsupported("method not allowed")),
    }
}

fn not_served() -> ErrorResponse {
    let message = "the v1 API is not served; `bridge: true` at a registry serves its images";
    ErrorResponse::new(ErrorCode::NameUnknown, message)
}

/// The response to a push that no registry accepts.
pub fn no_pushes(registry: &Registry) -> ErrorResponse {
    ErrorResponse::unsupported(format!(
        "{registry} accepts no pushes: it has no `push: true`, or this listener is read-only"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::glob::Pattern;

    fn table() -> RoutingTable {
        RoutingTable {
            resolver: Resolver {
                entries: vec![
                    RegistryEntry {
                        default: true,
                        library: true,
                        ..RegistryEntry::named("docker.io")
                    },
                    RegistryEntry {
                        hosts: vec!["hosted.example.com".into()],
                        owns: vec![Pattern::parse("team/**").expect("a pattern")],
                        push: true,
                        v1: true,
                        ..RegistryEntry::named("hosted")
                    },
                    RegistryEntry {
                        hosts: vec!["v2.example.com".into()],
                        ..RegistryEntry::named("modern")
                    },
                ],
            },
            ..RoutingTable::default()
        }
    }

    fn ask(method: &Method, path: &str, host: &str, listener: &Listener) -> V1Route {
        let parts = RequestParts {
            method,
            path,
            query: "",
            host: Some(host),
            agent: "",
        };
        route(&table(), listener, &parts).expect("a path of the v1 API")
    }

    fn status(route: &V1Route) -> u16 {
        match route {
            V1Route::Refused(refusal) => refusal.status.as_u16(),
            _ => 200,
        }
    }

    #[test]
    fn hosts_and_names_choose_the_registry() {
        let listener = Listener::default();
        let id = "0".repeat(64);
        let layer = format!("/v1/images/{id}/layer");
        for (path, host, expected) in [
            // a host that speaks v1, one that does not, and one that fixes nothing
            ("/_ping", "hosted.example.com", 200),
            ("/v1/_ping", "hosted.example.com:5000", 200),
            ("/_ping", "v2.example.com", 404),
            ("/_ping", "localhost", 200),
            ("/v1/users/", "hosted.example.com", 200),
            ("/v1/users/", "v2.example.com", 404),
            (&layer, "hosted.example.com", 200),
            (&layer, "v2.example.com", 404),
            ("/v1/repositories/team/app/images", "localhost", 200),
            ("/v1/repositories/hosted/app/images", "localhost", 200),
            ("/v1/repositories/alpine/images", "localhost", 404),
            ("/v1/repositories/alpine/images", "hosted.example.com", 200),
            ("/v1/repositories/UPPER/images", "hosted.example.com", 400),
            ("/v1/repositories/team/app/images", "v2.example.com", 404),
            ("/v1/nothing", "hosted.example.com", 404),
            ("/v1", "hosted.example.com", 404),
            ("/v1/%2e%2e/x", "hosted.example.com", 400),
        ] {
            let routed = ask(&Method::GET, path, host, &listener);
            assert_eq!(status(&routed), expected, "{path} at {host}: {routed:?}");
        }
        let fixed = Listener {
            registry: Some(Registry::new("docker.io")),
            ..Listener::default()
        };
        let routed = ask(&Method::GET, "/_ping", "hosted.example.com", &fixed);
        assert_eq!(status(&routed), 404);
    }

    #[test]
    fn library_is_no_part_of_a_name() {
        let listener = Listener::default();
        for (path, host) in [
            ("/v1/repositories/app/tags", "hosted.example.com"),
            ("/v1/repositories/library/app/tags", "hosted.example.com"),
        ] {
            let V1Route::Named(named) = ask(&Method::GET, path, host, &listener) else {
                panic!("{path}");
            };
            assert_eq!(
                (named.name.repository.as_str(), &*named.client_name),
                ("app", "app")
            );
            assert_eq!(
                (named.name.registry.as_str(), named.action),
                ("hosted", Action::Pull)
            );
        }
    }

    #[test]
    fn methods() {
        let id = "0".repeat(64);
        let image = |part: &str| format!("/v1/images/{id}/{part}");
        let (get, put, delete, post) = (Method::GET, Method::PUT, Method::DELETE, Method::POST);
        let reads = Listener {
            read_only: true,
            ..Listener::default()
        };
        for (method, path, expected, read_only) in [
            (&put, "/v1/repositories/team/app/".to_owned(), 200, 405),
            (&get, "/v1/repositories/team/app/".into(), 405, 405),
            (&put, "/v1/repositories/team/app/images".into(), 200, 405),
            (&put, "/v1/repositories/team/app/tags/1".into(), 200, 405),
            (&delete, "/v1/repositories/team/app/tags/1".into(), 200, 405),
            (&delete, "/v1/repositories/team/app/".into(), 200, 405),
            (&put, "/v1/repositories/team/app/tags".into(), 405, 405),
            (&post, "/v1/repositories/team/app/images".into(), 405, 405),
            (
                &Method::PATCH,
                "/v1/repositories/team/app/".into(),
                405,
                405,
            ),
            (&put, image("layer"), 200, 405),
            (&put, image("checksum"), 200, 405),
            (&put, image("ancestry"), 405, 405),
            (&get, image("checksum"), 405, 405),
            (&delete, image("json"), 405, 405),
            (&get, image("layer"), 200, 200),
            (&post, "/v1/users/".into(), 200, 405),
            (&put, "/v1/users/me/".into(), 405, 405),
            (&post, "/v1/_ping".into(), 405, 405),
            (&post, "/v1/search".into(), 405, 405),
        ] {
            for (listener, expected) in [(&Listener::default(), expected), (&reads, read_only)] {
                let routed = ask(method, &path, "hosted.example.com", listener);
                assert_eq!(status(&routed), expected, "{method} {path} {routed:?}");
            }
        }
        // No `push: true`.
        let mut table = table();
        table.resolver.entries[1].push = false;
        let parts = RequestParts {
            method: &put,
            path: "/v1/repositories/team/app/",
            query: "",
            host: None,
            agent: "",
        };
        let route = route(&table, &Listener::default(), &parts).expect("a path of the v1 API");
        assert_eq!(status(&route), 405);
    }
}
