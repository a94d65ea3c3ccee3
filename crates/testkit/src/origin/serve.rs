//! The loop of the scripted upstream: accept, look up, apply the faults, answer.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::auth::{parameters, repository};
use super::content::{Content, MEDIA_INDEX, Repository};
use super::fault::{Fault, Plan};
use super::wire::{Answer, Connection, Delivery, Framing, Request, Socket, Stop, Wanted, index};
use super::{Recorded, Shared};

pub struct Server {
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
}

impl Server {
    /// Serves until `stopped`, then cuts every connection. Tells `bound` the address.
    pub fn run(self, bound: &mpsc::Sender<SocketAddr>, stopped: oneshot::Receiver<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind(self.address).await.expect("a free port");
            let _ = bound.send(listener.local_addr().expect("a bound socket"));
            tokio::select! {
                () = self.accept(listener) => {}
                _ = stopped => {}
            }
        });
    }

    async fn accept(&self, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let shared = Arc::clone(&self.shared);
            let tls = shared.tls.lock().expect("not poisoned").clone();
            tokio::spawn(async move {
                let number = {
                    let mut state = shared.state();
                    state.open += 1;
                    state.connections += 1;
                    state.connections - 1
                };
                let _ = talk(&shared, stream, tls, number).await;
                let mut state = shared.state();
                state.open = state.open.saturating_sub(1);
            });
        }
    }
}

async fn talk(
    shared: &Shared,
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    number: usize,
) -> io::Result<()> {
    let socket = match tls {
        None => Socket::Plain(stream),
        Some(config) => Socket::Tls(Box::new(TlsAcceptor::from(config).accept(stream).await?)),
    };
    let buffer = BytesMut::new();
    let mut connection = Connection { socket, buffer };
    while let Some(request) = connection.request().await {
        if !answer(shared, &mut connection, request, number).await? {
            break;
        }
    }
    connection.close().await;
    Ok(())
}

/// Answers one request; whether the connection may be used again.
async fn answer(
    shared: &Shared,
    connection: &mut Connection,
    request: Request,
    number: usize,
) -> io::Result<bool> {
    let request = record(request, number);
    let head_only = request.method == "HEAD";
    let asked_to_close = request
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let (id, plan, mut answer) = {
        let mut state = shared.state();
        state.requests.push(request.clone());
        let id = state.forgotten + state.requests.len() - 1;
        let plan = state.rules.apply(&request);
        let mut answer = look_up(&state, &request, &plan, shared.url());
        if state.takes_pushes && answer.status == 405 {
            answer = take(&mut state.content, &request).unwrap_or(answer);
        }
        (id, plan, answer)
    };
    if let Some(delay) = plan.find(|fault| match fault {
        Fault::Delay(delay) => Some(*delay),
        _ => None,
    }) {
        tokio::time::sleep(delay).await;
    }
    if let Some(latch) = plan.find(|fault| match fault {
        Fault::Hold(latch) => Some(latch),
        _ => None,
    }) {
        latch.pass().await;
    }
    if plan.has(|fault| matches!(fault, Fault::Stall)) {
        return Err(connection.gone().await);
    }
    if plan.has(|fault| matches!(fault, Fault::Reset)) {
        return Err(connection.reset());
    }
    if plan.has(|fault| matches!(fault, Fault::Hangup)) {
        return Ok(false);
    }
    let delivery = deliver(&mut answer, &plan);
    for (name, value) in plan.all(|fault| match fault {
        Fault::Header(name, value) => Some((name, value)),
        _ => None,
    }) {
        answer.set(name, value.as_str());
    }
    let close = asked_to_close || plan.has(|fault| matches!(fault, Fault::Close));
    if close {
        answer.set("Connection", "close");
    }
    shared.update(id, |record| record.status = answer.status);
    connection.head(&mut answer, delivery.framing).await?;
    if head_only || matches!(answer.status, 204 | 304) {
        return Ok(!close && delivery.framing != Framing::Close);
    }
    let sent = |bytes| shared.update(id, |record| record.sent += bytes);
    let reusable = connection.body(&answer.body, delivery, sent).await?;
    Ok(reusable && !close)
}

fn record(request: Request, connection: usize) -> Recorded {
    let target = request.target;
    // A proxy is asked for whole URLs.
    let target = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => &target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Recorded {
        method: request.method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers: request.headers,
        body: request.body,
        at: Instant::now(),
        connection,
        status: 0,
        sent: 0,
    }
}

/// The answer with the faults that replace it or change its content.
fn look_up(state: &super::State, request: &Recorded, plan: &Plan, url: &str) -> Answer {
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

/// Does what a write asks for: a manifest is put or deleted, a blob deleted, or put by one request.
fn take(content: &mut Content, request: &Recorded) -> Option<Answer> {
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
            let (digest, manifest) = converted.expect("just seen");
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

/// A manifest or blob: lies about its content, conditions, ranges.
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

/// The page of a list that is asked for, and the `Link` to the next one.
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

/// The faults of the delivery: encodings, headers about the body, framing, stops.
fn deliver(answer: &mut Answer, plan: &Plan) -> Delivery {
    if plan.has(|fault| matches!(fault, Fault::Gzip)) {
        answer.body = crate::gzip(&answer.body).into();
        answer.set("Content-Encoding", "gzip");
    }
    let mut extra = 0;
    let mut trailing = 0;
    let mut framing = None;
    let mut stops = Vec::new();
    let mut rate = None;
    for fault in plan.all(Some) {
        match fault {
            Fault::NoDigestHeader => {
                answer.unset("Docker-Content-Digest");
                answer.unset("ETag");
            }
            Fault::DigestHeader(digest) => answer.set("Docker-Content-Digest", digest.as_str()),
            Fault::ContentRange(range) if answer.status == 206 => {
                answer.set("Content-Range", range.as_str());
            }
            Fault::Overlong(bytes) => extra = *bytes,
            Fault::Trailing(bytes) => trailing = *bytes,
            Fault::Chunked => framing = Some(Framing::Chunked),
            Fault::CloseDelimited => framing = Some(Framing::Close),
            Fault::Throttle(bytes) => rate = Some(*bytes),
            Fault::PauseAt(at, latch) => stops.push((*at, Stop::Pause(latch.clone()))),
            Fault::StallAt(at) => stops.push((*at, Stop::Stall)),
            Fault::TruncateAt(at) => stops.push((*at, Stop::Close)),
            Fault::ResetAt(at) => stops.push((*at, Stop::Reset)),
            _ => {}
        }
    }
    if extra > 0 {
        let mut longer = answer.body.to_vec();
        longer.resize(longer.len() + index(extra), b'!');
        answer.body = longer.into();
    }
    stops.sort_by_key(|(at, _)| *at);
    Delivery {
        framing: framing.unwrap_or(Framing::Length(answer.body.len() as u64)),
        stops,
        rate,
        trailing,
    }
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
