//! The admin listeners: the dashboard, the operator API of openapi.json, metrics, health.
//!
//! `admin.address` serves everything, to clients on this machine or to operators who log in; `admin.metrics` serves
//! `/metrics`, `/livez` and `/readyz`, and may be public. Both speak HTTP/1.1.
//!
//! Reads are bounded: each is a page, made of what is in memory and of the files of that page.

mod api;
mod audit;
mod disk;
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
mod reload;
pub mod report;
mod repositories;
mod response;
mod route;
mod server;
mod survey;
mod target;
mod time;
mod traffic;
mod upgrade;
mod warm;

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

pub use explain::document::{ExplainRequest, Explanation, JudgementPart};
pub use manifest::{Blob, ContentState, Image};
pub use pins::{Pin, PinRequest};
pub use report::{
    AccountState, BucketState, Configuration, ConfiguredRegistry, Overview, Page, ProblemBody,
    Pulls, PurgeReport, PurgeRequest, RateLimitState, RegistryState, Upgraded, VerifyEnd,
    VerifyLine, WarmLine, WarmRequest,
};
pub use route::Scope;
pub use server::{connection_slots, disconnected};
pub use target::image;
pub use time::{rfc3339, span};

use ::events::Events;
use access::Authenticator;
use audit::OperatorRequest;
use error::{Problem, ProblemCode};
use events::Subscribers;
use gateway::{AccessHistory, Explainer, ListenerTls, Resolver};
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

/// What the configuration in force makes of the admin API.
#[derive(Debug)]
pub struct Configured {
    pub settings: Settings,
    pub mirror: Mirror,
    /// How the listeners answer.
    pub explainer: Explainer,
    /// The accounts of the operators; `None`: clients on this machine, without a login.
    pub authenticator: Option<Authenticator>,
    /// The TLS of `admin.address`.
    pub tls: Option<ListenerTls>,
    /// Where the actions of operators are recorded.
    pub audit_log: Option<Events>,
    /// The tasks of the data plane's listeners, which are up as long as these run.
    pub listeners: Vec<AbortHandle>,
}

/// What an operator asks of the process.
#[derive(Debug)]
pub enum Command {
    /// Apply the configuration as its file is now. The answer is the configuration in force, or why nothing has changed.
    Reload(oneshot::Sender<Result<Configuration, String>>),
    /// Hand over to a new process. The answer is its process id, or why this one goes on.
    Upgrade(oneshot::Sender<Result<u32, String>>),
}

/// When the store was probed, and why it cannot be written.
type Probe = (Instant, Result<(), String>);

/// The admin API under the configuration in force.
pub type CurrentAdmin = watch::Receiver<Arc<Admin>>;

/// The admin API, as one configuration has it.
#[derive(Debug)]
pub struct Admin {
    settings: Settings,
    mirror: Mirror,
    store: Arc<Store>,
    history: Arc<AccessHistory>,
    explainer: Explainer,
    authenticator: Option<Authenticator>,
    tls: Option<ListenerTls>,
    audit_log: Option<Events>,
    listeners: Vec<AbortHandle>,
    draining: watch::Receiver<bool>,
    /// Whether another configuration is in force.
    replaced: AtomicBool,
    commands: mpsc::Sender<Command>,
    /// The last probe of the store.
    probed: Arc<Mutex<Option<Probe>>>,
    traffic: Arc<Mutex<TrafficLog>>,
    pins: Arc<Pins>,
    survey: Arc<Survey>,
    events: Arc<Subscribers>,
    verifying: Arc<Semaphore>,
    warming: Arc<Semaphore>,
}

impl Admin {
    /// `draining` becomes true at shutdown. What operators ask of the process is sent to `commands`. Blocks on the disk.
    pub fn new(
        configured: Configured,
        history: Arc<AccessHistory>,
        draining: watch::Receiver<bool>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let store = configured.mirror.store().clone();
        Self {
            settings: configured.settings,
            mirror: configured.mirror,
            history,
            explainer: configured.explainer,
            authenticator: configured.authenticator,
            tls: configured.tls,
            audit_log: configured.audit_log,
            listeners: configured.listeners,
            draining,
            replaced: AtomicBool::new(false),
            commands,
            probed: Arc::default(),
            traffic: Arc::new(Mutex::new(overview::read_history(&store))),
            pins: Arc::new(Pins::open(store.clone())),
            survey: Arc::default(),
            events: Arc::default(),
            verifying: Arc::new(Semaphore::new(1)),
            warming: Arc::new(Semaphore::new(warm::MAX_WARMED)),
            store,
        }
    }

    /// The same under another configuration, which takes the place of this one.
    pub fn reconfigured(&self, configured: Configured) -> Self {
        self.replaced.store(true, Ordering::Relaxed);
        Self {
            settings: configured.settings,
            mirror: configured.mirror,
            store: self.store.clone(),
            history: self.history.clone(),
            explainer: configured.explainer,
            authenticator: configured.authenticator,
            tls: configured.tls,
            audit_log: configured.audit_log,
            listeners: configured.listeners,
            draining: self.draining.clone(),
            replaced: AtomicBool::new(false),
            commands: self.commands.clone(),
            probed: self.probed.clone(),
            traffic: self.traffic.clone(),
            pins: self.pins.clone(),
            survey: self.survey.clone(),
            events: self.events.clone(),
            verifying: self.verifying.clone(),
            warming: self.warming.clone(),
        }
    }

    /// The accounts of the operators.
    pub fn operators(&self) -> Option<&Authenticator> {
        self.authenticator.as_ref()
    }

    /// The configuration in force.
    pub fn configuration(&self) -> &Configuration {
        &self.settings.configuration
    }

    /// Whether streams of live data end: the gateway drains, or another configuration is in force.
    fn ends_streams(&self) -> bool {
        *self.draining.borrow() || self.replaced.load(Ordering::Relaxed)
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
            Operation::Overview => ok(&self.overview().await?),
            Operation::Traffic => ok(&self.traffic(parameters)?),
            Operation::Registries => ok(&self.registries(parameters)?),
            Operation::Fills => ok(&self.fills(parameters)?),
            Operation::Errors => ok(&self.errors(parameters)?),
            Operation::Requests => ok(&self.requests(parameters)?),
            Operation::Repositories => ok(&self.repositories(parameters).await?),
            Operation::Tags => ok(&self.tags(parameters).await?),
            Operation::Manifest => ok(&self.manifest(parameters).await?),
            Operation::EvictionQueue => ok(&self.eviction_queue(parameters)?),
            Operation::Pins => {
                let (admin, parameters) = (self.clone(), parameters.clone());
                // A change of the list is written under its lock.
                let page = disk::blocking(move || Ok(admin.pinned(&parameters))).await;
                ok(&page.map_err(|error| disk::unreadable(&error))??)
            }
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
            Operation::Reload => ok(&self.reload(operator).await?),
            Operation::Upgrade => ok(&self.upgrade(operator).await?),
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
