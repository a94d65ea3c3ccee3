//! Requests that pass through to a registry: what they need the right to do, and what goes out. Pure.
//!
//! Registries read more than they document: form fields in bodies, keys in any case, the first or the last of
//! two. What goes out is rendered from what was parsed and decided upon, and a request that could be read in
//! two ways is refused.

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
    /// What the caller must be allowed.
    pub action: Action,
    /// The query as it goes out, without `?`.
    pub query: String,
    /// The digest of the blob that an upload is finished with, or that is mounted.
    pub digest: Option<Digest>,
    /// A mount that is asked for. It goes out only once its source was decided upon.
    pub mount: Option<Mount>,
    /// The repository that a blob is mounted from: of the same registry.
    pub from: Option<Repository>,
    /// More tags that a manifest is pushed under (distribution-spec, "Pushing Manifests with Tags").
    pub tags: Vec<Tag>,
}

/// A blob that is wanted from another repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub digest: Digest,
    pub source: MountSource,
}

/// Where a blob is to be mounted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// From this repository of the same registry; `client_name` is how the client calls it.
    Named {
        repository: Repository,
        client_name: String,
    },
    /// From wherever in the same registry it is.
    Any,
}

impl PassThrough {
    /// Makes it a mount from `from`, which the caller may read.
    pub fn mount_from(&mut self, digest: Digest, from: Repository) {
        let query = Query::default().with("mount", &digest.to_string());
        let query = query.with("from", from.as_str());
        query
            .render()
            .trim_start_matches('?')
            .clone_into(&mut self.query);
        (self.digest, self.from) = (Some(digest), Some(from));
    }
}

/// What a request needs the right to do.
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
        (_, Uploads | Upload(_)) => Err(ErrorResponse::unsupported("this is no way to upload")),
        (&Method::GET | &Method::HEAD, _) => Ok(Action::Pull),
        _ => Err(ErrorResponse::unsupported("there is no such method here")),
    }
}

/// A request that passes through. `raw` is its query as it came, `query` as it was parsed; `source` finds the
/// repository of the same registry that a `from`, and the `origin` that it is said to be of, name.
///
/// # Errors
/// The [`ErrorResponse`] of a query that says more than one thing, or nothing that is known where uploads begin.
pub fn pass(
    target: RequestTarget,
    action: Action,
    (raw, query): (&str, &Query),
    source: impl Fn(&str, Option<&str>) -> Option<Repository>,
) -> Result<PassThrough, ErrorResponse> {
    let mut pass = PassThrough {
        query: target.query.render().trim_start_matches('?').to_owned(),
        target,
        action,
        digest: None,
        mount: None,
        from: None,
        tags: Vec::new(),
    };
    match &pass.target.resource {
        Resource::Uploads => begin(&mut pass, raw, query, source)?,
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

/// Where an upload begins.
fn begin(
    pass: &mut PassThrough,
    raw: &str,
    query: &Query,
    source: impl Fn(&str, Option<&str>) -> Option<Repository>,
) -> Result<(), ErrorResponse> {
    // `origin` is the registry that a blob was pulled from, as go-containerregistry says it.
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
    let (wanted, finished) = (digest(query, "mount")?, digest(query, "digest")?);
    if wanted.is_some() && finished.is_some() {
        let message =
            "an upload either mounts a blob or brings one: mount and digest exclude each other";
        return Err(ErrorResponse::new(ErrorCode::DigestInvalid, message));
    }
    if let Some(digest) = wanted {
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
    if let Some(digest) = finished {
        sent = sent.with("digest", &digest.to_string());
    }
    if let Some(algorithm) = query.value("digest-algorithm") {
        if !["sha256", "sha512"].contains(&algorithm) {
            return Err(refused_digest(DigestError::Algorithm));
        }
        sent = sent.with("digest-algorithm", algorithm);
    }
    sent.render()
        .trim_start_matches('?')
        .clone_into(&mut pass.query);
    pass.digest = finished;
    Ok(())
}

/// What an upload's location must not hold, whoever wrote it there: a mount, which would be one that nobody
/// decided upon, and a digest in a spelling that only the registry takes for one.
fn check_location(raw: &str, query: &Query) -> Result<(), QueryError> {
    check_separators(raw)?;
    let ours = ["mount", "from", "origin", "digest", "ns"];
    let is_ours = |key: &&str| ours.iter().any(|known| known.eq_ignore_ascii_case(key));
    let is_read = |key: &&str| matches!(*key, "digest" | "ns");
    match query.keys().filter(is_ours).find(|key| !is_read(key)) {
        Some(key) => Err(QueryError::Unknown(key.to_owned())),
        None => Ok(()),
    }
}

/// Some registries take `;` for `&`.
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

/// What of a read goes upstream.
const READS: &[HeaderName] = &[
    header::ACCEPT,
    header::RANGE,
    header::IF_RANGE,
    header::IF_NONE_MATCH,
];

/// The headers of a request that its registry needs. All others stay here: who asks, through whom, and with
/// which login is not the registry's to know.
///
/// # Errors
/// 415 for a body of a type that is none of content: registries read forms as if they were queries.
pub fn headers(
    method: &Method,
    resource: &Resource,
    received: &HeaderMap,
) -> Result<HeaderMap, ErrorResponse> {
    let is_upload = matches!(resource, Resource::Uploads | Resource::Upload(_));
    let mut sent = HeaderMap::new();
    let wanted = match *method {
        Method::GET | Method::HEAD if !is_upload => READS,
        Method::PATCH | Method::PUT if is_upload => &[header::CONTENT_RANGE],
        _ => &[],
    };
    for name in wanted {
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

/// Whether the body of a request goes upstream.
pub fn has_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// The type of a body, if it has one: of a manifest as it came, of an upload without parameters.
fn content_type(
    resource: &Resource,
    received: &HeaderMap,
) -> Result<Option<HeaderValue>, ErrorResponse> {
    let refused = || {
        ErrorResponse::with_status(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorCode::Unsupported,
            "an upload is application/octet-stream, and nothing is pushed as a form",
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
    // Docker writes an empty one.
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
    // go-containerregistry begins uploads as JSON; a layer's own type is harmless.
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
    fn types_of_bodies() {
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
            // Where no body goes up, neither does its type.
            let sent = headers(&Method::DELETE, &upload, &received);
            assert_eq!(sent, Ok(HeaderMap::new()), "{lines:?}");
        }
    }
}
