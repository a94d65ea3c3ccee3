//! Links: a repository's claim to a digest, made when its upstream said that it has it.
//!
//! Bytes are shared by digest, rights are not: a digest is served for a repository only if it is linked
//! there, as a manifest or as a blob. The kinds do not mix. A link may outlive its bytes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bucket::Bucket;
use super::files::Files;
use super::record::{Question, Reach, Record};
use super::records::{Records, component};
use super::repositories::Walks;
use oci::digest::Digest;
use oci::name::{Registry, Repository};

/// How many links of each kind are kept in memory.
const RECENT: u64 = 16_384;

/// A manifest that a repository has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestLink {
    /// The exact `Content-Type` to answer with.
    pub media_type: String,
    /// The length in bytes.
    pub size: u64,
    /// When the upstream last said so, in seconds since 1970.
    pub checked_at: u64,
    /// The digest that the manifest refers to, if it is a referrer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<Digest>,
    /// What the bytes are stored under, where their digest is not the manifest's: signed manifests of the
    /// first schema are named by what was signed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stored: Option<Digest>,
}

impl Record for ManifestLink {
    fn checked_at(&self) -> Option<u64> {
        Some(self.checked_at)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let checked_at = self.checked_at;
        *self
            == Self {
                checked_at,
                ..other.clone()
            }
    }
}

impl ManifestLink {
    /// What the bytes of the manifest `digest` are stored under.
    pub fn stored(&self, digest: &Digest) -> Digest {
        self.stored.unwrap_or(*digest)
    }
}

/// A blob that a repository has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobLink {
    /// When the upstream last said so, in seconds since 1970.
    pub checked_at: u64,
    /// The length in bytes, where the upstream gave it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
}

impl Record for BlobLink {
    fn checked_at(&self) -> Option<u64> {
        Some(self.checked_at)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let checked_at = self.checked_at;
        *self
            == Self {
                checked_at,
                ..other.clone()
            }
    }
}

/// That everybody may read a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicLink {
    /// When the upstream last said so, in seconds since 1970.
    pub checked_at: u64,
}

impl Record for PublicLink {
    fn checked_at(&self) -> Option<u64> {
        Some(self.checked_at)
    }

    fn says_the_same(&self, _: &Self) -> bool {
        true
    }
}

/// All links of all repositories.
#[derive(Debug)]
pub struct Links {
    /// Of all repositories' folders.
    pub(super) root: PathBuf,
    manifests: Records<ManifestLink>,
    blobs: Records<BlobLink>,
    public: Records<PublicLink>,
    pub(super) walks: Walks,
}

impl Links {
    pub(super) fn new(files: &Arc<Files>) -> Self {
        Self {
            root: files.root().to_owned(),
            manifests: Records::new(files, RECENT),
            blobs: Records::new(files, RECENT),
            public: Records::new(files, RECENT),
            walks: Walks::new(),
        }
    }

    /// Forgets what is in memory of the record at a path below `repositories`.
    pub(super) fn forget(&self, path: &str) {
        self.manifests.forget(path);
        self.blobs.forget(path);
        self.public.forget(path);
    }

    pub(super) fn share(&mut self, bucket: &Bucket) {
        self.manifests.share(bucket);
        self.blobs.share(bucket);
        self.public.share(bucket);
    }

    /// The link that another node made, if when its upstream said so is `good`; it is kept here.
    pub async fn shared_manifest(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        good: impl Fn(u64) -> bool,
    ) -> Option<Arc<ManifestLink>> {
        let path = path(registry, repository, "_manifests", digest);
        let good = |link: &ManifestLink| good(link.checked_at);
        let link = self.manifests.shared(path, good).await;
        if link.is_some() {
            self.walks.note(registry, repository, None);
        }
        link
    }

    /// The link that another node made, if when its upstream said so is `good`; it is kept here.
    pub async fn shared_blob(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        good: impl Fn(u64) -> bool,
    ) -> Option<Arc<BlobLink>> {
        let path = path(registry, repository, "_blobs", digest);
        let good = |link: &BlobLink| good(link.checked_at);
        self.blobs.shared(path, good).await
    }

    /// That everybody may read a repository, as another node learned, if when it did is `good`; it is kept here.
    pub async fn shared_public(
        &self,
        registry: &Registry,
        repository: &Repository,
        good: impl Fn(u64) -> bool,
    ) -> Option<Arc<PublicLink>> {
        let path = public_path(registry, repository);
        let good = |link: &PublicLink| good(link.checked_at);
        let link = self.public.shared(path, good).await;
        if link.is_some() {
            self.walks.note(registry, repository, Some(true));
        }
        link
    }

