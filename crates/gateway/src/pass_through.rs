//! Requests that pass through to a registry: the action to authorise, and the request to send. Pure.
//!
//! Registries read more than they document: form fields in bodies, keys in any case, the first or the last of
//! two. The upstream request is rendered from the values that were parsed and authorised, and an ambiguous request
//! is refused.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::error_response::ErrorResponse;
use super::target::RequestTarget;
use access::Action;
use oci::digest::{Digest, DigestError};
use oci::error::ErrorCode;
use oci::name::{Repository, Tag};
use oci::query::{self, Query, QueryError};
use oci::v2::Resource;

/// A request that passes through to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassThrough {
    pub target: RequestTarget,
    /// The action that the caller needs the right to.
    pub action: Action,
    /// The query of the upstream request, without `?`.
    pub query: String,
    /// The digest of the blob that the request uploads or mounts.
    pub digest: Option<Digest>,
    /// The mount that the client requests. It is sent only after its source is authorised.
    pub mount: Option<Mount>,
    /// The authorised source repository of a mount, in the same registry.
    pub from: Option<Repository>,
    /// Further tags to push a manifest under (distribution-spec, "Pushing Manifests with Tags").
    pub tags: Vec<Tag>,
}

/// A request to mount a blob from another repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub digest: Digest,
    pub source: MountSource,
}

/// The source that a client names for a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// This repository of the same registry; `client_name` is the name that the client used.
    Named {
        repository: Repository,
        client_name: String,
    },
    /// Any repository of the same registry.
    Any,
}

impl PassThrough {
    /// Turns the upload into a mount from `from`, which the caller may pull from.
    pub fn mount_from(&mut self, digest: Digest, from: Repository) {
        let query = Query::default().with("mount", &digest.to_string());
        let query = query.with("from", from.as_str());
        self.query = query.render_pairs();
        (self.digest, self.from) = (Some(digest), Some(from));
    }
}

/// The action that a request needs the right to.
///
/// # Errors
/// 405 if the resource does not support the method.
pub fn action(method: &Method, resource: &Resource) -> Result<Action, ErrorResponse> {
    use Resource::{Blob, Manifest, Upload, Uploads};

    match (method, resource) {
        (&Method::POST, Uploads)
        | (
            &Method::GET | &Method::HEAD | &Method::PATCH | &Method::PUT | &Method::DELETE,
            Upload(_),
        )
        | (&Method::PUT, Manifest(_)) => Ok(Action::Push),
        (&Method::DELETE, Manifest(_) | Blob(_)) => Ok(Action::Delete),
        (_, Uploads | Upload(_)) => Err(ErrorResponse::unsupported(
            "uploads do not support this method",
        )),
        (&Method::GET | &Method::HEAD, _) => Ok(Action::Pull),
        _ => Err(ErrorResponse::unsupported(
            "this resource does not support this method",
        )),
    }
}

/// Prepares a request to pass through. `raw` is its query as received, `query` as parsed; `source` resolves the values
/// of `from` and `origin` to a repository of the same registry.
///
/// # Errors
/// 400 for an ambiguous query, an invalid digest or tag, or, at the start of an upload, an unknown key.
pub fn pass(
    target: RequestTarget,
    action: Action,
    (raw, query): (&str, &Query),
    source: impl Fn(&str, Option<&str>) -> Option<Repository>,
) -> Result<PassThrough, ErrorResponse> {
    let mut pass = PassThrough {
        query: target.query.render_pairs(),
        target,
        action,
        digest: None,
        mount: None,
        from: None,
        tags: Vec::new(),
    };
    match &pass.target.resource {
        Resource::Uploads => start_upload(&mut pass, raw, query, source)?,
        Resource::Upload(_) => {
            check_location(raw, query).map_err(ErrorResponse::from)?;
            pass.digest = digest(query, "digest")?;
            // The registry's own state, byte for byte (distribution-spec 1.1, "Pushing a blob in chunks").
            pass.query = query::raw_without(raw, "ns");
        }
        Resource::Manifest(_) if action == Action::Push => push_tags(&mut pass, query)?,
        _ => {}
    }
    Ok(pass)
}

