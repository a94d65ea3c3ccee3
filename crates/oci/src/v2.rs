//! The v2 API's request targets (distribution-spec 1.1, "Endpoints"): parsed from a client's request, rendered
//! for an upstream.
//!
//! A path is parsed from the right, because a repository may be called `a/manifests`. Paths are rendered from
//! parsed parts only, so nothing that a client writes reaches an upstream unparsed.

use std::borrow::Cow;

use percent_encoding::{percent_decode_str, utf8_percent_encode};

use super::digest::{Digest, DigestError};
use super::name::{Reference, ReferenceError, Repository, TagError};
pub use super::query::Query;
use super::query::UNRESERVED;

/// A parsed v2 path. The name is unparsed: it may begin with a registry's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/…`
    Named {
        /// The name as written, not parsed yet: `library/alpine`.
        name: String,
        /// The part of it.
        resource: Resource,
    },
}

/// The part of a repository that a path names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `/manifests/<reference>` (end-3, end-7, end-9)
    Manifest(Reference),
    /// `/blobs/<digest>` (end-2, end-10)
    Blob(Digest),
    /// `/tags/list` (end-8)
    Tags,
    /// `/referrers/<digest>` (end-12)
    Referrers(Digest),
    /// `/blobs/uploads/`, where uploads begin and blobs are mounted (end-4, end-11)
    Uploads,
    /// `/blobs/uploads/<id>` (end-5, end-6, end-13)
    Upload(String),
}

/// A parsed request target: a repository and a resource of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The repository that the path names.
    pub repository: Repository,
    /// The part of it.
    pub resource: Resource,
}

/// Why a path is not one of the API's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No endpoint has such a path.
    #[error("there is no such endpoint in the registry API")]
    Unknown,
    /// A segment is `.` or `..`, or decodes to a slash, a backslash, a control character or no UTF-8: another server
    /// could read it as another path.
    #[error(
        "the path is not valid: no '.' or '..' components, encoded slashes or control characters"
    )]
    Encoding,
    /// A digest belongs here, and this is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A tag belongs here, and this is none.
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
/// [`PathError::Encoding`] for paths that a server could read differently: dot segments, encoded
/// slashes, backslashes, control characters, bytes that are not UTF-8.
pub fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, PathError> {
    let is_plain = is_plain(path);
    let mut decoded = Vec::with_capacity(8);
    let mut rest = path;
    while !rest.is_empty() {
        let end = memchr::memchr(b'/', rest.as_bytes());
        let segment = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or("", |end| &rest[end + 1..]);
        if segment.is_empty() {
            continue;
        }
        let segment = if is_plain {
            Cow::Borrowed(segment)
        } else {
            percent_decode_str(segment)
                .decode_utf8()
                .map_err(|_| PathError::Encoding)?
        };
        if segment == "." || segment == ".." || !is_plain && is_hostile(&segment) {
            return Err(PathError::Encoding);
        }
        decoded.push(segment);
    }
    Ok(decoded)
}

/// Whether a path has only bytes that stand for themselves, as nearly all have: then no segment has to be decoded or
/// searched for hostile characters.
fn is_plain(path: &str) -> bool {
    // Counting has no early exit, and so compiles to vector instructions.
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'%' | b'\\');
    path.bytes().filter(is_plain).count() == path.len()
}

/// Whether a decoded segment has a character that a server could read differently.
fn is_hostile(segment: &str) -> bool {
    let hostile = |byte: u8| matches!(byte, b'/' | b'\\' | b'%') || byte.is_ascii_control();
    let is_hostile = segment.bytes().any(hostile);
    is_hostile || !segment.is_ascii() && segment.contains(char::is_control)
}

