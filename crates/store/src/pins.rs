//! Pinned images: their manifests and blobs are not evicted, and count as used. Blobs that are stored later are held from
//! the first moment.
//!
//! What a pinned image leads to changes with its tag and with what is fetched, so the owner of the pins calls
//! [`Store::hold`] again from time to time. All of it blocks on the disk.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Store;
use super::layout::blob_path;
use super::record::{BlobKey, ManifestKey, RecordKey, TagKey};
use super::space::Pin;
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Reference, RepositoryName};
use oci::references::{parts, references};

/// How many manifests of one image are read at most.
const MAX_MANIFESTS: usize = 1000;
/// How many manifests and blobs of one image are held at most.
const MAX_CONTENTS: usize = 20_000;

/// The blobs of pinned images. They are not evicted until this is dropped.
#[derive(Debug, Default)]
pub struct HeldImages {
    pins: HashMap<Digest, (Pin, u64)>,
    /// In the order of the images.
    sizes: Vec<HeldSize>,
}

/// The size of a pinned image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldSize {
    /// The bytes of its manifests and blobs, as far as they are known.
    pub total: u64,
    /// The bytes of those that are stored.
    pub stored: u64,
}

impl HeldImages {
    /// The size of the image at this index of those that were held.
    pub fn size(&self, index: usize) -> HeldSize {
        self.sizes.get(index).copied().unwrap_or_default()
    }

    /// The bytes of all held blobs.
    pub fn bytes(&self) -> u64 {
        self.pins.values().map(|(_, size)| size).sum()
    }
}

impl Store {
    /// How often [`Store::hold`] is due, at least: what is not used for longer may be deleted.
    pub fn hold_every(&self) -> Duration {
        self.records.persist_after() / 2
    }

    /// Whether the store has a record of this tag or manifest.
    pub fn has_image(&self, name: &RepositoryName, reference: &Reference) -> bool {
        self.manifest_of(name, reference).is_some()
    }

