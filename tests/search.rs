//! `/v1/search`: which names are found, in which form, by which callers, and in which pages.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, at_once};
use testkit::origin::{Auth, Bearer, CHALLENGE, Fault, Image, Origin};
use testkit::{basic, temp_dir};

/// `reader`, with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

fn origin_with(names: &[&str]) -> (Origin, Vec<Image>) {
    let origin = Origin::start();
    let push = |name: &&str| origin.push_image(name, "latest", &[b"layer".to_vec()]);
    let images = names.iter().map(push).collect();
    (origin, images)
}

fn ask(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Reply {
    Raw::connect(gateway.url(1), None).exchange("GET", path, headers)
}

fn body(reply: &Reply) -> Value {
    assert_eq!(reply.status(), 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    serde_json::from_slice(&reply.body).expect("JSON")
}

fn found(reply: &Reply) -> Vec<String> {
    let body = body(reply);
    let results = body["results"].as_array().expect("a list").iter();
    results
        .map(|result| result["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[track_caller]
fn pull(gateway: &Gateway, path: &str) {
    assert_eq!(ask(gateway, path, &[]).status(), 200, "{path}");
}

#[test]
fn search_of_a_mirror_finds_cached_repositories() {
    let (origin, images) = origin_with(&["library/app", "team/app", "team/web"]);
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "");
    assert_eq!(found(&ask(&gateway, "/v1/search?q=app", &[])), [""; 0]);
    pull(&gateway, &images[0].tag_path());
    pull(&gateway, &images[1].tag_path());
    for (query, expected) in [
        ("?q=app", vec!["library/app", "team/app"]),
        ("?q=APP", vec!["library/app", "team/app"]),
        ("?q=library/app", vec!["library/app"]),
        ("?q=web", vec![]),
        ("?q=", vec!["library/app", "team/app"]),
        ("", vec!["library/app", "team/app"]),
        (
            "?q=app&ns=registry.hub.docker.com",
            vec!["library/app", "team/app"],
        ),
        ("?q=app&n=1", vec!["library/app"]),
        ("?q=app&n=1&page=2", vec!["team/app"]),
        ("?q=app&n=1&page=3", vec![]),
    ] {
        let reply = ask(&gateway, &format!("/v1/search{query}"), &[]);
        assert_eq!(found(&reply), expected, "{query}");
    }
    let answer = body(&ask(&gateway, "/v1/search?q=app&n=1", &[]));
    assert_eq!(answer["num_results"], 2);
    assert_eq!(answer["query"], "app");
    let first = &answer["results"][0];
    assert_eq!(
        (&first["description"], &first["star_count"]),
        (&"".into(), &0.into())
    );
    assert_eq!(
        (&first["is_official"], &first["is_automated"]),
        (&false.into(), &false.into())
    );
    // Docker Hub's catalogue is not requested: it has none. The rest of v1 is not served.
    assert_eq!(origin.count("*", "/v2/_catalog"), 0);
    for path in [
        "/v1/_ping",
        "/_ping",
        "/v1/search/more",
        "/v1/repositories/a/b/images",
    ] {
        let reply = ask(&gateway, path, &[]);
        assert_eq!(reply.status(), 404);
        // In the form of v1's errors, if v1 is built.
        let shape = if cfg!(feature = "v1") {
            "{\"error\":"
        } else {
            "{\"errors\":"
        };
        assert!(reply.text().starts_with(shape), "{}", reply.text());
    }
    gateway.restart();
    assert_eq!(found(&ask(&gateway, "/v1/search?q=web", &[])), [""; 0]);
    assert_eq!(
        found(&ask(&gateway, "/v1/search?q=team", &[])),
        ["team/app"]
    );
}

#[test]
fn search_merges_catalogues_and_cache() {
    let (hub, hub_images) = origin_with(&["library/app"]);
    let (guest, guest_images) = origin_with(&["guest/app", "guest/unseen-app"]);
    let (hosted, hosted_images) = origin_with(&["team/app", "base/app", "base/web"]);
    let mut gateway = Gateway::start(&format!(
        "registries:\n\
         - {{name: docker.io, v2: \"{}\", default: true}}\n\
         - {{name: guest, v2: \"{}\"}}\n\
         - {{name: hosted, v2: \"{}\", owns: [\"team/**\"], hosts: [hosted.example]}}\n",
        hub.url(),
        guest.url(),
        hosted.url()
    ));
    pull(&gateway, &hub_images[0].tag_path());
    pull(
        &gateway,
        &guest_images[0].tag_path().replace("/v2/", "/v2/guest/"),
    );
    pull(&gateway, &hosted_images[0].tag_path());
    let everything = ask(&gateway, "/v1/search?q=app", &[]);
    assert_eq!(
        found(&everything),
        [
            "guest/guest/app",
            "hosted/base/app",
            "library/app",
            "team/app"
        ]
    );
    let at_its_host = ask(
        &gateway,
        "/v1/search?q=app",
        &[("Host", "hosted.example:443")],
    );
    assert_eq!(found(&at_its_host), ["base/app", "team/app"]);
    let by_alias = pull_by_alias(&gateway);
    assert_eq!(by_alias, 200, "registry.hub.docker.com is docker.io");
    // The catalogue is read once a minute at most.
    assert_eq!(hosted.count("GET", "/v2/_catalog"), 1);
    // Without the catalogue the cached names are searched.
    gateway.restart();
    hosted.fault(Fault::status(404).on("*", "/v2/_catalog"));
    let poorer = ask(&gateway, "/v1/search?q=app", &[]);
    assert_eq!(
        found(&poorer),
        ["guest/guest/app", "library/app", "team/app"]
    );
    assert_eq!(guest.count("*", "/v2/_catalog"), 0, "it is not hosted here");
}

fn pull_by_alias(gateway: &Gateway) -> u16 {
    let path = "/v2/registry.hub.docker.com/library/app/manifests/latest";
    ask(gateway, path, &[]).status()
}

#[test]
fn search_shows_pullable_names_only() {
    let (origin, _) = origin_with(&["team/app", "open/app", "other/app"]);
    let dir = temp_dir();
    let users = dir.path().join("users");
    std::fs::write(&users, USERS).expect("writable");
    let yaml = |open: &str| {
        format!(
            "registries: [{{name: hosted, v2: \"{}\", push: true}}]\n\
             access:\n  htpasswd: {}\n  rules:\n\
             \x20 - {{users: [reader], repositories: [\"hosted/team/**\"], actions: [pull]}}\n{open}",
            origin.url(),
            users.display()
        )
    };
    let open = "\x20 - {users: [anonymous], repositories: [\"hosted/open/**\"], actions: [pull]}\n";
    let mut gateway = Gateway::start(&yaml(open));
    let reader = basic("reader", "s3cret");
    let search = |gateway: &Gateway, login: Option<&str>| {
        let headers: Vec<_> = login
            .map(|login| ("Authorization", login))
            .into_iter()
            .collect();
        ask(gateway, "/v1/search?q=app", &headers)
    };
    assert_eq!(found(&search(&gateway, None)), ["open/app"]);
    // Old Docker's header without a login.
    assert_eq!(found(&search(&gateway, Some("Basic Og=="))), ["open/app"]);
    assert_eq!(
        found(&search(&gateway, Some(&reader))),
        ["open/app", "team/app"]
    );
    let token = |scope: &str| {
        let path = format!("/token?service=x&scope={scope}");
        let reply = ask(&gateway, &path, &[("Authorization", &reader)]);
        let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
        format!("Bearer {}", body["token"].as_str().expect("a token"))
    };
    // Docker requests the first scope, Podman the second.
    for scope in ["registry:catalog:search", "registry:catalog:*"] {
        let reply = search(&gateway, Some(&token(scope)));
        assert_eq!(found(&reply), ["open/app", "team/app"], "{scope}");
    }
    let reply = search(&gateway, Some(&token("repository:team/app:pull")));
    assert_eq!(reply.status(), 401);
    let challenge = reply.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains("insufficient_scope"), "{challenge}");
    // If anonymous clients may pull nothing, no registry is asked before a login.
    gateway.restart_with(&yaml(""));
    origin.clear_requests();
    let reply = search(&gateway, None);
    assert_eq!(reply.status(), 401);
    assert_eq!(origin.count("*", "*"), 0);
    assert_eq!(found(&search(&gateway, Some(&reader))), ["team/app"]);
}

#[test]
fn search_hides_repositories_cached_for_a_login() {
    // With an account, but only for public repositories.
    let (origin, images) = origin_with(&["team/open", "team/closed"]);
    origin.require(Auth::Bearer(Bearer {
        account: Some(("me".into(), "s3cret".into())),
        public: vec!["team/open"],
        ..Bearer::default()
    }));
    let private = |visibility: &str| {
        format!(
            "registries: [{{name: up, v2: \"{}\", credentials: {{username: me, password: s3cret}}, {visibility}}}]\n",
            origin.url()
        )
    };
    let rules =
        "access: {rules: [{users: [anonymous], repositories: [\"up/**\"], actions: [pull]}]}\n";
    let mut gateway = Gateway::start(&format!("{}{rules}", private("visibility: rules")));
    pull(&gateway, &images[0].tag_path());
    pull(&gateway, &images[1].tag_path());
    origin.fault(Fault::status(404).on("*", "/v2/_catalog"));
    let search =
        |gateway: &Gateway, host: &str| ask(gateway, "/v1/search?q=team", &[("Host", host)]);
    assert_eq!(found(&search(&gateway, "x")), ["team/closed", "team/open"]);
    gateway.restart_with(&private("visibility: public"));
    assert_eq!(
        found(&search(&gateway, "x")),
        [""; 0],
        "no registry said that they are public"
    );
    pull(&gateway, &images[0].tag_path());
    assert_eq!(found(&search(&gateway, "x")), ["team/open"]);
    // Each caller separately.
    gateway.restart_with(&format!(
        "registries: [{{name: up, v2: \"{}\", hosts: [up.example], visibility: caller}}]\n",
        origin.url()
    ));
    origin.heal_all();
    origin.require(Auth::Holders(vec![("Bearer ann", vec!["team/open"])]));
    let reply = search(&gateway, "up.example");
    assert_eq!(
        (reply.status(), reply.header("www-authenticate")),
        (401, Some(CHALLENGE))
    );
    let ann = [("Host", "up.example"), ("Authorization", "Bearer ann")];
    let listed = ask(&gateway, "/v1/search?q=team", &ann);
    // The scripted registry lists everything to users.
    assert_eq!(found(&listed), ["team/closed", "team/open"]);
    origin.fault(Fault::status(404).on("*", "/v2/_catalog"));
    assert_eq!(found(&ask(&gateway, "/v1/search?q=team", &ann)), [""; 0]);
    let elsewhere = search(&gateway, "x");
    assert!(!elsewhere.text().contains("team"), "{elsewhere:?}");
}

/// One thread searches the cache for all clients, so that the threads that read bytes stay free.
#[test]
fn searches_do_not_delay_reads() {
    let (origin, images) = origin_with(&["team/app"]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    pull(&gateway, &images[0].tag_path());
    pull(&gateway, &images[0].layer_path(0));
    let folder = gateway.store().join("repositories/docker.io/team");
    for n in 0..10_000 {
        let manifests = folder.join(format!("filler{n}/_manifests"));
        std::fs::create_dir_all(&manifests).expect("writable");
    }
    let threads = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid()));
        let status = status.expect("a running process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Threads:"));
        let count: usize = line.expect("a count").trim().parse().expect("a number");
        count
    };
    let (before, most) = (threads(), AtomicUsize::new(0));
    let replies = at_once(48, |n| {
        if n == 0 {
            pull(&gateway, &images[0].layer_path(0));
        }
        let reply = ask(&gateway, "/v1/search?q=app", &[]);
        most.fetch_max(threads(), Ordering::Relaxed);
        reply
    });
    for reply in &replies {
        assert_eq!(found(reply), ["team/app"]);
    }
    let more = most.into_inner() - before;
    assert!(more < 16, "{more} threads for 48 searches");
}
