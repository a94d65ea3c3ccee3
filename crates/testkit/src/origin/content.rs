//! The contents of the scripted upstream: repositories with blobs, manifests and tags.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

/// The media type of image manifests.
pub const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of indexes.
pub const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of configurations.
pub const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of uncompressed layers.
pub const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MEDIA_EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A pushed manifest, and the blobs it names: the configuration first, then the layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// The repository that it was pushed to.
    pub repository: String,
    /// The tag that points at it.
    pub tag: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// The manifest's `Content-Type`.
    pub media_type: String,
    /// The manifest, as served.
    pub manifest: Bytes,
    /// Digests and contents, empty for an index.
    pub blobs: Vec<(String, Bytes)>,
}

impl Image {
    /// `/v2/<repository>/manifests/<tag>`
    pub fn tag_path(&self) -> String {
        self.manifest_path(&self.tag)
    }

    /// `/v2/<repository>/manifests/<digest>`
    pub fn digest_path(&self) -> String {
        self.manifest_path(&self.digest)
    }

    /// `/v2/<repository>/manifests/<reference>`
    pub fn manifest_path(&self, reference: &str) -> String {
        format!("/v2/{}/manifests/{reference}", self.repository)
    }

    /// `/v2/<repository>/blobs/<digest>` of layer `index`.
    pub fn layer_path(&self, index: usize) -> String {
        self.blob_path(index + 1)
    }

    /// The digest and bytes of layer `index`.
    pub fn layer(&self, index: usize) -> &(String, Bytes) {
        &self.blobs[index + 1]
    }

    /// The path of blob `index`, where 0 is the configuration.
    pub fn blob_path(&self, index: usize) -> String {
        format!("/v2/{}/blobs/{}", self.repository, self.blobs[index].0)
    }

    /// The path of the referrers of this manifest.
    pub fn referrers_path(&self) -> String {
        format!("/v2/{}/referrers/{}", self.repository, self.digest)
    }

    fn descriptor(&self) -> Value {
        descriptor(&self.media_type, &self.digest, self.manifest.len())
    }
}

#[derive(Default)]
pub struct Content {
    repositories: BTreeMap<String, Repository>,
}

#[derive(Default)]
pub struct Repository {
    pub blobs: BTreeMap<String, Bytes>,
    pub manifests: BTreeMap<String, Manifest>,
    pub tags: BTreeMap<String, String>,
    /// By tag, the manifest for clients that accept schema 1 only: it is served by its tag, but not by its
    /// digest.
    pub converted: BTreeMap<String, (String, Manifest)>,
}

#[derive(Clone)]
pub struct Manifest {
    pub media_type: String,
    pub bytes: Bytes,
}

impl Repository {
    /// The digest and manifest of a tag or digest.
    pub fn manifest(&self, reference: &str) -> Option<(&str, &Manifest)> {
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        let (digest, manifest) = self.manifests.get_key_value(digest)?;
        Some((digest, manifest))
    }

    /// Descriptors of the manifests whose subject is `digest`, of one artifact type if that is given.
    pub fn referrers(&self, digest: &str, artifact_type: Option<&str>) -> Vec<Value> {
        self.manifests
            .iter()
            .filter_map(|(own, manifest)| {
                let body: Value = serde_json::from_slice(&manifest.bytes).ok()?;
                if body["subject"]["digest"] != *digest {
                    return None;
                }
                let mut found = descriptor(&manifest.media_type, own, manifest.bytes.len());
                for key in ["artifactType", "annotations"] {
                    if let Some(value) = body.get(key) {
                        found[key] = value.clone();
                    }
                }
                Some(found)
            })
            .filter(|found| artifact_type.is_none_or(|wanted| found["artifactType"] == wanted))
            .collect()
    }
}

impl Content {
    pub fn repository(&self, name: &str) -> Option<&Repository> {
        self.repositories.get(name)
    }

