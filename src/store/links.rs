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
use super::records::{Reach, Records, component};
use super::repositories::Walks;
use crate::spec::digest::Digest;
use crate::spec::name::{Registry, Repository};

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

/// That everybody may read a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicLink {
    /// When the upstream last said so, in seconds since 1970.
    pub checked_at: u64,
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

    pub async fn link_public(
        &self,
        registry: &Registry,
        repository: &Repository,
        link: PublicLink,
    ) -> Arc<PublicLink> {
        let path = public_path(registry, repository);
        let link = self.public.keep(path, link).await;
        self.walks.note(registry, repository, Some(true));
        link
    }

    /// The upstream no longer shows it to everybody.
    pub async fn unlink_public(&self, registry: &Registry, repository: &Repository) {
        self.public.remove(public_path(registry, repository)).await;
        self.walks.note(registry, repository, Some(false));
    }

    pub async fn link_manifest(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        link: ManifestLink,
        reach: Reach,
    ) -> Arc<ManifestLink> {
        let path = path(registry, repository, "_manifests", digest);
        let link = self.manifests.keep_for(reach, path, link).await;
        self.walks.note(registry, repository, None);
        link
    }

    pub async fn link_blob(
        &self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
        link: BlobLink,
        reach: Reach,
    ) -> Arc<BlobLink> {
        self.blobs
            .keep_for(reach, path(registry, repository, "_blobs", digest), link)
            .await
    }

    /// Removes the record at this path, of whichever kind. Blocks on the disk.
    pub(super) fn remove_now(&self, path: &str) -> io::Result<()> {
        let (manifests, blobs) = (self.manifests.remove_now(path), self.blobs.remove_now(path));
        self.walks.forget();
        manifests.and(blobs).and(self.public.remove_now(path))
    }

    /// The upstream no longer has it.
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

    /// The upstream no longer has it.
    pub async fn unlink_blob(&self, registry: &Registry, repository: &Repository, digest: &Digest) {
        self.blobs
            .remove(path(registry, repository, "_blobs", digest))
            .await;
    }
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
