//! The references of a manifest or index: configuration, layers, blobs, other manifests.

use std::collections::HashSet;

use serde::Deserialize;

use super::digest::Digest;

/// The lists of all schemas; each schema has some of them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ReferenceLists {
    config: Option<ReferenceDescriptor>,
    layers: Vec<ReferenceDescriptor>,
    manifests: Vec<ReferenceDescriptor>,
    blobs: Vec<ReferenceDescriptor>,
    #[serde(rename = "fsLayers")]
    fs_layers: Vec<FsLayer>,
}

#[derive(Deserialize)]
struct ReferenceDescriptor {
    digest: String,
    size: Option<u64>,
    #[serde(default)]
    urls: Vec<serde::de::IgnoredAny>,
}

/// A blob of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobReference {
    /// The digest of its bytes as they are transferred, so of the compressed layer.
    pub digest: Digest,
    /// In bytes; absent in schema 1.
    pub size: Option<u64>,
}

/// A layer of schema 1.
#[derive(Deserialize)]
struct FsLayer {
    #[serde(rename = "blobSum")]
    blob_sum: String,
}

/// Every digest that a manifest refers to, except its subject. Invalid manifests refer to nothing.
pub fn references(manifest: &[u8]) -> Vec<Digest> {
    let lists: ReferenceLists = serde_json::from_slice(manifest).unwrap_or_default();
    let descriptors = lists
        .config
        .into_iter()
        .chain(lists.layers)
        .chain(lists.manifests)
        .chain(lists.blobs);
    let digests = descriptors.map(|descriptor| descriptor.digest);
    let digests = digests.chain(lists.fs_layers.into_iter().map(|layer| layer.blob_sum));
    digests.filter_map(|digest| digest.parse().ok()).collect()
}

/// The blobs of an image, each once, in order. Foreign layers, which have URLs of their own and may be missing
/// from the registry, are left out.
pub fn parts(manifest: &[u8]) -> Vec<BlobReference> {
    let lists: ReferenceLists = serde_json::from_slice(manifest).unwrap_or_default();
    let descriptors = lists
        .config
        .into_iter()
        .chain(lists.layers)
        .chain(lists.blobs);
    let distributable = descriptors.filter(|descriptor| descriptor.urls.is_empty());
    let digests = distributable.map(|descriptor| (descriptor.digest, descriptor.size));
    let schema1 = lists
        .fs_layers
        .into_iter()
        .map(|layer| (layer.blob_sum, None));
    let mut seen = HashSet::new();
    let parts = digests.chain(schema1).filter_map(|(digest, size)| {
        let digest = digest.parse().ok()?;
        seen.insert(digest)
            .then_some(BlobReference { digest, size })
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_of_every_schema() {
        let digest = |n: char| format!("sha256:{}", n.to_string().repeat(64));
        for (text, expected) in [
            (
                r#"{"config":{"digest":A,"size":2},"layers":[{"digest":B,"size":3},{"digest":B,"size":3}]}"#,
                vec![('a', Some(2)), ('b', Some(3))],
            ),
            (
                r#"{"layers":[{"digest":A,"size":2,"urls":["https://elsewhere"]},{"digest":B,"urls":[]}]}"#,
                vec![('b', None)],
            ),
            (
                r#"{"fsLayers":[{"blobSum":B},{"blobSum":A},{"blobSum":B}]}"#,
                vec![('b', None), ('a', None)],
            ),
            (r#"{"manifests":[{"digest":A,"size":1}]}"#, Vec::new()),
            ("", Vec::new()),
        ] {
            let text = text
                .replace(":A", &format!(":{:?}", digest('a')))
                .replace(":B", &format!(":{:?}", digest('b')));
            let expected = expected.into_iter().map(|(name, size)| BlobReference {
                digest: digest(name).parse().expect("a digest"),
                size,
            });
            assert_eq!(
                parts(text.as_bytes()),
                expected.collect::<Vec<_>>(),
                "{text}"
            );
        }
    }

    #[test]
    fn references_of_every_schema() {
        let digest = |n: char| format!("sha256:{}", n.to_string().repeat(64));
        for (text, expected) in [
            (
                r#"{"config":{"digest":"A"},"layers":[{"digest":"B"},{"digest":"nonsense"}],"subject":{"digest":"C"}}"#,
                "AB",
            ),
            (
                r#"{"manifests":[{"digest":"C","platform":{}},{"digest":"A"}]}"#,
                "CA",
            ),
            (r#"{"blobs":[{"digest":"B"}]}"#, "B"),
            (
                r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"A"}],"history":[]}"#,
                "A",
            ),
            (r#"{"layers":"none"}"#, ""),
            ("[]", ""),
            ("", ""),
        ] {
            let with = |text: &str| {
                let with = text.replace("\"A\"", &format!("{:?}", digest('a')));
                let with = with.replace("\"B\"", &format!("{:?}", digest('b')));
                with.replace("\"C\"", &format!("{:?}", digest('c')))
            };
            let found: Vec<String> = references(with(text).as_bytes())
                .iter()
                .map(ToString::to_string)
                .collect();
            let expected: Vec<String> = expected
                .chars()
                .map(|n| digest(n.to_ascii_lowercase()))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
