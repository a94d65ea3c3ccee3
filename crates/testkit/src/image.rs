//! Deterministic images: an OCI layout directory generated from seeds, for `skopeo copy` to push.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::origin::{MEDIA_CONFIG, MEDIA_INDEX, MEDIA_MANIFEST};

const MEDIA_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ANNOTATION_TAG: &str = "org.opencontainers.image.ref.name";

/// An OCI layout in a temporary directory.
pub struct Layout {
    dir: TempDir,
    tagged: Vec<Value>,
    made: Vec<Made>,
}

/// An image or artifact of a layout.
#[derive(Clone, Debug)]
pub struct Made {
    /// The tag in the layout's index.
    pub tag: String,
    /// The digest of the manifest or index.
    pub digest: String,
    /// Digests of every blob and manifest below it.
    pub content: Vec<String>,
    descriptor: Value,
}

impl Layout {
    /// An empty layout in a new directory, which is deleted when it is dropped.
    pub fn new() -> Self {
        let layout = Self {
            dir: crate::temp_dir(),
            tagged: Vec::new(),
            made: Vec::new(),
        };
        std::fs::create_dir_all(layout.dir.path().join("blobs/sha256")).expect("a directory");
        layout.write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        layout
    }

    /// The directory of the layout.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The contents, by tag.
    #[track_caller]
    pub fn made(&self, tag: &str) -> Made {
        let made = self.made.iter().find(|made| made.tag == tag);
        made.unwrap_or_else(|| panic!("nothing is tagged {tag}"))
            .clone()
    }

    /// skopeo's reference to an image of this layout.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.dir.path().display())
    }

    /// A linux/amd64 image of two layers, the second with a file of `payload` random bytes.
    pub fn add_image(&mut self, tag: &str, seed: u64, payload: usize) -> Made {
        let (descriptor, content) = self.image("amd64", seed, payload);
        self.finish(tag, descriptor, content)
    }

    /// A linux/amd64 image of these layers, root first: each an archive, its media type and its compressed form.
    pub fn add_layers(&mut self, tag: &str, layers: &[(&[u8], &str, Vec<u8>)]) -> Made {
        let archives: Vec<&[u8]> = layers.iter().map(|(archive, ..)| *archive).collect();
        let store = |(_, media_type, bytes): &(&[u8], &str, Vec<u8>)| self.store(media_type, bytes);
        let stored: Vec<Value> = layers.iter().map(store).collect();
        let (descriptor, content) = self.image_of("amd64", &archives, &stored);
        self.finish(tag, descriptor, content)
    }

    /// An index of two such images, linux/amd64 and linux/arm64.
    pub fn add_index(&mut self, tag: &str, seed: u64, payload: usize) -> Made {
        let mut manifests = Vec::new();
        let mut content = Vec::new();
        for (architecture, seed) in [("amd64", seed), ("arm64", seed + 1)] {
            let (mut descriptor, below) = self.image(architecture, seed, payload);
            content.push(digest(&descriptor));
            content.extend(below);
            descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
            manifests.push(descriptor);
        }
        let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": manifests});
        let descriptor = self.store(MEDIA_INDEX, index.to_string().as_bytes());
        self.finish(tag, descriptor, content)
    }

    /// An artifact whose subject is `subject`, for its referrers.
    pub fn add_artifact(&mut self, tag: &str, subject: &Made, artifact_type: &str) -> Made {
        let config = self.store(artifact_type, b"{}");
        let layer = self.store("application/octet-stream", b"signed without a key");
        let content = vec![digest(&config), digest(&layer)];
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": artifact_type,
            "config": config,
            "layers": [layer],
            "subject": subject.descriptor,
        });
        let descriptor = self.store(MEDIA_MANIFEST, manifest.to_string().as_bytes());
        self.finish(tag, descriptor, content)
    }

    fn image(&self, architecture: &str, seed: u64, payload: usize) -> (Value, Vec<String>) {
        let release = format!("ID=roadstead\nSEED={seed}\nARCH={architecture}\n");
        let base = tar(&[
            ("bin/", b""),
            ("etc/", b""),
            ("etc/os-release", release.as_bytes()),
        ]);
        let data = tar(&[("data/", b""), ("data/payload", &random(seed, payload))]);
        let layers = [&base, &data].map(|tar| self.store(MEDIA_LAYER_GZIP, &super::gzip(tar)));
        self.image_of(architecture, &[&base, &data], &layers)
    }

    /// An image of these archives, stored as these layers.
    fn image_of(
        &self,
        architecture: &str,
        archives: &[&[u8]],
        layers: &[Value],
    ) -> (Value, Vec<String>) {
        let diff_ids: Vec<String> = archives.iter().map(|tar| super::sha256(tar)).collect();
        let names = ["base", "data"]
            .into_iter()
            .chain(std::iter::repeat("more"));
        let history: Vec<Value> = names
            .take(archives.len())
            .map(|name| json!({"created_by": name}))
            .collect();
        let config = json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = self.store(MEDIA_CONFIG, config.to_string().as_bytes());
        let mut content = vec![digest(&config)];
        content.extend(layers.iter().map(digest));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": config,
            "layers": layers,
        });
        let descriptor = self.store(MEDIA_MANIFEST, manifest.to_string().as_bytes());
        (descriptor, content)
    }

    fn finish(&mut self, tag: &str, descriptor: Value, content: Vec<String>) -> Made {
        let mut tagged = descriptor.clone();
        tagged["annotations"] = json!({ANNOTATION_TAG: tag});
        self.tagged.push(tagged);
        let index = json!({"schemaVersion": 2, "manifests": self.tagged});
        self.write("index.json", index.to_string().as_bytes());
        let made = Made {
            tag: tag.to_owned(),
            digest: digest(&descriptor),
            content,
            descriptor,
        };
        self.made.push(made.clone());
        made
    }

    /// Stores a blob and returns its descriptor.
    fn store(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = super::sha256(bytes);
        self.write(&format!("blobs/{}", digest.replace(':', "/")), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Pseudo-random bytes that depend on the seed alone.
pub fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A tar archive of these files; a name that ends in `/` is a directory.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, bytes) in files {
        let (mode, kind) = if name.ends_with('/') {
            ("0000755", b'5')
        } else {
            ("0000644", b'0')
        };
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, mode);
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", bytes.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(257, "ustar\u{0}00");
        header[156] = kind;
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\u{0}").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().expect("a digest").to_owned()
}
