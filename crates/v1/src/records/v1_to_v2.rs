//! Conversions of v1 images: the images' JSON, their converted layers, and the resulting manifests. They are
//! permanent, because converting a layer means reading it whole, and a registry that was shut down cannot be
//! asked again; everything but the bytes of layers is rebuilt from them. In a small store they may take half of
//! the space of records.
//!
//! Below `conversions/<registry>`: `images/<id>`, with its JSON in parts, because a record takes one block;
//! `tops/<id>` for converted images; `digests/<digest>` for the origin of a digest. An id is not derived from
//! content, so each registry has ids of its own.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use oci::digest::Digest;
use oci::name::Registry;
use oci::v1::ImageId;
use oci::v1_to_v2::ConvertedLayer;
use store::{
    ExtensionKeyOf, ExtensionKind, Record, RecordStore, Reference, Retention, Store, digest_name,
    parse_digest_name,
};

pub(super) static IMAGES: ExtensionKind = ExtensionKind {
    retention: Retention::Permanent,
    ..ExtensionKind::new("conversions", "images/")
};

pub(super) static TOPS: ExtensionKind = ExtensionKind {
    retention: Retention::PermanentIndex,
    ..ExtensionKind::new("conversions", "tops/")
};

pub(super) static DIGESTS: ExtensionKind = ExtensionKind {
    retention: Retention::Permanent,
    reference: |key, _| parse_digest_name(key.name()).map(Reference::Recipe),
    ..ExtensionKind::new("conversions", "digests/")
};

/// The length of one part of a text, in bytes: quoted as JSON it is at most twice as long.
const PART: usize = 2000;
/// How many images are recorded for one digest. Many may share one layer; any of them yields its bytes.
const MAX_IMAGES: usize = 48;

/// A v1 image as the source of conversions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceImage {
    pub parent: Option<ImageId>,
    /// The image's JSON, unchanged.
    pub json: String,
    pub layer: ConvertedLayer,
}

/// The record of a [`SourceImage`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ImageRecord {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    parent: Option<String>,
    layer: ConvertedLayer,
    /// The length of the JSON, in bytes.
    length: usize,
}

/// The manifest of a converted image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertedManifest {
    pub manifest: Digest,
    /// In bytes.
    pub size: u64,
}

/// What a converted digest names, and the images that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestOrigin {
    pub kind: ConvertedKind,
    ids: Vec<String>,
}

impl DigestOrigin {
    pub fn images(&self) -> impl Iterator<Item = ImageId> + '_ {
        self.ids.iter().filter_map(|id| id.parse().ok())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvertedKind {
    Manifest,
    Config,
    Layer,
}

impl Record for ImageRecord {}

/// A part of an image's JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct TextPart(String);

impl Record for TextPart {}

impl Record for ConvertedManifest {}

impl Record for DigestOrigin {}

/// The conversions of all registries.
#[derive(Debug)]
pub struct ConvertedRecords {
    records: RecordStore,
}

impl ConvertedRecords {
    pub fn of(store: &Store) -> Self {
        Self {
            records: store.records.clone(),
        }
    }

    /// # Errors
    /// [`io::Error`] if the disk cannot be read, which is not the same as absent.
    pub async fn image(
        &self,
        registry: &Registry,
        id: &ImageId,
    ) -> io::Result<Option<SourceImage>> {
        let key = IMAGES.key(registry, id.as_str()).of::<ImageRecord>();
        let Some(record) = self.records.open(&key).await? else {
            return Ok(None);
        };
        let mut json = String::new();
        for part in 0..parts(record.length) {
            let Some(text) = self.records.open(&text_key(registry, id, part)).await? else {
                return Ok(None);
            };
            json.push_str(&text.0);
        }
        let parent = record.parent.as_deref().map(str::parse).transpose();
        let (Ok(parent), true) = (parent, json.len() == record.length) else {
            return Ok(None);
        };
        Ok(Some(SourceImage {
            parent,
            json,
            layer: record.layer,
        }))
    }

    /// Stores an image.
    pub async fn store_image(&self, registry: &Registry, id: &ImageId, image: &SourceImage) {
        // The parts first: the record states that they are complete.
        for (part, text) in pieces(&image.json).into_iter().enumerate() {
            let part = text_key(registry, id, part);
            self.records.put(&part, TextPart(text.to_owned())).await;
        }
        let record = ImageRecord {
            parent: image.parent.as_ref().map(ToString::to_string),
            layer: image.layer,
            length: image.json.len(),
        };
        let key = IMAGES.key(registry, id.as_str()).of();
        self.records.put(&key, record).await;
    }

    /// # Errors
    /// [`io::Error`] if the disk cannot be read, which is not the same as absent.
    pub async fn manifest(
        &self,
        registry: &Registry,
        top: &ImageId,
    ) -> io::Result<Option<Arc<ConvertedManifest>>> {
        self.records.open(&top_key(registry, top)).await
    }

    pub async fn store_manifest(
        &self,
        registry: &Registry,
        top: &ImageId,
        manifest: ConvertedManifest,
    ) {
        self.records.put(&top_key(registry, top), manifest).await;
    }

    /// # Errors
    /// [`io::Error`] if the disk cannot be read, which is not the same as absent.
    pub async fn origin_of(
        &self,
        registry: &Registry,
        digest: &Digest,
    ) -> io::Result<Option<Arc<DigestOrigin>>> {
        self.records.open(&digest_key(registry, digest)).await
    }

