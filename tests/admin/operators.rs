//! An admin address with TLS and a login: who is admitted, what stays open, and the commands of the machine.

use super::*;
use testkit::basic;

/// `alice` and `password`.
const OPERATORS: &str = "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";

/// A gateway whose admin address is open to other machines, and the URL by which it is reached here.
fn open_scene() -> (Origin, Image, Gateway, tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("operators");
    std::fs::write(&users, OPERATORS).expect("writable");
    let more = format!(
        "admin: {{address: \"0.0.0.0:0\", tls: auto, htpasswd: {}}}\n",
        users.display()
    );
    let (origin, image, gateway) = scene(1000, &more);
    let url = gateway.operators("admin.address");
    assert!(url.starts_with("https://0.0.0.0:"), "{url}");
    let url = url.replace("0.0.0.0", "127.0.0.1");
    (origin, image, gateway, folder, url)
}

fn exchange(
    gateway: &Gateway,
    url: &str,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let mut raw = Raw::connect(url, Some(&gateway.ca_path()));
    let authority = url.trim_start_matches("https://");
    let length = body.len().to_string();
    let mut lines = vec![("Host", authority)];
    lines.extend(headers);
    if !body.is_empty() {
        lines.push(("Content-Length", &length));
    }
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let head = format!("{method} {path} HTTP/1.1\r\n{}", lines.collect::<String>());
    raw.send(head + "\r\n" + body);
    raw.reply(method)
}

#[test]
fn other_machines_log_in() {
    let (_origin, image, gateway, folder, url) = open_scene();
    pull(&gateway, &image);
    let right = basic("alice", "password");
    let wrong = basic("alice", "passwort");
    let bearer = "Bearer eyJhbGciOiJub25lIn0.e30.".to_owned();
    for path in [
        "/",
        "/main.js",
        "/api/v1/overview",
        "/api/v1/config",
        "/nothing",
    ] {
        for login in [None, Some(&wrong), Some(&bearer), Some(&basic("", ""))] {
            let header = login.map(|login| ("Authorization", login.as_str()));
            let header: Vec<_> = header.into_iter().collect();
            let reply = exchange(&gateway, &url, ("GET", path), &header, "");
            assert_eq!(reply.status(), 401, "{path} {login:?}: {reply:?}");
            let challenge = reply.header("www-authenticate").expect("a challenge");
            assert!(challenge.starts_with("Basic realm="), "{challenge}");
            let problem: Value = serde_json::from_slice(&reply.body).expect("JSON");
            assert_eq!(problem["code"], "login-required", "{path}");
        }
        let reply = exchange(
            &gateway,
            &url,
            ("GET", path),
            &[("Authorization", &right)],
            "",
        );
        let expected = if path == "/nothing" { 404 } else { 200 };
        assert_eq!(reply.status(), expected, "{path}: {reply:?}");
    }
    // Health and metrics are for machines, and name nothing.
    for path in ["/livez", "/readyz", "/metrics"] {
        let reply = exchange(&gateway, &url, ("GET", path), &[], "");
        assert_eq!(reply.status(), 200, "{path}: {reply:?}");
    }
    // Plain HTTP gets nothing on this port.
    let mut plain = Raw::connect(&url.replace("https:", "http:"), None);
    plain.send("GET /api/v1/overview HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(plain.read_head().is_err());
    // A changed file takes effect without a restart.
    let removed = OPERATORS.replace("alice", "bob");
    std::fs::write(folder.path().join("operators"), removed).expect("writable");
    testkit::until("the account to be gone", || {
        let header = [("Authorization", right.as_str())];
        exchange(&gateway, &url, ("GET", "/"), &header, "").status() == 401
    });
}

/// A browser sends an operator's saved login with requests that pages of other sites make.
#[test]
fn logins_are_of_no_use_to_other_sites() {
    let (_origin, image, gateway, _folder, url) = open_scene();
    pull(&gateway, &image);
    let login = basic("alice", "password");
    let body = r#"{"target": "docker.io", "dry_run": true}"#;
    let ours = [
        ("Authorization", login.as_str()),
        ("Content-Type", "application/json"),
        ("X-Roadstead-Request", "1"),
    ];
    let purge = ("POST", "/api/v1/purge");
    let with = |more: &[(&'static str, &'static str)]| {
        let headers: Vec<_> = ours.iter().copied().chain(more.iter().copied()).collect();
        exchange(&gateway, &url, purge, &headers, body).status()
    };
    for (more, expected) in [
        (&[][..], 200),
        (&[("Sec-Fetch-Site", "same-origin")], 200),
        (&[("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
        (&[("Origin", "https://evil.example")], 403),
        (&[("Origin", "null")], 403),
    ] {
        assert_eq!(with(more), expected, "{more:?}");
    }
    let origin = [ours[0], ours[1], ours[2], ("Origin", url.as_str())];
    let same = exchange(&gateway, &url, purge, &origin, body);
    assert_eq!(same.status(), 200, "{same:?}");
    let form = exchange(&gateway, &url, purge, &ours[..2], body);
    assert_eq!(form.status(), 403, "{form:?}");
    let events = [ours[0], ("Sec-Fetch-Site", "cross-site")];
    let events = exchange(&gateway, &url, ("GET", "/api/v1/events"), &events, "");
    assert_eq!(events.status(), 403, "{events:?}");
    assert_eq!(fate(&gateway, &image.layer_path(0)), "hit", "nothing went");
}

/// The commands use a socket file in the folder of keys, which its owner alone can open.
#[test]
fn commands_of_the_machine_need_no_login() {
    use std::os::unix::fs::PermissionsExt as _;

    let (_origin, image, mut gateway, _folder, _) = open_scene();
    pull(&gateway, &image);
    let stats = command(&gateway, &["stats"]);
    assert_eq!(stats.status.code(), Some(0), "{stats:?}");
    let purged = command(&gateway, &["purge", "app:latest"]);
    assert_eq!(purged.status.code(), Some(0), "{purged:?}");
    assert_ne!(fate(&gateway, &image.layer_path(0)), "hit");
    let socket = gateway.dir().join("var/keys/admin.sock");
    let mode = std::fs::metadata(&socket).expect("a socket").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert_eq!(gateway.terminate().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn check_refuses_an_open_address_without_tls_or_login() {
    let refused = Gateway::check("admin:\n  address: \":5002\"\n");
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let report = text(&refused.stderr) + &text(&refused.stdout);
    for fault in [
        "roadstead.yaml:2:12: :5002 is open to other machines, so it needs TLS; write tls: auto below admin",
        "roadstead.yaml:2:12: :5002 is open to other machines, so it needs a login; write htpasswd: conf/admin.htpasswd below admin",
    ] {
        assert!(report.contains(fault), "{report}");
    }
    let served = Gateway::refused("admin: {address: \":5002\", tls: auto}\n");
    assert_eq!(served.status.code(), Some(78), "{served:?}");
}
