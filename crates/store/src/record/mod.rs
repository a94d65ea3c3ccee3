//! Records: keys, values, and the rules of their kinds. Pure; [`crate::records`] does the I/O.
//!
//! A record is a small JSON file that refers to blobs: a repository's manifests and blobs, its tags, and whether
//! it is public. Only [`RecordKey`] knows the kinds. Its exhaustive matches define for each kind the path of the
//! file and its parser, the blob that it refers to, its retention, its maximum length, and whether gateways share
//! it through the bucket. Other crates add kinds as [`ExtensionKind`]s, which
//! declare the same.

mod extension;
mod key;
mod value;

pub use extension::{ExtensionKey, ExtensionKeyOf, ExtensionKind, OnPurge};
pub(crate) use key::{BLOBS, MANIFESTS, PUBLIC};
pub use key::{BlobKey, ManifestKey, PublicKey, RecordKey, TagKey, TypedKey};
pub use value::{BlobLink, ManifestLink, Outcome, Pointer, PublicLink, Reach, Record};

use serde::de::DeserializeOwned;

use oci::digest::Digest;

/// A blob that a record refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The record claims the bytes: a purge of another record does not remove them.
    Claim(Digest),
    /// The record tells how to make the bytes again. The blob is retained with it, but may be purged.
    Recipe(Digest),
}

impl Reference {
    /// The digest of the blob.
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
    /// For ever, within half of the space for records.
    Permanent,
    /// Like [`Self::Permanent`], but deleted with any record it refers to, so that the lost one is made again.
    PermanentIndex,
}

impl Retention {
    /// Whether the record outlives its last use.
    pub const fn is_permanent(self) -> bool {
        matches!(self, Self::Permanent | Self::PermanentIndex)
    }
}

/// The stored value of a record, read on demand.
#[derive(Clone, Copy)]
pub struct StoredValue<'a> {
    read: &'a dyn Fn() -> Option<Vec<u8>>,
}

impl<'a> StoredValue<'a> {
    /// Reads the value when it is asked for.
    pub const fn new(read: &'a dyn Fn() -> Option<Vec<u8>>) -> Self {
        Self { read }
    }

    /// The value; `None` if it cannot be read or parsed.
    pub fn parse<V: DeserializeOwned>(self) -> Option<V> {
        serde_json::from_slice(&(self.read)()?).ok()
    }
}
