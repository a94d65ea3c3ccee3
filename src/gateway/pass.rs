//! Requests that pass through to a registry: what they need the right to do, and what goes out. Pure.

use http::Method;

use super::route::{Refusal, Target, unsupported};
use crate::access::Action;
use crate::spec::digest::{Digest, DigestError};
use crate::spec::error::ErrorCode;
use crate::spec::name::Repository;
use crate::spec::v2::{self, Resource};

/// A request that passes through to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    pub target: Target,
    /// What the caller must be allowed.
    pub action: Action,
    /// The query as it goes out, without `?`.
    pub query: String,
    /// What an upload is finished with, or a mount asks for.
    pub digest: Option<Digest>,
    /// The repository that a blob is mounted from: of the same registry.
    pub from: Option<Repository>,
}

impl Pass {
    /// Makes a mount a plain upload.
    pub fn unmount(&mut self) {
        let query = self.target.query.clone().without("mount").without("from");
        query
            .render()
            .trim_start_matches('?')
            .clone_into(&mut self.query);
        (self.from, self.digest) = (None, None);
    }
}

/// What a request needs the right to do.
pub fn action(method: &Method, resource: &Resource) -> Result<Action, Refusal> {
    use Resource::{Blob, Manifest, Upload, Uploads};

    match (method, resource) {
        (&Method::POST, Uploads)
        | (
            &Method::GET | &Method::HEAD | &Method::PATCH | &Method::PUT | &Method::DELETE,
            Upload(_),
        )
        | (&Method::PUT, Manifest(_)) => Ok(Action::Push),
        (&Method::DELETE, Manifest(_) | Blob(_)) => Ok(Action::Delete),
        (_, Uploads | Upload(_)) => Err(unsupported("this is no way to upload")),
        (&Method::GET | &Method::HEAD, _) => Ok(Action::Pull),
        _ => Err(unsupported("there is no such method here")),
    }
}

/// A request that passes through. An upload's state is what the registry wrote, byte for byte; where an
/// upload begins, a mount without its source, or from another registry, is left out: that begins a plain
/// upload (distribution-spec 1.1, "Mounting a blob from another repository").
pub fn pass(
    target: Target,
    action: Action,
    query: &str,
    from: Option<Repository>,
) -> Result<Pass, Refusal> {
    let begins = target.endpoint.resource == Resource::Uploads;
    let digest = target.query.value("digest");
    let digest = digest.or(target
        .query
        .value("mount")
        .filter(|_| begins && from.is_some()));
    let digest = digest.map(str::parse).transpose();
    let digest = digest
        .map_err(|error: DigestError| Refusal::new(ErrorCode::DigestInvalid, error.to_string()))?;
    let (query, from) = if begins {
        let query = target.query.clone().without("from");
        let query = match &from {
            Some(from) => query.with("from", from.as_str()),
            None => query.without("mount"),
        };
        (query.render().trim_start_matches('?').to_owned(), from)
    } else {
        (v2::raw_without(query, "ns"), None)
    };
    Ok(Pass {
        target,
        action,
        query,
        digest,
        from,
    })
}
