//! Keys of records.

use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{NameScope, Registry, RepositoryName, Tag};

use super::extension::{ExtensionKey, ExtensionKeyOf, ExtensionKind, OnPurge};
use super::value::{BlobLink, ManifestLink, Pointer, PublicLink, Record};
use super::{Reference, Retention, StoredValue};
use crate::layout::{
    BLOCK, REPOSITORIES, component, decode_component, digest_name, parse_digest_name,
};

/// The folder of a repository's manifests, within that of the repository.
pub(crate) const MANIFESTS: &str = "_manifests";
/// The folder of a repository's blobs.
pub(crate) const BLOBS: &str = "_blobs";
/// The folder of a repository's tags.
const TAGS: &str = "_tags";
/// The record that a repository is public.
pub(crate) const PUBLIC: &str = "_public";

/// The key of a record of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecordKey {
    /// `_manifests/<alg>-<hex>` in a repository's folder.
    Manifest(ManifestKey),
    /// `_blobs/<alg>-<hex>` in a repository's folder.
    Blob(BlobKey),
    /// `_public` in a repository's folder.
    Public(PublicKey),
    /// `_tags/<accept class>/<tag>` in a repository's folder.
    Tag(TagKey),
    /// A record of another crate, where its kind says.
    Extension(ExtensionKey),
}

/// A key whose values are of one type.
pub trait TypedKey: Clone + Into<RecordKey> {
    /// What the file of such a record holds.
    type Value: Record;
}

/// The key of a repository's claim to a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ManifestKey {
    /// The repository that has the manifest.
    pub name: RepositoryName,
    /// The digest of the manifest.
    pub digest: Digest,
}

/// The key of a repository's claim to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobKey {
    /// The repository that has the blob.
    pub name: RepositoryName,
    /// The digest of the blob.
    pub digest: Digest,
}

/// The key of the fact that a repository is public.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey {
    /// The repository that an anonymous client may read.
    pub name: RepositoryName,
}

/// The key of a tag's target for one class of clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagKey {
    /// The repository that has the tag.
    pub name: RepositoryName,
    /// What the clients accept: one tag may have a target for each class.
    pub class: AcceptClass,
    /// The tag.
    pub tag: Tag,
}

impl ManifestKey {
    /// The claim of a repository to this manifest.
    pub fn new(name: &RepositoryName, digest: &Digest) -> Self {
        Self {
            name: name.clone(),
            digest: *digest,
        }
    }

    /// The folder of all manifests of a repository.
    pub fn folder(name: &RepositoryName) -> String {
        format!("{}/{MANIFESTS}", repository_path(name))
    }
}

impl BlobKey {
    /// The claim of a repository to this blob.
    pub fn new(name: &RepositoryName, digest: &Digest) -> Self {
        Self {
            name: name.clone(),
            digest: *digest,
        }
    }

    /// The folder of all blobs of a repository.
    pub fn folder(name: &RepositoryName) -> String {
        format!("{}/{BLOBS}", repository_path(name))
    }
}

impl PublicKey {
    /// Whether this repository is public.
    pub fn new(name: &RepositoryName) -> Self {
        Self { name: name.clone() }
    }
}

impl TagKey {
    /// The target of a tag for one class of clients.
    pub fn new(name: &RepositoryName, class: AcceptClass, tag: &Tag) -> Self {
        Self {
            name: name.clone(),
            class,
            tag: tag.clone(),
        }
    }

    /// The folder of all tags of a repository.
    pub fn folder(name: &RepositoryName) -> String {
        format!("{}/{TAGS}", repository_path(name))
    }

    /// The folder of the tags of a repository for one class of clients.
    pub fn class_folder(name: &RepositoryName, class: AcceptClass) -> String {
        format!("{}/{}", Self::folder(name), class.as_str())
    }
}

macro_rules! typed_key {
    ($($key:ident: $kind:ident => $value:ty),*) => {$(
        impl From<$key> for RecordKey {
            fn from(key: $key) -> Self {
                Self::$kind(key)
            }
        }

        impl TypedKey for $key {
            type Value = $value;
        }
    )*};
}

typed_key!(
    ManifestKey: Manifest => ManifestLink,
    BlobKey: Blob => BlobLink,
    PublicKey: Public => PublicLink,
    TagKey: Tag => Pointer
);

impl From<ExtensionKey> for RecordKey {
    fn from(key: ExtensionKey) -> Self {
        Self::Extension(key)
    }
}

impl<V> From<ExtensionKeyOf<V>> for RecordKey {
    fn from(key: ExtensionKeyOf<V>) -> Self {
        Self::Extension(key.key)
    }
}

impl<V: Record> TypedKey for ExtensionKeyOf<V> {
    type Value = V;
}

impl RecordKey {
    /// The path of the file below the store's folder. Two keys never have the same one.
    pub fn path(&self) -> String {
        match self {
            Self::Manifest(key) => {
                let folder = ManifestKey::folder(&key.name);
                format!("{folder}/{}", digest_name(&key.digest))
            }
            Self::Blob(key) => {
                let folder = BlobKey::folder(&key.name);
                format!("{folder}/{}", digest_name(&key.digest))
            }
            Self::Public(key) => {
                format!("{}/{PUBLIC}", repository_path(&key.name))
            }
            Self::Tag(key) => {
                let folder = TagKey::class_folder(&key.name, key.class);
                format!("{folder}/{}", key.tag)
            }
            Self::Extension(key) => key.path(),
        }
    }

