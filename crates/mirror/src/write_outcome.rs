//! Write outcomes: what the answer to a write says about the registry. Pure.
//!
//! A client's claim proves nothing: content is linked to a repository only if the answer names it
//! and the client asked for it.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};

use oci::digest::{Algorithm, Digest};
use oci::name::{Reference, Repository};
use oci::v2::{Endpoint, Resource, Target};

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The repository has this manifest, under this reference.
    Manifest {
        /// The tag or digest that it was put under.
        reference: Reference,
        /// The request's `Content-Type`.
        media_type: String,
        /// The request's body.
        bytes: Bytes,
    },
    /// The repository has this blob; its length in bytes, where known.
    Blob {
        /// The digest that the upload was finished with, or that was mounted.
        digest: Digest,
        /// In bytes.
        size: Option<u64>,
    },
    /// The repository no longer has this.
    Deleted(Resource),
    /// The write may or may not have happened.
    Uncertain(Resource),
    /// Nothing that the cache has is affected.
    Nothing,
}

/// A write, as far as its outcome depends on it.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// Decides with the endpoint what is written.
    pub method: Method,
    /// The repository and the part of it.
    pub endpoint: Endpoint,
    /// The digest that an upload was finished with or a mount asked for.
    pub blob: Option<Digest>,
    /// The type and bytes of a manifest.
    pub manifest: Option<(String, Bytes)>,
}

/// The outcome by an answer: the repository has the content that the answer itself names, if that is what was
/// requested. `answer` is absent if it got lost.
pub fn write_outcome(
    written: WriteRequest,
    answer: Option<(StatusCode, &HeaderMap)>,
) -> WriteOutcome {
    let WriteRequest {
        method,
        endpoint,
        blob,
        manifest,
    } = written;
    let resource = &endpoint.resource;
    if matches!(method, Method::GET | Method::HEAD) {
        return WriteOutcome::Nothing;
    }
    let answer = answer.filter(|(status, _)| !status.is_server_error());
    let Some((status, headers)) = answer else {
        return WriteOutcome::Uncertain(resource.clone());
    };
    match (&method, resource) {
        (&Method::PUT, Resource::Manifest(reference)) if status == StatusCode::CREATED => {
            let named = named_digest(headers, &endpoint.repository);
            let manifest = manifest.filter(|(_, bytes)| {
                named.is_some_and(|named| named == written_digest(reference, bytes))
            });
            manifest.map_or(
                WriteOutcome::Uncertain(resource.clone()),
                |(media_type, bytes)| WriteOutcome::Manifest {
                    reference: reference.clone(),
                    media_type,
                    bytes,
                },
            )
        }
        (&Method::PUT | &Method::POST, Resource::Upload(_) | Resource::Uploads)
            if status == StatusCode::CREATED =>
        {
            let named = named_digest(headers, &endpoint.repository);
            let blob = blob.filter(|digest| named == Some(*digest));
            blob.map_or(WriteOutcome::Nothing, |digest| WriteOutcome::Blob {
                digest,
                size: None,
            })
        }
        (&Method::DELETE, Resource::Manifest(_) | Resource::Blob(_)) if status.is_success() => {
            WriteOutcome::Deleted(resource.clone())
        }
        _ => WriteOutcome::Nothing,
    }
}

/// The digest that the answer to a write names: in `Docker-Content-Digest`, in `Location`, or the same in both.
fn named_digest(headers: &HeaderMap, repository: &Repository) -> Option<Digest> {
    let mut lines = headers.get_all("docker-content-digest").iter();
    let stated = lines
        .next()
        .map(|line| line.to_str().ok()?.trim().parse().ok());
    if lines.next().is_some() {
        return None;
    }
    let location = headers.get(header::LOCATION);
    let located = location.and_then(|location| {
        let (name, resource) = Target::split(location.to_str().ok()?)?.named()?;
        match resource {
            Resource::Blob(digest) | Resource::Manifest(Reference::Digest(digest)) => {
                Some((name == repository.as_str()).then_some(digest))
            }
            _ => None,
        }
    });
    match (stated, located) {
        (Some(stated), Some(located)) if stated != located => None,
        (stated, located) => stated.or(located).flatten(),
    }
}

