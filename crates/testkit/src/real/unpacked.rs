//! Unpacks the layers of an image over each other with tar, reading whiteouts as old and new clients do, and
//! compares trees on disk.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{run, text};
use crate::process;

/// How whiteouts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// As Docker before 1.9 does, entry by entry: a whiteout removes one name, and nothing else.
    Names,
    /// As current clients do: directories may be opaque as well.
    Opaque,
}

/// Lays the layers (`$2` and on) over each other in the folder `tree`.
const UNPACK: &str = r#"set -e
marks=$1; shift; mkdir tree
for layer; do
  tar -tf "$layer" | grep -E '(^|/)\.wh\.' | while read -r mark; do
    folder=tree/$(dirname "$mark"); name=$(basename "$mark")
    if [ "$name" != .wh..wh..opq ]; then rm -rf "$folder/${name#.wh.}"
    elif [ "$marks" = Opaque ]; then find "$folder" -mindepth 1 -delete; fi
  done
  tar -C tree --numeric-owner --exclude='.wh.*' -xpf "$layer"
done"#;

/// Compares two directories: names, kinds, modes, owners, times, links and bytes. Prints the number of entries.
const COMPARE: &str = r#"set -e
list() (cd "$1"; find . -mindepth 1 \( -type d -printf '%P %y %m %U:%G\n' -o -type l -printf '%P %y %l\n' \
        -o -printf '%P %y %m %U:%G %n %s %T@\n' \) | sort)
list "$1" >one; list "$2" >other; diff one other; diff -r --no-dereference "$1" "$2"; wc -l <one"#;

/// A tree on disk.
pub struct Unpacked {
    dir: TempDir,
}

impl Unpacked {
    /// Of these layers, root first: gzip, plain, or zstd for current clients.
    #[track_caller]
    pub fn new(marks: Marks, layers: &[Vec<u8>]) -> Self {
        let dir = crate::temp_dir();
        let mut arguments = vec![format!("{marks:?}")];
        for (number, layer) in layers.iter().enumerate() {
            let archive = plain(marks, layer);
            if marks == Marks::Names {
                check_order(&archive);
            }
            let file = dir.path().join(format!("{number}.tar"));
            std::fs::write(&file, archive).expect("writable");
            arguments.push(text(&file));
        }
        shell(dir.path(), UNPACK, &arguments);
        Self { dir }
    }

    /// The directory with the unpacked files.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("tree")
    }
}

/// Asserts that both trees are equal, with this many entries.
#[track_caller]
pub fn check_same(one: &Path, other: &Path, entries: usize) {
    let dir = crate::temp_dir();
    let said = shell(dir.path(), COMPARE, &[text(one), text(other)]);
    assert_eq!(said.trim(), entries.to_string());
}

#[track_caller]
fn plain(marks: Marks, layer: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    match layer {
        [0x1f, 0x8b, ..] => {
            let mut decoder = flate2::read::MultiGzDecoder::new(layer);
            decoder.read_to_end(&mut archive).expect("gzip");
        }
        [0x28, 0xb5, ..] => {
            assert_eq!(marks, Marks::Opaque, "no old client knows zstd");
            archive = zstd::decode_all(layer).expect("zstd");
        }
        _ => archive.extend(layer),
    }
    archive
}

/// Clients that read whiteouts entry by entry remove nothing that the same layer added before.
#[track_caller]
fn check_order(archive: &[u8]) {
    let mut before: Vec<PathBuf> = Vec::new();
    for entry in tar::Archive::new(archive).entries().expect("an archive") {
        let entry = entry.expect("an entry");
        let path = entry.path().expect("a path").into_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = path.with_file_name(gone);
            let brought = before.iter().find(|path| path.starts_with(&gone));
            assert_eq!(brought, None, "{} comes too late", path.display());
        }
        before.push(path);
    }
}

/// Runs a script in a directory; returns its output.
#[track_caller]
fn shell(dir: &Path, script: &str, arguments: &[String]) -> String {
    let mut sh = process::command("sh");
    sh.current_dir(dir)
        .args(["-c", script, "sh"])
        .args(arguments);
    run(&mut sh).unwrap_or_else(|said| panic!("{said}"))
}
