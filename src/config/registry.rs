//! `registries`: the upstreams, each with its own values of the times, rights and names.

use std::path::PathBuf;
use std::time::Duration;

use super::credentials::{Credentials, account_list, credentials};
use super::fault::Report;
use super::gate::{Gate, gate};
use super::host::{self, HUB};
use super::keys::{Keys, list, mapping, path, refuse_empty, value};
use super::origin::Origin;
use super::reference::{Absent, Key, Kind};
use super::store::Store;
use super::tree::{Node, Value};
use super::units::{MINUTE, Parsed, boolean, duration, some_duration};
use oci::glob::Pattern;

/// The keys of a registry.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "name",
        Kind::Scalar("name of a registry"),
        Absent::Required,
        "Its name in `?ns=`, path prefixes and rules: a host or a word. `docker.io` is Docker Hub, whose aliases are known.",
    ),
    Key::new(
        "hosts",
        Kind::List("host"),
        Absent::Nothing,
        "Host headers that select it. The gateway's own certificate names them too.",
    ),
    Key::new(
        "v2",
        Kind::Scalar("URL"),
        Absent::Means("`https://<name>`, unless `v1` is given"),
        "The v2 endpoint: scheme, host and port.",
    ),
    Key::new(
        "v1",
        Kind::Scalar("URL"),
        Absent::Nothing,
        "The v1 endpoint, for `/v1` and old clients. Without `push` it is mirrored; see [A mirror of a v1 registry](recipes/v1-mirror.md).",
    ),
    Key::new(
        "v1_index",
        Kind::Scalar("URL"),
        Absent::Means("`v1`"),
        "The v1 index, if that is another server.",
    ),
    Key::new(
        "credentials",
        Kind::ChoiceOrSection(&["off"], super::credentials::KEYS),
        Absent::Means("anonymous"),
        "The gateway's login at the registry. No client may pull with it unless `access.rules` or `visibility` permit it.",
    ),
    Key::new(
        "accounts",
        Kind::Items(super::credentials::KEYS),
        Absent::Nothing,
        "Several logins instead of `credentials`, in turn by the pulls that the registry still allows each. They must have equal rights there. Writes and v1 use the first.",
    ),
    Key::new(
        "ca",
        Kind::Scalar("path"),
        Absent::Nothing,
        "PEM file of CAs, added to the system's. Reloaded when it changes.",
    ),
    Key::new(
        "auth_hosts",
        Kind::List("host"),
        Absent::Nothing,
        "Hosts of token realms that may receive the credentials, besides the registry's own registrable domain.",
    ),
    Key::new(
        "visibility",
        Kind::Choice(&["public", "rules", "caller"]),
        Absent::Means("`rules` with credentials, accounts or `push`, else `public`"),
        "`public`: anonymous clients may pull; with credentials, only what the registry serves anonymously, checked once a day for each repository. `rules`: `access.rules` decide. `caller`: each client's own login decides, at the registry; it needs `hosts`.",
    ),
    Key::new(
        "push",
        Kind::Scalar("boolean"),
        Absent::Is("false"),
        "Whether it takes pushes and deletes.",
    ),
    Key::new(
        "cache",
        Kind::Scalar("boolean"),
        Absent::Is("true"),
        "`false`: route and guard only; nothing is stored.",
    ),
    Key::new(
        "default",
        Kind::Scalar("boolean"),
        Absent::Means("`true` for a sole registry"),
        "Whether names that no other registry claims belong to it.",
    ),
    Key::new(
        "owns",
        Kind::List("pattern"),
        Absent::Nothing,
        "Names that belong to it on every host: `team/**`, `intern-*`.",
    ),
    Key::new(
        "bridge",
        Kind::Scalar("boolean"),
        Absent::Means("`true` where `v1` and `v2` are given"),
        "Whether v1 clients see the images of v2 and the reverse; see [Old and new clients](recipes/old-and-new.md).",
    ),
    Key::new(
        "connections_per_fill",
        Kind::Scalar("count from 1 to 64"),
        Absent::Is("4"),
        "The most connections to it for one large blob, where each raises the rate by a fifth; `1`: no further ones.",
    ),
    Key::new(
        "gate",
        Kind::ChoiceOrSection(&["off"], super::gate::KEYS),
        Absent::Is("off"),
        "Which of its content is served, to every client. See [The gate](recipes/gate.md).",
    ),
    Key::new(
        "tag_ttl",
        Kind::Scalar("duration"),
        Absent::Means("`0s` with `push`, else as in `store`"),
        "As `store.tag_ttl`.",
    ),
    Key::new(
        "missing_ttl",
        Kind::Scalar("duration"),
        Absent::Means("`0s` with `push`, else as in `store`"),
        "As `store.missing_ttl`.",
    ),
    Key::new(
        "link_ttl",
        Kind::Scalar("duration"),
        Absent::Means("`10m` with `push`, else as in `store`"),
        "As `store.link_ttl`.",
    ),
    Key::new(
        "unused_ttl",
        Kind::Scalar("duration, or `off`"),
        Absent::Means("as in `store`"),
        "As `store.unused_ttl`. For content of several registries the longest applies.",
    ),
];

