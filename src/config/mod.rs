//! The configuration: one YAML file is parsed into a typed [`Config`] with every default resolved.
//!
//! Parsing has three steps, which share one report, so that one run reports every fault: `yaml` makes
//! a tree with positions and expands `${VAR}`; every section (`listen`, `store`, `registry`, …) types its
//! part and fills in the defaults; `check` compares keys with one another. The result needs no further
//! validation.
//!
//! A refused value is reported and read as its default, and lists keep their length, so that the
//! cross-checks still see the whole. A configuration with a fault is never returned.

mod access;
mod accounts;
mod address;
mod admin;
mod bucket;
mod check;
mod credentials;
mod events;
mod fault;
mod gate;
mod host;
mod keys;
mod listen;
mod origin;
mod process;
mod proxies;
mod reference;
mod registry;
mod render;
mod settings;
mod store;
mod tls;
mod tree;
mod units;
mod variables;
mod yaml;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod registry_tests;
#[cfg(test)]
mod shipped_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use access::Access;
pub use address::ListenAddress;
pub use admin::Admin;
pub use credentials::Credentials;
pub use events::{Audit, Webhook};
pub use fault::{Fault, Faults};
pub use gate::{KeyFileError, public_key};
pub use host::aliases;
pub use listen::Listen;
pub use origin::Origin;
pub use process::{Limits, Log, OldClients, Routing};
pub use reference::reference;
pub use registry::{Registry, Visibility};
pub use settings::record_extensions;
pub use store::{MaxStale, Store};
pub use tls::Tls;

use ::access::{AccountsError, Htpasswd};
use fault::{Position, Report};
use reference::{Absent, Key, Kind};
use tree::Node;

/// Whether the files that a configuration names are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedFiles {
    /// They are checked as well.
    Checked,
    /// They may be another user's.
    Ignored,
}

/// Reads the file at `path`, or else the built-in defaults: a mirror of Docker Hub. Variables come
/// from the environment of the process.
///
/// # Errors
///
/// All faults of the file. A file that cannot be read, is not UTF-8 or is larger than
/// 1 MiB has a single fault.
pub fn load(path: Option<&Path>, files: NamedFiles) -> Result<Config, Faults> {
    read_file(path, files, None)
}

/// As [`load`], for a gateway that runs with `running`: what cannot change while it runs is a fault too.
///
/// # Errors
///
/// As for [`load`].
pub fn load_change(path: Option<&Path>, running: &Config) -> Result<Config, Faults> {
    read_file(path, NamedFiles::Checked, Some(running))
}

fn read_file(
    path: Option<&Path>,
    files: NamedFiles,
    running: Option<&Config>,
) -> Result<Config, Faults> {
    let env = |name: &str| std::env::var(name).ok();
    let accounts: Option<ReadAccounts<'_>> = match files {
        NamedFiles::Checked => Some(&::access::load),
        NamedFiles::Ignored => None,
    };
    let Some(path) = path else {
        return examine("", "built-in defaults", &env, accounts, running);
    };
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    // One byte more than the limit, so that a longer file is detected.
    let limit = yaml::MAX_BYTES as u64 + 1;
    if let Err(error) = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
        let message = format!("cannot be read ({error}); write its path after -c");
        return Err(fault::sole(&name, Position::START, message));
    }
    if bytes.len() > yaml::MAX_BYTES {
        return Err(fault::sole(&name, Position::START, yaml::TOO_LARGE));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = good.rsplit('\n').next().unwrap_or("");
        let at = Position {
            line: good.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        };
        fault::sole(&name, at, "not UTF-8; save the file as UTF-8")
    })?;
    let config = examine(text, &name, &env, accounts, running)?;
    Ok(Config {
        file: Some(path.to_owned()),
        ..config
    })
}

