//! A layer of the v1 API as a source of fills.
//!
//! It is named by its image; its digest is known only at its end. It is checked by its length, and by the
//! payload checksum if the registry sends one: the sha256 of the image's JSON, a line feed and the layer.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::origin::V1Origin;
use crate::records::{BodyPointer, BodyRecords};
use mirror::{DigestCheck, FillKey, ForeignSource, unix_seconds};
use oci::digest::{Algorithm, Digest, Hasher};
use oci::name::{Registry, Repository};
use oci::range::Span;
use oci::v1::{Endpoint, ImageId, Part};
use store::Store;
use upstream::{BlobBody, UpstreamError};

/// A layer of the v1 API.
#[derive(Debug)]
pub(super) struct LayerSource {
    pub origin: Arc<V1Origin>,
    pub store: Arc<Store>,
    /// The repository whose index token fetches it, if known.
    pub repository: Option<Repository>,
    pub id: ImageId,
    /// The image's JSON, byte for byte.
    pub json: Bytes,
    /// The length in bytes that came with the JSON.
    pub size: Option<u64>,
    /// The accepted checksums of the payload; empty if the registry sends none.
    pub checksums: Vec<Digest>,
    /// Its digest, if the fill is keyed by it.
    pub digest: Option<Digest>,
}

impl LayerSource {
    /// The key of the fill of an image's layer, whose digest is unknown.
    pub fn key(registry: &Registry, id: &ImageId) -> FillKey {
        FillKey::named(&format!("roadstead v1 layer\0{registry}\0{id}"))
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Image {
            id: self.id.clone(),
            part: Part::Layer,
        }
    }

    /// [`ForeignSource::fetch`].
    pub async fn body(
        &self,
        offset: u64,
        end: Option<u64>,
        total: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        let path = self.endpoint().path();
        // docker-registry serves a range correctly only if both ends are given.
        let end = end.or(total).filter(|end| *end > offset);
        let part = end.map(|end| Span { first: offset, end });
        let part = part.filter(|part| offset > 0 || Some(part.end) != total);
        let upstream = &self.origin.upstream;
        let ask = |token| upstream.layer(&path, token, part, self.size);
        let body = self
            .origin
            .with_token(self.repository.as_ref(), ask)
            .await?;
        let is_other = |total| self.size.is_some_and(|size| size != total);
        if self.digest.is_some() && body.total.is_some_and(is_other) {
            return Err(UpstreamError::Protocol("the length of a layer has changed"));
        }
        Ok(body)
    }

    /// The digest under which it is stored.
    pub async fn known_digest(&self) -> Option<Digest> {
        if self.digest.is_some() {
            return self.digest;
        }
        let (registry, what) = (&self.origin.registry, self.endpoint());
        let known = BodyRecords::of(&self.store).open(registry, &what).await;
        Some(known.ok()??.digest)
    }
}

impl ForeignSource for LayerSource {
    fn registry(&self) -> &Registry {
        &self.origin.registry
    }

    fn repository(&self) -> Option<&Repository> {
        self.repository.as_ref()
    }

    fn name(&self) -> &str {
        self.id.as_str()
    }

    fn fetch(
        &self,
        offset: u64,
        end: Option<u64>,
        total: Option<u64>,
    ) -> BoxFuture<'_, Result<BlobBody, UpstreamError>> {
        Box::pin(self.body(offset, end, total))
    }

    fn check(&self) -> DigestCheck {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&self.json);
        hasher.update(b"\n");
        DigestCheck::new(hasher, self.checksums.clone())
    }

    fn committed_as(&self) -> BoxFuture<'_, Option<Digest>> {
        Box::pin(self.known_digest())
    }

    fn committed(&self, digest: Digest, size: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let body = BodyPointer {
                digest,
                size,
                checked_at: unix_seconds(SystemTime::now()),
                layer_size: None,
                checksum: None,
            };
            let bodies = BodyRecords::of(&self.store);
            let question = bodies.ask(&self.origin.registry, &self.endpoint());
            bodies.store(&question, body).await;
        })
    }
}

/// The sha256 checksums in an `X-Docker-Checksum-Payload`. docker-registry writes one, or a list of all that it
/// has; tarsums among them hash something else and are skipped.
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
    fn checksums_are_parsed_in_every_form() {
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
