//! Tests of [`super`]: the registry of a name, the upstream request, and refusals.

use super::super::resolver::RegistryEntry;
use super::*;
use oci::glob::Pattern;

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

/// A registry that accepts pushes and two that do not.
fn table_with_push() -> RoutingTable {
    RoutingTable {
        resolver: Resolver {
            entries: vec![
                RegistryEntry {
                    default: true,
                    library: true,
                    ..RegistryEntry::named("docker.io")
                },
                RegistryEntry {
                    push: true,
                    owns: vec![Pattern::parse("team/**").expect("a pattern")],
                    ..RegistryEntry::named("hosted")
                },
                RegistryEntry {
                    cached: false,
                    ..RegistryEntry::named("backend")
                },
            ],
        },
        ..RoutingTable::default()
    }
}

fn pass_through(method: &Method, target: &str) -> Result<PassThrough, ErrorCode> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts = RequestParts {
        method,
        path,
        query,
        host: Some("x"),
        agent: "",
    };
    match route(&table_with_push(), &Listener::default(), parts) {
        Ok(Route::PassThrough(pass)) => Ok(*pass),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.code),
    }
}

#[test]
fn actions_of_writes() {
    use Action::{Delete, Push};

    let digest = format!("sha256:{}", "a".repeat(64));
    for (method, path, expected) in [
        (Method::POST, "blobs/uploads/", Ok(Push)),
        (Method::GET, "blobs/uploads/u", Ok(Push)),
        (Method::PATCH, "blobs/uploads/u", Ok(Push)),
        (Method::PUT, "blobs/uploads/u", Ok(Push)),
        (Method::DELETE, "blobs/uploads/u", Ok(Push)),
        (Method::PUT, "manifests/latest", Ok(Push)),
        (Method::DELETE, "manifests/latest", Ok(Delete)),
        (Method::DELETE, &format!("blobs/{digest}"), Ok(Delete)),
        (Method::PUT, "blobs/uploads/", Err(ErrorCode::Unsupported)),
        (Method::POST, "blobs/uploads/u", Err(ErrorCode::Unsupported)),
        (
            Method::POST,
            "manifests/latest",
            Err(ErrorCode::Unsupported),
        ),
        (Method::DELETE, "tags/list", Err(ErrorCode::Unsupported)),
        (Method::OPTIONS, "tags/list", Err(ErrorCode::Unsupported)),
    ] {
        let pass = pass_through(&method, &format!("/v2/team/app/{path}"));
        assert_eq!(pass.map(|pass| pass.action), expected, "{method} {path}");
    }
}

#[test]
fn upload_state_is_sent_unchanged() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let state = "_state=a%2bB-_~%3D%3D";
    let path = format!("/v2/hosted/team/app/blobs/uploads/u?{state}&ns=hosted&digest={digest}");
    let path = path.replace("/v2/hosted/", "/v2/");
    let pass = pass_through(&Method::PUT, &path).expect("a push");
    assert_eq!(pass.query, format!("{state}&digest={digest}"));
    assert_eq!(pass.digest.map(|digest| digest.to_string()), Some(digest));
    assert_eq!(
        pass_through(&Method::PUT, "/v2/team/app/blobs/uploads/u?digest=sha256:1"),
        Err(ErrorCode::DigestInvalid)
    );
    for repeated in ["digest=a&digest=b", "mount=a&mount=b", "from=a&from=b"] {
        let path = format!("/v2/team/app/blobs/uploads/?{repeated}");
        assert_eq!(
            pass_through(&Method::POST, &path),
            Err(ErrorCode::NameInvalid)
        );
    }
}

