//! Kinds of records that other crates add.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use oci::name::{NameScope, Registry, RepositoryName};

use super::{Reference, Retention, StoredValue};
use crate::layout::{BLOCK, component};

/// A kind of record that another crate defines, as a `static`. Its files are
/// `<namespace>/<registry>[/<repository>]/<prefix><name>`.
pub struct ExtensionKind {
    /// The folder below the store's.
    pub namespace: &'static str,
    /// The beginning of the name. Records that belong to a repository need one that begins with `_`, since
    /// components of repository names never do. No prefix of a namespace begins with another one.
    pub prefix: &'static str,
    /// The maximum length of a record, in bytes. A kind of more than a block needs a prefix without a slash.
    pub max_bytes: u64,
    /// How long it is retained.
    pub retention: Retention,
    /// What a purge of its registry or repository does to it.
    pub on_purge: OnPurge,
    /// The blob that a record refers to.
    pub reference: fn(&ExtensionKey, StoredValue<'_>) -> Option<Reference>,
    /// The tag that a record stands for, in the report of a purge.
    pub tag: fn(&ExtensionKey) -> Option<&str>,
}

/// What a purge of a whole registry or repository does to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPurge {
    /// It is removed: it describes what is cached.
    Removed,
    /// It stays: it describes what was seen of the registry.
    Retained,
}

impl ExtensionKind {
    /// A kind of one block at most, retained while it is used, that refers to no blob.
    pub const fn new(namespace: &'static str, prefix: &'static str) -> Self {
        Self {
            namespace,
            prefix,
            max_bytes: BLOCK,
            retention: Retention::WhileUsed,
            on_purge: OnPurge::Removed,
            reference: |_, _| None,
            tag: |_| None,
        }
    }

    /// The key of a record.
    pub fn key(&'static self, scope: impl Into<NameScope>, name: &str) -> ExtensionKey {
        ExtensionKey {
            kind: self,
            scope: scope.into(),
            name: name.into(),
        }
    }

    /// Whether this is the same kind.
    pub fn is(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.prefix == other.prefix
    }
}

impl fmt::Debug for ExtensionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…/{}", self.namespace, self.prefix)
    }
}

/// The key of a record of an [`ExtensionKind`].
#[derive(Clone, Debug)]
pub struct ExtensionKey {
    kind: &'static ExtensionKind,
    scope: NameScope,
    name: Arc<str>,
}

impl ExtensionKey {
    /// This key, for values of the type that the kind holds.
    pub const fn of<V>(self) -> ExtensionKeyOf<V> {
        ExtensionKeyOf {
            key: self,
            value: PhantomData,
        }
    }

    /// The kind, which knows where its records lie.
    pub const fn kind(&self) -> &'static ExtensionKind {
        self.kind
    }

    /// The registry that the record belongs to.
    pub const fn registry(&self) -> &Registry {
        self.scope.registry()
    }

    /// The repository that the record belongs to; `None` for a record of the whole registry.
    pub const fn repository(&self) -> Option<&RepositoryName> {
        self.scope.repository()
    }

    /// The name behind the kind's prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> String {
        let ExtensionKind {
            namespace, prefix, ..
        } = self.kind;
        let (registry, name) = (component(self.registry().as_str()), &self.name);
        match self.repository() {
            Some(RepositoryName { repository, .. }) => {
                format!("{namespace}/{registry}/{repository}/{prefix}{name}")
            }
            None => format!("{namespace}/{registry}/{prefix}{name}"),
        }
    }
}

impl PartialEq for ExtensionKey {
    fn eq(&self, other: &Self) -> bool {
        self.kind.is(other.kind) && self.name == other.name && self.scope == other.scope
    }
}

impl Eq for ExtensionKey {}

impl Hash for ExtensionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind.namespace, self.kind.prefix).hash(state);
        (&self.scope, &self.name).hash(state);
    }
}

/// An [`ExtensionKey`] and the type of its values.
pub struct ExtensionKeyOf<V> {
    pub(super) key: ExtensionKey,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for ExtensionKeyOf<V> {
    fn clone(&self) -> Self {
        self.key.clone().of()
    }
}

impl<V> fmt::Debug for ExtensionKeyOf<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}
