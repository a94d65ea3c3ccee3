//! The v2 API's request targets (distribution-spec 1.1, "Endpoints"): parsed from what a client
//! sent, rendered for an upstream.
//!
//! A path is read from the right, since a repository may be called `a/manifests`. What is rendered
//! comes only from parsed parts, so nothing a client writes reaches an upstream unread.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::digest::{Digest, DigestError};
use super::name::{Reference, ReferenceError, Repository, TagError};

/// What a v2 path asks for. The name is still as typed: it may begin with a registry's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/…`
    Named { name: String, resource: Resource },
}

/// The part of a repository that a path names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    Manifest(Reference),
    Blob(Digest),
    Tags,
    Referrers(Digest),
    Uploads,
    Upload(String),
}

/// A parsed request target: what is asked of which repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub repository: Repository,
    pub resource: Resource,
}

/// Why a path is not one of the API's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("there is no such endpoint in the registry API")]
    Unknown,
    #[error(
        "the path is not valid: no '.' or '..' components, encoded slashes or control characters"
    )]
    Encoding,
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Tag(#[from] TagError),
}

impl From<ReferenceError> for PathError {
    fn from(error: ReferenceError) -> Self {
        match error {
            ReferenceError::Tag(error) => Self::Tag(error),
            ReferenceError::Digest(error) => Self::Digest(error),
        }
    }
}

/// Splits a raw path into decoded segments. Repeated slashes count as one.
///
/// # Errors
/// [`PathError::Encoding`] for what could mean another path to somebody else: dot segments, encoded
/// slashes, backslashes, control characters, bytes that are not UTF-8.
pub fn segments(path: &str) -> Result<Vec<String>, PathError> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| {
            let segment = percent_decode_str(segment)
                .decode_utf8()
                .map_err(|_| PathError::Encoding)?;
            let hostile = |c: char| c == '/' || c == '\\' || c == '%' || c.is_control();
            if segment == "." || segment == ".." || segment.contains(hostile) {
                return Err(PathError::Encoding);
            }
            Ok(segment.into_owned())
        })
        .collect()
}

/// Parses the segments after `v2`.
///
/// # Errors
/// What the path is not, in the terms of the error it is answered with.
pub fn parse(segments: &[String]) -> Result<Path, PathError> {
    let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (name, resource) = match texts.as_slice() {
        [] => return Ok(Path::Base),
        ["_catalog"] => return Ok(Path::Catalog),
        [name @ .., "blobs", "uploads", id] => (name, Resource::Upload((*id).to_owned())),
        [name @ .., "blobs", "uploads"] => (name, Resource::Uploads),
        [name @ .., "tags", "list"] => (name, Resource::Tags),
        [name @ .., "manifests", reference] => (name, Resource::Manifest(reference.parse()?)),
        [name @ .., "blobs", digest] => (name, Resource::Blob(digest.parse()?)),
        [name @ .., "referrers", digest] => (name, Resource::Referrers(digest.parse()?)),
        _ => return Err(PathError::Unknown),
    };
    Ok(Path::Named {
        name: name.join("/"),
        resource,
    })
}

impl Endpoint {
    /// The path to ask an upstream for. Every part of it was parsed; only an upload's id is foreign
    /// text, and that is encoded.
    pub fn path(&self) -> String {
        let repository = &self.repository;
        match &self.resource {
            Resource::Manifest(reference) => format!("/v2/{repository}/manifests/{reference}"),
            Resource::Blob(digest) => format!("/v2/{repository}/blobs/{digest}"),
            Resource::Tags => format!("/v2/{repository}/tags/list"),
            Resource::Referrers(digest) => format!("/v2/{repository}/referrers/{digest}"),
            Resource::Uploads => format!("/v2/{repository}/blobs/uploads/"),
            Resource::Upload(id) => {
                format!(
                    "/v2/{repository}/blobs/uploads/{}",
                    utf8_percent_encode(id, QUERY)
                )
            }
        }
    }
}