#[test]
fn mount_sources_are_of_the_same_registry() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let encoded = digest.replace(':', "%3A");
    for (query, upstream_query, from) in [
        (
            format!("mount={digest}&from=team/base"),
            "",
            Some("team/base"),
        ),
        (
            format!("from=hosted/team/base&mount={digest}&origin=X"),
            "",
            Some("team/base"),
        ),
        (format!("mount={digest}"), "", None),
        (format!("mount={digest}&from=library/alpine"), "", None),
        (
            format!("mount={digest}&from=docker.io/library/alpine"),
            "",
            None,
        ),
        (format!("mount={digest}&from=team/../x"), "", None),
        (
            format!("mount={digest}&from=team/base&origin=index.docker.io"),
            "",
            None,
        ),
        (
            format!("digest={digest}"),
            &*format!("digest={encoded}"),
            None,
        ),
        (
            format!("digest={digest}&from=team/base"),
            &*format!("digest={encoded}"),
            None,
        ),
        (
            "digest-algorithm=sha512".into(),
            "digest-algorithm=sha512",
            None,
        ),
        ("from=team/base".into(), "", None),
        (String::new(), "", None),
    ] {
        let pass = pass_through(
            &Method::POST,
            &format!("/v2/team/app/blobs/uploads/?{query}"),
        );
        let mut pass = pass.expect("a push");
        assert_eq!(pass.query, upstream_query, "{query}");
        let mount = pass.mount.take();
        assert_eq!(mount.is_some(), query.contains("mount="), "{query}");
        let source = mount.as_ref().and_then(|mount| match &mount.source {
            crate::pass_through::MountSource::Named { repository, .. } => Some(repository.as_str()),
            crate::pass_through::MountSource::Any => None,
        });
        assert_eq!(source, from, "{query}");
        // It is sent only after its source is authorised.
        assert_eq!(pass.from, None);
        if let Some(mount) = mount {
            pass.mount_from(mount.digest, "team/base".parse().expect("a name"));
            assert_eq!(pass.query, format!("mount={encoded}&from=team%2Fbase"));
        }
    }
    for (query, code) in [
        (
            format!("mount={digest}&digest={digest}"),
            ErrorCode::DigestInvalid,
        ),
        ("mount=".into(), ErrorCode::DigestInvalid),
        ("digest-algorithm=md5".into(), ErrorCode::DigestInvalid),
        (format!("Mount={digest}"), ErrorCode::NameInvalid),
        ("tag=x".into(), ErrorCode::NameInvalid),
        (
            format!("mount={digest};from=team/base"),
            ErrorCode::NameInvalid,
        ),
    ] {
        let pass = pass_through(
            &Method::POST,
            &format!("/v2/team/app/blobs/uploads/?{query}"),
        );
        assert_eq!(pass.err(), Some(code), "{query}");
    }
}

#[test]
fn upstream_queries_are_rendered_from_parsed_values() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for (method, path, upstream_query) in [
        (Method::PUT, "manifests/x?x=y".to_owned(), ""),
        (
            Method::PUT,
            format!("manifests/{digest}?tag=a&x=y&tag=b"),
            "tag=a&tag=b",
        ),
        (Method::DELETE, "manifests/x?tag=a&digest=b".into(), ""),
        (Method::DELETE, format!("blobs/{digest}?x=y"), ""),
    ] {
        let pass = pass_through(&method, &format!("/v2/team/app/{path}")).expect("a write");
        assert_eq!(pass.query, upstream_query, "{method} {path}");
    }
    let bad = format!("/v2/team/app/manifests/{digest}?tag=.a");
    assert_eq!(pass_through(&Method::PUT, &bad), Err(ErrorCode::TagInvalid));
    for (path, upstream_query) in [
        ("tags/list?last=a&n=05&x=y", "n=5&last=a"),
        ("manifests/x?n=1", ""),
        ("manifests/x?digest=a", ""),
    ] {
        let pass = pass_through(&Method::GET, &format!("/v2/backend/a/{path}")).expect("a read");
        assert_eq!(pass.query, upstream_query, "{path}");
    }
}

#[test]
fn uncached_registries_pass_through() {
    let pass = pass_through(&Method::GET, "/v2/backend/a/tags/list?n=5&ns=backend");
    assert_eq!(pass.err(), None);
    let pass = pass_through(&Method::GET, "/v2/backend/a/tags/list?n=5").expect("a read");
    assert_eq!((pass.action, pass.query.as_str()), (Action::Pull, "n=5"));
}

/// Docker 1.10 to 1.12 falls back to v1 only if it finds no v2.
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
