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
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::MAX_STREAMS;
use super::client_stream::ClientStream;
use super::direct_request::DirectRequest;
use super::direct_session::DirectSession;
use super::head::{self, HeadOutcome, REFUSE_TIMEOUT, refuse};
use super::http2::Http2Connection;
use super::session::Session;
use super::socket::ClientSocket;
use super::tls::ListenerTls;
use super::{AppState, Gateway};
use oci::proxy_protocol::Versions;
use runtime::listen::{Bound, Detached};
use runtime::share::{Kind, Share, Shares};
use runtime::slots::{Slot, Slots};
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

/// What a listener does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerPhase {
    /// Accepts them.
    Open,
    /// Lets them wait: another process is about to accept them.
    Paused,
    /// Another process accepts them. Those that are open end after their next request.
    HandedOver,
    /// No one accepts them. Those that are open end after the request in flight.
    Closing,
}

impl ListenerPhase {
    /// Whether open connections serve no further request than the next.
    fn is_last(self) -> bool {
        matches!(self, Self::HandedOver | Self::Closing)
    }
}

/// The connections of all listeners.
#[derive(Clone, Debug)]
pub struct Server {
    connections: Arc<Slots>,
    shares: Arc<Shares>,
    workers: Workers,
    wide: Arc<Semaphore>,
}

/// What the configuration says of a listener, all of it replaced at once.
#[derive(Debug)]
pub struct Service {
    /// Answers the requests.
    pub gateway: Gateway,
    /// `None`: plain HTTP. Changes apply to new connections.
    pub tls: Option<ListenerTls>,
    /// The limits of its connections.
    pub settings: ServerSettings,
    /// As clients reach it, for the log.
    pub url: String,
}

impl Service {
    /// The same with another state.
    #[must_use]
    pub fn with_state(&self, state: Arc<AppState>) -> Self {
        Self {
            gateway: self.gateway.with_state(state),
            tls: self.tls.clone(),
            settings: self.settings,
            url: self.url.clone(),
        }
    }
}

/// The service of a listener as one connection last saw it.
struct ConnectionService {
    current: watch::Receiver<Arc<Service>>,
    seen: Arc<Service>,
}

/// One listener's connections.
struct ListenerContext {
    server: Server,
    service: watch::Receiver<Arc<Service>>,
    phase: watch::Receiver<ListenerPhase>,
}

/// The place of a connection within the limits, released when it ends.
struct ConnectionPlace {
    _slot: Slot,
    share: Share,
}

impl ConnectionService {
    fn new(mut current: watch::Receiver<Arc<Service>>) -> Self {
        let seen = current.borrow_and_update().clone();
        Self { current, seen }
    }

    /// Looks which service is in force: one load. True if it was replaced.
    fn refresh(&mut self) -> bool {
        let is_changed = self.current.has_changed().unwrap_or(false);
        if is_changed {
            self.seen = self.current.borrow_and_update().clone();
        }
        is_changed
    }
}

impl Server {
    /// Connections are served by `workers`, as many at once as `connections` on all listeners.
    pub fn new(connections: usize, shares: Arc<Shares>, workers: Workers) -> Self {
        Self {
            connections: Slots::new(connections),
            shares,
            workers,
            wide: Arc::new(Semaphore::new(WIDE)),
        }
    }

    /// Applies another `limits.connections`. No open connection is closed.
    pub fn set_connections(&self, connections: usize) {
        self.connections.set_limit(connections);
    }

