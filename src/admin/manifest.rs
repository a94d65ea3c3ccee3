//! `/api/v1/manifest`: a cached manifest or index with its platforms and layers.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{blocking, not_cached, unreadable};
use super::error::{Problem, ProblemCode};
use super::query::Parameters;
use super::time::rfc3339_of;
use super::{Admin, pull_commands};
use mirror::ImageReference;
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Reference, ReferenceError, RepositoryName};
use oci::platform::Platform;
use pull_commands::PullCommand;
use store::{BlobKey, Inspected, ManifestKey, ManifestLink, TagKey, TypedKey};

/// The most images of an index, layers of an image, and blobs of all images together.
const MAX_IMAGES: usize = 200;
const MAX_LAYERS: usize = 200;
const MAX_BLOBS: usize = 2000;
/// The most tags that point at a manifest, and the most that are read to find them.
const MAX_TAGS: usize = 50;
const MAX_TAGS_READ: usize = 1000;
/// The most annotations, and the longest one, in characters.
const MAX_ANNOTATIONS: usize = 50;
const MAX_ANNOTATION: usize = 1000;

/// `GET /api/v1/manifest`
#[derive(Debug, Serialize)]
pub(super) struct ManifestDetails {
    registry: String,
    repository: String,
    reference: String,
    digest: String,
    media_type: String,
    artifact_type: Option<String>,
    size_bytes: u64,
    checked_at: String,
    last_used_at: String,
    subject: Option<String>,
    pinned: bool,
    tags: Vec<String>,
    annotations: BTreeMap<String, String>,
    images: Vec<Image>,
    images_total: u64,
    pull_commands: Vec<PullCommand>,
}

/// One platform's image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub digest: String,
    pub media_type: String,
    pub size_bytes: u64,
    pub platform: Option<String>,
    pub artifact_type: Option<String>,
    pub state: ContentState,
    /// Whether the repository is known to have its manifest.
    pub linked: bool,
    pub config: Option<Blob>,
    pub layers: Vec<Blob>,
    pub total_bytes: Option<u64>,
    pub cached_bytes: u64,
}

/// A configuration or a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub digest: String,
    pub media_type: String,
    pub size_bytes: Option<u64>,
    pub state: ContentState,
    /// Whether the repository is known to have it.
    pub linked: bool,
    pub cached_bytes: u64,
    pub last_used_at: Option<String>,
}

/// How much of some content is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentState {
    Present,
    /// A download of it ended early, and is resumed.
    Partial,
    /// It is being downloaded.
    Fetching,
    Missing,
}

/// A manifest and what it lists, as far as the cache has it.
pub(super) struct ManifestContents {
    pub link: Option<Inspected<ManifestLink>>,
    /// Whether its bytes are stored.
    pub is_stored: bool,
    document: Document,
    pub images: Vec<Image>,
    pub images_total: u64,
}

/// The parts of any manifest or index.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    fs_layers: Vec<FsLayer>,
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Descriptor {
    digest: String,
    media_type: String,
    size: Option<u64>,
    platform: Option<Platform>,
    artifact_type: Option<String>,
}

impl Document {
    fn layer_count(&self) -> usize {
        self.layers.len() + self.blobs.len() + self.fs_layers.len()
    }

    fn layers(&self) -> impl Iterator<Item = Descriptor> {
        let schema1 = self.fs_layers.iter().map(|layer| Descriptor {
            digest: layer.blob_sum.clone(),
            ..Descriptor::default()
        });
        self.layers
            .iter()
            .chain(&self.blobs)
            .cloned()
            .chain(schema1)
    }
}

/// A layer of schema 1.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FsLayer {
    blob_sum: String,
}

/// What is known of the blobs that are not stored yet.
struct Incomplete {
    /// Blobs that are being fetched, and the bytes that are there.
    fetching: HashMap<Digest, u64>,
    partial: HashSet<Digest>,
}