/// The connections of one fill, unless configured.
const CONNECTIONS_PER_FILL: u32 = 4;
/// The most that may be configured.
const MOST_CONNECTIONS_PER_FILL: u32 = 64;

/// One upstream registry, with every default resolved.
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the contract's keys, each true or false by itself"
)]
pub struct Registry {
    /// Unique, lower case, without `/`; `docker.io` for the Hub, never an alias.
    pub name: String,
    /// Host headers that select it, in lower case, unique over all registries.
    pub hosts: Vec<String>,
    /// The origin of the v2 API; `None` only if `v1` is given.
    pub v2: Option<Origin>,
    /// The origin of the v1 API.
    pub v1: Option<Origin>,
    /// The origin of the v1 index, if not that of `v1`.
    pub v1_index: Option<Origin>,
    /// The accounts of the gateway at this registry, which are equal in rights; at most 16.
    pub accounts: Vec<Credentials>,
    /// PEM file of CAs, trusted besides the system's roots.
    pub ca: Option<PathBuf>,
    /// Hosts of token realms that are trusted besides the registry's own domain.
    pub auth_hosts: Vec<String>,
    /// Who may read its content.
    pub visibility: Visibility,
    /// Whether pushes are accepted.
    pub push: bool,
    /// `false`: requests are routed and authorised, and nothing is cached.
    pub cache: bool,
    /// Whether unclaimed names belong to it; true for at most one.
    pub default: bool,
    /// Patterns of names that belong to it on every listener; no overlap with another registry's.
    pub owns: Vec<Pattern>,
    /// Serves v1 images to v2 clients and v2 images to v1 clients.
    pub bridge: bool,
    /// The most connections of one fill.
    pub connections_per_fill: u32,
    /// Which of its content is served; `None`: all.
    pub gate: Option<Gate>,
    /// As in [`Store`].
    pub tag_ttl: Duration,
    /// As in [`Store`].
    pub missing_ttl: Duration,
    /// As in [`Store`].
    pub link_ttl: Duration,
    /// As in [`Store`].
    pub unused_ttl: Option<Duration>,
}

/// Who may read the content of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Any client.
    Public,
    /// The clients that the rules of `access` allow; requests use the gateway's account.
    Rules,
    /// Decided by the upstream, with each caller's own Authorization.
    Caller,
}

pub(super) fn registries(keys: &mut Keys<'_, '_>, store: &Store) -> Vec<Registry> {
    let Some(node) = keys.node("registries") else {
        return vec![bare_registry(HUB.to_owned(), true, store)];
    };
    refuse_empty(node, "registries", "[docker.io]", keys.report);
    let sole = node.items().len() == 1;
    list(
        node,
        |item, report| registry(item, sole, store, report),
        keys.report,
    )
    .unwrap_or_default()
}

fn bare_registry(name: String, sole: bool, store: &Store) -> Registry {
    Registry {
        v2: Origin::of_registry(&name),
        name,
        hosts: Vec::new(),
        v1: None,
        v1_index: None,
        accounts: Vec::new(),
        ca: None,
        auth_hosts: Vec::new(),
        visibility: Visibility::Public,
        push: false,
        cache: true,
        default: sole,
        owns: Vec::new(),
        bridge: false,
        connections_per_fill: CONNECTIONS_PER_FILL,
        gate: None,
        tag_ttl: store.tag_ttl,
        missing_ttl: store.missing_ttl,
        link_ttl: store.link_ttl,
        unused_ttl: store.unused_ttl,
    }
}

