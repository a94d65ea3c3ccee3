//! Records beside tags and links: in which room they lie, which blob each leads to, and what of them a purge
//! means. They are of the v1 API, on either side.
//!
//! Bytes that a pointer of the v1 API or a derived layer leads to are claimed like linked ones. Conversions
//! claim nothing: they say how bytes are made again.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::purge::{Purge, Target, entries, relative};
use super::records::component;
use super::{PreparedLayer, Store, SynthesisedImage, V1Body};
use oci::digest::Digest;
use oci::name::{Registry, Repository, Tag};

/// A folder of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Room {
    Repositories,
    V1,
    Conversions,
}

impl Room {
    pub fn folder(self) -> &'static str {
        match self {
            Self::Repositories => "repositories",
            Self::V1 => "v1",
            Self::Conversions => "conversions",
        }
    }

    /// The blob that the record at `path` below this room leads to. What its name does not say is read of `file`.
    pub fn leads_to(self, path: &str, file: &Path) -> Option<Digest> {
        let (folder, name) = path.rsplit_once('/')?;
        match self {
            Self::Repositories
                if folder.ends_with("/_manifests") || folder.ends_with("/_blobs") =>
            {
                digest(name)
            }
            Self::Repositories if name.starts_with("_layer-") => match read(file)? {
                PreparedLayer::Derived { digest, .. } => Some(digest),
                PreparedLayer::AsItIs | PreparedLayer::Opaque => None,
            },
            Self::V1 if path.contains("/_named/") || path.contains("/_parts/") => {
                read(file).map(|body: V1Body| body.digest)
            }
            Self::Conversions if folder.ends_with("/digests") => digest(name),
            Self::Repositories | Self::V1 | Self::Conversions => None,
        }
    }
}

/// What a purge of a repository takes of the v1 API.
struct Own {
    /// What its records begin with.
    below: String,
    /// `<registry>/_parts/`
    parts: String,
    /// The images that no other repository of the registry is known to have.
    images: BTreeSet<String>,
}

impl Store {
    /// Adds to a purge what is not below a repository's tags and links, and the digests that are wanted gone or
    /// kept by that. Blocks.
    pub(super) fn plan_beside(
        &self,
        target: &Target,
        purge: &mut Purge,
        wanted: &mut HashSet<Digest>,
        kept: &mut HashSet<Digest>,
    ) {
        let own = match target {
            Target::Repository(registry, repository) => Some(self.own(registry, repository)),
            Target::Registry(_) | Target::Tag(..) | Target::Content(..) | Target::Everywhere(_) => {
                None
            }
        };
        for room in [Room::Repositories, Room::V1, Room::Conversions] {
            let root = self.root.join(room.folder());
            let mut act = |path: &str, file: &Path| {
                let digest = room.leads_to(path, file);
                if self.goes(room, target, own.as_ref(), (path, file), digest) {
                    purge.adds_beside(room, path);
                    wanted.extend(digest);
                } else if room != Room::Conversions {
                    kept.extend(digest);
                }
            };
            for (registry, _) in entries(&root) {
                match room {
                    // What is below is a repository's, and planned with it.
                    Room::Repositories => {
                        for (file, name) in entries(&registry) {
                            if (name.starts_with("_image-") || name.starts_with("_layer-"))
                                && let Some(path) = relative(&root, &file)
                            {
                                act(&path, &file);
                            }
                        }
                    }
                    Room::V1 | Room::Conversions => walk(&root, &registry, &mut act),
                }
            }
        }
    }

