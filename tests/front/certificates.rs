//! Certificates: those of the gateway's own authority and the operator's, SNI, ALPN, resumption.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw};
use testkit::tls::{Ca, Leaf, client_config};

const HOSTS: &str = "registries: [{name: docker.io, hosts: [one.example, Two.Example:5000]}]\n";

/// Requests `/v2/` by a name that must be in the certificate; returns the status.
fn ask(url: &str, ca: &Path, name: &str) -> Result<u16, String> {
    let how = Connect {
        ca: Some(ca),
        server_name: Some(name),
        ..Connect::default()
    };
    let mut raw = Raw::connect_with(url, how).map_err(|error| error.to_string())?;
    Ok(raw.get("/v2/").status())
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Does a TLS handshake with this configuration, and requests `/v2/` unless h2 was negotiated.
fn converse(gateway: &Gateway, config: &Arc<ClientConfig>) -> Stream {
    let socket = TcpStream::connect(gateway.authority(0)).expect("a connection");
    let read_timeout = Some(Duration::from_secs(20));
    socket.set_read_timeout(read_timeout).expect("a timeout");
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::clone(config), name).expect("a session");
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .expect("a handshake");
    }
    if stream.conn.alpn_protocol() != Some(b"h2") {
        let request = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("it is taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an end in order");
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            answer.escape_ascii()
        );
    }
    stream
}

#[test]
fn own_certificate_covers_every_name() {
    let gateway = Gateway::start(HOSTS);
    let ca = gateway.ca_path();
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "one.example",
        "two.example",
        &host,
    ] {
        assert_eq!(ask(gateway.url(0), &ca, name), Ok(200), "{name}");
    }
    for name in ["other.example", "127.0.0.2", "x.one.example"] {
        let error = ask(gateway.url(0), &ca, name).expect_err("not our name");
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }
    let unknown_ca = Ca::new();
    let error = ask(gateway.url(0), &unknown_ca.path(), "localhost").expect_err("not our CA");
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[test]
fn listen_address_is_in_the_certificate() {
    let gateway = Gateway::start("listen: [{address: \"127.9.8.7:0\"}]\n");
    assert_eq!(
        ask(gateway.url(0), &gateway.ca_path(), "127.9.8.7"),
        Ok(200)
    );
}

/// The addresses in the certificate shown to a client on `source` that connects to `address`.
fn shown_addresses(gateway: &Gateway, source: &str, address: &str) -> Vec<std::net::IpAddr> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

    let port = gateway.authority(0).rsplit_once(':').expect("a port").1;
    let ip = |text: &str| -> std::net::IpAddr { text.parse().expect("an address") };
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let at =
        |text: &str, port: u16| socket2::SockAddr::from(std::net::SocketAddr::new(ip(text), port));
    socket.bind(&at(source, 0)).expect("ours");
    let port = port.parse().expect("a port");
    socket.connect(&at(address, port)).expect("a connection");
    let config = client_config(&gateway.ca_path(), &["http/1.1"]);
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(config, name).expect("a session");
    let mut stream = StreamOwned::new(session, TcpStream::from(socket));
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .expect("a handshake");
    }
    let leaf = stream.conn.peer_certificates().expect("certificates")[0].clone();
    let (_, leaf) = X509Certificate::from_der(&leaf).expect("a certificate");
    let names = leaf
        .subject_alternative_name()
        .expect("readable")
        .expect("names");
    let addresses = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::IPAddress(bytes) => match *bytes {
                [a, b, c, d] => Some(std::net::IpAddr::from([*a, *b, *c, *d])),
                bytes => Some(<[u8; 16]>::try_from(bytes).expect("16 bytes").into()),
            },
            _ => None,
        });
    addresses.collect()
}

