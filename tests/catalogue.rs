//! `/v2/_catalog`: which names are listed, in which form, to which callers, and in which pages.

use serde_json::Value;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::origin::{Auth, Fault, Origin};
use testkit::{basic, temp_dir};

/// `reader` and `pusher`, both with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n\
                     pusher:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

fn origin_with(names: &[&str]) -> Origin {
    let origin = Origin::start();
    for name in names {
        origin.push_blob(name, b"x".to_vec());
    }
    origin
}

fn ask(gateway: &Gateway, listener: usize, path: &str, headers: &[(&str, &str)]) -> Reply {
    Raw::connect(gateway.url(listener), None).exchange("GET", path, headers)
}

fn names(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status(), 200, "{reply:?}");
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    let names = body["repositories"].as_array().expect("a list").iter();
    names
        .map(|name| name.as_str().expect("text").to_owned())
        .collect()
}

/// The target of `Link`.
fn next(reply: &Reply) -> Option<String> {
    let link = reply.header("link")?;
    let (url, rest) = link.strip_prefix('<')?.split_once('>')?;
    assert_eq!(rest, "; rel=\"next\"");
    Some(url.to_owned())
}

/// All pages from `path` on, as a client follows them.
fn walk(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut path = Some(path.to_owned());
    while let Some(asked) = path {
        let reply = ask(gateway, 1, &asked, headers);
        pages.push(names(&reply));
        path = next(&reply);
        assert!(pages.len() < 100, "it never ends");
    }
    pages
}

#[test]
fn sole_registry_is_listed_in_pages_without_prefix() {
    let origin = origin_with(&["a/one", "b/two", "c/three", "d/four", "e/five"]);
    let gateway = Gateway::mirror("up.example", &origin.url(), "");
    let all = ["a/one", "b/two", "c/three", "d/four", "e/five"];
    for (path, pages) in [
        ("/v2/_catalog", vec![&all[..]]),
        ("/v2/_catalog?n=5", vec![&all[..]]),
        ("/v2/_catalog?n=2", vec![&all[..2], &all[2..4], &all[4..]]),
        ("/v2/_catalog?n=3&last=b/two", vec![&all[2..]]),
        ("/v2/_catalog?n=1000&last=e/five", vec![&[]]),
        ("/v2/_catalog?n=0", vec![&[]]),
        ("/v2/_catalog?ns=up.example&n=4", vec![&all[..4], &all[4..]]),
    ] {
        assert_eq!(walk(&gateway, path, &[]), pages, "{path}");
    }
    let reply = ask(&gateway, 1, "/v2/_catalog?n=2", &[]);
    assert_eq!(
        next(&reply).as_deref(),
        Some("/v2/_catalog?last=b%2Ftwo&n=2")
    );
    for n in ["1001", "-1", "x"] {
        let reply = ask(&gateway, 1, &format!("/v2/_catalog?n={n}"), &[]);
        assert_eq!(reply.status(), 400, "{n}");
        assert_eq!(
            reply.error_code().as_deref(),
            Some("PAGINATION_NUMBER_INVALID")
        );
    }
}

#[test]
fn default_page_has_100_names() {
    let many: Vec<String> = (0..250).map(|n| format!("n{n:03}/app")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let origin = origin_with(&many);
    let gateway = Gateway::mirror("up.example", &origin.url(), "");
    assert_eq!(
        walk(&gateway, "/v2/_catalog", &[]),
        [&many[..100], &many[100..200], &many[200..]]
    );
    assert_eq!(walk(&gateway, "/v2/_catalog?n=1000", &[]), [&many[..]]);
}

#[test]
fn catalogue_lists_registries_in_order_with_prefixes() {
    let first = origin_with(&["base/tool", "team/app", "team/web"]);
    let second = origin_with(&["app", "web"]);
    let guest = origin_with(&["guest/app"]);
    let gateway = Gateway::start(&format!(
        "registries:\n\
         - docker.io\n\
         - {{name: guest, v2: \"{}\"}}\n\
         - {{name: first, v2: \"{}\", owns: [\"team/**\"]}}\n\
         - {{name: second, v2: \"{}\", hosts: [second.example]}}\n",
        guest.url(),
        first.url(),
        second.url()
    ));
    let all = [
        "first/base/tool",
        "team/app",
        "team/web",
        "second/app",
        "second/web",
    ];
    for n in 1..6 {
        let pages = walk(&gateway, &format!("/v2/_catalog?n={n}"), &[]);
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == n));
        assert_eq!(pages.concat(), all, "{n}");
        assert_eq!(pages.len(), all.len().div_ceil(n), "no empty page: {n}");
    }
    let at_its_host = [("Host", "second.example")];
    assert_eq!(
        walk(&gateway, "/v2/_catalog?n=1", &at_its_host).concat(),
        ["app", "web"]
    );
    assert_eq!(
        walk(&gateway, "/v2/_catalog?ns=guest", &[]).concat(),
        ["guest/app"]
    );
    let hub = ask(&gateway, 1, "/v2/_catalog?ns=docker.io", &[]);
    assert_eq!(
        (hub.status(), hub.error_code().as_deref()),
        (404, Some("NAME_UNKNOWN"))
    );
    // A registry without a catalogue is left out; one that cannot be reached is an error.
    let without = first.fault(Fault::status(405).on("*", "/v2/_catalog"));
    assert_eq!(walk(&gateway, "/v2/_catalog", &[]).concat(), all[3..]);
    first.heal(without);
    first.fault(Fault::status(503).on("*", "/v2/_catalog"));
    assert_eq!(ask(&gateway, 1, "/v2/_catalog", &[]).status(), 503);
}

