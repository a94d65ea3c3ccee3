//! Imported images for v2 clients, converted without a request to the registry.

use super::V1Import;
use super::image::part;
use crate::v1_to_v2::V1Repository;
use ::import::Fault;
use mirror::MirrorError;
use oci::manifest::{AcceptClass, DOCKER_MANIFEST};
use oci::name::{RepositoryName, Tag};
use oci::v1::{ImageId, Part};
use store::{Pointer, TagKey};

impl V1Import<'_> {
    /// Converts the image of a tag if v2 clients are served it; returns whether the tag is new to them.
    pub(super) async fn convert(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        top: &ImageId,
        chain: &[ImageId],
    ) -> Result<bool, Fault> {
        let Some(source) = self.registries.v1_repository_of(name) else {
            return Ok(false);
        };
        // Otherwise the registry would be asked.
        for id in chain {
            self.require(id).await?;
        }
        let key = TagKey::new(name, AcceptClass::Full, tag);
        let records = &self.registries.store.records;
        // The v2 side takes precedence, and so does what was learnt from it.
        let known = records.open(&key).await.map_err(Fault::not_stored)?;
        let converted = self.converted(source, top).await?;
        let linked = self.registries.link_converted(name, top).await;
        linked.map_err(|error| failed(&error))?;
        if known.is_some() {
            return Ok(false);
        }
        let pointer = Pointer {
            digest: converted.manifest,
            media_type: DOCKER_MANIFEST.to_owned(),
            size: Some(converted.size),
            // The v2 side is asked before it is served, as long as that answers.
            checked_at: self.now.saturating_sub(self.origin.tag_ttl.as_secs() + 1),
        };
        records.put(&key, pointer).await;
        Ok(true)
    }

    async fn converted(
        &self,
        source: V1Repository,
        top: &ImageId,
    ) -> Result<crate::records::ConvertedManifest, Fault> {
        let converting = self.registries.clone().convert(source, top.clone());
        converting.await.map_err(|error| failed(&error))
    }

    /// Checks that an image is stored, without its ancestors.
    async fn require(&self, id: &ImageId) -> Result<(), Fault> {
        let store = &self.registries.store;
        for which in [Part::Json, Part::Layer] {
            let pointer = self
                .registries
                .body_pointer(self.origin, &part(id, which))
                .await;
            let stored = match pointer {
                Some(pointer) => {
                    let stored = store.blobs.inspect(&pointer.digest, Some(pointer.size));
                    stored.map_err(Fault::not_stored)?
                }
                None => None,
            };
            if stored.is_none() {
                let why = format!(
                    "it cannot be converted for v2 clients: its image {id} was not imported"
                );
                return Err(Fault::skipped(why));
            }
        }
        Ok(())
    }
}

fn failed(error: &MirrorError) -> Fault {
    let why = format!(
        "it cannot be converted for v2 clients: {}",
        telemetry::chain(error)
    );
    match error {
        MirrorError::NoRoom { .. } | MirrorError::Disk(_) => Fault::not_stored(why),
        _ => Fault::damaged(why),
    }
}
