//! The configuration and layers that an image's manifest names.

use serde::Deserialize;

use super::V2ToV1Error;
use crate::digest::Digest;
use crate::manifest::{DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED};

const CONFIGS: [&str; 2] = [
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.config.v1+json",
];

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageManifest {
    /// The digest of its configuration.
    pub config: Digest,
    /// From the root to the top.
    pub layers: Vec<LayerDescriptor>,
}

/// A layer as the manifest describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// The digest of its bytes as they are transferred.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// As its media type states it.
    pub compression: Compression,
}

/// The compression that a layer's media type states. The bytes decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A tar archive.
    None,
    /// `+gzip`, or Docker's `.tar.gzip`.
    Gzip,
    /// `+zstd`.
    Zstd,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageOutline {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: String,
    config: Option<ContentDescriptor>,
    #[serde(default)]
    layers: Vec<ContentDescriptor>,
    artifact_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContentDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    size: u64,
}

impl ImageManifest {
    /// Parses the manifest of one image.
    ///
    /// # Errors
    /// [`V2ToV1Error`] if a v1 client cannot use it.
    pub fn parse(manifest: &[u8]) -> Result<Self, V2ToV1Error> {
        let outline: ImageOutline =
            serde_json::from_slice(manifest).map_err(|_| V2ToV1Error::Manifest)?;
        let first = [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED].contains(&&*outline.media_type);
        if first || outline.schema_version == 1 {
            return Err(V2ToV1Error::Schema1);
        }
        let config = outline.config.ok_or(V2ToV1Error::Manifest)?;
        if !CONFIGS.contains(&&*config.media_type) {
            let kind = outline.artifact_type.unwrap_or(config.media_type);
            return Err(V2ToV1Error::Artifact(kind));
        }
        let layers = outline.layers.iter().map(|layer| {
            Ok(LayerDescriptor {
                digest: layer.digest,
                size: layer.size,
                compression: compression(&layer.media_type)?,
            })
        });
        Ok(Self {
            config: config.digest,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }
}

fn compression(media_type: &str) -> Result<Compression, V2ToV1Error> {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.oci.image.layer.v1.tar" => Ok(Compression::None),
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.oci.image.layer.v1.tar+gzip" => Ok(Compression::Gzip),
        "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Compression::Zstd),
        foreign if foreign.contains(".foreign.") || foreign.contains(".nondistributable.") => {
            Err(V2ToV1Error::Foreign(foreign.to_owned()))
        }
        other => Err(V2ToV1Error::LayerType(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::digest::Algorithm;

    fn descriptor(media_type: &str) -> Value {
        let digest = Digest::of(Algorithm::Sha256, media_type.as_bytes());
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": 5})
    }

    #[test]
    fn layer_compression_by_media_type() {
        let oci = "application/vnd.oci.image";
        let docker = "application/vnd.docker.image.rootfs";
        let artifact = Some(V2ToV1Error::Artifact("application/x".into()));
        let foreign = |kind: String| Some(V2ToV1Error::Foreign(kind));
        for (config, layer, error) in [
            (CONFIGS[0], format!("{docker}.diff.tar.gzip"), None),
            (CONFIGS[1], format!("{oci}.layer.v1.tar+gzip"), None),
            (CONFIGS[1], format!("{oci}.layer.v1.tar+zstd"), None),
            (CONFIGS[1], format!("{oci}.layer.v1.tar"), None),
            ("application/x", format!("{oci}.layer.v1.tar"), artifact),
            (
                CONFIGS[0],
                format!("{docker}.foreign.diff.tar.gzip"),
                foreign(format!("{docker}.foreign.diff.tar.gzip")),
            ),
            (
                CONFIGS[1],
                format!("{oci}.layer.nondistributable.v1.tar+gzip"),
                foreign(format!("{oci}.layer.nondistributable.v1.tar+gzip")),
            ),
            (
                CONFIGS[1],
                format!("{oci}.layer.v1.tar+gzip+encrypted"),
                Some(V2ToV1Error::LayerType(format!(
                    "{oci}.layer.v1.tar+gzip+encrypted"
                ))),
            ),
        ] {
            let manifest = json!({
                "schemaVersion": 2,
                "config": descriptor(config),
                "layers": [descriptor(&layer)],
            });
            let image = ImageManifest::parse(manifest.to_string().as_bytes());
            match error {
                None => assert_eq!(image.expect("an image").layers.len(), 1, "{layer}"),
                Some(error) => assert_eq!(image, Err(error)),
            }
        }
        let first = json!({"schemaVersion": 1, "fsLayers": []}).to_string();
        assert_eq!(
            ImageManifest::parse(first.as_bytes()),
            Err(V2ToV1Error::Schema1)
        );
        for broken in ["", "{}", "[]", r#"{"schemaVersion":2,"layers":[]}"#] {
            assert_eq!(
                ImageManifest::parse(broken.as_bytes()),
                Err(V2ToV1Error::Manifest)
            );
        }
    }
}