/// A registry where every second name is the team's, and one is public.
fn guarded(more: &str) -> (Origin, Gateway, tempfile::TempDir) {
    let many: Vec<String> = (0..300)
        .map(|n| match n {
            150 => "n150/open".to_owned(),
            n if n % 3 == 0 => format!("n{n:03}/team"),
            n => format!("n{n:03}/other"),
        })
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let origin = origin_with(&many);
    let dir = temp_dir();
    let users = dir.path().join("users");
    std::fs::write(&users, USERS).expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true}}]\n\
         access:\n  htpasswd: {}\n  rules:\n\
         \x20 - {{users: [reader], repositories: [\"hosted/*/team\"], actions: [pull]}}\n\
         \x20 - {{users: [pusher], repositories: [\"hosted/**\"], actions: [push]}}\n{more}\
         listen: [{{address: \"127.0.0.1:0\"}}, {{address: \"127.0.0.1:0\", tls: off}}, {{address: \"127.0.0.1:0\", tls: off, read_only: true}}]\n",
        origin.url(),
        users.display()
    ));
    (origin, gateway, dir)
}

const OPEN: &str =
    "\x20 - {users: [anonymous], repositories: [\"hosted/*/open\"], actions: [pull]}\n";

#[test]
fn catalogue_shows_pullable_names_in_full_pages() {
    let (origin, gateway, _dir) = guarded(OPEN);
    let reader = basic("reader", "s3cret");
    let pages = walk(&gateway, "/v2/_catalog?n=10", &[("Authorization", &reader)]);
    assert!(pages.iter().rev().skip(1).all(|page| page.len() == 10));
    let seen = pages.concat();
    assert_eq!(seen.len(), 100, "99 of the team's and the open one");
    assert!(
        seen.iter()
            .all(|name| name.ends_with("/team") || name == "n150/open")
    );
    // A Link discloses neither hidden names nor their existence.
    let reply = ask(
        &gateway,
        1,
        "/v2/_catalog?n=100",
        &[("Authorization", &reader)],
    );
    assert_eq!(next(&reply), None);
    // Anonymous callers see only the public one: on the first page, though 150 hidden ones come before it.
    for listener in [1, 2] {
        let reply = ask(&gateway, listener, "/v2/_catalog?n=1", &[]);
        assert_eq!(names(&reply), ["n150/open"]);
        assert_eq!(next(&reply), None);
    }
    // On a read-only listener every caller is anonymous.
    let reply = ask(&gateway, 2, "/v2/_catalog", &[("Authorization", &reader)]);
    assert_eq!(names(&reply), ["n150/open"]);
    let wrong = basic("reader", "wrong");
    let reply = ask(&gateway, 1, "/v2/_catalog", &[("Authorization", &wrong)]);
    assert_eq!(reply.status(), 401);
    assert!(origin.count("GET", "/v2/_catalog") > 0);
}

