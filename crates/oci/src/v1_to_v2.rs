//! Converts a v1 image to schema 2 ("Image Manifest V2, Schema 2"). Pure, and reproducible on every machine:
//! keys are sorted, and nothing is added that the image does not contain.
//!
//! The configuration is the top image's JSON without the members that only v1 knows, plus the layers' diff ids
//! and a history of all images; empty layers appear in the history only.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::digest::{Algorithm, Digest};
use super::manifest::DOCKER_MANIFEST;
use super::v1::ImageId;

/// The media type of a converted image's configuration.
pub const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
/// The media type of a converted image's layers.
pub const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Members of image JSON that no configuration has.
const ONLY_V1: [&str; 6] = ["id", "parent", "parent_id", "layer_id", "Size", "throwaway"];

/// A converted layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertedLayer {
    /// The digest of the blob that is served.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The digest of the decompressed archive.
    pub diff_id: Digest,
    /// The archive has no entries.
    pub is_empty: bool,
}

/// An image of a chain.
#[derive(Clone, Copy, Debug)]
pub struct ChainEntry<'a> {
    /// The image's JSON.
    pub description: &'a Map<String, Value>,
    /// Its layer, as v2 clients get it.
    pub layer: ConvertedLayer,
}

/// A converted image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertedImage {
    /// The configuration: JSON.
    pub config: Vec<u8>,
    /// The manifest: JSON, a Docker manifest of schema 2.
    pub manifest: Vec<u8>,
    /// The SHA-256 of `config`.
    pub config_digest: Digest,
    /// The SHA-256 of `manifest`.
    pub manifest_digest: Digest,
}

/// Why an image's JSON cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// It is no JSON object.
    #[error("the description of an image is no object")]
    Form,
    /// Its `id` is not that of the path it came from.
    #[error("the image JSON has a different id")]
    Id,
    /// Its `parent` is not the next id of the ancestry.
    #[error("the description of an image names another parent than its ancestry")]
    Parent,
}

/// Parses the JSON of the image `id`, whose ancestry continues with `parent`.
///
/// # Errors
/// [`DescriptionError`] if it does not describe this image.
pub fn description(
    json: &[u8],
    id: &ImageId,
    parent: Option<&ImageId>,
) -> Result<Map<String, Value>, DescriptionError> {
    let Ok(Value::Object(description)) = serde_json::from_slice(json) else {
        return Err(DescriptionError::Form);
    };
    let text = |key| description.get(key).and_then(Value::as_str);
    if text("id") != Some(id.as_str()) {
        return Err(DescriptionError::Id);
    }
    // Some registries send an empty parent instead of none.
    if text("parent").filter(|it| !it.is_empty()) != parent.map(ImageId::as_str) {
        return Err(DescriptionError::Parent);
    }
    Ok(description)
}

/// Converts an image. `chain` leads from its root to the image, and is not empty.
pub fn convert(chain: &[ChainEntry<'_>]) -> ConvertedImage {
    let config = config(chain).to_string().into_bytes();
    let config_digest = Digest::of(Algorithm::Sha256, &config);
    let descriptor = |media_type: &str, digest: &Digest, size: u64| {
        ordered(json!({"mediaType": media_type, "size": size, "digest": digest}))
    };
    let layers: Vec<Value> = served(chain)
        .map(|layer| descriptor(LAYER_TYPE, &layer.digest, layer.size))
        .collect();
    let manifest = ordered(json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(CONFIG_TYPE, &config_digest, config.len() as u64),
        "layers": layers,
    }));
    let manifest = manifest.to_string().into_bytes();
    ConvertedImage {
        manifest_digest: Digest::of(Algorithm::Sha256, &manifest),
        config_digest,
        config,
        manifest,
    }
}