/// The digest of a manifest that was put under a reference.
pub(super) fn written_digest(reference: &Reference, bytes: &[u8]) -> Digest {
    match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(_) => oci::schema1::digest_of(Algorithm::Sha256, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> Repository {
        "team/app".parse().expect("a name")
    }

    #[test]
    fn an_answer_leads_to_one_outcome() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let tag = || Resource::Manifest("latest".parse().expect("a tag"));
        let bytes = Bytes::from_static(b"{}");
        let manifest = || Some(("a/b".to_owned(), bytes.clone()));
        let blob = WriteOutcome::Blob { digest, size: None };
        let upload = || Resource::Upload("u".into());
        let put = WriteOutcome::Manifest {
            reference: "latest".parse().expect("a tag"),
            media_type: "a/b".into(),
            bytes: bytes.clone(),
        };
        for (method, resource, status, expected) in [
            (Method::PUT, tag(), Some(201), put),
            (Method::PUT, tag(), Some(400), WriteOutcome::Nothing),
            (
                Method::PUT,
                tag(),
                Some(500),
                WriteOutcome::Uncertain(tag()),
            ),
            (Method::PUT, tag(), None, WriteOutcome::Uncertain(tag())),
            (
                Method::DELETE,
                tag(),
                Some(202),
                WriteOutcome::Deleted(tag()),
            ),
            (Method::DELETE, tag(), Some(404), WriteOutcome::Nothing),
            (
                Method::DELETE,
                Resource::Blob(digest),
                Some(202),
                WriteOutcome::Deleted(Resource::Blob(digest)),
            ),
            (Method::PUT, upload(), Some(201), blob.clone()),
            (Method::POST, Resource::Uploads, Some(201), blob),
            (
                Method::POST,
                Resource::Uploads,
                Some(202),
                WriteOutcome::Nothing,
            ),
            (Method::PATCH, upload(), Some(202), WriteOutcome::Nothing),
            (Method::DELETE, upload(), Some(204), WriteOutcome::Nothing),
            (Method::GET, tag(), Some(500), WriteOutcome::Nothing),
        ] {
            let status = status.map(|status| StatusCode::from_u16(status).expect("a status"));
            let answered = match resource {
                Resource::Manifest(_) => Digest::of(Algorithm::Sha256, &bytes),
                _ => digest,
            };
            let mut headers = HeaderMap::new();
            let answered = answered.to_string().parse().expect("a value");
            headers.insert("docker-content-digest", answered);
            let written = WriteRequest {
                method: method.clone(),
                endpoint: Endpoint {
                    repository: repository(),
                    resource: resource.clone(),
                },
                blob: Some(digest),
                manifest: manifest(),
            };
            let outcome = write_outcome(written.clone(), status.map(|status| (status, &headers)));
            assert_eq!(outcome, expected, "{method} {resource:?} {status:?}");
            // An answer that names no content links none.
            let unnamed = HeaderMap::new();
            let outcome = write_outcome(written, status.map(|status| (status, &unnamed)));
            let links = matches!(
                outcome,
                WriteOutcome::Manifest { .. } | WriteOutcome::Blob { .. }
            );
            assert!(!links, "{method} {resource:?} {status:?}");
        }
    }

    #[test]
    fn an_answer_names_one_digest_or_none() {
        let (one, two) = (
            Digest::of(Algorithm::Sha256, b"1"),
            Digest::of(Algorithm::Sha512, b"2"),
        );
        let at = |kind: &str, digest: Digest| format!("http://up:1/v2/team/app/{kind}/{digest}");
        let blob = |digest| at("blobs", digest);
        for (stated, location, expected) in [
            (vec![one.to_string()], None, Some(one)),
            (vec![], Some(blob(one)), Some(one)),
            (vec![], Some(at("manifests", two)), Some(two)),
            (vec![one.to_string()], Some(blob(one)), Some(one)),
            (vec![one.to_string()], Some(blob(two)), None),
            (vec![one.to_string(), one.to_string()], None, None),
            (vec!["sha256:1".into()], Some(blob(one)), None),
            (vec!["sha256:1".into()], None, None),
            (vec![], Some(format!("/v2/team/other/blobs/{one}")), None),
            (
                vec![one.to_string()],
                Some(format!("/v2/team/other/blobs/{one}")),
                None,
            ),
            (vec![], Some("/v2/team/app/manifests/latest".into()), None),
            // A location without a digest is ignored.
            (
                vec![one.to_string()],
                Some("/v2/team/app/manifests/latest".into()),
                Some(one),
            ),
            (vec![], None, None),
        ] {
            let mut headers = HeaderMap::new();
            for line in &stated {
                headers.append("docker-content-digest", line.parse().expect("a value"));
            }
            if let Some(location) = &location {
                headers.insert(header::LOCATION, location.parse().expect("a value"));
            }
            let found = named_digest(&headers, &repository());
            assert_eq!(found, expected, "{stated:?} {location:?}");
        }
    }
}