    fn goes(
        &self,
        room: Room,
        target: &Target,
        own: Option<&Own>,
        (path, file): (&str, &Path),
        digest: Option<Digest>,
    ) -> bool {
        let below = |registry: &Registry, rest: &str| {
            let registry = component(registry.as_str());
            path.strip_prefix(&*registry)
                .is_some_and(|path| path.starts_with(rest))
        };
        match (target, room) {
            (Target::Registry(registry), _) => below(registry, "/"),
            (Target::Repository(..), Room::V1) => own.is_some_and(|own| {
                let image = path.strip_prefix(&own.parts);
                let image = image.and_then(|rest| rest.split('/').next());
                path.starts_with(&own.below) || image.is_some_and(|id| own.images.contains(id))
            }),
            (Target::Repository(registry, repository), Room::Repositories) => {
                below(registry, "/_image-")
                    && read(file).is_some_and(|image: SynthesisedImage| {
                        image.repository == repository.as_str()
                    })
            }
            (Target::Tag(registry, repository, tag), Room::V1) => {
                let named = |rest: &str| below(registry, &format!("/{repository}/_named/{rest}"));
                match path.rsplit('/').next() {
                    Some("tags") if path.ends_with("/_named/tags") => {
                        named("tags") && self.lists(digest.as_ref(), tag)
                    }
                    Some(name) if name == tag.as_str() => named("tag/") || named("tag-json/"),
                    _ => false,
                }
            }
            (Target::Content(registry, repository, own), Room::V1) => {
                below(registry, &format!("/{repository}/_")) && digest.as_ref() == Some(own)
            }
            (Target::Everywhere(own), Room::V1 | Room::Repositories) => {
                digest.as_ref() == Some(own)
            }
            (Target::Tag(..) | Target::Content(..), Room::Repositories)
            | (
                Target::Repository(..)
                | Target::Tag(..)
                | Target::Content(..)
                | Target::Everywhere(_),
                Room::Conversions,
            ) => false,
        }
    }

    /// Whether a list of tags may name this one: it is text of either form, and a name is in quotes in both.
    fn lists(&self, list: Option<&Digest>, tag: &Tag) -> bool {
        let bytes = list.and_then(|digest| self.manifest(digest));
        let quoted = format!("\"{tag}\"");
        bytes.is_none_or(|bytes| {
            let mut windows = bytes.windows(quoted.len());
            windows.any(|window| window == quoted.as_bytes())
        })
    }

    fn own(&self, registry: &Registry, repository: &Repository) -> Own {
        let registry = component(registry.as_str());
        let below = format!("{registry}/{repository}/_");
        let root = self.root.join(Room::V1.folder());
        let (mut images, mut others) = (BTreeSet::new(), BTreeSet::new());
        walk(&root, &root.join(&registry), &mut |path, file| {
            let name = path.rsplit('/').next().unwrap_or_default();
            if super::Images::may_be_long(name) {
                let ids: BTreeSet<String> = read(file).unwrap_or_default();
                let is_own = path.starts_with(&below);
                (if is_own { &mut images } else { &mut others }).extend(ids);
            }
        });
        images.retain(|id| !others.contains(id));
        Own {
            below,
            parts: format!("{registry}/_parts/"),
            images,
        }
    }

    /// Removes the record at a path below a room, from memory as well. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be removed; that it is not there is none.
    pub(super) fn remove_now(&self, room: Room, path: &str) -> std::io::Result<()> {
        let removed = self.files(room).remove(path, || self.forget(room, path));
        self.links.walks.forget();
        removed
    }

    /// Forgets what is in memory of a record.
    pub(super) fn forget(&self, room: Room, path: &str) {
        match room {
            Room::Repositories => {
                self.links.forget(path);
                self.tags.forget(path);
                self.synthesis.forget(path);
            }
            Room::V1 => {
                self.images.forget(path);
                self.v1.forget(path);
            }
            Room::Conversions => self.conversions.forget(path),
        }
    }
}

/// Shows all files below a folder, with their paths below `root`.
fn walk(root: &Path, folder: &Path, act: &mut impl FnMut(&str, &Path)) {
    for (entry, _) in entries(folder) {
        if entry.is_dir() {
            walk(root, &entry, act);
        } else if let Some(path) = relative(root, &entry) {
            act(&path, &entry);
        }
    }
}

fn read<V: DeserializeOwned>(file: &Path) -> Option<V> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// `sha256-<hex>`
pub(super) fn digest(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

#[cfg(test)]
#[path = "beside_tests.rs"]
mod tests;
