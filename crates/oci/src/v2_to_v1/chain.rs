//! The chain of v1 images of a v2 image: its ids and JSON.
//!
//! History entries without a layer are left out: each image of a chain costs an old client two connections, and
//! the top image has the whole configuration. An image without layers becomes one image with the empty layer.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{ClientPlatform, ImageManifest, LayerDescriptor, V2ToV1Error};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::v1::ImageId;

/// The longest chain: Docker refuses to run an image whose depth, with its own layers on top, reaches 127.
pub const MAX_CHAIN: usize = 124;

/// The empty layer: an empty archive, compressed.
pub const EMPTY_LAYER: &[u8] = &[
    31, 139, 8, 0, 0, 9, 110, 136, 0, 255, 98, 24, 5, 163, 96, 20, 140, 88, 0, 8, 0, 0, 255, 255,
    46, 175, 181, 239, 0, 4, 0, 0,
];

/// Hash prefixes that separate kinds of ids. Increment the number when the meaning of an id changes.
const TOP: &str = "roadstead v1 top 1";
const BELOW: &str = "roadstead v1 image 1";

/// The creation time of an image without one that Go can parse.
const LONG_AGO: &str = "1970-01-01T00:00:00Z";

/// One v1 image of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainImage {
    /// A hash of what the image is made of, so that it is the same on every node.
    pub id: ImageId,
    /// `None`: the empty layer.
    pub layer: Option<LayerDescriptor>,
    /// The image's JSON, as sent.
    pub json: String,
}

/// The id of the top image of a manifest or index, for a platform.
pub fn top_id(manifest: &Digest, platform: &ClientPlatform) -> ImageId {
    let ClientPlatform { os, architecture } = platform;
    id(&[TOP, &manifest.to_string(), os, architecture])
}

/// The chain of an image, from the root to the top. `named` is the tag's target: the image's manifest, or an
/// index that contains it.
///
/// # Errors
/// [`V2ToV1Error::Config`] if the configuration is invalid, [`V2ToV1Error::Layers`] if there are too many layers.
pub fn chain(
    named: &Digest,
    platform: &ClientPlatform,
    image: &ImageManifest,
    config: &[u8],
) -> Result<Vec<ChainImage>, V2ToV1Error> {
    if image.layers.len() > MAX_CHAIN {
        return Err(V2ToV1Error::Layers(image.layers.len()));
    }
    let Ok(Value::Object(config)) = serde_json::from_slice(config) else {
        return Err(V2ToV1Error::Config);
    };
    let history_entries = history_entries(&config, image.layers.len());
    let mut layers: Vec<Option<LayerDescriptor>> = image.layers.iter().copied().map(Some).collect();
    if layers.is_empty() {
        layers.push(None);
    }
    let top = layers.len() - 1;
    let mut links: Vec<ChainImage> = Vec::with_capacity(layers.len());
    for (at, layer) in layers.into_iter().enumerate() {
        let parent = links.last().map(|link| link.id.clone());
        let (id, json) = if at == top {
            let id = top_id(named, platform);
            let json = top_json(&id, parent.as_ref(), &config, platform);
            (id, json)
        } else {
            let entry = history_entries.get(at).cloned().unwrap_or_default();
            below(parent.as_ref(), layer.as_ref(), &entry, &config, platform)
        };
        links.push(ChainImage {
            id,
            layer,
            json: json.to_string(),
        });
    }
    Ok(links)
}

/// The history entry of a layer.
#[derive(Clone, Debug, Default)]
struct HistoryEntry {
    created: String,
    created_by: String,
    author: String,
    comment: String,
}

/// The history entries of all layers, root first; empty if their number does not match.
fn history_entries(config: &Map<String, Value>, layers: usize) -> Vec<HistoryEntry> {
    let history = config.get("history").and_then(Value::as_array);
    let entries = history.map_or(&[][..], Vec::as_slice).iter();
    let history_entries: Vec<HistoryEntry> = entries
        .filter(|entry| entry["empty_layer"] != Value::Bool(true))
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            HistoryEntry {
                created: moment(&entry["created"]),
                created_by: text("created_by"),
                author: text("author"),
                comment: text("comment"),
            }
        })
        .collect();
    if history_entries.len() == layers {
        history_entries
    } else {
        Vec::new()
    }
}

