//! `registries[].gate`: which content of a registry is served.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Registry;
use super::fault::{Report, shown};
use super::host::{HUB, canonical};
use super::keys::{Keys, list, mapping, path, refuse_empty, refuse_kind, value};
use super::reference::{Absent, Key, Kind};
use super::tree::{Entry, Node, Value};
use super::units::{Parsed, some_duration};
use ::gate::{ImagePattern, KeyError, Mode, PublicKey, TagPin};
use oci::digest::Digest;
use oci::name::{Repository, Tag};
use oci::platform::Platform;

/// The keys of a gate.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "mode",
        Kind::Choice(&["enforce", "report"]),
        Absent::Is("enforce"),
        "`enforce`: what a rule denies gets a 403 that names the rule. `report`: everything is served, and what would have been denied is counted and logged.",
    ),
    Key::new(
        "allow",
        Kind::List("image pattern"),
        Absent::Means("everything"),
        "Repositories without the registry, or `repository:tag`: `library/**`, `library/alpine:3.*`. All others are denied.",
    ),
    Key::new(
        "deny",
        Kind::List("image pattern"),
        Absent::Nothing,
        "As `allow`. It takes precedence over every other rule.",
    ),
    Key::new(
        "min_age",
        Kind::Scalar("duration above zero"),
        Absent::Nothing,
        "How long a tag must have stayed at its target, as this gateway sees it; until then the target of before is served, with a `Warning`. The first target that is seen of a tag is served at once.",
    ),
    Key::new(
        "pins",
        Kind::Map("repository:tag", "digest"),
        Absent::Nothing,
        "Tags that answer this digest, whatever the registry says, and whatever the other rules but `deny` say.",
    ),
    Key::new(
        "platforms",
        Kind::List("platform"),
        Absent::Means("all"),
        "The platforms of images, `os/architecture[/variant]`. An index is served unchanged; its images for other platforms are denied.",
    ),
    Key::new(
        "signed_by",
        Kind::List("path"),
        Absent::Nothing,
        "PEM files of public keys (ECDSA on P-256, as of `cosign generate-key-pair`). A manifest needs a signature by one of them, at cosign's tag or among the referrers, before it is served; what an index names needs none of its own.",
    ),
];

/// How much of a key file is read, in bytes.
const KEY_BYTES: u64 = 64 << 10;

/// The gate of a registry.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    /// What becomes of a request that a rule denies.
    pub mode: Mode,
    /// `None`: everything is allowed.
    pub allow: Option<Vec<ImagePattern>>,
    /// What is denied in spite of `allow`.
    pub deny: Vec<ImagePattern>,
    /// How long a tag must have stayed at its target.
    pub min_age: Option<Duration>,
    /// The tags that are bound to a digest.
    pub pins: Vec<TagPin>,
    /// The platforms of images; `None`: all.
    pub platforms: Option<Vec<Platform>>,
    /// The files of the keys of which one must have signed an image.
    pub signed_by: Vec<PathBuf>,
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It has no key that is supported.
    #[error("{} {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
}

/// The key in a file.
///
/// # Errors
/// [`KeyFileError`]
pub fn public_key(path: &Path) -> Result<PublicKey, KeyFileError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut pem = Vec::new();
        File::open(path)?.take(KEY_BYTES).read_to_end(&mut pem)?;
        Ok(pem)
    };
    let path = path.to_owned();
    match read() {
        Ok(pem) => PublicKey::parse(&pem).map_err(|source| KeyFileError::Key { path, source }),
        Err(source) => Err(KeyFileError::Read { path, source }),
    }
}

pub(super) fn gate(node: &Node, report: &mut Report) -> Gate {
    mapping(node, KEYS, report, |keys| Gate {
        mode: keys.value("mode", mode).unwrap_or_default(),
        allow: patterns(keys, "allow"),
        deny: patterns(keys, "deny").unwrap_or_default(),
        min_age: keys.value("min_age", some_duration),
        pins: pins(keys),
        platforms: values(keys, "platforms", "[linux/amd64]", |text| {
            text.parse::<Platform>().map_err(|_| {
                "is not a platform; write os/architecture, as in linux/amd64 or linux/arm/v7"
                    .to_owned()
            })
        }),
        signed_by: values(keys, "signed_by", "[conf/cosign.pub]", path).unwrap_or_default(),
    })
}

/// A list that is of no use without an item. Refused items are left out.
fn values<T>(
    keys: &mut Keys<'_, '_>,
    key: &'static str,
    example: &str,
    parse: fn(&str) -> Parsed<T>,
) -> Option<Vec<T>> {
    let node = keys.node(key)?;
    refuse_empty(node, key, example, keys.report);
    let items = list(node, |item, report| value(item, parse, report), keys.report)?;
    Some(items.into_iter().flatten().collect())
}

/// A list of patterns, as long as in the file.
fn patterns(keys: &mut Keys<'_, '_>, key: &'static str) -> Option<Vec<ImagePattern>> {
    let node = keys.node(key)?;
    refuse_empty(node, key, "[\"library/**\"]", keys.report);
    list(
        node,
        |item, report| value(item, ImagePattern::parse, report).unwrap_or_default(),
        keys.report,
    )
}

fn mode(text: &str) -> Parsed<Mode> {
    match text {
        "enforce" => Ok(Mode::Enforce),
        "report" => Ok(Mode::Report),
        _ => Err("is not a mode; write enforce or report".to_owned()),
    }
}

