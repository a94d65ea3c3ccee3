//! Values of records, as stored on disk.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use oci::digest::Digest;

/// A value that can be stored as a record.
pub trait Record: Serialize + DeserializeOwned + PartialEq + Send + Sync + 'static {
    /// When the upstream last confirmed it, in seconds since 1970, if the value has that time.
    fn checked_at(&self) -> Option<u64> {
        None
    }

    /// Whether it equals another value, apart from the time of confirmation.
    fn has_same_content(&self, other: &Self) -> bool {
        self == other
    }
}

/// Implements [`Record`] for a struct with the field `checked_at`.
macro_rules! confirmed_record {
    ($($value:ty),*) => {$(
        impl Record for $value {
            fn checked_at(&self) -> Option<u64> {
                Some(self.checked_at)
            }

            fn has_same_content(&self, other: &Self) -> bool {
                let checked_at = self.checked_at;
                *self == Self { checked_at, ..other.clone() }
            }
        }
    )*};
}

confirmed_record!(ManifestLink, BlobLink, Pointer);

/// A manifest that a repository has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestLink {
    /// The exact `Content-Type` to answer with.
    pub media_type: String,
    /// The length in bytes.
    pub size: u64,
    /// When the upstream last confirmed it, in seconds since 1970.
    pub checked_at: u64,
    /// The digest that the manifest refers to, if it is a referrer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<Digest>,
    /// The digest that the bytes are stored under, where it is not the manifest's: signed manifests of the
    /// first schema are named by their signed part.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stored: Option<Digest>,
}

impl ManifestLink {
    /// The digest that the bytes of the manifest `digest` are stored under.
    pub fn stored(&self, digest: &Digest) -> Digest {
        self.stored.unwrap_or(*digest)
    }
}

/// A blob that a repository has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobLink {
    /// When the upstream last confirmed it, in seconds since 1970.
    pub checked_at: u64,
    /// The length in bytes, if the upstream gave it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
}

/// The fact that a repository can be read anonymously.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicLink {
    /// When the upstream last confirmed it, in seconds since 1970.
    pub checked_at: u64,
}

impl Record for PublicLink {
    fn checked_at(&self) -> Option<u64> {
        Some(self.checked_at)
    }

    fn has_same_content(&self, _: &Self) -> bool {
        true
    }
}

/// The manifest that a tag points at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The media type of the manifest.
    pub media_type: String,
    /// Its length in bytes, if known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// When the upstream last confirmed it, in seconds since 1970.
    pub checked_at: u64,
}

/// Which gateways a record is for, where several share a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of them: it is an answer of the upstream.
    Shared,
    /// This one: it describes content that only this gateway has.
    Local,
}

/// The outcome of storing an upstream's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<V> {
    /// The answer is the record now.
    Current(Arc<V>),
    /// The answer is valid for its caller, but was not stored: the record was changed since the question.
    Outdated(Arc<V>),
}

impl<V> Outcome<V> {
    /// The answer, stored or not.
    pub fn into_record(self) -> Arc<V> {
        match self {
            Self::Current(record) | Self::Outdated(record) => record,
        }
    }
}
