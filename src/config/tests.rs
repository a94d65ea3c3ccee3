//! The contract of the design, sentence by sentence: every default, every example.

mod dependent_defaults;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::access::Action;
use ::store::MinFree;
use gateway::CertificateFiles;
use oci::glob::Pattern;
use runtime::share::PerClient;
use telemetry::Format;
use tracing::Level;

use super::fault::Report;
use super::*;
use ::access::Users;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn no_env(_: &str) -> Option<String> {
    None
}

/// Parses a text, with a few variables set.
pub(super) fn typed(text: &str) -> Result<Config, Faults> {
    let env = |name: &str| match name {
        "KEY" => Some("the key".to_owned()),
        "EMPTY" => Some(String::new()),
        "SECRET" => Some("the secret: it is # odd".to_owned()),
        _ => None,
    };
    let mut report = Report::new("f");
    let tree = yaml::tree(text, &env, &mut report);
    let mut config = read(&tree, &mut report);
    check::config(&config, &tree, &mut report);
    config.warnings = report.verdict()?;
    Ok(config)
}

/// Asserts the faults of each text, in order, as `line:column: message`; warnings begin with
/// `warning:`.
pub(super) fn assert_faults(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        let (faults, warning) = match typed(text) {
            Ok(config) => (config.warnings, "warning: "),
            Err(faults) => (faults.as_slice().to_vec(), ""),
        };
        let messages = faults
            .iter()
            .map(|fault| fault.to_string().replacen("f:", warning, 1));
        assert_eq!(messages.collect::<Vec<_>>(), *expected, "{text}");
    }
}

pub(super) fn tcp(host: &str, port: u16) -> ListenAddress {
    ListenAddress::Tcp {
        host: (!host.is_empty()).then(|| host.to_owned()),
        port,
    }
}

#[test]
fn an_empty_file_is_a_mirror_of_docker_hub() {
    let empty = [
        "",
        "# nothing\n",
        "---\n",
        "store:\nlimits:\nlisten:\nregistries:\naccess:\nkeys: ~\n",
    ];
    for text in empty {
        assert_defaults(&parse(text, "f", &no_env).unwrap());
    }
    assert_defaults(&load(None, NamedFiles::Checked).unwrap());
}

pub(super) fn assert_defaults(config: &Config) {
    assert_eq!(config.keys, Path::new("var/keys"));
    assert!(config.warnings.is_empty());

    let [gateway, mirror] = config.listen.as_slice() else {
        panic!("two listeners");
    };
    assert_eq!(gateway.address, tcp("127.0.0.1", 5000));
    assert_eq!(gateway.tls, Tls::AUTO);
    assert!(!gateway.read_only);
    assert_eq!(gateway.registry, None);
    assert_eq!(gateway.public_url, None);
    assert_eq!(mirror.address, tcp("127.0.0.1", 5001));
    assert_eq!(mirror.tls, Tls::Off);
    assert!(mirror.read_only);
    assert_eq!(mirror.registry.as_deref(), Some("docker.io"));
    assert_eq!(mirror.public_url, None);

    assert_eq!(config.admin.address, Some(tcp("127.0.0.1", 5002)));
    assert_eq!(config.admin.metrics, None);

    let store = &config.store;
    assert_eq!(store.path, Path::new("var/store"));
    assert_eq!(store.max_size, 100 << 30);
    assert_eq!(store.min_free, MinFree::Percent(5.0));
    assert_eq!(store.unused_ttl, Some(30 * DAY));
    assert_eq!(store.tag_ttl, 10 * MINUTE);
    assert_eq!(store.missing_ttl, Duration::from_secs(10));
    assert_eq!(store.link_ttl, 7 * DAY);
    assert_eq!(store.max_stale, MaxStale::For(7 * DAY));
    assert_eq!(store.scrub_every, Some(30 * DAY));
    assert!(store.bucket.is_none());

    let [hub] = config.registries.as_slice() else {
        panic!("one registry");
    };
    assert_bare(hub, "docker.io", "https://registry-1.docker.io");
    assert!(hub.default, "a sole registry is the default");

    assert!(config.access.is_none());
    assert!(matches!(config.routing.old_clients, OldClients::Default));
    let limits = Limits {
        header_bytes: 64 << 10,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        connections: 10_000,
        per_client: PerClient {
            connections: Some(256),
            requests: Some(512),
            rate: None,
        },
        fills: 64,
        drain: Duration::from_secs(30),
    };
    assert_eq!(config.limits, limits);
    let log = Log {
        format: Format::Text,
        level: Level::INFO,
        access: true,
    };
    assert_eq!(config.log, log);
}

