//! Tests of the model's parts: twins, routes, tokens, scripts, shrinking.

use super::generate;
use super::oracle_tests::reply;
use super::request::{Caller, Scopes};
use super::route::{Route, place};
use super::rules::{Place, covers};
use super::script::Script;
use super::shrink::shrink;
use super::twin::differences;
use super::world::Listener;

#[test]
fn twins_may_differ_in_echoed_values_only() {
    let pairs = [("decoy".to_owned(), "truth".to_owned())];
    let refused =
        |detail: &str, body: &str| reply(404, &[("Cache-Status", detail), ("Date", body)], body);
    for (one, other, alike) in [
        (refused("a", "no truth"), refused("a", "no decoy"), true),
        (refused("a", "no truth"), refused("a", "none at all"), false),
        (refused("a; ttl=9", "x"), refused("a; ttl=8", "x"), true),
        (refused("hit", "x"), refused("miss", "x"), false),
        (reply(201, &[], ""), reply(202, &[], ""), false),
        (reply(404, &[], ""), reply(404, &[("Link", "x")], ""), false),
        // One of them was sent while the registry was unavailable.
        (reply(404, &[], ""), reply(503, &[], ""), true),
    ] {
        let found = differences(&one, &other, &pairs);
        assert_eq!(found.is_none(), alike, "{one:?} {other:?}: {found:?}");
    }
}

#[test]
fn requests_are_routed_by_precedence() {
    let named = |registry: &str, name: &str| Some(Place::new(registry, name));
    for (listener, host, namespace, typed, expected) in [
        (Listener::Plain, None, None, "a/b", named("hosted", "a/b")),
        (
            Listener::Plain,
            None,
            None,
            "vault/a/b",
            named("vault", "a/b"),
        ),
        (
            Listener::Plain,
            Some("vault.test:5000"),
            None,
            "a/b",
            named("vault", "a/b"),
        ),
        (
            Listener::Plain,
            Some("vault.test"),
            Some("hosted"),
            "a/b",
            named("hosted", "a/b"),
        ),
        (
            Listener::Plain,
            Some("vault.test"),
            None,
            "hosted/a",
            named("vault", "hosted/a"),
        ),
        (
            Listener::Plain,
            Some("shelf.test"),
            None,
            "a/b",
            named("hosted", "a/b"),
        ),
        (Listener::Plain, None, Some("elsewhere"), "a/b", None),
        (
            Listener::Vault,
            Some("hosted.test"),
            None,
            "a/b",
            named("vault", "a/b"),
        ),
        (Listener::Vault, None, Some("hosted"), "a/b", None),
    ] {
        assert_eq!(
            place(listener, host, namespace, typed),
            expected,
            "{typed} {namespace:?} {host:?}"
        );
    }
    for unclear in [
        "/v2/a/../b/blobs/x",
        "/v2/a/b/blobs/x?ns=hosted&ns=vault",
        "/v2/a%2Fb/blobs/x",
        "/v3/a",
    ] {
        assert_eq!(
            Route::read(Listener::Plain, None, unclear),
            Route::Unclear,
            "{unclear}"
        );
    }
    for (pattern, name, expected) in [
        ("hosted/mine/**", "hosted/mine", true),
        ("hosted/mine/**", "hosted/mine/a/b", true),
        ("**/mine/*", "vault/mine/a", true),
        ("**/mine/*", "vault/mine/a/b", false),
        ("hosted/*/a", "hosted/mine/a", true),
        ("hosted/mine", "hosted/mine/a", false),
    ] {
        assert_eq!(covers(pattern, name), expected, "{pattern} {name}");
    }
}

#[test]
fn tokens_cover_their_scopes_only() {
    use super::rules::Action::{Delete, Pull, Push};
    let scopes = Scopes::parse("repository:a/b:pull,push repository:c:* registry:catalog:*");
    let caller = Caller {
        user: None,
        scopes: Some(scopes),
    };
    for (action, name, expected) in [
        (Pull, "a/b", true),
        (Push, "a/b", true),
        (Delete, "a/b", false),
        (Delete, "c", true),
        (Pull, "hosted/a/b", false),
    ] {
        assert_eq!(
            caller.token_covers(action, name),
            expected,
            "{action:?} {name}"
        );
    }
    assert!(caller.may_list() && caller.only_name().is_none());
    let one = Caller {
        user: None,
        scopes: Some(Scopes::parse("repository:a:pull,push")),
    };
    assert_eq!((one.only_name(), one.may_list()), (Some("a"), false));
}

#[test]
fn scripts_round_trip() {
    for seed in 0..200 {
        let script = generate::script(seed);
        assert_eq!(
            Script::parse(&script.to_string()),
            Ok(script),
            "seed {seed}"
        );
    }
    for bad in [
        "rule alice",
        "content s1 stone",
        "alice GET /",
        "alice@nowhere GET /",
        "x@plain GET / | odd",
    ] {
        let misread = Script::parse(&format!("\n# fine\n{bad}\n"));
        assert_eq!(misread.map_err(|misread| misread.line), Err(3), "{bad}");
    }
}

/// A failure that takes two steps, one rule and one content shrinks to these.
#[test]
fn shrinking_keeps_only_what_is_needed() {
    let fails = |script: &Script| {
        let says = |word: &str| {
            script
                .steps
                .iter()
                .any(|step| step.to_string().contains(word))
        };
        let holds = script
            .holdings
            .iter()
            .any(|it| it.contents.contains(&"s4".to_owned()));
        says("@plain GET")
            && says("POST")
            && holds
            && script.rules.iter().any(|it| it.user == "bob")
    };
    let seeds = (0..100).map(generate::script).filter(&fails);
    let scripts: Vec<Script> = seeds.take(3).collect();
    assert_eq!(scripts.len(), 3);
    for script in scripts {
        let shrunk = shrink(script, |candidates| candidates.iter().position(&fails));
        assert!(fails(&shrunk));
        let sizes = (
            shrunk.steps.len(),
            shrunk.rules.len(),
            shrunk.holdings.len(),
        );
        assert_eq!(sizes, (2, 1, 1), "{shrunk}");
        assert_eq!(shrunk.holdings[0].contents, ["s4"]);
        assert!(
            shrunk.steps.iter().all(|step| step.headers.is_empty()),
            "{shrunk}"
        );
    }
}