    /// Holds the stored content of these images, and notes its use.
    pub fn hold<'a>(
        &self,
        images: impl IntoIterator<Item = (&'a RepositoryName, &'a Reference)>,
    ) -> HeldImages {
        let mut held = HeldImages::default();
        for (name, reference) in images {
            let size = self.hold_image(name, reference, &mut held);
            held.sizes.push(size);
        }
        held
    }

    fn hold_image(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        held: &mut HeldImages,
    ) -> HeldSize {
        let mut size = HeldSize::default();
        if let Reference::Tag(tag) = reference {
            for class in [AcceptClass::Full, AcceptClass::NoList, AcceptClass::Schema1] {
                self.note_use(&TagKey::new(name, class, tag).into());
            }
        }
        let mut manifests: Vec<Digest> = self.manifest_of(name, reference).into_iter().collect();
        let mut seen: HashSet<Digest> = manifests.iter().copied().collect();
        let mut is_new = |digest: Digest| seen.len() < MAX_CONTENTS && seen.insert(digest);
        let mut at = 0;
        while at < MAX_MANIFESTS
            && let Some(digest) = manifests.get(at).copied()
        {
            at += 1;
            let key = ManifestKey::new(name, &digest);
            let link = self.inspect(&key).ok().flatten();
            let stored = link
                .as_ref()
                .map_or(digest, |link| link.value.stored(&digest));
            self.note_use(&key.into());
            let length = self.hold_blob(&stored, held);
            let known = link.map_or(length, |link| link.value.size);
            size.total += known;
            size.stored += length;
            let Some(bytes) = self.inspect_manifest(&stored) else {
                continue;
            };
            for blob in parts(&bytes) {
                if !is_new(blob.digest) {
                    continue;
                }
                self.note_use(&BlobKey::new(name, &blob.digest).into());
                let length = self.hold_blob(&blob.digest, held);
                size.total += blob.size.unwrap_or(length);
                size.stored += length;
            }
            let children = references(&bytes).into_iter();
            manifests.extend(children.filter(|child| is_new(*child)));
        }
        size
    }

    /// Holds a blob, also one that is not stored yet or that the scan has not found yet; returns the bytes that are
    /// stored.
    fn hold_blob(&self, digest: &Digest, held: &mut HeldImages) -> u64 {
        let on_disk = || std::fs::metadata(blob_path(&self.root, digest)).map(|meta| meta.len());
        let known = self.blob_status(digest).map(|status| status.size);
        let size = known.or_else(|| on_disk().ok()).unwrap_or(0);
        if !held.pins.contains_key(digest) {
            self.blobs.touch(digest);
            held.pins.insert(*digest, (self.space.hold(digest), size));
        }
        size
    }

    /// The manifest that a reference leads to, as the store knows it.
    fn manifest_of(&self, name: &RepositoryName, reference: &Reference) -> Option<Digest> {
        match reference {
            Reference::Tag(tag) => {
                let key = TagKey::new(name, AcceptClass::Full, tag);
                Some(self.inspect(&key).ok()??.value.digest)
            }
            Reference::Digest(digest) => {
                let key = ManifestKey::new(name, digest);
                self.inspect(&key).ok()?.map(|_| *digest)
            }
        }
    }

    fn note_use(&self, key: &RecordKey) {
        self.records.note_use(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlobLink, ManifestLink, Pointer, Settings};
    use oci::digest::Algorithm;
    use oci::name::Registry;

    /// Puts a manifest into the store, with its record.
    async fn put_manifest(store: &Store, name: &RepositoryName, bytes: &[u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, bytes);
        store.blobs.put(&digest, bytes).expect("stored");
        let link = ManifestLink {
            media_type: "application/json".to_owned(),
            size: bytes.len() as u64,
            checked_at: 1,
            subject: None,
            stored: None,
        };
        let key = ManifestKey::new(name, &digest);
        store.records.put(&key, link).await;
        digest
    }

    /// A manifest whose list of this name has so many digests.
    fn manifest_of(list: &str, digests: usize) -> String {
        let descriptors: Vec<String> = (0..digests)
            .map(|n| format!(r#"{{"digest":"sha256:{n:064x}","size":1}}"#))
            .collect();
        format!(r#"{{"{list}":[{}]}}"#, descriptors.join(","))
    }

    #[tokio::test]
    async fn contents_of_an_image_are_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&Settings::at(folder.path()), &[]).expect("a store");
        store.scan();
        let name = name();
        for (list, digests, most) in [
            ("manifests", 3 * MAX_MANIFESTS, MAX_MANIFESTS),
            ("layers", MAX_CONTENTS + 100, MAX_CONTENTS),
        ] {
            let bytes = manifest_of(list, digests);
            let digest = put_manifest(&store, &name, bytes.as_bytes()).await;
            let held = store.hold([(&name, &Reference::Digest(digest))]);
            assert_eq!(held.pins.len(), most, "{list}");
        }
    }

    #[tokio::test]
    async fn blobs_that_platforms_share_count_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&Settings::at(folder.path()), &[]).expect("a store");
        store.scan();
        let name = name();
        let one = manifest_of("layers", 1);
        let other = format!("{one} ");
        let first = put_manifest(&store, &name, one.as_bytes()).await;
        let second = put_manifest(&store, &name, other.as_bytes()).await;
        let index = format!(r#"{{"manifests":[{{"digest":"{first}"}},{{"digest":"{second}"}}]}}"#);
        let digest = put_manifest(&store, &name, index.as_bytes()).await;
        let held = store.hold([(&name, &Reference::Digest(digest))]);
        let manifests = (one.len() + other.len() + index.len()) as u64;
        assert_eq!(held.size(0).total, manifests + 1);
    }

    fn name() -> RepositoryName {
        RepositoryName::new(
            &Registry::new("docker.io"),
            &"library/app".parse().expect("a name"),
        )
    }

    #[tokio::test]
    async fn pinned_images_are_not_evicted() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&Settings::at(folder.path()), &[]).expect("a store");
        store.scan();
        let name = name();
        let put = |bytes: &[u8]| {
            let digest = Digest::of(Algorithm::Sha256, bytes);
            store.blobs.put(&digest, bytes).expect("stored");
            digest
        };
        let (layer, other) = (put(b"a layer"), put(b"another layer"));
        let manifest = format!(
            r#"{{"schemaVersion":2,"layers":[{{"digest":"{layer}","size":7}},{{"digest":"sha256:{}","size":9}}]}}"#,
            "0".repeat(64)
        );
        let length = manifest.len() as u64;
        let tag = "1".parse().expect("a tag");
        let reference = Reference::Tag(tag);
        assert!(!store.has_image(&name, &reference));
        let Reference::Tag(tag) = &reference else {
            unreachable!()
        };
        let digest = put_manifest(&store, &name, manifest.as_bytes()).await;
        let pointer = Pointer {
            digest,
            media_type: "application/json".to_owned(),
            size: None,
            checked_at: 1,
        };
        store
            .records
            .put(&TagKey::new(&name, AcceptClass::Full, tag), pointer)
            .await;
        let link = BlobLink {
            checked_at: 1,
            size: None,
        };
        store.records.put(&BlobKey::new(&name, &layer), link).await;
        assert!(store.has_image(&name, &reference));

        let held = store.hold([(&name, &reference)]);
        assert_eq!(
            held.size(0),
            HeldSize {
                total: length + 16,
                stored: length + 7
            }
        );
        assert_eq!(held.bytes(), length + 7);
        let next: Vec<Digest> = store
            .next_evicted(10)
            .iter()
            .map(|one| one.digest)
            .collect();
        assert_eq!(next, [other]);
        drop(held);
        assert_eq!(store.next_evicted(10).len(), 3);
    }
}