/// An image below the top.
fn below(
    parent: Option<&ImageId>,
    layer: Option<&LayerDescriptor>,
    entry: &HistoryEntry,
    config: &Map<String, Value>,
    platform: &ClientPlatform,
) -> (ImageId, Value) {
    let created = if entry.created.is_empty() {
        LONG_AGO
    } else {
        &entry.created
    };
    let (os, architecture) = (
        text(config, "os", &platform.os),
        text(config, "architecture", &platform.architecture),
    );
    let id = id(&[
        BELOW,
        parent.map_or("", ImageId::as_str),
        &layer.map_or_else(String::new, |layer| layer.digest.to_string()),
        created,
        &entry.created_by,
        &entry.author,
        &entry.comment,
        &os,
        &architecture,
    ]);
    let mut json = json!({
        "id": id.as_str(),
        "created": created,
        "container_config": {"Cmd": [entry.created_by]},
        "config": {},
        "os": os,
        "architecture": architecture,
    });
    if let Some(parent) = parent {
        json["parent"] = parent.as_str().into();
    }
    for (key, value) in [("author", &entry.author), ("comment", &entry.comment)] {
        if !value.is_empty() {
            json[key] = value.as_str().into();
        }
    }
    (id, json)
}

/// The JSON of the top image: the configuration without members that v1 does not know.
fn top_json(
    id: &ImageId,
    parent: Option<&ImageId>,
    config: &Map<String, Value>,
    platform: &ClientPlatform,
) -> Value {
    let run = run_config(config.get("config"));
    let container = match config.get("container_config") {
        Some(own @ Value::Object(_)) => run_config(Some(own)),
        _ => run.clone(),
    };
    let mut json = json!({
        "id": id.as_str(),
        "created": moment(config.get("created").unwrap_or(&Value::Null)),
        "config": run,
        "container_config": container,
        "os": text(config, "os", &platform.os),
        "architecture": text(config, "architecture", &platform.architecture),
    });
    if let Some(parent) = parent {
        json["parent"] = parent.as_str().into();
    }
    for key in ["author", "comment", "container", "docker_version"] {
        if let Some(Value::String(value)) = config.get(key) {
            json[key] = value.as_str().into();
        }
    }
    json
}

/// The JSON type that Go expects for a member of the run configuration.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Flag,
    Number,
    Texts,
    /// An object used as a set of keys.
    Set,
    /// An object of texts.
    Labels,
}

/// The members of a run configuration that Docker 1.0 to 1.12 know. Go matches names case-insensitively and
/// fails on a value of another type, so no other member is sent.
const KNOWN: [(&str, Shape); 25] = [
    ("AttachStderr", Shape::Flag),
    ("AttachStdin", Shape::Flag),
    ("AttachStdout", Shape::Flag),
    ("Cmd", Shape::Texts),
    ("CpuShares", Shape::Number),
    ("Cpuset", Shape::Text),
    ("Domainname", Shape::Text),
    ("Entrypoint", Shape::Texts),
    ("Env", Shape::Texts),
    ("ExposedPorts", Shape::Set),
    ("Hostname", Shape::Text),
    ("Image", Shape::Text),
    ("Labels", Shape::Labels),
    ("MacAddress", Shape::Text),
    ("Memory", Shape::Number),
    ("MemorySwap", Shape::Number),
    ("NetworkDisabled", Shape::Flag),
    ("OnBuild", Shape::Texts),
    ("OpenStdin", Shape::Flag),
    ("StdinOnce", Shape::Flag),
    ("StopSignal", Shape::Text),
    ("Tty", Shape::Flag),
    ("User", Shape::Text),
    ("Volumes", Shape::Set),
    ("WorkingDir", Shape::Text),
];

fn run_config(config: Option<&Value>) -> Value {
    let mut known = Map::new();
    if let Some(Value::Object(config)) = config {
        for (name, shape) in KNOWN {
            if let Some(value) = config.get(name).and_then(|value| shaped(value, shape)) {
                known.insert(name.to_owned(), value);
            }
        }
    }
    Value::Object(known)
}

fn shaped(value: &Value, shape: Shape) -> Option<Value> {
    match (shape, value) {
        (Shape::Text, Value::String(_)) | (Shape::Flag, Value::Bool(_)) => Some(value.clone()),
        (Shape::Number, Value::Number(number)) if number.is_i64() => Some(value.clone()),
        (Shape::Texts, Value::Array(items)) if items.iter().all(Value::is_string) => {
            Some(value.clone())
        }
        (Shape::Set, Value::Object(members)) => {
            let members = members.keys().map(|name| (name.clone(), json!({})));
            Some(Value::Object(members.collect()))
        }
        (Shape::Labels, Value::Object(members)) if members.values().all(Value::is_string) => {
            Some(value.clone())
        }
        _ => None,
    }
}

fn text(config: &Map<String, Value>, key: &str, default: &str) -> String {
    let value = config.get(key).and_then(Value::as_str);
    let value = value.filter(|value| !value.is_empty());
    value.unwrap_or(default).to_owned()
}

/// A time that Go can parse.
fn moment(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(_) => text.to_owned(),
        Err(_) => LONG_AGO.to_owned(),
    }
}

/// The id that hashes these words, each with its length so that boundaries are unambiguous.
fn id(words: &[&str]) -> ImageId {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for word in words {
        hasher.update(&(word.len() as u64).to_be_bytes());
        hasher.update(word.as_bytes());
    }
    ImageId::of_digest(&hasher.finish())
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
