//! Certificates of an ACME authority: Pebble, the test server of Let's Encrypt, and authorities that fail.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::reload::{applied, refused};
use testkit::gateway::Gateway;
use testkit::http::{Connect, End, Raw, get};
use testkit::image::random;
use testkit::origin::{Fault, Latch, Origin};
use testkit::process::{self, Process};
use testkit::real::{Missing, found, program};
use testkit::tls::{Ca, client_config, shown};
use testkit::{SOON, eventually_within, free_port_on, temp_dir, until};

const GOT: &str = "got a certificate from the ACME authority";
const FAILED: &str = "cannot get a certificate from the ACME authority";
const NEW_ACCOUNT: &str = "made an account at the ACME authority";

/// What the authority does when a host is to be verified.
#[derive(Clone, Copy)]
enum Verify {
    /// It connects to these ports of this machine.
    At { tls: u16, http: u16 },
    /// It believes everything.
    Nothing,
}

/// The authority.
struct Authority {
    process: Process,
    /// The CA of its own address.
    ca: Ca,
    directory: String,
    management: String,
    dir: TempDir,
}

fn free_port() -> u16 {
    free_port_on(Ipv4Addr::LOCALHOST).port()
}

impl Authority {
    /// `validity` is that of its certificates, in seconds.
    fn start(verify: Verify, validity: u64) -> Result<Self, Missing> {
        let pebble = program("pebble")?;
        let (ca, dir) = (Ca::new(), temp_dir());
        let leaf = ca.issue(&["localhost", "127.0.0.1"]);
        let (port, management) = (free_port(), free_port());
        let (tls, http) = match verify {
            Verify::At { tls, http } => (tls, http),
            Verify::Nothing => (free_port(), free_port()),
        };
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": leaf.certificate,
            "privateKey": leaf.key,
            "httpPort": http,
            "tlsPort": tls,
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": validity,
        }});
        let path = dir.path().join("pebble.json");
        std::fs::write(&path, config.to_string()).expect("writable");
        let process = Self::spawn(&pebble, dir.path(), verify);
        let authority = Self {
            process,
            ca,
            directory: format!("https://127.0.0.1:{port}/dir"),
            management: format!("https://127.0.0.1:{management}"),
            dir,
        };
        authority.ready();
        Ok(authority)
    }

    fn spawn(pebble: &Path, dir: &Path, verify: Verify) -> Process {
        let mut command = process::command(pebble);
        command.arg("-config").arg(dir.join("pebble.json"));
        // Each order is verified anew, and at once.
        command.env("PEBBLE_AUTHZREUSE", "0");
        command.env("PEBBLE_VA_NOSLEEP", "1");
        command.env("PEBBLE_WFE_NONCEREJECT", "0");
        if let Verify::Nothing = verify {
            command.env("PEBBLE_VA_ALWAYS_VALID", "1");
        }
        let process = Process::spawn_logged(&mut command, &dir.join("log"));
        process.expect("a process")
    }

    fn ready(&self) {
        until("the authority listens", || {
            let address = |url: &str| {
                let rest = url.trim_start_matches("https://");
                rest.split('/').next().map(TcpStream::connect)
            };
            [&self.directory, &self.management]
                .into_iter()
                .all(|url| matches!(address(url), Some(Ok(_))))
        });
    }

    /// Starts another one at the same address, which knows no account.
    fn replace(&mut self, verify: Verify) {
        self.process.kill();
        let pebble = program("pebble").unwrap_or_else(|_| panic!("it was there"));
        self.process = Self::spawn(&pebble, self.dir.path(), verify);
        self.ready();
    }

    /// The PEM file of the CA that issues the certificates.
    fn root(&self) -> PathBuf {
        let path = self.dir.path().join("root.pem");
        let reply = get(&self.management, Some(&self.ca.path()), "/roots/0");
        assert_eq!(reply.status(), 200);
        std::fs::write(&path, reply.body).expect("writable");
        path
    }
}

/// `listen[].tls` with a certificate of an authority for these hosts.
fn acme(directory: &str, hosts: &str) -> String {
    format!("{{acme: {{directory: \"{directory}\", email: ops@example.com, hosts: [{hosts}]}}}}")
}

