//! Where a fill can get its bytes, and by what it knows that they are right: a blob of a repository, which is
//! named by its digest, or a layer of the v1 API, which is named by its image and whose digest only its end
//! tells.
//!
//! A layer's fill has a key in place of a digest. What it is checked by is its length, and the payload
//! checksum where the registry gives one: the sha256 of the image's description, a line feed and the layer.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::Origin;
use super::conversion::Packed;
use super::freshness::{Freshness, freshness, unix};
use super::v1::V1Origin;
use oci::digest::{Algorithm, Digest, Hasher};
use oci::name::{Registry, Repository};
use oci::range::Span;
use oci::v1::{Endpoint, ImageId, Part};
use store::{Blob, BlobLink, Question, Reach, Store, V1Body};
use upstream::{BlobBody, UpstreamError};

/// Where a fill can get its bytes.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Blob {
        origin: Arc<Origin>,
        repository: Repository,
    },
    Layer(Arc<Layer>),
    /// A layer that clients of v2 read only when it is packed anew.
    Packed(Arc<Packed>),
}

/// A layer of the v1 API.
#[derive(Debug)]
pub(super) struct Layer {
    pub origin: Arc<V1Origin>,
    /// Whose right it is asked for by, where that is known.
    pub repository: Option<Repository>,
    pub id: ImageId,
    /// The image's description, byte for byte.
    pub json: Bytes,
    /// The length in bytes that the description came with.
    pub size: Option<u64>,
    /// What the registry says that the payload hashes to, one of these; empty where it says nothing.
    pub checksums: Vec<Digest>,
    /// Its own digest, where the fill is known by that.
    pub digest: Option<Digest>,
}

/// What tells whether bytes are right: nothing, or that what is hashed from here on is one of these.
#[derive(Debug)]
pub(super) struct Check {
    pub hasher: Hasher,
    expected: Vec<Digest>,
}

impl Check {
    pub fn is_right(&self, actual: &Digest) -> bool {
        self.expected.is_empty() || self.expected.contains(actual)
    }

    /// Whether there is anything to compare with.
    pub fn compares(&self) -> bool {
        !self.expected.is_empty()
    }

    /// The first of what it could be.
    pub fn expected(&self) -> Option<Digest> {
        self.expected.first().copied()
    }
}

impl Layer {
    /// What stands for the digest of an image's layer while that is unknown. No blob has it.
    pub fn key(registry: &Registry, id: &ImageId) -> Digest {
        let name = format!("roadstead v1 layer\0{registry}\0{id}");
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Image {
            id: self.id.clone(),
            part: Part::Layer,
        }
    }

    /// [`Source::body`].
    pub async fn body(
        &self,
        offset: u64,
        end: Option<u64>,
        total: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        let path = self.endpoint().path();
        // It needs both ends to give a range rightly.
        let end = end.or(total).filter(|end| *end > offset);
        let part = end.map(|end| Span { first: offset, end });
        let part = part.filter(|part| offset > 0 || Some(part.end) != total);
        let upstream = &self.origin.upstream;
        let ask = |token| upstream.v1_layer(&path, token, part, self.size);
        let body = self.origin.asking(self.repository.as_ref(), ask).await?;
        let is_other = |total| self.size.is_some_and(|size| size != total);
        if self.digest.is_some() && body.total.is_some_and(is_other) {
            return Err(UpstreamError::Protocol("a layer is not as long as it was"));
        }
        Ok(body)
    }
}

impl Source {
    /// The repository of a v2 registry that it is, if it is one.
    pub fn blob(&self) -> Option<(&Arc<Origin>, &Repository)> {
        match self {
            Self::Blob { origin, repository } => Some((origin, repository)),
            Self::Layer(_) | Self::Packed(_) => None,
        }
    }

    /// The layer of the v1 API that it is, or is made of.
    fn layer(&self) -> Option<&Layer> {
        match self {
            Self::Blob { .. } => None,
            Self::Layer(layer) => Some(layer),
            Self::Packed(packed) => Some(&packed.layer),
        }
    }

    /// What tells whether a body is right of which only the end tells the digest.
    pub fn unnamed(&self, key: &Digest) -> Option<Check> {
        match self {
            Self::Layer(layer) if layer.digest.is_none() => Some(self.check(key)),
            Self::Blob { .. } | Self::Layer(_) | Self::Packed(_) => None,
        }
    }

    pub fn registry(&self) -> &Registry {
        match self {
            Self::Blob { origin, .. } => &origin.registry,
            Self::Layer(layer) => &layer.origin.registry,
            Self::Packed(packed) => &packed.layer.origin.registry,
        }
    }

