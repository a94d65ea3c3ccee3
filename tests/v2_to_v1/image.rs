//! Images as builders make them: archives with folders, links and whiteouts, compressed.

use std::io::Write as _;

use serde_json::{Value, json};

use testkit::origin::{MEDIA_CONFIG, MEDIA_INDEX, MEDIA_MANIFEST, Origin};
use testkit::{image::random, sha256};

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// An entry of a layer.
#[derive(Clone, Debug)]
pub enum Entry {
    Folder(&'static str),
    File(&'static str, Vec<u8>),
    Symlink(&'static str, &'static str),
    Hardlink(&'static str, &'static str),
    /// With a PAX header before it.
    Attributed(&'static str, Vec<u8>),
}

/// A whiteout of a file, or of an opaque folder's content.
pub fn mark(path: &'static str) -> Entry {
    Entry::File(path, Vec::new())
}

pub fn file(path: &'static str, seed: u64) -> Entry {
    Entry::File(
        path,
        random(seed, 1000 + usize::try_from(seed).expect("small") * 37),
    )
}

pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(1000);
        header.set_gid(50);
        header.set_mtime(1_400_000_000);
        header.set_size(0);
        match entry {
            Entry::Folder(path) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                builder.append_data(&mut header, path, &[][..])
            }
            Entry::File(path, bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, &**bytes)
            }
            Entry::Symlink(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target)
            }
            Entry::Hardlink(path, target) => {
                header.set_entry_type(tar::EntryType::Link);
                builder.append_link(&mut header, path, target)
            }
            Entry::Attributed(path, bytes) => {
                let attributes = [("SCHILY.xattr.user.seed", &b"of an attribute"[..])];
                builder.append_pax_extensions(attributes).expect("memory");
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, &**bytes)
            }
        }
        .expect("memory");
    }
    builder.into_inner().expect("memory")
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("memory")
}

/// An image in a repository.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub digest: String,
    /// From the root to the top.
    pub layers: Vec<String>,
    size: usize,
}

/// Pushes an image of these layers, each with a media type, for an architecture.
pub fn push(
    origin: &Origin,
    name: &str,
    tag: Option<&str>,
    architecture: &str,
    layers: &[(&str, Vec<u8>)],
) -> Pushed {
    let history: Vec<Value> = (0..layers.len())
        .flat_map(|at| {
            let created = "2024-01-02T03:04:05.678Z";
            [
                json!({"created": created, "created_by": format!("RUN step {at}")}),
                json!({"created": created, "created_by": "ENV A=B", "empty_layer": true}),
            ]
        })
        .collect();
    let config = json!({
        "created": "2024-01-02T03:04:05.678Z",
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=B"], "Healthcheck": {"Test": ["NONE"]}},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": history,
    });
    push_manifest(origin, name, tag, (MEDIA_CONFIG, &config), layers)
}

/// Pushes a manifest with a configuration of any type.
pub fn push_manifest(
    origin: &Origin,
    name: &str,
    tag: Option<&str>,
    (config_type, config): (&str, &Value),
    layers: &[(&str, Vec<u8>)],
) -> Pushed {
    let keep = |media_type: &str, bytes: Vec<u8>| {
        let size = bytes.len();
        let digest = origin.push_blob(name, bytes);
        json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let config = keep(config_type, config.to_string().into_bytes());
    let layers: Vec<Value> = layers
        .iter()
        .map(|(media_type, bytes)| keep(media_type, bytes.clone()))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": config,
        "layers": layers,
    });
    let bytes = manifest.to_string().into_bytes();
    let digests = layers
        .iter()
        .map(|layer| layer["digest"].as_str().expect("a digest").to_owned());
    Pushed {
        digest: sha256(&bytes),
        layers: digests.collect(),
        size: bytes.len(),
    }
    .put(origin, name, tag, MEDIA_MANIFEST, bytes)
}

impl Pushed {
    fn put(
        self,
        origin: &Origin,
        name: &str,
        tag: Option<&str>,
        kind: &str,
        bytes: Vec<u8>,
    ) -> Self {
        let digest = origin.push_manifest(name, tag, kind, bytes);
        assert_eq!(digest, self.digest);
        self
    }

    /// Its descriptor in an index.
    pub fn descriptor(&self, media_type: &str, platform: Option<(&str, &str)>) -> Value {
        let mut descriptor =
            json!({"mediaType": media_type, "digest": self.digest, "size": self.size});
        if let Some((os, architecture)) = platform {
            descriptor["platform"] = json!({"os": os, "architecture": architecture});
        }
        descriptor
    }
}

/// Pushes an index of these manifests.
pub fn push_index(origin: &Origin, name: &str, tag: Option<&str>, manifests: &[Value]) -> Pushed {
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": manifests});
    let bytes = index.to_string().into_bytes();
    Pushed {
        digest: sha256(&bytes),
        layers: Vec::new(),
        size: bytes.len(),
    }
    .put(origin, name, tag, MEDIA_INDEX, bytes)
}