fn registry(node: &Node, sole: bool, store: &Store, report: &mut Report) -> Registry {
    // Other keys may refer to the canonical form of a refused name.
    let meant = || {
        let name = node.near("name").text().unwrap_or_default().to_lowercase();
        host::canonical(&name).map_or(name, ToOwned::to_owned)
    };
    if let Value::Text(_) = node.value {
        let name = value(node, host::registry_name, report);
        return bare_registry(name.unwrap_or_else(meant), sole, store);
    }
    mapping(node, KEYS, report, |keys| {
        let name = keys
            .required("name", "ghcr.io", host::registry_name)
            .unwrap_or_else(meant);
        configured(keys, node, bare_registry(name, sole, store))
    })
}

/// The registry that a mapping's keys describe. What they leave out is as in `bare`, or follows from other keys.
fn configured(keys: &mut Keys<'_, '_>, node: &Node, bare: Registry) -> Registry {
    let v1 = keys.value("v1", Origin::parse);
    let v2 = keys.value("v2", Origin::parse);
    let credentials = keys.section_or_off("credentials", credentials).flatten();
    let accounts = account_list(keys, node);
    let push = keys.value("push", boolean).unwrap_or(false);
    // Others may push to the registry directly, so records are trusted for less time.
    let (tag_ttl, missing_ttl, link_ttl) = if push {
        (Duration::ZERO, Duration::ZERO, 10 * MINUTE)
    } else {
        (bare.tag_ttl, bare.missing_ttl, bare.link_ttl)
    };
    let guarded = push || node.is_set("credentials") || node.is_set("accounts");
    let visibility_unless_set = if guarded {
        Visibility::Rules
    } else {
        Visibility::Public
    };
    Registry {
        hosts: keys.values("hosts", host::host),
        v1_index: keys.value("v1_index", Origin::parse),
        ca: keys.value("ca", path),
        auth_hosts: keys.values("auth_hosts", host::host),
        visibility: keys
            .value("visibility", visibility)
            .unwrap_or(visibility_unless_set),
        cache: keys.value("cache", boolean).unwrap_or(bare.cache),
        default: keys.value("default", boolean).unwrap_or(bare.default),
        owns: keys.values("owns", owned),
        bridge: keys
            .value("bridge", boolean)
            .unwrap_or(v1.is_some() && v2.is_some()),
        connections_per_fill: keys
            .value("connections_per_fill", connections)
            .unwrap_or(bare.connections_per_fill),
        gate: keys.section_or_off("gate", gate),
        tag_ttl: keys.value("tag_ttl", duration).unwrap_or(tag_ttl),
        missing_ttl: keys.value("missing_ttl", duration).unwrap_or(missing_ttl),
        link_ttl: keys.value("link_ttl", duration).unwrap_or(link_ttl),
        unused_ttl: keys.value_or_off("unused_ttl", some_duration, bare.unused_ttl),
        v2: if node.is_set("v1") || node.is_set("v2") {
            v2
        } else {
            bare.v2
        },
        name: bare.name,
        v1,
        accounts: accounts.into_iter().chain(credentials).collect(),
        push,
    }
}

fn owned(text: &str) -> Parsed<Pattern> {
    if text.contains([':', '@']) {
        return Err("names a tag or digest; write the repository alone".to_owned());
    }
    Pattern::parse(text)
}

fn connections(text: &str) -> Parsed<u32> {
    let number = text.parse().ok();
    let number = number.filter(|number| (1..=MOST_CONNECTIONS_PER_FILL).contains(number));
    number.ok_or_else(|| {
        format!("is not a count; write a whole number from 1 to {MOST_CONNECTIONS_PER_FILL}")
    })
}

fn visibility(text: &str) -> Parsed<Visibility> {
    match text {
        "public" => Ok(Visibility::Public),
        "rules" => Ok(Visibility::Rules),
        "caller" => Ok(Visibility::Caller),
        _ => Err("is not a visibility; write public, rules or caller".to_owned()),
    }
}
