//! What is known of the content of a repository, for verdicts. Facts stay true whatever the configuration says.

use serde::{Deserialize, Serialize};

use super::signature::Fingerprint;
use oci::content::ContentKind;
use oci::digest::Digest;
use oci::name::Tag;

/// The most tags, and indexes, of one manifest, and the most manifests of one blob: the newest. A record of facts takes
/// a block on disk.
const MAX_TAGS: usize = 8;
const MAX_INDEXES: usize = 12;
const MAX_MANIFESTS: usize = 32;

/// What is known of a manifest of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManifestFacts {
    /// Tags that led to it while they were allowed and old enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Indexes that were served and name it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Digest>,
    /// The manifest that it belongs to: it names that as its subject, or a tag such as `sha256-<hex>.sig` does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// `None`: its bytes were not read yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentKind>,
    /// The keys that signed it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<Fingerprint>,
    /// When a tag was first seen to move to it, in seconds since 1970, while it is not admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<u64>,
    /// Whether what it names has been recorded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expanded: bool,
}

/// What is known of a blob of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlobFacts {
    /// Manifests that were served and name it.
    pub manifests: Vec<Digest>,
}

/// What the rules say of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is served.
    Served,
    /// A rule denies it.
    Denied(super::Rule),
    /// Its bytes decide.
    Examine,
    /// A signature decides.
    Verify,
}

impl ManifestFacts {
    /// Notes a tag that leads to it.
    pub fn add_tag(&mut self, tag: &Tag) {
        add(&mut self.tags, tag, MAX_TAGS);
    }

    /// Notes an index that names it; returns whether that is new.
    pub fn add_index(&mut self, index: Digest) -> bool {
        add(&mut self.indexes, &index, MAX_INDEXES)
    }

    /// Whether it is known to be nothing that a runtime takes for an image.
    pub fn is_harmless(&self) -> bool {
        let kind = self.content.as_ref();
        matches!(kind, Some(ContentKind::Artifact | ContentKind::Index))
    }

    /// Adds what `other` knows besides.
    pub fn merge(&mut self, other: &Self) {
        for tag in &other.tags {
            self.add_tag(tag);
        }
        for index in &other.indexes {
            self.add_index(*index);
        }
        for key in &other.signed_by {
            add(&mut self.signed_by, key, MAX_INDEXES);
        }
        self.subject = other.subject.or(self.subject);
        self.content = other.content.clone().or(self.content.take());
        self.moved_at = self.moved_at.or(other.moved_at);
        self.expanded |= other.expanded;
    }
}

impl BlobFacts {
    /// Notes a manifest that names it; returns whether that is new.
    pub fn add(&mut self, manifest: Digest) -> bool {
        add(&mut self.manifests, &manifest, MAX_MANIFESTS)
    }
}

/// Adds an item, in place of the oldest if there are too many; returns whether it is new.
fn add<T: Clone + PartialEq>(items: &mut Vec<T>, item: &T, most: usize) -> bool {
    if items.contains(item) {
        return false;
    }
    if items.len() == most {
        items.remove(0);
    }
    items.push(item.clone());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::Algorithm;

    #[test]
    fn facts_fit_in_a_block() {
        let digest = |n: usize| Digest::of(Algorithm::Sha512, &n.to_le_bytes());
        let mut facts = ManifestFacts {
            subject: Some(digest(0)),
            content: "o/a"
                .replace('o', &"o".repeat(64))
                .replace('a', &"a".repeat(64))
                .parse()
                .ok()
                .map(ContentKind::Image),
            signed_by: (0..4)
                .map(|n| Digest::of(Algorithm::Sha256, &[n]))
                .collect(),
            moved_at: Some(u64::MAX),
            expanded: true,
            ..ManifestFacts::default()
        };
        let mut blob = BlobFacts::default();
        for n in 0..100 {
            facts.add_tag(&format!("{n:0>128}").parse().expect("a tag"));
            facts.add_index(digest(n));
            blob.add(Digest::of(Algorithm::Sha256, &n.to_le_bytes()));
        }
        let length = |json: serde_json::Result<Vec<u8>>| json.expect("JSON").len();
        assert!(length(serde_json::to_vec(&facts)) < 4096);
        assert!(length(serde_json::to_vec(&blob)) < 4096);
        // The newest stay.
        assert!(facts.indexes.contains(&digest(99)) && !facts.indexes.contains(&digest(0)));
        assert!(!facts.add_index(digest(99)));
        let read: ManifestFacts =
            serde_json::from_slice(&serde_json::to_vec(&facts).expect("JSON")).expect("facts");
        assert_eq!(read, facts);
    }

    #[test]
    fn facts_of_two_requests_are_merged() {
        let digest = |n: u8| Digest::of(Algorithm::Sha256, &[n]);
        let mut one = ManifestFacts {
            moved_at: Some(1),
            ..ManifestFacts::default()
        };
        one.add_tag(&"a".parse().expect("a tag"));
        let mut other = ManifestFacts {
            content: Some(ContentKind::Index),
            moved_at: Some(2),
            signed_by: vec![digest(1)],
            ..ManifestFacts::default()
        };
        other.add_tag(&"b".parse().expect("a tag"));
        one.merge(&other);
        assert_eq!((one.tags.len(), one.moved_at), (2, Some(1)));
        assert_eq!(one.content, Some(ContentKind::Index));
        assert_eq!(one.signed_by, [digest(1)]);
    }
}
