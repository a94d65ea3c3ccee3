//! What clients of v1 were given of a repository before: while the registry's own v1 side cannot be asked, that is
//! all there is to tell that it does not have the name.

use super::IdScope;
use crate::V1;
use crate::records::V1ImageRecords;
use access::Permit;
use mirror::MirrorError;
use oci::manifest::AcceptClass;
use oci::v2_to_v1::{self, ClientPlatform};
use store::warn_degraded;

impl V1 {
    /// Whether a repository is shown to clients of v1 although its own v1 side failed so: where that cannot be
    /// asked, and did not know the name when a tag's present image was given out. `everybody` is whether
    /// everybody may read the whole registry.
    pub async fn issued_before(
        &self,
        error: &MirrorError,
        permit: &Permit,
        scope: IdScope,
        platform: &ClientPlatform,
    ) -> bool {
        if error.stale_reason().is_none() {
            return false;
        }
        let (registry, repository) = (permit.registry(), permit.repository());
        let whose = scope.repository(repository);
        let store = self.store();
        for tag in self.known_tags(permit).await {
            let pointer = store
                .records
                .open(&store::TagKey::new(
                    registry,
                    repository,
                    AcceptClass::Full,
                    &tag,
                ))
                .await;
            let Ok(Some(pointer)) = pointer else {
                continue;
            };
            let id = v2_to_v1::top_id(&pointer.digest, platform);
            match V1ImageRecords::of(store).image(registry, whose, &id).await {
                Ok(Some(given)) if given.repository == repository.as_str() => return true,
                Ok(_) => {}
                Err(error) => warn_degraded("what an image's id stands for cannot be read", &error),
            }
        }
        false
    }
}
