//! The admin listeners: the dashboard, the operator API of openapi.json, metrics, health.
//!
//! `admin.address` serves everything, to clients on this machine; `admin.metrics` serves `/metrics`, `/livez` and
//! `/readyz`, and may be public. Both speak plain HTTP/1.1.
//!
//! Reads are bounded: each is a page, made of what is in memory and of the files of that page.

mod api;
mod error;
mod events;
mod manifest;
mod overview;
mod page;
mod pins;
mod pull_commands;
mod query;
mod recent;
mod registries;
pub mod report;
mod repositories;
mod route;
mod survey;
mod target;
mod time;
mod traffic;
mod warm;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

pub use registries::ConfiguredRegistry;
pub use report::{
    BucketState, Configuration, Overview, Page, ProblemBody, Pulls, PurgeReport, PurgeRequest,
    RegistryState, VerifyEnd, VerifyLine, WarmLine, WarmRequest,
};
pub use route::Scope;
pub use target::image;
pub use time::rfc3339;

use error::{Problem, ProblemCode};
use events::Listeners;
use gateway::{AccessHistory, Resolver};
use mirror::Mirror;
use pins::Pins;
use query::Parameters;
use route::{Operation, Peer, Route};
use runtime::listen::{Accepted, Bound};
use runtime::share::{Kind, PerClient, Shares};
use store::Store;
use survey::Survey;
use telemetry::LogThrottle;
use telemetry::metrics::{self, StoreFigures};
use traffic::TrafficLog;

/// The timeout for a request's head, an idle connection, and the probe of the store.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a connection to the metrics listener may last: one scrape.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(30);
/// Concurrent connections of one listener, and of one client on another machine.
const CONNECTIONS: usize = 64;
const PER_CLIENT: usize = 16;
/// The limit for a request's head, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// How long the result of a probe of the store is reused: probes may come often.
const PROBE_LIFE: Duration = Duration::from_millis(500);

/// The description of the API, as it is served.
const OPENAPI: &[u8] = include_bytes!("openapi.json");

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The settings of the admin listeners.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host of `admin.address`, unless that is a socket file.
    pub host: Option<String>,
    pub resolver: Resolver,
    /// `store.max_size` in bytes.
    pub max_bytes: u64,
    /// `limits.fills`
    pub fills: usize,
    /// The registries, in the order of the configuration.
    pub registries: Vec<ConfiguredRegistry>,
    /// The configuration in force.
    pub configuration: Configuration,
    /// The authority of the first listener that clients pull from over TCP.
    pub gateway: Option<String>,
}

/// The admin API.
#[derive(Debug)]
pub struct Admin {
    settings: Settings,
    mirror: Mirror,
    store: Arc<Store>,
    history: Arc<AccessHistory>,
    /// The tasks of the data plane's listeners.
    listeners: Vec<AbortHandle>,
    draining: watch::Receiver<bool>,
    /// The last probe of the store.
    probed: Mutex<Option<(Instant, Result<(), String>)>>,
    traffic: Mutex<TrafficLog>,
    pins: Pins,
    survey: Survey,
    events: Listeners,
    verifying: Arc<Semaphore>,
    warming: Arc<Semaphore>,
}

impl Admin {
    /// `listeners` are up as long as their tasks run; `draining` becomes true at shutdown. Blocks on the disk.
    pub fn new(
        settings: Settings,
        mirror: Mirror,
        history: Arc<AccessHistory>,
        listeners: Vec<AbortHandle>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        let store = mirror.store().clone();
        Self {
            settings,
            mirror,
            history,
            listeners,
            draining,
            probed: Mutex::default(),
            traffic: Mutex::new(overview::read_history(&store)),
            pins: Pins::open(store.clone()),
            survey: Survey::default(),
            events: Listeners::default(),
            verifying: Arc::new(Semaphore::new(1)),
            warming: Arc::new(Semaphore::new(warm::CONCURRENT)),
            store,
        }
    }