    /// Accepts connections as `phase` says, until it is the last. Each request is answered by the service that is current
    /// when it begins.
    pub async fn listen(
        self,
        bound: Arc<Bound>,
        service: watch::Receiver<Arc<Service>>,
        mut phase: watch::Receiver<ListenerPhase>,
    ) {
        let context = Arc::new(ListenerContext {
            server: self,
            service,
            phase: phase.clone(),
        });
        loop {
            let now = *phase.borrow_and_update();
            if now.is_last() {
                return;
            }
            let accepted = tokio::select! {
                changed = phase.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                accepted = bound.accept(), if now == ListenerPhase::Open => accepted,
            };
            match accepted {
                // A connection over the limit is closed at once: a client that waits for a response would not
                // try another server.
                Ok(accepted) => {
                    let Some(place) = context.admit(accepted.peer()) else {
                        continue;
                    };
                    let Ok(accepted) = accepted.detach() else {
                        continue;
                    };
                    let serving = context.clone();
                    let workers = &context.server.workers;
                    workers.spawn(move || serving.connection(accepted, place));
                }
                Err(error) => {
                    // Usually out of file descriptors: other connections must end first.
                    let url = &context.service.borrow().url.clone();
                    tracing::warn!(url, %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Waits for all connections to end, at most for `grace`. True if all have ended.
    pub async fn drained(&self, grace: Duration) -> bool {
        timeout(grace, self.connections.emptied()).await.is_ok()
    }
}

impl ServerSettings {
    /// HTTP/2 with these windows of a connection and of a stream.
    fn http2(&self, connection: u32, stream: u32) -> Builder {
        let header_bytes = u32::try_from(self.header_bytes);
        let mut builder = Builder::new();
        builder
            .initial_connection_window_size(connection)
            .initial_window_size(stream)
            .max_send_buffer_size(STREAM_SENDS)
            .max_concurrent_streams(u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX))
            .max_header_list_size(header_bytes.unwrap_or(u32::MAX));
        builder
    }
}

impl ListenerContext {
    /// Admits a connection within the limits of its client and of all. A trusted proxy has only the latter: it speaks for many
    /// clients.
    fn admit(&self, peer: Option<IpAddr>) -> Option<ConnectionPlace> {
        static FULL: LogThrottle = LogThrottle::new();

        let is_proxy = self.service.borrow().gateway.listener.trusts(peer);
        let share = self.share(peer.filter(|_| !is_proxy))?;
        let Some(slot) = self.server.connections.take() else {
            if FULL.now() {
                tracing::warn!(
                    url = self.url(),
                    "closed a connection: limits.connections is reached; logged at most once a minute"
                );
            }
            return None;
        };
        Some(ConnectionPlace { _slot: slot, share })
    }

    /// Its URL, for the log.
    fn url(&self) -> String {
        self.service.borrow().url.clone()
    }

    /// Takes one of the connections of a client.
    fn share(&self, client: Option<IpAddr>) -> Option<Share> {
        static CLIENT_FULL: LogThrottle = LogThrottle::new();

        let share = self.server.shares.take(Kind::Connection, client).ok();
        if let (None, Some(client)) = (&share, client)
            && CLIENT_FULL.now()
        {
            tracing::warn!(
                url = self.url(),
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
                url = self.url(),
                client = proxy.map(|proxy| proxy.to_string()),
                "closed a connection of a trusted proxy: it does not begin with a header of proxy_protocol; \
                 logged at most once a minute"
            );
        }
        None
    }

    async fn connection(self: Arc<Self>, accepted: Detached, mut place: ConnectionPlace) {
        let Ok(accepted) = accepted.attach() else {
            return;
        };
        let service = ConnectionService::new(self.service.clone());
        let settings = service.seen.settings;
        let mut socket = ClientSocket::new(accepted, settings.idle_timeout);
        let deadline = Instant::now() + settings.header_timeout;
        let listener = &service.seen.gateway.listener;
        if let Some(versions) = listener.proxy_protocol
            && listener.trusts(socket.client())
        {
            let read = Box::pin(self.read_proxy_header(&mut socket, versions, deadline));
            match read.await {
                Some(share) => place.share = share,
                None => return,
            }
        }
        let Some(stream) = secure(service.seen.tls.as_ref(), socket, deadline).await else {
            return;
        };
        if stream.is_challenge() {
            // Its certificate was the answer.
        } else if stream.is_http2() {
            self.http2(stream, service, deadline, &place).await;
        } else {
            self.http1(stream, service, deadline).await;
        }
    }

    /// HTTP/2: requests side by side. The preface has the same deadline as the TLS handshake.
    async fn http2(
        &self,
        stream: ClientStream,
        mut service: ConnectionService,
        deadline: Instant,
        place: &ConnectionPlace,
    ) {
        let few = place.share.number() <= WIDE_PER_CLIENT;
        let wide = self.server.wide.clone().try_acquire_owned();
        let wide = wide.ok().filter(|_| few);
        let settings = service.seen.settings;
        let builder = if wide.is_some() {
            settings.http2(WIDE_CONNECTION, WIDE_STREAM)
        } else {
            settings.http2(NARROW_CONNECTION, NARROW_STREAM)
        };
        // A client is told that its next requests belong elsewhere (RFC 9113 §6.8).
        let end = ended(self.phase.clone(), ListenerPhase::is_last);
        let idle_end = head::IdleEnd::new(deadline, end);
        let accepted = Http2Connection::accept(stream, &builder, settings.idle_timeout, idle_end);
        if let Ok(Ok(connection)) = timeout_at(deadline, accepted).await {
            // Requests share a counter of this connection's own, which no other thread touches.
            let mut own = Arc::new(service.seen.clone());
            let serve = |session| {
                if service.refresh() {
                    own = Arc::new(service.seen.clone());
                }
                let service = own.clone();
                async move {
                    service.gateway.serve(session).await;
                }
            };
            connection.serve(serve).await;
        }
    }

    /// HTTP/1: one request after the other.
    async fn http1(
        &self,
        mut stream: ClientStream,
        mut service: ConnectionService,
        deadline: Instant,
    ) {
        let ServerSettings {
            header_bytes,
            header_timeout,
            idle_timeout,
            ..
        } = service.seen.settings;
        // One that is handed over waits for its next request: closing it could cross that on its way.
        let end = ended(self.phase.clone(), |phase| phase == ListenerPhase::Closing);
        let mut idle_end = head::IdleEnd::new(deadline, end);
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
            if self.phase.borrow().is_last() {
                session.close_afterwards();
            }
            // What was verified before a change may be refused now.
            let is_replaced = service.refresh();
            session.verified_login = verified_login.filter(|_| !is_replaced);
            let Some(idle) = service.seen.gateway.serve(session).await else {
                return;
            };
            (stream, verified_login) = (idle.stream, idle.verified_login);
            idle_end.set_deadline(Instant::now() + idle_timeout);
        }
    }
}

/// Waits for a phase in which a connection no longer waits for requests.
async fn ended(
    mut phase: watch::Receiver<ListenerPhase>,
    is_end: impl Fn(ListenerPhase) -> bool + Send,
) {
    // A dropped sender counts as the end.
    let _ = phase.wait_for(|phase| is_end(*phase)).await;
}

/// Accepts TLS, if the listener has it.
async fn secure(
    tls: Option<&ListenerTls>,
    mut socket: ClientSocket,
    deadline: Instant,
) -> Option<ClientStream> {
    const HANDSHAKE: u8 = 22;

    let Some(tls) = tls else {
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