/// The layers that are blobs of the converted image.
fn served<'a>(chain: &'a [ChainEntry<'_>]) -> impl Iterator<Item = ConvertedLayer> + 'a {
    let layers = chain.iter().map(|image| image.layer);
    layers.filter(|layer| !layer.is_empty)
}

fn config(chain: &[ChainEntry<'_>]) -> Value {
    let mut config = chain
        .last()
        .map(|top| top.description.clone())
        .unwrap_or_default();
    for key in ONLY_V1 {
        config.remove(key);
    }
    if created(&config).is_none() {
        config.remove("created");
    }
    // The defaults of registries.
    for (key, usual) in [("architecture", "amd64"), ("os", "linux")] {
        let value = config.get(key).and_then(Value::as_str);
        if value.is_none_or(str::is_empty) {
            config.insert(key.to_owned(), usual.into());
        }
    }
    let diff_ids: Vec<Digest> = served(chain).map(|layer| layer.diff_id).collect();
    let history: Vec<Value> = chain.iter().map(history).collect();
    config.insert("history".to_owned(), history.into());
    config.insert(
        "rootfs".to_owned(),
        json!({"type": "layers", "diff_ids": diff_ids}),
    );
    ordered(Value::Object(config))
}

fn history(image: &ChainEntry<'_>) -> Value {
    let description = image.description;
    let mut history = Map::new();
    let text = |key: &str| description.get(key)?.as_str().filter(|it| !it.is_empty());
    for (key, value) in [
        ("created", created(description)),
        ("author", text("author").map(str::to_owned)),
        ("comment", text("comment").map(str::to_owned)),
        ("created_by", created_by(description)),
    ] {
        if let Some(value) = value {
            history.insert(key.to_owned(), value.into());
        }
    }
    if image.layer.is_empty {
        history.insert("empty_layer".to_owned(), true.into());
    }
    Value::Object(history)
}

/// The creation time, unchanged; `None` if it is no valid time, on which clients fail.
fn created(description: &Map<String, Value>) -> Option<String> {
    let value = description.get("created")?.as_str()?;
    OffsetDateTime::parse(value, &Rfc3339).ok()?;
    Some(value.to_owned())
}

/// The command that created the image.
fn created_by(description: &Map<String, Value>) -> Option<String> {
    let words = description
        .get("container_config")?
        .get("Cmd")?
        .as_array()?;
    let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
    words
        .filter(|words| !words.is_empty())
        .map(|words| words.join(" "))
}

/// Sorts the keys of every object, whatever order the JSON library's map has.
fn ordered(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            let entries = entries
                .into_iter()
                .map(|(key, value)| (key, ordered(value)));
            Value::Object(entries.collect())
        }
        Value::Array(items) => items.into_iter().map(ordered).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(digit: &str) -> ImageId {
        digit.repeat(64).parse().expect("an id")
    }

    fn digest(digit: &str) -> Digest {
        format!("sha256:{}", digit.repeat(64))
            .parse()
            .expect("a digest")
    }

    fn layer(digit: &str, is_empty: bool) -> ConvertedLayer {
        ConvertedLayer {
            digest: digest(digit),
            size: 100,
            diff_id: digest("f"),
            is_empty,
        }
    }

    fn described(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).expect("an object")
    }

    const ROOT: &str = r#"{"id": "x", "created": "2014-10-01T20:46:07Z", "os": "linux",
        "container_config": {"Cmd": ["/bin/sh", "-c", "echo '<&>' > /x"]}, "Size": 7}"#;
    const MIDDLE: &str = r#"{"id": "y", "parent": "x", "created": "yesterday", "author": "a",
        "comment": "", "container_config": {"Cmd": null}, "throwaway": true}"#;
    const TOP: &str = r##"{"id": "z", "parent": "y", "parent_id": "y", "layer_id": "l", "author": "me",
        "created": "2014-10-01T20:46:08.123456789Z", "docker_version": "1.2.0", "Size": 0,
        "config": {"Env": ["A=1"], "Cmd": ["/run"], "Volumes": {"/b": {}, "/a": {}}, "Memory": 0},
        "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) CMD [/run]"]}}"##;

    /// The digest of a converted image must never change.
    #[test]
    fn converted_image_has_a_stable_digest() {
        let described = [ROOT, MIDDLE, TOP].map(described);
        let layers = [layer("1", false), layer("2", true), layer("3", false)];
        let chain: Vec<ChainEntry<'_>> = described
            .iter()
            .zip(layers)
            .map(|(description, layer)| ChainEntry { description, layer })
            .collect();
        let converted = convert(&chain);
        let config = String::from_utf8(converted.config).expect("text");
        let f = "f".repeat(64);
        let expected = [
            r#"{"architecture":"amd64","author":"me","config":{"Cmd":["/run"],"Env":["A=1"],"Memory":0,"Volumes":{"/a":{},"/b":{}}},"#,
            r##""container_config":{"Cmd":["/bin/sh","-c","#(nop) CMD [/run]"]},"created":"2014-10-01T20:46:08.123456789Z","docker_version":"1.2.0","##,
            r#""history":[{"created":"2014-10-01T20:46:07Z","created_by":"/bin/sh -c echo '<&>' > /x"},{"author":"a","empty_layer":true},"#,
            r#"{"author":"me","created":"2014-10-01T20:46:08.123456789Z","created_by":"/bin/sh -c #(nop) CMD [/run]"}],"os":"linux","#,
            &format!(r#""rootfs":{{"diff_ids":["sha256:{f}","sha256:{f}"],"type":"layers"}}}}"#),
        ];
        assert_eq!(config, expected.concat());
        let (one, three) = ("1".repeat(64), "3".repeat(64));
        let manifest = format!(
            concat!(
                r#"{{"config":{{"digest":"{}","mediaType":"application/vnd.docker.container.image.v1+json","size":{}}},"#,
                r#""layers":[{{"digest":"sha256:{}","mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":100}},"#,
                r#"{{"digest":"sha256:{}","mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":100}}],"#,
                r#""mediaType":"application/vnd.docker.distribution.manifest.v2+json","schemaVersion":2}}"#
            ),
            converted.config_digest,
            config.len(),
            one,
            three
        );
        assert_eq!(String::from_utf8(converted.manifest), Ok(manifest));
        assert_eq!(
            converted.manifest_digest.to_string(),
            "sha256:d7fe3cdabdb915df6c6b0a2ee398641949dd6e8dd940248acfe910b6d7863d58"
        );
    }

    #[test]
    fn descriptions_must_match_id_and_parent() {
        let (a, b) = (id("a"), id("b"));
        let (is_root, has_parent) = (
            format!(r#"{{"id":"{a}","parent":""}}"#),
            format!(r#"{{"id":"{a}","parent":"{b}"}}"#),
        );
        for (json, parent, expected) in [
            (is_root.as_str(), None, Ok(())),
            (&has_parent, Some(&b), Ok(())),
            (&has_parent, None, Err(DescriptionError::Parent)),
            (&is_root, Some(&b), Err(DescriptionError::Parent)),
            (r#"{"id":"b"}"#, None, Err(DescriptionError::Id)),
            ("{}", None, Err(DescriptionError::Id)),
            ("[]", None, Err(DescriptionError::Form)),
            ("", None, Err(DescriptionError::Form)),
        ] {
            let read = description(json.as_bytes(), &a, parent).map(drop);
            assert_eq!(read, expected, "{json}");
        }
    }

    proptest! {
        /// The order of a description's members does not change the converted image.
        #[test]
        fn order_does_not_matter(words in proptest::collection::vec("[a-z]{1,6}", 1..8)) {
            let mut words = words;
            words.sort();
            words.dedup();
            let write = |words: &mut dyn Iterator<Item = &String>| {
                let members: Vec<String> = words.map(|word| format!(r#""{word}":{{"{word}":1}}"#)).collect();
                described(&format!("{{{}}}", members.join(",")))
            };
            let converted = [write(&mut words.iter()), write(&mut words.iter().rev())]
                .map(|description| convert(&[ChainEntry { description: &description, layer: layer("1", false) }]));
            prop_assert_eq!(&converted[0], &converted[1]);
        }
    }
}
