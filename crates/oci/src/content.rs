//! What a manifest is: its kind, its platform, and what it names. For decisions on what is served; a mirror itself reads
//! less of it (`manifest`).

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::manifest::{DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED};
use super::platform::Platform;

/// How many manifests, and how many blobs, are read of one manifest: the first ones.
pub const MAX_NAMED: usize = 1000;

/// The media types of the configurations of images.
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
/// How the media types of the layers of images begin.
const IMAGE_LAYERS: [&str; 2] = [
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
];

/// What a manifest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// A list of manifests.
    Index,
    /// Something that no runtime takes for an image: a signature, a chart, an attestation.
    Artifact,
    /// An image for a platform.
    Image(Platform),
    /// An image that names no platform.
    Unknown,
}

/// What a manifest's bytes say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// `None`: an image, whose platform is in its configuration.
    pub kind: Option<ContentKind>,
    /// The configuration.
    pub config: Option<Config>,
    /// The manifests that it names, at most [`MAX_NAMED`].
    pub manifests: Vec<Digest>,
    /// The blobs that it names, the configuration among them, at most [`MAX_NAMED`].
    pub blobs: Vec<Digest>,
    /// The digest that it refers to.
    pub subject: Option<Digest>,
}

/// The configuration of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its digest.
    pub digest: Digest,
    /// In bytes, as the manifest says.
    pub size: u64,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Manifest {
    schema_version: Option<u64>,
    media_type: Option<String>,
    architecture: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<Vec<FsLayer>>,
    subject: Option<Descriptor>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }

    /// Whether a runtime takes it for a layer of an image. Old ones do not look at the type of a layer that has none.
    fn is_image_layer(&self) -> bool {
        let media_type = self.media_type.as_deref().unwrap_or_default();
        let begins = |prefix: &&str| media_type.starts_with(*prefix);
        media_type.is_empty() || IMAGE_LAYERS.iter().any(begins)
    }
}

#[derive(Deserialize)]
struct FsLayer {
    #[serde(rename = "blobSum")]
    blob_sum: String,
}

/// Reads a manifest. One that cannot be read names nothing, and counts as an image without a platform.
pub fn examine(manifest: &[u8]) -> Examined {
    let unreadable = Examined {
        kind: Some(ContentKind::Unknown),
        ..Examined::default()
    };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else {
        return unreadable;
    };
    let digests = |list: &Option<Vec<Descriptor>>| -> Vec<Digest> {
        let list = list.iter().flatten();
        list.filter_map(Descriptor::digest).collect()
    };
    let config = manifest.config.as_ref().and_then(|config| {
        Some(Config {
            digest: config.digest()?,
            size: config.size,
        })
    });
    let mut blobs: Vec<Digest> = config.iter().map(|config| config.digest).collect();
    blobs.extend(digests(&manifest.layers));
    blobs.extend(digests(&manifest.blobs));
    let fs_layers = manifest.fs_layers.iter().flatten();
    blobs.extend(fs_layers.filter_map(|layer| layer.blob_sum.parse::<Digest>().ok()));
    Examined {
        kind: manifest.kind(),
        config,
        manifests: bounded(digests(&manifest.manifests)),
        blobs: bounded(blobs),
        subject: manifest.subject.as_ref().and_then(Descriptor::digest),
    }
}

/// Each once, in order.
fn bounded(digests: Vec<Digest>) -> Vec<Digest> {
    let mut seen = std::collections::HashSet::new();
    let mut once: Vec<Digest> = digests;
    once.retain(|digest| seen.insert(*digest));
    once.truncate(MAX_NAMED);
    once
}

impl Manifest {
    fn kind(&self) -> Option<ContentKind> {
        if self.schema_version == Some(1) || self.fs_layers.is_some() {
            return Some(self.schema1_platform());
        }
        match &self.config {
            Some(config) => {
                let media_type = config.media_type.as_deref().unwrap_or_default();
                let is_image = media_type.is_empty() || IMAGE_CONFIGS.contains(&media_type);
                // cosign's signatures and builders' attestations have the configuration of an image.
                let layers = self.layers.as_deref().unwrap_or_default();
                let has_layers = layers.is_empty() || layers.iter().any(Descriptor::is_image_layer);
                (!is_image || !has_layers).then_some(ContentKind::Artifact)
            }
            None if self.layers.is_some() => Some(ContentKind::Unknown),
            None if self.manifests.is_some() => Some(ContentKind::Index),
            None if self.blobs.is_some() => Some(ContentKind::Artifact),
            None => Some(ContentKind::Unknown),
        }
    }

    /// The platform of a manifest of the first schema, which only Linux had.
    fn schema1_platform(&self) -> ContentKind {
        let media_type = self.media_type.as_deref().unwrap_or(DOCKER_SCHEMA1);
        let is_schema1 = [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED].contains(&media_type);
        let architecture = self.architecture.as_deref().filter(|_| is_schema1);
        let platform = architecture.and_then(|name| format!("linux/{name}").parse().ok());
        platform.map_or(ContentKind::Unknown, ContentKind::Image)
    }
}