/// A registry, and the configuration of a gateway in front of it.
struct Scene {
    origin: Origin,
    tls_port: u16,
    http_port: u16,
}

impl Scene {
    fn new() -> Self {
        Self {
            origin: Origin::start(),
            tls_port: free_port(),
            http_port: free_port(),
        }
    }

    /// With this `tls` of the first listener; the second is as for a mirror in plain HTTP.
    fn yaml(&self, tls: &str) -> String {
        format!(
            "listen:\n\
             - {{address: \":{}\", tls: {tls}}}\n\
             - {{address: \":{}\", tls: off, read_only: true, registry: docker.io}}\n\
             admin: {{address: \"unix:admin.sock\"}}\n\
             registries: [{{name: docker.io, v2: \"{}\"}}]\n",
            self.tls_port,
            self.http_port,
            self.origin.url()
        )
    }

    /// A gateway that trusts this CA.
    fn start(&self, tls: &str, ca: &Path) -> Gateway {
        let trusted = ca.to_str().expect("a path");
        Gateway::start_with(&self.yaml(tls), &[("SSL_CERT_FILE", trusted)])
    }

    /// Whether the first listener has a certificate of this root for the host.
    fn answers(&self, root: &Path, host: &str) -> bool {
        let how = Connect {
            ca: Some(root),
            server_name: Some(host),
            ..Connect::default()
        };
        let url = format!("https://127.0.0.1:{}", self.tls_port);
        let connected = Raw::connect_with(&url, how);
        connected.is_ok_and(|mut raw| raw.get("/v2/").status() == 200)
    }

    fn shown(&self, root: &Path) -> rustls::pki_types::CertificateDer<'static> {
        shown(&format!("127.0.0.1:{}", self.tls_port), root, "localhost")
    }
}

fn count(gateway: &Gateway, words: &str) -> usize {
    gateway.log().matches(words).count()
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let below = |path: PathBuf| {
        if path.is_dir() {
            files(&path)
        } else {
            vec![path]
        }
    };
    paths.flat_map(below).collect()
}

/// The files of a gateway's certificates and accounts.
fn saved(gateway: &Gateway) -> Vec<PathBuf> {
    files(&gateway.dir().join("var/keys/acme"))
}

/// The one file with this extension.
fn only(gateway: &Gateway, extension: &str) -> PathBuf {
    let mut all = saved(gateway);
    all.retain(|path| path.extension().is_some_and(|it| it == extension));
    assert_eq!(all.len(), 1, "{all:?}");
    all.swap_remove(0)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("readable")
}