    /// The names of all repositories, in order.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.repositories.keys()
    }

    fn entry(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    pub fn push_blob(&mut self, repository: &str, bytes: Bytes) -> String {
        let digest = crate::sha256(&bytes);
        self.push_blob_as(repository, &digest, bytes);
        digest
    }

    pub fn push_blob_as(&mut self, repository: &str, digest: &str, bytes: Bytes) {
        let blobs = &mut self.entry(repository).blobs;
        blobs.insert(digest.to_owned(), bytes);
    }

    pub fn push_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: Bytes,
    ) -> String {
        let digest = crate::sha256(&bytes);
        let media_type = media_type.to_owned();
        let manifest = Manifest { media_type, bytes };
        let manifests = &mut self.entry(repository).manifests;
        manifests.insert(digest.clone(), manifest);
        if let Some(tag) = tag {
            self.tag(repository, tag, &digest);
        }
        digest
    }

    pub fn push_image(&mut self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Image {
        let diff_ids: Vec<String> = layers.iter().map(|l| crate::sha256(l)).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"repository": repository, "tag": tag}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let mut blobs = vec![self.keep(repository, config.to_string().into_bytes())];
        blobs.extend(layers.iter().map(|l| self.keep(repository, l.clone())));
        let layers: Vec<Value> = blobs[1..]
            .iter()
            .map(|(digest, bytes)| descriptor(MEDIA_LAYER, digest, bytes.len()))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": descriptor(MEDIA_CONFIG, &blobs[0].0, blobs[0].1.len()),
            "layers": layers,
        });
        self.finish(repository, tag, MEDIA_MANIFEST, &manifest, blobs)
    }

    pub fn push_index(&mut self, repository: &str, tag: &str, images: &[&Image]) -> Image {
        let manifests: Vec<Value> = images
            .iter()
            .zip(["amd64", "arm64", "riscv64", "s390x"])
            .map(|(image, architecture)| {
                let mut found = image.descriptor();
                found["platform"] = json!({"os": "linux", "architecture": architecture});
                found
            })
            .collect();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_INDEX,
            "manifests": manifests,
        });
        self.finish(repository, tag, MEDIA_INDEX, &index, Vec::new())
    }

    pub fn push_referrer(&mut self, subject: &Image, artifact_type: &str, bytes: &[u8]) -> Image {
        let repository = &subject.repository;
        let blobs = vec![
            self.keep(repository, b"{}".to_vec()),
            self.keep(repository, bytes.to_vec()),
        ];
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": artifact_type,
            "config": descriptor(MEDIA_EMPTY, &blobs[0].0, 2),
            "layers": [descriptor("application/octet-stream", &blobs[1].0, bytes.len())],
            "subject": subject.descriptor(),
        });
        self.finish(repository, "", MEDIA_MANIFEST, &manifest, blobs)
    }

    pub fn tag(&mut self, repository: &str, tag: &str, digest: &str) {
        let tags = &mut self.entry(repository).tags;
        tags.insert(tag.to_owned(), digest.to_owned());
    }

    pub fn convert(&mut self, repository: &str, tag: &str, digest: &str, manifest: Manifest) {
        let converted = &mut self.entry(repository).converted;
        converted.insert(tag.to_owned(), (digest.to_owned(), manifest));
    }

    pub fn delete_tag(&mut self, repository: &str, tag: &str) {
        self.entry(repository).tags.remove(tag);
    }

    pub fn delete_manifest(&mut self, repository: &str, digest: &str) {
        let repository = self.entry(repository);
        repository.manifests.remove(digest);
        repository.tags.retain(|_, target| target != digest);
    }

    pub fn delete_blob(&mut self, repository: &str, digest: &str) {
        self.entry(repository).blobs.remove(digest);
    }

    fn keep(&mut self, repository: &str, bytes: Vec<u8>) -> (String, Bytes) {
        let bytes = Bytes::from(bytes);
        (self.push_blob(repository, bytes.clone()), bytes)
    }

    /// Stores a manifest; an empty tag means none.
    fn finish(
        &mut self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: &Value,
        blobs: Vec<(String, Bytes)>,
    ) -> Image {
        let manifest = Bytes::from(manifest.to_string());
        let name = Some(tag).filter(|tag| !tag.is_empty());
        let digest = self.push_manifest(repository, name, media_type, manifest.clone());
        Image {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest,
            media_type: media_type.to_owned(),
            manifest,
            blobs,
        }
    }
}

fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}
