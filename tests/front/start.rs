//! The output and the errors of a start, and Unix sockets.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;

use testkit::gateway::Gateway;
use testkit::process::{self, Process};
use testkit::{eventually, http, sha256, temp_dir};

/// Starts the binary under a shell's limits; returns its output until it was ready.
fn start(yaml: &str, limits: &str) -> (Process, String, TempDir) {
    let dir = temp_dir();
    let file = |name: &str| dir.path().join(name);
    std::fs::write(file("f.yaml"), yaml).expect("writable");
    let mut command = process::command("sh");
    let script = format!("{limits}\nexec \"$0\" serve -c f.yaml");
    command.args(["-c", &script]).arg(testkit::binary());
    command.current_dir(dir.path());
    command.stdout(Stdio::from(File::create(file("out")).expect("writable")));
    let process = Process::spawn(&mut command, &file("err")).expect("sh runs");
    let printed = eventually("ready", || {
        let printed = process::read_lossy(&file("out"));
        printed.ends_with("\nready\n").then_some(printed)
    });
    (process, printed, dir)
}

const THREE: &str = "\
registries: [docker.io, ghcr.io]
listen:
- {address: \"127.0.0.1:0\"}
- {address: \"127.0.0.1:0\", tls: off, read_only: true, registry: docker.io}
- {address: \"unix:gateway.sock\", tls: off}
admin: {address: off}
";

#[test]
fn start_prints_addresses_ca_and_client_setup() {
    let (mut process, printed, dir) = start(THREE, "");
    let line = |start: &str| {
        let mut lines = printed.lines().filter_map(|line| line.strip_prefix(start));
        let found = lines
            .next()
            .unwrap_or_else(|| panic!("no {start:?} in\n{printed}"));
        assert_eq!(lines.next(), None, "{start} twice in\n{printed}");
        found.trim().to_owned()
    };
    let https = line("listening on https://");
    let http = line("listening on http://");
    let socket = dir.path().join("gateway.sock");
    assert_eq!(Path::new(&line("listening on unix:")), socket);
    assert_eq!(printed.matches("listening on ").count(), 3);

    let ca = dir.path().join("var/keys/ca.pem");
    let canonical = ca.canonicalize().expect("the CA is there");
    let said = line("CA  ");
    let said = said.strip_suffix(" (new)").expect("a new CA").to_owned();
    assert_eq!(
        Path::new(&said).canonicalize().expect("it is there"),
        canonical
    );
    let der = CertificateDer::from_pem_file(&ca).expect("a certificate");
    let hex = line("fingerprint  ").replace(':', "").to_lowercase();
    assert_eq!(format!("sha256:{hex}"), sha256(&der));

    let fingerprint = line("fingerprint  ");
    assert_eq!(
        line("{\"registry-mirrors\": "),
        format!("[\"http://{http}\"]}}")
    );
    assert_eq!(
        line("  roadstead setup docker --write --gateway "),
        format!("http://{http}")
    );
    assert_eq!(
        line("  roadstead setup containerd --write --gateway "),
        format!(
            "https://{https} --ca-fingerprint {fingerprint} --registry docker.io --registry ghcr.io"
        )
    );
    // The printed address works.
    let reply = http::get(&format!("https://{https}"), Some(&ca), "/v2/");
    assert_eq!(reply.status(), 200);
    assert!(process.terminate(Duration::from_secs(10)).success());
    let after = process::read_lossy(&dir.path().join("out"));
    assert_eq!(after, printed, "once, and nothing more");
}

/// On all addresses clients need a name, and a scheme's own port is left out. Without a URL for clients there are no lines
/// for them.
#[test]
fn start_prints_urls_that_clients_can_use() {
    let printed = |listeners: &str| {
        let yaml = format!("listen: [{listeners}]\nadmin: {{address: off}}\n");
        let (_process, printed, _dir) = start(&yaml, "");
        printed
    };
    let everywhere = printed(r#"{address: ":0", tls: off, read_only: true, registry: docker.io}"#);
    let first = everywhere.lines().next().expect("a line");
    let port = first.strip_prefix("listening on http://[::]:");
    let port = port.and_then(|rest| rest.strip_suffix(" (all addresses)"));
    let port: u16 = port.expect(first).parse().expect("a port");
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    let mirror = format!("{{\"registry-mirrors\": [\"http://{name}:{port}\"]}}\n");
    assert!(everywhere.contains(&mirror), "{everywhere}");
    for family in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert!(!everywhere.contains(&family), "{everywhere}");
    }
    let socket = printed(r#"{address: "unix:a.sock"}"#);
    assert!(!socket.contains("roadstead setup"), "{socket}");
    let proxied =
        printed(r#"{address: "unix:a.sock", tls: off, public_url: "https://r.example:443"}"#);
    let command = "roadstead setup containerd --write --gateway https://r.example:443 --registry";
    assert!(proxied.contains(command), "{proxied}");
}

/// Clients need no port for port 443. An address of its own is used, since others may listen on that port as well.
#[test]
fn start_on_port_443_prints_urls_without_a_port() {
    let address = std::net::SocketAddr::new(testkit::private_address().ip(), 443);
    if std::net::TcpListener::bind(address).is_err() {
        // This user may not listen there.
        return;
    }
    let yaml = format!(
        "listen: [{{address: \"{address}\"}}]\nadmin: {{address: off}}\nregistries: [docker.io]\n"
    );
    let (_process, printed, dir) = start(&yaml, "");
    let host = address.ip();
    assert!(
        printed.starts_with(&format!("listening on https://{host}:443\n")),
        "{printed}"
    );
    let command =
        format!("roadstead setup containerd --write --gateway https://{host} --ca-fingerprint ");
    assert!(printed.contains(&command), "{printed}");
    let ca = dir.path().join("var/keys/ca.pem");
    let reply = http::get(&format!("https://{host}:443"), Some(&ca), "/v2/");
    assert_eq!(reply.status(), 200);
}

/// A CA or store that was there before is not announced.
#[test]
fn new_ca_and_store_are_announced() {
    let mut gateway = Gateway::start("registries: [docker.io]\n");
    let folder = gateway.dir().canonicalize().expect("a folder");
    let warnings = |gateway: &Gateway| {
        let lines = gateway.log();
        let made = lines.lines().filter(|line| line.contains("made a new"));
        made.map(str::to_owned).collect::<Vec<_>>()
    };
    let [ca, store] = &warnings(&gateway)[..] else {
        panic!("{}", gateway.log())
    };
    for (line, path, words) in [
        (
            ca,
            "var/keys/ca.pem",
            "no client trusts yet. If clients trusted one before",
        ),
        (store, "var/store", "empty store. If there was one before"),
    ] {
        assert!(
            line.contains(&folder.join(path).display().to_string()),
            "{line}"
        );
        assert!(line.contains("WARN") && line.contains(words), "{line}");
    }
    gateway.restart();
    assert_eq!(warnings(&gateway).len(), 2, "once");
}

/// A folder with files of others is left as it is.
#[test]
fn keys_in_a_folder_with_other_files_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = temp_dir();
    let folder = dir.path().join("etc");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("hosts"), "").expect("writable");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("ours");
    for tls in ["auto", "off"] {
        let yaml = format!(
            "keys: {}\nlisten: [{{address: \"127.0.0.1:0\", tls: {tls}}}]\n\
             admin: {{address: off}}\naccess: {{htpasswd: {}}}\n",
            folder.display(),
            dir.path().join("htpasswd").display()
        );
        std::fs::write(dir.path().join("htpasswd"), "").expect("writable");
        let output = Gateway::refused(&yaml);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{tls}: {said}");
        assert!(
            said.contains("etc has other files (hosts)"),
            "{tls}: {said}"
        );
        let mode = std::fs::metadata(&folder)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755, "{tls}");
        let names = std::fs::read_dir(&folder).expect("a folder").count();
        assert_eq!(names, 1, "{tls}");
    }
}

#[test]
fn open_file_limit_is_raised() {
    let (process, ..) = start(
        "listen: [{address: \"127.0.0.1:0\", tls: off}]\nadmin: {address: off}\n",
        "ulimit -Sn 128",
    );
    let limits = process::read_lossy(Path::new(&format!("/proc/{}/limits", process.pid())));
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let values: Vec<&str> = line.expect("a limit").split_whitespace().collect();
    assert!(values[0] == values[1] && values[0] != "128", "{values:?}");
}

#[test]
fn without_tls_there_is_no_ca() {
    let yaml = "listen: [{address: \"127.0.0.1:0\", tls: off}]\nadmin: {address: off}\n";
    let (_process, printed, dir) = start(yaml, "");
    assert!(
        !printed.contains("fingerprint") && !printed.contains("ca.pem"),
        "{printed}"
    );
    assert!(!dir.path().join("var/keys").exists());
}

#[test]
fn socket_file_is_served_replaced_and_removed() {
    let mut gateway = Gateway::start("listen: [{address: \"unix:gateway.sock\", tls: off}]\n");
    let path = gateway.dir().join("gateway.sock");
    let serves = |gateway: &Gateway| http::get(gateway.url(0), None, "/v2/").status();
    assert_eq!(gateway.url(0), format!("unix:{}", path.display()));
    assert_eq!(serves(&gateway), 200);
    gateway.kill();
    assert!(path.exists(), "a power cut leaves it");
    gateway.restart();
    assert_eq!(serves(&gateway), 200);
    assert!(gateway.terminate().success());
    assert!(!path.exists());
    drop(UnixListener::bind(&path).expect("a stale socket"));
    gateway.restart();
    assert_eq!(serves(&gateway), 200);
}

#[test]
fn socket_file_over_tls() {
    let gateway = Gateway::start("listen: [{address: \"unix:gateway.sock\"}]\n");
    let path = gateway.dir().join("gateway.sock");
    let socket = UnixStream::connect(path).expect("a connection");
    socket
        .set_read_timeout(Some(http::WAIT))
        .expect("a timeout");
    let config = testkit::tls::client_config(&gateway.ca_path(), &["http/1.1"]);
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let session = rustls::ClientConnection::new(config, name).expect("a session");
    let mut stream = rustls::StreamOwned::new(session, socket);
    let request = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request).expect("it is taken");
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).expect("an end in order");
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        answer.escape_ascii()
    );
}

