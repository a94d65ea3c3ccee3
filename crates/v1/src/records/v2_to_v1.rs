//! Bridged images for v1 clients: which manifest an id stands for, and how a layer is prepared that such a
//! client cannot read.
//!
//! The record of an id belongs to a repository, because image requests name none and nothing else can tell:
//! `repositories/<registry>/<repository>/_image-<id>`. If anonymous clients may read the whole registry, it
//! belongs to the registry, `repositories/<registry>/_image-<id>`, and names the repository to read. Layers are
//! content and belong to the registry: `repositories/<registry>/_layer-<key>`.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use oci::digest::Digest;
use oci::name::{NameScope, Registry};
use oci::v1::ImageId;
use store::{ExtensionKeyOf, ExtensionKind, Record, RecordStore, Reference, Store, digest_name};

pub(super) static V1_IMAGES: ExtensionKind = ExtensionKind::new("repositories", "_image-");

pub(super) static LAYERS: ExtensionKind = ExtensionKind {
    reference: |_, value| match value.parse::<PreparedLayer>()? {
        PreparedLayer::Derived { digest, .. } => Some(Reference::Claim(digest)),
        PreparedLayer::AsItIs | PreparedLayer::Opaque => None,
    },
    ..ExtensionKind::new("repositories", "_layer-")
};

/// The image that an id stands for, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct V1ImageRecord {
    /// The repository that it is read from.
    pub repository: String,
    /// The target of the tag: a manifest or an index.
    pub manifest: Digest,
    /// The platform that was chosen from an index: `linux`.
    pub os: String,
    /// `amd64`
    pub architecture: String,
    /// Its position in the chain, counted from the root; `None` for the top.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub position: Option<usize>,
}

/// What v1 clients get for a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreparedLayer {
    /// The layer itself.
    AsItIs,
    /// A blob derived from it, which may have been evicted.
    Derived {
        digest: Digest,
        /// In bytes.
        size: u64,
    },
    /// It has opaque directories, so the result depends on the layers below: see the record of the whole chain.
    Opaque,
}

impl Record for V1ImageRecord {}

impl Record for PreparedLayer {}

/// The ids and layers of bridged images of all registries.
#[derive(Debug)]
pub struct V1ImageRecords {
    records: RecordStore,
}

impl V1ImageRecords {
    pub fn of(store: &Store) -> Self {
        Self {
            records: store.records.clone(),
        }
    }

    /// The image that an id stands for in a repository, or in an open registry.
    ///
    /// # Errors
    /// [`io::Error`] if the disk cannot be read, which is not the same as absent.
    pub async fn image(
        &self,
        scope: impl Into<NameScope>,
        id: &ImageId,
    ) -> io::Result<Option<Arc<V1ImageRecord>>> {
        let key = image_key(scope, id);
        self.records.open(&key).await
    }

    /// Stores the image that an id stands for.
    pub async fn store_image(
        &self,
        scope: impl Into<NameScope>,
        id: &ImageId,
        image: V1ImageRecord,
    ) {
        let key = image_key(scope, id);
        // The record follows the latest tag that named the image, because that lives longest.
        let known = self.records.open(&key).await;
        if !known.is_ok_and(|known| known.as_deref() == Some(&image)) {
            self.records.put(&key, image).await;
        }
    }

    /// The prepared form of the layer, or chain of layers, that `key` names.
    ///
    /// # Errors
    /// [`io::Error`] if the disk cannot be read, which is not the same as absent.
    pub async fn layer(
        &self,
        registry: &Registry,
        key: &Digest,
    ) -> io::Result<Option<Arc<PreparedLayer>>> {
        self.records.open(&layer_key(registry, key)).await
    }

    /// Stores the prepared form of a layer or chain.
    pub async fn store_layer(&self, registry: &Registry, key: &Digest, layer: PreparedLayer) {
        self.records.put(&layer_key(registry, key), layer).await;
    }
}

fn image_key(scope: impl Into<NameScope>, id: &ImageId) -> ExtensionKeyOf<V1ImageRecord> {
    V1_IMAGES.key(scope, id.as_str()).of()
}

fn layer_key(registry: &Registry, key: &Digest) -> ExtensionKeyOf<PreparedLayer> {
    LAYERS.key(registry, &digest_name(key)).of()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::Algorithm;
    use oci::name::RepositoryName;

    fn images_in(root: &std::path::Path) -> V1ImageRecords {
        V1ImageRecords::of(&crate::records::tests::store_in(root))
    }

    #[tokio::test]
    async fn records_outlive_the_process_and_are_one_repositorys() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let registry = Registry::new("hosted:5000");
        let [app, other] = ["team/app", "team"]
            .map(|repository| RepositoryName::new(&registry, &repository.parse().expect("a name")));
        let id: ImageId = "0".repeat(64).parse().expect("an id");
        let key = Digest::of(Algorithm::Sha256, b"layer");
        let image = V1ImageRecord {
            repository: "team/app".into(),
            manifest: key,
            os: "linux".into(),
            architecture: "arm64".into(),
            position: Some(3),
        };
        let layer = PreparedLayer::Derived {
            digest: Digest::of(Algorithm::Sha256, b"derived"),
            size: 7,
        };
        let first = images_in(folder.path());
        first.store_image(&app, &id, image.clone()).await;
        first.store_layer(&registry, &key, layer.clone()).await;
        for images in [first, images_in(folder.path())] {
            let scopes: [(NameScope, bool); 3] = [
                ((&app).into(), true),
                ((&other).into(), false),
                ((&registry).into(), false),
            ];
            for (scope, known) in scopes {
                let found = images.image(scope.clone(), &id).await;
                let found = found.expect("readable");
                assert_eq!(found.as_deref(), known.then_some(&image), "{scope:?}");
            }
            let found = images.layer(&registry, &key).await.expect("readable");
            assert_eq!(found.as_deref(), Some(&layer));
        }
    }
}