    /// # Errors
    /// When the disk cannot say; that is not the same as absent.
    pub async fn manifest(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> io::Result<Option<Arc<ManifestLink>>> {
        self.manifests
            .open(path(registry, repository, "_manifests", digest))
            .await
    }

    /// # Errors
    /// When the disk cannot say; that is not the same as absent.
    pub async fn blob(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> io::Result<Option<Arc<BlobLink>>> {
        self.blobs
            .open(path(registry, repository, "_blobs", digest))
            .await
    }

    /// # Errors
    /// When the disk cannot say; that is not the same as absent.
    pub async fn public(
        &self,
        registry: &Registry,
        repository: &Repository,
    ) -> io::Result<Option<Arc<PublicLink>>> {
        self.public.open(public_path(registry, repository)).await
    }

    /// The repository that a question is about is here.
    fn note(&self, question: &Question, public: Option<bool>) {
        if let Some((registry, repository)) = repository_of(question.key()) {
            self.walks.note(&registry, &repository, public);
        }
    }

    /// Begins a question about the link of a manifest.
    pub fn ask_manifest(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Question {
        let path = path(registry, repository, "_manifests", digest);
        self.manifests.ask(path)
    }

    /// Begins a question about the link of a blob.
    pub fn ask_blob(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Question {
        let path = path(registry, repository, "_blobs", digest);
        self.blobs.ask(path)
    }

    /// Begins a question about whether everybody may read a repository.
    pub fn ask_public(&self, registry: &Registry, repository: &Repository) -> Question {
        self.public.ask(public_path(registry, repository))
    }

    /// Everybody may read it, as the upstream answered.
    pub async fn link_public(&self, question: &Question, link: PublicLink) {
        self.public.keep(question, link, Reach::Shared).await;
        self.note(question, Some(true));
    }

    /// The upstream answered that not everybody may read it any more.
    pub async fn public_gone(&self, question: &Question) {
        self.public.gone(question).await;
        self.note(question, Some(false));
    }

    /// The upstream answered that the repository has it.
    pub async fn link_manifest(
        &self,
        question: &Question,
        link: ManifestLink,
        reach: Reach,
    ) -> Arc<ManifestLink> {
        let link = self.manifests.keep(question, link, reach).await;
        self.note(question, None);
        link.into_record()
    }

    /// The upstream answered that the repository has it.
    pub async fn link_blob(
        &self,
        question: &Question,
        link: BlobLink,
        reach: Reach,
    ) -> Arc<BlobLink> {
        let outcome = self.blobs.keep(question, link, reach).await;
        outcome.into_record()
    }

    /// It was put there through us, when `question` was asked.
    pub async fn manifest_written(&self, question: &Question, link: ManifestLink) {
        self.manifests.write(question, link).await;
        self.note(question, None);
    }

    /// It was put there through us, when `question` was asked.
    pub async fn blob_written(&self, question: &Question, link: BlobLink) {
        self.blobs.write(question, link).await;
    }

    /// The upstream answered that the repository has it no more.
    pub async fn manifest_gone(&self, question: &Question) {
        self.manifests.gone(question).await;
        self.walks.forget();
    }

    /// The upstream answered that the repository has it no more.
    pub async fn blob_gone(&self, question: &Question) {
        self.blobs.gone(question).await;
    }

    /// It was removed through us.
    pub async fn unlink_manifest(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) {
        self.manifests
            .remove(path(registry, repository, "_manifests", digest))
            .await;
        self.walks.forget();
    }

    /// It was removed through us.
    pub async fn unlink_blob(&self, registry: &Registry, repository: &Repository, digest: &Digest) {
        self.blobs
            .remove(path(registry, repository, "_blobs", digest))
            .await;
    }
}

/// Whose record is at a path below `repositories`.
fn repository_of(path: &str) -> Option<(Registry, Repository)> {
    let (registry, rest) = path.split_once('/')?;
    let registry = percent_encoding::percent_decode_str(registry);
    let registry = registry.decode_utf8().ok()?;
    let (repository, _) = rest.split_once("/_")?;
    Some((Registry::new(&registry), repository.parse().ok()?))
}

/// Repository components never begin with `_`, so the folders of the kinds cannot be mistaken for one.
fn path(registry: &Registry, repository: &Repository, kind: &str, digest: &Digest) -> String {
    let registry = component(registry.as_str());
    format!(
        "{registry}/{repository}/{kind}/{}-{}",
        digest.algorithm().as_str(),
        digest.hex()
    )
}

fn public_path(registry: &Registry, repository: &Repository) -> String {
    format!("{}/{repository}/_public", component(registry.as_str()))
}
