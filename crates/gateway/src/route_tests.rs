//! Tests of [`super`]: the registry of a name, the upstream request, and refusals.

use oci::glob::Pattern;

use super::super::resolver::RegistryEntry;
use super::*;

fn table() -> RoutingTable {
    RoutingTable {
        resolver: Resolver {
            entries: vec![
                RegistryEntry {
                    aliases: vec!["index.docker.io".into(), "registry-1.docker.io".into()],
                    default: true,
                    library: true,
                    ..RegistryEntry::named("docker.io")
                },
                RegistryEntry::named("ghcr.io"),
                RegistryEntry::named("registry.local:5000"),
                RegistryEntry {
                    hosts: vec!["hosted.example.com".into()],
                    owns: vec![
                        Pattern::parse("team/**").expect("a pattern"),
                        Pattern::parse("intern-*").expect("a pattern"),
                    ],
                    ..RegistryEntry::named("hosted")
                },
                RegistryEntry::named("hosted/inner"),
            ],
        },
        ..RoutingTable::default()
    }
}

fn route_get(listener: &Listener, host: &str, target: &str) -> Result<Route, ErrorResponse> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts = RequestParts {
        method: &Method::GET,
        path,
        query,
        host: Some(host),
        agent: "",
    };
    route(&table(), listener, parts)
}

fn routed(listener: &Listener, host: &str, target: &str) -> Result<String, ErrorCode> {
    match route_get(listener, host, target) {
        Ok(Route::Pull(target)) => Ok(format!(
            "{} {}",
            target.name.registry, target.name.repository
        )),
        Ok(Route::Ping { .. }) => Ok("ping".into()),
        Ok(Route::Token) => Ok("token".into()),
        Ok(Route::Search(search)) => Ok(format!("{:?} {:?}", search.registries, search.hosted)),
        Ok(Route::Catalogue(listing)) => Ok(format!("{:?}", listing.registries)),
        Ok(Route::PassThrough(pass)) => Ok(format!("{:?} ?{}", pass.action, pass.query)),
        Ok(Route::V1(_)) => Ok("v1".into()),
        Ok(Route::Peer(digest)) => Ok(format!("peer {digest}")),
        Err(refusal) => Err(refusal.code),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn each_name_belongs_to_one_registry() {
    let any = Listener::default();
    let hub = Listener {
        registry: Some(Registry::new("docker.io")),
        read_only: true,
        ..Listener::default()
    };
    let hosted = Listener {
        registry: Some(Registry::new("hosted")),
        ..Listener::default()
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
        // an alias is a prefix too
        (
            &any,
            "x",
            "/v2/index.docker.io/library/alpine/manifests/latest",
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
        assert_eq!(routed(listener, host, target), expected, "{host} {target}");
    }
}

#[test]
fn unclaimed_name_without_a_default_is_unknown() {
    let table = RoutingTable {
        resolver: Resolver {
            entries: vec![
                RegistryEntry::named("ghcr.io"),
                RegistryEntry::named("quay.io"),
            ],
        },
        ..RoutingTable::default()
    };
    let parts = RequestParts {
        method: &Method::GET,
        path: "/v2/a/manifests/x",
        query: "",
        host: None,
        agent: "",
    };
    let refusal = route(&table, &Listener::default(), parts).expect_err("unclaimed");
    assert_eq!(refusal.code, ErrorCode::NameUnknown);
}

#[test]
fn invalid_requests_are_refused() {
    let listener = Listener::default();
    for (target, code) in [
        ("/", ErrorCode::NameUnknown),
        ("/v2/_catalog?ns=docker.io", ErrorCode::NameUnknown),
        ("/v2/_catalog?n=1001", ErrorCode::PaginationNumberInvalid),
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
        assert_eq!(routed(&listener, "x", target), Err(code), "{target}");
    }
    for method in [
        Method::PUT,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ] {
        let parts = RequestParts {
            method: &method,
            path: "/v2/a/manifests/x",
            query: "",
            host: None,
            agent: "",
        };
        let refusal = route(&table(), &listener, parts).expect_err("no push");
        assert_eq!(
            refusal.status,
            http::StatusCode::METHOD_NOT_ALLOWED,
            "{method}"
        );
        assert!(refusal.message.contains("owns"), "{}", refusal.message);
    }
}

#[test]
fn ns_is_not_sent_upstream() {
    let parts = "/v2/a/b/tags/list?n=5&ns=docker.io&last=x";
    let Ok(Route::Pull(target)) = route_get(&Listener::default(), "x", parts) else {
        panic!("it is a pull");
    };
    assert_eq!(target.query.render(), "?n=5&last=x");
    assert_eq!(target.namespace.as_deref(), Some("docker.io"));
}

/// Docker 1.10 to 1.12 falls back to v1 only if it finds no v2.
#[cfg(feature = "v1")]
#[test]
fn v2_is_hidden_on_a_v1_only_host() {
    let mut table = table();
    table.resolver.entries.push(RegistryEntry {
        hosts: vec!["old.example.com".into()],
        v1: true,
        v2: false,
        ..RegistryEntry::named("old")
    });
    let at = |listener: &Listener, host: &str, path: &str| {
        let parts = RequestParts {
            method: &Method::GET,
            path,
            query: "",
            host: Some(host),
            agent: "docker/1.12.6",
        };
        matches!(route(&table, listener, parts), Ok(Route::V1(_)))
    };
    let (all, old) = (
        Listener::default(),
        Listener {
            registry: Some(Registry::new("old")),
            ..Listener::default()
        },
    );
    for (path, is_v2) in [
        ("/v2/", true),
        ("/v2", true),
        ("/v2/_catalog", true),
        ("/v2/team/app/manifests/1", true),
        ("/v2/nothing", true),
        ("/token", false),
    ] {
        assert_eq!(at(&all, "old.example.com:443", path), is_v2, "{path}");
        assert_eq!(at(&old, "any.example.com", path), is_v2, "{path}");
        assert!(!at(&all, "any.example.com", path), "{path}");
        assert!(!at(&all, "hosted.example.com", path), "{path}");
    }
}