/// What stays as it is in a rendered query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A decoded query without duplicate keys, in the order it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Query(Vec<(String, String)>);

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("the query is not valid percent-encoded UTF-8")]
    Encoding,
    #[error("the query names {0:?} more than once")]
    Duplicate(String),
}

impl Query {
    /// Parses the text after `?`.
    ///
    /// # Errors
    /// Malformed escapes, control characters, and a key that stands twice: two readers could
    /// disagree about which one counts.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(QueryError::Duplicate(key));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// Everything but `key`.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.0.retain(|(known, _)| known != key);
        self
    }

    /// With `key` set to `value`.
    #[must_use]
    pub fn with(self, key: &str, value: &str) -> Self {
        let mut query = self.without(key);
        query.0.push((key.to_owned(), value.to_owned()));
        query
    }

    /// Renders `?key=value&…`, or nothing when empty.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.0 {
            let separator = if text.is_empty() { '?' } else { '&' };
            let (key, value) = (
                utf8_percent_encode(key, QUERY),
                utf8_percent_encode(value, QUERY),
            );
            let _ = write!(text, "{separator}{key}={value}");
        }
        text
    }
}

/// A raw query without the pairs of `key`, byte for byte as they stood.
pub fn raw_without(query: &str, key: &str) -> String {
    let others = query.split('&').filter(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        !pair.is_empty() && decode(name).as_deref() != Ok(key)
    });
    others.collect::<Vec<_>>().join("&")
}

