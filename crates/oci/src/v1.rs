//! The v1 API's request targets, as docker-registry 0.9 serves and Docker 1.0 to 1.12 requests them: parsed
//! from a client's request, rendered for a registry.
//!
//! Image requests name no repository. A name of one component and `library/<name>` are the same repository:
//! clients mix both forms, and some registries know only the latter, so that is rendered.

mod image_id;

use std::borrow::Cow;

use super::name::{Repository, Tag};
use super::v2::{self, PathError};

pub use image_id::{ImageId, ImageIdError, id_of_tag, ids_in_list, ids_of_tags};

/// A parsed v1 path. Names are unparsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// `/_ping` and `/v1/_ping`
    Ping,
    /// `/v1/users/`, and `/v1/users/<name>/`
    Users,
    /// `/v1/search`
    Search,
    /// `/v1/repositories/<name>/…`
    Named {
        /// The name as written, not parsed yet: `app` or `team/app`.
        name: String,
        /// The part of it.
        resource: Resource,
    },
    /// `/v1/images/<id>/…`
    Image {
        /// The image.
        id: ImageId,
        /// The part of it.
        part: Part,
    },
}

/// The part of a repository that a path names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `/`: a push begins with it.
    Repository,
    /// The list of its images: a pull begins with it, a push ends with it.
    Images,
    /// `/auth`: whether a token is valid for the repository.
    Auth,
    /// `/json`: when and by which client it was last pushed to.
    Json,
    /// `/properties`: `{"access":"public"}` or private.
    Properties,
    /// `/tags`: all tags with the ids that they point at.
    Tags,
    /// `/tags/<tag>`: the id that a tag points at.
    Tag(Tag),
    /// `/tags/<tag>/json`: when and by which client the tag was last pushed.
    TagJson(Tag),
}

impl Resource {
    /// Whether the index serves it, if index and registry are separate servers.
    pub const fn is_served_by_index(&self) -> bool {
        matches!(self, Self::Repository | Self::Images | Self::Auth)
    }
}

/// The part of an image that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `/ancestry`: the ids from this image to its root.
    Ancestry,
    /// `/checksum`: a push sends the layer's checksums here.
    Checksum,
    /// `/diff`: the registry's list of changed files.
    Diff,
    /// `/files`: the registry's list of all files.
    Files,
    /// `/json`: the image's configuration, with its id and its parent's.
    Json,
    /// `/layer`: the bytes of its layer.
    Layer,
}

impl Part {
    const ALL: [(&'static str, Self); 6] = [
        ("ancestry", Self::Ancestry),
        ("checksum", Self::Checksum),
        ("diff", Self::Diff),
        ("files", Self::Files),
        ("json", Self::Json),
        ("layer", Self::Layer),
    ];

    fn parse(text: &str) -> Result<Self, PathError> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, part)| part).ok_or(PathError::Unknown)
    }

    /// The last segment of the path: `ancestry`.
    pub fn as_str(self) -> &'static str {
        let found = Self::ALL.into_iter().find(|(_, part)| *part == self);
        found.map_or("", |(name, _)| name)
    }
}

/// A parsed request target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Of a repository.
    Named {
        /// The repository, with the registry's own name.
        repository: Repository,
        /// The part of it.
        resource: Resource,
    },
    /// Of an image, of whatever repository.
    Image {
        /// The image.
        id: ImageId,
        /// The part of it.
        part: Part,
    },
}

/// Words that may follow a name. A registry could read a tag or component of that form as another path.
const WORDS: [&str; 5] = ["tags", "images", "json", "auth", "properties"];

/// Parses a raw path. A slash at its end distinguishes a repository from its resources.
///
/// # Errors
/// [`PathError`] if it is no path of the API.
pub fn parse(path: &str) -> Result<Path, PathError> {
    let segments = v2::segments(path)?;
    let texts: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
    match texts.as_slice() {
        ["_ping"] | ["v1", "_ping"] => Ok(Path::Ping),
        ["v1", "users"] | ["v1", "users", _] => Ok(Path::Users),
        ["v1", "search"] => Ok(Path::Search),
        ["v1", "images", id, part] => Ok(Path::Image {
            id: id.parse().map_err(|_| PathError::Unknown)?,
            part: Part::parse(part)?,
        }),
        ["v1", "repositories", name @ ..] if path.ends_with('/') => {
            named(name, Resource::Repository)
        }
        ["v1", "repositories", rest @ ..] => {
            let (name, resource) = split_resource(rest)?;
            named(name, resource)
        }
        _ => Err(PathError::Unknown),
    }
}

