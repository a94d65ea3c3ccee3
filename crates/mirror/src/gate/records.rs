//! The records of gates, one file for each tag, manifest and blob that was judged:
//! `repositories/<registry>/<repository>/_gate/{tags,manifests,blobs}/…`. They are this gateway's own, and a purge
//! leaves them: it removes what is cached, not what was seen.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use ::gate::{BlobFacts, Choice, ManifestFacts, Sighting, TagHistory, observe};
use oci::digest::Digest;
use oci::name::{RepositoryName, Tag};
use store::{
    Extension, ExtensionKeyOf, ExtensionKind, Inspected, OnPurge, Record, RecordStore, Store,
    digest_name, warn_degraded,
};

/// The records of gates, for [`store::Store::open`].
pub static GATE_RECORDS: Extension = Extension {
    kinds: &[&TAGS, &MANIFESTS, &BLOBS],
    also_purged: |_, _| Vec::new(),
};

static TAGS: ExtensionKind = kind("_gate/tags/");
static MANIFESTS: ExtensionKind = kind("_gate/manifests/");
static BLOBS: ExtensionKind = kind("_gate/blobs/");

const fn kind(prefix: &'static str) -> ExtensionKind {
    ExtensionKind {
        on_purge: OnPurge::Retained,
        ..ExtensionKind::new("repositories", prefix)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct TagRecord(TagHistory);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct ManifestRecord(ManifestFacts);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct BlobRecord(BlobFacts);

impl Record for TagRecord {}
impl Record for ManifestRecord {}
impl Record for BlobRecord {}

/// The records of one repository.
#[derive(Clone, Copy)]
pub(super) struct GateRecords<'a> {
    pub records: &'a RecordStore,
    pub name: &'a RepositoryName,
}

impl GateRecords<'_> {
    /// The history of a tag.
    ///
    /// # Errors
    /// When the disk cannot tell: an unknown history is not the same as none.
    pub async fn history(&self, tag: &Tag) -> io::Result<Option<TagHistory>> {
        let record = self.records.open(&self.tag_key(tag)).await?;
        Ok(record.map(|record| record.0.clone()))
    }

    /// Adds a sighting to the history of a tag.
    ///
    /// # Errors
    /// As [`GateRecords::history`].
    pub async fn observe(
        &self,
        tag: &Tag,
        sighting: Sighting,
        min_age: Duration,
    ) -> io::Result<(TagHistory, Choice)> {
        let (sender, receiver) = oneshot::channel();
        // Of two sightings at once, the second is compared with the first.
        let change = move |known: Option<&TagRecord>| {
            let known = known.map(|known| &known.0);
            let (next, choice) = observe(known, &sighting, min_age);
            let changed = (known != Some(&next)).then(|| TagRecord(next.clone()));
            let _ = sender.send((next, choice));
            changed
        };
        self.records.update(&self.tag_key(tag), change).await?;
        receiver.await.map_err(io::Error::other)
    }

    /// What is known of a manifest. A record that cannot be read counts as absent.
    pub async fn manifest(&self, digest: &Digest) -> ManifestFacts {
        let record = self.records.open(&self.manifest_key(digest)).await;
        let facts = known(record).map(|record| record.0.clone());
        facts.unwrap_or_default()
    }

    /// Adds what is known of a manifest.
    pub async fn add_facts(&self, digest: &Digest, facts: ManifestFacts) {
        let key = self.manifest_key(digest);
        let change = move |known: Option<&ManifestRecord>| {
            let mut all = known.map(|known| known.0.clone()).unwrap_or_default();
            all.merge(&facts);
            Some(ManifestRecord(all))
        };
        warn_unless_written(self.records.update(&key, change).await);
    }

    /// Records that an index names a manifest.
    pub async fn add_index(&self, digest: &Digest, index: Digest) {
        if self.manifest(digest).await.indexes.contains(&index) {
            return;
        }
        let key = self.manifest_key(digest);
        let change = move |known: Option<&ManifestRecord>| {
            let mut facts = known.map(|known| known.0.clone()).unwrap_or_default();
            facts.add_index(index).then_some(ManifestRecord(facts))
        };
        warn_unless_written(self.records.update(&key, change).await);
    }

    /// The manifests that name a blob. A record that cannot be read counts as absent.
    pub async fn blob(&self, digest: &Digest) -> BlobFacts {
        let record = self.records.open(&self.blob_key(digest)).await;
        let facts = known(record).map(|record| record.0.clone());
        facts.unwrap_or_default()
    }

    /// Records that a manifest names a blob.
    pub async fn add_manifest(&self, blob: &Digest, manifest: Digest) {
        if self.blob(blob).await.manifests.contains(&manifest) {
            return;
        }
        let key = self.blob_key(blob);
        let change = move |known: Option<&BlobRecord>| {
            let mut facts = known.map(|known| known.0.clone()).unwrap_or_default();
            facts.add(manifest).then_some(BlobRecord(facts))
        };
        warn_unless_written(self.records.update(&key, change).await);
    }

    /// [`GateRecords::history`], without noting a use. Blocks on the disk, as the next two do.
    ///
    /// # Errors
    /// As [`GateRecords::history`].
    pub fn inspect_history(&self, store: &Store, tag: &Tag) -> io::Result<Option<TagHistory>> {
        let found = store.inspect(&self.tag_key(tag))?;
        Ok(found.map(|found| found.value.0))
    }

    /// [`GateRecords::manifest`], without noting a use.
    pub fn inspect_manifest(&self, store: &Store, digest: &Digest) -> ManifestFacts {
        let found = known(store.inspect(&self.manifest_key(digest)));
        found.map_or_else(ManifestFacts::default, |Inspected { value, .. }| value.0)
    }

    /// [`GateRecords::blob`], without noting a use.
    pub fn inspect_blob(&self, store: &Store, digest: &Digest) -> BlobFacts {
        let found = known(store.inspect(&self.blob_key(digest)));
        found.map_or_else(BlobFacts::default, |Inspected { value, .. }| value.0)
    }

    fn tag_key(&self, tag: &Tag) -> ExtensionKeyOf<TagRecord> {
        TAGS.key(self.name, tag.as_str()).of()
    }

    fn manifest_key(&self, digest: &Digest) -> ExtensionKeyOf<ManifestRecord> {
        MANIFESTS.key(self.name, &digest_name(digest)).of()
    }

    fn blob_key(&self, digest: &Digest) -> ExtensionKeyOf<BlobRecord> {
        BLOBS.key(self.name, &digest_name(digest)).of()
    }
}

fn known<V>(record: io::Result<Option<V>>) -> Option<V> {
    record.unwrap_or_else(|error| {
        warn_degraded("a record of the gate cannot be read", &error);
        None
    })
}

fn warn_unless_written(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        warn_degraded("a record of the gate cannot be changed", &error);
    }
}
