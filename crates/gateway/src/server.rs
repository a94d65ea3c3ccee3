//! The server: connections, before and between requests.
//!
//! It accepts connections, limits them per client, terminates TLS, limits the time and size of a request's head and
//! the memory of an HTTP/2 connection, and drains.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use h2::server::Builder;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::Gateway;
use super::admission::MAX_STREAMS;
use super::client_stream::ClientStream;
use super::direct_request::DirectRequest;
use super::direct_session::DirectSession;
use super::head::{self, HeadOutcome, REFUSE_TIMEOUT, refuse};
use super::http2::Http2Connection;
use super::session::Session;
use super::socket::ClientSocket;
use super::tls::ListenerTls;
use oci::proxy_protocol::Versions;
use runtime::listen::{Bound, Detached};
use runtime::share::{Kind, Share, Shares};
use runtime::workers::Workers;
use telemetry::LogThrottle;

/// How many HTTP/2 connections have wide windows at once, in all and per client. All others have the smallest that
/// HTTP/2 allows, which bounds memory however many there are.
const WIDE: usize = 128;
const WIDE_PER_CLIENT: usize = 16;
/// The wide windows of a connection and of a stream, in bytes.
const WIDE_CONNECTION: u32 = 2 << 20;
const WIDE_STREAM: u32 = 512 << 10;
/// The narrow windows. RFC 9113 §6.9.2 lets no connection window be smaller.
const NARROW_CONNECTION: u32 = 65_535;
const NARROW_STREAM: u32 = 32 << 10;
/// The send buffer of each stream, in bytes.
const STREAM_SENDS: usize = 128 << 10;

/// `limits` of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ServerSettings {
    /// The size limit of a request head, in bytes.
    pub header_bytes: usize,
    /// From a request's first byte, or the accepting of the connection, to the end of its head.
    pub header_timeout: Duration,
    /// Between requests, and for a write that makes no progress.
    pub idle_timeout: Duration,
    /// The limit of connections at once, on all listeners.
    pub connections: usize,
    /// The grace period for in-flight requests after SIGTERM.
    pub drain: Duration,
}

/// The connections of all listeners.
#[derive(Clone, Debug)]
pub struct Server {
    settings: ServerSettings,
    connections: Arc<Semaphore>,
    shares: Arc<Shares>,
    workers: Workers,
    wide: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

/// One listener's connections.
struct ListenerContext {
    server: Server,
    gateway: Gateway,
    /// The listener's, for the log.
    url: String,
    /// HTTP/2 with wide windows.
    wide: Builder,
    /// HTTP/2 with narrow windows.
    narrow: Builder,
    tls: Option<ListenerTls>,
}

/// The place of a connection within the limits, released when it ends.
struct Slot {
    _connection: OwnedSemaphorePermit,
    share: Share,
}

impl Server {
    /// Connections are served by `workers`. `shutdown` turns true when no more connections are accepted.
    pub fn new(
        settings: ServerSettings,
        shares: Arc<Shares>,
        workers: Workers,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self {
            settings,
            connections: Arc::new(Semaphore::new(settings.connections)),
            shares,
            workers,
            wide: Arc::new(Semaphore::new(WIDE)),
            shutdown,
        }
    }

