//! `registries`: the upstreams, each with its times, rights and names resolved.

use std::path::PathBuf;
use std::time::Duration;

use super::credentials::{Credentials, credentials};
use super::fault::Report;
use super::host::{self, HUB};
use super::keys::{Keys, list, mapping, path, refuse_empty, value};
use super::origin::Origin;
use super::store::Store;
use super::tree::{Node, Value};
use super::units::{MINUTE, Parsed, boolean, duration, some_duration};
use oci::glob::Pattern;

/// One upstream registry, with every default resolved.
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the contract's keys, each true or false by itself"
)]
pub struct Registry {
    /// Unique, lower case, without `/`; `docker.io` for the Hub, never an alias.
    pub name: String,
    /// Host headers that choose it, in lower case, unique over all registries.
    pub hosts: Vec<String>,
    /// Where v2 is spoken; `None` only where `v1` is given.
    pub v2: Option<Origin>,
    /// Where v1 is spoken.
    pub v1: Option<Origin>,
    /// Where v1's index is, if not with `v1`.
    pub v1_index: Option<Origin>,
    /// How we log in there.
    pub credentials: Option<Credentials>,
    /// PEM file of CAs, added to the system's roots.
    pub ca: Option<PathBuf>,
    /// Hosts of token realms that are trusted beside the registry's own domain.
    pub auth_hosts: Vec<String>,
    /// Who may see what it holds.
    pub visibility: Visibility,
    /// Whether anything may be pushed there.
    pub push: bool,
    /// `false`: route and guard only, the bytes stay in the backend.
    pub cache: bool,
    /// Whether names are its own that nothing else claims; true for at most one.
    pub default: bool,
    /// Names that are its own wherever they are asked; no overlap with another's.
    pub owns: Vec<Pattern>,
    /// v1 images for v2 clients and the reverse.
    pub bridge: bool,
    /// As in [`Store`].
    pub tag_ttl: Duration,
    /// As in [`Store`].
    pub missing_ttl: Duration,
    /// As in [`Store`].
    pub link_ttl: Duration,
    /// As in [`Store`].
    pub unused_ttl: Option<Duration>,
}

/// Who may see what a registry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Shared by all.
    Public,
    /// Our credentials fetch, the rules of `access` guard.
    Rules,
    /// Each caller's own Authorization decides, at the upstream.
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
        credentials: None,
        ca: None,
        auth_hosts: Vec::new(),
        visibility: Visibility::Public,
        push: false,
        cache: true,
        default: sole,
        owns: Vec::new(),
        bridge: false,
        tag_ttl: store.tag_ttl,
        missing_ttl: store.missing_ttl,
        link_ttl: store.link_ttl,
        unused_ttl: store.unused_ttl,
    }
}

fn registry(node: &Node, sole: bool, store: &Store, report: &mut Report) -> Registry {
    // A name that is refused still is what other keys may refer to, in its right form.
    let meant = || {
        let name = node.near("name").text().unwrap_or_default().to_lowercase();
        host::canonical(&name).map_or(name, ToOwned::to_owned)
    };
    if let Value::Text(_) = node.value {
        let name = value(node, host::registry_name, report);
        return bare_registry(name.unwrap_or_else(meant), sole, store);
    }
    mapping(node, report, |keys| {
        let name = keys
            .required("name", "ghcr.io", host::registry_name)
            .unwrap_or_else(meant);
        let bare = bare_registry(name, sole, store);
        let v1 = keys.value("v1", Origin::parse);
        let v2 = keys.value("v2", Origin::parse);
        let credentials = keys.section_or_off("credentials", credentials).flatten();
        let push = keys.value("push", boolean).unwrap_or(false);
        // Others may push there too, so less is believed, and not for long.
        let (tag_ttl, missing_ttl, link_ttl) = if push {
            (Duration::ZERO, Duration::ZERO, 10 * MINUTE)
        } else {
            (bare.tag_ttl, bare.missing_ttl, bare.link_ttl)
        };
        let guarded = push || node.is_set("credentials");
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
            credentials,
            push,
        }
    })
}

fn owned(text: &str) -> Parsed<Pattern> {
    if text.contains([':', '@']) {
        return Err("names a tag or digest; write the repository alone".to_owned());
    }
    Pattern::parse(text)
}

