//! The content of a repository that a request pulled or changed, for its events. Pure.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::pass_through::PassThrough;
use events::EventAction;
use oci::digest::{Algorithm, Digest};
use oci::name::{Reference, Repository, Tag};
use oci::v2::Resource;

/// Content that was looked up for a pull, or a change of a repository's content that the registry confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentEvent {
    /// A pull, a push, a mount or a deletion.
    pub action: EventAction,
    /// The tags of a manifest.
    pub tags: Vec<Tag>,
    /// The content, where it is known.
    pub digest: Option<Digest>,
    /// The type of the content, where it is known.
    pub media_type: Option<String>,
    /// Its size in bytes, where it is known.
    pub size: Option<u64>,
    /// The source of a mount.
    pub from: Option<Repository>,
}

impl ContentEvent {
    /// A pull, if the response is a 200.
    pub fn pull(digest: Digest, media_type: &str, size: Option<u64>) -> Self {
        Self {
            action: EventAction::Pull,
            tags: Vec::new(),
            digest: Some(digest),
            media_type: Some(media_type.to_owned()),
            size,
            from: None,
        }
    }
}

/// The change that an answer confirms; `None`: there is none.
pub fn confirmed(
    method: &Method,
    pass: &PassThrough,
    media_type: Option<&str>,
    manifest: Option<&Bytes>,
    (status, headers): (StatusCode, &HeaderMap),
) -> Option<ContentEvent> {
    if !status.is_success() {
        return None;
    }
    let event = |action, tags, digest| ContentEvent {
        action,
        tags,
        digest,
        media_type: None,
        size: None,
        from: None,
    };
    match (method, &pass.target.resource) {
        (&Method::PUT, Resource::Manifest(reference)) => {
            let digest = stated_digest(headers).or_else(|| Some(digest_of(reference, manifest?)));
            Some(ContentEvent {
                media_type: media_type.map(str::to_owned),
                size: manifest.map(|bytes| bytes.len() as u64),
                ..event(EventAction::Push, pushed_tags(reference, pass), digest)
            })
        }
        // 202 begins an upload (distribution-spec 1.1, "Mounting a blob from another repository").
        (&Method::PUT | &Method::POST, Resource::Upload(_) | Resource::Uploads)
            if status != StatusCode::ACCEPTED =>
        {
            let action = match pass.from {
                Some(_) => EventAction::Mount,
                None => EventAction::Push,
            };
            Some(ContentEvent {
                from: pass.from.clone(),
                ..event(action, Vec::new(), pass.digest)
            })
        }
        (&Method::DELETE, Resource::Manifest(Reference::Tag(tag))) => {
            Some(event(EventAction::Delete, vec![tag.clone()], None))
        }
        (
            &Method::DELETE,
            Resource::Manifest(Reference::Digest(digest)) | Resource::Blob(digest),
        ) => Some(event(EventAction::Delete, Vec::new(), Some(*digest))),
        _ => None,
    }
}

/// The tags that a manifest was pushed under.
fn pushed_tags(reference: &Reference, pass: &PassThrough) -> Vec<Tag> {
    match reference {
        Reference::Tag(tag) => vec![tag.clone()],
        Reference::Digest(_) => pass.tags.clone(),
    }
}

fn stated_digest(headers: &HeaderMap) -> Option<Digest> {
    let stated = headers.get("docker-content-digest")?;
    stated.to_str().ok()?.trim().parse().ok()
}

fn digest_of(reference: &Reference, manifest: &Bytes) -> Digest {
    match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(_) => Digest::of(Algorithm::Sha256, manifest),
    }
}