#[test]
fn catalogue_is_denied_without_any_pull_right() {
    let (origin, gateway, _dir) = guarded("");
    let pusher = basic("pusher", "s3cret");
    let reply = ask(&gateway, 1, "/v2/_catalog", &[]);
    assert_eq!(reply.status(), 401);
    let challenge = reply.header("www-authenticate").expect("a challenge");
    assert!(
        challenge.contains("scope=\"registry:catalog:*\""),
        "{challenge}"
    );
    let reply = ask(&gateway, 1, "/v2/_catalog", &[("Authorization", &pusher)]);
    assert_eq!(
        (reply.status(), reply.error_code().as_deref()),
        (403, Some("DENIED"))
    );
    // On a listener that never challenges.
    let reply = ask(&gateway, 2, "/v2/_catalog", &[]);
    assert_eq!(
        (reply.status(), reply.header("www-authenticate")),
        (403, None)
    );
    assert_eq!(origin.count("*", "*"), 0);
}

#[test]
fn catalogue_requires_its_token_scope() {
    let (_origin, gateway, _dir) = guarded(OPEN);
    let reader = basic("reader", "s3cret");
    let token = |scope: &str| {
        let path = format!("/token?service=x&scope={scope}");
        let reply = ask(&gateway, 1, &path, &[("Authorization", &reader)]);
        let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
        format!("Bearer {}", body["token"].as_str().expect("a token"))
    };
    let other = token("repository:n000/team:pull");
    let reply = ask(&gateway, 1, "/v2/_catalog", &[("Authorization", &other)]);
    assert_eq!(reply.status(), 401);
    let challenge = reply.header("www-authenticate").expect("a challenge");
    assert!(
        challenge.contains("scope=\"registry:catalog:*\"")
            && challenge.contains("error=\"insufficient_scope\""),
        "{challenge}"
    );
    let right = token("registry:catalog:*");
    let reply = ask(
        &gateway,
        1,
        "/v2/_catalog?n=1000",
        &[("Authorization", &right)],
    );
    assert_eq!(names(&reply).len(), 100);
}

#[test]
fn catalogue_without_access_lists_public_registries() {
    let hosted = origin_with(&["a/b"]);
    let public = origin_with(&["c/d"]);
    let yaml = |hosted_visibility: &str| {
        format!(
            "registries:\n\
             - {{name: hosted, v2: \"{}\", push: true, {hosted_visibility}}}\n\
             - {{name: public, v2: \"{}\", hosts: [p.example]}}\n",
            hosted.url(),
            public.url()
        )
    };
    let mut gateway = Gateway::start(&yaml(""));
    assert_eq!(walk(&gateway, "/v2/_catalog", &[]).concat(), ["public/c/d"]);
    assert_eq!(hosted.count("*", "*"), 0, "nothing of it may be seen");
    gateway.restart_with(&yaml("visibility: public"));
    assert_eq!(
        walk(&gateway, "/v2/_catalog", &[]).concat(),
        ["hosted/a/b", "public/c/d"]
    );
    let alone = Gateway::mirror("hosted", &hosted.url(), "");
    assert_eq!(walk(&alone, "/v2/_catalog", &[]).concat(), ["a/b"]);
}

#[test]
fn upstream_catalogue_is_requested_with_its_scope() {
    let origin = origin_with(&["a/b"]);
    origin.require(Auth::bearer());
    let gateway = Gateway::mirror("up.example", &origin.url(), "");
    assert_eq!(walk(&gateway, "/v2/_catalog", &[]).concat(), ["a/b"]);
    let tokens = origin.requests_for("GET", "/token");
    assert!(
        tokens[0].query.contains("scope=registry%3Acatalog%3A*"),
        "{}",
        tokens[0].query
    );
}

#[test]
fn upstream_catalogue_without_or_with_endless_pages() {
    let origin = origin_with(&[]);
    let gateway = Gateway::mirror("up.example", &origin.url(), "");
    // `n` and `last` mean nothing to it.
    let body = br#"{"repositories":["a/a","b/b","c/c","Not A Name"]}"#.to_vec();
    origin.fault(Fault::Body(body).on("GET", "/v2/_catalog"));
    assert_eq!(
        walk(&gateway, "/v2/_catalog?n=2", &[]),
        [vec!["a/a", "b/b"], vec!["c/c"]]
    );
    // Empty pages that always link to another.
    origin.heal_all();
    origin.clear_requests();
    let link = "</v2/_catalog?last=x&n=101>; rel=\"next\"";
    origin.fault(Fault::header("Link", link).on("GET", "/v2/_catalog"));
    let reply = ask(&gateway, 1, "/v2/_catalog?n=100", &[]);
    assert_eq!(reply.status(), 502, "{reply:?}");
    assert!(origin.count("GET", "/v2/_catalog") <= 64);
}
