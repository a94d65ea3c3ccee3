//! Requests that pass through to a registry, and what the cache does with what they teach.
//!
//! What was written is known at once: a pull that follows finds it. What may have been written, because the
//! answer got lost, is forgotten, so that the next pull asks.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method};

pub use upstream::{Body, BodyEnd, Feed, Passed, UpstreamError as PassedError, is_whole_json};

use super::error::ResourceKind;
use super::freshness::unix_seconds;
use super::manifest::negative_key;
use super::write_outcome::{WriteOutcome, written_digest};
use super::{Mirror, MirrorError, MirrorState};
use access::{Action, Permit};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Reference, Repository, Tag};
use oci::v2::{Endpoint, Resource};
use store::{BlobKey, BlobLink, ManifestKey, ManifestLink, Pointer, Question, TagKey};
use upstream::{BODY_HEADERS_TIMEOUT, Manifest, ManifestHead, OnClosedConnection, Passing};

/// A request for something of the permit's repository.
#[derive(Debug)]
pub struct PassThroughRequest {
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
    pub async fn pass(
        &self,
        permit: &Permit,
        pass: PassThroughRequest,
    ) -> Result<Passed, MirrorError> {
        let origin = self.origin(permit)?;
        let repository = permit.repository();
        let mut scope = format!(
            "repository:{repository}:{}",
            token_actions(permit.action(), &pass)
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
            read_timeout: BODY_HEADERS_TIMEOUT,
            on_closed_connection: OnClosedConnection::Fail,
            body: pass.body,
        };
        let passed = async { origin.upstream()?.pass(passing).await };
        passed
            .await
            .map_err(|error| MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository))
    }

    /// Begins a write; call it before the registry is sent anything. `manifest` is what is put, `blob` the digest that
    /// an upload is to end with.
    pub fn begin_write(
        &self,
        permit: &Permit,
        resource: &Resource,
        manifest: Option<&Bytes>,
        blob: Option<Digest>,
    ) -> PendingWrite {
        let (registry, repository) = (permit.registry(), permit.repository());
        let records = &self.state.store.records;
        let mut writing = PendingWrite::default();
        match (resource, manifest, blob) {
            (Resource::Manifest(reference), Some(bytes), _) => {
                let digest = written_digest(reference, bytes);
                let key = ManifestKey::new(registry, repository, &digest);
                writing.manifest = Some(records.ask(&key));
                if let Reference::Tag(tag) = reference {
                    let key = TagKey::new(registry, repository, AcceptClass::Full, tag);
                    writing.tag = Some(records.ask(&key));
                }
            }
            (Resource::Uploads | Resource::Upload(_), _, Some(digest)) => {
                let key = BlobKey::new(registry, repository, &digest);
                writing.blob = Some(records.ask(&key));
            }
            _ => {}
        }
        writing
    }

    /// Lets the cache know what a write did. `tags` are more tags that a manifest was put under: they may have moved,
    /// whatever its answer says of them. It is done to its end, also where the client leaves meanwhile.
    pub async fn apply_write(
        &self,
        permit: &Permit,
        write_outcome: WriteOutcome,
        writing: PendingWrite,
        tags: &[Tag],
    ) {
        let Ok(origin) = self.origin(permit) else {
            return;
        };
        // A registry may put some of them and refuse the rest.
        if write_outcome == WriteOutcome::Nothing && tags.is_empty() {
            return;
        }
        origin.record_write(SystemTime::now());
        let (state, permit, tags) = (self.state.clone(), permit.clone(), tags.to_vec());
        let applying = async move {
            for tag in tags {
                let moved = Resource::Manifest(Reference::Tag(tag));
                state.invalidate(&permit, &moved, Change::Uncertain).await;
            }
            state.apply(&permit, write_outcome, writing).await;
        };
        let _ = tokio::spawn(applying).await;
    }
}

/// A write from before it was sent until it is known what it did: where another one ended meanwhile, only the registry
/// knows which of the two counts.
#[derive(Debug, Default)]
pub struct PendingWrite {
    tag: Option<Question<Pointer>>,
    manifest: Option<Question<ManifestLink>>,
    blob: Option<Question<BlobLink>>,
}

/// What is known of an invalidated resource.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// The repository no longer has it.
    Deleted,
    /// It may have changed.
    Uncertain,
}

/// The actions that the upstream's token must allow. Cancelling an upload is a deletion to some.
fn token_actions(action: Action, pass: &PassThroughRequest) -> &'static str {
    match (action, &pass.method, &pass.resource) {
        (Action::Push, &Method::DELETE, Resource::Upload(_)) => "pull,push,delete",
        (Action::Push, ..) => "pull,push",
        (Action::Delete, ..) => "delete",
        (Action::Pull, ..) => "pull",
    }
}

