//! Routing: one pure function from a request to a [`Route`].
//!
//! A name belongs to exactly one registry, decided without asking anyone: the listener's registry, else
//! `?ns=`, else the Host, else the longest registry name that is a path prefix, else the registry whose
//! `owns` matches, else the default one.

use std::borrow::Cow;

use http::{Method, StatusCode};

use crate::spec::error::ErrorCode;
use crate::spec::glob::Pattern;
use crate::spec::name::{Registry, Repository};
use crate::spec::v2::{self, Endpoint, Path, PathError, Query, QueryError, Resource};

/// What routing knows of one registry.
#[derive(Clone, Debug)]
pub struct Entry {
    pub registry: Registry,
    /// Other names under which `?ns=` may ask for it.
    pub aliases: Vec<String>,
    /// Chosen by Host.
    pub hosts: Vec<String>,
    pub owns: Vec<Pattern>,
    pub default: bool,
    /// One-component names stand for `library/<name>`: the Hub.
    pub library: bool,
}

/// All registries.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub entries: Vec<Entry>,
}

/// What routing knows of the listener a request came in on.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    pub read_only: bool,
    /// Everything on this listener is this registry's.
    pub registry: Option<Registry>,
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
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: answered by ourselves.
    Ping { namespace: Option<String> },
    /// A cached read.
    Pull(Target),
}

/// A resource of a repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub registry: Registry,
    /// With the canonical name.
    pub endpoint: Endpoint,
    /// The name as the client typed it, registry prefix and all.
    pub typed: String,
    /// Without `ns`.
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
    fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
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
    let segments = v2::segments(asked.path).map_err(refused_path)?;
    match segments.first().map(String::as_str) {
        Some("v2") => {}
        Some("v1" | "_ping") => {
            return Err(Refusal::new(
                ErrorCode::NameUnknown,
                "the v1 API is not served here",
            ));
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
            check_namespace(table, listener, namespace.as_deref())?;
            return Ok(Route::Ping { namespace });
        }
        Path::Base => return Err(unsupported("only GET and HEAD are answered at /v2/")),
        Path::Catalog => {
            return Err(Refusal::new(
                ErrorCode::NameUnknown,
                "there is no catalogue here",
            ));
        }
        Path::Named { name, resource } => (name, resource),
    };
    let (entry, rest) = choose(table, listener, namespace.as_deref(), asked.host, &name)?;
    let repository = canonical(entry, rest)?;
    let is_upload = matches!(resource, Resource::Uploads | Resource::Upload(_));
    if !reads || is_upload {
        return Err(unsupported(format!(
            "{}/{repository} takes no pushes: its registry has no `push: true`; names of a registry that \
             has are claimed with its `owns`, `hosts` or prefix",
            entry.registry
        )));
    }
    check_page(&resource, &query)?;
    Ok(Route::Pull(Target {
        registry: entry.registry.clone(),
        endpoint: Endpoint {
            repository,
            resource,
        },
        query: query.without("ns"),
        typed: name,
        namespace,
    }))
}

/// The registry that a name belongs to, and the name without its registry prefix.
fn choose<'t, 'n>(
    table: &'t Table,
    listener: &Listener,
    namespace: Option<&str>,
    host: Option<&str>,
    name: &'n str,
) -> Result<(&'t Entry, &'n str), Refusal> {
    if let Some(entry) = check_namespace(table, listener, namespace)? {
        return Ok((entry, name));
    }
    if let Some(entry) = host.and_then(|host| table.by_host(host)) {
        return Ok((entry, name));
    }
    if let Some(found) = table.by_prefix(name) {
        return Ok(found);
    }
    let owner = table
        .entries
        .iter()
        .find(|entry| entry.owns.iter().any(|pattern| pattern.matches(name)));
    let entry = owner.or_else(|| table.entries.iter().find(|entry| entry.default));
    entry.map(|entry| (entry, name)).ok_or_else(|| {
        let message = "no registry claims this name: write the registry's name before it";
        Refusal::new(ErrorCode::NameUnknown, message)
    })
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
            name.strip_prefix(entry.registry.as_str())?
                .strip_prefix('/')
        };
        let found = self
            .entries
            .iter()
            .filter_map(|entry| Some((entry, rest(entry)?)));
        found.max_by_key(|(entry, _)| entry.registry.as_str().len())
    }
}

/// The canonical name within a registry.
fn canonical(entry: &Entry, name: &str) -> Result<Repository, Refusal> {
    let parsed = if entry.library && !name.is_empty() && !name.contains('/') {
        format!("library/{name}").parse()
    } else {
        name.parse()
    };
    parsed.map_err(|error: crate::spec::name::NameError| {
        Refusal::new(ErrorCode::NameInvalid, error.to_string())
    })
}

