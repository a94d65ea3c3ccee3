//! The dry run of a tag's move: what is fetched before the tag follows.

use super::{DryRun, RequestReason};
use crate::MirrorError;
use crate::tag_move::{Counterpart, counterparts};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Reference, Tag};
use store::{ManifestKey, Pointer};
use upstream::Read;

impl DryRun {
    /// Plans what is fetched before a tag follows to its target, as `MirrorState::fetch_moved`.
    pub(super) fn plan_move(
        &mut self,
        tag: &Tag,
        replaced: Option<&Pointer>,
        newer: Option<&Pointer>,
    ) -> Result<(), MirrorError> {
        let (Some(replaced), Some(newer)) = (replaced, newer) else {
            return Ok(());
        };
        if replaced.digest == newer.digest {
            return Ok(());
        }
        self.plan_newer(&newer.digest, newer.size)?;
        if !tag.is_companion() && self.lacks_signature(&newer.digest) {
            if !self.origin.allows_replacing(self.instant) {
                return Err(MirrorError::Reserved);
            }
            self.plan_signature(&newer.digest)?;
        }
        let read = |digest| self.state.inspect_manifest_bytes(digest);
        let read = |digest| read(digest).unwrap_or_default();
        let (current, index) = (read(&replaced.digest), read(&newer.digest));
        for Counterpart { cached, newer } in counterparts(&current, &index) {
            if cached.is_none_or(|cached| self.is_manifest_stored(&cached)) {
                self.plan_newer(&newer, None)?;
            }
        }
        Ok(())
    }

    /// Plans the GET of a manifest that replaces a cached one, if it may be sent.
    fn plan_newer(&mut self, digest: &Digest, size: Option<u64>) -> Result<(), MirrorError> {
        if self.state.inspect_manifest_bytes(digest).is_some() {
            return Ok(());
        }
        if !self.origin.allows_replacing(self.instant) {
            return Err(MirrorError::Reserved);
        }
        let reference = Reference::Digest(*digest);
        let read = Read::Manifest(&reference, AcceptClass::Full);
        self.send(read, RequestReason::NotStored, size)?;
        self.linked.insert(*digest);
        self.fetched.insert(*digest);
        Ok(())
    }

    /// As `MirrorState::is_manifest_stored`.
    pub(super) fn is_manifest_stored(&self, digest: &Digest) -> bool {
        let link = self.inspect(&ManifestKey::new(self.name(), digest));
        link.is_some_and(|link| {
            let stored = link.value.stored(digest);
            self.state.inspect_manifest_bytes(&stored).is_some()
        })
    }
}