/// Prepares the start of an upload.
fn start_upload(
    pass: &mut PassThrough,
    raw: &str,
    query: &Query,
    source: impl Fn(&str, Option<&str>) -> Option<Repository>,
) -> Result<(), ErrorResponse> {
    // go-containerregistry sends the registry that a blob was pulled from as `origin`.
    let known = [
        "ns",
        "digest",
        "digest-algorithm",
        "mount",
        "from",
        "origin",
    ];
    let checked = check_separators(raw).and_then(|()| query.check_keys(&known));
    checked.map_err(ErrorResponse::from)?;
    let (mounted, uploaded) = (digest(query, "mount")?, digest(query, "digest")?);
    if mounted.is_some() && uploaded.is_some() {
        let message =
            "mount and digest exclude each other: an upload either mounts a blob or sends one";
        return Err(ErrorResponse::new(ErrorCode::DigestInvalid, message));
    }
    if let Some(digest) = mounted {
        let named = query.value("from").and_then(|client_name| {
            let repository = source(client_name, query.value("origin"))?;
            let client_name = client_name.to_owned();
            Some(MountSource::Named {
                repository,
                client_name,
            })
        });
        let source = named.unwrap_or(MountSource::Any);
        pass.mount = Some(Mount { digest, source });
        return Ok(());
    }
    let mut sent = Query::default();
    if let Some(digest) = uploaded {
        sent = sent.with("digest", &digest.to_string());
    }
    if let Some(algorithm) = query.value("digest-algorithm") {
        if !["sha256", "sha512"].contains(&algorithm) {
            return Err(refused_digest(DigestError::Algorithm));
        }
        sent = sent.with("digest-algorithm", algorithm);
    }
    pass.query = sent.render_pairs();
    pass.digest = uploaded;
    Ok(())
}

/// Refuses keys that an upload's location must not contain: those of a mount, which would not be authorised, and
/// spellings of `digest` that only the registry would read as such.
fn check_location(raw: &str, query: &Query) -> Result<(), QueryError> {
    check_separators(raw)?;
    let reserved = ["mount", "from", "origin", "digest", "ns"];
    let is_reserved = |key: &&str| reserved.iter().any(|known| known.eq_ignore_ascii_case(key));
    let is_allowed = |key: &&str| matches!(*key, "digest" | "ns");
    match query
        .keys()
        .filter(is_reserved)
        .find(|key| !is_allowed(key))
    {
        Some(key) => Err(QueryError::Unknown(key.to_owned())),
        None => Ok(()),
    }
}

/// Refuses `;`, which some registries read as `&`.
fn check_separators(raw: &str) -> Result<(), QueryError> {
    if raw.contains(';') {
        return Err(QueryError::Semicolon);
    }
    Ok(())
}

fn push_tags(pass: &mut PassThrough, query: &Query) -> Result<(), ErrorResponse> {
    let tags = query.values("tag").map(str::parse);
    let tags = tags.collect::<Result<Vec<Tag>, _>>();
    pass.tags =
        tags.map_err(|error| ErrorResponse::new(ErrorCode::TagInvalid, error.to_string()))?;
    let pairs = pass.tags.iter().map(|tag| format!("tag={tag}"));
    pass.query = pairs.collect::<Vec<_>>().join("&");
    Ok(())
}

fn digest(query: &Query, key: &str) -> Result<Option<Digest>, ErrorResponse> {
    let digest = query.value(key).map(str::parse).transpose();
    digest.map_err(refused_digest)
}

fn refused_digest(error: DigestError) -> ErrorResponse {
    ErrorResponse::new(ErrorCode::DigestInvalid, error.to_string())
}

/// The header fields of a read that are sent upstream.
const READ_HEADERS: &[HeaderName] = &[
    header::ACCEPT,
    header::RANGE,
    header::IF_RANGE,
    header::IF_NONE_MATCH,
];