    /// What [`ConvertedRecords::origin_of`] finds, without noting a use. Blocks on the disk.
    ///
    /// # Errors
    /// [`io::Error`] if the disk cannot be read, which is not the same as absent.
    pub fn inspect_origin(
        store: &Store,
        registry: &Registry,
        digest: &Digest,
    ) -> io::Result<Option<DigestOrigin>> {
        let found = store.inspect(&digest_key(registry, digest))?;
        Ok(found.map(|found| found.value))
    }

    /// Records that a digest comes from an image.
    ///
    /// # Errors
    /// [`io::Error`] if the disk cannot be read.
    pub async fn add_origin(
        &self,
        registry: &Registry,
        digest: &Digest,
        kind: ConvertedKind,
        id: &ImageId,
    ) -> io::Result<()> {
        let id = id.to_string();
        let add = move |known: Option<&DigestOrigin>| {
            let mut ids = known.map_or_else(Vec::new, |known| known.ids.clone());
            if ids.contains(&id) {
                return None;
            }
            ids.truncate(MAX_IMAGES - 1);
            ids.insert(0, id);
            Some(DigestOrigin { kind, ids })
        };
        let key = digest_key(registry, digest);
        self.records.update(&key, add).await
    }
}

fn text_key(registry: &Registry, id: &ImageId, part: usize) -> ExtensionKeyOf<TextPart> {
    IMAGES.key(registry, &format!("{id}.{part}")).of()
}

fn top_key(registry: &Registry, top: &ImageId) -> ExtensionKeyOf<ConvertedManifest> {
    TOPS.key(registry, top.as_str()).of()
}

fn digest_key(registry: &Registry, digest: &Digest) -> ExtensionKeyOf<DigestOrigin> {
    DIGESTS.key(registry, &digest_name(digest)).of()
}

/// How many parts a text of `length` bytes has at most: none is shorter than [`PART`] less one character.
const fn parts(length: usize) -> usize {
    length.div_ceil(PART - 3)
}

/// Splits a text into as many parts as [`parts`] counts.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    for _ in 0..parts(text.len()) {
        let mut end = rest.len().min(PART);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, more) = rest.split_at(end);
        pieces.push(piece);
        rest = more;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversions_in(root: &std::path::Path) -> ConvertedRecords {
        ConvertedRecords::of(&crate::records::tests::store_in(root))
    }

    fn id(digit: &str) -> ImageId {
        digit.repeat(64).parse().expect("an id")
    }

    fn digest(digit: &str) -> Digest {
        let text = format!("sha256:{}", digit.repeat(64));
        text.parse().expect("a digest")
    }

    #[tokio::test]
    async fn images_of_any_length_outlive_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let registry = Registry::new("hosted:5000");
        let layer = ConvertedLayer {
            digest: digest("a"),
            size: 5,
            diff_id: digest("b"),
            is_empty: false,
        };
        let texts = [
            String::new(),
            "{}".to_owned(),
            // Text that quoting doubles, and characters on the edges of parts.
            "\"".repeat(PART * 2),
            "é€😀".repeat(3000),
        ];
        let conversions = conversions_in(folder.path());
        let known = |number: usize| SourceImage {
            parent: (number > 0).then(|| id("f")),
            json: texts[number].clone(),
            layer,
        };
        for number in 0..texts.len() {
            let id = id(&number.to_string());
            conversions
                .store_image(&registry, &id, &known(number))
                .await;
        }
        for conversions in [conversions, conversions_in(folder.path())] {
            for number in 0..texts.len() {
                let id = id(&number.to_string());
                let retained = conversions.image(&registry, &id).await.expect("readable");
                assert_eq!(retained, Some(known(number)), "{number}");
            }
            let other = Registry::new("other");
            let retained = conversions.image(&other, &id("1")).await;
            assert_eq!(retained.expect("readable"), None);
        }
        // A part is missing: the image is read from the registry again, not served truncated.
        let part = format!("conversions/hosted%3A5000/images/{}.1", id("2"));
        std::fs::remove_file(folder.path().join(part)).expect("a part");
        let conversions = conversions_in(folder.path());
        let retained = conversions.image(&registry, &id("2")).await;
        assert_eq!(retained.expect("readable"), None);
    }

    #[tokio::test]
    async fn a_digest_records_the_latest_images() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let registry = Registry::new("hosted");
        let conversions = conversions_in(folder.path());
        let ids: Vec<ImageId> = (0..=MAX_IMAGES)
            .map(|number| format!("{number:064x}").parse().expect("an id"))
            .collect();
        for id in ids.iter().chain(&ids[..1]) {
            conversions
                .add_origin(&registry, &digest("a"), ConvertedKind::Layer, id)
                .await
                .expect("readable");
        }
        let conversions = conversions_in(folder.path());
        let retained = conversions.origin_of(&registry, &digest("a")).await;
        let retained = retained.expect("readable").expect("known");
        let found: Vec<ImageId> = retained.images().collect();
        assert_eq!(
            (found.len(), retained.kind),
            (MAX_IMAGES, ConvertedKind::Layer)
        );
        assert_eq!(found[..2], [ids[0].clone(), ids[MAX_IMAGES].clone()]);
        let unknown = conversions.origin_of(&registry, &digest("b")).await;
        assert_eq!(unknown.expect("readable"), None);
    }
}
