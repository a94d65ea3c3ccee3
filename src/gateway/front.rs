//! The front: connections, before and between requests.
//!
//! It accepts, speaks TLS, bounds how long and how large a request's head may be, and drains. It counts
//! bytes and time and never parses: that is pingora's part.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::{ALPN, Stream};
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::Gateway;
use super::preface::Prefaced;
use super::socket::Socket;
use super::tls::CurrentTls;
use crate::spec::error::{ErrorCode, body};

/// How long the last words to a client may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// `limits` of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct FrontSettings {
    /// The longest request head, in bytes.
    pub header_bytes: usize,
    /// From a request's first byte, or from accepting a connection, to the end of its head.
    pub header_timeout: Duration,
    /// Between requests, and for a write that makes no progress.
    pub idle_timeout: Duration,
    /// How many connections there may be at once, on all listeners.
    pub connections: usize,
    /// How long requests under way may go on after a SIGTERM.
    pub drain: Duration,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`
    Tcp(String),
    Unix(PathBuf),
}

/// A listener that is open.
#[derive(Debug)]
pub struct Bound {
    socket: Listening,
    /// How a client names it: `https://127.0.0.1:5000`.
    pub url: String,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    /// With the socket file, removed when this closes.
    Unix(
        UnixListener,
        #[allow(dead_code, reason = "held for its drop")] RemoveOnDrop,
    ),
}

/// Removes a socket file.
#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Bound {
    /// Opens a listener.
    ///
    /// # Errors
    /// What the system says: the address is taken, or not ours.
    pub async fn bind(address: &ListenAddress, tls: bool) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let socket = TcpListener::bind(address).await?;
                let scheme = if tls { "https" } else { "http" };
                let url = format!("{scheme}://{}", socket.local_addr()?);
                Ok(Self {
                    socket: Listening::Tcp(socket),
                    url,
                })
            }
            ListenAddress::Unix(path) => {
                crate::socket_file::remove_stale(path)?;
                let socket = UnixListener::bind(path)?;
                let url = format!("unix:{}", path.display());
                Ok(Self {
                    socket: Listening::Unix(socket, RemoveOnDrop(path.clone())),
                    url,
                })
            }
        }
    }

    /// The address and port, for TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(socket) => socket.local_addr().ok(),
            Listening::Unix(..) => None,
        }
    }

    async fn accept(&self, patience: Duration) -> io::Result<Socket> {
        match &self.socket {
            Listening::Tcp(socket) => Ok(Socket::tcp(socket.accept().await?.0, patience)),
            Listening::Unix(socket, _) => Ok(Socket::unix(socket.accept().await?.0, patience)),
        }
    }
}

/// All connections of all listeners.
#[derive(Clone, Debug)]
pub struct Front {
    settings: FrontSettings,
    connections: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

/// One listener's connections.
struct Door {
    front: Front,
    app: Arc<HttpProxy<Gateway>>,
    tls: Option<CurrentTls>,
}

impl Front {
    /// `shutdown` turns true when no more connections are to be taken.
    pub fn new(settings: FrontSettings, shutdown: watch::Receiver<bool>) -> Self {
        let connections = Arc::new(Semaphore::new(settings.connections));
        Self {
            settings,
            connections,
            shutdown,
        }
    }