#[test]
fn certificate_is_ordered_by_tls_alpn_and_used_after_a_restart() {
    let scene = Scene::new();
    // Nothing listens on the port of HTTP-01.
    let verify = Verify::At {
        tls: scene.tls_port,
        http: free_port(),
    };
    let Some(authority) = found(Authority::start(verify, 86_400)) else {
        return;
    };
    let tls = acme(&authority.directory, "localhost");
    let mut gateway = scene.start(&tls, &authority.ca.path());
    let root = authority.root();
    until("a certificate", || scene.answers(&root, "localhost"));
    let log = gateway.log();
    assert!(log.contains("method=\"tls-alpn-01\""), "{log}");
    assert_eq!(count(&gateway, GOT), 1);
    let files = saved(&gateway);
    assert_eq!(files.len(), 2, "{files:?}");
    for file in &files {
        let mode = std::fs::metadata(file).expect("a file").mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    let contents: Vec<_> = files.iter().map(|file| read(file)).collect();
    let certificate = scene.shown(&root);
    gateway.restart();
    assert_eq!(scene.shown(&root), certificate);
    // It is ordered by the same account once it is not there any more.
    gateway.terminate();
    std::fs::remove_file(only(&gateway, "pem")).expect("removed");
    gateway.restart();
    until("another certificate", || scene.answers(&root, "localhost"));
    assert_ne!(scene.shown(&root), certificate);
    assert_eq!((count(&gateway, GOT), count(&gateway, NEW_ACCOUNT)), (2, 1));
    let kept = files
        .iter()
        .zip(&contents)
        .filter(|(file, bytes)| read(file) == **bytes);
    assert_eq!(kept.count(), 1, "the account");
}

#[test]
fn certificate_is_ordered_by_http_and_renewed() {
    let scene = Scene::new();
    // Nothing listens on the port of TLS-ALPN-01.
    let verify = Verify::At {
        tls: free_port(),
        http: scene.http_port,
    };
    let Some(authority) = found(Authority::start(verify, 30)) else {
        return;
    };
    let tls = acme(&authority.directory, "localhost");
    let gateway = scene.start(&tls, &authority.ca.path());
    let root = authority.root();
    until("a certificate", || scene.answers(&root, "localhost"));
    let log = gateway.log();
    assert!(log.contains("method=\"http-01\""), "{log}");
    let first = scene.shown(&root);
    // After two thirds of half a minute.
    eventually_within(3 * SOON, "a renewed certificate", || {
        let is_renewed = scene.answers(&root, "localhost") && scene.shown(&root) != first;
        is_renewed.then_some(())
    });
    assert_eq!(count(&gateway, NEW_ACCOUNT), 1);
    let plain = format!("http://127.0.0.1:{}", scene.http_port);
    let reply = get(&plain, None, "/.well-known/acme-challenge/other");
    assert_eq!(reply.status(), 404);
}

/// What an authority does that has no challenge in progress.
fn challenge(port: u16, ca: &Path) -> io::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(SOON))?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let config = client_config(ca, &["acme-tls/1"]);
    let mut session = ClientConnection::new(Arc::clone(&config), name).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(())
}

#[test]
fn gateway_serves_while_the_authority_cannot_be_reached() {
    let (scene, ca) = (Scene::new(), Ca::new());
    let directory = format!("https://127.0.0.1:{}/dir", free_port());
    let gateway = scene.start(&acme(&directory, "localhost"), &ca.path());
    until("the failure is logged", || count(&gateway, FAILED) == 1);
    let plain = format!("http://127.0.0.1:{}", scene.http_port);
    assert_eq!(get(&plain, None, "/v2/").status(), 200);
    // Until there is a certificate, clients get one that only the gateway has signed.
    let own = only(&gateway, "pem");
    assert!(scene.answers(&own, "localhost"));
    assert!(!scene.answers(&ca.path(), "localhost"));
    assert!(challenge(scene.tls_port, &own).is_err());
}

/// Writes a certificate of this CA over that of a gateway, which expires in ten days and is due since two weeks.
fn write_due(gateway: &Gateway, dir: &TempDir) -> PathBuf {
    let day = Duration::from_secs(24 * 3600);
    let params = |name: &str| rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let path = dir.path().join("root.pem");
    root.distinguished_name
        .push(rcgen::DnType::CommonName, "root");
    let pem = root.self_signed(&key).expect("a root").pem();
    std::fs::write(&path, pem).expect("writable");
    let issuer = rcgen::Issuer::new(root, key);
    let mut leaf = params("localhost");
    leaf.not_before = (SystemTime::now() - 80 * day).into();
    leaf.not_after = (SystemTime::now() + 10 * day).into();
    let key = rcgen::KeyPair::generate().expect("a key");
    let pem = leaf.signed_by(&key, &issuer).expect("a leaf").pem();
    std::fs::write(only(gateway, "pem"), pem + &key.serialize_pem()).expect("writable");
    path
}