/// Decodes one form-encoded part, strictly.
fn decode(text: &str) -> Result<String, QueryError> {
    let bytes = text.as_bytes();
    let is_escape = |at: usize| {
        bytes
            .get(at + 1..at + 3)
            .is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
    };
    if (0..bytes.len()).any(|at| bytes[at] == b'%' && !is_escape(at)) {
        return Err(QueryError::Encoding);
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_| QueryError::Encoding)?;
    if decoded.contains(char::is_control) {
        return Err(QueryError::Encoding);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn path(text: &str) -> Result<Path, PathError> {
        let segments = segments(text)?;
        assert_eq!(segments[0], "v2");
        parse(&segments[1..])
    }

    #[expect(clippy::unnecessary_wraps, reason = "what a test compares with")]
    fn named(name: &str, resource: Resource) -> Result<Path, PathError> {
        Ok(Path::Named {
            name: name.into(),
            resource,
        })
    }

    #[test]
    fn paths_are_read_from_the_right() {
        let digest: Digest = DIGEST.parse().expect("valid");
        let latest = || Resource::Manifest("latest".parse().expect("valid"));
        assert_eq!(path("/v2"), Ok(Path::Base));
        assert_eq!(path("/v2/"), Ok(Path::Base));
        assert_eq!(path("//v2//"), Ok(Path::Base));
        assert_eq!(path("/v2/_catalog"), Ok(Path::Catalog));
        assert_eq!(path("/v2/a/manifests/latest"), named("a", latest()));
        assert_eq!(path("/v2/a//b///manifests/latest"), named("a/b", latest()));
        assert_eq!(
            path("/v2/a/manifests/manifests/latest"),
            named("a/manifests", latest())
        );
        assert_eq!(
            path("/v2/a/blobs/uploads/manifests/latest"),
            named("a/blobs/uploads", latest())
        );
        assert_eq!(path("/v2/manifests/latest"), named("", latest()));
        assert_eq!(
            path(&format!("/v2/a/blobs/{DIGEST}")),
            named("a", Resource::Blob(digest))
        );
        let escaped = DIGEST.replace(':', "%3A");
        assert_eq!(
            path(&format!("/v2/a/blobs/{escaped}")),
            named("a", Resource::Blob(digest))
        );
        assert_eq!(path("/v2/a/tags/list"), named("a", Resource::Tags));
        assert_eq!(
            path("/v2/a/tags/tags/list"),
            named("a/tags", Resource::Tags)
        );
        assert_eq!(path("/v2/a/blobs/uploads/"), named("a", Resource::Uploads));
        assert_eq!(
            path("/v2/a/blobs/uploads/u-1"),
            named("a", Resource::Upload("u-1".into()))
        );
        assert_eq!(
            path(&format!("/v2/a/referrers/{DIGEST}")),
            named("a", Resource::Referrers(digest))
        );
    }

    #[test]
    fn hostile_paths_are_refused() {
        for (text, error) in [
            ("/v2/../etc/passwd", PathError::Encoding),
            ("/v2/a/./manifests/latest", PathError::Encoding),
            ("/v2/%2e%2e/manifests/latest", PathError::Encoding),
            ("/v2/a%2Fb/manifests/latest", PathError::Encoding),
            ("/v2/a%5cb/manifests/latest", PathError::Encoding),
            ("/v2/a/manifests/la%00test", PathError::Encoding),
            ("/v2/a/manifests/%ff", PathError::Encoding),
            ("/v2/a/manifests/%zz", PathError::Encoding),
            ("/v2/a/manifests/%252e", PathError::Encoding),
            ("/v2/a/manifests/-bad", PathError::Tag(TagError)),
            (
                "/v2/a/manifests/sha256:0",
                PathError::Digest(DigestError::Hex),
            ),
            ("/v2/a/blobs/latest", PathError::Digest(DigestError::Form)),
            ("/v2/a", PathError::Unknown),
            ("/v2/a/manifests", PathError::Unknown),
            ("/v2/a/tags", PathError::Unknown),
        ] {
            assert_eq!(path(text), Err(error), "{text}");
        }
    }

    #[test]
    fn raw_queries_keep_their_bytes() {
        for (query, without) in [
            ("_state=a%2bB-_~==&digest=x", "_state=a%2bB-_~==&digest=x"),
            ("ns=docker.io&_state=%41", "_state=%41"),
            ("a=1&ns=x&b=2", "a=1&b=2"),
            ("n%73=x&a", "a"),
            ("nsx=1", "nsx=1"),
            ("ns", ""),
            ("", ""),
        ] {
            assert_eq!(raw_without(query, "ns"), without, "{query}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("n=5&last=a%2Fb&ns=docker.io&flag").expect("valid");
        assert_eq!(query.value("last"), Some("a/b"));
        assert_eq!(query.value("flag"), Some(""));
        assert_eq!(query.value("none"), None);
        assert_eq!(
            query.clone().without("ns").render(),
            "?n=5&last=a%2Fb&flag="
        );
        assert_eq!(query.with("n", "6").value("n"), Some("6"));
        assert_eq!(Query::parse("").expect("valid").render(), "");
        assert_eq!(
            Query::parse("a=1&a=2"),
            Err(QueryError::Duplicate("a".into()))
        );
        assert_eq!(
            Query::parse("a=1&%61=2"),
            Err(QueryError::Duplicate("a".into()))
        );
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%00", "a=%0d%0aX: y"] {
            assert_eq!(Query::parse(bad), Err(QueryError::Encoding), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}") {
            if let Ok(segments) = segments(&text) {
                let _ = parse(&segments);
            }
            let _ = Query::parse(&text);
        }

        /// What is rendered parses back to the same value.
        #[test]
        fn rendering_round_trips(name in "[a-z]{1,5}(/[a-z]{1,9}){0,3}", tag in "[a-z0-9_][a-zA-Z0-9._-]{0,20}") {
            let endpoint = Endpoint {
                repository: name.parse().expect("valid"),
                resource: Resource::Manifest(tag.parse().expect("valid")),
            };
            let rendered = endpoint.path();
            prop_assert_eq!(path(&rendered), named(&name, endpoint.resource));
        }

        #[test]
        fn query_round_trips(pairs in proptest::collection::btree_map("\\PC{1,5}", "\\PC{0,9}", 0..4)) {
            let query = pairs.iter().fold(Query::default(), |query, (key, value)| query.with(key, value));
            let rendered = query.render();
            prop_assert_eq!(Query::parse(rendered.trim_start_matches('?')), Ok(query));
        }
    }
}