/// A listener on all addresses names the one that the client reached, and no other of the machine.
#[test]
fn wildcard_listener_certificate_names_the_connected_address() {
    let gateway = Gateway::start("listen: [{address: \"0.0.0.0:0\"}]\n");
    let port = gateway.authority(0).rsplit_once(':').expect("a port").1;
    for address in ["127.0.0.1", "127.6.5.4", "127.0.0.1", "127.4.5.6"] {
        let url = format!("https://{address}:{port}");
        assert_eq!(ask(&url, &gateway.ca_path(), address), Ok(200), "{address}");
        let shown = shown_addresses(&gateway, "127.0.0.1", address);
        let mut expected: Vec<std::net::IpAddr> = ["127.0.0.1", "::1", address]
            .map(|ip| ip.parse().expect("one"))
            .to_vec();
        expected.sort();
        expected.dedup();
        let mut told = shown.clone();
        told.sort();
        assert_eq!(told, expected, "{address}");
    }
}

/// The gateway's certificate has the names by which clients reach its TLS listeners, but not those of plain-HTTP
/// listeners or of another proxy's certificate.
#[test]
fn public_names_are_in_the_certificate() {
    let gateway = Gateway::start(
        "listen:
- {address: \"127.0.0.1:0\", public_url: \"https://registry.example.com:8443\"}
- {address: \"127.0.0.1:0\", public_url: \"https://192.0.2.7\"}
- {address: \"127.0.0.1:0\", tls: off, public_url: \"https://other.example.com\"}
",
    );
    let ask = |name: &str| ask(gateway.url(0), &gateway.ca_path(), name);
    assert_eq!(ask("registry.example.com"), Ok(200));
    assert_eq!(ask("192.0.2.7"), Ok(200));
    let error = ask("other.example.com").expect_err("not our name");
    assert!(error.contains("not valid for name"), "{error}");
}

#[test]
fn keys_are_private_and_survive_a_restart() {
    let mut gateway = Gateway::start("registries: [docker.io]\n");
    let keys = gateway.dir().join("var/keys");
    let mode = |name: &str| {
        let meta = std::fs::metadata(keys.join(name)).expect(name);
        meta.permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(""), mode("ca.key"), mode("leaf.key")),
        (0o700, 0o600, 0o600)
    );
    let files = || {
        ["ca.pem", "ca.key", "leaf.pem", "leaf.key"]
            .map(|name| std::fs::read(keys.join(name)).expect(name))
    };
    let first = files();
    gateway.restart();
    assert_eq!(files(), first);
    // Permissions that are too open, as after a copy, are restricted again.
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let leaf = &first[2];
    gateway.restart_with(HOSTS);
    assert_eq!(mode(""), 0o700);
    let [ca, ca_key, new_leaf, _] = files();
    assert_eq!((&ca, &ca_key), (&first[0], &first[1]));
    assert_ne!(&new_leaf, leaf);
    assert_eq!(
        ask(gateway.url(0), &gateway.ca_path(), "one.example"),
        Ok(200)
    );
    assert_eq!(
        ask(gateway.url(0), &gateway.ca_path(), "localhost"),
        Ok(200)
    );
    gateway.restart();
    assert_eq!(files()[2], new_leaf);
}

pub fn pair(leaf: &Leaf) -> String {
    let Leaf { certificate, key } = leaf;
    format!(
        "{{certificate: \"{}\", key: \"{}\"}}",
        certificate.display(),
        key.display()
    )
}

pub fn listening_with(pairs: &[String]) -> String {
    format!(
        "listen: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{}]}}}}]\n",
        pairs.join(", ")
    )
}

#[test]
fn sni_selects_the_certificate_and_the_first_is_default() {
    let ca = Ca::new();
    let first = ca.issue(&["a.example", "127.0.0.1"]);
    let second = ca.issue(&["b.example", "*.b.example"]);
    let yaml = listening_with(&[pair(&first), pair(&second)]);
    let gateway = Gateway::start(&yaml);
    let url = gateway.url(0);
    // Clients send no SNI for an address: they get the default.
    for name in ["a.example", "b.example", "x.b.example", "127.0.0.1"] {
        assert_eq!(ask(url, &ca.path(), name), Ok(200), "{name}");
    }
    for name in ["c.example", "x.a.example", "y.x.b.example"] {
        let error = ask(url, &ca.path(), name).expect_err("a name without a certificate");
        let shown = error
            .split_once("only valid for")
            .map_or("", |(_, shown)| shown);
        assert!(
            shown.contains("a.example") && !shown.contains("b.example"),
            "{error}"
        );
    }
    assert!(
        !gateway.dir().join("var/keys").exists(),
        "nothing of ours was needed"
    );
    // In reverse order the address has no certificate.
    let gateway = Gateway::start(&listening_with(&[pair(&second), pair(&first)]));
    assert!(ask(gateway.url(0), &ca.path(), "127.0.0.1").is_err());
    assert_eq!(ask(gateway.url(0), &ca.path(), "a.example"), Ok(200));
}

#[test]
fn unusable_certificate_is_reported_before_listening() {
    let ca = Ca::new();
    let (good, other) = (ca.issue(&["a.example"]), ca.issue(&["b.example"]));
    let dir = testkit::temp_dir();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path
    };
    let garbage = file("garbage.pem", "no pem at all\n");
    let empty = file("empty.pem", "");
    let torn = file("torn.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let absent = dir.path().join("absent.pem");
    // A port of another process: opening it would be another error.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound");
    let leaf = |certificate: &Path, key: &Path| Leaf {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    for (bad, named) in [
        (leaf(&absent, &good.key), &absent),
        (leaf(&good.certificate, &absent), &absent),
        (leaf(&garbage, &good.key), &garbage),
        (leaf(&empty, &good.key), &empty),
        (leaf(&torn, &good.key), &torn),
        (leaf(&good.key, &good.key), &good.key),
        (leaf(&good.certificate, &garbage), &garbage),
        (
            leaf(&good.certificate, &good.certificate),
            &good.certificate,
        ),
        (leaf(&good.certificate, &other.key), &other.key),
    ] {
        for pairs in [vec![pair(&bad)], vec![pair(&good), pair(&bad)]] {
            let yaml = format!(
                "listen:\n- {{address: \"{taken}\", tls: off}}\n\
                 - {{address: \"127.0.0.1:0\", tls: {{certificates: [{}]}}}}\nadmin: {{address: off}}\n",
                pairs.join(", ")
            );
            let output = Gateway::refused(&yaml);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{said}");
            assert!(said.contains(&named.display().to_string()), "{said}");
            assert!(output.stdout.is_empty(), "{:?}", output.stdout);
        }
    }
}

#[test]
fn alpn_offers_both_versions() {
    let gateway = Gateway::start("registries: [docker.io]\n");
    let ca = gateway.ca_path();
    for (offered, agreed) in [
        (&["h2"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["h2", "http/1.1"], Some(b"h2")),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&[], None),
    ] {
        let stream = converse(&gateway, &client_config(&ca, offered));
        assert_eq!(stream.conn.alpn_protocol(), agreed, "{offered:?}");
    }
}

#[test]
fn sessions_are_resumed() {
    testkit::tls::install_provider();
    let gateway = Gateway::start("registries: [docker.io]\n");
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(gateway.ca_path()).expect("our CA");
    roots.add(ca).expect("a CA");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let config = Arc::new(config);
        let kinds = [(); 3].map(|()| converse(&gateway, &config).conn.handshake_kind());
        let expected = [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ];
        assert_eq!(kinds, expected.map(Some), "{version:?}");
    }
}

#[test]
fn plain_http_on_a_tls_port_gets_an_error() {
    let gateway = Gateway::start("registries: [docker.io]\n");
    let mut raw = Raw::connect(&format!("http://{}", gateway.authority(0)), None);
    let reply = raw.get("/v2/");
    assert_eq!(
        (reply.status(), reply.header("content-type")),
        (400, Some("application/json"))
    );
    assert_eq!(
        reply.header("docker-distribution-api-version"),
        Some("registry/2.0")
    );
    assert!(
        reply.error_code().is_some() && reply.text().contains("https://"),
        "{reply:?}"
    );
    assert_eq!(raw.read_to_end(), (Vec::new(), testkit::http::Cut::Closed));
}