impl MirrorState {
    async fn apply(&self, permit: &Permit, write_outcome: WriteOutcome, writing: PendingWrite) {
        match write_outcome {
            WriteOutcome::Manifest {
                reference,
                media_type,
                bytes,
            } => {
                let manifest = Manifest {
                    head: ManifestHead {
                        digest: Some(written_digest(&reference, &bytes)),
                        media_type: Some(media_type),
                        size: None,
                    },
                    bytes,
                };
                self.apply_manifest(permit, reference, manifest, writing)
                    .await;
            }
            WriteOutcome::Blob { digest, size } => {
                let checked_at = unix_seconds(SystemTime::now());
                let link = BlobLink { checked_at, size };
                if let Some(question) = &writing.blob {
                    self.store.records.write(question, link).await;
                }
                let missing = super::blob::negative_key(permit, &digest);
                self.missing.remove(&missing);
            }
            WriteOutcome::Deleted(resource) => {
                self.invalidate(permit, &resource, Change::Deleted).await;
            }
            WriteOutcome::Uncertain(resource) => {
                self.invalidate(permit, &resource, Change::Uncertain).await;
            }
            WriteOutcome::Nothing => {}
        }
    }

    async fn apply_manifest(
        &self,
        permit: &Permit,
        reference: Reference,
        manifest: Manifest,
        writing: PendingWrite,
    ) {
        let digest = written_digest(&reference, &manifest.bytes);
        let media_type = manifest.head.media_type.clone().unwrap_or_default();
        let link = self.store_manifest_bytes(&digest, manifest).await;
        if let (Ok(link), Some(question)) = (&link, &writing.manifest) {
            self.store.records.write(question, link.clone()).await;
        }
        if let Reference::Tag(tag) = &reference {
            match (link, &writing.tag) {
                (Ok(link), Some(question)) => {
                    let pointer = Pointer {
                        digest,
                        media_type,
                        size: Some(link.size),
                        checked_at: unix_seconds(SystemTime::now()),
                    };
                    self.store.records.write(question, pointer).await;
                    self.remove_pointer(permit, AcceptClass::Schema1, tag).await;
                }
                _ => self.invalidate_tag(permit, tag).await,
            }
        }
        self.invalidate_lists(permit);
        self.remove_negative(permit, &reference);
        self.remove_negative(permit, &Reference::Digest(digest));
    }

    /// Invalidates what is cached of a resource.
    async fn invalidate(&self, permit: &Permit, resource: &Resource, change: Change) {
        let (registry, repository) = (permit.registry(), permit.repository());
        let MirrorState { store, .. } = self;
        match resource {
            Resource::Manifest(reference) => {
                self.invalidate_lists(permit);
                self.remove_negative(permit, reference);
                match reference {
                    Reference::Tag(tag) => self.invalidate_tag(permit, tag).await,
                    Reference::Digest(digest) if change == Change::Deleted => {
                        // The tags first: who finds a manifest by its tag links it, unless that is no longer so.
                        let records = &store.records;
                        records.remove_tags_of(registry, repository, *digest).await;
                        let key = ManifestKey::new(registry, repository, digest);
                        records.remove(&key).await;
                    }
                    Reference::Digest(_) => {}
                }
            }
            Resource::Blob(digest) => {
                self.missing
                    .remove(&super::blob::negative_key(permit, digest));
                if change == Change::Deleted {
                    let key = BlobKey::new(registry, repository, digest);
                    store.records.remove(&key).await;
                }
            }
            Resource::Tags | Resource::Referrers(_) => self.invalidate_lists(permit),
            Resource::Uploads | Resource::Upload(_) => {}
        }
    }

    async fn invalidate_tag(&self, permit: &Permit, tag: &Tag) {
        for class in [AcceptClass::Full, AcceptClass::Schema1] {
            self.remove_pointer(permit, class, tag).await;
        }
    }

    async fn remove_pointer(&self, permit: &Permit, class: AcceptClass, tag: &Tag) {
        let (registry, repository) = (permit.registry(), permit.repository());
        let records = &self.store.records;
        records
            .remove(&TagKey::new(registry, repository, class, tag))
            .await;
    }

    fn remove_negative(&self, permit: &Permit, reference: &Reference) {
        for class in [AcceptClass::Full, AcceptClass::Schema1] {
            let key = negative_key(permit.registry(), permit.repository(), reference, class);
            self.missing.remove(&key);
        }
    }

    /// Forgets the pages of a repository: its tags, and who refers to what.
    fn invalidate_lists(&self, permit: &Permit) {
        let (registry, repository) = (permit.registry(), permit.repository());
        self.list_generations
            .write(&(registry.clone(), repository.clone()), || ());
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
        self.missing.remove(&tags);
    }
}
