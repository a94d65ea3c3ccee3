//! Moves of tags: what a tag has moved to is fetched before the tag follows, so that an upstream which limits pulls takes no
//! image away from clients.
//!
//! Of an index, the images for the platforms that were pulled before are part of it, and so are the signatures that a gate
//! asks for. Until all are there, the tag is answered with what is cached, as stale.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::gate::Cleared;
use super::manifest::ReadMethod;
use super::tag_resolve::Resolution;
use super::{Mirror, MirrorError, MirrorState};
use oci::digest::Digest;
use oci::manifest::default_image;
use oci::name::RepositoryName;
use oci::platform::images;
use store::{ManifestKey, Pointer};

/// The most images of an index that are fetched before a tag follows.
const MOST_IMAGES: usize = 16;

/// An image of an index that a tag has moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counterpart {
    /// The image for the same platform of the current index: if it was pulled, the newer one will be. `None`: the tag was
    /// one image, for a platform that is not known here.
    pub cached: Option<Digest>,
    pub newer: Digest,
}

/// The images of an index that may have been pulled in their earlier state, given what the tag points at now.
pub(super) fn counterparts(current: &[u8], index: &[u8]) -> Vec<Counterpart> {
    let (cached, newer) = (images(current), images(index));
    if cached.is_empty() {
        let cached = None;
        let default = default_image(index).map(|newer| Counterpart { cached, newer });
        return default.into_iter().collect();
    }
    let mut found: Vec<Counterpart> = Vec::new();
    for (platform, cached) in cached {
        let same = newer.iter().find(|(other, _)| *other == platform);
        let Some((_, newer)) = same else { continue };
        if found.len() < MOST_IMAGES && found.iter().all(|one| one.newer != *newer) {
            let (cached, newer) = (Some(cached), *newer);
            found.push(Counterpart { cached, newer });
        }
    }
    found
}

impl MirrorState {
    /// Whether a repository's manifest can be served without asking its upstream.
    pub(super) async fn is_manifest_stored(&self, name: &RepositoryName, digest: &Digest) -> bool {
        let key = ManifestKey::new(name, digest);
        match self.store.records.open(&key).await {
            Ok(Some(link)) => self.has_manifest_bytes(&link.stored(digest)).await,
            _ => false,
        }
    }

    /// Fetches what a tag has moved to, unless nothing that is cached is replaced.
    ///
    /// # Errors
    /// [`MirrorError::Reserved`] if no pull may be spent on it; the upstream's refusal, or why it could not be asked.
    pub(super) async fn fetch_moved(
        self: &Arc<Self>,
        resolution: &Resolution,
        moved_to: &Pointer,
    ) -> Result<(), MirrorError> {
        let Some(current) = resolution.replaced_by(&moved_to.digest) else {
            return Ok(());
        };
        let digest = &moved_to.digest;
        let bytes = self.fetch_newer(resolution, digest).await?;
        self.fetch_parts(resolution, current, digest, &bytes).await
    }

    /// Fetches what belongs to a manifest that a tag has moved to: the signatures that the gate asks for, and the images of
    /// an index for the platforms whose images of the tag's current index are stored. What the upstream does not have is
    /// left out: clients get its refusal, or the gate's.
    ///
    /// # Errors
    /// As [`MirrorState::fetch_moved`], where a stale answer is served instead.
    pub(super) async fn fetch_parts(
        self: &Arc<Self>,
        resolution: &Resolution,
        current: &Pointer,
        digest: &Digest,
        bytes: &Bytes,
    ) -> Result<(), MirrorError> {
        self.fetch_signature(resolution, digest).await?;
        for image in self.same_images(resolution, current, bytes).await {
            let fetched = self.fetch_newer(resolution, &image).await;
            unless_stale(fetched.map(drop))?;
        }
        Ok(())
    }

    /// Has the gate look for the signature of a manifest, if it needs one to serve that. Signatures themselves need none.
    async fn fetch_signature(
        self: &Arc<Self>,
        resolution: &Resolution,
        digest: &Digest,
    ) -> Result<(), MirrorError> {
        let Resolution {
            origin,
            permit,
            key,
            ..
        } = resolution;
        let mirror = Mirror {
            state: self.clone(),
        };
        if key.tag.is_companion() || !mirror.lacks_signature(origin, permit, digest).await {
            return Ok(());
        }
        if !origin.allows_replacing(Instant::now()) {
            return Err(MirrorError::Reserved);
        }
        unless_stale(mirror.find_signature(origin, permit, digest).await)
    }