    /// Parses a path written by [`Self::path`]; `None` for any other file.
    pub fn parse(path: &str, kinds: &[&'static ExtensionKind]) -> Option<Self> {
        let (namespace, rest) = path.split_once('/')?;
        let (registry, rest) = rest.split_once('/')?;
        let registry = Registry::new(&decode_component(registry)?);
        let key = match namespace {
            REPOSITORIES => parse_own(&registry, rest),
            _ => None,
        };
        let key = key.or_else(|| {
            let mut of_namespace = kinds.iter().filter(|kind| kind.namespace == namespace);
            of_namespace.find_map(|kind| parse_extension(kind, &registry, rest))
        })?;
        // Rejects other spellings of a registry's folder.
        (key.path() == path).then_some(key)
    }

    /// The registry that the record belongs to.
    pub fn registry(&self) -> &Registry {
        match self {
            Self::Manifest(key) => &key.name.registry,
            Self::Blob(key) => &key.name.registry,
            Self::Public(key) => &key.name.registry,
            Self::Tag(key) => &key.name.registry,
            Self::Extension(key) => key.registry(),
        }
    }

    /// The repository that the record belongs to; `None` if it is the registry's as a whole.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Manifest(key) => Some(&key.name),
            Self::Blob(key) => Some(&key.name),
            Self::Public(key) => Some(&key.name),
            Self::Tag(key) => Some(&key.name),
            Self::Extension(key) => key.repository(),
        }
    }

    /// The blob that the record refers to.
    pub fn reference(&self, value: StoredValue<'_>) -> Option<Reference> {
        match self {
            Self::Manifest(key) => {
                let link: Option<ManifestLink> = value.parse();
                let stored = link.map_or(key.digest, |link| link.stored(&key.digest));
                Some(Reference::Claim(stored))
            }
            Self::Blob(key) => Some(Reference::Claim(key.digest)),
            // The claim is that of the manifest's link.
            Self::Tag(_) | Self::Public(_) => None,
            Self::Extension(key) => (key.kind().reference)(key, value),
        }
    }

    /// How long the record is retained.
    pub fn retention(&self) -> Retention {
        match self {
            Self::Manifest(_) | Self::Blob(_) | Self::Public(_) | Self::Tag(_) => {
                Retention::WhileUsed
            }
            Self::Extension(key) => key.kind().retention,
        }
    }

    /// What a purge of its registry or repository does to it.
    pub fn on_purge(&self) -> OnPurge {
        match self {
            Self::Manifest(_) | Self::Blob(_) | Self::Public(_) | Self::Tag(_) => OnPurge::Removed,
            Self::Extension(key) => key.kind().on_purge,
        }
    }

    /// The maximum length of the record, in bytes.
    pub fn max_bytes(&self) -> u64 {
        match self {
            Self::Manifest(_) | Self::Blob(_) | Self::Public(_) | Self::Tag(_) => BLOCK,
            Self::Extension(key) => key.kind().max_bytes,
        }
    }

    /// Its path in the bucket, relative to the folder of records there; `None` for a kind that gateways do not
    /// share.
    pub fn shared_path(&self) -> Option<String> {
        match self {
            Self::Manifest(_) | Self::Blob(_) | Self::Public(_) | Self::Tag(_) => {
                let path = self.path();
                path.split_once('/').map(|(_, below)| below.to_owned())
            }
            Self::Extension(_) => None,
        }
    }
}

/// The folder of a repository's records, below the store's.
fn repository_path(name: &RepositoryName) -> String {
    let registry = component(name.registry.as_str());
    format!("{REPOSITORIES}/{registry}/{}", name.repository)
}

/// Splits a path below a registry's folder into its scope and what follows. Components of repository names never begin
/// with `_`, names of records in a repository always do.
fn split_scope<'a>(registry: &Registry, path: &'a str) -> Option<(NameScope, &'a str)> {
    if path.starts_with('_') {
        return Some((registry.into(), path));
    }
    let at = path.find("/_")?;
    let name = RepositoryName::new(registry, &path[..at].parse().ok()?);
    Some((NameScope::Repository(name), &path[at + 1..]))
}

fn parse_own(registry: &Registry, path: &str) -> Option<RecordKey> {
    let (NameScope::Repository(name), record) = split_scope(registry, path)? else {
        return None;
    };
    let key = match record.split_once('/') {
        None if record == PUBLIC => PublicKey { name }.into(),
        Some((MANIFESTS, digest)) => {
            let digest = parse_digest_name(digest)?;
            ManifestKey { name, digest }.into()
        }
        Some((BLOBS, digest)) => {
            let digest = parse_digest_name(digest)?;
            BlobKey { name, digest }.into()
        }
        Some((TAGS, rest)) => {
            let (class, tag) = rest.split_once('/')?;
            let classes = [AcceptClass::Full, AcceptClass::NoList, AcceptClass::Schema1];
            TagKey {
                name,
                class: classes.into_iter().find(|known| known.as_str() == class)?,
                tag: tag.parse().ok()?,
            }
            .into()
        }
        _ => return None,
    };
    Some(key)
}

fn parse_extension(
    kind: &'static ExtensionKind,
    registry: &Registry,
    path: &str,
) -> Option<RecordKey> {
    let (scope, name) = if kind.prefix.starts_with('_') {
        split_scope(registry, path)?
    } else {
        (registry.into(), path)
    };
    let name = name.strip_prefix(kind.prefix)?;
    Some(kind.key(scope, name).into())
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