impl Admin {
    /// # Errors
    /// 400 for a wrong parameter, 404 for what is not stored, 503 if the disk cannot be read.
    pub(super) async fn manifest(
        self: Arc<Self>,
        parameters: &Parameters,
    ) -> Result<ManifestDetails, Problem> {
        let name = self.repository(parameters)?;
        let text = parameters.required("reference")?.to_owned();
        let reference = text.parse().map_err(|error: ReferenceError| {
            Problem::new(ProblemCode::InvalidParameter, error.to_string())
        })?;
        let image = ImageReference { name, reference };
        let described = image.to_string();
        let found = blocking(move || self.details(&image)).await;
        let found = found.map_err(|error| unreadable(&error))?;
        found.ok_or_else(|| not_cached(&described))
    }

    /// Reads a manifest and what it lists. Blocks on the disk.
    fn details(&self, image: &ImageReference) -> io::Result<Option<ManifestDetails>> {
        let ImageReference { name, reference } = image;
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                let key = TagKey::new(name, AcceptClass::Full, tag);
                match self.store.inspect(&key)? {
                    Some(found) => found.value.digest,
                    None => return Ok(None),
                }
            }
        };
        let contents = self.contents(name, &digest)?;
        let Some(link) = contents.link else {
            return Ok(None);
        };
        let document = contents.document;
        let annotations = document.annotations.into_iter().take(MAX_ANNOTATIONS);
        let cut = |text: String| text.chars().take(MAX_ANNOTATION).collect();
        let gateway = self.settings.gateway.as_deref();
        Ok(Some(ManifestDetails {
            registry: name.registry.to_string(),
            repository: name.repository.to_string(),
            reference: reference.to_string(),
            digest: digest.to_string(),
            media_type: link.value.media_type.clone(),
            artifact_type: document.artifact_type,
            size_bytes: link.value.size,
            checked_at: rfc3339_of(link.value.checked_at),
            last_used_at: rfc3339_of(link.last_use),
            subject: link.value.subject.map(|subject| subject.to_string()),
            pinned: self.pins.contains(&image.to_string()),
            tags: self.tags_of(name, &digest)?,
            annotations: annotations
                .map(|(key, text)| (cut(key), cut(text)))
                .collect(),
            images: contents.images,
            images_total: contents.images_total,
            pull_commands: pull_commands::of(image, gateway),
        }))
    }

    /// A manifest of a repository and what it lists. Blocks on the disk.
    pub(super) fn contents(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> io::Result<ManifestContents> {
        let link = self.store.inspect(&ManifestKey::new(name, digest))?;
        let stored = link
            .as_ref()
            .map_or(*digest, |link| link.value.stored(digest));
        let bytes = self.store.inspect_manifest(&stored);
        let document: Option<Document> = bytes
            .as_ref()
            .and_then(|bytes| serde_json::from_slice(bytes).ok());
        let (is_stored, document) = (bytes.is_some(), document.unwrap_or_default());
        let known = link.as_ref().map(|link| &link.value);
        let own = Descriptor {
            digest: digest.to_string(),
            media_type: known.map_or_else(String::new, |link| link.media_type.clone()),
            size: known.map(|link| link.size),
            platform: None,
            artifact_type: document.artifact_type.clone(),
        };
        let reader = ImageReader {
            admin: self,
            name,
            incomplete: Incomplete::of(self),
            left: Cell::new(MAX_BLOBS),
        };
        let (images, images_total) = reader.images(&document, own, is_stored);
        Ok(ManifestContents {
            link,
            is_stored,
            document,
            images,
            images_total,
        })
    }

    /// The first cached tags that point at a manifest.
    fn tags_of(&self, name: &RepositoryName, digest: &Digest) -> io::Result<Vec<String>> {
        let mut tags = self.store.records.known_tags(name)?;
        tags.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        let mut found = Vec::new();
        for tag in tags.iter().take(MAX_TAGS_READ) {
            let key = TagKey::new(name, AcceptClass::Full, tag);
            let pointer = self.store.inspect(&key)?;
            if pointer.is_some_and(|pointer| pointer.value.digest == *digest) {
                found.push(tag.to_string());
            }
            if found.len() == MAX_TAGS {
                break;
            }
        }
        Ok(found)
    }
}

/// Reads the images of one repository.
struct ImageReader<'a> {
    admin: &'a Admin,
    name: &'a RepositoryName,
    incomplete: Incomplete,
    /// How many blobs may still be listed.
    left: Cell<usize>,
}