    /// Accepts connections for ever. Dropping the future closes the listener.
    pub async fn serve(self: Arc<Self>, bound: Bound, scope: Scope) {
        static FULL: LogThrottle = LogThrottle::new();

        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let shares = Shares::new(PerClient {
            connections: Some(PER_CLIENT),
            requests: None,
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
                    let admin = self.clone();
                    tokio::spawn(async move {
                        match accepted {
                            Accepted::Tcp(stream, _) => {
                                admin.connection(stream, peer, scope).await;
                            }
                            Accepted::Unix(stream) => {
                                admin.connection(stream, peer, scope).await;
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

    async fn connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        scope: Scope,
    ) {
        let service = service_fn(move |request| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.answer(request, peer, scope).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES);
        http.keep_alive(scope == Scope::Everything);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        // A verification may take long; connections to a public listener may not.
        let outcome = match scope {
            Scope::Everything => connection.await,
            Scope::Metrics => tokio::time::timeout(SCRAPE_TIMEOUT, connection)
                .await
                .unwrap_or(Ok(())),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "an admin connection failed");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        scope: Scope,
    ) -> Response<Body> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let host = self.settings.host.as_deref();
        let routed = route::route((method, uri, headers), (peer, scope), host);
        let head = method == Method::HEAD;
        let served = match routed {
            Ok(route) => self.serve_route(route, request).await,
            Err(problem) => Err(problem),
        };
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

    async fn serve_route(
        self: Arc<Self>,
        route: Route,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        Ok(match route {
            Route::Page => match page::file(request.uri().path()) {
                Some(file) => whole(StatusCode::OK, file.kind, Bytes::from_static(file.bytes)),
                None => return Err(Problem::new(ProblemCode::NotFound, "there is nothing here")),
            },
            Route::Metrics => whole(
                StatusCode::OK,
                metrics::TEXT,
                metrics::render(self.figures()).into(),
            ),
            Route::Live => text(StatusCode::OK, "alive\n"),
            Route::Ready => match self.ready().await {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(reason) => {
                    let words = format!("not ready: {reason}\n");
                    text(StatusCode::SERVICE_UNAVAILABLE, words)
                }
            },
            Route::Api(operation) => self.operate(operation, request).await?,
        })
    }

    /// Serves an operation of the API.
    async fn operate(
        self: Arc<Self>,
        operation: Operation,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        let parameters = Parameters::parse(request.uri().query(), operation.parameters())?;
        let parameters = &parameters;
        let (parts, body) = request.into_parts();
        Ok(match operation {
            Operation::OpenApi => whole(StatusCode::OK, JSON, Bytes::from_static(OPENAPI)),
            Operation::Overview => ok(&self.overview().await),
            Operation::Traffic => ok(&self.traffic(parameters)?),
            Operation::Registries => ok(&self.registries(parameters)?),
            Operation::Fills => ok(&self.fills(parameters)?),
            Operation::Errors => ok(&self.errors(parameters)?),
            Operation::Requests => ok(&self.requests(parameters)?),
            Operation::Repositories => ok(&self.repositories(parameters).await?),
            Operation::Tags => ok(&self.tags(parameters).await?),
            Operation::Manifest => ok(&self.manifest(parameters).await?),
            Operation::EvictionQueue => ok(&self.eviction_queue(parameters)?),
            Operation::Pins => ok(&self.pinned(parameters)?),
            Operation::Pin => ok(&self.pin(body).await?),
            Operation::Unpin => {
                self.unpin(parameters).await?;
                no_content()
            }
            Operation::Purge => self.purge(body).await?,
            Operation::Warm => self.warm(body).await?,
            Operation::Verify => self.verify()?,
            Operation::Explain => {
                let detail = "this version does not explain pulls yet";
                return Err(Problem::new(ProblemCode::NotImplemented, detail));
            }
            Operation::Config => ok(&self.settings.configuration),
            Operation::Events => self.listen(parameters, &parts.headers)?,
        })
    }

    /// Whether the gateway takes requests, else the reason. An upstream or a bucket that is down is no reason: the
    /// cache is still served.
    async fn ready(&self) -> Result<(), String> {
        if *self.draining.borrow() {
            return Err("it is draining".into());
        }
        if self.listeners.iter().any(AbortHandle::is_finished) {
            return Err("a listener has ended".into());
        }
        self.writable().await
    }

    /// Whether the store can be written, by a probe at most [`PROBE_LIFE`] old.
    async fn writable(&self) -> Result<(), String> {
        if let Some((at, found)) = &*self.probed.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < PROBE_LIFE
        {
            return found.clone();
        }
        let store = self.store.clone();
        let probe = tokio::task::spawn_blocking(move || store.check_writable());
        let found = match tokio::time::timeout(HEAD_TIMEOUT, probe).await {
            Ok(found) => found.map_err(io::Error::other).and_then(|found| found),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let found = found.map_err(|error| {
            // The system's message, without a path.
            format!("the store cannot be written: {error}")
        });
        let mut probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        *probed = Some((Instant::now(), found.clone()));
        found
    }

    fn figures(&self) -> StoreFigures {
        StoreFigures {
            bytes: self.store.space.used(),
            objects: self.store.space.blobs() as u64,
        }
    }
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
    whole(status, "text/plain; charset=utf-8", words.into())
}

/// The media type of JSON.
const JSON: &str = "application/json";

fn ok(value: &impl serde::Serialize) -> Response<Body> {
    json(StatusCode::OK, value)
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => whole(status, JSON, bytes.into()),
        Err(error) => {
            tracing::error!(%error, "a response cannot be serialised");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer cannot be written\n",
            )
        }
    }
}

fn whole(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