/// Parses `text`; `file` is its name in messages, `env` looks variables up. Files that it names are not read.
///
/// # Errors
///
/// All faults of the text.
#[cfg(test)]
pub fn parse(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Faults> {
    examine(text, file, env, None, None)
}

/// Reads the accounts that a configuration names.
type ReadAccounts<'a> = &'a dyn Fn(&Path) -> Result<Htpasswd, AccountsError>;

fn examine(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
    accounts: Option<ReadAccounts<'_>>,
    running: Option<&Config>,
) -> Result<Config, Faults> {
    let mut report = Report::new(file);
    let tree = yaml::tree(text, env, &mut report);
    let mut config = read(&tree, &mut report);
    check::config(&config, &tree, &mut report);
    proxies::check(&config, &tree, env, &mut report);
    if let Some(running) = running {
        check::change(&config, running, &tree, &mut report);
    }
    config.rendered = render::render(&tree, KEYS);
    if let Some(read) = accounts {
        accounts::check(&config, &tree, read, &mut report);
        check::files(&config, &tree, SystemTime::now(), &mut report);
    }
    config.warnings = report.verdict()?;
    Ok(config)
}

/// The keys of the file.
const KEYS: &[Key] = &[
    Key::new(
        "keys",
        Kind::Scalar("path"),
        Absent::Is("var/keys"),
        "The folder (mode 0700) of the gateway's certificate authority, its certificate and the token key.",
    ),
    Key::new(
        "listen",
        Kind::Items(listen::LISTENER),
        Absent::Means(
            "`127.0.0.1:5000` with TLS and, where docker.io is a registry, `127.0.0.1:5001` as its read-only mirror in plain HTTP",
        ),
        "Where clients connect. A list replaces the default listeners.",
    ),
    Key::new(
        "admin",
        Kind::Section(admin::KEYS),
        Absent::Nothing,
        "For operators: metrics, health, and the API that the commands use.",
    ),
    Key::new(
        "store",
        Kind::Section(store::KEYS),
        Absent::Nothing,
        "What is stored on disk and in the bucket, and how long it is trusted.",
    ),
    Key::new(
        "registries",
        Kind::Items(registry::KEYS),
        Absent::Means("`[docker.io]`"),
        "The upstream registries; no other host can be reached. A bare name stands for `{name: <name>}`.",
    ),
    Key::new(
        "access",
        Kind::ChoiceOrSection(&["off"], access::KEYS),
        Absent::Means("public registries can be pulled from anonymously, and pushes are denied"),
        "Access control.",
    ),
    Key::new(
        "routing",
        Kind::Section(process::ROUTING),
        Absent::Nothing,
        "Which clients are routed to v1.",
    ),
    Key::new(
        "limits",
        Kind::Section(process::LIMITS),
        Absent::Nothing,
        "Limits for each client, and for all together.",
    ),
    Key::new(
        "log",
        Kind::Section(process::LOG),
        Absent::Nothing,
        "What is logged.",
    ),
    Key::new(
        "events",
        Kind::Items(events::WEBHOOK),
        Absent::Nothing,
        "Webhooks: each event is posted as a notification of distribution's format. See [Operations](operations.md#webhooks).",
    ),
    Key::new(
        "audit",
        Kind::ChoiceOrSection(&["off"], events::AUDIT),
        Absent::Is("off"),
        "The audit log: a line for each login, failed login, denial, push, mount, deletion, purge and pin.",
    ),
];

/// The whole configuration. The fields are the keys of the file, in its order.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the CA, the certificate and the token key.
    pub keys: PathBuf,
    /// At least one.
    pub listen: Vec<Listen>,
    /// The admin listeners.
    pub admin: Admin,
    /// The store and the bucket.
    pub store: Store,
    /// At least one; names are unique.
    pub registries: Vec<Registry>,
    /// `None`: anonymous pulls of public registries, and no pushes.
    pub access: Option<Access>,
    /// Which clients are routed to v1.
    pub routing: Routing,
    /// The limits for each client and for all clients.
    pub limits: Limits,
    /// The settings of the log.
    pub log: Log,
    /// The webhooks.
    pub events: Vec<Webhook>,
    /// The audit log, if there is one.
    pub audit: Option<Audit>,
    /// The warnings, in the order of the file.
    pub warnings: Vec<Fault>,
    /// The file; `None`: built-in defaults.
    pub file: Option<PathBuf>,
    /// All of it as YAML, with secrets masked.
    pub rendered: String,
}

/// Text that no log, message or Debug output may contain.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Types the whole tree.
fn read(tree: &Node, report: &mut Report) -> Config {
    keys::mapping(tree, KEYS, report, |keys| {
        let folder = keys.value("keys", keys::path);
        let listen = listen::listeners(keys);
        let admin = keys.section("admin", admin::admin);
        let store = keys.section("store", store::store);
        let registries = registry::registries(keys, &store);
        Config {
            keys: folder.unwrap_or("var/keys".into()),
            listen: listen.unwrap_or_else(|| listen::default_listeners(&registries)),
            admin,
            store,
            registries,
            access: keys.section_or_off("access", access::access),
            routing: keys.section("routing", process::routing),
            limits: keys.section("limits", process::limits),
            log: keys.section("log", process::log),
            events: events::webhooks(keys),
            audit: keys.section_or_off("audit", events::audit),
            warnings: Vec::new(),
            file: None,
            rendered: String::new(),
        }
    })
}
