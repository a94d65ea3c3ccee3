//! Routes a request independently of the gateway: registry, repository, resource.
//!
//! Parsing is strict: anything ambiguous is [`Route::Unclear`], for which only the content of the response is
//! checked.

use percent_encoding::percent_decode_str;

use super::rules::{Action, Place};
use super::world::{Listener, REGISTRIES};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A resource of a repository over v2, or over v1 (without images).
    Named {
        place: Place,
        /// The name in the path, which a token's scope must contain.
        typed: String,
        resource: Resource,
    },
    /// A part of a v1 image, by its id.
    Image {
        id: String,
    },
    /// `/v2/_catalog` or `/v1/search`: lists of names.
    Names,
    /// `/token`
    Token,
    Unclear,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    Manifest(String),
    Blob(String),
    Tags,
    Referrers,
    Uploads,
    Upload,
    /// What follows the name in `/v1/repositories/<name>/…`.
    V1(String),
}

impl Route {
    /// Routes the target of a request.
    pub fn read(listener: Listener, host: Option<&str>, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(segments) = segments(path) else {
            return Self::Unclear;
        };
        let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
        let namespace = match single_value(query, "ns") {
            Ok(namespace) => namespace,
            Err(DuplicateKey) => return Self::Unclear,
        };
        let (name, resource) = match texts.as_slice() {
            ["token"] => return Self::Token,
            ["v2", "_catalog"] | ["v1", "search"] => return Self::Names,
            ["v1", "images", id, _] => {
                let id = (*id).to_owned();
                return Self::Image { id };
            }
            ["v1", "repositories", name @ .., "tags", tag] => {
                (name, Resource::V1(format!("tags/{tag}")))
            }
            [
                "v1",
                "repositories",
                name @ ..,
                what @ ("tags" | "images" | "auth" | "json"),
            ] => (name, Resource::V1((*what).to_owned())),
            ["v1", "repositories", name @ ..] => (name, Resource::V1(String::new())),
            ["v2", name @ .., "blobs", "uploads"] => (name, Resource::Uploads),
            ["v2", name @ .., "blobs", "uploads", _] => (name, Resource::Upload),
            ["v2", name @ .., "blobs", digest] => (name, Resource::Blob((*digest).to_owned())),
            ["v2", name @ .., "manifests", reference] => {
                (name, Resource::Manifest((*reference).to_owned()))
            }
            ["v2", name @ .., "tags", "list"] => (name, Resource::Tags),
            ["v2", name @ .., "referrers", _] => (name, Resource::Referrers),
            _ => return Self::Unclear,
        };
        let typed = name.join("/");
        match place(listener, host, namespace.as_deref(), &typed) {
            Some(place) => Self::Named {
                place,
                typed,
                resource,
            },
            None => Self::Unclear,
        }
    }

    /// The action that a rule must allow.
    pub fn action(&self, method: &str) -> Action {
        let resource = match self {
            Self::Named { resource, .. } => Some(resource),
            _ => None,
        };
        match (method, resource) {
            (_, Some(Resource::Upload | Resource::Uploads)) => Action::Push,
            ("GET" | "HEAD", _) => Action::Pull,
            ("DELETE", _) => Action::Delete,
            _ => Action::Push,
        }
    }
}

/// Resolves a name in a path, in order of precedence: the listener's registry, `ns`, the Host, a registry
/// prefix, the default registry.
pub fn place(
    listener: Listener,
    host: Option<&str>,
    namespace: Option<&str>,
    typed: &str,
) -> Option<Place> {
    let known = |name: &str| REGISTRIES.iter().find(|known| **known == name).copied();
    let named = match namespace {
        Some(namespace) => Some(known(namespace)?),
        None => None,
    };
    if let Some(fixed) = listener.registry() {
        return (named.is_none_or(|named| named == fixed)).then(|| Place::new(fixed, typed));
    }
    // The shelf has no `hosts`.
    let by_host = host
        .and_then(|host| known(host.split(':').next()?.strip_suffix(".test")?))
        .filter(|registry| *registry != "shelf");
    if let Some(registry) = named.or(by_host) {
        return Some(Place::new(registry, typed));
    }
    let prefixed = typed
        .split_once('/')
        .and_then(|(first, rest)| Some((known(first)?, rest)));
    let (registry, name) = prefixed.unwrap_or((REGISTRIES[0], typed));
    Some(Place::new(registry, name))
}

/// Decodes the segments of a path; `None` if one is a dot segment or contains a separator.
fn segments(path: &str) -> Option<Vec<String>> {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let decoded = segments.map(|segment| {
        let text = percent_decode_str(segment).decode_utf8().ok()?;
        let plain = text != "." && text != ".." && !text.contains(['/', '\\', '%']);
        plain.then(|| text.into_owned())
    });
    decoded.collect()
}

/// A query that repeats a key.
pub struct DuplicateKey;

/// The value of a key that occurs at most once.
pub fn single_value(query: &str, key: &str) -> Result<Option<String>, DuplicateKey> {
    let mut found = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == key);
    match (found.next(), found.next()) {
        (found, None) => Ok(found.map(|(_, value)| value.into_owned())),
        _ => Err(DuplicateKey),
    }
}