#[test]
fn old_certificate_is_served_while_the_authority_fails() {
    let (scene, authority, dir) = (Scene::new(), Origin::start_tls(), temp_dir());
    let url = authority.url();
    authority.fault(Fault::status_with(429, "Retry-After", "7200").on("GET", "/limited"));
    authority.fault(Fault::status(503).on("GET", "/broken"));
    authority.fault(Fault::Hangup.on("GET", "/closed"));
    let down = format!("https://127.0.0.1:{}/dir", free_port());
    let mut gateway = scene.start(&acme(&down, "localhost"), &authority.ca_path());
    until("the first failure", || count(&gateway, FAILED) == 1);
    gateway.terminate();
    let root = write_due(&gateway, &dir);
    gateway.restart();
    let old = scene.shown(&root);
    until("the alert", || {
        count(&gateway, "a certificate expires soon") > 0
    });
    let failures = |directory: &str| -> Vec<String> {
        let log = gateway.log();
        let of = |line: &&str| line.contains(FAILED) && line.contains(directory);
        log.lines().filter(of).map(str::to_owned).collect()
    };
    until("a failure for each start", || failures(&down).len() == 2);
    for (directory, words, minutes) in [
        (
            format!("{url}/limited"),
            "it answered 429 Too Many Requests",
            120,
        ),
        (
            format!("{url}/broken"),
            "it answered 503 Service Unavailable",
            5,
        ),
        (format!("{url}/closed"), "error sending request", 5),
        // Its answer is JSON, and that of a registry.
        (format!("{url}/v2/"), "missing field", 5),
    ] {
        applied(&gateway.reload(&scene.yaml(&acme(&directory, "localhost"))));
        assert_eq!(scene.shown(&root), old);
        until(words, || failures(&directory).len() == 1);
        let line = failures(&directory).swap_remove(0);
        assert!(line.contains(words), "{line}");
        assert!(line.contains(&format!("retry_minutes={minutes}")), "{line}");
        assert_eq!(scene.shown(&root), old);
    }
    // It is the same file again.
    applied(&gateway.reload(&scene.yaml(&acme(&down, "localhost"))));
    assert_eq!(scene.shown(&root), old);
}

/// Waits for a client's end of a connection to be closed, and not by a timeout of the gateway's own.
fn closed(gateway: &Gateway, mut connection: TcpStream) {
    connection.set_read_timeout(Some(SOON)).expect("a timeout");
    let mut hello = Vec::new();
    // A reset is an end as well.
    let end = connection.read_to_end(&mut hello);
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    assert!(!hello.is_empty(), "a handshake had begun");
    assert_eq!(count(gateway, FAILED), 0);
}

#[test]
fn reload_hands_over_what_renews_certificates() {
    let (scene, ca) = (Scene::new(), Ca::new());
    // It accepts connections and says nothing.
    let authority = TcpListener::bind("127.0.0.1:0").expect("a port");
    let directory = format!(
        "https://{}/dir",
        authority.local_addr().expect("an address")
    );
    let accept = || authority.accept().expect("a connection").0;
    let tls = acme(&directory, "localhost");
    let gateway = scene.start(&tls, &ca.path());
    let first = accept();
    // Unchanged, with another change and without effect: it goes on.
    let changed = scene.yaml(&tls) + "limits: {idle_timeout: 60s}\n";
    applied(&gateway.reload(&changed));
    for (bad, words) in [
        (
            scene.yaml(&acme(&directory, "192.0.2.1")),
            "is not a host name",
        ),
        (
            scene.yaml(&acme("http://a/", "localhost")),
            "is not an https URL",
        ),
        (
            scene.yaml(&acme(&directory, "localhost, b.example"))
                + "audit: {path: /proc/none/audit.log}\n",
            "cannot open the audit log",
        ),
    ] {
        let told = refused(&gateway.reload(&bad));
        assert!(told.contains(words), "{told}");
    }
    // Other hosts are another certificate: the first one's order ends.
    applied(&gateway.reload(&scene.yaml(&acme(&directory, "localhost, b.example"))));
    closed(&gateway, first);
    let second = accept();
    applied(&gateway.reload(&scene.yaml("auto")));
    closed(&gateway, second);
    // Nothing else has connected.
    authority.set_nonblocking(true).expect("set");
    let more = authority.accept().map_err(|error| error.kind());
    assert_eq!(more.map(drop), Err(io::ErrorKind::WouldBlock));
    let ca = gateway.ca_path();
    assert!(scene.answers(&ca, "localhost"));
}