    async fn same_images(
        &self,
        resolution: &Resolution,
        current: &Pointer,
        index: &Bytes,
    ) -> Vec<Digest> {
        let cached = self.local_bytes(&current.digest).await.unwrap_or_default();
        let mut same = Vec::new();
        for Counterpart { cached, newer } in counterparts(&cached, index) {
            let is_pulled = match cached {
                Some(cached) => self.is_manifest_stored(&resolution.key.name, &cached).await,
                None => true,
            };
            if is_pulled {
                same.push(newer);
            }
        }
        same
    }

    /// A manifest that replaces a cached one, from the store or by a pull that may be spent on it.
    async fn fetch_newer(
        self: &Arc<Self>,
        resolution: &Resolution,
        digest: &Digest,
    ) -> Result<Bytes, MirrorError> {
        let Resolution { origin, permit, .. } = resolution;
        let costs = !self.has_manifest_bytes(digest).await;
        if costs && !origin.allows_replacing(Instant::now()) {
            return Err(MirrorError::Reserved);
        }
        let mirror = Mirror {
            state: self.clone(),
        };
        let cleared = Cleared::ahead(digest);
        let fetched = mirror.manifest_by_digest(origin, permit, cleared, ReadMethod::Get);
        Ok(Box::pin(fetched).await?.bytes.unwrap_or_default())
    }
}

/// The error of a fetch, if a stale answer is to be served instead.
fn unless_stale(fetched: Result<(), MirrorError>) -> Result<(), MirrorError> {
    match fetched {
        Err(error) if error.stale_reason().is_some() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::Algorithm;

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    /// An index of images, each as `<name> <os>/<architecture>`.
    fn index(images: &[&str]) -> Vec<u8> {
        let images = images.iter().map(|image| {
            let (name, platform) = image.split_once(' ').expect("a platform");
            let (os, architecture) = platform.split_once('/').expect("an architecture");
            let digest = digest(name);
            format!(r#"{{"digest":"{digest}","platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#)
        });
        let images: Vec<String> = images.collect();
        format!(r#"{{"manifests":[{}]}}"#, images.join(",")).into_bytes()
    }

    #[test]
    fn images_are_those_of_the_same_platforms() {
        const IMAGE: &[&str] = &[];
        for (current, newer, expected) in [
            (
                &["a linux/amd64", "b linux/arm64"][..],
                &["c linux/arm64", "d linux/amd64", "e linux/s390x"][..],
                &[("a", "d"), ("b", "c")][..],
            ),
            (&["a linux/amd64"], &["a linux/amd64"], &[("a", "a")]),
            (&["a linux/amd64"], &["b windows/amd64"], &[]),
            // Attestations have no platform.
            (
                &["a linux/amd64", "x unknown/unknown"],
                &["b linux/amd64", "y unknown/unknown"],
                &[("a", "b")],
            ),
            // The first of several, once.
            (
                &["a linux/amd64", "b linux/amd64"],
                &["c linux/amd64", "d linux/amd64"],
                &[("a", "c")],
            ),
            (IMAGE, &["a linux/arm64", "b linux/amd64"], &[("", "b")]),
            (IMAGE, &["a linux/arm64"], &[]),
            (&["a linux/amd64"], IMAGE, &[]),
        ] {
            let found = counterparts(&index(current), &index(newer));
            let expected: Vec<Counterpart> = expected
                .iter()
                .map(|(cached, newer)| Counterpart {
                    cached: (!cached.is_empty()).then(|| digest(cached)),
                    newer: digest(newer),
                })
                .collect();
            assert_eq!(found, expected, "{current:?} {newer:?}");
        }
        let many: Vec<String> = (0..40).map(|n| format!("{n} linux/a{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let found = counterparts(&index(&many), &index(&many));
        assert_eq!(found.len(), MOST_IMAGES);
        assert_eq!(counterparts(b"no JSON", b"no JSON"), []);
    }
}
