//! Writes: requests that pass through to a registry, and their outcomes in the cache.
//!
//! A confirmed write is cached at once: a pull that follows finds it. A write that may have happened, because the
//! answer got lost, is invalidated, so that the next pull asks.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method};

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
use upstream::{
    BODY_HEADERS_TIMEOUT, Body, Manifest, ManifestHead, OnClosedConnection, Passed, Passing,
};

/// A request about the permit's repository that passes through.
#[derive(Debug)]
pub struct PassThroughRequest {
    /// The client's.
    pub method: Method,
    /// The part of the repository that it names.
    pub resource: Resource,
    /// As sent, without `?`.
    pub query: String,
    /// The repository that a blob is mounted from.
    pub from: Option<Repository>,
    /// Those of the client's that the endpoint needs.
    pub headers: HeaderMap,
    /// Streamed as it arrives; `None`: the request has none.
    pub body: Option<Body>,
}

impl Mirror {
    /// Forwards a request to the permit's registry. Its statuses are no errors, except a refusal of the gateway's
    /// account.
    ///
    /// # Errors
    /// That refusal, or why the registry could not be asked.
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

    /// Begins a write; call it before anything is sent to the registry. `manifest` is the body of a PUT, `blob` the
    /// digest that an upload is finished with.
    pub fn begin_write(
        &self,
        permit: &Permit,
        resource: &Resource,
        manifest: Option<&Bytes>,
        blob: Option<Digest>,
    ) -> PendingWrite {
        let records = &self.state.store.records;
        let mut writing = PendingWrite::default();
        match (resource, manifest, blob) {
            (Resource::Manifest(reference), Some(bytes), _) => {
                let digest = written_digest(reference, bytes);
                let key = ManifestKey::new(permit.name(), &digest);
                writing.manifest = Some(records.ask(&key));
                if let Reference::Tag(tag) = reference {
                    let key = TagKey::new(permit.name(), AcceptClass::Full, tag);
                    writing.tag = Some(records.ask(&key));
                }
            }
            (Resource::Uploads | Resource::Upload(_), _, Some(digest)) => {
                let key = BlobKey::new(permit.name(), &digest);
                writing.blob = Some(records.ask(&key));
            }
            _ => {}
        }
        writing
    }

    /// Applies the outcome of a write to the cache. `tags` are more tags that a manifest was put under: they may have
    /// moved, whatever the answer says of them. Completes even if the client leaves meanwhile.
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
        // A registry may put some of the tags and refuse the rest.
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
            state.tell_change(permit.name()).await;
        };
        let _ = tokio::spawn(applying).await;
    }
}

/// A write from before it is sent until its outcome is known. If another one ended meanwhile, only the registry
/// knows which of the two came last.
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

/// The actions that the upstream's token must allow. Some registries treat cancelling an upload as a deletion.
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
                let missing = super::blob_claim::negative_key(permit, &digest);
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

    /// Invalidates the cached state of a resource.
    async fn invalidate(&self, permit: &Permit, resource: &Resource, change: Change) {
        let MirrorState { store, .. } = self;
        match resource {
            Resource::Manifest(reference) => {
                self.invalidate_lists(permit);
                self.remove_negative(permit, reference);
                match reference {
                    Reference::Tag(tag) => self.invalidate_tag(permit, tag).await,
                    Reference::Digest(digest) if change == Change::Deleted => {
                        // The tags first: a request that resolves a tag links its manifest, unless the tag has changed.
                        let records = &store.records;
                        records.remove_tags_of(permit.name(), *digest).await;
                        let key = ManifestKey::new(permit.name(), digest);
                        records.remove(&key).await;
                    }
                    Reference::Digest(_) => {}
                }
            }
            Resource::Blob(digest) => {
                self.missing
                    .remove(&super::blob_claim::negative_key(permit, digest));
                if change == Change::Deleted {
                    let key = BlobKey::new(permit.name(), digest);
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
        let records = &self.store.records;
        records
            .remove(&TagKey::new(permit.name(), class, tag))
            .await;
    }

    fn remove_negative(&self, permit: &Permit, reference: &Reference) {
        for class in [AcceptClass::Full, AcceptClass::Schema1] {
            let key = negative_key(permit.name(), reference, class);
            self.missing.remove(&key);
        }
    }

    /// Invalidates the cached pages of a repository: its tags and referrers.
    fn invalidate_lists(&self, permit: &Permit) {
        let name = permit.name();
        self.list_generations.write(name, || ());
        for (key, _) in &self.pages {
            if key.0 == *name {
                self.pages.invalidate(key.as_ref());
            }
        }
        let tags = (name.clone(), Resource::Tags, AcceptClass::Full);
        self.missing.remove(&tags);
    }
}