#[test]
fn socket_file_has_its_mode_and_group() {
    use std::os::unix::fs::MetadataExt as _;

    let group = rustix::process::getegid().as_raw();
    let gateway = Gateway::start(&format!(
        "listen:\n- {{address: \"unix:a.sock\", tls: off, mode: \"0666\"}}\n\
         - {{address: \"unix:b.sock\", tls: off, group: {group}}}\n"
    ));
    for (index, name, mode) in [(0, "a.sock", 0o666), (1, "b.sock", 0o660)] {
        let meta = std::fs::metadata(gateway.dir().join(name)).expect("a socket");
        assert_eq!((meta.mode() & 0o777, meta.gid()), (mode, group), "{name}");
        assert_eq!(http::get(gateway.url(index), None, "/v2/").status(), 200);
    }
}

/// One listener for both families, also where the system separates them.
#[test]
fn port_alone_listens_on_both_families() {
    let gateway = Gateway::start("listen: [{address: \":0\", tls: off}]\n");
    let port = gateway.url(0).rsplit(':').next().expect("a port");
    for address in ["127.0.0.1", "[::1]"] {
        if address == "[::1]" && std::net::TcpListener::bind("[::1]:0").is_err() {
            continue;
        }
        let url = format!("http://{address}:{port}");
        assert_eq!(http::get(&url, None, "/v2/").status(), 200, "{url}");
    }
}

