//! What an opaque folder hides, name by name.
//!
//! `.wh..wh..opq` says that nothing of a folder's lower layers is to be seen. Docker before 1.9 does not know
//! it and would show everything again, but knows `.wh.<name>`, so one of these is written for each lower
//! entry that the layer does not have itself. Where both have a folder, the same goes for what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use super::archive::{Archive, broken};

const OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT: &[u8] = b".wh.";
/// Names of aufs for itself.
const OWN: &[u8] = b".wh..wh.";
/// The most that is remembered of paths, in bytes.
const MAX_PATHS: usize = 64 << 20;

/// What one path of a layer means.
#[derive(Debug, PartialEq, Eq)]
pub enum PathKind<'p> {
    Entry,
    /// This folder shows nothing of what lies below it.
    Opaque(&'p [u8]),
    /// This path is gone.
    Whiteout(Vec<u8>),
    /// It means something to aufs alone.
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
    if name.starts_with(OWN) {
        return PathKind::Ignored;
    }
    match name.strip_prefix(WHITEOUT) {
        Some(name) => PathKind::Whiteout(join(folder, name)),
        None => PathKind::Entry,
    }
}

/// The part of a layer's paths that opaque folders are concerned with.
#[derive(Debug, Default)]
pub struct Paths {
    /// Whether each is a folder.
    entries: BTreeMap<Vec<u8>, bool>,
    whiteouts: BTreeSet<Vec<u8>>,
    opaque: BTreeSet<Vec<u8>>,
    /// In bytes.
    size: usize,
}

impl Paths {
    /// Reads those of an archive that are in one of these folders, or above one.
    ///
    /// # Errors
    /// When it cannot be read, or there are too many.
    pub fn read<R: Read>(archive: &mut Archive<R>, within: &BTreeSet<Vec<u8>>) -> io::Result<Self> {
        let mut paths = Self::default();
        while let Some(entry) = archive.next()? {
            let concerns = |path: &[u8]| concerns(within, path);
            match path_kind(&entry.path) {
                PathKind::Entry if !entry.path.is_empty() && concerns(&entry.path) => {
                    paths.size += entry.path.len() + 64;
                    paths.entries.insert(entry.path, entry.is_directory);
                }
                PathKind::Opaque(folder) if concerns(folder) => {
                    paths.size += folder.len() + 64;
                    paths.opaque.insert(folder.to_vec());
                }
                PathKind::Whiteout(gone) if concerns(&gone) => {
                    paths.size += gone.len() + 64;
                    paths.whiteouts.insert(gone);
                }
                _ => {}
            }
            if paths.size > MAX_PATHS {
                return Err(broken("an opaque folder hides too many files"));
            }
        }
        Ok(paths)
    }

    /// Lays another layer over this.
    ///
    /// # Errors
    /// When there are too many paths.
    pub fn lay(&mut self, above: Self) -> io::Result<()> {
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
            return Err(broken("an opaque folder hides too many files"));
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

    /// The names directly in a folder, and whether each is a folder.
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
            // What is in a folder is passed over: `0` is the byte after `/`.
            from = match slash {
                Some(_) => [&path[..length], b"0"].concat(),
                None => [path, &b"\0"[..]].concat(),
            };
        }
        children
    }

    /// For each opaque folder of this layer, the paths of `lower` that are to be said to be gone.
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
                // One that is opaque itself has its own turn.
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

/// Whether a path is one of these folders, in one, or above one.
fn concerns(within: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
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
    fn meanings_of_paths() {
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
    fn what_folders_are_concerned_with() {
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
                concerns(&within(folders), path.as_bytes()),
                expected,
                "{folders:?} {path}"
            );
        }
    }

    /// A layer of these paths; folders end in `/`.
    fn layer(paths: &[&str]) -> Paths {
        let mut layer = Paths::default();
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
    fn what_opaque_folders_hide() {
        let base = [
            "d/", "d/a", "d/b/", "d/b/x", "d/b/y", "d/c/", "d/c/z", "e/", "e/f",
        ];
        for (below, above, expected) in [
            // nothing of it is there any more
            (
                &[&base[..]][..],
                &["d/", "d/.wh..wh..opq"][..],
                &["d/a", "d/b", "d/c"][..],
            ),
            // what comes anew, and a file where a folder was
            (
                &[&base[..]],
                &["d/.wh..wh..opq", "d/a", "d/b/", "d/b/x", "d/c"],
                &["d/b/y"],
            ),
            // a folder that is not said, and one that was not a folder
            (
                &[&base[..]],
                &["d/.wh..wh..opq", "d/b/x", "d/a/", "d/a/q"],
                &["d/b/y", "d/c"],
            ),
            // what is gone already
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
            // what the layer says itself
            (
                &[&base[..]],
                &["d/.wh..wh..opq", "d/.wh.a"],
                &["d/b", "d/c"],
            ),
            // the root, and an opaque folder in another
            (&[&base[..]], &[".wh..wh..opq", "e/"], &["d", "e/f"]),
            (
                &[&base[..]],
                &["d/.wh..wh..opq", "d/b/", "d/b/.wh..wh..opq"],
                &["d/a", "d/c", "d/b/x", "d/b/y"],
            ),
        ] {
            let mut lower = Paths::default();
            for below in below {
                lower.lay(layer(below)).expect("few");
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
