//! The responses: contents, tags, referrers, the catalogue, and what writes change.

use bytes::Bytes;
use serde_json::json;

use super::auth::{parameters, repository};
use super::content::{Content, MEDIA_INDEX, Repository};
use super::fault::{Fault, Plan};
use super::record::Recorded;
use super::wire::{Answer, Wanted, index};

/// The response to a read or token request, with the faults that replace it or change its content.
pub fn read(state: &super::State, request: &Recorded, plan: &Plan, url: &str) -> Answer {
    let replaced = plan.find(|fault| match fault {
        Fault::Status(status, headers) => {
            let mut answer = Answer::error(*status, code(*status));
            answer.headers.extend(headers.iter().cloned());
            Some(answer)
        }
        Fault::Redirect(status, target) => {
            let mut answer = Answer::new(*status, "text/plain", Bytes::from_static(b"elsewhere"));
            answer.set("Location", target.replace("{path}", &request.path));
            Some(answer)
        }
        _ => None,
    });
    if let Some(answer) = replaced {
        return answer;
    }
    if let Some(answer) = state.auth.token(request) {
        return answer;
    }
    if let Some(answer) = state.auth.refuse(request, url) {
        return answer;
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Answer::error(405, "UNSUPPORTED");
    }
    let mut answer = content(state, request, plan);
    answer.set("Docker-Distribution-Api-Version", "registry/2.0");
    answer
}

/// Applies a write: a manifest put or deleted, a blob deleted, or put by one request.
pub fn write(content: &mut Content, request: &Recorded) -> Option<Answer> {
    let path = request.path.replace("%3A", ":");
    if let Some((name, _)) = path.strip_prefix("/v2/")?.split_once("/blobs/uploads/") {
        let query = parameters(&request.query);
        let digest = query.iter().find(|(key, _)| key == "digest");
        let mut answer = Answer::new(202, "text/plain", Bytes::new());
        let mut location = format!("/v2/{name}/blobs/uploads/u");
        if let (Some((_, digest)), "PUT") = (digest, request.method.as_str()) {
            content.push_blob_as(name, digest, request.body.clone());
            answer.status = 201;
            answer.set("Docker-Content-Digest", digest.as_str());
            location = format!("/v2/{name}/blobs/{digest}");
        }
        answer.set("Location", location);
        return Some(answer);
    }
    let name = repository(&path)?.to_owned();
    let (kind, reference) = path["/v2/".len() + name.len() + 1..].split_once('/')?;
    let mut answer = Answer::new(202, "text/plain", Bytes::new());
    match (request.method.as_str(), kind) {
        ("PUT", "manifests") => {
            let tag = Some(reference).filter(|reference| !reference.contains(':'));
            let media_type = request.header("content-type").unwrap_or(MEDIA_INDEX);
            let bytes = request.body.clone();
            let digest = content.push_manifest(&name, tag, media_type, bytes);
            answer.status = 201;
            answer.set("Location", format!("/v2/{name}/manifests/{digest}"));
            answer.set("Docker-Content-Digest", digest);
        }
        ("DELETE", "manifests") => content.delete_manifest(&name, reference),
        ("DELETE", "blobs") => content.delete_blob(&name, reference),
        _ => return None,
    }
    Some(answer)
}

fn content(state: &super::State, request: &Recorded, plan: &Plan) -> Answer {
    if matches!(request.path.as_str(), "/v2/" | "/v2") {
        return Answer::json(200, &json!({}));
    }
    if request.path == "/v2/_catalog" {
        return catalogue(state, request, plan);
    }
    let Some(name) = repository(&request.path) else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    let Some(found) = state.content.repository(name) else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    let rest = &request.path["/v2/".len() + name.len() + 1..];
    let (kind, reference) = rest.split_once('/').unwrap_or((rest, ""));
    let reference = reference.replace("%3A", ":");
    let accept = request.header("accept").unwrap_or_default();
    let first_schema_only = accept.contains("manifest.v1+") && !accept.contains("manifest.v2+");
    let converted = found.converted.get(&reference);
    match kind {
        "manifests" if first_schema_only && converted.is_some() => {
            let (digest, manifest) = converted.expect("checked above");
            let bytes = manifest.bytes.clone();
            exact(request, plan, digest, &manifest.media_type, bytes, false)
        }
        "manifests" => match found.manifest(&reference) {
            Some((digest, manifest)) => {
                let bytes = manifest.bytes.clone();
                exact(request, plan, digest, &manifest.media_type, bytes, false)
            }
            None => Answer::error(404, "MANIFEST_UNKNOWN"),
        },
        "blobs" => match found.blobs.get(&reference) {
            Some(bytes) => {
                let kind = "application/octet-stream";
                exact(request, plan, &reference, kind, bytes.clone(), true)
            }
            None => Answer::error(404, "BLOB_UNKNOWN"),
        },
        "tags" => tags(request, name, found),
        _ => referrers(request, found, &reference),
    }
}

