//! Ids issued to v1 clients before: while the registry's own v1 side cannot be asked, only they tell that it
//! does not have the repository.

use super::IdScope;
use crate::V1;
use crate::records::V1ImageRecords;
use access::Permit;
use mirror::MirrorError;
use oci::manifest::AcceptClass;
use oci::v2_to_v1::{self, ClientPlatform};
use store::{TagKey, warn_degraded};

impl V1 {
    /// Whether a repository is served from v2 although the registry's own v1 side failed with `error`: that
    /// side cannot be asked, and did not have the repository when the id of a tag's current image was issued.
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
        let (name, store) = (permit.name(), self.store());
        let scope = scope.of_record(name);
        for tag in self.known_tags(permit).await {
            let key = TagKey::new(name, AcceptClass::Full, &tag);
            let pointer = store.records.open(&key).await;
            let Ok(Some(pointer)) = pointer else {
                continue;
            };
            let id = v2_to_v1::top_id(&pointer.digest, platform);
            match V1ImageRecords::of(store).image(scope.clone(), &id).await {
                Ok(Some(issued)) if issued.repository == name.repository.as_str() => return true,
                Ok(_) => {}
                Err(error) => warn_degraded("the record of an image id cannot be read", &error),
            }
        }
        false
    }
}
