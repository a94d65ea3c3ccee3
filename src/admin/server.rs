//! Connections and requests of the admin listeners: limits, TLS, logins, the headers of every response.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::audit::OperatorRequest;
use super::error::{Problem, ProblemCode};
use super::route::{self, Peer, Protection, Scope};
use super::{Admin, Body, CurrentAdmin, page};
use access::Refused;
use events::EventAction;
use gateway::ListenerTls;
use oci::authorization::{self, Authorization};
use runtime::listen::{Accepted, Bound};
use runtime::share::{Kind, PerClient, Shares};
use telemetry::LogThrottle;

/// The timeout for a TLS handshake, a request's head, and an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a connection to the metrics listener may last: one scrape.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(30);
/// Concurrent connections of one listener, and of one client on another machine.
const CONNECTIONS: usize = 64;
const PER_CLIENT: usize = 16;
/// The limit for a request's head, in bytes.
const HEAD_BYTES: usize = 16 << 10;

/// A slot for each connection of a listener.
pub fn connection_slots() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

/// Waits until a listener that accepts nothing more has no connections.
pub async fn disconnected(slots: &Semaphore) {
    // Slots are never closed.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = slots.acquire_many(all).await;
}

/// How many requests a connection serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requests {
    Many,
    One,
}

impl Requests {
    /// One where many dashboards are open: their idle connections would take the places of other clients.
    fn of(scope: Scope, free_slots: usize) -> Self {
        if scope == Scope::Everything && free_slots > CONNECTIONS / 2 {
            Self::Many
        } else {
            Self::One
        }
    }
}

impl Admin {
    /// Accepts connections for ever. Dropping the future closes the listener. Each request is answered under the configuration
    /// that is in force when it arrives. An open connection holds one of [`connection_slots`].
    pub async fn serve(
        current: CurrentAdmin,
        bound: Arc<Bound>,
        scope: Scope,
        slots: Arc<Semaphore>,
    ) {
        static FULL: LogThrottle = LogThrottle::new();

        let shares = Shares::new(PerClient {
            connections: Some(PER_CLIENT),
            requests: None,
            rate: None,
        });
        loop {
            match bound.accept().await {
                Ok(accepted) => {
                    let Ok(peer) = Peer::of(&accepted) else {
                        continue;
                    };
                    let share = shares.take(Kind::Connection, peer.remote());
                    let slot = slots.clone().try_acquire_owned();
                    let (Ok(share), Ok(slot)) = (share, slot) else {
                        if FULL.now() {
                            tracing::warn!(
                                url = %bound.url,
                                "closed a connection: too many are open; logged at most once a minute"
                            );
                        }
                        continue;
                    };
                    let current = current.clone();
                    let requests = Requests::of(scope, slots.available_permits());
                    let client = (peer, scope, requests);
                    tokio::spawn(async move {
                        let tls = current.borrow().tls.clone();
                        let tls = tls.filter(|_| scope == Scope::Everything);
                        match (accepted, tls) {
                            (Accepted::Tcp(stream, _), Some(tls)) => {
                                secure_connection(current, stream, tls, client).await;
                            }
                            (Accepted::Tcp(stream, _), None) => {
                                connection(current, stream, client).await;
                            }
                            (Accepted::Unix(stream), _) => {
                                connection(current, stream, client).await;
                            }
                        }
                        drop((slot, share));
                    });
                }
                Err(error) => {
                    tracing::warn!(url = %bound.url, %error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        scope: Scope,
    ) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let served = self.admit_and_serve(request, peer, scope).await;
        let mut response = served.unwrap_or_else(Problem::response);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        page::secure(headers);
        if head {
            // A HEAD gets the length that a GET would.
            let length = http_body::Body::size_hint(response.body()).exact();
            if let Some(length) = length {
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, length.into());
            }
            *response.body_mut() = Full::default().boxed_unsync();
        }
        response
    }

    async fn admit_and_serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        scope: Scope,
    ) -> Result<Response<Body>, Problem> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let host = self.settings.host.as_deref();
        let protection = match (&self.authenticator, peer) {
            (Some(_), Peer::Tcp { .. }) => Protection::Login,
            (None, _) | (_, Peer::Unix) => Protection::Machine(host),
        };
        let mut operator = OperatorRequest::new(method, headers, peer);
        if protection == Protection::Login && route::is_private(uri.path(), scope) {
            operator = self.log_in(headers, peer, operator).await?;
        }
        let route = route::route((method, uri, headers), (peer, scope), protection)?;
        self.serve_route(route, request, operator).await
    }

    /// Verifies the operator's password. Returns the request with its user.
    ///
    /// # Errors
    /// 401 without a right one, 429 after too many wrong ones.
    async fn log_in(
        &self,
        headers: &HeaderMap,
        peer: Peer,
        operator: OperatorRequest,
    ) -> Result<OperatorRequest, Problem> {
        let Some(authenticator) = &self.authenticator else {
            return Ok(operator);
        };
        let refuse = |detail| Problem::login_required(detail, authenticator.basic_challenge());
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let authorization = match (fields.next(), fields.next()) {
            (Some(field), None) => authorization::parse(field.as_bytes()),
            _ => Ok(Authorization::Anonymous),
        };
        let Ok(Authorization::Basic { user, password }) = authorization else {
            return Err(refuse("log in with a user of admin.htpasswd"));
        };
        let address = peer.remote().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let login = authenticator.password(&user, &password, address).await;
        let operator = operator.with_user(&user);
        if login.is_err() {
            self.audit(operator.clone(), EventAction::LoginFailed, None);
        }
        match login {
            Ok(_) => Ok(operator),
            Err(Refused::SlowDown { retry_after }) => {
                let detail = "too many failed logins; try again later";
                let problem = Problem::new(ProblemCode::TooManyRequests, detail);
                Err(problem.retry_after(retry_after.as_secs()))
            }
            Err(Refused::Password | Refused::Token) => {
                Err(refuse("the user or the password is wrong"))
            }
        }
    }
}

async fn secure_connection(
    current: CurrentAdmin,
    stream: TcpStream,
    tls: ListenerTls,
    client: (Peer, Scope, Requests),
) {
    match timeout(HEAD_TIMEOUT, tls.accept_http1(stream)).await {
        Ok(Ok(stream)) => connection(current, stream, client).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake of an operator failed"),
        Err(_) => {}
    }
}

async fn connection(
    current: CurrentAdmin,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (peer, scope, requests): (Peer, Scope, Requests),
) {
    let service = service_fn(move |request| {
        let admin = current.borrow().clone();
        async move {
            let mut response = admin.answer(request, peer, scope).await;
            if requests == Requests::One {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES);
    http.keep_alive(requests == Requests::Many);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    // A verification may take long; connections to a public listener may not.
    let outcome = match scope {
        Scope::Everything => connection.await,
        Scope::Metrics => timeout(SCRAPE_TIMEOUT, connection).await.unwrap_or(Ok(())),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "an admin connection failed");
    }
}