fn visibility(text: &str) -> Parsed<Visibility> {
    match text {
        "public" => Ok(Visibility::Public),
        "rules" => Ok(Visibility::Rules),
        "caller" => Ok(Visibility::Caller),
        _ => Err("is not a visibility; write public, rules or caller".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_told;

    #[test]
    fn faults_of_registries() {
        assert_told(&[
            (
                "registries: docker.io",
                &[
                    "1:13: expected a list here, not a single value; write [a, b] or lines that begin with -",
                ],
            ),
            (
                "registries: []",
                &["1:13: registries is empty; write `registries: [docker.io]`"],
            ),
            (
                "registries: [registry-1.docker.io]",
                &[r#"1:14: "registry-1.docker.io" is another name of docker.io; write docker.io"#],
            ),
            (
                "registries: [https://ghcr.io]",
                &[
                    r#"1:14: "https://ghcr.io" is a URL; write the host alone as the name, and the URL as v2"#,
                ],
            ),
            (
                "registries: [ghcr.io/team]",
                &[
                    r#"1:14: "ghcr.io/team" is not a registry's name; write a host or a word, such as ghcr.io"#,
                ],
            ),
            (
                "registries: [[ghcr.io]]",
                &["1:14: expected keys and values here, not a list; write `name: …`"],
            ),
            (
                "registries: [~]",
                &["1:14: name is missing here; write `name: ghcr.io`"],
            ),
            (
                r#"registries: [{v2: "http://h"}]"#,
                &["1:14: name is missing here; write `name: ghcr.io`"],
            ),
            (
                r#"registries: [{name: a, hosts: ["http://x", [h]], auth_hosts: h}]"#,
                &[
                    r#"1:32: "http://x" is not a host; write a name or address, such as registry.example.com"#,
                    "1:44: expected a single value here, not a list; write one word, in quotes if need be",
                    "1:62: expected a list here, not a single value; write [a, b] or lines that begin with -",
                ],
            ),
            (
                r#"registries: [{name: a, owns: ["Team/**", "a**", "app:latest", "a//b"]}]"#,
                &[
                    r#"1:31: "Team/**" is not a pattern of names; write a-z, 0-9, `.`, `_`, `-` and `*` between slashes"#,
                    r#"1:42: "a**" mixes ** with letters; write ** alone between slashes"#,
                    r#"1:49: "app:latest" names a tag or digest; write the repository alone"#,
                    r#"1:63: "a//b" is not a pattern of names; write a-z, 0-9, `.`, `_`, `-` and `*` between slashes"#,
                ],
            ),
            (
                "registries: [{name: a, visibility: private}]",
                &[r#"1:36: "private" is not a visibility; write public, rules or caller"#],
            ),
            (
                "registries: [{name: a, push: maybe, cache: 1, default: on, bridge: no}]",
                &[
                    r#"1:30: "maybe" is neither true nor false; write one of them"#,
                    r#"1:44: "1" is neither true nor false; write one of them"#,
                    r#"1:56: "on" is neither true nor false; write one of them"#,
                    r#"1:68: "no" is neither true nor false; write one of them"#,
                ],
            ),
            (
                r#"registries: [{name: a, v1: "h:5000"}]"#,
                &[r#"1:28: "h:5000" is not a URL; write http://host:port or https://host"#],
            ),
            (
                r#"registries: [{name: a, v2: "https://me:hunter2@h"}]"#,
                &[r#"1:28: "…@h" holds a user or password; write them under credentials"#],
            ),
            (
                r#"registries: [{name: a, v2: "https://h/v2/"}]"#,
                &[
                    r#"1:28: "https://h/v2/" has a path, and paths are not supported yet; write scheme, host and port only"#,
                ],
            ),
            (
                r#"registries: [{name: a, v2: "https://h?token=hunter2"}]"#,
                &[
                    r#"1:28: "https://h?…" holds a query or fragment; write scheme, host and port only"#,
                ],
            ),
            (
                r#"registries: [{name: a, v2: "https://h:0"}]"#,
                &[
                    r#"1:28: "https://h:0" has no usable host and port; write http://host:port or https://host"#,
                ],
            ),
            (
                r#"registries: [{name: a, tag_ttl: "${SECRET}", unused_ttl: soon}]"#,
                &[
                    r#"1:33: "${SECRET}" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m"#,
                    r#"1:58: "soon" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m, or off"#,
                ],
            ),
        ]);
    }
}