/// `n` of a list must be a number (distribution-spec 1.1, "Listing Tags").
fn check_page(resource: &Resource, query: &Query) -> Result<(), Refusal> {
    let is_list = matches!(resource, Resource::Tags | Resource::Referrers(_));
    if is_list && query.value("n").is_some_and(|n| n.parse::<u32>().is_err()) {
        let message = "n is the number of results wanted, a whole number";
        return Err(Refusal::new(ErrorCode::PaginationNumberInvalid, message));
    }
    Ok(())
}

fn unsupported(message: impl Into<Cow<'static, str>>) -> Refusal {
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

fn refused_query(error: &QueryError) -> Refusal {
    Refusal::new(ErrorCode::NameInvalid, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            registry: Registry::new(name),
            aliases: Vec::new(),
            hosts: Vec::new(),
            owns: Vec::new(),
            default: false,
            library: false,
        }
    }

    fn table() -> Table {
        Table {
            entries: vec![
                Entry {
                    aliases: vec!["index.docker.io".into(), "registry-1.docker.io".into()],
                    default: true,
                    library: true,
                    ..entry("docker.io")
                },
                entry("ghcr.io"),
                entry("registry.local:5000"),
                Entry {
                    hosts: vec!["hosted.example.com".into()],
                    owns: vec![
                        Pattern::parse("team/**").expect("a pattern"),
                        Pattern::parse("intern-*").expect("a pattern"),
                    ],
                    ..entry("hosted")
                },
                entry("hosted/inner"),
            ],
        }
    }

    fn ask(listener: &Listener, host: &str, target: &str) -> Result<Route, Refusal> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let asked = Asked {
            method: &Method::GET,
            path,
            query,
            host: Some(host),
        };
        route(&table(), listener, asked)
    }

    fn chosen(listener: &Listener, host: &str, target: &str) -> Result<String, ErrorCode> {
        match ask(listener, host, target) {
            Ok(Route::Pull(target)) => Ok(format!(
                "{} {}",
                target.registry, target.endpoint.repository
            )),
            Ok(Route::Ping { .. }) => Ok("ping".into()),
            Err(refusal) => Err(refusal.code),
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn a_name_belongs_to_exactly_one_registry() {
        let any = Listener::default();
        let hub = Listener {
            registry: Some(Registry::new("docker.io")),
            read_only: true,
        };
        let hosted = Listener {
            registry: Some(Registry::new("hosted")),
            read_only: false,
        };
        let unknown = Err(ErrorCode::NameUnknown);
        let ok = |text: &str| Ok(text.to_owned());
        for (listener, host, target, expected) in [
            // the listener's registry: Host and prefix are ignored
            (
                &hub,
                "x",
                "/v2/library/alpine/manifests/latest",
                ok("docker.io library/alpine"),
            ),
            (
                &hub,
                "hosted.example.com",
                "/v2/alpine/manifests/latest",
                ok("docker.io library/alpine"),
            ),
            (
                &hub,
                "x",
                "/v2/ghcr.io/a/manifests/latest",
                ok("docker.io ghcr.io/a"),
            ),
            (
                &hosted,
                "x",
                "/v2/alpine/manifests/latest",
                ok("hosted alpine"),
            ),
            (
                &hub,
                "x",
                "/v2/a/b/manifests/latest?ns=docker.io",
                ok("docker.io a/b"),
            ),
            (
                &hub,
                "x",
                "/v2/a/b/manifests/latest?ns=index.docker.io",
                ok("docker.io a/b"),
            ),
            (
                &hub,
                "x",
                "/v2/a/b/manifests/latest?ns=ghcr.io",
                unknown.clone(),
            ),
            // ns
            (
                &any,
                "x",
                "/v2/a/b/manifests/latest?ns=ghcr.io",
                ok("ghcr.io a/b"),
            ),
            (
                &any,
                "x",
                "/v2/alpine/manifests/latest?ns=registry-1.docker.io",
                ok("docker.io library/alpine"),
            ),
            (
                &any,
                "x",
                "/v2/a/manifests/latest?ns=registry.local%3A5000",
                ok("registry.local:5000 a"),
            ),
            (
                &any,
                "x",
                "/v2/a/manifests/latest?ns=evil.example",
                unknown.clone(),
            ),
            (&any, "x", "/v2/?ns=evil.example", unknown.clone()),
            (&any, "x", "/v2/?ns=ghcr.io", ok("ping")),
            (
                &any,
                "hosted.example.com",
                "/v2/a/manifests/latest?ns=ghcr.io",
                ok("ghcr.io a"),
            ),
            // Host
            (
                &any,
                "hosted.example.com",
                "/v2/alpine/manifests/latest",
                ok("hosted alpine"),
            ),
            (
                &any,
                "HOSTED.example.com:5000",
                "/v2/alpine/manifests/latest",
                ok("hosted alpine"),
            ),
            (
                &any,
                "other.example.com",
                "/v2/alpine/manifests/latest",
                ok("docker.io library/alpine"),
            ),
            // prefix, the longest
            (
                &any,
                "x",
                "/v2/ghcr.io/a/b/manifests/latest",
                ok("ghcr.io a/b"),
            ),
            (
                &any,
                "x",
                "/v2/docker.io/alpine/manifests/latest",
                ok("docker.io library/alpine"),
            ),
            (
                &any,
                "x",
                "/v2/registry.local:5000/a/manifests/latest",
                ok("registry.local:5000 a"),
            ),
            (
                &any,
                "x",
                "/v2/hosted/inner/a/manifests/latest",
                ok("hosted/inner a"),
            ),
            (
                &any,
                "x",
                "/v2/hosted/innermost/manifests/latest",
                ok("hosted innermost"),
            ),
            (
                &any,
                "x",
                "/v2/ghcr.io/manifests/latest",
                ok("docker.io library/ghcr.io"),
            ),
            // owns
            (
                &any,
                "x",
                "/v2/team/app/manifests/latest",
                ok("hosted team/app"),
            ),
            (
                &any,
                "x",
                "/v2/intern-7/manifests/latest",
                ok("hosted intern-7"),
            ),
            // default
            (
                &any,
                "x",
                "/v2/alpine/manifests/latest",
                ok("docker.io library/alpine"),
            ),
            (
                &any,
                "x",
                "/v2/a/manifests/manifests/latest",
                ok("docker.io a/manifests"),
            ),
        ] {
            assert_eq!(chosen(listener, host, target), expected, "{host} {target}");
        }
    }

    #[test]
    fn without_a_default_an_unclaimed_name_is_unknown() {
        let table = Table {
            entries: vec![entry("ghcr.io"), entry("quay.io")],
        };
        let asked = Asked {
            method: &Method::GET,
            path: "/v2/a/manifests/x",
            query: "",
            host: None,
        };
        let refusal = route(&table, &Listener::default(), asked).expect_err("unclaimed");
        assert_eq!(refusal.code, ErrorCode::NameUnknown);
    }

    #[test]
    fn what_is_refused() {
        let listener = Listener::default();
        for (target, code) in [
            ("/", ErrorCode::NameUnknown),
            ("/v1/repositories/a/tags", ErrorCode::NameUnknown),
            ("/_ping", ErrorCode::NameUnknown),
            ("/v2/_catalog", ErrorCode::NameUnknown),
            ("/v2/a/../b/manifests/x", ErrorCode::NameInvalid),
            ("/v2/A/manifests/x", ErrorCode::NameInvalid),
            ("/v2/manifests/x", ErrorCode::NameInvalid),
            ("/v2/a/manifests/x?n=1&n=2", ErrorCode::NameInvalid),
            (
                "/v2/a/manifests/x?ns=docker.io&ns=docker.io",
                ErrorCode::NameInvalid,
            ),
            ("/v2/a/manifests/.x", ErrorCode::TagInvalid),
            ("/v2/a/blobs/sha256:1", ErrorCode::DigestInvalid),
            ("/v2/a/tags/list?n=-1", ErrorCode::PaginationNumberInvalid),
            ("/v2/a/blobs/uploads/", ErrorCode::Unsupported),
        ] {
            assert_eq!(chosen(&listener, "x", target), Err(code), "{target}");
        }
        for method in [
            Method::PUT,
            Method::POST,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ] {
            let asked = Asked {
                method: &method,
                path: "/v2/a/manifests/x",
                query: "",
                host: None,
            };
            let refusal = route(&table(), &listener, asked).expect_err("no push");
            assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
            assert!(refusal.message.contains("owns"), "{}", refusal.message);
        }
    }

    #[test]
    fn ns_does_not_go_upstream_and_is_echoed() {
        let asked = "/v2/a/b/tags/list?n=5&ns=docker.io&last=x";
        let Ok(Route::Pull(target)) = ask(&Listener::default(), "x", asked) else {
            panic!("it is a pull");
        };
        assert_eq!(target.query.render(), "?n=5&last=x");
        assert_eq!(target.namespace.as_deref(), Some("docker.io"));
    }
}
