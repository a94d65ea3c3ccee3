//! What a record is: its key, its value, and the rules that follow from its kind. Pure; [`crate::records`] does
//! the I/O.
//!
//! A record is a small JSON file that points at blobs: a repository's manifests and blobs, its tags, and whether
//! it is public. [`RecordKey`] is the one place that knows the kinds. Its exhaustive matches say for each kind
//! where the file is, how its path is parsed, which blob it refers to, how long it is retained, how long it may
//! be, and whether gateways share it through the bucket. Other crates add kinds as [`ExtensionKind`]s, which
//! declare the same.

mod extension;
mod key;
mod value;

pub use extension::{ExtensionKey, ExtensionKeyOf, ExtensionKind};
pub use key::{BlobKey, ManifestKey, PublicKey, RecordKey, TagKey, TypedKey};
pub use value::{BlobLink, ManifestLink, Outcome, Pointer, PublicLink, Reach, Record};

use serde::de::DeserializeOwned;

use oci::digest::Digest;

/// A blob that a record refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The record is a claim to the bytes: a purge of another record leaves them alone.
    Claim(Digest),
    /// The record says how the bytes are made again. The blob is retained with it, but may be purged.
    Recipe(Digest),
}

impl Reference {
    pub const fn digest(self) -> Digest {
        match self {
            Self::Claim(digest) | Self::Recipe(digest) => digest,
        }
    }

    /// The digest, if this is a claim to it.
    pub const fn claimed(self) -> Option<Digest> {
        match self {
            Self::Claim(digest) => Some(digest),
            Self::Recipe(_) => None,
        }
    }
}

/// How long a record is retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Until its registry's `unused_ttl` has passed since its last use.
    WhileUsed,
    /// For ever, within half of what records may take.
    Permanent,
    /// As [`Self::Permanent`]; but it leads to other permanent records, and is deleted whenever one of those had
    /// to be, so that what was lost is made anew.
    PermanentIndex,
}

impl Retention {
    pub const fn is_permanent(self) -> bool {
        matches!(self, Self::Permanent | Self::PermanentIndex)
    }
}

/// The stored value of a record, read only if it is needed.
#[derive(Clone, Copy)]
pub struct StoredValue<'a> {
    read: &'a dyn Fn() -> Option<Vec<u8>>,
}

impl<'a> StoredValue<'a> {
    pub const fn new(read: &'a dyn Fn() -> Option<Vec<u8>>) -> Self {
        Self { read }
    }

    /// The value; `None` if it cannot be read or parsed.
    pub fn parse<V: DeserializeOwned>(self) -> Option<V> {
        serde_json::from_slice(&(self.read)()?).ok()
    }
}
