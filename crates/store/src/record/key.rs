//! Keys of records.

use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Registry, Repository, Tag};

use super::extension::{ExtensionKey, ExtensionKind};
use super::value::{BlobLink, ManifestLink, Pointer, PublicLink, Record};
use super::{Reference, Retention, StoredValue};
use crate::layout::{
    BLOCK, REPOSITORIES, component, decode_component, digest_name, parse_digest_name,
};

/// The key of a record of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecordKey {
    Manifest(ManifestKey),
    Blob(BlobKey),
    Public(PublicKey),
    Tag(TagKey),
    Extension(ExtensionKey),
}

/// A key whose values are of one type.
pub trait TypedKey: Clone + Into<RecordKey> {
    type Value: Record;
}

/// The key of a repository's claim to a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ManifestKey {
    pub registry: Registry,
    pub repository: Repository,
    pub digest: Digest,
}

/// The key of a repository's claim to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobKey {
    pub registry: Registry,
    pub repository: Repository,
    pub digest: Digest,
}

/// The key of the fact that a repository is public.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey {
    pub registry: Registry,
    pub repository: Repository,
}

/// The key of a tag's target for one class of clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagKey {
    pub registry: Registry,
    pub repository: Repository,
    pub class: AcceptClass,
    pub tag: Tag,
}

impl ManifestKey {
    pub fn new(registry: &Registry, repository: &Repository, digest: &Digest) -> Self {
        Self {
            registry: registry.clone(),
            repository: repository.clone(),
            digest: *digest,
        }
    }
}

impl BlobKey {
    pub fn new(registry: &Registry, repository: &Repository, digest: &Digest) -> Self {
        Self {
            registry: registry.clone(),
            repository: repository.clone(),
            digest: *digest,
        }
    }
}

impl PublicKey {
    pub fn new(registry: &Registry, repository: &Repository) -> Self {
        Self {
            registry: registry.clone(),
            repository: repository.clone(),
        }
    }
}

impl TagKey {
    pub fn new(
        registry: &Registry,
        repository: &Repository,
        class: AcceptClass,
        tag: &Tag,
    ) -> Self {
        Self {
            registry: registry.clone(),
            repository: repository.clone(),
            class,
            tag: tag.clone(),
        }
    }

    /// The folder of all tags of a repository.
    pub fn folder(registry: &Registry, repository: &Repository) -> String {
        format!("{}/_tags", repository_path(registry, repository))
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

impl RecordKey {
    /// The path of the file below the store's folder. Two keys never have the same one.
    pub fn path(&self) -> String {
        match self {
            Self::Manifest(key) => {
                let repository = repository_path(&key.registry, &key.repository);
                format!("{repository}/_manifests/{}", digest_name(&key.digest))
            }
            Self::Blob(key) => {
                let repository = repository_path(&key.registry, &key.repository);
                format!("{repository}/_blobs/{}", digest_name(&key.digest))
            }
            Self::Public(key) => {
                format!(
                    "{}/_public",
                    repository_path(&key.registry, &key.repository)
                )
            }
            Self::Tag(key) => {
                let folder = TagKey::folder(&key.registry, &key.repository);
                format!("{folder}/{}/{}", key.class.as_str(), key.tag)
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

    pub fn registry(&self) -> &Registry {
        match self {
            Self::Manifest(key) => &key.registry,
            Self::Blob(key) => &key.registry,
            Self::Public(key) => &key.registry,
            Self::Tag(key) => &key.registry,
            Self::Extension(key) => key.registry(),
        }
    }

    /// The repository that the record belongs to; `None` if it is the registry's as a whole.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Manifest(key) => Some(&key.repository),
            Self::Blob(key) => Some(&key.repository),
            Self::Public(key) => Some(&key.repository),
            Self::Tag(key) => Some(&key.repository),
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

    pub fn retention(&self) -> Retention {
        match self {
            Self::Manifest(_) | Self::Blob(_) | Self::Public(_) | Self::Tag(_) => {
                Retention::WhileUsed
            }
            Self::Extension(key) => key.kind().retention,
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

fn repository_path(registry: &Registry, repository: &Repository) -> String {
    let registry = component(registry.as_str());
    format!("{REPOSITORIES}/{registry}/{repository}")
}

/// Splits a path below a registry's folder into its repository, if it has one, and what follows. Components of
/// repository names never begin with `_`, names of records in a repository always do.
fn split_repository(path: &str) -> Option<(Option<Repository>, &str)> {
    if path.starts_with('_') {
        return Some((None, path));
    }
    let at = path.find("/_")?;
    Some((Some(path[..at].parse().ok()?), &path[at + 1..]))
}

fn parse_own(registry: &Registry, path: &str) -> Option<RecordKey> {
    let (repository, name) = split_repository(path)?;
    let (registry, repository) = (registry.clone(), repository?);
    let key = match name.split_once('/') {
        None if name == "_public" => PublicKey {
            registry,
            repository,
        }
        .into(),
        Some(("_manifests", name)) => ManifestKey {
            registry,
            repository,
            digest: parse_digest_name(name)?,
        }
        .into(),
        Some(("_blobs", name)) => BlobKey {
            registry,
            repository,
            digest: parse_digest_name(name)?,
        }
        .into(),
        Some(("_tags", name)) => {
            let (class, tag) = name.split_once('/')?;
            let classes = [AcceptClass::Full, AcceptClass::NoList, AcceptClass::Schema1];
            TagKey {
                registry,
                repository,
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
    let (repository, name) = if kind.prefix.starts_with('_') {
        split_repository(path)?
    } else {
        (None, path)
    };
    let name = name.strip_prefix(kind.prefix)?;
    Some(kind.key(registry, repository.as_ref(), name).into())
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
