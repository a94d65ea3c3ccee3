//! Pushes on the gateway's own behalf: blobs of a known digest, and manifests by tag.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::pass::{Body, OnClosedConnection, Passed, Passing};
use super::request::BODY_HEADERS_TIMEOUT;
use super::{Upstream, UpstreamError};
use oci::authority;
use oci::digest::Digest;
use oci::name::{Reference, Repository, Tag};
use oci::v2::{Endpoint, Query, Resource, Target};

/// An upload that a registry has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Path and query.
    target: String,
}

/// What a registry did with a request for an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It has the blob now, from the repository that was named.
    Mounted,
    /// The blob is to be sent.
    Upload(Upload),
}

impl Upstream {
    /// Begins the upload of a blob, which is mounted instead if the repository `from` has it.
    ///
    /// # Errors
    /// A refusal or failure of the upstream; [`UpstreamError::Protocol`] if its location is no upload of the repository.
    pub async fn begin_upload(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<Begun, UpstreamError> {
        let mut target = path(repository, Resource::Uploads);
        let mut scope = push_scope(repository);
        if let Some(from) = from {
            let query = Query::default()
                .with("mount", &digest.to_string())
                .with("from", from.as_str());
            target.push_str(&query.render());
            scope = format!("{scope} repository:{from}:pull");
        }
        // A proxy may demand the length of an empty body.
        let headers = [(header::CONTENT_LENGTH, HeaderValue::from_static("0"))];
        let passing = passing(Method::POST, target, scope, headers.into_iter().collect());
        let passed = self.pass(passing).await?;
        match passed.status {
            StatusCode::CREATED => Ok(Begun::Mounted),
            StatusCode::ACCEPTED => {
                let location = passed.headers.get(header::LOCATION);
                let location = location.and_then(|location| location.to_str().ok());
                let target = location.and_then(|it| upload_target(it, self.origin(), repository));
                let target = target.ok_or(UpstreamError::Protocol(
                    "its Location is no upload of this repository",
                ))?;
                Ok(Begun::Upload(Upload { target }))
            }
            status => Err(UpstreamError::of(status, &passed.headers)),
        }
    }

    /// Sends a blob's bytes, all at once; the body knows its length.
    ///
    /// # Errors
    /// A refusal or failure of the upstream, which then has not stored the blob.
    pub async fn finish_upload(
        &self,
        repository: &Repository,
        upload: Upload,
        digest: &Digest,
        body: Body,
    ) -> Result<(), UpstreamError> {
        let separator = if upload.target.contains('?') {
            '&'
        } else {
            '?'
        };
        let digest = Query::default().with("digest", &digest.to_string());
        let target = format!("{}{separator}{}", upload.target, digest.render_pairs());
        let kind = HeaderValue::from_static("application/octet-stream");
        let headers = [(header::CONTENT_TYPE, kind)].into_iter().collect();
        let mut passing = passing(Method::PUT, target, push_scope(repository), headers);
        passing.body = Some(body);
        accepted(&self.pass(passing).await?)
    }

    /// Pushes a manifest under a tag. The blobs that it names have to be there.
    ///
    /// # Errors
    /// A refusal or failure of the upstream.
    pub async fn push_manifest(
        &self,
        repository: &Repository,
        tag: &Tag,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), UpstreamError> {
        let target = path(repository, Resource::Manifest(Reference::Tag(tag.clone())));
        let kind = HeaderValue::from_str(media_type).map_err(|_| UpstreamError::Unsendable)?;
        let headers = [(header::CONTENT_TYPE, kind)].into_iter().collect();
        let mut passing = passing(Method::PUT, target, push_scope(repository), headers);
        let (feed, body) = Body::new(Some(bytes.len() as u64));
        passing.body = Some(body);
        let feeding = async {
            feed.send(bytes).await;
            feed.end().await;
        };
        let (passed, ()) = tokio::join!(self.pass(passing), feeding);
        accepted(&passed?)
    }
}

fn path(repository: &Repository, resource: Resource) -> String {
    let repository = repository.clone();
    Endpoint {
        repository,
        resource,
    }
    .path()
}

fn push_scope(repository: &Repository) -> String {
    format!("repository:{repository}:pull,push")
}

fn passing(method: Method, target: String, scope: String, headers: HeaderMap) -> Passing {
    Passing {
        method,
        target,
        headers,
        scope,
        read_timeout: BODY_HEADERS_TIMEOUT,
        on_closed_connection: OnClosedConnection::Fail,
        body: None,
    }
}

/// Success is 201 (distribution-spec 1.1, "Pushing a blob", "Pushing manifests").
fn accepted(passed: &Passed) -> Result<(), UpstreamError> {
    if passed.status.is_success() {
        Ok(())
    } else {
        Err(UpstreamError::of(passed.status, &passed.headers))
    }
}

/// The target of an upload's location: on this registry, in this repository. Its query is the registry's own state.
fn upload_target(location: &str, origin: &str, repository: &Repository) -> Option<String> {
    let parsed = Target::split(location)?;
    let own = origin.split_once("://").map_or(origin, |(_, own)| own);
    if !parsed
        .authority
        .is_none_or(|other| authority::is_same(own, other))
    {
        return None;
    }
    let (name, resource) = parsed.named()?;
    if name != repository.as_str() || !matches!(resource, Resource::Upload(_)) {
        return None;
    }
    let path = resource.path_in(&name);
    Some(match parsed.query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_of_uploads() {
        let repository: Repository = "team/app".parse().expect("a name");
        let origin = "http://127.0.0.1:5000";
        let path = "/v2/team/app/blobs/uploads/1-2?_state=a%3d=";
        for (location, expected) in [
            (path.to_owned(), Some(path)),
            (format!("{origin}{path}"), Some(path)),
            (
                "/v2/team/app/blobs/uploads/1".into(),
                Some("/v2/team/app/blobs/uploads/1"),
            ),
            (format!("http://other{path}"), None),
            (format!("//other{path}"), None),
            ("/v2/team/other/blobs/uploads/1".into(), None),
            ("/v2/team/app/manifests/1".into(), None),
            ("1".into(), None),
        ] {
            let target = upload_target(&location, origin, &repository);
            assert_eq!(target.as_deref(), expected, "{location}");
        }
    }
}
