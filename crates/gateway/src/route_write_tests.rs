//! Tests of [`super`]: writes and other requests that pass through.

use oci::glob::Pattern;

use super::super::resolver::RegistryEntry;
use super::*;

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
