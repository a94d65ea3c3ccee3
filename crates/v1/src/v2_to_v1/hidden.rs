//! The paths that an opaque directory hides.
//!
//! `.wh..wh..opq` hides the content of its directory in all lower layers. Docker before 1.9 does not know it
//! and would show everything, but knows `.wh.<name>`, so one of these is written for each lower entry that the
//! layer itself does not have. If both have a directory, the same applies to its content.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use super::archive::{Archive, invalid};

const OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT: &[u8] = b".wh.";
/// Names that aufs reserves for itself.
const AUFS_INTERNAL: &[u8] = b".wh..wh.";
/// The most memory for paths, in bytes.
const MAX_PATHS: usize = 64 << 20;

/// What a path in a layer stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum PathKind<'p> {
    Entry,
    /// Hides the content of this directory in lower layers.
    Opaque(&'p [u8]),
    /// Deletes this path of lower layers.
    Whiteout(Vec<u8>),
    /// Internal to aufs.
    Ignored,
}

pub fn path_kind(path: &[u8]) -> PathKind<'_> {
    let (folder, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    if name == OPAQUE {
        return PathKind::Opaque(folder);
    }
    if name.starts_with(AUFS_INTERNAL) {
        return PathKind::Ignored;
    }
    match name.strip_prefix(WHITEOUT) {
        Some(name) => PathKind::Whiteout(join(folder, name)),
        None => PathKind::Entry,
    }
}

/// The paths of a layer that matter for opaque directories.
#[derive(Debug, Default)]
pub struct LayerPaths {
    /// The paths, and whether each is a directory.
    entries: BTreeMap<Vec<u8>, bool>,
    whiteouts: BTreeSet<Vec<u8>>,
    opaque: BTreeSet<Vec<u8>>,
    /// In bytes.
    size: usize,
}

impl LayerPaths {
    /// Reads the paths of an archive that are in one of these directories, or above one.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be read, or has too many paths.
    pub fn read<R: Read>(archive: &mut Archive<R>, within: &BTreeSet<Vec<u8>>) -> io::Result<Self> {
        let mut paths = Self::default();
        while let Some(entry) = archive.next()? {
            let is_related = |path: &[u8]| is_related(within, path);
            match path_kind(&entry.path) {
                PathKind::Entry if !entry.path.is_empty() && is_related(&entry.path) => {
                    paths.size += entry.path.len() + 64;
                    paths.entries.insert(entry.path, entry.is_directory);
                }
                PathKind::Opaque(folder) if is_related(folder) => {
                    paths.size += folder.len() + 64;
                    paths.opaque.insert(folder.to_vec());
                }
                PathKind::Whiteout(gone) if is_related(&gone) => {
                    paths.size += gone.len() + 64;
                    paths.whiteouts.insert(gone);
                }
                _ => {}
            }
            if paths.size > MAX_PATHS {
                return Err(invalid("an opaque directory hides too many files"));
            }
        }
        Ok(paths)
    }

    /// Applies the next higher layer.
    ///
    /// # Errors
    /// [`io::Error`] if there are too many paths.
    pub fn apply(&mut self, above: Self) -> io::Result<()> {
        for gone in &above.whiteouts {
            self.entries.remove(gone);
            self.remove_below(gone);
        }
        for folder in &above.opaque {
            self.remove_below(folder);
        }
        for (path, is_directory) in above.entries {
            if !is_directory {
                self.remove_below(&path);
            }
            self.entries.insert(path, is_directory);
        }
        self.size = self.entries.keys().map(|path| path.len() + 64).sum();
        if self.size > MAX_PATHS {
            return Err(invalid("an opaque directory hides too many files"));
        }
        Ok(())
    }

    fn remove_below(&mut self, folder: &[u8]) {
        let below: Vec<Vec<u8>> = self.below(folder).map(|(path, _)| path.clone()).collect();
        for path in below {
            self.entries.remove(&path);
        }
    }

    fn below<'s>(
        &'s self,
        folder: &[u8],
    ) -> impl Iterator<Item = (&'s Vec<u8>, &'s bool)> + use<'s> {
        let prefix = join(folder, b"");
        let from = self.entries.range(prefix.clone()..);
        from.take_while(move |(path, _)| path.starts_with(&prefix))
    }

    /// The entries directly in a directory, and whether each is a directory.
    fn children(&self, folder: &[u8]) -> BTreeMap<Vec<u8>, bool> {
        let prefix = join(folder, b"");
        let mut children = BTreeMap::new();
        let mut from = prefix.clone();
        while let Some((path, is_directory)) = self.entries.range(from..).next()
            && let Some(name) = path.strip_prefix(&prefix[..])
        {
            let slash = name.iter().position(|&byte| byte == b'/');
            let length = prefix.len() + slash.unwrap_or(name.len());
            children.insert(path[..length].to_vec(), slash.is_some() || *is_directory);
            // Skips the content of a directory: `0` is the byte after `/`.
            from = match slash {
                Some(_) => [&path[..length], b"0"].concat(),
                None => [path, &b"\0"[..]].concat(),
            };
        }
        children
    }

    /// For each opaque directory of this layer, the paths of `lower` that need a whiteout.
    pub fn hidden(&self, lower: &Self) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
        let folders = self.opaque.iter().map(|folder| {
            let mut hidden = Vec::new();
            self.hide(lower, folder, &mut hidden);
            (folder.clone(), hidden)
        });
        folders.collect()
    }

    fn hide(&self, lower: &Self, folder: &[u8], hidden: &mut Vec<Vec<u8>>) {
        let own = self.children(folder);
        for (path, is_directory) in lower.children(folder) {
            match own.get(&path) {
                // A directory that is opaque itself is handled on its own.
                Some(true) if is_directory && self.opaque.contains(&path) => {}
                Some(true) if is_directory => self.hide(lower, &path, hidden),
                Some(_) => {}
                None if self.whiteouts.contains(&path) => {}
                None => hidden.push(path),
            }
        }
    }
}