/// The platform of an image, by its configuration.
pub fn platform_of(config: &[u8]) -> ContentKind {
    match serde_json::from_slice::<Platform>(config) {
        Ok(platform) if platform.is_known() => ContentKind::Image(platform),
        _ => ContentKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(n: char) -> Digest {
        let text = format!("sha256:{}", n.to_string().repeat(64));
        text.parse().expect("a digest")
    }

    #[test]
    fn kinds_of_manifests() {
        let image = "application/vnd.oci.image.config.v1+json";
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let signature = "application/vnd.dev.cosign.simplesigning.v1+json";
        let with = |config: &str, layers: &[&str]| {
            let layers: Vec<String> = layers
                .iter()
                .map(|kind| format!(r#"{{"mediaType":"{kind}","digest":"{}"}}"#, digest('b')))
                .collect();
            let config = format!(r#"{{"mediaType":"{config}","digest":"{}"}}"#, digest('a'));
            format!(r#"{{"config":{config},"layers":[{}]}}"#, layers.join(","))
        };
        let platform = |text: &str| Some(ContentKind::Image(text.parse().expect("a platform")));
        let (artifact, unknown) = (Some(ContentKind::Artifact), Some(ContentKind::Unknown));
        for (text, kind, blobs) in [
            (with(image, &[layer]), None, "ab"),
            (with(image, &[]), None, "a"),
            (with("", &[""]), None, "ab"),
            // One layer of an image makes an image.
            (with(image, &[signature, layer]), None, "ab"),
            (with(image, &[signature]), artifact.clone(), "ab"),
            (
                with("application/vnd.cncf.helm.config.v1+json", &[layer]),
                artifact.clone(),
                "ab",
            ),
            (
                r#"{"manifests":[]}"#.to_owned(),
                Some(ContentKind::Index),
                "",
            ),
            // What is an index and an image at once is judged as an image.
            (
                with(image, &[layer]).replacen('{', r#"{"manifests":[],"#, 1),
                None,
                "ab",
            ),
            (r#"{"layers":[]}"#.to_owned(), unknown.clone(), ""),
            (
                format!(
                    r#"{{"schemaVersion":1,"architecture":"arm64","fsLayers":[{{"blobSum":"{}"}}]}}"#,
                    digest('b')
                ),
                platform("linux/arm64"),
                "b",
            ),
            (r#"{"schemaVersion":1}"#.to_owned(), unknown.clone(), ""),
            ("{}".to_owned(), unknown.clone(), ""),
            ("no JSON".to_owned(), unknown.clone(), ""),
            // Readers differ in which of the two counts.
            (r#"{"manifests":[],"manifests":[]}"#.to_owned(), unknown, ""),
        ] {
            let examined = examine(text.as_bytes());
            let named: Vec<Digest> = blobs.chars().map(digest).collect();
            assert_eq!((examined.kind, examined.blobs), (kind, named), "{text}");
        }
    }

    #[test]
    fn named_digests_are_bounded() {
        let child = |n: usize| format!(r#"{{"digest":"sha256:{n:064x}"}}"#);
        let children: Vec<String> = (0..2 * MAX_NAMED).map(|n| child(n / 2)).collect();
        let index = |children: &[String]| format!(r#"{{"manifests":[{}]}}"#, children.join(","));
        let named = |children: &[String]| examine(index(children).as_bytes()).manifests.len();
        assert_eq!(named(&children), MAX_NAMED);
        let more: Vec<String> = (0..=MAX_NAMED).map(child).collect();
        assert_eq!(named(&more), MAX_NAMED);
    }

    #[test]
    fn platforms_of_configurations() {
        for (config, platform) in [
            (
                r#"{"os":"linux","architecture":"amd64"}"#,
                Some("linux/amd64"),
            ),
            (
                r#"{"os":"linux","architecture":"arm64","variant":"v8","x":1}"#,
                Some("linux/arm64/v8"),
            ),
            (r#"{"os":"unknown","architecture":"unknown"}"#, None),
            (r#"{"os":"linux"}"#, None),
            (r#"{"os":7}"#, None),
            ("{}", None),
            ("", None),
        ] {
            let expected = platform.map_or(ContentKind::Unknown, |text| {
                ContentKind::Image(text.parse().expect("a platform"))
            });
            assert_eq!(platform_of(config.as_bytes()), expected, "{config}");
        }
        let long = format!(r#"{{"os":"{}","architecture":"a"}}"#, "o".repeat(65));
        assert_eq!(platform_of(long.as_bytes()), ContentKind::Unknown);
    }

    proptest! {
        #[test]
        fn examining_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = examine(&bytes);
            let _ = platform_of(&bytes);
        }
    }
}
