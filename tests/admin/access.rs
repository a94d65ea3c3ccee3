//! Access control of the admin address: host names, sockets, content types, the metrics listener.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use super::*;

#[track_caller]
fn status(url: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    Raw::connect(url, None)
        .exchange(method, path, headers)
        .status()
}

#[test]
fn foreign_hosts_get_421() {
    let (_origin, _, gateway) = scene(1, ANYWHERE);
    let url = gateway.operators("admin.address");
    for (host, expected) in [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:5002", 200),
        ("127.1.2.3", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.1", 421),
        ("", 421),
    ] {
        for path in ["/", "/metrics", "/livez", "/readyz", "/api/v1/overview"] {
            assert_eq!(
                status(url, "GET", path, &[("Host", host)]),
                expected,
                "{host} {path}"
            );
        }
        let json = [
            ("Host", host),
            ("X-Roadstead-Request", "1"),
            ("Content-Type", "application/json"),
            ("Content-Length", "0"),
        ];
        let posted = status(url, "POST", "/api/v1/purge", &json);
        // An empty body is an invalid request.
        assert_eq!(posted, if expected == 200 { 400 } else { 421 }, "{host}");
    }
    let mut raw = Raw::connect(url, None);
    raw.send("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(raw.reply("GET").status(), 421);
    let mut raw = Raw::connect(url, None);
    raw.send("GET /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(raw.reply("GET").status(), 421);
}

#[test]
fn configured_host_is_accepted() {
    let more = "admin: {address: \"localhost:0\"}\n";
    let (_origin, _, gateway) = scene(1, more);
    let url = gateway.operators("admin.address");
    assert_eq!(
        status(url, "GET", "/metrics", &[("Host", "localhost:81")]),
        200
    );
    assert_eq!(status(url, "GET", "/metrics", &[("Host", "other")]), 421);
}

/// A browser lets a page of another site send no header of its choice, and sends OPTIONS before any other.
#[test]
fn cross_site_requests_are_refused() {
    let (_origin, image, gateway) = scene(1000, ANYWHERE);
    pull(&gateway, &image);
    let url = gateway.operators("admin.address");
    let body = r#"{"target": "docker.io"}"#;
    let length = body.len().to_string();
    let own = "X-Roadstead-Request: 1\r\n";
    let json = "Content-Type: application/json\r\n";
    let text = "Content-Type: text/plain\r\n";
    let elsewhere = "Origin: http://evil.example\r\n";
    let fetched_elsewhere = "Sec-Fetch-Site: cross-site\r\n";
    for (lines, expected) in [
        (vec![elsewhere], 403),
        (vec![elsewhere, text], 403),
        (vec![elsewhere, json], 403),
        (vec![elsewhere, own, json], 403),
        (vec![fetched_elsewhere, own, json], 403),
        (vec![json], 403),
        (vec!["X-Roadstead-Request: 0\r\n", json], 403),
        (vec![own], 415),
        (vec![own, text], 415),
    ] {
        let lines = lines.concat();
        let mut raw = Raw::connect(url, None);
        raw.send(format!(
            "POST /api/v1/purge HTTP/1.1\r\nHost: localhost\r\n{lines}\
             Content-Length: {length}\r\n\r\n{body}"
        ));
        let reply = raw.reply("POST");
        assert_eq!(reply.status(), expected, "{lines} {reply:?}");
        let problem: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
        let kind = reply.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{reply:?}");
        assert_eq!(problem["status"], expected, "{reply:?}");
    }
    // Another site cannot take the places of the listeners either.
    let from_elsewhere = [("Sec-Fetch-Site", "cross-site")];
    assert_eq!(status(url, "GET", "/api/v1/events", &from_elsewhere), 403);
    let preflight = Raw::connect(url, None).exchange(
        "OPTIONS",
        "/api/v1/purge",
        &[
            ("Origin", "http://evil.example"),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "content-type"),
        ],
    );
    assert_eq!(
        (preflight.status(), preflight.header("allow")),
        (405, Some("POST"))
    );
    for reply in [&preflight, &ask(&gateway, "/api/v1/overview")] {
        assert_eq!(reply.header("access-control-allow-origin"), None);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    assert_eq!(status(url, "GET", "/api/v1/purge", &[]), 405);
    assert_eq!(status(url, "GET", "/api/v1/nothing", &[]), 404);
    assert_eq!(fate(&gateway, &image.layer_path(0)), "hit", "nothing went");
    // The error names the fault of the request.
    for (json, words) in [
        ("", "invalid request body"),
        ("{}", "target"),
        (r#"{"target": "docker.io", "dryrun": true}"#, "dryrun"),
        (r#"{"target": "No Name"}"#, "repository"),
        (r#"{"target": "app@sha256:00"}"#, "digest"),
    ] {
        let reply = act(&gateway, "/api/v1/purge", json);
        assert!(
            reply.status() == 400 && reply.text().contains(words),
            "{json}: {reply:?}"
        );
    }
    let long = format!(r#"{{"target": "{}"}}"#, "a".repeat(10_000));
    assert_eq!(act(&gateway, "/api/v1/purge", &long).status(), 413);
}

#[test]
fn head_requests_and_the_page() {
    let (_origin, _, gateway) = scene(1, ANYWHERE);
    let page = ask(&gateway, "/");
    assert_eq!(page.status(), 200);
    let kind = page.header("content-type");
    assert_eq!(kind, Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';"),
        "{policy}"
    );
    // The files that the page names, and the modules that its script imports.
    let (text, mut files) = (page.text(), Vec::new());
    for name in text
        .split("=\"/")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        files.push(name.to_owned());
    }
    assert!(files.contains(&"main.js".to_owned()), "{files:?}");
    let mut seen = BTreeSet::new();
    while let Some(name) = files.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let file = ask(&gateway, &format!("/{name}"));
        let kind = file.header("content-type").unwrap_or_default();
        let expected = if name == "style.css" {
            "text/css"
        } else {
            "text/javascript"
        };
        assert!(
            file.status() == 200 && kind.starts_with(expected),
            "{name}: {file:?}"
        );
        let imported = file.text();
        let imported = imported.split("from \"./").skip(1);
        files.extend(imported.filter_map(|rest| Some(rest.split('"').next()?.to_owned())));
    }
    assert_eq!(ask(&gateway, "/nothing.js").status(), 404);
    let head = Raw::connect(gateway.operators("admin.address"), None).head("/livez");
    assert_eq!(
        (head.status(), head.head.length(), head.body.len()),
        (200, Some(6), 0)
    );
}

#[test]
fn socket_file_is_private_to_its_owner() {
    let (_origin, _, mut gateway) = scene(1, SOCKET);
    let path = gateway.dir().join("admin.sock");
    let meta = std::fs::metadata(&path).expect("a socket");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&gateway, "/livez").status(), 200);
    let evil = status(
        gateway.operators("admin.address"),
        "GET",
        "/livez",
        &[("Host", "evil.example")],
    );
    assert_eq!(evil, 421);
    // The socket of a crashed process is replaced, and an orderly shutdown removes it.
    gateway.kill();
    assert!(path.exists());
    gateway.restart();
    assert_eq!(ask(&gateway, "/readyz").status(), 200);
    assert_eq!(gateway.terminate().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn metrics_listener_serves_three_paths() {
    let more = "admin: {address: off, metrics: \"127.0.0.1:0\"}\n";
    let (_origin, image, gateway) = scene(1000, more);
    let url = gateway.operators("admin.metrics");
    let json = [
        ("Content-Type", "application/json"),
        ("Content-Length", "2"),
    ];
    for (method, path, headers, expected) in [
        ("GET", "/metrics", &[("Host", "any.example")][..], 200),
        ("HEAD", "/metrics", &[], 200),
        ("GET", "/livez", &[], 200),
        ("GET", "/readyz", &[], 200),
        ("GET", "/", &[], 404),
        ("GET", "/api/v1/overview", &[], 404),
        ("POST", "/api/v1/purge", &json, 404),
        ("POST", "/api/v1/verify", &json, 404),
        ("POST", "/metrics", &json, 405),
        ("GET", "/v2/", &[], 404),
        ("GET", &image.tag_path(), &[], 404),
    ] {
        assert_eq!(
            status(url, method, path, headers),
            expected,
            "{method} {path}"
        );
    }
    // The data plane serves none of these paths.
    for path in ["/metrics", "/livez", "/api/v1/overview"] {
        assert_eq!(fetch(&gateway, path).status(), 404, "{path}");
    }
}

/// A client that holds connections open does not keep others from the metrics.
#[test]
fn metrics_connections_are_limited_per_client() {
    let more = "admin: {address: off, metrics: \"127.0.0.1:0\"}\n";
    let (_origin, _, gateway) = scene(1, more);
    let url = gateway.operators("admin.metrics");
    let connect = |last: u8| {
        let how = Connect {
            source: Some(std::net::IpAddr::from([127, 0, 0, last])),
            ..Connect::default()
        };
        Raw::connect_with(url, how)
    };
    let open: Vec<Raw> = (0..64).filter_map(|_| connect(9).ok()).collect();
    assert_eq!(open.len(), 64, "the kernel accepts them");
    let mut other = connect(8).expect("the kernel accepts it");
    assert_eq!(other.get("/metrics").status(), 200);
}