/// `.wh.<name>` for a path.
pub fn whiteout(path: &[u8]) -> Vec<u8> {
    let at = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    [&path[..at], WHITEOUT, &path[at..]].concat()
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        name.to_vec()
    } else {
        [folder, b"/", name].concat()
    }
}

/// Whether a path is one of these directories, in one, or above one.
fn is_related(within: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let mut above = slashes.map(|(at, _)| &path[..at]);
    let prefix = join(path, b"");
    let mut below = within.range(prefix.clone()..);
    within.contains(&b""[..])
        || within.contains(path)
        || above.any(|folder| within.contains(folder))
        || below
            .next()
            .is_some_and(|folder| folder.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_paths() {
        let gone = |path: &str| PathKind::Whiteout(path.as_bytes().to_vec());
        for (path, expected) in [
            ("a/b", PathKind::Entry),
            ("", PathKind::Entry),
            (".wh..wh..opq", PathKind::Opaque(b"")),
            ("a/b/.wh..wh..opq", PathKind::Opaque(b"a/b")),
            (".wh.x", gone("x")),
            ("a/.wh.x", gone("a/x")),
            ("a/.wh.x.wh.", gone("a/x.wh.")),
            (".wh..wh.plnk", PathKind::Ignored),
            ("a/.wh..wh.orph", PathKind::Ignored),
            ("a.wh.x", PathKind::Entry),
        ] {
            assert_eq!(path_kind(path.as_bytes()), expected, "{path}");
        }
        assert_eq!(whiteout(b"a/b"), b"a/.wh.b");
        assert_eq!(whiteout(b"b"), b".wh.b");
    }

    #[test]
    fn paths_related_to_directories() {
        let within = |folders: &[&str]| {
            folders
                .iter()
                .map(|path| path.as_bytes().to_vec())
                .collect()
        };
        for (folders, path, expected) in [
            (&["a/b"][..], "a/b", true),
            (&["a/b"], "a/b/c/d", true),
            (&["a/b"], "a", true),
            (&["a/b"], "", true),
            (&["a/b"], "a/bc", false),
            (&["a/b"], "a/c", false),
            (&["a-x", "a/b"], "a", true),
            (&[""], "x/y", true),
            (&[], "x", false),
        ] {
            assert_eq!(
                is_related(&within(folders), path.as_bytes()),
                expected,
                "{folders:?} {path}"
            );
        }
    }

    /// A layer of these paths; directories end in `/`.
    fn layer(paths: &[&str]) -> LayerPaths {
        let mut layer = LayerPaths::default();
        for path in paths {
            let plain = path.trim_end_matches('/').as_bytes();
            match path_kind(plain) {
                PathKind::Entry => {
                    layer.entries.insert(plain.to_vec(), path.ends_with('/'));
                }
                PathKind::Opaque(folder) => {
                    layer.opaque.insert(folder.to_vec());
                }
                PathKind::Whiteout(gone) => {
                    layer.whiteouts.insert(gone);
                }
                PathKind::Ignored => {}
            }
        }
        layer
    }

    #[test]
    fn paths_that_opaque_directories_hide() {
        let base = [
            "d/", "d/a", "d/b/", "d/b/x", "d/b/y", "d/c/", "d/c/z", "e/", "e/f",
        ];
        for (below, above, expected) in [
            // everything is hidden
            (
                &[&base[..]][..],
                &["d/", "d/.wh..wh..opq"][..],
                &["d/a", "d/b", "d/c"][..],
            ),
            // re-added entries, and a file in place of a directory
            (
                &[&base[..]],
                &["d/.wh..wh..opq", "d/a", "d/b/", "d/b/x", "d/c"],
                &["d/b/y"],
            ),
            // an implied directory, and a directory in place of a file
            (
                &[&base[..]],
                &["d/.wh..wh..opq", "d/b/x", "d/a/", "d/a/q"],
                &["d/b/y", "d/c"],
            ),
            // already deleted
            (
                &[&base[..], &["d/.wh.a", "d/c"]],
                &["d/.wh..wh..opq"],
                &["d/b", "d/c"],
            ),
            (
                &[&base[..], &["d/.wh..wh..opq", "d/n"]],
                &["d/.wh..wh..opq"],
                &["d/n"],
            ),
            (&[&base[..], &["d"]], &["d/", "d/.wh..wh..opq"], &[]),
            // the layer's own whiteouts
            (
                &[&base[..]],
                &["d/.wh..wh..opq", "d/.wh.a"],
                &["d/b", "d/c"],
            ),
            // the root, and nested opaque directories
            (&[&base[..]], &[".wh..wh..opq", "e/"], &["d", "e/f"]),
            (
                &[&base[..]],
                &["d/.wh..wh..opq", "d/b/", "d/b/.wh..wh..opq"],
                &["d/a", "d/c", "d/b/x", "d/b/y"],
            ),
        ] {
            let mut lower = LayerPaths::default();
            for below in below {
                lower.apply(layer(below)).expect("few");
            }
            let hidden = layer(above).hidden(&lower);
            let hidden: BTreeSet<Vec<u8>> = hidden.into_values().flatten().collect();
            let expected = expected
                .iter()
                .map(|path| path.as_bytes().to_vec())
                .collect();
            assert_eq!(hidden, expected, "{above:?}");
        }
    }
}