/// Parses the segments after `v2`.
///
/// # Errors
/// [`PathError`] if it is no path of the API.
pub fn parse(segments: &[Cow<'_, str>]) -> Result<Path, PathError> {
    // A segment is never empty.
    let from_end = |n| {
        segments
            .len()
            .checked_sub(n)
            .map_or("", |at| &*segments[at])
    };
    let (parts, resource) = match [from_end(3), from_end(2), from_end(1)] {
        [_, _, ""] => return Ok(Path::Base),
        [_, "", "_catalog"] => return Ok(Path::Catalog),
        ["blobs", "uploads", id] => (3, Resource::Upload(id.to_owned())),
        [_, "blobs", "uploads"] => (2, Resource::Uploads),
        [_, "tags", "list"] => (2, Resource::Tags),
        [_, "manifests", reference] => (2, Resource::Manifest(reference.parse()?)),
        [_, "blobs", digest] => (2, Resource::Blob(digest.parse()?)),
        [_, "referrers", digest] => (2, Resource::Referrers(digest.parse()?)),
        _ => return Err(PathError::Unknown),
    };
    Ok(Path::Named {
        name: segments[..segments.len() - parts].join("/"),
        resource,
    })
}

impl Endpoint {
    /// Renders the path from parsed parts; only an upload's id is arbitrary text, and that is encoded.
    pub fn path(&self) -> String {
        self.resource.path_in(self.repository.as_str())
    }
}

impl Resource {
    /// The path of this resource in the repository `name`.
    pub fn path_in(&self, name: &str) -> String {
        match self {
            Self::Manifest(reference) => format!("/v2/{name}/manifests/{reference}"),
            Self::Blob(digest) => format!("/v2/{name}/blobs/{digest}"),
            Self::Tags => format!("/v2/{name}/tags/list"),
            Self::Referrers(digest) => format!("/v2/{name}/referrers/{digest}"),
            Self::Uploads => format!("/v2/{name}/blobs/uploads/"),
            Self::Upload(id) => {
                let id = utf8_percent_encode(id, UNRESERVED);
                format!("/v2/{name}/blobs/uploads/{id}")
            }
        }
    }
}

/// A `Location` or `Link` target, split into undecoded parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Host and port of an absolute URL; `None` for a path.
    pub authority: Option<&'a str>,
    /// Begins with a slash.
    pub path: &'a str,
    /// What follows the first `?`; `None` without one.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Splits an `http` or `https` URL, or an absolute path with its query. `None` for everything else,
    /// including relative paths and fragments.
    pub fn split(location: &'a str) -> Option<Self> {
        let unfit = |c: char| c == '#' || c == '\\' || c == ' ' || c.is_control();
        if location.contains(unfit) {
            return None;
        }
        let (authority, rooted) = match location.split_once("://") {
            Some((scheme, rest)) if !scheme.contains('/') => {
                let (authority, rooted) =
                    rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                let is_http = ["http", "https"].contains(&scheme);
                (is_http.then_some(authority).map(Some)?, rooted)
            }
            _ => (None, location),
        };
        let (path, query) = match rooted.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rooted, None),
        };
        // Two slashes begin an authority.
        let is_path = path.starts_with('/') && !path.starts_with("//");
        is_path.then_some(Self {
            authority,
            path,
            query,
        })
    }

    /// The repository and resource of its path.
    pub fn named(&self) -> Option<(String, Resource)> {
        let segments = segments(self.path).ok()?;
        let (first, rest) = segments.split_first()?;
        match parse(rest).ok()? {
            Path::Named { name, resource } if first == "v2" => Some((name, resource)),
            _ => None,
        }
    }
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
    fn paths_are_parsed_from_the_right() {
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
    fn targets_are_split() {
        let target = |authority, path, query| {
            Some(Target {
                authority,
                path,
                query,
            })
        };
        for (location, expected) in [
            ("/v2/a", target(None, "/v2/a", None)),
            (
                "/v2/a?b=http://c",
                target(None, "/v2/a", Some("b=http://c")),
            ),
            ("/v2/a?b?c", target(None, "/v2/a", Some("b?c"))),
            ("http://h:1/v2/a?b", target(Some("h:1"), "/v2/a", Some("b"))),
            ("https://h/v2/a", target(Some("h"), "/v2/a", None)),
            ("https://h", None),
            ("https://h?b", None),
            ("https://h//v2/a", None),
            ("//h/v2/a", None),
            ("ftp://h/v2/a", None),
            ("v2/a", None),
            ("?b", None),
            ("", None),
            ("/v2/a#b", None),
            ("/v2/a b", None),
            ("/v2/a\\b", None),
            ("/v2/a\r\nX: y", None),
        ] {
            assert_eq!(Target::split(location), expected, "{location}");
        }
        let named = |location| Target::split(location).and_then(|target| target.named());
        let tags = || Some(("v2/v2".to_owned(), Resource::Tags));
        assert_eq!(named("/v2/v2/v2/tags/list?n=1"), tags());
        assert_eq!(named("/v1/v2/v2/tags/list"), None);
        assert_eq!(named("/v2/_catalog"), None);
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

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}") {
            if let Ok(segments) = segments(&text) {
                let _ = parse(&segments);
            }
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
    }
}