/// A manifest or blob: faults of its content, conditions, ranges.
fn exact(
    request: &Recorded,
    plan: &Plan,
    digest: &str,
    media_type: &str,
    content: Bytes,
    ranges: bool,
) -> Answer {
    let content = plan
        .find(|fault| match fault {
            Fault::Body(other) => Some(Bytes::from(other.clone())),
            Fault::WrongByteAt(at) => {
                let mut other = content.to_vec();
                if let Some(byte) = other.get_mut(index(*at)) {
                    *byte ^= 0xff;
                }
                Some(Bytes::from(other))
            }
            _ => None,
        })
        .unwrap_or(content);
    let size = content.len() as u64;
    let mut answer = Answer::new(200, media_type, content);
    let etag = format!("\"{digest}\"");
    answer.set("Docker-Content-Digest", digest);
    answer.set("ETag", etag.clone());
    if request.header("if-none-match") == Some(&etag) {
        answer.status = 304;
        answer.body = Bytes::new();
        return answer;
    }
    if !ranges {
        return answer;
    }
    answer.set("Accept-Ranges", "bytes");
    let if_range = request.header("if-range");
    if plan.has(|fault| matches!(fault, Fault::IgnoreRange))
        || if_range.is_some_and(|condition| condition != etag)
    {
        return answer;
    }
    match Wanted::of(request.header("range"), size) {
        Wanted::All => answer,
        Wanted::Part(first, last) => {
            answer.status = 206;
            answer.set("Content-Range", format!("bytes {first}-{last}/{size}"));
            answer.body = answer.body.slice(index(first)..=index(last));
            answer
        }
        Wanted::Beyond => {
            let mut answer = Answer::error(416, "RANGE_INVALID");
            answer.set("Content-Range", format!("bytes */{size}"));
            answer
        }
    }
}

fn tags(request: &Recorded, name: &str, repository: &Repository) -> Answer {
    let (page, next) = page(request, repository.tags.keys());
    let mut answer = Answer::json(200, &json!({"name": name, "tags": page}));
    if let Some(next) = next {
        answer.set("Link", next);
    }
    answer
}

fn catalogue(state: &super::State, request: &Recorded, plan: &Plan) -> Answer {
    let other = plan.find(|fault| match fault {
        Fault::Body(other) => Some(Bytes::from(other.clone())),
        _ => None,
    });
    if let Some(other) = other {
        return Answer::new(200, "application/json", other);
    }
    let (page, next) = page(request, state.content.names());
    let mut answer = Answer::json(200, &json!({"repositories": page}));
    if let Some(next) = next {
        answer.set("Link", next);
    }
    answer
}

/// The requested page of a list, and the `Link` to the next one.
fn page<'a>(
    request: &Recorded,
    all: impl Iterator<Item = &'a String>,
) -> (Vec<&'a String>, Option<String>) {
    let query = parameters(&request.query);
    let field = |wanted: &str| query.iter().find(|(key, _)| key == wanted).map(|(_, v)| v);
    let last = field("last");
    let after = all.filter(|&name| last.is_none_or(|last| name > last));
    let limit = field("n")
        .and_then(|n| n.parse().ok())
        .unwrap_or(usize::MAX);
    let mut page: Vec<&String> = after.take(limit.saturating_add(1)).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| more).map(|last| {
        let path = &request.path;
        format!("<{path}?last={last}&n={limit}>; rel=\"next\"")
    });
    (page, next)
}

fn referrers(request: &Recorded, repository: &Repository, digest: &str) -> Answer {
    let query = parameters(&request.query);
    let wanted = query.iter().find(|(key, _)| key == "artifactType");
    let wanted = wanted.map(|(_, value)| value.as_str());
    let manifests = repository.referrers(digest, wanted);
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": manifests});
    let mut answer = Answer::new(200, MEDIA_INDEX, Bytes::from(index.to_string()));
    if wanted.is_some() {
        answer.set("OCI-Filters-Applied", "artifactType");
    }
    answer
}

fn code(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "MANIFEST_UNKNOWN",
        405 => "UNSUPPORTED",
        429 => "TOOMANYREQUESTS",
        503 => "UNAVAILABLE",
        _ => "UNKNOWN",
    }
}
