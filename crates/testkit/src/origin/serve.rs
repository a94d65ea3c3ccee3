//! The server loop: connections, requests, the faults of their delivery.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::fault::{Fault, Plan};
use super::respond;
use super::wire::{Answer, Connection, Delivery, Framing, Request, Socket, Stop, index};
use super::{Recorded, Shared};

pub struct Server {
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
}

impl Server {
    /// Serves until `stopped`, then cuts every connection. Tells `listens` when clients can connect.
    pub fn run(self, listens: &mpsc::Sender<()>, stopped: oneshot::Receiver<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind(self.address).await.expect("a free port");
            let _ = listens.send(());
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
        let mut answer = respond::read(&state, &request, &plan, shared.url());
        if state.takes_pushes && answer.status == 405 {
            answer = respond::write(&mut state.content, &request).unwrap_or(answer);
        }
        let account = state.auth.account_of(&request);
        state.quotas.apply(&request, &account, &mut answer);
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
    // Requests to a proxy have absolute URLs.
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
