//! Names: registries, repositories, tags and references (distribution-spec 1.1, "Pulling manifests").

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, DigestError};

/// The longest accepted repository name: most clients limit host and name to 255.
const MAX_REPOSITORY: usize = 255;

/// The canonical name of a configured registry, such as `docker.io`. Only the configuration makes one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Registry(Arc<str>);

impl Registry {
    /// Takes the name as it is: the configuration has checked it.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// `docker.io`
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Registry {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Registry> for String {
    fn from(registry: Registry) -> Self {
        registry.as_str().to_owned()
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository name, `<name>` in the specification: path components of
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` joined by `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

/// Why a text is not a repository name (`NAME_INVALID`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no character.
    #[error("the repository name is empty")]
    Empty,
    /// More than 255 characters, which many clients do not take (distribution-spec 1.1, "Pulling manifests").
    #[error("the repository name is longer than 255 characters")]
    Long,
    /// Not the grammar of `<name>` (distribution-spec 1.1, "Pulling manifests").
    #[error(
        "a repository name is lower-case letters and digits, joined by '.', '_', '__' or '-', in components split by '/'"
    )]
    Grammar,
}

impl Repository {
    /// `library/alpine`
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_REPOSITORY {
            return Err(NameError::Long);
        }
        if is_repository(text.as_bytes()) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Grammar)
        }
    }
}

/// Whether a name matches the grammar of [`Repository`].
fn is_repository(name: &[u8]) -> bool {
    enum Last {
        Slash,
        Alphanumeric,
        Period,
        Underscore,
        TwoUnderscores,
        Hyphen,
    }

    let mut last = Last::Slash;
    for byte in name {
        last = match (last, byte) {
            (_, b'a'..=b'z' | b'0'..=b'9') => Last::Alphanumeric,
            (Last::Alphanumeric, b'/') => Last::Slash,
            (Last::Alphanumeric, b'.') => Last::Period,
            (Last::Alphanumeric, b'_') => Last::Underscore,
            (Last::Underscore, b'_') => Last::TwoUnderscores,
            (Last::Alphanumeric | Last::Hyphen, b'-') => Last::Hyphen,
            _ => return false,
        };
    }
    matches!(last, Last::Alphanumeric)
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The canonical name of a repository, as used in rules, links and logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName {
    /// The registry, by its configured name.
    pub registry: Registry,
    /// The repository below it, by the name that the registry has for it.
    pub repository: Repository,
}

impl RepositoryName {
    /// Joins both parts.
    pub fn new(registry: &Registry, repository: &Repository) -> Self {
        Self {
            registry: registry.clone(),
            repository: repository.clone(),
        }
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

/// A registry as a whole, or one of its repositories.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NameScope {
    /// All of a registry.
    Registry(Registry),
    /// One repository.
    Repository(RepositoryName),
}

impl NameScope {
    /// The registry, also of a repository.
    pub const fn registry(&self) -> &Registry {
        match self {
            Self::Registry(registry) => registry,
            Self::Repository(name) => &name.registry,
        }
    }

    /// The repository; `None` for a registry as a whole.
    pub const fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Registry(_) => None,
            Self::Repository(name) => Some(name),
        }
    }
}

impl From<&Registry> for NameScope {
    fn from(registry: &Registry) -> Self {
        Self::Registry(registry.clone())
    }
}

impl From<&RepositoryName> for NameScope {
    fn from(name: &RepositoryName) -> Self {
        Self::Repository(name.clone())
    }
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Arc<str>);

/// Why a text is not a tag (`TAG_INVALID`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tag is 1 to 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'")]
pub struct TagError;

impl Tag {
    /// `3.20`
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let bytes = text.as_bytes();
        let valid = (1..=128).contains(&bytes.len())
            && word(bytes[0])
            && bytes
                .iter()
                .all(|&byte| word(byte) || byte == b'.' || byte == b'-');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(TagError)
        }
    }
}

impl TryFrom<String> for Tag {
    type Error = TagError;

    fn try_from(text: String) -> Result<Self, TagError> {
        text.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.as_str().to_owned()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `<reference>`: a digest if it holds a colon, else a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `3.20`: may point at another manifest tomorrow.
    Tag(Tag),
    /// `sha256:…`: the manifest itself, which never changes.
    Digest(Digest),
}

/// Why a text is neither a tag nor a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Without a colon, it is no tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// With a colon, it is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repositories() {
        for good in [
            "a",
            "library/alpine",
            "a/manifests",
            "a.b/c_d/e__f/g--h",
            "0/1",
            "a-b.c",
        ] {
            assert_eq!(
                good.parse::<Repository>().map(|r| r.to_string()),
                Ok(good.into())
            );
        }
        for bad in [
            "A", "a/", "/a", "a//b", "a..b", ".", "..", "a/../b", "a___b", "_a", "a-", "a:b", "é",
            "a b",
        ] {
            assert_eq!(bad.parse::<Repository>(), Err(NameError::Grammar), "{bad}");
        }
        assert_eq!("".parse::<Repository>(), Err(NameError::Empty));
        assert_eq!("a".repeat(256).parse::<Repository>(), Err(NameError::Long));
        assert!("a".repeat(255).parse::<Repository>().is_ok());
    }

    #[test]
    fn references() {
        for good in ["latest", "v1.2-rc_3", "_", &"x".repeat(128)] {
            assert!(matches!(good.parse(), Ok(Reference::Tag(_))), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "é", &"x".repeat(129)] {
            assert_eq!(
                bad.parse::<Reference>(),
                Err(ReferenceError::Tag(TagError)),
                "{bad}"
            );
        }
        assert!(matches!(
            "a:b".parse::<Reference>(),
            Err(ReferenceError::Digest(_))
        ));
    }

    proptest! {
        /// The hand-written grammar agrees with the specification's expression.
        #[test]
        fn repository_agrees_with_the_expression(text in "[a-b0A./_-]{0,8}") {
            let expression = regex::Regex::new(
                r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$",
            ).expect("a constant expression");
            prop_assert_eq!(text.parse::<Repository>().is_ok(), expression.is_match(&text));
        }

        #[test]
        fn tag_agrees_with_the_expression(text in "\\PC{0,6}|[a-zA-Z0-9._-]{1,130}") {
            let expression = regex::Regex::new(r"^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$")
                .expect("a constant expression");
            prop_assert_eq!(text.parse::<Tag>().is_ok(), expression.is_match(&text));
        }
    }
}
