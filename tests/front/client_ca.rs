//! Client certificates, and authorities that change.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use super::certificates::pair;
use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw};
use testkit::tls::{Ca, Leaf, certificates, client_config_as};
use testkit::{SOON, temp_dir, until};

/// A gateway that requires client certificates of `client_ca` on listener 0, and its CA. Listener 1 has the same
/// certificate and requires none.
fn scene(client_ca: &Path) -> (Gateway, Ca) {
    let ca = Ca::new();
    let pair = pair(&ca.issue(&["localhost", "127.0.0.1"]));
    let gateway = Gateway::start(&format!(
        "listen:\n\
         - {{address: \"127.0.0.1:0\", tls: {{certificates: [{pair}], client_ca: \"{}\"}}}}\n\
         - {{address: \"127.0.0.1:0\", tls: {{certificates: [{pair}]}}}}\n",
        client_ca.display()
    ));
    (gateway, ca)
}

/// A connection of a client with or without a certificate, after a response; in TLS 1.3 a client learns only then that
/// it was refused.
fn enter(gateway: &Gateway, ca: &Ca, identity: Option<&Leaf>) -> io::Result<Raw> {
    let trusted = ca.path();
    let how = Connect {
        ca: Some(&trusted),
        identity,
        ..Connect::default()
    };
    let mut raw = Raw::connect_with(gateway.url(0), how)?;
    raw.try_send("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let head = raw
        .read_head()
        .map_err(|cut| io::Error::other(format!("{cut:?}")))?;
    assert_eq!(head.status, 200);
    raw.read_body("GET", &head);
    Ok(raw)
}

fn may_enter(gateway: &Gateway, ca: &Ca, identity: Option<&Leaf>) -> bool {
    enter(gateway, ca, identity).is_ok()
}

/// One request with a configuration, which stores sessions to resume; returns the kind of handshake.
fn converse(
    gateway: &Gateway,
    listener: usize,
    config: &Arc<ClientConfig>,
) -> io::Result<HandshakeKind> {
    let socket = TcpStream::connect(gateway.authority(listener))?;
    socket.set_read_timeout(Some(SOON))?;
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    Ok(stream.conn.handshake_kind().expect("a handshake"))
}

/// A client that speaks one version of TLS and stores its sessions.
fn client(
    version: &'static SupportedProtocolVersion,
    ca: &Ca,
    identity: Option<&Leaf>,
) -> Arc<ClientConfig> {
    let any = client_config_as(&ca.path(), &[], identity);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&ca.path()));
    let mut config = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.client_auth_cert_resolver = any.client_auth_cert_resolver.clone();
    Arc::new(config)
}

#[test]
fn client_ca_is_required() {
    let clients = Ca::new();
    let (gateway, ca) = scene(&clients.path());
    let known = clients.issue(&["one"]);
    let unknown_ca = Ca::new();
    // A certificate of an unknown CA, and one of the CA that issued the gateway's own certificate.
    let (other, neighbour) = (unknown_ca.issue(&["one"]), ca.issue(&["one"]));
    for version in [&TLS13, &TLS12] {
        for (identity, let_in) in [
            (Some(&known), true),
            (None, false),
            (Some(&other), false),
            (Some(&neighbour), false),
        ] {
            let config = client(version, &ca, identity);
            let entered = converse(&gateway, 0, &config);
            assert_eq!(
                entered.is_ok(),
                let_in,
                "{version:?} {identity:?}: {entered:?}"
            );
            assert!(
                converse(&gateway, 1, &config).is_ok(),
                "nothing is asked for"
            );
        }
        // Sessions are resumed, but none from the listener without client certificates.
        let config = client(version, &ca, Some(&known));
        let kinds = [(); 2].map(|()| converse(&gateway, 0, &config).expect("an answer"));
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
        let config = client(version, &ca, None);
        let kinds = [(); 2].map(|()| converse(&gateway, 1, &config).expect("an answer"));
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
        assert!(converse(&gateway, 0, &config).is_err(), "{version:?}");
    }
}

#[test]
fn replaced_client_ca_invalidates_old_sessions() {
    let (old, new) = (Ca::new(), Ca::new());
    let dir = temp_dir();
    let file = dir.path().join("clients.pem");
    std::fs::copy(old.path(), &file).expect("copied");
    let (gateway, ca) = scene(&file);
    let (one, two) = (old.issue(&["one"]), new.issue(&["two"]));
    let mut open = enter(&gateway, &ca, Some(&one)).expect("a client of ours");
    let sessions = [&TLS13, &TLS12].map(|version| client(version, &ca, Some(&one)));
    for config in &sessions {
        let kinds = [(); 2].map(|()| converse(&gateway, 0, config).expect("an answer"));
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    }
    assert!(!may_enter(&gateway, &ca, Some(&two)));

    // Both, one, and an invalid file: client certificates are required all the time.
    let both = [old.path(), new.path()].map(|path| std::fs::read(path).expect("readable"));
    std::fs::write(&file, both.concat()).expect("writable");
    until("the new authority", || may_enter(&gateway, &ca, Some(&two)));
    assert!(may_enter(&gateway, &ca, Some(&one)));
    std::fs::copy(new.path(), &file).expect("copied");
    until("the old one's end", || {
        !may_enter(&gateway, &ca, Some(&one))
    });
    for config in &sessions {
        assert!(
            converse(&gateway, 0, config).is_err(),
            "a session was resumed"
        );
    }
    assert!(may_enter(&gateway, &ca, Some(&two)));
    assert_eq!(open.get("/v2/").status(), 200);

    for (count, harm) in ["no pem", ""].into_iter().enumerate() {
        std::fs::write(&file, harm).expect("writable");
        until("the refusal", || {
            assert!(!may_enter(&gateway, &ca, None));
            let refusals = gateway.log().matches("changed files are refused").count();
            refusals == count + 1
        });
        let words = "clients.pem holds no certificate";
        assert_eq!(gateway.log().matches(words).count(), count + 1);
        assert!(may_enter(&gateway, &ca, Some(&two)));
        assert!(!may_enter(&gateway, &ca, Some(&one)));
    }
    std::fs::copy(old.path(), &file).expect("copied");
    until("the repaired file", || may_enter(&gateway, &ca, Some(&one)));
    assert!(!may_enter(&gateway, &ca, Some(&two)));
    assert_eq!(open.get("/v2/").status(), 200);
}

#[test]
fn unusable_client_ca_is_reported_before_listening() {
    let ca = Ca::new();
    let good = ca.issue(&["a.example"]);
    let dir = temp_dir();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path
    };
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bad in [
        dir.path().join("absent.pem"),
        file("garbage.pem", "no pem at all\n"),
        file("empty.pem", ""),
        file("torn.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n"),
        file("hollow.pem", hollow),
        good.key.clone(),
    ] {
        let output = Gateway::refused(&format!(
            "listen: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{}], client_ca: \"{}\"}}}}]\n\
             admin: {{address: off}}\n",
            pair(&good),
            bad.display()
        ));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(&bad.display().to_string()), "{said}");
        assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    }
}
