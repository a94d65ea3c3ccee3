//! Binds a script's placeholders to values: repository names, tags, bytes and digests unique to one run.
//!
//! Every value has a decoy of the same form and length that exists nowhere. A request that names decoys instead
//! of what its sender cannot know must get the same answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::rules::Rule;
use super::script::{Content, Kind, Script};
use testkit::image::{random, tar};
use testkit::origin::{MEDIA_CONFIG, MEDIA_INDEX, MEDIA_MANIFEST};
use testkit::{gzip, sha256};

const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// First components of repository names.
pub const GROUPS: [&str; 4] = ["mine", "open", "secret", "team"];
/// Repository names used in every registry.
pub const NAMES: [&str; 6] = [
    "mine/a", "mine/b", "open/a", "secret/a", "secret/b", "team/a",
];
/// Length of the byte sequences that identify a content in a response.
const WINDOW: usize = 8;

/// A blob, manifest or v1 image.
#[derive(Debug)]
pub struct Item {
    pub kind: Kind,
    pub bytes: Vec<u8>,
    /// `sha256:…`, or the id of a v1 image.
    pub id: String,
    /// An `id` of nothing.
    pub decoy: String,
    /// The contents it refers to.
    pub of: Vec<String>,
    /// Of a layer: the digest of the uncompressed archive.
    diff_id: String,
}

impl Item {
    /// The 64 hexadecimal digits of the digest or id.
    pub fn hex(&self) -> &str {
        self.id.trim_start_matches("sha256:")
    }

    pub fn media_type(&self) -> &'static str {
        match self.kind {
            Kind::Layer => MEDIA_LAYER,
            Kind::Config => MEDIA_CONFIG,
            Kind::Manifest => MEDIA_MANIFEST,
            Kind::Index => MEDIA_INDEX,
            Kind::Image => "application/json",
        }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type(), "digest": self.id, "size": self.bytes.len()})
    }
}

/// A placeholder in a script. A content's `part` is empty or `hex`: the digest without its algorithm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Symbol {
    Name(String),
    Tag {
        name: String,
        tag: String,
    },
    Content {
        name: String,
        part: String,
    },
    /// A value captured from a response, or one `part` of an upload location: `id` or `state`.
    Captured {
        name: String,
        part: String,
    },
}

impl Symbol {
    fn parse(text: &str) -> Self {
        let owned = |text: &str| text.to_owned();
        if let Some((name, tag)) = text.split_once('#') {
            let (name, tag) = (owned(name), owned(tag));
            return Self::Tag { name, tag };
        }
        if text.contains('/') {
            return Self::Name(owned(text));
        }
        let (name, part) = text.split_once('.').unwrap_or((text, ""));
        let (name, part) = (owned(name), owned(part));
        if text.starts_with(['k', 't', 'u']) {
            Self::Captured { name, part }
        } else {
            Self::Content { name, part }
        }
    }
}

/// Values captured from responses, by the name the script gives them.
pub type Captures = BTreeMap<String, String>;

/// The values of one run.
#[derive(Debug)]
pub struct Bindings {
    /// Letters that all repository names of the run share.
    slot: String,
    items: BTreeMap<String, Item>,
    windows: HashMap<[u8; WINDOW], String>,
}

impl Bindings {
    /// Binds a script with values derived from `number`. A content with an undefined reference is skipped.
    pub fn new(script: &Script, number: u64) -> Self {
        let mut bindings = Self {
            slot: letters(number, 6),
            items: BTreeMap::new(),
            windows: HashMap::new(),
        };
        for content in &script.contents {
            bindings.add(content);
        }
        bindings
    }

    fn add(&mut self, content: &Content) {
        let Content { name, kind, of } = content;
        let own = seed(&format!("{} {name}", self.slot));
        let length: usize = of.first().and_then(|text| text.parse().ok()).unwrap_or(500);
        let of: Vec<String> = match kind {
            Kind::Layer => Vec::new(),
            _ => of.clone(),
        };
        if !of.iter().all(|name| self.items.contains_key(name)) {
            return;
        }
        let (mark, note) = match kind {
            Kind::Layer => (random(own, length), String::new()),
            _ => (letters(own, 24).into_bytes(), letters(own, 24)),
        };
        let items: Vec<&Item> = of.iter().map(|name| &self.items[name]).collect();
        let image_id = sha256(note.as_bytes())[7..].to_owned();
        let archive = tar(&[("data", &mark)]);
        let bytes = match kind {
            Kind::Layer => gzip(&archive),
            Kind::Config => config(&items, &note),
            Kind::Manifest => manifest(&items, &note),
            Kind::Index => index(&items, &note),
            Kind::Image => image(&items, &image_id, &note),
        };
        let decoy = sha256(format!("no {name} {}", self.slot).as_bytes());
        let (id, decoy) = match kind {
            Kind::Image => (image_id, decoy[7..].to_owned()),
            _ => (sha256(&bytes), decoy),
        };
        for window in mark.windows(WINDOW) {
            let window = window.try_into().expect("of that length");
            self.windows.insert(window, name.clone());
        }
        let item = Item {
            kind: *kind,
            bytes,
            id,
            decoy,
            of,
            diff_id: sha256(&archive),
        };
        self.items.insert(name.clone(), item);
    }

    pub fn item(&self, name: &str) -> Option<&Item> {
        self.items.get(name)
    }

    pub fn items(&self) -> impl Iterator<Item = (&str, &Item)> {
        self.items.iter().map(|(name, item)| (name.as_str(), item))
    }