    /// Accepts until the shutdown. `tls` is taken anew for each connection, so that it can change.
    pub async fn listen(self, bound: Bound, gateway: Gateway, tls: Option<CurrentTls>) {
        let mut app = http_proxy(&Arc::new(ServerConf::default()), gateway);
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(self.settings.idle_timeout);
        // Not that it would be allowed: else pingora answers it, without our JSON.
        options.allow_connect_method_proxying = true;
        app.server_options = Some(options);
        app.h2_options = Some(h2_options(self.settings.header_bytes));
        let mut shutdown = self.shutdown.clone();
        let door = Arc::new(Door {
            front: self,
            app: Arc::new(app),
            tls,
        });
        loop {
            let accepted = tokio::select! {
                accepted = bound.accept(door.front.settings.idle_timeout) => accepted,
                _ = shutdown.wait_for(|&down| down) => return,
            };
            match accepted {
                Ok(socket) => {
                    // Over the limit a connection is closed at once: a client that waits for an answer
                    // would not try elsewhere.
                    let Ok(slot) = door.front.connections.clone().try_acquire_owned() else {
                        tracing::warn!(url = %bound.url, "a connection was closed: limits.connections is reached");
                        continue;
                    };
                    tokio::spawn(door.clone().connection(socket, slot));
                }
                Err(error) => {
                    // Out of descriptors, mostly: others must end first.
                    tracing::warn!(url = %bound.url, %error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Waits until all connections have ended, or the drain's time is over. True when all have.
    pub async fn drained(&self) -> bool {
        let all = u32::try_from(self.settings.connections).unwrap_or(u32::MAX);
        timeout(self.settings.drain, self.connections.acquire_many(all))
            .await
            .is_ok()
    }
}

fn h2_options(header_bytes: usize) -> H2Options {
    let mut options = default_h2_options();
    options.initial_window_size(1 << 20);
    options.initial_connection_window_size(8 << 20);
    options.max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX));
    options
}

impl Door {
    async fn connection(self: Arc<Self>, socket: Socket, _slot: OwnedSemaphorePermit) {
        let deadline = Instant::now() + self.front.settings.header_timeout;
        let Some(stream) = self.secure(socket, deadline).await else {
            return;
        };
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            // Who has not even sent the preface by now gets no more time.
            if let Ok(Ok(stream)) = timeout_at(deadline, Prefaced::read(stream)).await {
                self.app
                    .process_new(Box::new(stream), &self.front.shutdown)
                    .await;
            }
        } else {
            self.http1(stream, deadline).await;
        }
    }

    /// TLS, where the listener has it.
    async fn secure(&self, mut socket: Socket, deadline: Instant) -> Option<Stream> {
        const HANDSHAKE: u8 = 22;

        let Some(tls) = &self.tls else {
            return Some(Box::new(socket));
        };
        match timeout_at(deadline, socket.first_byte()).await {
            Ok(Ok(Some(HANDSHAKE))) => {}
            Ok(Ok(Some(_))) => {
                let message = "this port speaks HTTPS: write https:// in the URL";
                refuse(
                    &mut socket,
                    "400 Bad Request",
                    ErrorCode::Unsupported,
                    message,
                )
                .await;
                return None;
            }
            _ => return None,
        }
        let acceptor = Acceptor::from_server_config(tls.borrow().clone());
        match timeout_at(deadline, acceptor.tls_handshake(socket)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }

    /// HTTP/1: one request after the other.
    async fn http1(&self, mut stream: Stream, deadline: Instant) {
        let FrontSettings {
            header_timeout,
            idle_timeout,
            ..
        } = self.front.settings;
        let mut settings = None;
        let mut first_by = deadline;
        loop {
            let head = match self.head(&mut stream, first_by, header_timeout).await {
                Head::Complete(head) => head,
                Head::Nothing => {
                    // Over TLS an end without close_notify looks like a truncation.
                    let _ = timeout(GOODBYE, AsyncWriteExt::shutdown(&mut stream)).await;
                    return;
                }
                Head::Refused(status, code, message) => {
                    return refuse(&mut stream, status, code, message).await;
                }
            };
            let mut session = ServerSession::new_http1(stream);
            session.set_keepalive(Some(idle_timeout.as_secs()));
            if let Some(settings) = settings.take() {
                let settings: pingora::apps::HttpPersistentSettings = settings;
                settings.apply_to_session(&mut session);
            }
            session.set_pipelined_prefix(head);
            let reused = self
                .app
                .process_new_http(session, &self.front.shutdown)
                .await;
            let Some((next, persistent)) = reused.map(ReusedHttpStream::consume) else {
                return;
            };
            (stream, settings) = (next, persistent);
            first_by = Instant::now() + idle_timeout;
        }
    }

    /// Reads up to the blank line that ends a head. The first byte may come until `first_by`; from there
    /// on the head has `within`.
    async fn head(&self, stream: &mut Stream, first_by: Instant, within: Duration) -> Head {
        let mut shutdown = self.front.shutdown.clone();
        let mut head = BytesMut::with_capacity(4096);
        let first = tokio::select! {
            first = timeout_at(first_by, stream.read_buf(&mut head)) => first,
            _ = shutdown.wait_for(|&down| down) => return Head::Nothing,
        };
        match first {
            Ok(Ok(read)) if read > 0 => {}
            _ => return Head::Nothing,
        }
        let deadline = Instant::now() + within;
        let mut searched = 0;
        loop {
            if let Some(end) = end_of_head(&head, searched) {
                if end > self.front.settings.header_bytes {
                    break;
                }
                return Head::Complete(head);
            }
            if head.len() > self.front.settings.header_bytes {
                break;
            }
            searched = head.len();
            match timeout_at(deadline, stream.read_buf(&mut head)).await {
                Ok(Ok(read)) if read > 0 => {}
                Ok(_) => return Head::Nothing,
                Err(_) => {
                    let message = "the request did not arrive in time";
                    return Head::Refused("408 Request Timeout", ErrorCode::Unsupported, message);
                }
            }
        }
        let message = "the request's headers are too long";
        Head::Refused(
            "431 Request Header Fields Too Large",
            ErrorCode::Unsupported,
            message,
        )
    }
}

/// What reading a head came to.
enum Head {
    /// The head, and perhaps the beginning of a body.
    Complete(BytesMut),
    /// The client left, or was silent: there is nobody to answer.
    Nothing,
    Refused(&'static str, ErrorCode, &'static str),
}

/// One past the blank line that ends a head, if it is there; what lies before `searched` was looked at.
fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    let newline = |at: &usize| bytes[*at] == b'\n';
    (from..bytes.len())
        .filter(newline)
        .find_map(|at| match &bytes[at + 1..] {
            [b'\n', ..] => Some(at + 2),
            [b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        })
}

/// Answers what could not even become a request, and ends the connection.
async fn refuse(
    stream: &mut (impl AsyncWriteExt + AsyncReadExt + Unpin),
    status: &str,
    code: ErrorCode,
    message: &str,
) {
    let body = body(code, message);
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\nCache-Status: roadstead; detail=refused\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let goodbye = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        // What the client still sends is read for a moment: closing on it would reset the connection
        // before the answer is seen.
        let mut rest = [0; 4096];
        let mut budget = 64;
        while budget > 0 && stream.read(&mut rest).await? > 0 {
            budget -= 1;
        }
        io::Result::Ok(())
    };
    let _ = timeout(GOODBYE, goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head() {
        for (bytes, end) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody"[..], Some(27)),
            (b"GET / HTTP/1.1\nHost: a\n\n", Some(24)),
            (b"GET / HTTP/1.1\n\r\n", Some(17)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r", None),
            (b"", None),
        ] {
            assert_eq!(end_of_head(bytes, 0), end);
            // Also when it arrives byte by byte.
            let stepwise = (1..=bytes.len()).find_map(|have| end_of_head(&bytes[..have], have - 1));
            assert_eq!(stepwise, end);
        }
    }
}
