//! Pointers of the v1 API, which names nothing by its content: from a request target to the digest of the body.
//! They outlive the bytes, which are evicted and fetched again like any blob.
//!
//! `v1/<registry>/_parts/<id>/<part>` for images, `v1/<registry>/<repository>/_named/<what>` for the lists of a
//! repository, whose components never begin with `_`.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use oci::digest::Digest;
use oci::name::{Registry, RepositoryName};
use oci::v1::{Endpoint, Resource};
use store::{
    ExtensionKeyOf, ExtensionKind, Question, Reach, Record, RecordStore, Reference, Store,
};

pub(super) static PARTS: ExtensionKind = ExtensionKind {
    reference: |_, value| value.parse().map(claim),
    ..ExtensionKind::new("v1", "_parts/")
};

pub(super) static NAMED: ExtensionKind = ExtensionKind {
    reference: |_, value| value.parse().map(claim),
    tag: |key| key.name().strip_prefix("tag/"),
    ..ExtensionKind::new("v1", "_named/")
};

#[expect(clippy::needless_pass_by_value, reason = "what was parsed is owned")]
fn claim(body: BodyPointer) -> Reference {
    Reference::Claim(body.digest)
}

/// The pointer to a body, with what its response headers said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyPointer {
    /// The sha256 of the body, computed here.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// When the upstream last confirmed it, in seconds since 1970.
    pub checked_at: u64,
    /// `X-Docker-Size` of image JSON: the length of the layer in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub layer_size: Option<u64>,
    /// `X-Docker-Checksum-Payload` of image JSON, unchanged.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checksum: Option<String>,
}

impl Record for BodyPointer {
    fn checked_at(&self) -> Option<u64> {
        Some(self.checked_at)
    }

    fn has_same_content(&self, other: &Self) -> bool {
        let checked_at = self.checked_at;
        *self
            == Self {
                checked_at,
                ..other.clone()
            }
    }
}

/// The pointers of all registries.
#[derive(Debug)]
pub struct BodyRecords {
    records: RecordStore,
}

impl BodyRecords {
    pub fn of(store: &Store) -> Self {
        Self {
            records: store.records.clone(),
        }
    }

    /// # Errors
    /// [`io::Error`] if the disk cannot be read, which is not the same as absent.
    pub async fn open(
        &self,
        registry: &Registry,
        endpoint: &Endpoint,
    ) -> io::Result<Option<Arc<BodyPointer>>> {
        self.records.open(&key(registry, endpoint)).await
    }

    /// The pointer to a body, without noting a use. Blocks on the disk.
    ///
    /// # Errors
    /// As [`BodyRecords::open`].
    pub fn inspect(
        store: &Store,
        registry: &Registry,
        endpoint: &Endpoint,
    ) -> io::Result<Option<BodyPointer>> {
        let found = store.inspect(&key(registry, endpoint))?;
        Ok(found.map(|found| found.value))
    }

    /// Whether the pointer to a body is on disk. Blocks on the disk.
    pub fn is_on_disk(&self, registry: &Registry, endpoint: &Endpoint) -> bool {
        self.records.is_on_disk(&key(registry, endpoint))
    }

    /// Starts a question to the upstream, whose answer will be stored.
    pub fn ask(&self, registry: &Registry, endpoint: &Endpoint) -> Question<BodyPointer> {
        self.records.ask(&key(registry, endpoint))
    }

    /// Stores the upstream's answer to a question.
    pub async fn store(
        &self,
        question: &Question<BodyPointer>,
        body: BodyPointer,
    ) -> Arc<BodyPointer> {
        let outcome = self.records.answer(question, body, Reach::Local).await;
        outcome.into_record()
    }

    /// Records that the upstream no longer has the body.
    pub async fn store_absent(&self, question: &Question<BodyPointer>) {
        self.records.answer_absent(question).await;
    }
}

fn key(registry: &Registry, endpoint: &Endpoint) -> ExtensionKeyOf<BodyPointer> {
    let (repository, resource) = match endpoint {
        Endpoint::Image { id, part } => {
            let name = format!("{id}/{}", part.as_str());
            return PARTS.key(registry, &name).of();
        }
        Endpoint::Named {
            repository,
            resource,
        } => (repository, resource),
    };
    let file = match resource {
        Resource::Repository => "repository".to_owned(),
        Resource::Images => "images".to_owned(),
        Resource::Auth => "auth".to_owned(),
        Resource::Json => "json".to_owned(),
        Resource::Properties => "properties".to_owned(),
        Resource::Tags => "tags".to_owned(),
        Resource::Tag(tag) => format!("tag/{tag}"),
        Resource::TagJson(tag) => format!("tag-json/{tag}"),
    };
    let name = RepositoryName::new(registry, repository);
    NAMED.key(&name, &file).of()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::v1::Part;
    use store::RecordKey;

    #[test]
    fn paths_cannot_be_mistaken_for_one_another() {
        let named = |repository: &str, resource| Endpoint::Named {
            repository: repository.parse().expect("a name"),
            resource,
        };
        let tag = |text: &str| text.parse().expect("a tag");
        let id = "0".repeat(64).parse().expect("an id");
        for (endpoint, expected) in [
            (
                Endpoint::Image {
                    id,
                    part: Part::Json,
                },
                format!("v1/hosted%3A5000/_parts/{}/json", "0".repeat(64)),
            ),
            (
                named("team/app", Resource::Tags),
                "v1/hosted%3A5000/team/app/_named/tags".into(),
            ),
            (
                named("team", Resource::Tag(tag("tags"))),
                "v1/hosted%3A5000/team/_named/tag/tags".into(),
            ),
            (
                named("team", Resource::TagJson(tag("1"))),
                "v1/hosted%3A5000/team/_named/tag-json/1".into(),
            ),
        ] {
            let key: RecordKey = key(&Registry::new("hosted:5000"), &endpoint).into();
            assert_eq!(key.path(), expected);
        }
    }
}