/// Resources that another process holds are left alone: exit 1, and a message that names them.
#[test]
fn taken_addresses_are_refused() {
    let dir = temp_dir();
    let (live, plain) = (dir.path().join("live.sock"), dir.path().join("file"));
    let _live = UnixListener::bind(&live).expect("a live socket");
    std::fs::write(&plain, "precious").expect("writable");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound").to_string();
    for (address, cause) in [
        (taken, "another program listens there; `ss -ltnp`"),
        (
            "192.0.2.1:5000".to_owned(),
            "this machine has no such address",
        ),
        (
            "no.such.host.invalid:5000".to_owned(),
            "the name has no address here",
        ),
        (
            format!("unix:{}", live.display()),
            "another program listens there; `ss -lxp`",
        ),
        (
            format!("unix:{}", plain.display()),
            "a file that is no socket is there",
        ),
        (
            "unix:no/such/a.sock".to_owned(),
            "the folder no/such does not exist",
        ),
    ] {
        let yaml =
            format!("listen: [{{address: \"{address}\", tls: off}}]\nadmin: {{address: off}}\n");
        let output = Gateway::refused(&yaml);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{address}: {said}");
        let start = format!("cannot listen on {address} (listen): {cause}");
        assert!(said.contains(&start), "{said}");
        assert!(!said.contains("os error"), "{said}");
        assert!(output.stdout.is_empty(), "{address}");
    }
    assert!(UnixStream::connect(&live).is_ok());
    assert_eq!(process::read_lossy(&plain), "precious");
}

#[test]
fn store_is_locked_by_one_process() {
    let mut gateway = Gateway::start("registries: [docker.io]\n");
    let yaml = format!(
        "store: {{path: \"{}\"}}\nlisten: [{{address: \"127.0.0.1:0\", tls: off}}]\nadmin: {{address: off}}\n",
        gateway.store().display()
    );
    let output = Gateway::refused(&yaml);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("var/store"), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(http::get(gateway.url(1), None, "/v2/").status(), 200);
    // A lock that a killed process left does not count.
    gateway.kill();
    gateway.restart();
    assert_eq!(http::get(gateway.url(1), None, "/v2/").status(), 200);
}
