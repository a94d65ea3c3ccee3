//! Selects the records that a purge removes.

use std::collections::{HashMap, HashSet};

use oci::digest::Digest;
use oci::name::RepositoryName;
use oci::references::references;

use super::survey::RecordSurvey;
use super::target::PurgeTarget;
use crate::layout::component;
use crate::record::{
    BlobKey, ManifestKey, OnPurge, Pointer, RecordKey, Reference, StoredValue, TagKey,
};
use crate::records::Visited;

/// All records of the store.
#[derive(Default)]
pub(super) struct Inventory {
    pub records: Vec<Listed>,
    /// The paths of files of unknown kinds.
    unknown_files: Vec<String>,
}

/// A record and the blob that it refers to.
pub(super) struct Listed {
    pub path: String,
    pub key: RecordKey,
    pub reference: Option<Reference>,
    /// The target of a tag.
    points_at: Option<Digest>,
}

/// The records of one repository that lead to each other.
#[derive(Default)]
struct Graph<'a> {
    tags: Vec<(&'a TagKey, Option<Digest>)>,
    /// With the digests that their bytes are stored under.
    manifests: Vec<(&'a ManifestKey, Digest)>,
    blobs: Vec<&'a BlobKey>,
}

impl Inventory {
    /// Reads the records of every repository. Blocks on the disk.
    pub fn read(survey: &RecordSurvey<'_>) -> Self {
        let mut inventory = Self::default();
        survey.records.walk(&mut |visited| {
            let Visited::Record { path, entry, .. } = visited else {
                return;
            };
            let Some(key) = survey.records.parse(path) else {
                inventory.unknown_files.push(path.to_owned());
                return;
            };
            let file = entry.path();
            let read = || std::fs::read(&file).ok();
            let value = StoredValue::new(&read);
            let pointer: Option<Pointer> = match key {
                RecordKey::Tag(_) => value.parse(),
                _ => None,
            };
            inventory.records.push(Listed {
                path: path.to_owned(),
                reference: key.reference(value),
                points_at: pointer.map(|pointer| pointer.digest),
                key,
            });
        });
        inventory
    }

    /// The keys of the records to remove for a target, without those that extensions add.
    pub fn selected(&self, target: &PurgeTarget, survey: &RecordSurvey<'_>) -> HashSet<RecordKey> {
        let claims = |listed: &Listed, digest: &Digest| {
            listed.reference.and_then(Reference::claimed).as_ref() == Some(digest)
        };
        let is_extension = |key: &RecordKey| matches!(key, RecordKey::Extension(_));
        match target {
            PurgeTarget::Registry(registry) => {
                self.purged(|listed| listed.key.registry() == registry)
            }
            PurgeTarget::Repository(name) => {
                self.purged(|listed| listed.key.repository() == Some(name))
            }
            PurgeTarget::Tag(name, tag) => {
                let graph = self.graph(name);
                graph.exclusive_to(survey, |name| name == tag.as_str(), |_| false)
            }
            PurgeTarget::Content(name, digest) => {
                let graph = self.graph(name);
                let mut removed = graph.exclusive_to(survey, |_| false, |other| other == digest);
                removed.extend(self.keys(|listed| {
                    let is_own = listed.key.repository() == Some(name);
                    is_own && is_extension(&listed.key) && claims(listed, digest)
                }));
                removed
            }
            PurgeTarget::Everywhere(digest) => self.keys(|listed| {
                let is_named = match &listed.key {
                    RecordKey::Manifest(key) => key.digest == *digest,
                    _ => listed.points_at.as_ref() == Some(digest),
                };
                is_named || claims(listed, digest)
            }),
        }
    }

    /// The files of unknown kinds in a purged registry or repository.
    pub fn unknown_files(&self, target: &PurgeTarget) -> impl Iterator<Item = &String> {
        let below = match target {
            PurgeTarget::Registry(registry) => Some(format!("{}/", component(registry.as_str()))),
            PurgeTarget::Repository(RepositoryName {
                registry,
                repository,
            }) => Some(format!("{}/{repository}/_", component(registry.as_str()))),
            PurgeTarget::Tag(..) | PurgeTarget::Content(..) | PurgeTarget::Everywhere(_) => None,
        };
        self.unknown_files.iter().filter(move |path| {
            let path = path.split_once('/').map(|(_, path)| path);
            let below = below.as_deref();
            below.is_some_and(|below| path.is_some_and(|path| path.starts_with(below)))
        })
    }

    /// The records of a purged registry or repository.
    fn purged(&self, is_own: impl Fn(&Listed) -> bool) -> HashSet<RecordKey> {
        self.keys(|listed| listed.key.on_purge() == OnPurge::Removed && is_own(listed))
    }

    fn keys(&self, is_removed: impl Fn(&Listed) -> bool) -> HashSet<RecordKey> {
        let removed = self.records.iter().filter(|listed| is_removed(listed));
        removed.map(|listed| listed.key.clone()).collect()
    }

    fn graph(&self, name: &RepositoryName) -> Graph<'_> {
        let mut graph = Graph::default();
        for listed in &self.records {
            let key = &listed.key;
            if key.repository() != Some(name) {
                continue;
            }
            match key {
                RecordKey::Tag(key) => graph.tags.push((key, listed.points_at)),
                RecordKey::Manifest(key) => {
                    let stored = listed.reference.map_or(key.digest, Reference::digest);
                    graph.manifests.push((key, stored));
                }
                RecordKey::Blob(key) => graph.blobs.push(key),
                RecordKey::Public(_) | RecordKey::Extension(_) => {}
            }
        }
        graph
    }
}

