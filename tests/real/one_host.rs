//! One hostname with three registries behind it in one namespace: `hosted`, the default, which any client on the
//! network could use; `vault`, with an account of the gateway; and docker.io, which owns `library/**`. All are
//! docker-registry 2.8.2.

use std::collections::BTreeSet;

use testkit::gateway::Gateway;
use testkit::image::Layout;
use testkit::real::{Account, Counters, HOST, Missing, Registry, Wire, program};
use testkit::{basic, temp_dir};

/// The password of all users.
pub const PASSWORD: &str = "s3cret";
/// The bcrypt hash of that password (cost 4).
const HASH: &str = "$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC";
/// Users who may push. Wrong passwords slow down their sender, so each attempt uses another one.
pub const PUSHERS: [&str; 11] = [
    "docker-deployer",
    "deployer-1",
    "deployer-2",
    "deployer-3",
    "deployer-4",
    "deployer-5",
    "deployer-6",
    "deployer-7",
    "deployer-8",
    "deployer-9",
    "deployer-10",
];
/// The gateway's own account at `vault`.
const OURS: Account<'_> = Account {
    user: "the-gateway",
    password: "0ther: s3cret",
};

/// A registry that takes pushes, and the recorded wire between it and the gateway.
pub struct Backend {
    /// The prefix of its names at the gateway.
    pub prefix: &'static str,
    pub registry: Registry,
    wire: Wire,
}

impl Backend {
    fn new(prefix: &'static str, registry: Registry, layout: &Layout) -> Result<Self, Missing> {
        let wire = Wire::to(registry.authority());
        let backend = Self {
            prefix,
            registry,
            wire,
        };
        for name in ["team/app:1", "open/app:1"] {
            backend.registry.push(layout, &layout.made("old"), name)?;
        }
        Ok(backend)
    }

    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

pub struct Scene {
    pub backends: [Backend; 2],
    pub hub: Registry,
    pub layout: Layout,
    pub gateway: Gateway,
    _users: tempfile::TempDir,
}

impl Scene {
    pub fn start() -> Result<Self, Missing> {
        let mut layout = Layout::new();
        layout.add_image("old", 1, 100_000);
        layout.add_image("new", 2, 100_000);
        let vault = Registry::start_with_account(OURS.user, OURS.password)?;
        let backends = [
            Backend::new("", Registry::start()?, &layout)?,
            Backend::new("vault/", vault, &layout)?,
        ];
        let hub = Registry::start()?;
        hub.push(&layout, &layout.made("old"), "library/small:1")?;
        let users = temp_dir();
        let htpasswd = users.path().join("users");
        let lines = ["reader"].iter().chain(&PUSHERS);
        let lines: Vec<String> = lines.map(|user| format!("{user}:{HASH}")).collect();
        std::fs::write(&htpasswd, lines.join("\n")).expect("writable");
        program("unshare")?;
        let gateway = Gateway::start_under(
            // `tls: auto` makes a certificate for the name of the machine.
            &["unshare", "--uts", "sh", "-c", NAMED, HOST],
            &format!(
                "listen:
  - {{address: \"127.0.0.1:0\"}}
  - {{address: \"127.0.0.1:0\", tls: off, read_only: true, registry: docker.io}}
registries:
  # Tags are fresh for longer than the test takes: who pushes through the gateway sees the new ones.
  - {{name: hosted, v2: \"{}\", push: true, default: true, tag_ttl: 1h}}
  - {{name: vault, v2: \"{}\", push: true, tag_ttl: 1h, credentials: {{username: {}, password: \"{}\"}}}}
  - {{name: docker.io, v2: \"{}\", owns: [\"library/**\"]}}
access:
  htpasswd: {}
  rules:
  - {{users: [{}], repositories: [\"hosted/**\", \"vault/**\"], actions: [pull, push, delete]}}
  - {{users: [\"*\"], repositories: [\"**\"], actions: [pull]}}
  - {{users: [anonymous], repositories: [\"docker.io/**\", \"hosted/open/**\", \"vault/open/**\"], actions: [pull]}}
",
                backends[0].wire.url(),
                backends[1].wire.url(),
                OURS.user,
                OURS.password,
                hub.url(),
                htpasswd.display(),
                PUSHERS.join(", "),
            ),
            &[],
        );
        Ok(Self {
            backends,
            hub,
            layout,
            gateway,
            _users: users,
        })
    }

    /// The host and port by which clients reach the gateway.
    pub fn authority(&self) -> String {
        let (_, port) = self.gateway.authority(0).rsplit_once(':').expect("a port");
        format!("{HOST}:{port}")
    }

    /// The registries' request counters, docker.io last.
    pub fn counters(&self) -> [Counters; 3] {
        let [hosted, vault] = &self.backends;
        [&hosted.registry, &vault.registry, &self.hub].map(Registry::counters)
    }

    /// No user's login has reached a registry, in whatever form.
    pub fn check_wires(&self) {
        let ours = basic(OURS.user, OURS.password);
        for (backend, own) in self.backends.iter().zip([None, Some(&ours)]) {
            let sent = backend.wire.sent();
            let sent = String::from_utf8_lossy(&sent);
            let logins: BTreeSet<&str> = sent
                .lines()
                .filter_map(|line| line.split_once(": "))
                .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
                .map(|(_, value)| value.trim_end())
                .collect();
            let own: BTreeSet<&str> = own.map(String::as_str).into_iter().collect();
            assert_eq!(logins, own, "what {:?} was shown", backend.prefix);
            for secret in [PASSWORD, "docker-deployer", "wr0ng"] {
                // The gateway's own password contains the word, but is sent in base64.
                assert!(
                    !sent.contains(secret),
                    "{secret} reached {:?}",
                    backend.prefix
                );
            }
            assert!(
                sent.contains("PUT /v2/team/app/manifests/1 HTTP/1.1"),
                "the wire is read"
            );
        }
        let log = self.gateway.log();
        for secret in [PASSWORD, OURS.password, "wr0ng"] {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}

/// Sets the machine's host name to the first argument, then executes the rest.
const NAMED: &str = r#"echo "$0" >/proc/sys/kernel/hostname && exec "$@""#;