/// The header fields that are sent to the registry. All others are dropped: the client, the proxies before it and its
/// login are none of the registry's concern.
///
/// # Errors
/// 415 for a body that is a form or of another unsuitable type: registries read forms as if they were queries.
pub fn headers(
    method: &Method,
    resource: &Resource,
    received: &HeaderMap,
) -> Result<HeaderMap, ErrorResponse> {
    let is_upload = matches!(resource, Resource::Uploads | Resource::Upload(_));
    let mut sent = HeaderMap::new();
    let names = match *method {
        Method::GET | Method::HEAD if !is_upload => READ_HEADERS,
        Method::PATCH | Method::PUT if is_upload => &[header::CONTENT_RANGE],
        _ => &[],
    };
    for name in names {
        for value in received.get_all(name) {
            sent.append(name, value.clone());
        }
    }
    if has_body(method)
        && let Some(kind) = content_type(resource, received)?
    {
        sent.insert(header::CONTENT_TYPE, kind);
    }
    Ok(sent)
}

/// Whether the body of a request is sent upstream.
pub fn has_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// The Content-Type to send, if there is one: that of a manifest unchanged, that of an upload without parameters.
fn content_type(
    resource: &Resource,
    received: &HeaderMap,
) -> Result<Option<HeaderValue>, ErrorResponse> {
    let refused = || {
        ErrorResponse::with_status(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorCode::Unsupported,
            "an upload must be application/octet-stream, and forms are not accepted",
        )
    };
    let mut lines = received.get_all(header::CONTENT_TYPE).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    let text = line.to_str().map_err(|_| refused())?.trim();
    if lines.next().is_some() {
        return Err(refused());
    }
    // Docker sends an empty one.
    if text.is_empty() {
        return Ok(None);
    }
    let essence = text.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_token);
    let (kind, subtype) = essence.split_once('/').ok_or_else(refused)?;
    let is_form = kind == "multipart" || subtype == "x-www-form-urlencoded";
    if is_form || !is_name(kind) || !is_name(subtype) {
        return Err(refused());
    }
    if let Resource::Manifest(_) = resource {
        return Ok(Some(line.clone()));
    }
    // go-containerregistry starts uploads as JSON; the media type of a layer is harmless.
    let is_content = matches!(subtype, "octet-stream" | "json") || subtype.starts_with("vnd.");
    if kind != "application" || !is_content {
        return Err(refused());
    }
    HeaderValue::from_str(&essence)
        .map(Some)
        .map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_bodies() {
        let manifest = Resource::Manifest("x".parse().expect("a tag"));
        let upload = Resource::Upload("u".into());
        let refused = Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        for (lines, of_upload, of_manifest) in [
            (&[][..], Ok(None), Ok(None)),
            (&[""], Ok(None), Ok(None)),
            (&["a/b"], refused, Ok(Some("a/b"))),
            (
                &["Application/Octet-Stream; a=b"],
                Ok(Some("application/octet-stream")),
                Ok(Some("Application/Octet-Stream; a=b")),
            ),
            (
                &["application/json"],
                Ok(Some("application/json")),
                Ok(Some("application/json")),
            ),
            (&["", ""], refused, refused),
            (&["a/b", "multipart/form-data"], refused, refused),
            (&["multipart/form-data; boundary=x"], refused, refused),
            (&["MULTIPART/x"], refused, refused),
            (&["multipart /form-data"], refused, refused),
            (&["application/x-www-form-urlencoded"], refused, refused),
            (&["text/x-www-form-urlencoded"], refused, refused),
            (
                &["application/octet-stream, multipart/form-data"],
                refused,
                refused,
            ),
            (&["; multipart/form-data"], refused, refused),
            (&["application"], refused, refused),
            (&["application/"], refused, refused),
            (&["/json"], refused, refused),
        ] {
            let mut received = HeaderMap::new();
            for line in lines {
                let line = HeaderValue::from_static(line);
                received.append(header::CONTENT_TYPE, line);
            }
            for (resource, expected) in [(&upload, of_upload), (&manifest, of_manifest)] {
                let sent = headers(&Method::PUT, resource, &received);
                let sent = sent.map_err(|refused| refused.status).map(|sent| {
                    let kind = sent.get(header::CONTENT_TYPE);
                    kind.map(|kind| kind.to_str().expect("text").to_owned())
                });
                let expected = expected.map(|kind| kind.map(str::to_owned));
                assert_eq!(sent, expected, "{lines:?} {resource:?}");
            }
            // Without a body, no type is sent either.
            let sent = headers(&Method::DELETE, &upload, &received);
            assert_eq!(sent, Ok(HeaderMap::new()), "{lines:?}");
        }
    }
}