impl ImageReader<'_> {
    /// The images of an index, or the one of a manifest; and how many there are.
    fn images(&self, document: &Document, own: Descriptor, is_stored: bool) -> (Vec<Image>, u64) {
        if document.manifests.is_empty() {
            return (vec![self.image(own, is_stored.then_some(document))], 1);
        }
        let store = &self.admin.store;
        let listed = document.manifests.iter().take(MAX_IMAGES).map(|child| {
            let stored = child.digest.parse().ok();
            let stored = stored.filter(|digest| store.blob_status(digest).is_some());
            let bytes = stored.and_then(|digest| store.inspect_manifest(&digest));
            let read: Option<Document> =
                bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            self.image(child.clone(), read.as_ref())
        });
        (listed.collect(), document.manifests.len() as u64)
    }

    /// An image whose manifest was read, if it is stored.
    fn image(&self, own: Descriptor, read: Option<&Document>) -> Image {
        let blob = |descriptor: &Descriptor| self.takes().then(|| self.blob(descriptor));
        let config = read.and_then(|read| read.config.as_ref());
        let count = read.map_or(0, Document::layer_count);
        let has_config = config.is_some();
        let config = config.and_then(blob);
        let listed = read.into_iter().flat_map(Document::layers);
        let layers: Vec<Blob> = listed
            .take(MAX_LAYERS)
            .map_while(|layer| blob(&layer))
            .collect();
        let is_whole = layers.len() == count && config.is_some() == has_config;
        let all = || config.iter().chain(&layers);
        let total: u64 = all().filter_map(|blob| blob.size_bytes).sum();
        let cached_bytes = all().map(|blob| blob.cached_bytes).sum();
        let artifact_type = own.artifact_type.clone();
        let digest: Option<Digest> = own.digest.parse().ok();
        Image {
            linked: digest.is_some_and(|digest| self.has(&ManifestKey::new(self.name, &digest))),
            digest: own.digest,
            media_type: own.media_type,
            size_bytes: own.size.unwrap_or(0),
            platform: own.platform.map(|platform| platform.to_string()),
            artifact_type: artifact_type.or(read.and_then(|read| read.artifact_type.clone())),
            state: if read.is_some() {
                ContentState::Present
            } else {
                ContentState::Missing
            },
            total_bytes: read.filter(|_| is_whole).map(|_| total),
            cached_bytes,
            config,
            layers,
        }
    }

    /// Whether another blob may be listed, which counts as one.
    fn takes(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    fn blob(&self, descriptor: &Descriptor) -> Blob {
        let digest: Option<Digest> = descriptor.digest.parse().ok();
        let status = digest.and_then(|digest| self.admin.store.blob_status(&digest));
        let (state, cached_bytes) = match (digest, status) {
            (_, Some(status)) => (ContentState::Present, status.size),
            (Some(digest), None) => self.incomplete.state(&digest),
            (None, None) => (ContentState::Missing, 0),
        };
        Blob {
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            size_bytes: descriptor.size.or(status.map(|status| status.size)),
            state,
            linked: digest.is_some_and(|digest| self.has(&BlobKey::new(self.name, &digest))),
            cached_bytes,
            last_used_at: status.map(|status| rfc3339_of(status.last_use)),
        }
    }

    /// Whether a link is recorded. An unreadable disk is none.
    fn has<K: TypedKey>(&self, key: &K) -> bool
    where
        K::Value: Clone,
    {
        let found = self.admin.store.inspect(key);
        found.is_ok_and(|found| found.is_some())
    }
}

impl Incomplete {
    fn of(admin: &Admin) -> Self {
        let fills = admin.mirror.fills().into_iter();
        let fetching = fills.filter_map(|fill| Some((fill.key.digest()?, fill.written)));
        let partials = admin.store.blobs.partials().into_iter();
        Self {
            fetching: fetching.collect(),
            partial: partials.map(|(digest, _)| digest).collect(),
        }
    }

    fn state(&self, digest: &Digest) -> (ContentState, u64) {
        match self.fetching.get(digest) {
            Some(written) => (ContentState::Fetching, *written),
            None if self.partial.contains(digest) => (ContentState::Partial, 0),
            None => (ContentState::Missing, 0),
        }
    }
}
