//! The file tree of an image as clients of either API unpack it: each layer over the one before it.

use std::collections::BTreeMap;
use std::io::Read as _;

use testkit::sha256;

/// The entry at a path: its kind, owner and mode, and its content or link target.
pub type Tree = BTreeMap<String, String>;

/// The client's handling of whiteouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Supports opaque folders.
    Modern,
    /// Docker before 1.9: a whiteout removes a name, and nothing else.
    Old,
}

/// Applies layers in order, the root first.
pub fn unpack(client: Client, layers: &[Vec<u8>]) -> Tree {
    let mut tree = Tree::new();
    for layer in layers {
        lay(client, &mut tree, &unpacked(layer));
    }
    tree
}

fn unpacked(layer: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match layer {
        [0x1f, 0x8b, ..] => {
            let mut decoder = flate2::read::MultiGzDecoder::new(layer);
            decoder.read_to_end(&mut bytes).expect("gzip");
        }
        [0x28, 0xb5, ..] => bytes = zstd::decode_all(layer).expect("zstd"),
        _ => bytes.extend(layer),
    }
    bytes
}

fn lay(client: Client, tree: &mut Tree, archive: &[u8]) {
    let mut archive = tar::Archive::new(archive);
    let mut own: Vec<String> = Vec::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let path = path
            .trim_start_matches("./")
            .trim_end_matches('/')
            .to_owned();
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if let Some(gone) = name.strip_prefix(".wh.") {
            let join = |name: &str| {
                if folder.is_empty() {
                    name.to_owned()
                } else {
                    format!("{folder}/{name}")
                }
            };
            if gone != ".wh..opq" {
                remove(tree, &join(gone), true);
            } else if client == Client::Modern {
                let below = join("");
                tree.retain(|path, _| !path.starts_with(&below) || own.contains(path));
            }
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("data");
        let attributes: Vec<String> = entry
            .pax_extensions()
            .expect("readable")
            .into_iter()
            .flatten()
            .map(|field| field.expect("a field"))
            .map(|field| format!("{:?}={:?}", field.key(), field.value()))
            .collect();
        let header = entry.header();
        let is_folder = header.entry_type().is_dir();
        let what = format!(
            "{:?} {:o} {}:{} {} {:?} {} {attributes:?}",
            header.entry_type(),
            header.mode().expect("a mode"),
            header.uid().expect("an owner"),
            header.gid().expect("a group"),
            header.mtime().expect("a time"),
            entry.link_name().expect("a link"),
            sha256(&bytes),
        );
        remove(tree, &path, !is_folder);
        own.push(path.clone());
        tree.insert(path, what);
    }
}

/// Removes a path, and everything below it if `below`.
fn remove(tree: &mut Tree, gone: &str, below: bool) {
    let inside = format!("{gone}/");
    tree.retain(|path, _| path != gone && !(below && path.starts_with(&inside)));
}
