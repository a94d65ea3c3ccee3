//! The environment of scripts: the real gateway in front of real and scripted registries.
//!
//! `hosted` is a docker-registry without accounts, bridged with a v1 registry; `vault` is a docker-registry that
//! only the gateway's account may use; on `shelf` some repositories are public, and the gateway's account may read
//! all of them. Many scripts run in one world; they share no names and no contents.

use std::fmt;
use std::path::PathBuf;

use super::rules::{Place, Rule};
use super::wire::RawRequest;
use testkit::basic;
use testkit::gateway::Gateway;
use testkit::http::{Cut, Reply};
use testkit::origin::{Auth, Bearer, Fault, MEDIA_INDEX, MEDIA_MANIFEST, Origin};
use testkit::real::{Missing, Registry};
use testkit::v1::V1Registry;

/// The registries; the first is the default.
pub const REGISTRIES: [&str; 3] = ["hosted", "vault", "shelf"];
pub const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];
/// Whether the gateway is built with the v1 API; without it `hosted` has no v1 side.
pub const V1_IS_BUILT: bool = cfg!(feature = "v1");
/// The password of every user, and of the gateway at the registries.
const PASSWORD: &str = "s3cret";
/// bcrypt of the password, cost 4.
const HASH: &str = "$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC";
const GATEWAY: &str = "gateway";
/// The user that checks whether registries respond.
const PROBE: &str = "watcher";

/// A listener of the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listener {
    Tls,
    #[default]
    Plain,
    /// Read only.
    ReadOnly,
    /// Serves `vault` alone.
    Vault,
}

impl Listener {
    pub const ALL: [Self; 4] = [Self::Tls, Self::Plain, Self::ReadOnly, Self::Vault];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|listener| listener.as_str() == text)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Plain => "plain",
            Self::ReadOnly => "readonly",
            Self::Vault => "vault",
        }
    }

    /// The registry that the listener is limited to.
    pub fn registry(self) -> Option<&'static str> {
        (self == Self::Vault).then_some("vault")
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub struct World {
    gateway: Gateway,
    ca: PathBuf,
    hosted: Registry,
    vault: Registry,
    pub shelf: Origin,
    v1: V1Registry,
    _accounts: tempfile::TempDir,
}

impl World {
    /// Starts a gateway with these rules, and empty registries.
    pub fn start(rules: &[Rule]) -> Result<Self, Missing> {
        let hosted = Registry::start()?;
        let vault = Registry::start_with_account(GATEWAY, PASSWORD)?;
        let (shelf, v1) = (Origin::start(), V1Registry::start());
        shelf.require(Auth::Bearer(Bearer {
            account: Some((GATEWAY.to_owned(), PASSWORD.to_owned())),
            ..Bearer::default()
        }));
        // Its catalogue would list what is not public to anonymous clients as well.
        shelf.fault(Fault::status(404).on("GET", "/v2/_catalog"));
        let accounts = testkit::temp_dir();
        let path = accounts.path().join("users");
        let lines = USERS.iter().chain([&PROBE]);
        let lines: Vec<String> = lines.map(|user| format!("{user}:{HASH}\n")).collect();
        std::fs::write(&path, lines.concat()).expect("writable");
        let lines = rules.iter().map(|rule| {
            let Rule { user, pattern, .. } = rule;
            let actions = rule.actions();
            format!(
                "  - {{users: [\"{user}\"], repositories: [\"{pattern}\"], actions: [{actions}]}}\n"
            )
        });
        let login = format!("credentials: {{username: {GATEWAY}, password: {PASSWORD}}}");
        let v1_side = if V1_IS_BUILT {
            format!("v1: \"{}\", bridge: true, ", v1.url())
        } else {
            String::new()
        };
        let gateway = Gateway::start(&format!(
            "listen:\n\
             - {{address: \"127.0.0.1:0\"}}\n\
             - {{address: \"127.0.0.1:0\", tls: off}}\n\
             - {{address: \"127.0.0.1:0\", tls: off, read_only: true}}\n\
             - {{address: \"127.0.0.1:0\", tls: off, registry: vault}}\n\
             registries:\n\
             - {{name: hosted, v2: \"{}\", {v1_side}push: true, default: true, hosts: [hosted.test], \
                 tag_ttl: 1h, link_ttl: 1h}}\n\
             - {{name: vault, v2: \"{}\", {login}, push: true, hosts: [vault.test]}}\n\
             - {{name: shelf, v2: \"{}\", {login}, visibility: public, missing_ttl: 0s}}\n\
             access:\n  htpasswd: {}\n  rules:\n  \
             - {{users: [{PROBE}], repositories: [\"**/awake/*\"], actions: [pull]}}\n{}",
            hosted.url(),
            vault.url(),
            shelf.url(),
            path.display(),
            lines.collect::<String>(),
        ));
        Ok(Self {
            ca: gateway.ca_path(),
            gateway,
            hosted,
            vault,
            shelf,
            v1,
            _accounts: accounts,
        })
    }

    /// Sends a request to the gateway.
    pub fn ask(&self, listener: Listener, raw: &RawRequest) -> Result<Reply, Cut> {
        let listener = Listener::ALL.iter().position(|known| *known == listener);
        let url = self.gateway.url(listener.expect("one of them"));
        raw.send(url, Some(&self.ca))
    }

    /// Waits until the gateway sends requests to its registries again after a failure.
    pub fn wait_for_registries(&self) {
        for registry in REGISTRIES {
            let raw = RawRequest::new("GET", format!("/v2/{registry}/awake/a/manifests/none"));
            let raw = raw.with("Authorization", &Self::login(PROBE));
            testkit::until("a registry to be request again", || {
                let reply = self.ask(Listener::Plain, &raw);
                reply.is_ok_and(|reply| reply.status() < 500)
            });
        }
    }

    /// Asks a registry directly, with full rights.
    pub fn backend(&self, place: &Place, resource: &str) -> Option<Reply> {
        let raw = RawRequest::new("GET", format!("/v2/{}/{resource}", place.name));
        let accept = format!("{MEDIA_MANIFEST}, {MEDIA_INDEX}, */*");
        self.ask_backend(&place.registry, raw.with("Accept", &accept))
    }

    /// Sends a request to a registry directly (`v1`: the v1 side of `hosted`); `None` for the shelf.
    pub fn ask_backend(&self, registry: &str, raw: RawRequest) -> Option<Reply> {
        let (url, raw) = match registry {
            "hosted" => (self.hosted.url(), raw),
            "vault" => {
                let login = basic(GATEWAY, PASSWORD);
                (self.vault.url(), raw.with("Authorization", &login))
            }
            "v1" => (self.v1.url(), raw),
            _ => return None,
        };
        let reply = raw.send(&url, None);
        Some(reply.unwrap_or_else(|cut| panic!("{registry}: {cut:?}")))
    }

    /// The `Authorization` value of a user.
    pub fn login(user: &str) -> String {
        basic(user, PASSWORD)
    }
}

/// Whether a repository of the shelf is public there.
pub fn is_public(name: &str) -> bool {
    name.starts_with("open-")
}
