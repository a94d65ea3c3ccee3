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
use crate::request_ids::logged;
use serde_json::Value;
use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw, Reply};
use testkit::image::random;
use testkit::origin::{Image, Origin};
use testkit::tls::{Ca, Leaf, certificates, client_config_as};
use testkit::{SOON, basic, temp_dir, until};

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

/// `reader`, with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

/// Gateways with their own certificate, which require client certificates on all listeners but the second, and let
/// `cert:runner` pull.
struct Users {
    _origin: Origin,
    image: Image,
    clients: Ca,
    gateway: Gateway,
    _htpasswd: tempfile::TempDir,
}

impl Users {
    fn new(accounts: bool) -> Self {
        let (origin, clients) = (Origin::start(), Ca::new());
        let image = origin.push_image("team/app", "latest", &[random(1, 1000)]);
        let htpasswd = temp_dir();
        let users = htpasswd.path().join("users");
        std::fs::write(&users, USERS).expect("writable");
        let (accounts, reader) = if accounts {
            let line = format!("  htpasswd: {}\n", users.display());
            (line, ", reader")
        } else {
            (String::new(), "")
        };
        let ca = clients.path();
        let ca = ca.display();
        let gateway = Gateway::start(&format!(
            "listen:\n- {{address: \"127.0.0.1:0\", tls: {{client_ca: \"{ca}\"}}}}\n\
             - {{address: \"127.0.0.1:0\"}}\n\
             - {{address: \"127.0.0.1:0\", tls: {{client_ca: \"{ca}\"}}, read_only: true}}\n\
             registries: [{{name: hosted, v2: \"{}\"}}]\n\
             access:\n{accounts}  rules:\n  \
             - {{users: [\"cert:runner\"{reader}], repositories: [\"hosted/**\"], actions: [pull]}}\n",
            origin.url()
        ));
        Self {
            _origin: origin,
            image,
            clients,
            gateway,
            _htpasswd: htpasswd,
        }
    }

    fn connect(&self, listener: usize, user: Option<&str>) -> io::Result<Raw> {
        let (ca, identity) = (
            self.gateway.ca_path(),
            user.map(|user| self.clients.issue_to(user)),
        );
        let how = Connect {
            ca: Some(&ca),
            identity: identity.as_ref(),
            ..Connect::default()
        };
        Raw::connect_with(self.gateway.url(listener), how)
    }

    #[track_caller]
    fn ask(
        &self,
        listener: usize,
        user: Option<&str>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Reply {
        let mut raw = self.connect(listener, user).expect("a connection");
        raw.exchange("GET", path, headers)
    }
}

#[test]
fn certificates_are_users_of_the_rules() {
    for accounts in [false, true] {
        let scene = Users::new(accounts);
        let path = scene.image.tag_path();
        // The anonymous are challenged where there are accounts.
        let denied = if accounts { 401 } else { 403 };
        let without = scene.connect(0, None).and_then(|mut raw| {
            raw.try_send("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n")?;
            raw.read_head()
                .map_err(|cut| io::Error::other(format!("{cut:?}")))
        });
        assert!(without.is_err(), "{without:?}");
        for (listener, user, ping, pull) in [
            (0, Some("runner"), 200, 200),
            (0, Some("another"), 200, 403),
            // A certificate for a host is no user.
            (
                0,
                Some("*.example.com"),
                if accounts { 401 } else { 200 },
                denied,
            ),
            (1, None, if accounts { 401 } else { 200 }, denied),
            (2, Some("runner"), 200, 403),
        ] {
            let pinged = scene.ask(listener, user, "/v2/", &[]);
            assert_eq!(pinged.status(), ping, "{listener} {user:?} {accounts}");
            let pulled = scene.ask(listener, user, &path, &[]);
            assert_eq!(pulled.status(), pull, "{listener} {user:?} {accounts}");
            let line = logged(
                &scene.gateway,
                pulled.header("x-request-id").expect("an id"),
            );
            let named = match (listener, user) {
                (0, Some(user)) if !user.contains('*') => format!("user=\"cert:{user}\""),
                _ => "user=\"anonymous\"".to_owned(),
            };
            assert!(line.contains(&named), "{line}");
        }
        if accounts {
            // A password goes before the certificate.
            let reader = basic("reader", "s3cret");
            let wrong = basic("reader", "s3creT");
            for (user, login, status, named) in [
                ("another", &reader, 200, "reader"),
                ("runner", &wrong, 401, "anonymous"),
            ] {
                let headers = [("Authorization", login.as_str())];
                let reply = scene.ask(0, Some(user), &path, &headers);
                assert_eq!(reply.status(), status);
                let id = reply.header("x-request-id").expect("an id");
                let line = logged(&scene.gateway, id);
                assert!(line.contains(&format!("user=\"{named}\"")), "{line}");
            }
        }
    }
}

#[test]
fn tokens_of_a_certificate_are_worth_nothing_without_it() {
    let scene = Users::new(true);
    let path = scene.image.tag_path();
    let token = |scope: &str| {
        let reply = scene.ask(0, Some("runner"), &format!("/token?scope={scope}"), &[]);
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let answer: Value = serde_json::from_str(&reply.text()).expect("JSON");
        let granted = answer["scope"].as_str().expect("a scope").to_owned();
        (
            format!("Bearer {}", answer["token"].as_str().expect("a token")),
            granted,
        )
    };
    let (pull, granted) = token("repository:team/app:pull,push");
    assert_eq!(granted, "repository:team/app:pull");
    let (other, _) = token("repository:team/other:pull");
    for (listener, user, token, status) in [
        (0, Some("runner"), &pull, 200),
        (0, Some("runner"), &other, 401),
        (0, Some("another"), &pull, 403),
        (1, None, &pull, 401),
    ] {
        let headers = [("Authorization", token.as_str())];
        let reply = scene.ask(listener, user, &path, &headers);
        assert_eq!(reply.status(), status, "{listener} {user:?}");
    }
}

/// The gateway shows a certificate of its own for the address that a client connects to, and requires one there as well.
#[test]
fn client_ca_is_required_on_every_address() {
    let (clients, strangers) = (Ca::new(), Ca::new());
    let gateway = Gateway::start(&format!(
        "listen: [{{address: \":0\", tls: {{client_ca: \"{}\"}}}}]\n",
        clients.path().display()
    ));
    let ca = gateway.ca_path();
    let (_, port) = gateway.url(0).rsplit_once(':').expect("a port");
    let (runner, stranger) = (clients.issue_to("runner"), strangers.issue_to("runner"));
    // The second is none that is configured.
    for host in ["127.0.0.1", "127.0.0.5"] {
        for (identity, let_in) in [
            (Some(&runner), true),
            (Some(&stranger), false),
            (None, false),
        ] {
            let how = Connect {
                ca: Some(&ca),
                identity,
                ..Connect::default()
            };
            let entered =
                Raw::connect_with(&format!("https://{host}:{port}"), how).and_then(|mut raw| {
                    raw.try_send("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n")?;
                    raw.read_head()
                        .map_err(|cut| io::Error::other(format!("{cut:?}")))
                });
            assert_eq!(entered.is_ok(), let_in, "{host} {identity:?}: {entered:?}");
        }
    }
}
