//! Tests of routing and of the protection against other sites.

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
    let protection = Protection::Machine(Some("admin.example"));
    route_with(method, path, lines, from, protection)
}

fn route_with(
    method: &str,
    path: &str,
    lines: &[(&str, &str)],
    from: (Peer, Scope),
    protection: Protection<'_>,
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
    let routed = route((&method, &uri, &headers), from, protection);
    routed.map_err(|problem| problem.code.status().as_u16())
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
    let (own, post) = (("x-roadstead-request", "1"), Operation::Purge);
    let elsewhere = Peer::Tcp {
        remote: "10.0.0.2".parse().expect("an address"),
        local: "10.0.0.1".parse().expect("an address"),
    };
    let itself = Peer::Tcp {
        remote: "10.0.0.1".parse().expect("an address"),
        local: "10.0.0.1".parse().expect("an address"),
    };
    let (all, few) = (Scope::Everything, Scope::Metrics);
    let (purge, pins) = ("/api/v1/purge", "/api/v1/pins");
    let (overview, found) = ("/api/v1/overview", Ok(Route::Api(Operation::Overview)));
    let good = [json, own];
    let text = [("content-type", "text/plain"), own];
    let site = |site| [("sec-fetch-site", site)];
    let origin = |origin| [("origin", origin)];
    let good_and = |name, value| [json, own, (name, value)];
    for (method, path, lines, peer, scope, expected) in [
        ("GET", "/", &[][..], HERE, all, Ok(Route::Page)),
        ("GET", "/main.js", &[], HERE, all, Ok(Route::Page)),
        ("GET", "/mod.rs", &[], HERE, all, Err(404)),
        ("HEAD", "/livez", &[], HERE, all, Ok(Route::Live)),
        ("GET", "/readyz?x", &[], HERE, all, Ok(Route::Ready)),
        ("GET", overview, &[], Peer::Unix, all, found),
        ("GET", overview, &[], itself, all, found),
        ("GET", overview, &[], elsewhere, all, Err(403)),
        ("GET", overview, &site("same-origin"), HERE, all, found),
        ("GET", overview, &site("none"), HERE, all, found),
        ("GET", overview, &site("same-site"), HERE, all, Err(403)),
        ("GET", overview, &site("cross-site"), HERE, all, Err(403)),
        ("GET", overview, &origin("null"), HERE, all, Err(403)),
        ("POST", overview, &good, HERE, all, Err(405)),
        ("GET", "/", &[], elsewhere, all, Err(403)),
        ("GET", "/metrics", &[], elsewhere, all, Ok(Route::Metrics)),
        ("POST", purge, &good, HERE, all, Ok(Route::Api(post))),
        ("POST", purge, &[json], HERE, all, Err(403)),
        (
            "POST",
            purge,
            &[json, ("x-roadstead-request", "0")],
            HERE,
            all,
            Err(403),
        ),
        ("POST", purge, &text, HERE, all, Err(415)),
        ("POST", purge, &[own], HERE, all, Err(415)),
        ("POST", purge, &good, elsewhere, all, Err(403)),
        (
            "POST",
            purge,
            &good_and("origin", "http://LOCALHOST"),
            HERE,
            all,
            Ok(Route::Api(post)),
        ),
        (
            "POST",
            purge,
            &good_and("origin", "http://localhost:1"),
            HERE,
            all,
            Err(403),
        ),
        (
            "POST",
            purge,
            &good_and("origin", "http://evil.example"),
            HERE,
            all,
            Err(403),
        ),
        (
            "POST",
            purge,
            &[
                json,
                own,
                origin("http://proxy.example")[0],
                site("same-origin")[0],
            ],
            HERE,
            all,
            Ok(Route::Api(post)),
        ),
        ("GET", purge, &good, HERE, all, Err(405)),
        ("OPTIONS", purge, &[], HERE, all, Err(405)),
        ("GET", pins, &[], HERE, all, Ok(Route::Api(Operation::Pins))),
        (
            "POST",
            pins,
            &good,
            HERE,
            all,
            Ok(Route::Api(Operation::Pin)),
        ),
        (
            "DELETE",
            pins,
            &[own],
            HERE,
            all,
            Ok(Route::Api(Operation::Unpin)),
        ),
        ("DELETE", pins, &[], HERE, all, Err(403)),
        ("PUT", pins, &good, HERE, all, Err(405)),
        ("POST", "/metrics", &good, HERE, all, Err(405)),
        ("GET", "/api", &[], HERE, all, Err(404)),
        ("GET", "/v2/", &[], HERE, all, Err(404)),
        ("GET", "/readyz", &[], elsewhere, few, Ok(Route::Ready)),
        ("GET", "/livez", &[], elsewhere, few, Ok(Route::Live)),
        ("GET", "/", &[], HERE, few, Err(404)),
        ("GET", overview, &[], HERE, few, Err(404)),
        ("POST", purge, &good, HERE, few, Err(404)),
    ] {
        let lines: Vec<_> = lines
            .iter()
            .copied()
            .chain([("host", "localhost")])
            .collect();
        assert_eq!(
            route_status(method, path, &lines, (peer, scope)),
            expected,
            "{method} {path} {lines:?} {peer:?}"
        );
    }
}

/// A login replaces the checks of machine and host, but not those of other sites.
#[test]
fn logins_admit_other_machines() {
    let elsewhere = Peer::Tcp {
        remote: "10.0.0.2".parse().expect("an address"),
        local: "10.0.0.1".parse().expect("an address"),
    };
    let json = ("content-type", "application/json");
    let (host, own) = (("host", "10.0.0.1:5002"), ("x-roadstead-request", "1"));
    let evil = ("origin", "https://evil.example");
    let ours = ("origin", "https://10.0.0.1:5002");
    let (purge, overview) = ("/api/v1/purge", "/api/v1/overview");
    for (method, path, lines, expected) in [
        ("GET", "/", &[host][..], Ok(Route::Page)),
        (
            "GET",
            overview,
            &[host],
            Ok(Route::Api(Operation::Overview)),
        ),
        (
            "POST",
            purge,
            &[host, json, own],
            Ok(Route::Api(Operation::Purge)),
        ),
        (
            "POST",
            purge,
            &[host, json, own, ours],
            Ok(Route::Api(Operation::Purge)),
        ),
        ("POST", purge, &[host, json, own, evil], Err(403)),
        ("POST", purge, &[host, json], Err(403)),
        (
            "GET",
            overview,
            &[host, ("sec-fetch-site", "cross-site")],
            Err(403),
        ),
        ("GET", "/nothing", &[host], Err(404)),
    ] {
        let from = (elsewhere, Scope::Everything);
        let routed = route_with(method, path, lines, from, Protection::Login);
        assert_eq!(routed, expected, "{method} {path} {lines:?}");
    }
    for (path, scope, private) in [
        ("/", Scope::Everything, true),
        (overview, Scope::Everything, true),
        ("/nothing", Scope::Everything, true),
        ("/metrics", Scope::Everything, false),
        ("/livez", Scope::Everything, false),
        ("/readyz", Scope::Metrics, false),
    ] {
        assert_eq!(is_private(path, scope), private, "{path}");
    }
}

/// openapi.json describes exactly the routes of the API.
#[test]
fn routes_are_those_of_the_openapi_document() {
    let document: serde_json::Value =
        serde_json::from_str(include_str!("openapi.json")).expect("JSON");
    let mut described = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            described.push((method.to_uppercase(), path.clone()));
        }
    }
    let served = API.iter();
    let mut served: Vec<_> = served
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    described.sort();
    served.sort();
    assert_eq!(served, described);
}