/// Splits the segments after `repositories`, from the right.
fn split_resource<'s, 't>(rest: &'s [&'t str]) -> Result<(&'s [&'t str], Resource), PathError> {
    let is_word = |text: &&str| WORDS.contains(text);
    Ok(match rest {
        [name @ .., "tags", tag, "json"] if !name.is_empty() => {
            (name, Resource::TagJson(tag.parse()?))
        }
        [name @ .., "tags", tag] if !name.is_empty() && !is_word(tag) => {
            (name, Resource::Tag(tag.parse()?))
        }
        [name @ .., "tags"] if !name.is_empty() => (name, Resource::Tags),
        [name @ .., "images"] if !name.is_empty() => (name, Resource::Images),
        [name @ .., "auth"] if !name.is_empty() => (name, Resource::Auth),
        [name @ .., "json"] if !name.is_empty() => (name, Resource::Json),
        [name @ .., "properties"] if !name.is_empty() => (name, Resource::Properties),
        name => (name, Resource::Repository),
    })
}

/// A resource of the repository with this name.
fn named(name: &[&str], resource: Resource) -> Result<Path, PathError> {
    // The repository `a/tags/b` and the tag `b` of `a` would share a path.
    if name.is_empty() || name.contains(&"tags") {
        return Err(PathError::Unknown);
    }
    Ok(Path::Named {
        name: name.join("/"),
        resource,
    })
}

/// The canonical form of a name: `library/x` is `x`.
pub fn plain(name: &str) -> &str {
    match name.strip_prefix("library/") {
        Some(rest) if !rest.is_empty() && !rest.contains('/') => rest,
        _ => name,
    }
}

impl Endpoint {
    /// Renders the path from parsed parts.
    pub fn path(&self) -> String {
        let (repository, resource) = match self {
            Self::Image { id, part } => return format!("/v1/images/{id}/{}", part.as_str()),
            Self::Named {
                repository,
                resource,
            } => (repository.as_str(), resource),
        };
        let name = if repository.contains('/') {
            Cow::Borrowed(repository)
        } else {
            Cow::Owned(format!("library/{repository}"))
        };
        let rest = match resource {
            Resource::Repository => String::new(),
            Resource::Images => "images".into(),
            Resource::Auth => "auth".into(),
            Resource::Json => "json".into(),
            Resource::Properties => "properties".into(),
            Resource::Tags => "tags".into(),
            Resource::Tag(tag) => format!("tags/{tag}"),
            Resource::TagJson(tag) => format!("tags/{tag}/json"),
        };
        format!("/v1/repositories/{name}/{rest}")
    }
}