pub(super) fn assert_bare(registry: &Registry, name: &str, v2: &str) {
    assert_eq!(registry.name, name);
    assert_eq!(registry.v2.as_ref().unwrap().to_string(), v2);
    assert!(registry.hosts.is_empty());
    assert!(registry.v1.is_none() && registry.v1_index.is_none());
    assert!(registry.accounts.is_empty() && registry.ca.is_none());
    assert!(registry.auth_hosts.is_empty() && registry.owns.is_empty());
    assert_eq!(registry.visibility, Visibility::Public);
    assert!(!registry.push && registry.cache && !registry.bridge);
    assert_eq!(registry.tag_ttl, 10 * MINUTE);
    assert_eq!(registry.missing_ttl, Duration::from_secs(10));
    assert_eq!(registry.link_ttl, 7 * DAY);
    assert_eq!(registry.unused_ttl, Some(30 * DAY));
}

/// The contract's page with everything after `# e.g.` switched on.
pub(super) const EVERYTHING: &str = r#"
keys: var/keys
listen:
  - address: "127.0.0.1:5000"
    tls: auto
  - {address: "127.0.0.1:5001", tls: off, read_only: true, registry: docker.io}
  - address: ":443"
    public_url: "https://registry.example.com"
    tls:
      certificates:
        - {certificate: certs/gateway.pem, key: certs/gateway.key}
      client_ca: certs/clients.pem
    trusted_proxies: ["10.0.0.0/8"]
    proxy_protocol: any
  - {address: ":444", tls: {acme: {directory: "https://acme-v02.api.letsencrypt.org/directory", email: ops@example.com, hosts: [registry.example.com]}}}
  - {address: "unix:run/roadstead.sock", mode: "0660", group: www-data}
admin:
  address: "127.0.0.1:5002"
  metrics: ":9090"
store:
  path: var/store
  max_size: 100GiB
  min_free: 5%
  unused_ttl: 30d
  tag_ttl: 10m
  missing_ttl: 10s
  link_ttl: 7d
  max_stale: 7d
  scrub_every: 30d
  bucket: {url: "s3://name/prefix", endpoint: "http://127.0.0.1:9000", region: us-east-1,
           access_key: "${KEY}", secret_key: "${SECRET}"}