impl Graph<'_> {
    /// The records of these tags or digests, and those that only they lead to.
    fn exclusive_to(
        &self,
        survey: &RecordSurvey<'_>,
        tag: impl Fn(&str) -> bool,
        content: impl Fn(&Digest) -> bool,
    ) -> HashSet<RecordKey> {
        let mut removed = HashSet::new();
        let (mut roots, mut others) = (Vec::new(), Vec::new());
        for (key, digest) in &self.tags {
            if tag(key.tag.as_str()) || digest.as_ref().is_some_and(&content) {
                removed.insert((*key).clone().into());
                roots.extend(digest);
            } else {
                others.extend(digest);
            }
        }
        let manifests = self.manifests.iter().map(|(key, _)| key.digest);
        let blobs = self.blobs.iter().map(|key| key.digest);
        roots.extend(manifests.clone().chain(blobs).filter(&content));
        let reached = self.reach(survey, roots);
        // A manifest that no purged tag leads to was pulled by digest.
        others.extend(manifests.filter(|digest| !reached.contains(digest)));
        let mut retained = self.reach(survey, others);
        retained.retain(|digest| !content(digest));
        let is_removed = |digest: &Digest| reached.contains(digest) && !retained.contains(digest);
        for (key, _) in &self.manifests {
            if is_removed(&key.digest) {
                removed.insert((*key).clone().into());
            }
        }
        for key in &self.blobs {
            if is_removed(&key.digest) {
                removed.insert((*key).clone().into());
            }
        }
        removed
    }

    /// These digests and all that they lead to.
    fn reach(&self, survey: &RecordSurvey<'_>, mut from: Vec<Digest>) -> HashSet<Digest> {
        let links = self.manifests.iter();
        let links: HashMap<_, _> = links.map(|(key, stored)| (key.digest, stored)).collect();
        let mut reached = HashSet::new();
        while let Some(digest) = from.pop() {
            if !reached.insert(digest) {
                continue;
            }
            if let Some(stored) = links.get(&digest) {
                from.extend(references(&survey.blob(stored).unwrap_or_default()));
            }
        }
        reached
    }
}