/// The error body: `{"error": "…"}`, to be sent as `application/json`.
pub fn error_body(message: &str) -> String {
    serde_json::json!({"error": message}).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    #[test]
    fn paths_of_clients() {
        let named = |name: &str, resource| Path::Named {
            name: name.into(),
            resource,
        };
        let tag = |text: &str| text.parse().expect("a tag");
        for (text, expected) in [
            ("/_ping", Path::Ping),
            ("/v1/_ping", Path::Ping),
            ("//v1//_ping", Path::Ping),
            ("/v1/users/", Path::Users),
            ("/v1/users", Path::Users),
            ("/v1/users/me/", Path::Users),
            ("/v1/search", Path::Search),
            ("/v1/repositories/app/", named("app", Resource::Repository)),
            ("/v1/repositories/app", named("app", Resource::Repository)),
            (
                "/v1/repositories/team/images/",
                named("team/images", Resource::Repository),
            ),
            (
                "/v1/repositories/images",
                named("images", Resource::Repository),
            ),
            (
                "/v1/repositories/team/app/images",
                named("team/app", Resource::Images),
            ),
            (
                "/v1/repositories/a/b/c/images",
                named("a/b/c", Resource::Images),
            ),
            (
                "/v1/repositories/library/app/tags",
                named("library/app", Resource::Tags),
            ),
            (
                "/v1/repositories/team/app/tags/1.0",
                named("team/app", Resource::Tag(tag("1.0"))),
            ),
            (
                "/v1/repositories/app/tags/latest/json",
                named("app", Resource::TagJson(tag("latest"))),
            ),
            ("/v1/repositories/app/json", named("app", Resource::Json)),
            ("/v1/repositories/app/auth", named("app", Resource::Auth)),
            (
                "/v1/repositories/app/properties",
                named("app", Resource::Properties),
            ),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for (name, part) in Part::ALL {
            let text = format!("/v1/images/{}/{name}", id());
            let id = id().parse().expect("an id");
            assert_eq!(parse(&text), Ok(Path::Image { id, part }));
        }
    }

    #[test]
    fn paths_outside_the_api() {
        let unknown = [
            "/v1".to_owned(),
            "/v1/".into(),
            "/v1/repositories".into(),
            "/v1/images".into(),
            "/v1/images/latest/json".into(),
            format!("/v1/images/{}/json", id().to_uppercase()),
            format!("/v1/images/{}/private", id()),
            format!("/v1/images/{}", id()),
            format!("/v1/private_images/{}/layer", id()),
            // ambiguous repository names
            "/v1/repositories/a/tags/b/images".into(),
            "/v1/repositories/a/tags/tags/b".into(),
            "/v1/repositories/a/tags/b/".into(),
            "/v1/repositories/a/tags/images".into(),
            "/_ping/x".into(),
        ];
        for text in unknown {
            assert_eq!(parse(&text), Err(PathError::Unknown), "{text}");
        }
        assert!(parse("/v1/repositories/a/tags/-x").is_err());
        assert_eq!(
            parse("/v1/repositories/a%2Fb/images"),
            Err(PathError::Encoding)
        );
        assert_eq!(parse("/v1/../v2/"), Err(PathError::Encoding));
    }

    #[test]
    fn library_is_put_before_short_names() {
        for (name, plain_name) in [
            ("app", "app"),
            ("library/app", "app"),
            ("team/app", "team/app"),
            ("library/a/b", "library/a/b"),
            ("library/", "library/"),
            ("library", "library"),
        ] {
            assert_eq!(plain(name), plain_name);
        }
        let images = |repository: &str| {
            let endpoint = Endpoint::Named {
                repository: repository.parse().expect("a name"),
                resource: Resource::Images,
            };
            endpoint.path()
        };
        assert_eq!(images("app"), "/v1/repositories/library/app/images");
        assert_eq!(images("team/app"), "/v1/repositories/team/app/images");
    }

    fn any_resource() -> impl Strategy<Value = Resource> {
        let tag = || {
            "[a-z0-9_][a-zA-Z0-9._-]{0,20}".prop_filter("a word", |tag| !WORDS.contains(&&**tag))
        };
        prop_oneof![
            Just(Resource::Repository),
            Just(Resource::Images),
            Just(Resource::Auth),
            Just(Resource::Json),
            Just(Resource::Properties),
            Just(Resource::Tags),
            tag().prop_map(|tag| Resource::Tag(tag.parse().expect("a tag"))),
            tag().prop_map(|tag| Resource::TagJson(tag.parse().expect("a tag"))),
        ]
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}|/v1/(repositories|images)(/[a-z0-9]{0,9}){0,5}/?") {
            let _ = parse(&text);
            let _ = (ids_in_list(text.as_bytes()), ids_of_tags(text.as_bytes()));
        }

        /// A rendered path parses to the same value.
        #[test]
        fn rendering_round_trips(
            name in "[a-s]{1,9}(/[a-z]{1,9}){0,3}|images|json(/images)?",
            resource in any_resource(),
        ) {
            prop_assume!(!name.split('/').any(|component| component == "tags"));
            let repository: Repository = plain(&name).parse().expect("valid");
            let endpoint = Endpoint::Named { repository, resource: resource.clone() };
            let Ok(Path::Named { name: read, resource: is }) = parse(&endpoint.path()) else {
                panic!("{}", endpoint.path());
            };
            prop_assert_eq!((plain(&read), is), (plain(&name), resource));
        }
    }
}
