//! The faults of a response.

use std::fmt;

/// A fault of a response, and the content, name or status it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request succeeded against the rules.
    Allowed(String),
    /// It shows the bytes of a content that the caller may not read.
    Bytes(String),
    /// It shows a digest or image id that the caller cannot know.
    Digest(String),
    /// It shows the name of a repository that the caller cannot know.
    Name(String),
    /// It shows a tag that the caller cannot know.
    Tag(String),
    /// It presents a content as held by a repository without a push by an authorised user.
    Misplaced(String),
    /// It claims more than the registry itself.
    Beyond(String),
    /// It differs from the response to the twin, so that it discloses what exists.
    Tells(String),
    /// It has other bytes than the content.
    Wrong(String),
    /// It denies what the registry has and the caller may read.
    Lost(String),
    /// The connection ended without a response.
    Silent(String),
}

impl Fault {
    /// Whether two faults are of the same kind.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(what) => write!(f, "allowed against the rules: {what}"),
            Self::Bytes(what) => write!(f, "shows the bytes of {what}"),
            Self::Digest(what) => write!(f, "shows the digest of {what}"),
            Self::Name(what) => write!(f, "shows the name {what}"),
            Self::Tag(what) => write!(f, "shows the tag {what}"),
            Self::Misplaced(what) => write!(f, "no entitled user put {what}"),
            Self::Beyond(what) => write!(f, "claims more than the registry: {what}"),
            Self::Tells(what) => write!(f, "tells what exists from what does not: {what}"),
            Self::Wrong(what) => write!(f, "other bytes than those of {what}"),
            Self::Lost(what) => write!(f, "withheld: {what}"),
            Self::Silent(what) => write!(f, "no response: {what}"),
        }
    }
}