    /// Finds the content with this digest or id.
    pub fn by_id(&self, id: &str) -> Option<&str> {
        self.items().find(|(_, item)| item.id == id).map(|it| it.0)
    }

    /// Finds the contents whose random bytes appear in `text`.
    pub fn recognize(&self, text: &[u8]) -> BTreeSet<&str> {
        let found = text
            .windows(WINDOW)
            .filter_map(|window| self.windows.get(window))
            .map(String::as_str);
        found.collect()
    }

    /// Translates a script's repository name or name pattern.
    pub fn name(&self, name: &str) -> String {
        let component = |text: &str| match text {
            group if GROUPS.contains(&group) => format!("{group}-{}", self.slot),
            leaf if leaf.len() == 1 && leaf != "*" => format!("{leaf}0"),
            other => other.to_owned(),
        };
        let components: Vec<String> = name.split('/').map(component).collect();
        components.join("/")
    }

    /// Names a repository that does not exist, next to an existing one in sort order.
    pub fn decoy_name(&self, name: &str) -> String {
        let mut name = self.name(name);
        name.pop();
        name + "1"
    }

    /// Names a tag of a repository, or its decoy.
    pub fn tag(&self, name: &str, tag: &str, decoy: bool) -> String {
        let own = seed(&format!("{} {name} {tag} {decoy}", self.slot));
        format!("{tag}-{}", letters(own, 12))
    }

    pub fn rule(&self, rule: &Rule) -> Rule {
        Rule {
            pattern: self.name(&rule.pattern),
            ..rule.clone()
        }
    }

    /// Replaces placeholders by their values, those in `hidden` by decoys; `None` if one of them has no value.
    pub fn fill(
        &self,
        text: &str,
        captures: &Captures,
        hidden: &BTreeSet<Symbol>,
    ) -> Option<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('<') {
            let (symbol, after) = after.split_once('>')?;
            filled.push_str(before);
            let symbol = Symbol::parse(symbol);
            filled.push_str(&self.value(&symbol, captures, hidden.contains(&symbol))?);
            rest = after;
        }
        Some(filled + rest)
    }

    /// The value of a placeholder, or its decoy.
    pub fn value(&self, symbol: &Symbol, captures: &Captures, hidden: bool) -> Option<String> {
        Some(match symbol {
            Symbol::Name(name) if hidden => self.decoy_name(name),
            Symbol::Name(name) => self.name(name),
            Symbol::Tag { name, tag } => self.tag(name, tag, hidden),
            Symbol::Content { name, part } => {
                let item = self.items.get(name)?;
                let id = if hidden { &item.decoy } else { &item.id };
                let hex = id.strip_prefix("sha256:").filter(|_| part == "hex");
                hex.unwrap_or(id).to_owned()
            }
            Symbol::Captured { name, part } => {
                let value = captures.get(name)?;
                let (path, query) = value.split_once('?').unwrap_or((value, ""));
                match part.as_str() {
                    "id" => path.rsplit('/').next()?.to_owned(),
                    "state" => query.to_owned(),
                    _ if hidden => sha256(value.as_bytes())[7..].to_owned(),
                    _ => value.clone(),
                }
            }
        })
    }
}

/// Finds the placeholders in a text.
pub fn symbols(text: &str) -> BTreeSet<Symbol> {
    let pieces = text.split('<').skip(1);
    pieces
        .filter_map(|piece| Some(Symbol::parse(piece.split_once('>')?.0)))
        .collect()
}

/// Random letters from g to z, which never appear in a digest.
fn letters(seed: u64, length: usize) -> String {
    let letter = |byte: u8| char::from(b'g' + byte % 20);
    random(seed, length).into_iter().map(letter).collect()
}

/// Hashes a text to a number.
pub fn seed(text: &str) -> u64 {
    let digest = sha256(text.as_bytes());
    u64::from_str_radix(&digest[7..23], 16).expect("hexadecimal digits")
}

fn config(layers: &[&Item], note: &str) -> Vec<u8> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| &*layer.diff_id).collect();
    let history: Vec<Value> = layers
        .iter()
        .map(|_| json!({"created_by": "made"}))
        .collect();
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "author": note,
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    });
    config.to_string().into_bytes()
}

fn manifest(items: &[&Item], note: &str) -> Vec<u8> {
    let descriptors: Vec<Value> = items.iter().map(|item| item.descriptor()).collect();
    let (config, layers) = descriptors.split_first().unzip();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": config,
        "layers": layers,
        "annotations": {"note": note},
    });
    manifest.to_string().into_bytes()
}

fn index(manifests: &[&Item], note: &str) -> Vec<u8> {
    let described = manifests.iter().map(|manifest| {
        let mut described = manifest.descriptor();
        described["platform"] = json!({"os": "linux", "architecture": "amd64"});
        described
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_INDEX,
        "manifests": described.collect::<Vec<_>>(),
        "annotations": {"note": note},
    });
    index.to_string().into_bytes()
}

/// The JSON of a v1 image; `of` is its layer and, optionally, its parent.
fn image(of: &[&Item], id: &str, note: &str) -> Vec<u8> {
    let mut image = json!({
        "id": id,
        "created": "1970-01-01T00:00:00Z",
        "comment": note,
        "container_config": {"Cmd": ["made"]},
        "architecture": "amd64",
        "os": "linux",
    });
    if let Some(parent) = of.get(1) {
        image["parent"] = json!(parent.id);
    }
    image.to_string().into_bytes()
}