registries:
  - docker.io
  - name: ghcr.io
    gate:
      mode: enforce
      allow: ["library/**"]
      deny: ["**:*-rc*"]
      min_age: 3d
      pins: {"library/alpine:3.20": "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
      platforms: [linux/amd64, linux/arm64]
      signed_by: [conf/cosign.pub]
    credentials: {username: me, password_file: p}
    ca: certs/corporate.pem
    auth_hosts: [auth.example.org]
    visibility: rules
    tag_ttl: 1h
  - name: hosted
    hosts: [registry.example.com]
    v2: http://127.0.0.1:6002
    v1: http://127.0.0.1:6001
    v1_index: http://127.0.0.1:6003
    push: true
    cache: true
    default: true
    owns: ["team/**", "intern-*"]
    bridge: true
access:
  htpasswd: conf/htpasswd
  realm: Roadstead
  scheme: bearer
  token_key: "${ROADSTEAD_TOKEN_KEY:-}"
  rules:
    - {users: [docker-deployer], repositories: ["hosted/**"], actions: [pull, push, delete]}
    - {users: ["*"], repositories: ["**"], actions: [pull]}
    - {users: [anonymous], repositories: ["docker.io/**"], actions: [pull]}
routing:
  old_clients: default
limits: {header_bytes: 64KiB, header_timeout: 10s, idle_timeout: 75s, connections: 10000, per_client: {connections: 256, requests: 512, rate: 200/s}, fills: 64, drain: 30s}
log: {format: text, level: info, access: true}
"#;

#[test]
fn the_whole_contract_is_read() {
    let config = typed(EVERYTHING).unwrap();
    assert_eq!(config.warnings, []);

    let public = &config.listen[2];
    assert_eq!(public.address, tcp("", 443));
    let public_url = public.public_url.as_ref().unwrap();
    assert_eq!(public_url.to_string(), "https://registry.example.com");
    let files = CertificateFiles {
        certificate: "certs/gateway.pem".into(),
        key: "certs/gateway.key".into(),
    };
    let tls = Tls::Certificates {
        certificates: vec![files],
        client_ca: Some("certs/clients.pem".into()),
    };
    assert_eq!(public.tls, tls);
    let Tls::Acme(acme) = &config.listen[3].tls else {
        panic!("{:?}", config.listen[3]);
    };
    assert_eq!(acme.email.as_deref(), Some("ops@example.com"));
    assert!(acme.hosts.contains("registry.example.com"));
    let socket = &config.listen[4].permissions;
    assert_eq!(
        (socket.mode, socket.group.as_deref()),
        (Some(0o660), Some("www-data"))
    );
    assert_eq!(config.admin.metrics, Some(tcp("", 9090)));

    let bucket = config.store.bucket.as_ref().unwrap();
    assert_eq!(
        (bucket.name.as_str(), bucket.prefix.as_str()),
        ("name", "prefix")
    );
    assert_eq!(
        bucket.endpoint.as_ref().unwrap().to_string(),
        "http://127.0.0.1:9000"
    );
    assert_eq!(bucket.region.as_deref(), Some("us-east-1"));
    let account = bucket.account.as_ref().unwrap();
    assert_eq!(account.access_key.expose(), "the key");
    assert_eq!(account.secret_key.expose(), "the secret: it is # odd");

    let [hub, github, hosted] = config.registries.as_slice() else {
        panic!("three registries");
    };
    assert_bare(hub, "docker.io", "https://registry-1.docker.io");
    assert!(!hub.default);

    assert_eq!(github.v2.as_ref().unwrap().to_string(), "https://ghcr.io");
    let [
        Credentials::PasswordFile {
            username,
            password_file,
        },
    ] = &github.accounts[..]
    else {
        panic!("{:?}", github.accounts);
    };
    assert_eq!(
        (username.as_str(), password_file.as_path()),
        ("me", Path::new("p"))
    );
    assert_eq!(github.ca, Some(PathBuf::from("certs/corporate.pem")));
    assert_eq!(github.auth_hosts, ["auth.example.org"]);
    assert_eq!(github.visibility, Visibility::Rules);
    assert_eq!(github.tag_ttl, 60 * MINUTE);
    assert_eq!(github.missing_ttl, Duration::from_secs(10));

    assert_eq!(hosted.hosts, ["registry.example.com"]);
    assert_eq!(
        hosted.v2.as_ref().unwrap().to_string(),
        "http://127.0.0.1:6002"
    );
    assert_eq!(
        hosted.v1.as_ref().unwrap().to_string(),
        "http://127.0.0.1:6001"
    );
    assert_eq!(
        hosted.v1_index.as_ref().unwrap().to_string(),
        "http://127.0.0.1:6003"
    );
    assert!(hosted.push && hosted.cache && hosted.default && hosted.bridge);
    let owns: Vec<&str> = hosted.owns.iter().map(Pattern::as_str).collect();
    assert_eq!(owns, ["team/**", "intern-*"]);
    assert_eq!(hosted.visibility, Visibility::Rules);
    assert_eq!(hosted.tag_ttl, Duration::ZERO);
    assert_eq!(hosted.missing_ttl, Duration::ZERO);
    assert_eq!(hosted.link_ttl, 10 * MINUTE);
    assert_eq!(hosted.unused_ttl, Some(30 * DAY));

    let access = config.access.as_ref().unwrap();
    assert_eq!(access.htpasswd.as_deref(), Some(Path::new("conf/htpasswd")));
    assert_eq!(access.realm, "Roadstead");
    assert_eq!(access.scheme, ::access::Scheme::Bearer);
    assert!(access.token_key.is_none());
    let [deployer, everyone, anybody] = access.rules.as_slice() else {
        panic!("three rules");
    };
    assert_eq!(deployer.users, [Users::Named("docker-deployer".to_owned())]);
    assert_eq!(deployer.repositories[0].as_str(), "hosted/**");
    assert_eq!(
        deployer.actions,
        [Action::Pull, Action::Push, Action::Delete]
    );
    assert_eq!(everyone.users, [Users::LoggedIn]);
    assert_eq!(anybody.users, [Users::Anonymous]);
}

#[test]
fn debug_output_holds_no_secret() {
    let text = "registries: [{name: a.example, credentials: {username: me, password: s3cr3t}}]\n\
                access: {htpasswd: h, token_key: s3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3cr3t}";
    let shown = format!("{:?}", typed(text).unwrap());
    assert!(!shown.contains("s3cr3t"), "{shown}");
    assert!(shown.contains("[redacted]"), "{shown}");
}

#[test]
fn off_and_false_mean_the_same() {
    for off in ["off", "false", "'off'", "\"false\"", "'${OFF:-off}'"] {
        let text = format!(
            "listen: [{{address: ':443', tls: {off}, read_only: {off}}}]\n\
             admin: {{address: {off}, metrics: {off}}}\n\
             store: {{min_free: {off}, unused_ttl: {off}, max_stale: {off}, scrub_every: {off}, bucket: {off}}}\n\
             access: {off}\nlog: {{access: {off}}}"
        );
        let config = typed(&text).unwrap();
        assert_eq!(config.listen[0].tls, Tls::Off);
        assert!(config.admin.address.is_none() && config.admin.metrics.is_none());
        assert_eq!(config.store.min_free, MinFree::Bytes(0));
        assert_eq!(config.store.unused_ttl, None);
        assert_eq!(config.store.max_stale, MaxStale::For(Duration::ZERO));
        assert_eq!(config.store.scrub_every, None);
        assert!(config.store.bucket.is_none() && config.access.is_none() && !config.log.access);
    }
}

#[test]
fn old_clients_may_be_regexes() {
    let text = r"routing: {old_clients: ['^docker/1\.[0-5]\.', '^Go 1\.1 package http$']}";
    let OldClients::Patterns(patterns) = typed(text).unwrap().routing.old_clients else {
        panic!("patterns");
    };
    assert!(patterns[0].is_match("docker/1.5.0 go/go1.4.1"));
    assert_eq!(patterns.len(), 2);
}

#[test]
fn files_are_loaded_or_told_to_be_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    let load_bytes = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        load(Some(&path), NamedFiles::Checked)
    };
    assert_eq!(load_bytes(b"keys: k").unwrap().keys, Path::new("k"));
    let place = |faults: &Faults| {
        let [fault] = faults.as_slice() else {
            panic!("{faults}");
        };
        assert!(faults.to_string().starts_with(&path.display().to_string()));
        (fault.line, fault.column, fault.message.clone())
    };
    let utf8 = load_bytes(b"# \xc3\xbc\nkeys: \xff").unwrap_err();
    assert_eq!(
        place(&utf8),
        (2, 7, "not UTF-8; save the file as UTF-8".to_owned())
    );
    let large = load_bytes(&vec![b'#'; (1 << 20) + 1]).unwrap_err();
    assert_eq!(place(&large).2, yaml::TOO_LARGE);
    assert_eq!(load_bytes(&vec![b'#'; 1 << 20]).map(|_| ()), Ok(()));
    std::fs::remove_file(&path).unwrap();
    assert!(
        place(&load(Some(&path), NamedFiles::Checked).unwrap_err())
            .2
            .starts_with("cannot be read")
    );
    assert!(load(Some(folder.path()), NamedFiles::Checked).is_err());
}
