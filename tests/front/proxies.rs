//! Behind other proxies: what trusted ones say of a request is believed, and nothing of it from anybody else.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::request_ids::logged;
use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw, Reply, Web};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::tls::client_config;
use testkit::{SOON, basic, eventually, until};

/// `reader`, with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

/// TLS and plain listeners that trust this machine, and a plain one that trusts others.
const LISTEN: &str = "listen:
- {address: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1]}
- {address: \"127.0.0.1:0\", tls: off, trusted_proxies: [127.0.0.1, 10.0.0.0/8]}
- {address: \"127.0.0.1:0\", tls: off, trusted_proxies: [10.0.0.0/8]}
- {address: \"unix:gateway.sock\", tls: off, trusted_proxies: [127.0.0.1]}
";

struct Scene {
    origin: Origin,
    image: Image,
    gateway: Gateway,
    _users: tempfile::TempDir,
}

/// A gateway of one hosted registry, whose users may pull.
fn scene(listen: &str, more: &str) -> Scene {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    let users = tempfile::tempdir().expect("a folder");
    let htpasswd = users.path().join("users");
    std::fs::write(&htpasswd, USERS).expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", hosts: [registry.example.com]}}]\n\
         access:\n  htpasswd: {}\n  rules:\n  \
         - {{users: [anonymous], repositories: [\"hosted/**\"], actions: [pull]}}\n\
         audit: {{path: audit.log}}\n{listen}{more}",
        origin.url(),
        htpasswd.display()
    ));
    Scene {
        origin,
        image,
        gateway,
        _users: users,
    }
}

impl Scene {
    fn ask(&self, listener: usize, headers: &[(&str, &str)]) -> Reply {
        let path = self.image.tag_path();
        Raw::connect(self.gateway.url(listener), None).exchange("GET", &path, headers)
    }

    /// The client in the access log's line of a request.
    #[track_caller]
    fn client_of(&self, reply: &Reply) -> String {
        client_in(&logged(
            &self.gateway,
            reply.header("x-request-id").expect("an id"),
        ))
    }
}

#[track_caller]
fn client_in(line: &str) -> String {
    let (_, rest) = line.split_once("client=\"").expect("a client");
    rest.split_once('"').expect("its end").0.to_owned()
}

#[test]
fn address_of_a_client_is_believed_from_trusted_proxies_alone() {
    let scene = scene(LISTEN, "");
    let list = |value| vec![("X-Forwarded-For", value)];
    for (headers, expected) in [
        (list("192.0.2.7"), "192.0.2.7"),
        (list("192.0.2.7:1234"), "192.0.2.7:1234"),
        (list("2001:db8::7"), "2001:db8::7"),
        // The client wrote the first address.
        (list("192.0.2.66, 192.0.2.7"), "192.0.2.7"),
        (list("192.0.2.66, 192.0.2.7, 10.1.2.3"), "192.0.2.7"),
        (
            vec![("Forwarded", "for=192.0.2.66, for=\"[2001:db8::7]:4\"")],
            "[2001:db8::7]:4",
        ),
        // Malformed, or contradictory.
        (list("192.0.2.66, nonsense"), "127.0.0.1:"),
        (list(""), "127.0.0.1:"),
        (
            vec![
                ("X-Forwarded-For", "192.0.2.7"),
                ("Forwarded", "for=192.0.2.66"),
            ],
            "127.0.0.1:",
        ),
        (vec![], "127.0.0.1:"),
    ] {
        let reply = scene.ask(1, &headers);
        assert_eq!(reply.status(), 200);
        let client = scene.client_of(&reply);
        if expected.ends_with(':') {
            assert!(client.starts_with(expected), "{headers:?}: {client}");
        } else {
            assert_eq!(client, expected, "{headers:?}");
        }
        let client = scene.client_of(&scene.ask(2, &headers));
        assert!(client.starts_with("127.0.0.1:"), "{headers:?}: {client}");
    }
    let reply = scene.ask(3, &list("192.0.2.7"));
    assert_eq!(scene.client_of(&reply), "192.0.2.7", "on a Unix socket");
    let url = format!("{}{}", scene.gateway.url(0), scene.image.tag_path());
    let h2 = Web::h2(Some(&scene.gateway.ca_path()));
    for address in ["192.0.2.7", "192.0.2.8"] {
        let fetched = h2.fetch("GET", &url, &list(address));
        let id = fetched.header("x-request-id").expect("an id").to_owned();
        assert_eq!(client_in(&logged(&scene.gateway, &id)), address);
    }
}

#[test]
fn url_of_a_client_is_believed_from_trusted_proxies_alone() {
    let scene = scene(LISTEN, "");
    // The Host of a request that names none.
    let own = || "http://localhost".to_owned();
    let realm = |challenge: Option<&str>| {
        let challenge = challenge.expect("a challenge");
        let (_, rest) = challenge.split_once("realm=\"").expect("a realm");
        rest.split_once("/token\"").expect("a path").0.to_owned()
    };
    for (headers, expected) in [
        (
            &[
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "registry.example.com"),
            ][..],
            "https://registry.example.com".to_owned(),
        ),
        (
            &[(
                "Forwarded",
                "for=192.0.2.7;proto=https;host=\"registry.example.com:8443\"",
            )],
            "https://registry.example.com:8443".to_owned(),
        ),
        (
            &[
                ("Host", "registry.example.com"),
                ("X-Forwarded-Proto", "HTTPS"),
            ],
            "https://registry.example.com".to_owned(),
        ),
        // Malformed.
        (
            &[("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "a/b")],
            own(),
        ),
    ] {
        let ping = |listener: usize| {
            let mut raw = Raw::connect(scene.gateway.url(listener), None);
            raw.exchange("GET", "/v2/", headers)
        };
        let reply = ping(1);
        assert_eq!(reply.status(), 401);
        assert_eq!(realm(reply.header("www-authenticate")), expected);
        let host = headers.iter().find(|(name, _)| *name == "Host");
        let untrusted = host.map_or_else(own, |(_, host)| format!("http://{host}"));
        assert_eq!(realm(ping(2).header("www-authenticate")), untrusted);
    }
    let url = format!("{}/v2/", scene.gateway.url(0));
    let headers = [("X-Forwarded-Host", "registry.example.com")];
    let fetched = Web::h2(Some(&scene.gateway.ca_path())).fetch("GET", &url, &headers);
    let expected = "https://registry.example.com";
    assert_eq!(realm(fetched.header("www-authenticate")), expected);
}

#[test]
fn forwarded_host_chooses_the_registry() {
    let (one, other) = (Origin::start(), Origin::start());
    let image = one.push_image("app", "latest", &[random(1, 1000)]);
    let gateway = Gateway::start(&format!(
        "registries:\n- {{name: one, v2: \"{}\", hosts: [one.example.com]}}\n\
         - {{name: other, v2: \"{}\", default: true}}\n{LISTEN}",
        one.url(),
        other.url()
    ));
    let headers = [("X-Forwarded-Host", "one.example.com")];
    for (listener, status) in [(1, 200), (2, 404)] {
        let mut raw = Raw::connect(gateway.url(listener), None);
        let reply = raw.exchange("GET", &image.tag_path(), &headers);
        assert_eq!(reply.status(), status, "{}", reply.text());
    }
}

#[test]
fn rates_are_by_the_true_address() {
    let scene = scene(LISTEN, "limits: {per_client: {rate: 3/h}}\n");
    let statuses = |listener: usize, address: &str, times: usize| -> Vec<u16> {
        let headers = [("X-Forwarded-For", address)];
        let ask = |_| scene.ask(listener, &headers).status();
        (0..times).map(ask).collect()
    };
    assert_eq!(statuses(1, "192.0.2.7", 4), [200, 200, 200, 429]);
    assert_eq!(statuses(1, "192.0.2.8", 1), [200]);
    let refused = scene.ask(1, &[("X-Forwarded-For", "192.0.2.7")]);
    assert_eq!(refused.error_code().as_deref(), Some("TOOMANYREQUESTS"));
    let wait: u64 = refused
        .header("retry-after")
        .expect("a time")
        .parse()
        .expect("seconds");
    assert!((1..=1200).contains(&wait), "{wait}");
    // Without trust, the connection's address counts, whatever the request says.
    let path = scene.image.tag_path();
    let ask = |number: usize| {
        let how = Connect {
            source: Some(IpAddr::from([127, 0, 0, 9])),
            ..Connect::default()
        };
        let mut raw = Raw::connect_with(scene.gateway.url(2), how).expect("a connection");
        let address = format!("192.0.2.{number}");
        raw.exchange("GET", &path, &[("X-Forwarded-For", &address)])
            .status()
    };
    let asked: Vec<u16> = (20..24).map(ask).collect();
    assert_eq!(asked, [200, 200, 200, 429]);
    until("it is logged", || {
        scene.gateway.log().contains("limits.per_client.rate")
    });
}

#[test]
fn requests_in_flight_are_by_the_true_address() {
    let scene = scene(LISTEN, "limits: {per_client: {requests: 2}}\n");
    scene.origin.fault(Fault::Stall.on("*", "/v2/team/slow*"));
    let stall = |number: usize| {
        let mut raw = Raw::connect(scene.gateway.url(1), None);
        let path = format!("/v2/team/slow{number}/manifests/x");
        raw.request("GET", &path, &[("X-Forwarded-For", "192.0.2.7")]);
        raw
    };
    let stalled = [0, 1].map(stall);
    until("both to be under way", || {
        scene.origin.count("*", "/v2/team/slow*") >= 2
    });
    for (address, status) in [("192.0.2.7", 429), ("192.0.2.8", 200)] {
        let reply = scene.ask(1, &[("X-Forwarded-For", address)]);
        assert_eq!(reply.status(), status, "{address}");
    }
    drop(stalled);
}

#[test]
fn password_guesses_are_counted_by_the_true_address() {
    let scene = scene(LISTEN, "");
    let guess = |number: usize, address: &str| {
        let login = basic("reader", &format!("guess {number}"));
        let headers = [
            ("Authorization", login.as_str()),
            ("X-Forwarded-For", address),
        ];
        scene.ask(1, &headers)
    };
    let mut number = 0;
    until("guesses are slowed", || {
        number += 1;
        guess(number, "192.0.2.7").status() == 429
    });
    // The right password of the same user, from where nobody guesses.
    let login = basic("reader", "s3cret");
    let headers = [
        ("Authorization", login.as_str()),
        ("X-Forwarded-For", "192.0.2.8"),
    ];
    assert_eq!(scene.ask(1, &headers).status(), 200);
    let audit = scene.gateway.dir().join("audit.log");
    let line = eventually("the audit log", || {
        let text = std::fs::read_to_string(&audit).ok()?;
        let line = text.lines().find(|line| line.contains("login_failed"));
        line.map(str::to_owned)
    });
    assert!(line.contains("\"address\":\"192.0.2.7\""), "{line}");
}

/// Listeners of the PROXY protocol: plain, and with TLS.
const PROXIED: &str = "listen:
- {address: \"127.0.0.1:0\", tls: off, trusted_proxies: [127.0.0.1], proxy_protocol: any}
- {address: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1], proxy_protocol: any}
- {address: \"127.0.0.1:0\", tls: off, trusted_proxies: [127.0.0.1], proxy_protocol: v2}
";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\xdc\x04\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

#[test]
fn proxy_protocol_names_the_client() {
    let scene = scene(PROXIED, "");
    let request = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", scene.image.tag_path());
    for (header, listeners, expected) in [
        (V1, &[0][..], "192.0.2.7:56324"),
        (V2, &[0, 2], "192.0.2.7:56324"),
        (LOCAL, &[0, 2], "127.0.0.1:"),
        (b"PROXY UNKNOWN\r\n", &[0], "127.0.0.1:"),
        (
            b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n",
            &[0],
            "[2001:db8::7]:1",
        ),
    ] {
        for listener in listeners {
            let mut raw = Raw::connect(scene.gateway.url(*listener), None);
            raw.send([header, request.as_bytes()].concat());
            let reply = raw.reply("GET");
            assert_eq!(reply.status(), 200);
            let client = scene.client_of(&reply);
            assert!(client.starts_with(expected), "{header:?}: {client}");
            // The connection is the client's from then on.
            let again = raw.get(&scene.image.tag_path());
            assert!(scene.client_of(&again).starts_with(expected));
        }
    }
    // Byte by byte.
    let mut raw = Raw::connect(scene.gateway.url(0), None);
    for byte in [V2, request.as_bytes()].concat() {
        raw.send([byte]);
    }
    assert_eq!(scene.client_of(&raw.reply("GET")), "192.0.2.7:56324");
    // Below TLS.
    let mut socket = TcpStream::connect(scene.gateway.authority(1)).expect("a connection");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    socket.write_all(V2).expect("written");
    let name = ServerName::try_from("localhost").expect("a name");
    let config = client_config(&scene.gateway.ca_path(), &["http/1.1"]);
    let session = ClientConnection::new(config, name).expect("a session");
    let mut tls = StreamOwned::new(session, socket);
    let closing = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    tls.write_all(closing.as_bytes()).expect("written");
    let mut answer = String::new();
    tls.read_to_string(&mut answer).expect("an answer");
    let (_, id) = answer.split_once("X-Request-Id: ").expect("an id");
    let id = id.split_once('\r').expect("its end").0;
    let line = logged(&scene.gateway, id);
    assert_eq!(client_in(&line), "192.0.2.7:56324");
}

#[test]
fn connection_without_a_proxy_header_is_closed() {
    let scene = scene(PROXIED, "limits: {header_timeout: 1s}\n");
    let gateway = &scene.gateway;
    let path = scene.image.tag_path();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    for (listener, bytes) in [
        (0, request.as_bytes()),
        (0, b"PROXY TCP4 192.0.2.7 nonsense 1 2\r\n"),
        (0, &long),
        (0, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"),
        (2, V1),
        // Too slow, or silent.
        (0, b"PROXY TCP4"),
        (0, b""),
    ] {
        let mut raw = Raw::connect(gateway.url(listener), None);
        raw.send(bytes);
        let (answer, _) = raw.read_to_end();
        assert_eq!(answer, b"", "{bytes:?}");
    }
    until("it is logged", || {
        gateway.log().contains("header of proxy_protocol")
    });
    // Clients that are no proxies have no header, and may not send one.
    let how = Connect {
        source: Some(IpAddr::from([127, 0, 0, 9])),
        ..Connect::default()
    };
    let connect = || Raw::connect_with(gateway.url(0), how).expect("a connection");
    let reply = connect().get(&path);
    assert!(scene.client_of(&reply).starts_with("127.0.0.9:"));
    let mut raw = connect();
    raw.send([V1, request.as_bytes()].concat());
    let (answer, _) = raw.read_to_end();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

#[test]
fn connections_of_a_proxy_are_their_clients() {
    let scene = scene(PROXIED, "limits: {per_client: {connections: 2}}\n");
    let connect = |last: u8| {
        let mut raw = Raw::connect(scene.gateway.url(0), None);
        let header = format!("PROXY TCP4 192.0.2.{last} 192.0.2.1 1 2\r\n");
        raw.send(format!(
            "{header}GET /v2/hosted/team/app/tags/list HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let served = raw.read_head().is_ok();
        (raw, served)
    };
    let open: Vec<(Raw, bool)> = [7, 7, 7, 8].into_iter().map(connect).collect();
    let served: Vec<bool> = open.iter().map(|(_, served)| *served).collect();
    assert_eq!(served, [true, true, false, true]);
    // Connections of a trusted proxy without a client are not limited.
    let local = |_| {
        let mut raw = Raw::connect(scene.gateway.url(0), None);
        raw.send([LOCAL, b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        assert_eq!(raw.read_head().expect("an answer").status, 401);
        raw
    };
    let local: Vec<Raw> = (0..5).map(local).collect();
    drop((open, local));
    until("its connections to be gone", || connect(7).1);
}
