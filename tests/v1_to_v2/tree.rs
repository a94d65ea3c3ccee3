//! skopeo, a v2-only client, pulls an image that only the v1 side has: the file tree is the one that was pushed, cold,
//! warm, and with both registries stopped.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::v1_to_v2::{Scene, descriptions};
use testkit::gateway::Gateway;
use testkit::process;
use testkit::real::{Missing, found, program, run};
use testkit::temp_dir;

/// The content of an image, as three v1 layers and as the resulting tree: files, modes, links of both kinds, a replaced
/// and a removed file.
pub struct Tree {
    dir: TempDir,
}

const MAKE: &str = r#"set -e
mkdir -p base/etc base/bin base/deep/er delta/data delta/etc delta/deep
head -c 150000 /dev/urandom >base/deep/er/payload
echo gone >base/gone; echo below >base/deep/gone
echo "root:x:0:0" >base/etc/passwd; echo '#!/bin/sh' >base/bin/run; chmod 4755 base/bin/run
ln -s ../bin/run base/etc/link; ln base/etc/passwd base/etc/hard
: >base/empty; chmod 600 base/empty
echo "root:x:0:1" >delta/etc/passwd; seq 1 20000 >delta/data/numbers
: >delta/.wh.gone; : >delta/deep/.wh.gone
cp -a base expected
rm expected/gone expected/deep/gone expected/etc/passwd
cp -a delta/etc/passwd expected/etc/; cp -a delta/data expected/
tar --numeric-owner -C base -cf - . | gzip -n >0
head -c 1024 /dev/zero >1
tar --numeric-owner -C delta -cf - . | xz >2
"#;

/// Unpacks `$@` one over the other into `tree`.
pub const UNPACK: &str = r#"set -e
mkdir tree
for layer; do
  tar -tzf "$layer" | grep -E '(^|/)\.wh\.' | while read -r mark; do
    rm -rf "tree/$(dirname "$mark")/$(basename "$mark" | cut -c5-)"
  done
  tar -C tree --exclude='.wh.*' -xzpf "$layer"
done"#;

impl Tree {
    pub fn new() -> Self {
        let tree = Self { dir: temp_dir() };
        shell(tree.dir.path(), MAKE, &[]);
        tree
    }

    pub fn layers(&self) -> [Vec<u8>; 3] {
        let layer = |name| std::fs::read(self.dir.path().join(name)).expect("a layer");
        ["0", "1", "2"].map(layer)
    }

    /// Compares the tree at `other`: names, kinds, modes, links and bytes.
    pub fn check(&self, other: &Path) {
        let own = self.dir.path().join("expected");
        let (own, other) = (own.display().to_string(), other.display().to_string());
        let said = shell(
            self.dir.path(),
            r#"diff -r --no-dereference "$1" "$2"
            list() { (cd "$1" && find . ! -type d -printf '%p %y %M %n %l %s\n' | sort); }
            list "$1" >own; list "$2" >other; diff own other && wc -l <own"#,
            &[&own, &other],
        );
        assert_eq!(said.trim(), "7", "all files were compared");
    }
}

/// Runs a script in `dir`; returns its output.
pub fn shell(dir: &Path, script: &str, arguments: &[&str]) -> String {
    let mut sh = process::command("sh");
    sh.current_dir(dir)
        .args(["-c", script, "sh"])
        .args(arguments);
    run(&mut sh).unwrap_or_else(|said| panic!("{said}"))
}

/// Copies an image by skopeo and unpacks it; returns the path of its tree.
pub fn pulled(gateway: &Gateway, reference: &str, dir: &Path) -> Result<PathBuf, String> {
    let skopeo = program("skopeo").map_err(|missing| missing.to_string())?;
    let copy = dir.join("copy");
    let mut skopeo = process::command(skopeo);
    skopeo
        .env("HOME", dir)
        .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"])
        .arg("--src-tls-verify=false")
        .arg(format!("docker://{}/{reference}", gateway.authority(1)))
        .arg(format!("dir:{}", copy.display()));
    run(&mut skopeo)?;
    let manifest = std::fs::read(copy.join("manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let layers = layers.map(|layer| {
        let digest = layer["digest"].as_str().expect("a digest");
        copy.join(&digest["sha256:".len()..]).display().to_string()
    });
    let layers: Vec<String> = layers.collect();
    let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    shell(dir, UNPACK, &layers);
    Ok(dir.join("tree"))
}

/// An image of this tree, as Docker 1.x describes it.
pub fn images(layers: &[Vec<u8>; 3]) -> Vec<(Value, &[u8])> {
    let mut images: Vec<(Value, &[u8])> = descriptions()
        .into_iter()
        .zip(layers.iter().map(Vec::as_slice))
        .collect();
    images[2].0["config"]["Labels"] = json!({"a": "b"});
    images
}

#[test]
fn skopeo_pulls_the_file_tree_pushed_to_v1() {
    let skopeo = program("skopeo").map_err(|missing| Missing(missing.0));
    if found(skopeo).is_none() {
        return;
    }
    let tree = Tree::new();
    let layers = tree.layers();
    let Scene {
        v1,
        v2,
        mut gateway,
    } = Scene::start();
    v1.put_image("team/app", "1", &images(&layers));
    let pull = |gateway: &Gateway, when: &str| {
        let dir = temp_dir();
        let pulled = pulled(gateway, "team/app:1", dir.path());
        tree.check(&pulled.unwrap_or_else(|said| panic!("{when}: {said}")));
    };
    pull(&gateway, "cold");
    let asked = v1.count("GET", "/layer");
    assert_eq!(asked, 3);
    pull(&gateway, "warm");
    assert_eq!(v1.count("GET", "/layer"), asked);
    drop(v1);
    pull(&gateway, "without v1");
    drop(v2);
    pull(&gateway, "without both");
    gateway.restart();
    pull(&gateway, "after a restart");
}
