//! Requests that pass through to a registry, and what the cache does with what they teach.
//!
//! What was written is known at once: a pull that follows finds it. What may have been written, because the
//! answer got lost, is forgotten, so that the next pull asks.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method};

pub use crate::upstream::{
    Body, BodyEnd, Feed, Passed, UpstreamError as PassedError, is_whole_json,
};

use super::error::Asked;
use super::freshness::unix;
use super::lesson::{Lesson, digest_of};
use super::manifest::missing_key;
use super::{Mirror, MirrorError, Shared};
use crate::access::{Action, Permit};
use crate::spec::manifest::AcceptClass;
use crate::spec::name::{Reference, Repository, Tag};
use crate::spec::v2::{Endpoint, Resource};
use crate::store::{BlobLink, Pointer, Reach};
use crate::upstream::{Manifest, ManifestHead, Passing};

/// A request for something of the permit's repository.
#[derive(Debug)]
pub struct Pass {
    pub method: Method,
    pub resource: Resource,
    /// Without `?`, as it goes out.
    pub query: String,
    /// Another repository that a blob is mounted from.
    pub from: Option<Repository>,
    pub headers: HeaderMap,
    pub body: Option<Body>,
}

impl Mirror {
    /// Passes a request on to the permit's registry. Its statuses are no errors, save that it refuses our
    /// account.
    ///
    /// # Errors
    /// Why it could not be asked.
    pub async fn pass(&self, permit: &Permit, pass: Pass) -> Result<Passed, MirrorError> {
        let origin = self.origin(permit)?;
        let repository = permit.repository();
        let mut scope = format!(
            "repository:{repository}:{}",
            actions(permit.action(), &pass)
        );
        if let Some(from) = &pass.from {
            scope = format!("{scope} repository:{from}:pull");
        }
        let endpoint = Endpoint {
            repository: repository.clone(),
            resource: pass.resource,
        };
        let mut target = endpoint.path();
        if !pass.query.is_empty() {
            target = format!("{target}?{}", pass.query);
        }
        let passing = Passing {
            method: pass.method,
            target,
            headers: pass.headers,
            scope,
            body: pass.body,
        };
        let passed = origin.upstream.pass(passing).await;
        passed.map_err(|error| MirrorError::of(Arc::new(error), Asked::Repository))
    }

    /// Lets the cache know what a write did. `tags` are more tags that a manifest was put under: they may have
    /// moved, whatever its answer says of them.
    pub async fn learn(&self, permit: &Permit, lesson: Lesson, tags: &[Tag]) {
        let Ok(origin) = self.origin(permit) else {
            return;
        };
        if lesson == Lesson::Nothing {
            return;
        }
        // Whoever was asking before this may hear what is no longer so; that is not kept.
        origin.written(SystemTime::now());
        let shared = &self.shared;
        for tag in tags {
            let reference = Reference::Tag(tag.clone());
            let resource = Resource::Manifest(reference);
            shared.forget(permit, &resource, false).await;
        }
        match lesson {
            Lesson::Manifest {
                reference,
                media_type,
                bytes,
            } => {
                shared
                    .learn_manifest(permit, reference, media_type, bytes)
                    .await;
            }
            Lesson::Blob { digest, size } => {
                let checked_at = unix(SystemTime::now());
                let link = BlobLink { checked_at, size };
                let (registry, repository) = (permit.registry(), permit.repository());
                let links = &shared.store.links;
                links
                    .link_blob(registry, repository, &digest, link, Reach::Shared)
                    .await;
                shared
                    .missing
                    .forget(&super::blob::missing_key(permit, &digest));
            }
            Lesson::Gone(resource) => shared.forget(permit, &resource, true).await,
            Lesson::Doubt(resource) => shared.forget(permit, &resource, false).await,
            Lesson::Nothing => {}
        }
    }
}

/// The actions that the upstream's token must allow. Cancelling an upload is a deletion to some.
fn actions(action: Action, pass: &Pass) -> &'static str {
    match (action, &pass.method, &pass.resource) {
        (Action::Push, &Method::DELETE, Resource::Upload(_)) => "pull,push,delete",
        (Action::Push, ..) => "pull,push",
        (Action::Delete, ..) => "delete",
        (Action::Pull, ..) => "pull",
    }
}

impl Shared {
    async fn learn_manifest(
        &self,
        permit: &Permit,
        reference: Reference,
        media_type: String,
        bytes: Bytes,
    ) {
        let (registry, repository) = (permit.registry(), permit.repository());
        let digest = digest_of(&reference, &bytes);
        self.forget_lists(permit);
        self.forget_missing(permit, &reference);
        self.forget_missing(permit, &Reference::Digest(digest));
        let head = ManifestHead {
            digest: Some(digest),
            media_type: Some(media_type.clone()),
            size: None,
        };
        let manifest = Manifest { head, bytes };
        let kept = self.keep(registry, repository, &digest, manifest).await;
        let Reference::Tag(tag) = reference else {
            return;
        };
        self.forget_tag(permit, &tag).await;
        if let Ok(kept) = kept {
            let pointer = Pointer {
                digest,
                media_type,
                size: Some(kept.link.size),
                checked_at: unix(SystemTime::now()),
            };
            let class = AcceptClass::Full;
            let tags = &self.store.tags;
            tags.point(registry, repository, class, &tag, pointer, Reach::Shared)
                .await;
        }
    }

    /// Forgets what was known of a resource; what is `gone` is no longer the repository's.
    async fn forget(&self, permit: &Permit, resource: &Resource, gone: bool) {
        let (registry, repository) = (permit.registry(), permit.repository());
        let Shared { store, .. } = self;
        match resource {
            Resource::Manifest(reference) => {
                self.forget_lists(permit);
                self.forget_missing(permit, reference);
                match reference {
                    Reference::Tag(tag) => self.forget_tag(permit, tag).await,
                    Reference::Digest(digest) if gone => {
                        let links = &store.links;
                        links.unlink_manifest(registry, repository, digest).await;
                        store
                            .tags
                            .remove_all_of(registry, repository, *digest)
                            .await;
                    }
                    Reference::Digest(_) => {}
                }
            }
            Resource::Blob(digest) => {
                self.missing
                    .forget(&super::blob::missing_key(permit, digest));
                if gone {
                    store.links.unlink_blob(registry, repository, digest).await;
                }
            }
            Resource::Tags | Resource::Referrers(_) => self.forget_lists(permit),
            Resource::Uploads | Resource::Upload(_) => {}
        }
    }

    async fn forget_tag(&self, permit: &Permit, tag: &Tag) {
        let (registry, repository) = (permit.registry(), permit.repository());
        for class in [AcceptClass::Full, AcceptClass::Schema1] {
            self.store
                .tags
                .remove(registry, repository, class, tag)
                .await;
        }
    }

    fn forget_missing(&self, permit: &Permit, reference: &Reference) {
        for class in [AcceptClass::Full, AcceptClass::Schema1] {
            let key = missing_key(permit.registry(), permit.repository(), reference, class);
            self.missing.forget(&key);
        }
    }

    /// Forgets the pages of a repository: its tags, and who refers to what.
    fn forget_lists(&self, permit: &Permit) {
        let (registry, repository) = (permit.registry(), permit.repository());
        for (key, _) in &self.pages {
            if key.0 == *registry && key.1 == *repository {
                self.pages.invalidate(key.as_ref());
            }
        }
        let tags = (
            registry.clone(),
            repository.clone(),
            Resource::Tags,
            AcceptClass::Full,
        );
        self.missing.forget(&tags);
    }
}