#[test]
fn hosts_change_by_a_reload() {
    let scene = Scene::new();
    let Some(mut authority) = found(Authority::start(Verify::Nothing, 86_400)) else {
        return;
    };
    let one = acme(&authority.directory, "localhost");
    // The admin address shares the certificate.
    let yaml = |tls: &str| {
        let (yaml, socket) = (scene.yaml(tls), "{address: \"unix:admin.sock\"}");
        assert!(yaml.contains(socket), "{yaml}");
        let address = format!("{{address: \"127.0.0.1:0\", tls: {tls}}}");
        yaml.replace(socket, &address)
    };
    let trusted = authority.ca.path();
    let trusted = trusted.to_str().expect("a path");
    let gateway = Gateway::start_with(&yaml(&one), &[("SSL_CERT_FILE", trusted)]);
    let root = authority.root();
    until("a certificate", || scene.answers(&root, "localhost"));
    let first = scene.shown(&root);
    until("that of the admin address", || {
        let url = gateway.operators("admin.address");
        let how = Connect {
            ca: Some(&root),
            server_name: Some("localhost"),
            ..Connect::default()
        };
        let connected = Raw::connect_with(url, how);
        connected.is_ok_and(|mut raw| raw.get("/livez").status() == 200)
    });
    assert_eq!((count(&gateway, GOT), count(&gateway, NEW_ACCOUNT)), (1, 1));
    let account =
        || -> Value { serde_json::from_slice(&read(&only(&gateway, "json"))).expect("JSON") };
    let before = account();

    // The address of the account changes with the next order; the key stays.
    let two = acme(&authority.directory, "localhost, b.example");
    applied(&gateway.reload(&yaml(&two.replace("ops@", "staff@"))));
    assert_eq!(
        scene.shown(&root),
        first,
        "it is served until there is another"
    );
    until("the other certificate", || {
        scene.answers(&root, "b.example")
    });
    assert!(scene.answers(&root, "localhost"));
    assert_eq!((count(&gateway, GOT), count(&gateway, NEW_ACCOUNT)), (2, 1));
    let after = account();
    assert_eq!(after["credentials"], before["credentials"]);
    assert_eq!(
        (&before["email"], &after["email"]),
        (&json!("ops@example.com"), &json!("staff@example.com"))
    );

    // The first hosts again: no order is needed.
    applied(&gateway.reload(&yaml(&one)));
    assert_eq!(scene.shown(&root), first);

    // An authority that has lost its accounts gets another.
    authority.replace(Verify::Nothing);
    let three = acme(&authority.directory, "localhost, c.example");
    applied(&gateway.reload(&yaml(&three)));
    let root = authority.root();
    until("a certificate of the new one", || {
        scene.answers(&root, "c.example")
    });
    assert_eq!((count(&gateway, GOT), count(&gateway, NEW_ACCOUNT)), (3, 2));
    assert_ne!(account()["credentials"], before["credentials"]);
    assert_eq!(count(&gateway, FAILED), 0);
}

#[test]
fn order_ends_when_the_gateway_drains() {
    let (scene, ca) = (Scene::new(), Ca::new());
    let authority = TcpListener::bind("127.0.0.1:0").expect("a port");
    let directory = format!(
        "https://{}/dir",
        authority.local_addr().expect("an address")
    );
    let digest = scene.origin.push_blob("library/app", random(1, 1 << 20));
    let latch = Latch::new();
    let pause = Fault::PauseAt(1 << 19, latch.clone());
    scene.origin.fault(pause.on("GET", "*/blobs/*"));
    let mut gateway = scene.start(&acme(&directory, "localhost"), &ca.path());
    let order = authority.accept().expect("a connection").0;
    let plain = format!("http://127.0.0.1:{}", scene.http_port);
    let mut client = Raw::connect(&plain, None);
    client.request("GET", &format!("/v2/library/app/blobs/{digest}"), &[]);
    let head = client.read_head().expect("an answer");
    latch.wait_reached(1);
    gateway.begin_termination();
    closed(&gateway, order);
    assert!(gateway.is_running(), "a request is in flight");
    latch.release();
    let (body, end) = client.read_body("GET", &head);
    assert_eq!((body.len(), end), (1 << 20, End::Complete));
    assert!(gateway.wait().success());
}