    /// The repository or image, for the log.
    pub fn name(&self) -> &str {
        match self {
            Self::Blob { repository, .. } => repository.as_str(),
            Self::Layer(layer) => layer.id.as_str(),
            Self::Packed(packed) => packed.layer.id.as_str(),
        }
    }

    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            // What one caller is given says nothing of another.
            (
                Self::Blob { origin, repository },
                Self::Blob {
                    origin: other,
                    repository: of_other,
                },
            ) => {
                repository == of_other
                    && origin.registry == other.registry
                    && origin.who == other.who
            }
            (one, other) => {
                let (Some(layer), Some(other)) = (one.layer(), other.layer()) else {
                    return false;
                };
                layer.id == other.id
                    && layer.repository == other.repository
                    && layer.origin.registry == other.origin.registry
            }
        }
    }

    /// Begins to fetch from byte `offset` up to `end` (excluded) or to the end, of `total` bytes where that is
    /// known.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn body(
        &self,
        digest: &Digest,
        offset: u64,
        end: Option<u64>,
        total: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        match self {
            Self::Blob { origin, repository } => {
                let upstream = &origin.upstream;
                upstream.blob(repository, digest, offset, end).await
            }
            Self::Layer(layer) => layer.body(offset, end, total).await,
            // It is made from its first byte on.
            Self::Packed(packed) => packed.body().await,
        }
    }

    /// Whether it still has it, where that is not known from elsewhere.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub async fn has(&self, digest: &Digest) -> Result<(), UpstreamError> {
        match self {
            Self::Blob { origin, repository } => {
                let size = origin.upstream.blob_head(repository, digest).await;
                size.map(drop)
            }
            // Whose images are, links tell before a fill is joined.
            Self::Layer(_) | Self::Packed(_) => Ok(()),
        }
    }

    /// What tells whether a body is right that is read from its first byte on.
    pub fn check(&self, digest: &Digest) -> Check {
        let layer = match self {
            Self::Layer(layer) if layer.digest.is_none() => layer,
            Self::Blob { .. } | Self::Layer(_) | Self::Packed(_) => {
                return Check {
                    hasher: Hasher::new(digest.algorithm()),
                    expected: vec![*digest],
                };
            }
        };
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&layer.json);
        hasher.update(b"\n");
        Check {
            hasher,
            expected: layer.checksums.clone(),
        }
    }

    /// What another fill committed meanwhile, if this source is known to have it.
    pub async fn came_meanwhile(&self, store: &Arc<Store>, digest: &Digest) -> Option<Blob> {
        let digest = match self {
            Self::Blob { origin, repository } => {
                let link = store.links.blob(&origin.registry, repository, digest);
                let link = link.await.ok()??;
                let now = SystemTime::now();
                if freshness(link.checked_at, origin.link_ttl, now) == Freshness::Stale {
                    return None;
                }
                *digest
            }
            // Whose they are, links told before.
            Self::Packed(_) => *digest,
            Self::Layer(layer) => {
                if let Some(digest) = layer.digest {
                    digest
                } else {
                    let what = layer.endpoint();
                    let known = store.v1.open(&layer.origin.registry, &what);
                    known.await.ok()??.digest
                }
            }
        };
        let store = store.clone();
        let opened = tokio::task::spawn_blocking(move || store.blobs.open(&digest, None));
        opened.await.ok()?.ok()?
    }

    /// Begins to ask whether it has a blob, of a repository; call it before it is asked for the bytes.
    pub fn ask(&self, store: &Store, digest: &Digest) -> Option<Question> {
        let (origin, repository) = self.blob()?;
        let links = &store.links;
        Some(links.ask_blob(&origin.registry, repository, digest))
    }

    /// It has it: its upstream just said so. What is known of an image's layer is known once it is whole.
    pub async fn link(&self, store: &Store, claim: Option<&Question>, size: Option<u64>) {
        let Some(claim) = claim else {
            return;
        };
        let link = BlobLink {
            checked_at: unix(SystemTime::now()),
            size,
        };
        let links = &store.links;
        links.link_blob(claim, link, Reach::Shared).await;
    }

    /// The bytes are committed under this digest.
    pub async fn committed(&self, store: &Store, digest: Digest, size: u64) {
        let Self::Layer(layer) = self else { return };
        let body = V1Body {
            digest,
            size,
            checked_at: unix(SystemTime::now()),
            layer_size: None,
            checksum: None,
        };
        let registry = &layer.origin.registry;
        let question = store.v1.ask(registry, &layer.endpoint());
        store.v1.point(&question, body).await;
    }
}

/// The sha256 checksums in an `X-Docker-Checksum-Payload`. docker-registry writes one, or a list of all that it
/// knows, tarsums among them, which are of something else.
pub(super) fn checksums(text: &str) -> Vec<Digest> {
    let is_of_digest = |byte: char| byte.is_ascii_alphanumeric() || matches!(byte, ':' | '+' | '.');
    text.split(|byte| !is_of_digest(byte))
        .filter(|word| word.starts_with("sha256:"))
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_as_they_are_written() {
        let one = format!("sha256:{}", "1".repeat(64));
        let two = format!("sha256:{}", "2".repeat(64));
        let tarsum = format!("tarsum+{one}");
        for (text, expected) in [
            (one.clone(), vec![&one]),
            (format!("[u'{tarsum}', u'{two}']"), vec![&two]),
            (format!("[\"{one}\", \"{two}\"]"), vec![&one, &two]),
            (tarsum.clone(), vec![]),
            (format!("tarsum.v1+{one}"), vec![]),
            ("sha256:12".into(), vec![]),
            (String::new(), vec![]),
        ] {
            let read: Vec<String> = checksums(&text).iter().map(Digest::to_string).collect();
            assert_eq!(read.iter().collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
