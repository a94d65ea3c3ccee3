//! The dry run of a whole pull: a manifest, the manifests of the wanted platforms, and their blobs.

use std::collections::VecDeque;

use super::{DryManifest, DryRun, GateOutcome};
use crate::MirrorError;
use crate::manifest::ReadMethod;
use oci::digest::Digest;
use oci::manifest::{AcceptClass, is_index};
use oci::name::Reference;
use oci::platform::{Platforms, choose};
use oci::references::parts;

/// How many manifests and blobs of one pull are looked up at most.
const MAX_CONTENTS: usize = 2000;

/// What a pull would do.
#[derive(Clone, Debug)]
pub struct PlannedPull {
    /// The answer to its first request.
    pub manifest: DryManifest,
    /// Whether manifests or blobs are left out that only the registry can name.
    pub is_incomplete: bool,
    /// The reads after the first that would fail now.
    pub failures: Vec<(Digest, MirrorError)>,
}

impl DryRun {
    /// A pull of the platforms that are wanted.
    ///
    /// # Errors
    /// The error that its first request would get.
    pub fn pull(
        &mut self,
        reference: &Reference,
        class: AcceptClass,
        wanted: &Platforms,
    ) -> Result<PlannedPull, MirrorError> {
        let manifest = match reference {
            Reference::Tag(tag) => self.manifest_by_tag(tag, class, ReadMethod::Get)?,
            Reference::Digest(digest) => self.manifest(digest)?,
        };
        let mut pull = PlannedPull {
            manifest: manifest.clone(),
            // The gate reads on until it can tell.
            is_incomplete: matches!(manifest.gate, Some(GateOutcome::Undecided(_))),
            failures: Vec::new(),
        };
        let mut queue = VecDeque::from([manifest]);
        let mut seen: Vec<Digest> = Vec::new();
        while let Some(next) = queue.pop_front() {
            let Some(bytes) = next.bytes else {
                pull.is_incomplete = true;
                continue;
            };
            if next.media_type.as_deref().is_some_and(is_index) {
                for child in choose(&bytes, wanted).unwrap_or_default() {
                    if !note(&mut seen, child) {
                        continue;
                    }
                    match self.manifest(&child) {
                        Ok(manifest) => queue.push_back(manifest),
                        Err(error) => pull.failures.push((child, error)),
                    }
                }
                continue;
            }
            for part in parts(&bytes) {
                if !note(&mut seen, part.digest) {
                    continue;
                }
                if let Err(error) = self.blob(&part.digest, part.size) {
                    pull.failures.push((part.digest, error));
                }
            }
        }
        pull.is_incomplete |= seen.len() >= MAX_CONTENTS;
        Ok(pull)
    }
}

/// Whether content is to be looked up: once, and not too much of it.
fn note(seen: &mut Vec<Digest>, digest: Digest) -> bool {
    let is_new = seen.len() < MAX_CONTENTS && !seen.contains(&digest);
    if is_new {
        seen.push(digest);
    }
    is_new
}