    /// Accepts connections until the shutdown. `tls` is read for each connection, so that it can change.
    pub async fn listen(self, bound: Bound, gateway: Gateway, tls: Option<ListenerTls>) {
        let mut shutdown = self.shutdown.clone();
        let context = Arc::new(ListenerContext {
            gateway,
            wide: self.http2(WIDE_CONNECTION, WIDE_STREAM),
            narrow: self.http2(NARROW_CONNECTION, NARROW_STREAM),
            url: bound.url.clone(),
            server: self,
            tls,
        });
        loop {
            let accepted = tokio::select! {
                accepted = bound.accept() => accepted,
                _ = shutdown.wait_for(|&down| down) => return,
            };
            match accepted {
                // A connection over the limit is closed at once: a client that waits for a response would not
                // try another server.
                Ok(accepted) => {
                    let Some(slot) = context.admit(accepted.peer()) else {
                        continue;
                    };
                    let Ok(accepted) = accepted.detach() else {
                        continue;
                    };
                    let serving = context.clone();
                    let workers = &context.server.workers;
                    workers.spawn(move || serving.connection(accepted, slot));
                }
                Err(error) => {
                    // Usually out of file descriptors: other connections must end first.
                    tracing::warn!(url = %bound.url, %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// HTTP/2 with these windows of a connection and of a stream.
    fn http2(&self, connection: u32, stream: u32) -> Builder {
        let header_bytes = u32::try_from(self.settings.header_bytes);
        let mut builder = Builder::new();
        builder
            .initial_connection_window_size(connection)
            .initial_window_size(stream)
            .max_send_buffer_size(STREAM_SENDS)
            .max_concurrent_streams(u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX))
            .max_header_list_size(header_bytes.unwrap_or(u32::MAX));
        builder
    }

    /// Waits for all connections to end, at most the grace period. True if all have ended.
    pub async fn drained(&self) -> bool {
        let all = u32::try_from(self.settings.connections).unwrap_or(u32::MAX);
        timeout(self.settings.drain, self.connections.acquire_many(all))
            .await
            .is_ok()
    }
}

impl ListenerContext {
    /// Admits a connection within the limits of its client and of all. A trusted proxy has only the latter: it speaks for many
    /// clients.
    fn admit(&self, peer: Option<IpAddr>) -> Option<Slot> {
        static FULL: LogThrottle = LogThrottle::new();

        let is_proxy = self.gateway.listener.trusts(peer);
        let share = self.share(peer.filter(|_| !is_proxy))?;
        let connections = self.server.connections.clone();
        let Ok(connection) = connections.try_acquire_owned() else {
            if FULL.now() {
                tracing::warn!(
                    url = self.url,
                    "closed a connection: limits.connections is reached; logged at most once a minute"
                );
            }
            return None;
        };
        Some(Slot {
            _connection: connection,
            share,
        })
    }

    /// Takes one of the connections of a client.
    fn share(&self, client: Option<IpAddr>) -> Option<Share> {
        static CLIENT_FULL: LogThrottle = LogThrottle::new();

        let share = self.server.shares.take(Kind::Connection, client).ok();
        if let (None, Some(client)) = (&share, client)
            && CLIENT_FULL.now()
        {
            tracing::warn!(
                url = self.url,
                %client,
                "closed a connection: this client has limits.per_client.connections open; \
                 logged at most once a minute"
            );
        }
        share
    }

    /// Reads whose connection a trusted proxy passes on, and takes one of the connections of that client. `None` closes it.
    async fn read_proxy_header(
        &self,
        socket: &mut ClientSocket,
        versions: Versions,
        deadline: Instant,
    ) -> Option<Share> {
        static INVALID: LogThrottle = LogThrottle::new();

        let proxy = socket.client();
        let read = timeout_at(deadline, socket.read_proxy_header(versions)).await;
        if let Ok(Ok(())) = read {
            return self.share(socket.client().filter(|_| socket.client() != proxy));
        }
        // A health check may only open a connection.
        let is_invalid = matches!(&read, Ok(Err(error)) if error.kind() == ErrorKind::InvalidData);
        if is_invalid && INVALID.now() {
            tracing::warn!(
                url = self.url,
                client = proxy.map(|proxy| proxy.to_string()),
                "closed a connection of a trusted proxy: it does not begin with a header of proxy_protocol; \
                 logged at most once a minute"
            );
        }
        None
    }

    async fn connection(self: Arc<Self>, accepted: Detached, mut slot: Slot) {
        let Ok(accepted) = accepted.attach() else {
            return;
        };
        let mut socket = ClientSocket::new(accepted, self.server.settings.idle_timeout);
        let deadline = Instant::now() + self.server.settings.header_timeout;
        let listener = &self.gateway.listener;
        if let Some(versions) = listener.proxy_protocol
            && listener.trusts(socket.client())
        {
            let read = Box::pin(self.read_proxy_header(&mut socket, versions, deadline));
            match read.await {
                Some(share) => slot.share = share,
                None => return,
            }
        }
        let Some(stream) = self.secure(socket, deadline).await else {
            return;
        };
        if stream.is_http2() {
            self.http2(stream, deadline, &slot).await;
        } else {
            self.http1(stream, deadline).await;
        }
    }

    /// Accepts TLS, if the listener has it.
    async fn secure(&self, mut socket: ClientSocket, deadline: Instant) -> Option<ClientStream> {
        const HANDSHAKE: u8 = 22;

        let Some(tls) = &self.tls else {
            return Some(ClientStream::Plain(socket));
        };
        match timeout_at(deadline, socket.first_byte()).await {
            Ok(Ok(Some(HANDSHAKE))) => {}
            Ok(Ok(Some(_))) => {
                let message = "this port speaks HTTPS: write https:// in the URL";
                refuse(&mut socket, "400 Bad Request", message).await;
                return None;
            }
            _ => return None,
        }
        let config = tls.config(socket.local(), socket.client());
        let config = timeout_at(deadline, config).await.ok()?;
        match timeout_at(deadline, ClientStream::secure(socket, config)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }

    /// HTTP/2: requests side by side. The preface has the same deadline as the TLS handshake.
    async fn http2(&self, stream: ClientStream, deadline: Instant, slot: &Slot) {
        let few = slot.share.number() <= WIDE_PER_CLIENT;
        let wide = self.server.wide.clone().try_acquire_owned();
        let wide = wide.ok().filter(|_| few);
        let builder = if wide.is_some() {
            &self.wide
        } else {
            &self.narrow
        };
        let idle_timeout = self.server.settings.idle_timeout;
        let idle_end = head::IdleEnd::new(deadline, self.server.shutdown.clone());
        let accepted = Http2Connection::accept(stream, builder, idle_timeout, idle_end);
        if let Ok(Ok(connection)) = timeout_at(deadline, accepted).await {
            connection.serve(&self.gateway).await;
        }
    }

    /// HTTP/1: one request after the other.
    async fn http1(&self, mut stream: ClientStream, deadline: Instant) {
        let ServerSettings {
            header_bytes,
            header_timeout,
            idle_timeout,
            ..
        } = self.server.settings;
        let mut idle_end = head::IdleEnd::new(deadline, self.server.shutdown.clone());
        let limits = head::HeadLimits {
            within: header_timeout,
            bytes: header_bytes,
        };
        let mut verified_login = None;
        loop {
            let head = match head::read(&mut stream, limits, &mut idle_end).await {
                HeadOutcome::Complete(head) => head,
                HeadOutcome::Nothing => {
                    // Over TLS, an end without close_notify looks like a truncation.
                    let _ = timeout(REFUSE_TIMEOUT, AsyncWriteExt::shutdown(&mut stream)).await;
                    return;
                }
                HeadOutcome::TooLate => {
                    let message = "the request did not arrive in time";
                    return refuse(&mut stream, "408 Request Timeout", message).await;
                }
                HeadOutcome::TooLong => {
                    let status = "431 Request Header Fields Too Large";
                    let message = "the request's headers are too long";
                    return refuse(&mut stream, status, message).await;
                }
            };
            let head = head.freeze();
            let mut session = match DirectRequest::parse(&head) {
                Some(request) => Session::direct(DirectSession::new(request, stream)),
                None => match Box::pin(Session::read(stream, head, idle_timeout)).await {
                    Some(session) => session,
                    None => return,
                },
            };
            if *self.server.shutdown.borrow() {
                session.close_afterwards();
            }
            session.verified_login = verified_login;
            let Some(idle) = self.gateway.serve(session).await else {
                return;
            };
            (stream, verified_login) = (idle.stream, idle.verified_login);
            idle_end.set_deadline(Instant::now() + idle_timeout);
        }
    }
}
