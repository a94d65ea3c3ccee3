//! Requests to a mirrored registry and its index: accounts, tokens, and refusals.

use testkit::basic;
use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::v1::{Script, V1Registry};

use super::mirror::{ask, fetch, mirror, mirror_with, named, part};
use crate::v1::{Daemon, OLD};

/// Image lists and tokens come from the index, tags from the registry, or from the index if only that has them.
/// Requests carry the gateway's account or none, never the client's.
#[test]
fn index_and_registry_get_their_own_requests() {
    const THEIRS: &str = "signature=INDEX123,repository=\"team/app\",access=read";
    for (account, no_tags) in [(true, false), (false, false), (true, true)] {
        let index = V1Registry::with(Script {
            index: Some(THEIRS.into()),
            ..Script::default()
        });
        let registry = V1Registry::with(Script {
            tokens: Some(THEIRS.into()),
            no_tags,
            ..Script::default()
        });
        let layer = random(4, 5000);
        for server in [&registry, &index] {
            server.push_image("team/app", "1", &[&layer]);
        }
        let ours = basic("gateway", "s3cret");
        let (credentials, access) = if account {
            (
                ", credentials: {username: gateway, password: s3cret}",
                "access: {rules: [{users: [anonymous], repositories: [\"old/**\"], actions: [pull]}]}",
            )
        } else {
            ("", "")
        };
        let gateway = Gateway::start(&format!(
            "registries: [{{name: old, v1: \"{}\", v1_index: \"{}\"{credentials}}}]\n{access}",
            registry.url(),
            index.url()
        ));
        let mut daemon = Daemon::new(OLD[4], &gateway, Some(("client", "of-ours")));
        assert!(daemon.pull("team/app", "1") == Ok(vec![layer.clone()]));
        let list = ask(
            &gateway,
            "GET",
            &named("team/app", "images"),
            &[
                ("Host", "gate.example:5000"),
                ("Authorization", &basic("client", "of-ours")),
                ("Cookie", "session=theirs"),
                ("X-Docker-Token", "true"),
            ],
        );
        assert_eq!(list.header("x-docker-endpoints"), Some("gate.example:5000"));
        assert!(!format!("{list:?}").contains("INDEX123"), "{list:?}");
        let log = gateway.log();
        assert!(
            !log.contains("INDEX123") && !log.contains("s3cret"),
            "{log}"
        );

        let of_index: Vec<String> = index
            .requests()
            .iter()
            .map(|seen| seen.line.clone())
            .collect();
        let lists = |line: &String| line.ends_with("/images HTTP/1.1");
        assert!(of_index.iter().any(lists), "{of_index:?}");
        assert_eq!(
            of_index.iter().any(|line| line.contains("/tags")),
            no_tags,
            "{of_index:?}"
        );
        assert!(!of_index.iter().any(|line| line.contains("/v1/images/")));
        let of_registry = registry.requests();
        assert!(of_registry.iter().any(|seen| seen.line.contains("/tags ")));
        assert!(!of_registry.iter().any(|seen| lists(&seen.line)));
        for seen in index.requests() {
            let expected = account.then_some(&*ours);
            assert_eq!(seen.header("authorization"), expected, "{seen:?}");
        }
        for seen in of_registry {
            let expected = format!("Token {THEIRS}");
            assert_eq!(seen.header("authorization"), Some(&*expected), "{seen:?}");
            assert_eq!(seen.header("cookie"), None);
        }
    }
}

/// A token that the index revoked is fetched anew.
#[test]
fn refused_token_is_replaced() {
    let token = |number: u32| format!("signature=T{number},repository=\"team/app\",access=read");
    let index = V1Registry::with(Script {
        index: Some(token(1)),
        ..Script::default()
    });
    let registry = V1Registry::with(Script {
        tokens: Some(token(1)),
        ..Script::default()
    });
    for server in [&registry, &index] {
        server.push_image("team/app", "1", &[b"layer"]);
    }
    let more = format!(", tag_ttl: 0s, v1_index: \"{}\"", index.url());
    let gateway = mirror_with(&registry, &more);
    let tags = named("team/app", "tags");
    assert_eq!(fetch(&gateway, &tags).status(), 200);
    registry.script(|script| script.tokens = Some(token(2)));
    index.script(|script| script.index = Some(token(2)));
    assert_eq!(fetch(&gateway, &tags).status(), 200);
    // One that is always refused is a 401, and causes no loop.
    registry.script(|script| script.tokens = Some(token(3)));
    registry.clear_requests();
    assert_eq!(fetch(&gateway, &tags).status(), 401);
    assert_eq!(registry.requests().len(), 2);
}

/// With public visibility only anonymously readable content is served: the account is not used.
#[test]
fn public_registry_is_asked_without_the_account() {
    let registry = V1Registry::start();
    let ids = registry.push_image("team/app", "1", &[b"layer"]);
    let account = ", visibility: public, credentials: {username: gateway, password: s3cret}";
    let gateway = mirror_with(&registry, account);
    for path in [named("team/app", "images"), part(&ids[0], "layer")] {
        assert_eq!(fetch(&gateway, &path).status(), 200, "{path}");
    }
    let seen = registry.requests();
    let with = seen
        .iter()
        .filter(|seen| seen.header("authorization").is_some());
    assert_eq!((seen.len() > 1, with.count()), (true, 0), "{seen:?}");
}

/// The upstream's statuses are passed on.
#[test]
fn denial_is_not_404() {
    let registry = V1Registry::start();
    let ids = registry.push_image("team/app", "1", &[b"layer"]);
    let absent = "0".repeat(64);
    for (theirs, ours) in [(401, 401), (403, 403), (404, 404), (500, 503), (503, 503)] {
        // A registry that is paused after a failure gets no request.
        let gateway = mirror(&registry);
        registry.script(|script| script.broken = Some(theirs));
        for path in [
            named("team/app", "images"),
            named("team/app", "tags"),
            part(&ids[0], "json"),
            part(&ids[0], "ancestry"),
            part(&ids[0], "layer"),
            part(&absent, "layer"),
        ] {
            let reply = fetch(&gateway, &path);
            assert_eq!(reply.status(), ours, "{theirs} {path}: {reply:?}");
            assert!(reply.text().starts_with("{\"error\":"), "{reply:?}");
            assert_eq!(reply.header("set-cookie"), None);
        }
        registry.script(|script| script.broken = None);
    }
}
