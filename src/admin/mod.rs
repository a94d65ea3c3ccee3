//! The admin listeners: the dashboard, the operator API of openapi.json, metrics, health.
//!
//! `admin.address` serves everything, to clients on this machine or to operators who log in; `admin.metrics` serves
//! `/metrics`, `/livez` and `/readyz`, and may be public. Both speak HTTP/1.1.
//!
//! Reads are bounded: each is a page, made of what is in memory and of the files of that page.

mod api;
mod audit;
mod error;
mod events;
mod explain;
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
mod response;
mod route;
mod server;
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
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

pub use explain::document::{ExplainRequest, Explanation, JudgementPart};
pub use manifest::{Blob, ContentState, Image};
pub use registries::ConfiguredRegistry;
pub use report::{
    AccountState, BucketState, Configuration, Overview, Page, ProblemBody, Pulls, PurgeReport,
    PurgeRequest, RateLimitState, RegistryState, VerifyEnd, VerifyLine, WarmLine, WarmRequest,
};
pub use route::Scope;
pub use target::image;
pub use time::{rfc3339, span};

use ::events::Events;
use access::Authenticator;
use audit::OperatorRequest;
use error::{Problem, ProblemCode};
use events::Listeners;
use gateway::{AccessHistory, Explainer, Resolver};
use mirror::Mirror;
use pins::Pins;
use query::Parameters;
use response::{JSON, json, no_content, ok, text, whole};
use route::{Operation, Route};
use store::Store;
use survey::Survey;
use telemetry::metrics::{self, StoreFigures};
use traffic::TrafficLog;

/// The timeout for the probe of the store.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// The lines of `access.rules` in the file of the configuration.
    pub rule_lines: Vec<usize>,
}

/// The admin API.
#[derive(Debug)]
pub struct Admin {
    settings: Settings,
    mirror: Mirror,
    store: Arc<Store>,
    history: Arc<AccessHistory>,
    explainer: Explainer,
    /// The accounts of the operators; `None`: clients on this machine, without a login.
    authenticator: Option<Authenticator>,
    /// Where the actions of operators are recorded.
    audit_log: Option<Events>,
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
        explainer: Explainer,
        authenticator: Option<Authenticator>,
        listeners: Vec<AbortHandle>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        let store = mirror.store().clone();
        Self {
            settings,
            mirror,
            history,
            explainer,
            authenticator,
            audit_log: None,
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

    /// Records the actions of operators as events.
    #[must_use]
    pub fn with_audit_log(self, audit_log: Option<Events>) -> Self {
        Self { audit_log, ..self }
    }

    /// Serves a request that was authorised.
    ///
    /// # Errors
    /// The problem of the operation.
    async fn serve_route(
        self: Arc<Self>,
        route: Route,
        request: Request<Incoming>,
        operator: OperatorRequest,
    ) -> Result<Response<Body>, Problem> {
        Ok(match route {
            Route::Page => match page::file(request.uri().path()) {
                Some(file) => whole(StatusCode::OK, file.kind, Bytes::from_static(file.bytes)),
                None => return Err(Problem::new(ProblemCode::NotFound, "there is nothing here")),
            },
            Route::Metrics => {
                self.note_pulls();
                let text = metrics::render(self.figures());
                whole(StatusCode::OK, metrics::TEXT, text.into())
            }
            Route::Live => text(StatusCode::OK, "alive\n"),
            Route::Ready => match self.ready().await {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(reason) => {
                    let words = format!("not ready: {reason}\n");
                    text(StatusCode::SERVICE_UNAVAILABLE, words)
                }
            },
            Route::Api(operation) => self.operate(operation, request, operator).await?,
        })
    }

    /// Serves an operation of the API.
    async fn operate(
        self: Arc<Self>,
        operation: Operation,
        request: Request<Incoming>,
        operator: OperatorRequest,
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
            Operation::Pin => ok(&self.pin(operator, body).await?),
            Operation::Unpin => {
                self.unpin(operator, parameters).await?;
                no_content()
            }
            Operation::Purge => self.purge(operator, body).await?,
            Operation::Warm => self.warm(body).await?,
            Operation::Verify => self.verify()?,
            Operation::Explain => ok(&self.explain(body).await?),
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
        let found = match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
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