/// The mapping of tags to digests. Refused entries are left out.
fn pins(keys: &mut Keys<'_, '_>) -> Vec<TagPin> {
    let Some(node) = keys.node("pins") else {
        return Vec::new();
    };
    let Value::Mapping(entries) = &node.value else {
        if !matches!(node.value, Value::Broken) {
            let message = format!("expected tags with digests here, not {}", node.kind());
            let write = "write {\"library/alpine:3.20\": \"sha256:…\"}";
            keys.report.fault(node.at, format!("{message}; {write}"));
        }
        return Vec::new();
    };
    let pins = entries.iter().map(|entry| pin(entry, keys.report));
    let pins: Vec<Option<TagPin>> = pins.collect();
    pins.into_iter().flatten().collect()
}

fn pin(entry: &Entry, report: &mut Report) -> Option<TagPin> {
    let named = image(&entry.key);
    if named.is_none() {
        let message =
            "is not a tag of a repository; write repository:tag, as in library/alpine:3.20";
        report.fault(entry.key_at, format!("{} {message}", shown(&entry.key)));
    }
    let digest = match &entry.node.value {
        Value::Absent => {
            report.fault(entry.key_at, "has no digest; write \"sha256:…\" after it");
            None
        }
        Value::Text(_) => value(&entry.node, digest, report),
        _ => {
            refuse_kind(&entry.node, report);
            None
        }
    };
    let (repository, tag) = named?;
    Some(TagPin {
        repository,
        tag,
        digest: digest?,
    })
}

fn image(text: &str) -> Option<(Repository, Tag)> {
    let (repository, tag) = text.split_once(':')?;
    Some((repository.parse().ok()?, tag.parse().ok()?))
}

fn digest(text: &str) -> Parsed<Digest> {
    let digest = text.parse();
    digest.map_err(|_| "is not a digest; write sha256: and 64 hexadecimal digits".to_owned())
}

/// Reports what contradicts other keys, and patterns that never match.
pub(super) fn check(registry: &Registry, node: &Node, report: &mut Report) {
    let Some(gate) = &registry.gate else { return };
    let node = node.near("gate");
    if !registry.cache {
        let message = "a gate needs the cache: without it content passes unseen; write cache: true, or remove gate";
        report.fault(node.at, message);
    }
    if registry.v1.is_some() {
        let message = "a gate cannot hold for v1, whose images have no digests; give v1 a registry of its own, or \
                       remove gate";
        report.fault(node.at, message);
    }
    if let (Some(age), Some(ttl)) = (gate.min_age, registry.unused_ttl)
        && age > ttl
    {
        let message = "min_age is longer than unused_ttl, after which an unused tag is forgotten; write a shorter \
                       min_age, or a longer unused_ttl";
        report.fault(node.near("min_age").at, message);
    }
    if !has_rules(gate) {
        report.warn(
            node.at,
            "a gate without rules denies nothing; write allow, deny or another rule",
        );
    }
    let allow = gate.allow.as_deref().unwrap_or_default();
    for (key, patterns) in [("allow", allow), ("deny", &gate.deny)] {
        for (index, pattern) in patterns.iter().enumerate() {
            let at = node.near(key).item(index).at;
            if let Some(message) =
                never_matches(registry, pattern.repositories(), &pattern.to_string())
            {
                report.fault(at, message);
            }
        }
    }
    check_pins(registry, gate, node.near("pins"), report);
}

fn has_rules(gate: &Gate) -> bool {
    let Gate {
        mode: _,
        allow,
        deny,
        min_age,
        pins,
        platforms,
        signed_by,
    } = gate;
    let lists = !deny.is_empty() || !pins.is_empty() || !signed_by.is_empty();
    allow.is_some() || min_age.is_some() || platforms.is_some() || lists
}

/// Pins that are never served.
fn check_pins(registry: &Registry, gate: &Gate, node: &Node, report: &mut Report) {
    let entries: BTreeMap<&str, &Entry> = match &node.value {
        Value::Mapping(entries) => entries.iter().map(|entry| (&*entry.key, entry)).collect(),
        _ => return,
    };
    for pin in &gate.pins {
        let written = format!("{}:{}", pin.repository, pin.tag);
        let Some(entry) = entries.get(&*written) else {
            continue;
        };
        if let Some(message) = never_matches(registry, pin.repository.as_str(), &written) {
            report.fault(entry.key_at, message);
        }
        let mut deny = gate.deny.iter();
        if let Some(pattern) = deny.find(|pattern| pattern.matches_tag(&pin.repository, &pin.tag)) {
            let pattern = shown(&pattern.to_string());
            let message = format!(
                "{} is denied by {pattern}, which takes precedence",
                shown(&written)
            );
            report.warn(entry.key_at, format!("{message}; remove one of them"));
        }
    }
}

/// Why no name of the registry matches a pattern. A rule that never matches may leave open what it should close.
fn never_matches(registry: &Registry, repositories: &str, written: &str) -> Option<String> {
    let (first, rest) = written.split_once('/').unwrap_or((written, ""));
    let pattern = shown(written);
    if !rest.is_empty() && canonical(first).unwrap_or(first) == registry.name {
        return Some(format!("{pattern} begins with the registry; write {rest}"));
    }
    let is_short = !repositories.is_empty() && repositories != "**" && !repositories.contains('/');
    if registry.name == HUB && is_short {
        return Some(format!("{pattern} never matches; write library/{written}"));
    }
    None
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
